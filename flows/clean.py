"""`trainwright clean`: what crashes and failures have left on this machine, and the data of versions that nobody keeps
and of runs that made none.

Nothing that a kept version, a branch, an unpublished version or the present checkout needs is ever removed: the
garbage collection is DVC's own, in a repository beside this one that has all of its references but the tags of the
versions that retention lets go.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows import dvc, dvc_lock, git, registry, sent_commit, workspace
from flows.registry import Version
from trainwright.core.errors import Fault, InputError, MachineryError
from trainwright.operations import Retention, Running

OLD = 14 * 24 * 3600  # seconds; what tells of a failure is kept for as long
KEPT_BY_AGE = ("tracebacks", "refusals", "failures", "quarantine")
Say = Callable[[str], None]


def clean(root: Path, say: Say) -> None:
    """Remove dead workspaces, refs of stages whose sender died, and reports of failures that are two weeks old. Says
    what, and how much it was."""
    for space in workspace.listed(root):
        if not space["held"]:
            size = dvc.size(root / ".trainwright" / "workspaces" / str(space["name"]))
            say(f"workspace    {space['name']}, left by a crash: {size / 1e6:,.1f} MB")
    gone = len(workspace.sweep(root))
    for ref in sent_commit.sweep(root):
        say(f"ref          {ref} of the Git remote, left by a crash")
    total = 0
    for path in _outdated(root):
        total += path.stat().st_size
        path.unlink()
        say(f"report       {path.relative_to(root)}")
    _empty_folders(root)
    say(f"removed      {gone} workspaces, {total / 1e6:,.1f} MB of old reports of failures")


def _outdated(root: Path) -> Iterator[Path]:
    for name in KEPT_BY_AGE:
        for path in sorted((root / ".trainwright" / name).rglob("*")):
            if path.is_file() and time.time() - path.stat().st_mtime > OLD:
                yield path


def _empty_folders(root: Path) -> None:
    for name in KEPT_BY_AGE:
        for folder in sorted((root / ".trainwright" / name).rglob("*"), reverse=True):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def retire(root: Path, names: list[str], running: Running, sure: Callable[[str], bool], say: Say) -> None:
    """Remove from cache and remote what only versions need that `retention` in params.yaml lets go, and what no version
    needs: of runs that were refused, have failed or were killed. Nothing, where no pipeline has `retention`.

    `sure` is asked once, after everything has been told. What a run makes stands in no version yet: no pipeline is
    retrained from this checkout until this returns. Raises MachineryError where something is running here already, or
    where a remote cannot be reached.
    """
    with workspace.all_turns(root, sorted({*names, *registry.known(root)})):
        _nothing_runs(root)
        _retire(root, names, running, sure, say)


def _nothing_runs(root: Path) -> None:
    """Raise MachineryError where somebody holds a workspace: a stage that another machine has sent here, say."""
    if busy := [str(space["name"]) for space in workspace.listed(root) if space["held"]]:
        raise MachineryError(f"something is running here ({', '.join(busy)})")


def _retire(root: Path, names: list[str], running: Running, sure: Callable[[str], bool], say: Say) -> None:
    why = _why(root, names, running)
    dropped = [version for version, reason in why.items() if not reason]
    losing = _losing(root, dropped)
    for version, reason in why.items():
        went = "its data are removed" if version.removed else "not kept, but others need its data"
        say(f"version      {version}: {f'kept, {reason}' if reason else 'its data go' if version in losing else went}")
    for name in names:
        if running.of(name).retention is None:
            say(f"version      {name}: all are kept, it has no `retention` in params.yaml")
    going = []
    if any(running.of(name).retention for name in names):
        with _beside(root, dropped) as project:
            going = project.collect(dry=True)
        for line in going:
            say(f"would remove {line}")
    if not (losing or going) or not sure(f"Remove the data of {len(losing)} versions, and what no version needs?"):
        say("removed      nothing")
        return
    _nothing_runs(root)  # the answer may have been long in coming
    dropped = _still(root, names, running, dropped)
    registry.remove(root, [version for version in losing if version in dropped])
    with _beside(root, _still(root, names, running, dropped)) as project:
        for line in project.collect(dry=False) or ["nothing"]:
            say(f"removed      {line}")


def _still(root: Path, names: list[str], running: Running, dropped: list[Version]) -> list[Version]:
    """Those of `dropped` that nobody has put in use, or else made worth keeping, meanwhile. What others have published
    meanwhile is here then."""
    commits = {version.commit for version, reason in _why(root, names, running).items() if not reason}
    return [version for version in dropped if version.commit in commits]


def _why(root: Path, names: list[str], running: Running) -> dict[Version, str]:
    """The versions of every pipeline that has `retention`, by what the remote has now, and why the data of each stay;
    "" where they do not."""
    _fetch(root)
    found: dict[Version, str] = {}
    for name in names:
        if retention := running.of(name).retention:
            found |= dict.fromkeys(registry.versions(root, name), "") | kept(root, name, retention)
    return found


def _losing(root: Path, dropped: list[Version]) -> list[Version]:
    """Those of `dropped` that will not have all of their data, since nothing else here needs them."""
    texts = [git.read(root, commit, "dvc.lock") for commit in _needed(root, dropped)]
    if (lock := root / "dvc.lock").exists():
        texts.append(lock.read_bytes())
    elsewhere = {md5 for text in texts for md5 in _outputs(text)}
    own = {version: _outputs(git.read(root, version.commit, "dvc.lock"), version.name) for version in dropped}
    return [version for version in dropped if not version.removed and not own[version].keys() <= elsewhere]


def _outputs(lock: bytes | None, name: str = "") -> dict[str, int]:
    """The outputs that a dvc.lock has of all stages, or of a pipeline's: their MD5, and how many bytes each has."""
    try:
        entries = dvc_lock.entries((lock or b"").decode())
    except (MachineryError, UnicodeDecodeError):
        return {}  # DVC says what is wrong with it
    return dvc_lock.outputs(entry for stage, entry in entries.items() if not name or stage.endswith(f"@{name}"))


