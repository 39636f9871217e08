"""Publication: seen in one step or not at all, with whole data, by many at once, and through kills and lost remotes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, Toy

from flows import challenge, dvc, dvc_lock, git, ledger, publication, registry
from flows.publication import PUBLISHED, UNPUBLISHED, Ready
from flows.workspace import Workspace, workspace
from trainwright import operations
from trainwright.champion import TestSet, Verdict
from trainwright.core.errors import InputError, MachineryError, RefusedError

MAKE = (
    "mkdir -p data/$NAME/training && cp in-$NAME.txt data/$NAME/training/model && cp in-$NAME.txt data/$NAME/facts.json"
)
WHAT: Any = SimpleNamespace(chain=lambda name: [name])
RUNNING = operations.Running(pipelines={"one": {}, "two": {}})


@pytest.fixture
def project(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """Two pipelines of one stage in a clone with a Git remote and a DVC remote beside it."""
    for name in ("DVC_SITE_CACHE_DIR", "PYTHONPATH"):
        monkeypatch.setenv(name, {"PYTHONPATH": str(ROOT)}.get(name, str(clone.parent / ".site")))
    toy = Toy(clone)
    stage = {"deps": ["in-${key}.txt"], "outs": ["data/${key}/training", "data/${key}/facts.json"]}
    toy.stages(
        training__one={"cmd": MAKE.replace("$NAME", "one"), **stage},
        training__two={"cmd": MAKE.replace("$NAME", "two"), **stage},
    )
    store = '[core]\n    remote = store\n    no_scm = false\n[remote "store"]\n    url = ../../store\n'
    toy.write(".dvc/config", store)
    toy.write(".dvc/.gitignore", "/config.local\n/tmp\n/cache\n")
    toy.write("params.yaml", "pipelines: {}\n")
    for name in ("one", "two"):
        toy.write(f"in-{name}.txt", f"{name} at first\n")
        toy.write(f"data/{name}/source.json", json.dumps({"sha256": f"{name} at first"}))
        toy.write(f"data/{name}/.gitignore", "/training\n/facts.json\n")
    commit(toy)
    return toy


def commit(toy: Toy) -> str:
    git.git(toy.root, "add", "--all")
    git.git(toy.root, "commit", "--quiet", "--message", "Change")
    return git.head(toy.root)


def verdict(home: Path, name: str, words: str = "It may be published.") -> Verdict:
    known = registry.seen(home, name)
    return Verdict(True, words, TestSet(1, ("a",), ("0" * 64,)), "f1", {"f1": 70.0}, known=known)


def made(space: Workspace, name: str, data: str | None = None) -> dvc.Project:
    """What a run does in a workspace: the published state, new data, the stages."""
    publication.restore(space, name, WHAT, publication.fetch(space.home, "published"))
    if data:
        (space.root / f"in-{name}.txt").write_text(data)
        (space.root / f"data/{name}/source.json").write_text(json.dumps({"sha256": data.strip()}))
    project = dvc.Project(space.root)
    project.reproduce(f"training@{name}", lambda _: None, 60)
    return project


def publish(toy: Toy, name: str = "one", data: str | None = None, **more: Any) -> tuple[registry.Version, str]:
    with workspace(toy.root, name, git.head(toy.root)) as space:
        project = made(space, name, data)
        judged = verdict(toy.root, name)
        return publication.publish(space, name, WHAT, RUNNING, project, judged, {"reasons": ["a test"]}, **more)


def shown(toy: Toy, commit: str, path: str) -> Any:
    return json.loads(git.read(toy.root, commit, path) or b"null")


def test_a_version_checked_out_and_pulled_is_that_model_and_dvc_finds_nothing_changed(
    project: Toy, remote: Path, tmp_path: Path
) -> None:
    version, where = publish(project)
    assert (str(version), where) == ("one@v1.0.0", PUBLISHED), publication._kept(project.root, "one")
    place = tmp_path / "reader"
    git.git(tmp_path, "clone", "--quiet", str(remote), str(place))
    for reference in ("one@v1.0.0", "one#prod#1", "origin/published"):
        git.git(place, "checkout", "--quiet", "--detach", reference)
        pull(place)
        assert (place / "data/one/training/model").read_text() == "one at first\n"
        assert dvc.Project(place).changes("training@one") == []
        assert git.changed(place) == []
        shutil.rmtree(place / "data/one/training")
    assert git.git(place, "rev-parse", "one@v1.0.0^{commit}^") == git.head(project.root)


def test_what_is_published_says_what_made_it(project: Toy) -> None:
    version, _ = publish(project, why="because")
    record = registry.record(project.root, version)
    assert record["version"] == "v1.0.0" and record["commit"] == git.head(project.root)
    assert record["reasons"] == ["a test"] and record["frozen"] == {"line": 1, "values": {"f1": 70.0}}
    assert record["pins"] == {"data/one/source.json": {"sha256": "one at first"}}
    went = record["went_through"]["training"]
    assert went["in"]["in-one.txt"] and went["out"]["data/one/training"].endswith(".dir")
    assert shown(project, version.commit, "data/one/published/test_set.json")["frozen_at"] == "v1.0.0"
    words = git.read(project.root, version.commit, "data/one/published/decision.md") or b""
    assert words.decode() == "# one v1.0.0\n\nIt may be published.\n"


def test_two_pipelines_have_their_own_entries_and_files_on_one_branch(project: Toy) -> None:
    publish(project)
    publish(project, "two")
    publish(project, data="one once more\n")
    state = publication.state(project.root, "published")
    assert state is not None and set(state.entries) == {"training@one", "training@two"}
    assert shown(project, state.head, "data/one/source.json") == {"sha256": "one once more"}
    assert shown(project, state.head, "data/two/source.json") == {"sha256": "two at first"}
    assert shown(project, state.head, "data/one/published/version.json")["version"] == "v1.1.0"
    assert shown(project, state.head, "data/two/published/version.json")["version"] == "v1.0.0"
    parents = git.git(project.root, "log", "-1", "--format=%P", state.head).split()
    assert parents[1] == registry.versions(project.root, "one")[-1].commit


def test_the_branch_has_the_newer_code_whichever_pipeline_is_published_last(project: Toy) -> None:
    old = git.head(project.root)
    project.write("code.py", "new")
    new = commit(project)
    publish(project, "two")
    git.git(project.root, "checkout", "--quiet", "--detach", old)
    publish(project)
    state = publication.state(project.root, "published")
    assert state is not None and git.contains(project.root, state.head, new)
    assert git.read(project.root, state.head, "code.py") == b"new"
    assert git.read(project.root, registry.versions(project.root, "one")[0].commit, "code.py") is None
    git.git(project.root, "checkout", "--quiet", "--detach", new)
    project.write("code.py", "newer")
    commit(project)
    publish(project, data="again\n")
    state = publication.state(project.root, "published")
    assert state is not None and git.read(project.root, state.head, "code.py") == b"newer"
    assert shown(project, state.head, "data/two/published/version.json")["version"] == "v1.0.0"


def test_the_next_workspace_begins_with_what_is_published(project: Toy) -> None:
    publish(project, data="new data\n")
    with workspace(project.root, "one", git.head(project.root)) as space:
        publication.restore(space, "one", WHAT, publication.fetch(project.root, "published"))
        assert json.loads((space.root / "data/one/source.json").read_text()) == {"sha256": "new data"}
        assert dvc.Project(space.root).changes("training@one", missing=False) == ["in-one.txt modified"]


def test_a_rollback_brings_back_exactly_the_bytes_of_before(project: Toy, remote: Path, tmp_path: Path) -> None:
    publish(project)
    publish(project, data="worse\n")
    registry.rollback(project.root, "one")
    place = tmp_path / "reader"
    git.git(tmp_path, "clone", "--quiet", "--branch", "one#prod#3", str(remote), str(place))
    pull(place)
    assert (place / "data/one/training/model").read_text() == "one at first\n"


def test_a_truncated_object_in_the_remote_is_found_and_brought_there_again(project: Toy, tmp_path: Path) -> None:
    with workspace(project.root, "one", git.head(project.root)) as space:
        tool = made(space, "one", "a longer text than one byte\n")
        tool.deliver(["training@one"])
        objects = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
        for path in objects:
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:5])
        assert len(objects) == 2 and len(tool.deliver(["training@one"])) == 2
        assert tool.deliver(["training@one"]) == []
        objects[0].unlink()
        assert tool.deliver(["training@one"]) == [] or objects[0].exists()
        known = publication._whole_before(project.root, ready("one", space))
        assert known == set()
        assert publication.publish(space, "one", WHAT, RUNNING, tool, verdict(project.root, "one"), {})[1] == PUBLISHED
        known = publication._whole_before(project.root, ready("one", space))
        assert len(known) >= 2 and tool.deliver(["training@one"], known) == []
        objects[0].chmod(0o644)
        objects[0].write_bytes(objects[0].read_bytes()[:5])
        assert tool.deliver(["training@one"], known) == [objects[0].parent.name + objects[0].name]
        assert tool.deliver(["training@one"]) == []


def test_an_object_that_is_damaged_in_the_cache_too_is_never_published(project: Toy, tmp_path: Path) -> None:
    with workspace(project.root, "one", git.head(project.root)) as space:
        tool = made(space, "one")
        model = next(
            path for path in tool.cache().rglob("*") if path.is_file() and path.read_bytes() == b"one at first\n"
        )
        model.chmod(0o644)
        model.write_bytes(b"one at firSt\n")
        with pytest.raises(MachineryError, match="is not what its name says"):
            publication.publish(space, "one", WHAT, RUNNING, tool, verdict(project.root, "one"), {})
    assert registry.versions(project.root, "one") == [] and publication.waiting(project.root) == {}


@pytest.mark.parametrize("which", ["remote.git", "store"])
def test_with_a_remote_away_the_version_waits_here_and_is_published_later_without_its_work_done_again(
    which: str, project: Toy, tmp_path: Path
) -> None:
    place, away = tmp_path / which, tmp_path / "away"
    publish(project, "two")
    place.rename(away)
    if which == "store":
        place.write_text("a file where the folder was")  # DVC would make a folder
    with workspace(project.root, "one", git.head(project.root)) as space:
        (space.root / "dvc.lock").unlink(missing_ok=True)
        tool = dvc.Project(space.root)
        tool.reproduce("training@one", lambda _: None, 60)
        judged = verdict(project.root, "one")
        version, where = publication.publish(space, "one", WHAT, RUNNING, tool, judged, {})
    assert (str(version), where) == ("one@v1.0.0", UNPUBLISHED)
    said: list[str] = []
    assert not publication.finish(project.root, "one", said.append) and "still waits" in said[0]
    rows = registry.listing(project.root, "one", publication.waiting(project.root))
    assert [(row["version"], row["state"]) for row in rows] == [("v1.0.0", "unpublished")]
    place.unlink(missing_ok=True)
    away.rename(place)
    project.write("in-one.txt", "whatever")  # nothing is run
    words = publication.finish(project.root, "one", said.append)
    assert words == "one@v1.0.0, ready since an earlier run, is published"
    assert str(registry.in_use(project.root, "one")) == "one@v1.0.0"
    told = ledger.entries(project.root, "one")[0]
    assert (told["outcome"], told["version"], told["words"]) == ("published", "v1.0.0", words)
    assert not publication.finish(project.root, "one", said.append)
    assert publication.waiting(project.root) == {}


KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, {tests!r})
import test_publication as here
from conftest import Toy
from flows import dvc, git, publication
owner, name, when = {point!r}
owner = eval(owner)
real = getattr(owner, name)
def killed(*arguments, **more):
    if when == "after":
        real(*arguments, **more)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, killed)
toy = Toy.__new__(Toy)
toy.root = pathlib.Path.cwd()
here.publish(toy, "one", "new\\n")
"""


