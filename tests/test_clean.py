"""`trainwright clean`: what it removes, and that nothing goes which a kept version, a branch or a run still needs."""

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Toy
from fixtures.repository import git, pipelines, repository, trainwright

from flows import challenge, clean, dvc, registry, workspace
from trainwright import operations
from trainwright.champion import TestSet
from trainwright.core.errors import MachineryError

STAGE = {"cmd": "cp in.txt out.txt", "deps": ["in.txt"], "outs": ["out.txt"]}


@pytest.fixture
def project(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """Five published versions of `one`, each with an output of its own in cache and remote; v1.1.0 is the best, v1.4.0
    is in use, and `published` is at the last."""
    pipelines(toy, "one", operations={"one": {"retention": {"versions": 2}}})
    toy.stages(report__one=STAGE)
    toy.write("in.txt", "start")
    repository(toy, monkeypatch)
    git(toy.root, "init", "-q", "--bare", str(bare(toy)))
    said = trainwright(toy.root, "init", "--git-remote", str(bare(toy)), "--dvc-remote", str(store(toy)),
                       "--name", "Ada", "--email", "ada@example.org")  # fmt: skip
    assert said.returncode == 0, said.stderr
    for number, value in enumerate((10, 40, 20, 30, 25)):
        publish(toy, number, value)
    deliver(toy)
    return toy


def publish(toy: Toy, number: int, value: float) -> None:
    toy.write("in.txt", f"version {number}")
    dvc.Project(toy.root).reproduce("report@one", lambda _: None, 600)
    record = {"version": f"v1.{number}.0", "frozen": {"line": 1, "values": {"f1": value}}}
    toy.write("data/one/published/version.json", json.dumps(record))
    git(toy.root, "add", ".")
    git(toy.root, "commit", "-q", "-m", f"Version {number}")
    git(toy.root, "tag", "-a", f"one@v1.{number}.0", "-m", "published")
    use(toy, number, "publish")


def use(toy: Toy, number: int, act: registry.Act) -> None:
    """Put a version in use, as its publication does, or a promotion or a rollback."""
    ref, tag = registry.use_tag(toy.root, "one", git(toy.root, "rev-parse", f"one@v1.{number}.0^{{}}"), act, "")
    git(toy.root, "update-ref", ref, tag)


def deliver(toy: Toy) -> None:
    """What `dvc push --all-tags` and `git push` would do."""
    shutil.copytree(toy.root / ".dvc" / "cache" / "files", store(toy) / "files", dirs_exist_ok=True)
    git(toy.root, "push", "-q", "--tags", "origin", "HEAD:refs/heads/published")


def bare(project: Toy) -> Path:
    return project.root.parent / f"{project.root.name}-bare.git"


def store(project: Toy) -> Path:
    return project.root.parent / f"{project.root.name}-store"


def outputs(project: Toy, place: Path) -> set[str]:
    """The contents of the objects in a cache or remote that versions made."""
    texts = {path.read_text() for path in (place / "files" / "md5").rglob("*") if path.is_file()}
    return {text.removeprefix("version ") for text in texts if text.startswith("version")}


def test_what_no_kept_version_needs_goes_from_cache_and_remote_and_kept_ones_still_come_back_whole(
    project: Toy,
) -> None:
    """0 is the worst, which may be the best of a loss; 1 the best; 3 and 4 the newest and those last in use."""
    everything = {"0", "1", "2", "3", "4"}
    said = trainwright(project.root, "clean", "--versions")
    assert said.returncode == 0, said.stderr
    assert "one@v1.2.0: its data go" in said.stdout and "would remove 1 objects" in said.stdout
    assert outputs(project, project.root / ".dvc" / "cache") == outputs(project, store(project)) == everything

    said = trainwright(project.root, "clean", "--versions", "--yes")
    assert said.returncode == 0, said.stderr
    assert outputs(project, project.root / ".dvc" / "cache") == outputs(project, store(project)) == everything - {"2"}
    for number in everything - {"2"}:
        with workspace.workspace(
            project.root, "one", git(project.root, "rev-parse", f"one@v1.{number}.0^{{}}")
        ) as space:
            dvc.Project(space.root).restore(["report@one"])
            assert (space.root / "out.txt").read_text() == f"version {number}"
    said = trainwright(project.root, "clean", "--versions", "--yes")
    assert said.stdout.count("removed      nothing") == 1 and "one@v1.2.0: its data are removed" in said.stdout


def test_a_version_that_loses_its_data_is_told_of_before_they_go_and_never_chosen_again(project: Toy) -> None:
    def line() -> list[str]:
        return [v.version for v in challenge._line(project.root, "one", TestSet(1, (), ()))]

    hook = bare(project) / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    said = trainwright(project.root, "clean", "--versions", "--yes")
    assert said.returncode == 3 and "2" in outputs(project, store(project)) and "v1.2.0" in line()
    hook.unlink()
    trainwright(project.root, "clean", "--versions", "--yes")
    assert git(bare(project), "tag", "--list", "*!") == "one@v1.2.0!" and "2" not in outputs(project, store(project))
    assert line() == ["v1.0.0", "v1.1.0", "v1.3.0", "v1.4.0"]
    said = trainwright(project.root, "models", "promote", "one@v1.2.0")
    assert said.returncode == 2 and "has its data: v1.0.0, v1.1.0, v1.3.0" in said.stderr
    assert trainwright(project.root, "models", "rollback", "one").returncode == 0
    said = trainwright(project.root, "models", "rollback", "one")
    assert said.returncode == 2 and "one@v1.2.0: its data are removed" in said.stderr


@pytest.mark.parametrize(
    "gigabytes, count, newest",
    [(27e-9, None, "2 3 4 5"), (26e-9, None, "3 4 5"), (1e-9, None, "5"), (1e-9, 2, "4 5"), (27e-9, 2, "2 3 4 5")],
)
def test_the_newest_versions_stay_that_fit_into_so_much_disk_or_are_so_many(
    project: Toy, gigabytes: float, count: int | None, newest: str
) -> None:
    """Each has an output of 9 bytes, and 5 that of 4, which counts once. Their scores say which stay as the best."""
    project.write("data/one/published/version.json", json.dumps({"version": "v1.5.0"}))
    git(project.root, "commit", "-q", "-a", "-m", "Version 5")
    git(project.root, "tag", "-a", "one@v1.5.0", "-m", "published")
    git(project.root, "tag", "-d", *git(project.root, "tag", "--list", "one#*").split())
    found = clean.kept(project.root, "one", operations.Retention(versions=count, gigabytes=gigabytes))
    said = {version.version[3]: why for version, why in found.items()}
    assert {version for version, why in said.items() if "newest" in why} == set(newest.split())
    assert {version for version, why in said.items() if why == "the best by a score"} == {"0", "1"}


def test_what_refused_and_killed_runs_made_goes_where_some_pipeline_has_retention(project: Toy) -> None:
    project.write("in.txt", "version of a refused run")
    dvc.Project(project.root).reproduce("report@one", lambda _: None, 600)
    deliver(project)
    git(project.root, "checkout", "-q", ".")
    pipelines(project, "one")
    said = trainwright(project.root, "clean", "--versions", "--yes")
    assert said.returncode == 0 and "removed      nothing" in said.stdout
    pipelines(project, "one", operations={"one": {"retention": {"versions": 5}}})
    said = trainwright(project.root, "clean", "--versions")
    assert "would remove 1 objects from remote" in said.stdout
    assert "of a refused run" in outputs(project, store(project))
    said = trainwright(project.root, "clean", "--versions", "--yes")
    assert "removed      1 objects from remote" in said.stdout
    for place in (store(project), project.root / ".dvc" / "cache"):
        assert outputs(project, place) == {"0", "1", "2", "3", "4"}
    assert not git(project.root, "tag", "--list", "*!")


def test_a_version_that_is_put_in_use_while_it_asks_keeps_its_data(project: Toy) -> None:
    def sure(_: str) -> bool:
        return registry.promote(project.root, "one", "v1.2.0").startswith("one@v1.2.0 is in use")

    clean.retire(project.root, ["one"], operations.load(project.root / "params.yaml")[1], sure, print)
    assert "2" in outputs(project, store(project)) and not git(project.root, "tag", "--list", "*!")


def test_after_a_rollback_the_version_that_the_next_comparison_takes_for_the_best_stays(project: Toy) -> None:
    """1, the best of all, was taken back; of those that stand it is 2 then, which is neither new nor in use."""
    use(project, 0, "rollback")
    use(project, 2, "promote")
    publish(project, 5, 15)
    publish(project, 6, 12)
    deliver(project)
    line = challenge._line(project.root, "one", TestSet(1, (), ()))
    best = challenge._best(project.root, line, "f1", {})
    said = trainwright(project.root, "clean", "--versions", "--yes")
    assert said.returncode == 0, said.stderr
    assert f"{best}: kept, the best by a score" in said.stdout and str(best) == "one@v1.2.0"
    assert outputs(project, store(project)) == {"0", "1", "2", "5", "6"}


@pytest.mark.parametrize("ref", ["refs/heads/theirs", "refs/exps/12/34/theirs"])
def test_what_a_branch_or_an_experiment_of_somebody_else_needs_stays(project: Toy, ref: str) -> None:
    """It is on the remote, and this clone has never heard of it."""
    git(bare(project), "update-ref", ref, git(project.root, "rev-parse", "one@v1.2.0^{}"))
    said = trainwright(project.root, "clean", "--versions", "--yes")
    assert said.returncode == 0, said.stderr
    assert "2" in outputs(project, store(project))
    git(bare(project), "update-ref", "-d", ref)
    git(project.root, "fetch", "-q", "--prune")
    trainwright(project.root, "clean", "--versions", "--yes")
    assert "2" not in outputs(project, store(project))


def test_what_a_branch_a_stage_a_run_or_another_project_may_need_stays(project: Toy) -> None:
    git(project.root, "branch", "mine", "one@v1.2.0^{}")
    with workspace.workspace(project.root, "one", "HEAD"):
        said = trainwright(project.root, "clean", "--versions", "--yes")
    assert said.returncode == 3 and "something is running here (one-" in said.stderr
    said = trainwright(project.root, "clean", "--versions", "--yes")
    assert "one@v1.2.0: not kept, but others need its data" in said.stdout
    assert "2" in outputs(project, store(project)) and not git(project.root, "tag", "--list", "*!")
    git(project.root, "branch", "-D", "mine")
    git(project.root, "tag", "-a", "one#staging#1", "-m", "{}", "one@v1.2.0^{}")
    assert "one@v1.2.0: kept, it holds a stage" in trainwright(project.root, "clean", "--versions", "--yes").stdout
    git(project.root, "tag", "-d", "one#staging#1")
    (project.root / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {store(project)}-shared\n")
    said = trainwright(project.root, "clean", "--versions", "--yes")
    assert said.returncode == 2 and "is not this project's alone" in said.stderr
    assert "2" in outputs(project, store(project))


def test_no_retrain_begins_between_the_look_and_the_end_and_what_begins_all_the_same_stops_it(project: Toy) -> None:
    def retire(meanwhile: Callable[[], object]) -> None:
        running = operations.load(project.root / "params.yaml")[1]
        clean.retire(project.root, ["one"], running, lambda _: bool(meanwhile()) or True, lambda _: None)

    turn = project.root / ".trainwright" / "turns" / "one"
    waits = pytest.raises(MachineryError, match=rf"is running here \(one, process {os.getpid()}\)")
    with workspace.turn(project.root, "one", print), waits:  # a tick that has no workspace yet
        retire(lambda: pytest.fail("it asks"))

    def tick() -> None:
        with pytest.raises(BlockingIOError), workspace.held(turn, wait=False):
            pytest.fail("a retrain could have begun")

    with ExitStack() as stack, pytest.raises(MachineryError, match="something is running here"):
        retire(lambda: stack.enter_context(workspace.workspace(project.root, "one", "HEAD")))  # as `compare` does
    assert "2" in outputs(project, store(project))
    retire(tick)
    assert "2" not in outputs(project, store(project))
    with workspace.held(turn, wait=False):
        pass


def test_what_crashes_left_goes_and_what_is_new_or_held_stays(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    project = repository(toy, monkeypatch)
    old, new = (project.root / ".trainwright" / "tracebacks" / name for name in ("old.txt", "new.txt"))
    refusal = project.root / ".trainwright" / "refusals" / "one" / "cleaning" / "report.json"
    for path in (old, new, refusal):
        project.write(str(path.relative_to(project.root)), "a traceback")
    for path in (old, refusal):
        os.utime(path, (time.time() - 15 * 24 * 3600,) * 2)
    with workspace.workspace(project.root, "one", "HEAD") as held:
        dead = held.root.with_name("one-dead")
        git(project.root, "worktree", "add", "-q", "--detach", str(dead), "HEAD")
        dead.with_name("one-dead.claim").touch()
        said = trainwright(project.root, "clean")
        assert said.returncode == 0 and held.root.exists()
    assert not dead.exists() and not dead.with_name("one-dead.claim").exists()
    assert not old.exists() and not refusal.parent.parent.exists() and new.exists()
    assert "one-dead, left by a crash" in said.stdout and "tracebacks/old.txt" in said.stdout
    assert git(project.root, "worktree", "list").count("\n") == 0
