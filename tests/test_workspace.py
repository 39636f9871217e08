"""Checkouts of their own: what happens in one stays there, what happens outside does not reach it."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, Toy, wait

from flows import checking, dvc, git
from flows.workspace import bring_sources, held, override, require_changeable, sweep, turn, workspace
from trainwright.core import params
from trainwright.core.errors import InputError, MachineryError
from trainwright.core.layout import Layout

HOLDS = """
import pathlib, sys, time
from flows.workspace import workspace
with workspace(pathlib.Path.cwd(), "toy", "HEAD") as space:
    (space.root / "half-written").write_text("x")
    print(space.root, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def project(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A toy in a Git repository, with one commit and a DVC remote whose path is relative to it."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "t")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "t@example.org")
    toy.stages(cleaning={"cmd": "cp in.txt out.txt", "deps": ["in.txt"], "outs": ["out.txt"]})
    toy.write("in.txt", "committed")
    toy.write("params.yaml", (ROOT / "params.yaml").read_text())
    toy.write(
        ".dvc/config", '[core]\n    remote = store\n    no_scm = false\n[remote "store"]\n    url = ../../store\n'
    )
    toy.write(".gitignore", ".trainwright/\n.site/\nout.txt\n")
    toy.write(".dvc/.gitignore", "/config.local\n/tmp\n/cache\n")
    git.git(toy.root, "init", "--quiet")
    git.git(toy.root, "add", "--all")
    git.git(toy.root, "commit", "--quiet", "--message", "first")
    return toy


def test_neither_side_sees_what_the_other_does(project: Toy) -> None:
    with workspace(project.root, "toy", "HEAD") as space:
        project.write("in.txt", "edited outside")
        dvc.Project(space.root).reproduce("cleaning@toy", lambda _: None, 60)
        assert (space.root / "out.txt").read_text() == "committed"
        assert not (project.root / "out.txt").exists()
        assert not (project.root / "dvc.lock").exists()
    assert not space.root.exists()
    assert git.changed(project.root) == ["in.txt"]
    assert git.git(project.root, "worktree", "list").count("\n") == 0


def test_hooks_of_a_persons_checkout_run_in_none(project: Toy) -> None:
    """Those of `dvc install` check out and push data, and fail where dvc is not on the path."""
    for name in ("post-checkout", "pre-push", "reference-transaction"):
        hook = project.root / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)
    with workspace(project.root, "one", git.head(project.root)) as space:
        assert (space.root / "dvc.yaml").exists()


def test_what_one_workspace_computed_the_next_has_from_the_cache(project: Toy) -> None:
    states = []
    for _ in range(2):
        with workspace(project.root, "toy", "HEAD") as space:
            states.append(dvc.Project(space.root).reproduce("cleaning@toy", lambda _: None, 60))
    assert states == ["Completed", "Cached"]


def test_a_remote_with_a_relative_path_is_the_same_place_in_a_workspace(project: Toy) -> None:
    with workspace(project.root, "toy", "HEAD") as space:
        inside = dvc.Project(space.root)
        inside.reproduce("cleaning@toy", lambda _: None, 60)
        inside.push(["cleaning@toy"])
    assert [path for path in (project.root.parent / "store").rglob("*") if path.is_file()]


def test_data_that_are_not_here_are_no_change_and_are_brought_back(project: Toy) -> None:
    with workspace(project.root, "toy", "HEAD") as space:
        inside = dvc.Project(space.root)
        assert inside.changes("cleaning@toy", missing=False) == ["it has not run yet"]
        inside.reproduce("cleaning@toy", lambda _: None, 60)
        (space.root / "out.txt").unlink()
        assert inside.changes("cleaning@toy") == ["out.txt deleted"]
        assert inside.changes("cleaning@toy", missing=False) == []
        inside.restore(["cleaning@toy"])
        assert (space.root / "out.txt").read_text() == "committed"
        (space.root / "in.txt").write_text("other")
        (space.root / "out.txt").unlink()
        assert inside.changes("cleaning@toy", missing=False) == ["in.txt modified"]


def test_gitignore_files_of_dvc_in_git_are_no_data(project: Toy) -> None:
    """A clone may have committed those that DVC wrote inside of a folder on which the next stage depends."""
    make = {"cmd": "mkdir -p data/model && cp in.txt data/model/weights", "deps": ["in.txt"], "outs": ["data/model"]}
    project.stages(
        training=make, evaluation={"cmd": "cp data/model/weights out.txt", "deps": ["data"], "outs": ["out.txt"]}
    )
    project.write(".gitignore", ".trainwright/\n.site/\nout.txt\n")
    project.write(".dvcignore", (ROOT / ".dvcignore").read_text())
    home = dvc.Project(project.root)
    for stage in ("training@toy", "evaluation@toy"):
        home.reproduce(stage, lambda _: None, 60)
    assert (project.root / "data" / ".gitignore").exists()
    git.git(project.root, "add", "--all")
    git.git(project.root, "commit", "--quiet", "--message", "All there is")
    with workspace(project.root, "toy", "HEAD") as space:
        assert [path.name for path in (space.root / "data").rglob("*")] == [".gitignore"]
        inside = dvc.Project(space.root)
        assert inside.changes("evaluation@toy", missing=False) == []
        inside.restore(["training@toy"])
        assert inside.changes("evaluation@toy", missing=False) == []
        (space.root / "data" / "model" / "weights").write_text("other")
        assert inside.changes("evaluation@toy", missing=False) == ["data modified"]


def test_a_killed_run_leaves_a_folder_that_the_next_start_sweeps(project: Toy) -> None:
    child = project.start("-c", HOLDS)
    assert child.stdout
    left = Path(child.stdout.readline().strip())
    assert (left / "half-written").exists()
    assert sweep(project.root) == []  # it is held
    child.kill()
    child.wait()
    assert left.exists()
    assert sweep(project.root) == [left.name]
    assert not left.exists()
    assert git.git(project.root, "worktree", "list").count("\n") == 0


@pytest.mark.parametrize("killed", [True, False])
def test_a_worktree_without_a_commit_stops_no_fetch(project: Toy, tmp_path: Path, killed: bool) -> None:
    """As `git worktree add` leaves it when it is killed, or has it for a moment before it is made."""
    remote, other = str(tmp_path / "remote.git"), tmp_path / "other"
    git.git(tmp_path, "clone", "--quiet", "--bare", str(project.root), remote)
    git.git(project.root, "remote", "add", "origin", remote)
    git.git(tmp_path, "clone", "--quiet", remote, str(other))
    git.git(other, "commit", "--quiet", "--allow-empty", "--message", "second")
    git.git(other, "push", "--quiet")
    begun = project.root / ".git" / "worktrees" / "one-0"
    begun.mkdir(parents=True)
    contents = {"HEAD": git.NOTHING, "commondir": "../..", "gitdir": f"{tmp_path}/one-0/.git", "locked": "initializing"}
    for name, content in contents.items():
        (begun / name).write_text(f"{content}\n")
    made = threading.Timer(0.5, lambda: (begun / "HEAD").write_text(git.head(project.root) + "\n"))
    if killed:
        os.utime(begun / "HEAD", (time.time() - 60, time.time() - 60))
    else:
        made.start()
    git.fetch(project.root, "+refs/heads/*:refs/remotes/origin/*")
    made.cancel()
    assert git.head(other) in git.git(project.root, "for-each-ref")
    assert begun.exists() == (not killed)


def test_two_runs_of_a_pipeline_queue_and_two_pipelines_do_not(project: Toy, tmp_path: Path) -> None:
    told: list[str] = []
    script = (
        "import pathlib, sys\nfrom flows.workspace import turn\n"
        "with turn(pathlib.Path.cwd(), sys.argv[1], lambda text: print(text, flush=True)):\n"
        "    print('mine', flush=True)\n"
    )
    with turn(project.root, "one", told.append):
        other = subprocess.run([sys.executable, "-c", script, "two"], cwd=project.root, capture_output=True, text=True)
        assert other.stdout == "mine\n"
        second = project.start("-c", script, "one")
        assert second.stdout
        assert "another retrain, or `clean --versions`, is running" in second.stdout.readline()
        assert second.poll() is None
    assert second.communicate()[0] == "mine\n"
    assert told == []


def test_parameters_set_for_one_run_are_checked_and_told(project: Toy) -> None:
    name = "sample-qa"
    with workspace(project.root, name, "HEAD") as space:
        told = override(space, name, {"training.epochs": "7", "cleaning.mojibake": "false"})
        assert told == {"training.epochs": ("3", "7"), "cleaning.mojibake": ("True", "false")}
        pipeline = params.load(Layout(space.root, name).params).pipeline(name)
        assert (pipeline.training.epochs, pipeline.cleaning.mojibake) == (7, False)
        for key, value in (("training.epochs", "six"), ("training.epoch", "6"), ("trainin.epochs", "6")):
            with pytest.raises(InputError, match=f"(?m)^--set .*{key.split('.')[0]}"):
                override(space, name, {key: value})
        for value in ("[", "a: b: c", "\0", "'", "!!python/object:os.system {}", "[" * 5000, "[" * 100_000):
            with pytest.raises(InputError, match=r"(?s)^--set training\.epochs=.*: the value is not valid YAML: "):
                override(space, name, {"training.epochs": value})
    assert params.load(project.root / "params.yaml").pipeline(name).training.epochs == 3


@pytest.mark.parametrize(
    "key",
    ["source.uri", "source", "base_model", "base_model.scratch.layers", "gates.report.min_f1", "publication.rule",
     "task", "after", "language", "ingestion.max_bad_share", "splitting.salt", "training", "training.teacher", ""],
)  # fmt: skip
def test_a_caller_of_the_server_cannot_set_what_is_read_or_published(key: str) -> None:
    with pytest.raises(InputError, match="cannot be set through the Prefect server") as caught:
        require_changeable({"training.epochs": "2", key: "s3cret"})
    assert [fault.field for fault in caught.value.faults] == [key] and "s3cret" not in str(caught.value)
    require_changeable({"training.epochs": "2", "tokenization.max_length": "64", "training.teacher_weight": "0.3"})


def test_a_source_that_git_does_not_know_is_read_where_it_is(project: Toy) -> None:
    project.write("mine/rows.json", "{}")
    content = (project.root / "params.yaml").read_text().replace("data/sample/squad.json", "mine/rows.json")
    project.write("params.yaml", content)
    git.git(project.root, "add", "params.yaml")
    git.git(project.root, "commit", "--quiet", "--message", "another source")
    with workspace(project.root, "sample-qa", "HEAD") as space:
        bring_sources(space, params.load(space.root / "params.yaml").pipeline("sample-qa"))
        assert (space.root / "mine/rows.json").read_text() == "{}"


def test_a_source_under_dvc_add_is_brought_everywhere(project: Toy) -> None:
    """As its .dvc file says at the workspace's commit, whatever lies in the checkout."""
    project.write("data/rows.jsonl", "{}\n")
    home = dvc.Project(project.root)
    home._command("add", "data/rows.jsonl")
    git.git(project.root, "add", "--all")
    git.git(project.root, "commit", "--quiet", "--message", "rows")
    pipeline = SimpleNamespace(
        source=SimpleNamespace(uri="data/rows.jsonl", splits={}, format="jsonl"), base_uri="package:none"
    )
    project.write("data/rows.jsonl", "{} edited\n")
    with workspace(project.root, "toy", "HEAD") as space:
        bring_sources(space, pipeline)  # type: ignore[arg-type]
        assert (space.root / "data/rows.jsonl").read_text() == "{}\n"
    assert list(checking.alone(Layout(project.root, "toy"), pipeline)) == []  # type: ignore[arg-type]
    assert [node.name for node in home.graph("toy")] == ["cleaning@toy"]
    assert home.changes("cleaning@toy", missing=False) == ["it has not run yet"]
    (project.root / "data/rows.jsonl").unlink()
    dvc.bring_tracked(project.root, ["data/rows.jsonl"])
    assert project.read("data/rows.jsonl") == "{}\n"
    (project.root / "data/rows.jsonl").unlink()
    shutil.rmtree(project.root / ".dvc/cache")
    with pytest.raises(MachineryError, match=r"rows\.jsonl\.dvc names object 8a80554c91d9fca8.* `dvc push data/rows"):
        dvc.bring_tracked(project.root, ["data/rows.jsonl"])


def test_a_file_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    with held(tmp_path / "a"), pytest.raises(BlockingIOError), held(tmp_path / "a", wait=False):
        pass
    with held(tmp_path / "a", wait=False):
        wait(lambda: (tmp_path / "a").read_text() != "", 5, "nobody wrote who holds it")
