"""Checkouts of their own: a detached Git worktree at one commit, with the project's DVC cache.

What happens in a workspace touches nothing outside until it is published, and nothing outside touches it: no edit, no
other run. A crash leaves a folder under .trainwright/workspaces/, which nobody holds any more; `sweep` removes it, as
does the next start.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from flows import git, params_file
from trainwright.core.errors import Fault, InputError, MachineryError, nearest
from trainwright.core.layout import Layout
from trainwright.core.params import Pipeline
from trainwright.core.yaml_file import parse_yaml

CHECKPOINTS = "TRAINWRIGHT_CHECKPOINTS"  # a folder that machines share, where a training is to be resumed elsewhere


@dataclass(frozen=True)
class Workspace:
    """A checkout at `root` of `commit`, beside the checkout `home` that it came from."""

    root: Path
    home: Path
    commit: str


@contextmanager
def workspace(home: Path, pipeline: str, commit: str) -> Iterator[Workspace]:
    """A workspace for one run of a pipeline; removed when the block ends.

    It has the cache, remotes and credentials of `home`'s DVC. Checkpoints outlive it, apart from those of runs in
    `home`, so that a training that was cut short is taken up by the next workspace. Raises GitError where Git cannot
    make the worktree.
    """
    sweep(home)
    folder = _folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / f"{pipeline}-{secrets.token_hex(4)}"
    with held(_claim(root)):
        try:
            git.git(home, "worktree", "add", "--quiet", "--detach", str(root), commit)
            _join(home, root)
            with suppress(InputError):  # whoever reads a params.yaml that is not valid says so
                params_file.complete(root)
            yield Workspace(root, home, commit)
        finally:
            _remove(home, root)


def sweep(home: Path) -> list[str]:
    """Remove the workspaces that no living process holds. Returns their names."""
    gone = []
    for claim in sorted(_folder(home).glob("*.claim")):
        root = claim.with_suffix("")
        with suppress(BlockingIOError), held(claim, wait=False):
            _remove(home, root)
            gone.append(root.name)
    return gone


def listed(home: Path) -> list[dict[str, object]]:
    """The workspaces that are there, and whether a living process holds each."""
    found: list[dict[str, object]] = []
    for claim in sorted(_folder(home).glob("*.claim")):
        try:
            with claim.open() as file:  # only looked at, so that its holder's number stays in it
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            alive = False
        except BlockingIOError:
            alive = True
        found.append({"name": claim.stem, "held": alive})
    return found


@contextmanager
def turn(home: Path, pipeline: str, say: Callable[[str], None]) -> Iterator[None]:
    """One at a time: two retrains of a pipeline from this checkout come one after the other."""
    path = _turn(home, pipeline)
    try:
        with held(path, wait=False):
            yield
            return
    except BlockingIOError:
        with suppress(OSError):
            what = "another retrain, or `clean --versions`,"
            say(f"{pipeline}: {what} is running (process {path.read_text()}); this one waits for it")
    with held(path):
        yield


@contextmanager
def all_turns(home: Path, pipelines: Iterable[str]) -> Iterator[None]:
    """The turns of several pipelines at once: none is retrained from this checkout while the block runs.

    Raises MachineryError where one is being retrained.
    """
    with ExitStack() as stack:
        for pipeline in pipelines:
            path = _turn(home, pipeline)
            try:
                stack.enter_context(held(path, wait=False))
            except BlockingIOError:
                whose = f"{pipeline}, process {path.read_text()}"
                raise MachineryError(f"a retrain, or another `clean --versions`, is running here ({whose})") from None
        yield


@contextmanager
def held(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a file for as long as the block runs; the kernel lets go of it when this process ends, however it ends.

    Raises BlockingIOError where another process holds it and `wait` is false.
    """
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def require_name(name: str) -> None:
    """Raises InputError where no pipeline may be called `name`: it becomes part of the names of files and refs."""
    from trainwright.core import params

    try:
        params.check_name(name)
    except ValueError as error:
        raise InputError(Fault(name, str(error), "Write it as params.yaml does.")) from None


def require_known(root: Path, name: str) -> None:
    """Raises InputError where no pipeline is called `name`, in params.yaml as it is here or in the commit that is
    checked out, and no version is: what is decided of it would stay in the team's ledger for good. Where neither can be
    read, it may be one."""
    require_name(name)
    from trainwright.core import params

    here, there = (root / "params.yaml").read_bytes(), git.read(root, "HEAD", "params.yaml") or b""
    known = [found for text in (here, there) for found in params.names(text.decode("utf-8-sig", errors="replace"))]
    if known and name not in known and not git.tags(root, f"{name}@*"):
        raise InputError(Fault("params.yaml", f"there is no pipeline {name!r}", nearest(name, dict.fromkeys(known))))


