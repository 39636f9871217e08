"""A stage's commit on the Git remote: there for as long as its sender lives, and taken away after it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Toy
from fixtures.repository import pipelines, repository, trainwright

from flows import dvc, git
from flows.sent_commit import sent_commit, sweep

SENDS = """
import time
from pathlib import Path
from flows import dvc
from flows.sent_commit import sent_commit
with sent_commit(dvc.Project(Path.cwd()), "first@toy") as (commit, ref):
    print(ref, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def project(toy: Toy, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Toy:
    toy.stages(first={"cmd": "cp in.txt out.txt", "deps": ["in.txt"], "outs": ["out.txt"]})
    toy.write("in.txt", "a row")
    pipelines(toy, "one")
    repository(toy, monkeypatch)
    bare = tmp_path_factory.mktemp("remote") / "remote.git"
    git.git(toy.root, "init", "--quiet", "--bare", str(bare))
    git.git(toy.root, "remote", "add", "origin", str(bare))
    return toy


@pytest.fixture
def killed(project: Toy) -> str:
    """The ref of a stage whose sender was killed."""
    with project.start("-c", SENDS) as sender:
        assert sender.stdout
        ref = sender.stdout.readline().strip()
        assert on_remote(project) == [ref]
        assert sweep(project.root) == []  # its sender lives
        sender.kill()
    assert on_remote(project) == [ref]
    return ref


def on_remote(project: Toy) -> list[str]:
    listed = git.git(project.root, "ls-remote", "origin", "refs/trainwright/*")
    return [line.split()[1] for line in listed.splitlines()]


def test_it_is_what_the_checkout_has_and_goes_when_the_stage_has_run(project: Toy) -> None:
    project.write("in.txt", "an edited row")
    with sent_commit(dvc.Project(project.root), "first@toy") as (commit, ref):
        assert on_remote(project) == [ref]
        assert git.read(project.root, commit, "in.txt") == b"an edited row"
    assert on_remote(project) == [] and sweep(project.root) == []


def test_what_a_killed_sender_left_goes_with_the_next_stage_that_is_sent(project: Toy, killed: str) -> None:
    with sent_commit(dvc.Project(project.root), "first@toy") as (_, ref):
        assert on_remote(project) == [ref] != [killed]
    assert on_remote(project) == []


def test_or_with_clean_which_names_it(project: Toy, killed: str) -> None:
    done = trainwright(project.root, "clean")
    assert done.returncode == 0 and f"ref          {killed} of the Git remote, left by a crash" in done.stdout, done
    assert on_remote(project) == []
    assert killed not in trainwright(project.root, "clean").stdout


@pytest.fixture
def away(project: Toy, killed: str) -> Iterator[Path]:
    bare = Path(git.git(project.root, "remote", "get-url", "origin"))
    moved = bare.rename(bare.with_name("elsewhere"))
    yield bare
    if moved.exists():
        moved.rename(bare)


def test_while_the_remote_is_away_it_is_kept_in_mind(project: Toy, killed: str, away: Path) -> None:
    assert sweep(project.root) == []
    with pytest.raises(git.GitError), sent_commit(dvc.Project(project.root), "first@toy"):
        pytest.fail("it was sent nowhere")
    away.with_name("elsewhere").rename(away)
    assert killed in sweep(project.root)
    assert on_remote(project) == [] and sweep(project.root) == []


def test_one_that_somebody_took_away_on_the_remote_is_forgotten(project: Toy, killed: str) -> None:
    bare = git.git(project.root, "remote", "get-url", "origin")
    subprocess.run(["git", "update-ref", "-d", killed], cwd=bare, check=True)
    sweep(project.root)
    assert not list((project.root / ".git" / "trainwright-runs").iterdir())