def _fetch(root: Path) -> None:
    """Bring here all of the remote that may need data: versions, and the branches and experiments of others."""
    git.fetch(root, "refs/tags/*:refs/tags/*", f"+refs/heads/*:refs/remotes/{git.remote(root)}/*")
    git.fetch(root, "+refs/exps/*:refs/trainwright/exps/*", prune=True)


def kept(root: Path, name: str, retention: Retention) -> dict[Version, str]:
    """The versions of a pipeline whose data stay, and why: the newest, as `retention` says, one at least, from which a
    retrain goes on; those that are or were last in use, so that a rollback finds its bytes; and the best by each score
    on each line of comparison, of all and of those that no rollback has taken back, among which the next comparison
    looks for it."""
    every, uses = registry.versions(root, name), registry.standing(root, name)
    versions = [version for version in every if not version.removed]
    found = dict.fromkeys(versions[-1:], "the newest")
    if size := retention.gigabytes:
        found |= dict.fromkeys(_within(root, versions, size * 1e9), f"among the newest {size:g} GB")
    if count := retention.versions:
        found |= dict.fromkeys(versions[-count:], f"one of the {count} newest")
    for use in uses[-2:]:
        found |= {version: "in use, or before the one in use" for version in every if version.commit == use.commit}
    for version in versions:
        if _holds_a_stage(root, version):
            found[version] = "it holds a stage"
    stands = {use.commit for use in uses}
    best = [*_best(root, versions), *_best(root, [version for version in versions if version.commit in stands])]
    return found | dict.fromkeys(best, "the best by a score")


def _within(root: Path, versions: list[Version], size: float) -> Iterator[Version]:
    """The newest versions whose outputs together are no more than so many bytes; what two share counts once."""
    seen: dict[str, int] = {}
    for version in reversed(versions):
        seen |= _outputs(git.read(root, version.commit, "dvc.lock"), version.name)
        if sum(seen.values()) > size:
            return
        yield version


def _holds_a_stage(root: Path, version: Version) -> bool:
    """Whether the newest tag of some stage (`NAME#STAGE#N`) points to a version."""
    newest: dict[str, tuple[int, str]] = {}
    for tag in git.git(root, "tag", "--list", f"{version.name}#*#*").split():
        _, stage, number = tag.rsplit("#", 2)
        if number.isdecimal():
            newest[stage] = max(newest.get(stage, (0, "")), (int(number), tag))
    return version.commit in {git.commit(root, tag) for _, tag in newest.values()}


def _best(root: Path, versions: list[Version]) -> Iterator[Version]:
    """For each line of comparison and score, the version with the highest value and the one with the lowest: which is
    the better way depends on the score."""
    values: dict[tuple[object, str], list[tuple[float, Version]]] = {}
    for version in versions:
        line, scores = registry.measured(registry.record(root, version))
        for score, value in scores.items():
            values.setdefault((line, score), []).append((value, version))
    for measured in values.values():
        for best in (max, min):
            yield best(measured, key=lambda pair: pair[0])[1]


@contextmanager
def _beside(root: Path, dropped: list[Version]) -> Iterator[dvc.Project]:
    """The project in a repository of its own, with its cache and remotes, whose tags are every commit that a reference
    here points to, apart from those of the versions `dropped`."""
    cache = dvc.Project(root).cache()
    if not cache.is_relative_to(root.resolve()):
        remedy = "Retire versions with `dvc gc --projects …`, which knows of the others."
        raise InputError(Fault(str(cache), "DVC's cache is not this project's alone: others may need it", remedy))
    with tempfile.TemporaryDirectory(dir=root / ".trainwright", prefix="retiring-") as folder:
        aside = Path(folder) / "project"
        git.git(root, "clone", "--quiet", "--shared", "--no-tags", "--no-checkout", str(root), str(aside))
        git.git(aside, "checkout", "--quiet", "--detach", git.head(root))
        for commit in _needed(root, dropped):
            git.git(aside, "update-ref", f"refs/tags/needed-{commit}", commit)
        for name in ("dvc.yaml", "params.yaml", "dvc.lock"):  # as they are here, committed or not
            if (root / name).exists():
                shutil.copyfile(root / name, aside / name)
        dvc.lend(root, aside)
        yield dvc.Project(aside)


def _needed(root: Path, dropped: list[Version]) -> set[str]:
    """The commits with a DVC graph that some reference points to: branches, tags, unpublished versions, experiments;
    not those to which only the tags of the versions `dropped` point."""
    let_go = {version.commit for version in dropped}
    listed = git.git(root, "for-each-ref", "--format=%(refname) %(objectname) %(*objectname)").splitlines()
    found = set()
    for line in listed:
        ref, *ids = line.split()
        of_a_version = ref.startswith("refs/tags/") and ("@v" in ref or "#" in ref)
        if not (of_a_version and ids[-1] in let_go) and git.read(root, ids[-1], "dvc.yaml") is not None:
            found.add(ids[-1])
    return found