@pytest.mark.parametrize(
    "point",
    [
        ("publication", "_version", "after"),
        ("publication", "_keep", "after"),
        ("dvc.Project", "deliver", "after"),
        ("publication", "_head", "after"),
        ("git", "push", "before"),
        ("git", "push", "after"),
        ("publication", "_forget", "before"),
    ],
    ids=lambda point: f"{point[2]} {point[1]}",
)
def test_killed_at_any_point_readers_have_the_old_version_or_the_new_and_the_next_run_ends_well(
    point: tuple[str, str, str], project: Toy, remote: Path
) -> None:
    before = git.git(remote, "for-each-ref")
    code = KILLED.format(tests=str(ROOT / "tests"), point=point)
    ended = subprocess.run([sys.executable, "-c", code], cwd=project.root, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    pushed = point[1] == "_forget" or point == ("git", "push", "after")
    assert (git.git(remote, "for-each-ref") == before) is not pushed
    finished = publication.finish(project.root, "one", lambda _: None)
    if point[1] == "_version":  # nothing was ready yet: the run is done again, from the cache
        assert finished == ""
        assert str(publish(project, data="new\n")[0]) == "one@v1.0.0"
    else:
        assert finished == "one@v1.0.0, ready since an earlier run, is published"
    assert [version.version for version in registry.versions(project.root, "one")] == ["v1.0.0"]
    assert len(registry.uses(project.root, "one")) == 1
    assert publication.waiting(project.root) == {}
    assert not publication.finish(project.root, "one", lambda _: None)


def test_of_two_publications_of_one_pipeline_one_wins_and_the_other_says_so(project: Toy) -> None:
    publish(project)
    late = verdict(project.root, "one")
    publish(project, data="first\n")
    with workspace(project.root, "one", git.head(project.root)) as space:
        tool = made(space, "one", "second\n")
        with pytest.raises(RefusedError, match=r"one@v1\.1\.0 was published meanwhile"):
            publication.publish(space, "one", WHAT, RUNNING, tool, late, {})
    found = registry.in_use(project.root, "one")
    assert found is not None and found.version == "v1.1.0"
    assert publication.waiting(project.root) == {}


def test_a_tag_that_moved_or_went_at_the_remote_stops_the_run_with_its_name(project: Toy, remote: Path) -> None:
    publish(project)
    publish(project, "two")
    publish(project, data="better\n")
    right, other = (git.git(remote, "rev-parse", f"refs/tags/one#prod#{number}") for number in (2, 1))
    git.git(project.root, "tag", "mine")
    git.git(remote, "update-ref", "refs/tags/mine", right)  # a tag of no version is a person's own
    git.git(remote, "update-ref", "refs/tags/one#prod#2", other)
    registry.fetch(project.root, "two")
    for fetch in (lambda: registry.fetch(project.root, "one"), lambda: publication.fetch(project.root, "published")):
        with pytest.raises(git.MovedTagError, match="one#prod#2") as error:
            fetch()
        assert "git push --force origin 'refs/tags/one#prod#2'" in str(error.value)
    assert git.git(project.root, "rev-parse", "refs/tags/one#prod#2") == right
    assert git.git(project.root, "rev-parse", "mine") == git.head(project.root)
    git.git(remote, "update-ref", "-d", "refs/tags/one#prod#2")
    publication.fetch(project.root, "published")
    with pytest.raises(git.MovedTagError, match=r"one#prod#2.* is gone at the remote"):
        git.require_tags(project.root, registry.seen(project.root, "one"))
    git.require_tags(project.root, registry.seen(project.root, "two"))


def test_what_is_ready_stays_so_while_a_tag_is_not_as_it_was(project: Toy, remote: Path) -> None:
    publish(project)
    right = git.git(remote, "rev-parse", "refs/tags/one#prod#1")
    with workspace(project.root, "one", git.head(project.root)) as space:
        tool, judged = made(space, "one", "better\n"), verdict(project.root, "one")
        git.git(remote, "update-ref", "refs/tags/one#prod#1", git.head(project.root))
        with pytest.raises(git.MovedTagError):
            publication.publish(space, "one", WHAT, RUNNING, tool, judged, {})
    assert "one#prod#1" in publication.why(project.root, "one")
    git.git(remote, "update-ref", "refs/tags/one#prod#1", right)
    assert "one@v1.1.0" in publication.finish(project.root, "one", lambda _: None)


def test_versions_of_which_none_is_in_use_are_no_first_version(project: Toy) -> None:
    assert challenge.champion_of(project.root, "one") is None
    version, _ = publish(project)
    assert challenge.champion_of(project.root, "one") == registry.in_use(project.root, "one")
    git.git(project.root, "tag", "--delete", "one#prod#1")
    with pytest.raises(InputError, match=r"models promote one@v1\.0\.0"):
        challenge.champion_of(project.root, "one")
    assert version.version == "v1.0.0"


def merge(project: Toy) -> None:
    """What a person does whom a publication told how to merge."""
    git.git(project.root, "fetch", "--quiet")
    git.git(project.root, "checkout", "--quiet", "-B", "published", "origin/published")
    git.git(project.root, "merge", "--quiet", "origin/published-next")
    git.git(project.root, "push", "--quiet", "origin", "published")
    git.git(project.root, "checkout", "--quiet", "main")


@pytest.fixture
def protection(remote: Path) -> Path:
    """The hook that protects the branch of the remote, which is executable where it does."""
    hook = remote / "hooks" / "update"
    hook.write_text('#!/bin/sh\n[ "$1" != refs/heads/published ] || { echo "protected branch" >&2; exit 1; }\n')
    return hook


def test_a_protected_branch_gets_a_branch_beside_it_and_words_on_how_to_merge(
    project: Toy, remote: Path, protection: Path
) -> None:
    publish(project)
    protection.chmod(0o755)
    before = git.git(remote, "rev-parse", "published")
    version, where = publish(project, data="new\n")
    assert "git merge origin/published-next" in where
    assert git.git(remote, "rev-parse", "published") == before
    assert registry.in_use(project.root, "one") == version and version.version == "v1.1.0"
    with workspace(project.root, "one", git.head(project.root)) as space:  # the next run builds on it all the same
        publication.restore(space, "one", WHAT, publication.fetch(project.root, "published"))
        assert json.loads((space.root / "data/one/source.json").read_text()) == {"sha256": "new"}
    protection.chmod(0o644)
    merge(project)
    assert str(publish(project, data="newer\n")[0]) == "one@v1.2.0"
    git.git(remote, "branch", "--delete", "--force", "published-next")  # as one is that was merged
    protection.chmod(0o755)
    assert "git merge origin/published-next" in publish(project, data="newest\n")[1]


def test_a_branch_that_somebody_took_away_is_made_anew(project: Toy, remote: Path) -> None:
    publish(project)
    publish(project, "two")
    git.git(remote, "branch", "--delete", "--force", "published")
    version, where = publish(project, data="new\n")
    assert (str(version), where) == ("one@v1.1.0", PUBLISHED)
    head = git.git(remote, "rev-parse", "published")
    assert git.contains(project.root, head, version.commit)


def test_a_lock_that_a_killed_git_left_at_the_remote_ends_in_its_words_and_the_version_waits(
    project: Toy, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(project)
    monkeypatch.setattr(git, "PATIENCE", 1.0)
    lock = remote / "refs/heads/published.lock"
    lock.touch()
    version, where = publish(project, data="new\n")
    assert where == UNPUBLISHED and "published.lock': File exists" in publication.why(project.root, "one")
    lock.unlink()
    assert "one@v1.1.0" in publication.finish(project.root, "one", lambda _: None)
    assert version.version == "v1.1.0" and publication.why(project.root, "one") == ""


def test_a_branch_beside_the_protected_one_only_moves_on(project: Toy, remote: Path, protection: Path) -> None:
    """A shared repository takes no push that leaves commits behind."""
    git.git(remote, "config", "receive.denyNonFastForwards", "true")
    publish(project)
    protection.chmod(0o755)
    for data in ("new\n", "newer\n"):
        assert "git merge origin/published-next" in publish(project, data=data)[1]
    protection.chmod(0o644)
    merge(project)
    assert str(publish(project, data="newest\n")[0]) == "one@v1.3.0"


def theirs(remote: Path, path: str, text: str) -> None:
    """What somebody else pushes to the published branch."""
    place = remote.parent / "colleague"
    if not place.exists():
        git.git(remote.parent, "clone", "--quiet", "--branch", "published", str(remote), str(place))
    git.git(place, "pull", "--quiet")
    (place / path).write_text(text)
    git.git(place, "add", "--all")
    git.git(place, "-c", "user.name=C", "-c", "user.email=c@example.org", "commit", "--quiet", "-m", "Their code")
    git.git(place, "push", "--quiet")


def test_code_that_others_brought_to_the_branch_stays_there(project: Toy, remote: Path) -> None:
    publish(project)
    theirs(remote, "fix.py", "important = True\n")
    project.write("ours.py", "print()\n")
    commit(project)
    version, where = publish(project, data="new\n")
    head = publication.fetch(project.root, "published") or ""
    assert where == PUBLISHED and git.read(project.root, head, "fix.py") == b"important = True\n"
    assert git.read(project.root, head, "ours.py") == b"print()\n"
    assert shown(project, head, "data/one/source.json") == {"sha256": "new"}
    assert git.read(project.root, version.commit, "fix.py") is None  # it is not of the code that ran


def test_code_that_cannot_be_joined_with_others_is_named_and_the_version_waits(project: Toy, remote: Path) -> None:
    publish(project)
    theirs(remote, "code.py", "print('theirs')\n")
    project.write("code.py", "print('ours')\n")
    ours = commit(project)
    assert publish(project, data="new\n")[1] == UNPUBLISHED
    assert f"{ours[:10]}, of which v1.1.0 is, have both changed code.py" in publication.why(project.root, "one")
    place = remote.parent / "colleague"
    git.git(place, "pull", "--quiet", "--no-rebase", "--strategy-option", "ours", str(project.root), "main")
    git.git(place, "push", "--quiet")
    assert "one@v1.1.0" in publication.finish(project.root, "one", lambda _: None)
    head = publication.fetch(project.root, "published") or ""
    assert git.read(project.root, head, "code.py") == b"print('theirs')\n"


def test_a_version_that_was_put_in_use_during_a_run_is_not_overridden(project: Toy) -> None:
    for data in ("first\n", "second\n"):
        publish(project, data=data)
    late = verdict(project.root, "one")
    registry.rollback(project.root, "one", "poisoned")
    with workspace(project.root, "one", git.head(project.root)) as space:
        tool = made(space, "one", "third\n")
        with pytest.raises(RefusedError, match=r"one@v1\.0\.0 was put in use meanwhile"):
            publication.publish(space, "one", WHAT, RUNNING, tool, late, {})
    assert str(registry.in_use(project.root, "one")) == "one@v1.0.0"


def test_what_is_set_for_one_run_stays_out_of_the_branch(project: Toy) -> None:
    with workspace(project.root, "one", git.head(project.root)) as space:
        tool = made(space, "one")
        (space.root / "params.yaml").write_text("pipelines: {}  # for this run\n")
        judged = verdict(project.root, "one")
        version, _ = publication.publish(space, "one", WHAT, RUNNING, tool, judged, {})
    head = publication.fetch(project.root, "published") or ""
    assert git.read(project.root, version.commit, "params.yaml") == b"pipelines: {}  # for this run\n"
    assert git.read(project.root, head, "params.yaml") == b"pipelines: {}\n"


def test_what_several_pipelines_have_waiting_beside_a_protected_branch_merges_without_a_conflict(
    project: Toy, remote: Path, protection: Path
) -> None:
    """Whatever was merged before, and also where code has come to the branch meanwhile."""
    protection.chmod(0o755)
    published = {name: publish(project, name, data=f"{name}\n")[0] for name in ("one", "two")}
    protection.chmod(0o644)
    git.git(remote, "update-ref", "refs/heads/published", git.head(project.root))
    merge(project)
    protection.chmod(0o755)
    published["two"] = publish(project, "two", data="third\n")[0]
    protection.chmod(0o644)
    merge(project)
    protection.chmod(0o755)
    (project.root / "code.py").write_text("print(2)\n")
    git.git(project.root, "add", "code.py")
    git.git(project.root, "commit", "--quiet", "-m", "Newer code")
    published["one"] = publish(project, "one", data="fourth\n")[0]
    published["two"] = publish(project, "two", data="fifth\n")[0]
    protection.chmod(0o644)
    merge(project)
    head = publication.fetch(project.root, "published")
    assert head is not None and git.read(project.root, head, "code.py") == b"print(2)\n"
    for name, version in published.items():
        for path in (f"data/{name}/source.json", f"data/{name}/published/version.json"):
            assert git.read(project.root, head, path) == git.read(project.root, version.commit, path)
        state = publication.state(project.root, "published")
        assert state is not None
        entries = publication._entries(project.root, version.commit)
        assert {k: v for k, v in state.entries.items() if k.endswith(f"@{name}")} == {
            k: v for k, v in entries.items() if k.endswith(f"@{name}")
        }


def test_without_a_remote_nothing_is_published_and_the_remedy_is_named(project: Toy) -> None:
    git.git(project.root, "remote", "remove", "origin")
    with workspace(project.root, "one", git.head(project.root)) as space:
        tool = dvc.Project(space.root)
        tool.reproduce("training@one", lambda _: None, 60)
        with pytest.raises(InputError, match="trainwright init"):
            publication.publish(space, "one", WHAT, RUNNING, tool, verdict(project.root, "one"), {})


def ready(name: str, space: Workspace, version: str = "v1.0.0") -> Ready:
    return Ready(name, version, space.commit, space.commit, "published", "publish", "", (), ())


def test_of_fifty_publications_at_once_from_five_clones_none_is_lost(remote: Path, clone: Path, tmp_path: Path) -> None:
    """Only what moves refs: each of fifty pipelines has a version ready, and all push at the same moment."""
    homes = [clone]
    for number in range(4):
        homes.append(tmp_path / f"clone{number}")
        git.git(tmp_path, "clone", "--quiet", str(remote), str(homes[-1]))
        for key, value in (("user.name", "Other"), ("user.email", "other@example.org")):
            git.git(homes[-1], "config", key, value)
    code = git.head(clone)
    failures: list[BaseException] = []

    def one(number: int) -> None:
        home, name = homes[number % 5], f"p{number}"
        entry = f"  training@{name}:\n    cmd: make {number}\n"
        contents: dict[str, bytes | None] = {
            "dvc.lock": dvc_lock.text({f"training@{name}": entry}).encode(),
            f"data/{name}/source.json": b"{}",
            f"data/{name}/published/version.json": json.dumps({"version": "v1.0.0"}).encode(),
        }
        try:
            made = git.make_commit(home, code, contents, [code], name)
            start.wait()
            what = Ready(name, "v1.0.0", made, code, "published", "publish", "", (), ())
            assert publication._move(home, what) == PUBLISHED
        except BaseException as error:
            failures.append(error)

    start = threading.Barrier(50)
    threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    publication.fetch(clone, "published")
    state = publication.state(clone, "published")
    assert state is not None and set(state.entries) == {f"training@p{number}" for number in range(50)}
    for number in range(50):
        assert registry.in_use(clone, f"p{number}") is not None
        assert git.read(clone, state.head, f"data/p{number}/published/version.json") is not None
    assert git.git(clone, "rev-list", "--first-parent", "--count", state.head) in ("51", "52")


def test_what_is_kept_of_a_version_reads_back_as_it_was(project: Toy) -> None:
    with workspace(project.root, "one", git.head(project.root)) as space:
        what = ready("one", space)
        publication._keep(project.root, what)
        assert publication._kept(project.root, "one") == what
        assert asdict(what)["commit"] == git.commit(project.root, "refs/trainwright/unpublished/one")


def pull(place: Path) -> None:
    command = [sys.executable, "-m", "dvc", "pull", "--quiet", "training@one"]
    store = ["remote", "modify", "--local", "store", "url", str(place.parent / "store")]
    for each in ([sys.executable, "-m", "dvc", *store], command):
        subprocess.run(each, cwd=place, check=True, env={**os.environ, "DVC_NO_ANALYTICS": "true"})
