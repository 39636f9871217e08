"""The commit that a stage is sent to a worker with: the checkout as it is, under a ref of its own on the Git remote.

A crash leaves the ref, and among Git's own files here one of its name, which nobody holds any more. The next stage that
is sent from this clone, or `trainwright clean`, takes both away.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flows import dvc, git
from flows.workspace import held
from trainwright.core.errors import TrainwrightError

REFS = "refs/trainwright/runs/"


@contextmanager
def sent_commit(project: dvc.Project, stage: str) -> Iterator[tuple[str, str]]:
    """The checkout's commit and its ref on the Git remote, which is there for as long as the block runs."""
    sweep(project.root)
    commit = git.snapshot(project.root, project.sources(stage), f"Run {stage} elsewhere")
    name = secrets.token_hex(16)
    claim = _claims(project.root) / f"{name}.{commit}"
    claim.parent.mkdir(exist_ok=True)
    with held(claim):
        try:
            git.push(project.root, {REFS + name: (commit, None)})
            yield commit, REFS + name
        finally:
            _take_away(project.root, claim)


def sweep(root: Path) -> list[str]:
    """Take away the refs of stages whose sender has died. Returns those that are gone; one that the remote cannot be
    asked about stays for the next time."""
    if git.remote(root) is None:
        return []
    gone = []
    for claim in sorted(_claims(root).glob("*")):
        with suppress(BlockingIOError), held(claim, wait=False):
            if not _take_away(root, claim):
                break  # nor would it answer of the next, and each call to a dead line takes its time
            gone.append(REFS + claim.stem)
    return gone


def _take_away(root: Path, claim: Path) -> bool:
    name, _, commit = claim.name.partition(".")
    try:
        git.push(root, {REFS + name: ("", commit)})
    except (git.OvertakenError, git.ProtectedError):  # it is not there, or for others to take away
        pass
    except TrainwrightError:  # the remote is away, or no more; the ref is in nobody's way
        return False
    claim.unlink(missing_ok=True)
    return True


def _claims(root: Path) -> Path:
    return git.common_folder(root) / "trainwright-runs"