def bring_sources(space: Workspace, pipeline: Pipeline) -> None:
    """Let the workspace see, where they are, the relative source and base model that neither Git nor DVC knows.

    Those that Git knows, or that are under `dvc add`, are read as they are at the workspace's commit. Raises
    MachineryError if DVC cannot bring one.
    """
    wanted = [pipeline.source.uri, *pipeline.source.splits.values()]
    if pipeline.base_uri.startswith("folder:"):
        wanted.append(pipeline.base_uri.removeprefix("folder:"))
    from flows import dvc

    dvc.bring_tracked(space.root, wanted)
    for uri in wanted:
        theirs, ours = space.home / uri, space.root / uri
        if not Path(uri).is_absolute() and theirs.exists() and not ours.exists():
            ours.parent.mkdir(parents=True, exist_ok=True)
            ours.symlink_to(theirs.resolve())


CHANGEABLE = ("augmentation", "tokenization", "training", "evaluation")  # sections that a caller of the server may set


def require_changeable(changes: Mapping[str, str]) -> None:
    """Raises InputError for a change that is not a caller's of the server to make.

    Such a caller has the server's password and no access to this machine: which files are read, what gates and
    publication demand and which rows test a model is decided in params.yaml.
    """
    allowed = f"Callers may set {', '.join(CHANGEABLE)}. Change params.yaml, or use `trainwright retrain --set`."
    wrong = [key for key in changes if key.split(".")[0] not in CHANGEABLE or key in (*CHANGEABLE, "training.teacher")]
    if wrong:
        reason = "cannot be set through the Prefect server"
        raise InputError(*(Fault("changes", reason, allowed, field=key) for key in wrong))


def override(space: Workspace, name: str, changes: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Set parameters of a pipeline for this workspace alone: dotted keys (`training.epochs`) to YAML values.

    Returns what each was and is. Raises InputError where there is no such parameter or the value is not one of it.
    """
    from ruamel.yaml import YAML

    from trainwright import operations

    path = Layout(space.root, name).params
    yaml = YAML(typ="rt")
    tree = yaml.load(path.read_text(encoding="utf-8-sig"))
    told = {}
    for key, text in changes.items():
        *sections, last = key.split(".")
        place = tree["pipelines"][name]
        for part in sections:
            place = place.get(part) if hasattr(place, "get") else None
        if not hasattr(place, "get"):
            where = f"--set {key}={text}"
            raise InputError(Fault(where, f"there is no section {'.'.join(sections)!r}", "See params.yaml."))
        told[key] = (str(place.get(last, "its default")), text)
        place[last] = _value(f"--set {key}={text}", text)
    with (aside := path.with_suffix(".aside")).open("w", encoding="utf-8") as file:
        yaml.dump(tree, file)
    aside.rename(path)
    try:
        operations.load(path)
    except InputError as error:
        given = {f"pipelines.{name}.{key}": f"--set {key}={text}" for key, text in changes.items()}
        faults = [replace(f, file=given[f.field], row="") if f.field in given else f for f in error.faults]
        raise InputError(*faults) from None
    return told


def _value(where: str, text: str) -> object:
    from ruamel.yaml.error import YAMLError

    try:
        return parse_yaml(text)
    except (YAMLError, RecursionError, ValueError) as error:  # ValueError: a day that no month has
        reason = str(getattr(error, "problem", None) or error).splitlines()[0]
        remedy = "Write the value as params.yaml would have it: --set training.epochs=2."
        where = where if len(where) <= 200 else f"{where[:200]}…"
        raise InputError(Fault(where, f"the value is not valid YAML: {reason}", remedy)) from None


def _turn(home: Path, pipeline: str) -> Path:
    """The file that whoever has a pipeline's turn holds."""
    path = home / ".trainwright" / "turns" / pipeline
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _folder(home: Path) -> Path:
    return home / ".trainwright" / "workspaces"


def _claim(root: Path) -> Path:
    return root.with_name(f"{root.name}.claim")


def _join(home: Path, root: Path) -> None:
    """Give a new worktree what is this machine's own and not in Git: DVC's settings, and a place for checkpoints."""
    from flows import dvc

    dvc.lend(home, root)
    kept = Path(os.environ.get(CHECKPOINTS, home / ".trainwright" / "retrains" / "checkpoints"))
    kept.mkdir(parents=True, exist_ok=True)
    private = root / ".trainwright"
    private.mkdir(exist_ok=True)
    (private / "checkpoints").symlink_to(kept)


def _remove(home: Path, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    if root.exists():
        raise MachineryError(f"{root} cannot be removed: look at who owns its files")
    git.forget_worktree(home, root)
    _claim(root).unlink(missing_ok=True)
