"""DVC, as far as the flow needs it: a pipeline's graph, what has changed, and running one stage.

The only module that uses DVC's Python API, apart from dvc.lock's text (flows/dvc_lock.py).
"""

import hashlib
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import dvc_lock, dvc_process
from flows.dvc_process import Line
from trainwright.core import layout
from trainwright.core.errors import Fault, InputError, MachineryError

SKIPPED = re.compile(r"^(Stage )?'.*' didn't change, skipping$")
CACHED = re.compile(r"^Stage '.*' is cached - skipping run")
RUNNING = re.compile(r"^Running stage '.*':$")
NOISE = re.compile(
    r"^(> .*|Data and pipelines are up to date\.|Use `dvc push` to send your updates.*|To enable auto staging, run:"
    r"|WARNING: No file hash info .*"
    r"|\tdvc config core.autostage true|To track the changes with git, run:|\tgit add .*|ERROR: failed to reproduce.*"
    r"|WARNING: Process '.*' with \(Pid \d+\), in RWLock-file .*|)$"
)
ERROR = re.compile(r"ERROR: (.*)")
READERS = 8  # objects of the remote that are read back at a time
DAMAGED = "Remove it, then run the pipeline again."
NEVER_RAN = "it has not run yet"
SHOWS = "Run `dvc status`, which shows the place."
GONE = re.compile(r"^(Removed )?\d+ objects? from (\S+ cache|remote)\.?$")


@dataclass(frozen=True)
class Node:
    """A stage as DVC names it (`cleaning@sample-qa`), and those of the same pipeline that it waits for."""

    name: str
    upstream: tuple[str, ...]


class DamagedError(MachineryError):
    """An object of the cache is not what its name says."""


class StageError(Exception):
    """DVC could not bring a stage about; carries DVC's own words."""


class Project:
    """The DVC project at `root`. For one thread: DVC's locks tell processes apart, not threads.

    `watch` is called several times a second while a process of DVC's runs; what it raises ends that process. Data are
    moved in this process, where a signal's handler may raise. Raises InputError where there is no project or dvc.yaml
    cannot be read.
    """

    def __init__(
        self, root: Path, watch: Callable[[], None] = lambda: None, changes: Mapping[str, Any] | None = None
    ) -> None:
        os.environ["DVC_SITE_CACHE_DIR"] = dvc_process.environment(root)["DVC_SITE_CACHE_DIR"]
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        self.root, self._watch = root, watch
        self._seen: list[tuple[int, int] | None] = []
        try:
            self._repo = Repo(str(root), config=changes and dict(changes), _wait_for_lock=True)
            self._mend()
        except DvcException as error:
            raise InputError(Fault("dvc.yaml", f"DVC cannot read the project: {error}", SHOWS)) from error

    def graph(self, pipeline: str, goal: str | None = None) -> list[Node]:
        """The stages of one pipeline, each after those that it waits for; otherwise as dvc.yaml has them.

        With a `goal` (`training_gate`) only that stage and those that it waits for.
        """
        import networkx as nx  # type: ignore[import-untyped]
        from dvc.exceptions import DvcException

        try:
            self._look_again()
            graph, stages = self._repo.index.graph, self._repo.index.stages
        except DvcException as error:
            raise InputError(Fault("dvc.yaml", f"DVC cannot read the graph: {error}", SHOWS)) from error
        place = {stage: number for number, stage in enumerate(stages)}
        order = nx.lexicographical_topological_sort(graph.reverse(), key=place.__getitem__)
        mine = [stage for stage in order if getattr(stage, "name", "").endswith(f"@{pipeline}")]
        if goal:
            needed = {stage for stage in mine if stage.name == f"{goal}@{pipeline}"}
            needed |= {found for stage in needed for found in nx.descendants(graph, stage)}
            mine = [stage for stage in mine if stage in needed]
        names = {stage: stage.name for stage in mine}
        return [Node(s.name, tuple(names[u] for u in graph.successors(s) if u in names)) for s in mine]

    def changes(self, stage: str, missing: bool = True) -> list[str]:
        """Why `stage` would run now, in words; empty where nothing of it has changed.

        With `missing=False` data that are not here, or that their own stage is to make anew, are no change.
        """
        with self._repo.lock:
            self._look_again()
            stages = {name: known for known in self._repo.index.stages if (name := getattr(known, "name", None))}
            loaded = stages[stage]
            if not missing and not loaded.changed(allow_missing=True, upstream=list(stages.values())):
                return []
            found: list[Any] = loaded.status().get(loaded.addressing, [])
            if found and not any(part.hash_info for part in (*loaded.deps, *loaded.outs)):
                return [NEVER_RAN]
        words = []
        for entry in found:
            if isinstance(entry, str):
                words.append(entry)
            else:
                known = [(what, state) for states in entry.values() for what, state in _flat(states)]
                words += [
                    f"{what} {state}" for what, state in known if missing or state not in ("deleted", "not in cache")
                ]
        return words

    def _look_again(self) -> None:
        """Have DVC read its files again if they have changed: reading them is most of what a look at a stage costs."""
        files = [self.root / name for name in ("dvc.yaml", "params.yaml", "dvc.lock")]
        marks = [path.stat() if path.exists() else None for path in files]
        seen = [mark and (mark.st_mtime_ns, mark.st_size) for mark in marks]
        if seen != self._seen:
            self._repo._reset()
            self._seen = seen
            for dep in (dep for stage in self._repo.index.stages for dep in stage.deps if dep.is_in_repo):
                dep.status = _status_of(dep)

    def cache(self) -> Path:
        """The folder of DVC's cache, as its setting `cache.dir` would name it: objects are in files/md5 below it."""
        return Path(self._repo.cache.local_cache_dir).resolve()

    def remote(self) -> str | None:
        """The name of DVC's default remote, or None."""
        return self._repo.config["core"].get("remote") or None

    def remote_url(self) -> str | None:
        """Where the default remote is; None where there is no default remote."""
        found = self._repo.config.get("remote", {}).get(self.remote() or "", {}).get("url")
        return str(found) if found else None

    def set_remote(self, url: str) -> None:
        """Make `url` the default remote, in the settings that Git keeps, once something could be written there.

        Raises MachineryError where nothing can be written there; then nothing has changed.
        """
        name = self.remote() or "storage"
        changes = {"remote": {name: {"url": url}}, "core": {"remote": name}}
        Project(self.root, changes=changes).try_remote()
        with self._repo.config.edit("repo") as config:
            config.setdefault("core", {})["remote"] = name
            config.setdefault("remote", {}).setdefault(name, {})["url"] = url
        self._repo.config.load()

    def try_remote(self) -> None:
        """Write a file into the default remote, its folder made if need be, and take it away again.

        Raises MachineryError where that cannot be done.
        """
        try:
            remote = self._repo.cloud.get_remote()
            place = remote.fs.join(remote.path, f".trainwright-{secrets.token_hex(8)}")
            remote.fs.makedirs(remote.path, exist_ok=True)
            remote.fs.pipe_file(place, b"written by trainwright init; may be removed")
            remote.fs.remove(place)
        except Exception as error:  # every kind of remote has libraries, and exceptions, of its own
            raise MachineryError(f"the DVC remote {self.remote_url()} cannot be written: {_words(error)}") from error

    def reproduce(self, stage: str, say: Callable[[Line], None], seconds: float, force: bool = False) -> str:
        """Bring `stage` about in a process of its own; "Completed", "Cached" (restored, not run) or "Skipped".

        With `force` it runs even where nothing of it has changed.

        `say` gets the stage's output as it comes. Raises StageError when it fails, TimeoutError after `seconds`;
        either way, and on any other exception, nothing of it is left running: it is asked to end, then killed.
        """
        command = ["repro", "-s", stage, *(["--force"] if force else [])]
        state, error = "", ""
        self._keep()
        with dvc_process.start(self.root, *command) as child:
            for line in dvc_process.lines(child, time.monotonic() + seconds, self._watch):
                state = state or _state(line.text)
                if said := ERROR.search(line.text):
                    error = said[1]
                if not NOISE.match(line.text) and not _state(line.text):
                    say(line)
        self._mend()
        if child.returncode != 0:
            raise StageError(error or f"dvc ended with exit code {child.returncode}")
        return state or "Completed"

    def inputs(self, stage: str) -> dict[str, str]:
        """What `stage` reads of other stages' outputs: each path, and the stage that makes it.

        With a gate's certificate it reads all that the gate has left (trainwright/core/certificate.py).
        """
        made = {out.fs_path: out for known in self._stages() for out in known.outs}
        found = {}
        for dep in self._stage(stage).deps:
            inside = [Path(dep.fs_path), *Path(dep.fs_path).parents]
            out = next((made[str(path)] for path in inside if str(path) in made), None)
            if out is not None:
                found[os.path.relpath(dep.fs_path, self.root)] = name = str(out.stage.name)
                if name.partition("@")[0].endswith("_gate"):
                    found |= {os.path.relpath(other.fs_path, self.root): name for other in out.stage.outs}
        return found

    def sources(self, stage: str) -> list[str]:
        """What `stage` reads that no stage makes: code, pins, files of a person's."""
        made = self.inputs(stage)
        paths = [os.path.relpath(dep.fs_path, self.root) for dep in self._stage(stage).deps]
        return [path for path in paths if path not in made]

    def entries(self, stages: Iterable[str]) -> dict[str, Any]:
        """What dvc.lock has of `stages`; nothing of those that it does not know."""
        from dvc.utils.serialize import load_yaml

        lock = self.root / "dvc.lock"
        with self._repo.lock:
            known = load_yaml(str(lock)).get("stages", {}) if lock.exists() else {}
        return {stage: known[stage] for stage in stages if stage in known}

    def merge(self, stage: str, entry: Mapping[str, Any]) -> None:
        """Put what another machine's dvc.lock says of `stage` into this one's, in one step.

        Raises MachineryError where it is not an entry as DVC writes them, or this one's not a file as DVC does.
        """
        lock = self.root / "dvc.lock"
        if dvc_lock.content_of(text := dvc_lock.of({stage: dict(entry)})) is None:
            raise MachineryError(f"what came back for {stage} is no entry of dvc.lock")
        with self._repo.lock:
            known = dvc_lock.entries(lock.read_text(encoding="utf-8")) if lock.exists() else {}
            layout.write_file(lock, dvc_lock.text(known | dvc_lock.entries(text)))

    def restore(self, targets: Sequence[str]) -> None:
        """Bring here what dvc.lock says of `targets` (stages, or paths that they make), from the cache, else from the
        remote.

        Raises MachineryError where some of it is in neither, the remote cannot be reached, or what came from there is
        not what dvc.lock says; that does not stay in the cache.
        """
        if targets:
            try:
                self._move("checkout", targets, force=True)
            except MachineryError:
                if not self.remote():
                    raise
                self.pull(targets)
                for stage in self._stages():
                    if getattr(stage, "name", None) in targets:
                        self.verify(stage.name)

    def pull(self, targets: Sequence[str]) -> None:
        """The same of `targets` that are known not to be here. Raises MachineryError where it cannot."""
        if targets:
            self._move("pull", targets, force=True)

    def commit(self, stages: Sequence[str]) -> None:
        """Take the outputs of `stages` as they are for those of their present code: they count as run."""
        if stages:
            self._command("commit", "--force", *stages)

    def push(self, targets: Sequence[str]) -> None:
        """Bring `targets` (stages, or paths that they make) to the remote. Raises MachineryError where it cannot."""
        if targets:
            self._move("push", targets)

    def _move(self, command: str, targets: Sequence[str], **options: bool) -> None:
        """push, pull or checkout, in this process: to start another one takes longer than most of them do.

        Raises MachineryError with all that DVC says of it where it fails.
        """

        def place(target: str) -> str:  # DVC would start from the working folder of this process
            return f"{self.root / 'dvc.yaml'}:{target}" if "@" in target else str(self.root / target)

        with _errors() as said:
            try:
                getattr(self._repo, command)([place(target) for target in targets], **options)
            except Exception as error:  # every kind of remote has errors of its own
                raise MachineryError(f"dvc {command}: {'; '.join([*said, _words(error)])}") from error

    def deliver(self, stages: Sequence[str], known: Collection[str] = ()) -> list[str]:
        """Bring the outputs of `stages` to the remote, and read every object back there: its bytes must be those of
        its name. One that is not whole is brought there again.

        `known` are MD5s of outputs, as dvc.lock has them, that were read back before: of their objects it is enough
        that each has its length. Returns the objects that had to be brought there again. Raises MachineryError where
        the remote cannot be reached, or one is not whole in the cache either.
        """
        failed = None
        try:
            self.push(stages)
        except MachineryError as error:  # a damaged object there is enough, which is mended here
            failed = error
        try:
            with self._repo.lock:
                self._repo._reset()
                return self._whole_there(self._objects(stages, known))
        except DamagedError:
            raise
        except Exception as error:  # every kind of remote has errors of its own
            raise failed or MachineryError(f"dvc push: {error}") from error

    def _objects(self, stages: Sequence[str], known: Collection[str]) -> dict[str, bool]:
        """The names in the cache (MD5) of the outputs of `stages` and of the files of those that are folders, each
        with whether it is of a known output alone."""
        found: dict[str, bool] = {}
        loaded = [stage for stage in self._repo.index.stages if getattr(stage, "name", None) in stages]
        for out in (out for stage in loaded for out in stage.outs if out.use_cache):
            for info in (info for infos in out.get_used_objs().values() for info in infos):
                found[info.value] = found.get(info.value, True) and out.hash_info.value in known
        return found

    def _whole_there(self, objects: Mapping[str, bool]) -> list[str]:
        remote, cache = self._repo.cloud.get_remote_odb(), self._repo.cache.local

        def is_good(name: str) -> bool:
            of_length = objects[name] and cache.exists(name)
            return _is_as_long(remote, cache, name) if of_length else _is_whole(remote, name)

        with ThreadPoolExecutor(READERS) as readers:
            names = sorted(objects)
            bad = [name for name, good in zip(names, readers.map(is_good, names), strict=True) if not good]
        for name in bad:
            if not _is_whole(cache, name):
                raise DamagedError(f"{cache.oid_to_path(name)} is not what its name says. {DAMAGED}")
            if remote.exists(name):
                remote.fs.remove(remote.oid_to_path(name))
            remote.add(cache.oid_to_path(name), cache.fs, name, check_exists=False)
            if not _is_whole(remote, name):
                raise MachineryError(f"{name} arrives damaged at the remote: look at its disk and connection.")
        return bad

    def verify(self, stage: str) -> None:
        """Hash the outputs of `stage` that are here: DVC trusts what it has fetched, cut short or not.

        Raises MachineryError, with the bad ones gone from here and the cache, where one is not what dvc.lock names.
        """
        from dvc_data.hashfile.hash import file_md5

        bad = []
        for out in self._stage(stage).outs:
            top = Path(out.fs_path)
            inside = out.get_obj() if out.hash_info and out.hash_info.isdir else [((), None, out.hash_info)]
            for key, _, wanted in inside:
                path = top.joinpath(*key)
                if not path.is_file() or file_md5(str(path), name=out.hash_name) != wanted.value:
                    bad.append(f"{path.relative_to(self.root)} ({wanted.value})")
                    Path(out.cache.oid_to_path(wanted.value)).unlink(missing_ok=True)
                    path.unlink(missing_ok=True)  # DVC would take it for what it should be
        if bad:
            raise MachineryError(
                f"not as they were made: {', '.join(bad)}. They are out of the cache; where the next try says so "
                "too, they are damaged on the DVC remote: remove them there."
            )

    def _stages(self) -> list[Any]:
        with self._repo.lock:
            self._look_again()
            return list(self._repo.index.stages)

    def _stage(self, name: str) -> Any:
        return next(stage for stage in self._stages() if getattr(stage, "name", None) == name)

    def collect(self, dry: bool) -> list[str]:
        """Remove from cache and remote what neither the checkout nor a tag needs; with `dry` nothing goes.

        Returns DVC's account of it, nothing where nothing goes. Raises MachineryError where a tag's graph cannot be
        read or the remote not reached.
        """
        cloud = ["--cloud"] if self.remote() else []
        said = self._command("gc", "--force", "--workspace", "--all-tags", *cloud, *(["--dry"] if dry else []))
        return [text.removeprefix("Removed ") for text in said if GONE.match(text)]

    def _command(self, *arguments: str) -> list[str]:
        """What a dvc command in a process of its own says. Raises MachineryError with its words where it fails."""
        with dvc_process.start(self.root, *arguments) as child:
            said = [
                line.text for line in dvc_process.lines(child, watch=self._watch) if line.text and not line.transient
            ]
        if child.returncode:
            errors = [text.removeprefix("ERROR: ") for text in said if text.startswith("ERROR")]
            words = "; ".join(errors or said[-1:]) or f"exit code {child.returncode}"
            raise MachineryError(f"dvc {arguments[0]}: {words}")
        return said

    def _keep(self) -> None:
        """A copy of dvc.lock, which DVC writes in place: a kill in that moment leaves a part of it. Empty for none."""
        lock, copy = self.root / "dvc.lock", self._copies / f"dvc.lock.{os.getpid()}"
        with self._repo.lock:  # nobody is writing it
            layout.write_file(copy, lock.read_text(encoding="utf-8") if lock.exists() else "")

    def _mend(self) -> None:
        """Bring dvc.lock back where a kill has left a part of it, and DVC's list of readers and writers likewise.

        Raises InputError where there is nothing to bring back.
        """
        lock, readers = self.root / "dvc.lock", Path(self._repo.tmp_dir) / "rwlock"
        with self._repo.lock:
            copies = sorted(self._copies.glob("dvc.lock.*"), key=lambda path: path.stat().st_mtime)
            if lock.exists() and not dvc_lock.is_whole(lock, copies):
                if not copies:
                    raise InputError(Fault("dvc.lock", "is not whole", "Restore it with Git, or remove it."))
                shutil.copyfile(copies[-1], lock)
                if not lock.stat().st_size:
                    lock.unlink()
            if readers.exists() and not _is_json(readers):
                readers.unlink()
            for copy in copies:
                if (pid := int(copy.suffix[1:])) == os.getpid() or not _is_running(pid):
                    copy.unlink()

    @property
    def _copies(self) -> Path:
        return self.root / ".trainwright" / "locks"


def lend(home: Path, root: Path) -> None:
    """Let the worktree at `root` have the cache, the own settings and the remotes of the project at `home`.

    A remote's path that is relative to that project would be another place there. Of `home` only settings are read:
    whatever has become of its dvc.lock is no matter of the worktree's. Raises InputError where it is no project.
    """
    os.environ["DVC_SITE_CACHE_DIR"] = dvc_process.environment(home)["DVC_SITE_CACHE_DIR"]
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    local = home / ".dvc" / "config.local"
    if local.exists():
        shutil.copyfile(local, root / ".dvc" / "config.local")
    try:
        with Repo(str(home)) as theirs, Repo(str(root)) as ours, ours.config.edit("local") as config:
            config.setdefault("cache", {})["dir"] = str(Path(theirs.cache.local_cache_dir).resolve())
            for name, remote in theirs.config.get("remote", {}).items():
                if Path(url := str(remote.get("url", ""))).is_absolute():
                    config.setdefault("remote", {}).setdefault(name, {})["url"] = str(Path(url).resolve())
    except DvcException as error:
        raise InputError(Fault("dvc.yaml", f"DVC cannot read the project: {error}", SHOWS)) from error


def bring_tracked(root: Path, paths: Iterable[str]) -> None:
    """Bring here what is under `dvc add` and not here, from the cache, else from the remote.

    Raises MachineryError if it is in neither or cannot be reached.
    """
    from trainwright import pins

    missing = [path for path in paths if pins.tracked(root, path) and not (root / path).exists()]
    for path in missing:
        try:
            Project(root).restore([f"{path}.dvc"])
        except MachineryError as error:
            words = f"{path}.dvc names object {pins.tracked(root, path)}, which cannot be brought here"
            reason = " ".join(str(error).split())
            raise MachineryError(f"{words}; on the machine that has it: `dvc push {path}.dvc`. {reason}") from None


def size(folder: Path) -> int:
    """The bytes of the files below a folder; files that go meanwhile count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += (Path(place) / name).lstat().st_size
    return total


def experiment(root: Path, name: str, target: str, output: Callable[[Line], None]) -> None:
    """`dvc exp run` of a target under the present parameters, kept as experiment `name` in place of an older one.

    Raises StageError where it did not end well.
    """
    with dvc_process.start(root, "exp", "remove", name) as child:
        list(dvc_process.lines(child))
    error = ""
    with dvc_process.start(root, "exp", "run", "--name", name, target) as child:
        for line in dvc_process.lines(child):
            if line.text and not NOISE.match(line.text):
                output(line)
            error = line.text if line.text.startswith("ERROR") else error
        if child.returncode:
            raise StageError(error.removeprefix("ERROR: ") or f"dvc ended with exit code {child.returncode}")


def _words(error: Exception) -> str:
    """An error of DVC's, or of a library that reaches a remote, with its kind where it may say little without."""
    from dvc.exceptions import DvcException

    return str(error) if isinstance(error, DvcException | OSError) else f"{type(error).__name__}: {error}"


@contextmanager
def _errors() -> Iterator[list[str]]:
    """The errors that DVC logs while the block runs, which are then not printed; nor are its bars."""
    from dvc.progress import logger as bars

    said: list[str] = []

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info and record.exc_info[1]
            said.append(record.getMessage() + (f" - {error}" if error else ""))

    heard = Heard(logging.ERROR)
    bars.setLevel(logging.CRITICAL)
    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.propagate = False
        logger.addHandler(heard)
    try:
        yield said
    finally:
        for logger, propagates in zip(loggers, before, strict=True):
            logger.propagate = propagates
            logger.removeHandler(heard)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_whole(odb: Any, name: str) -> bool:
    """Whether the bytes of an object are those of its name."""
    found = hashlib.md5(usedforsecurity=False)
    try:
        with odb.fs.open(odb.oid_to_path(name), "rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    except FileNotFoundError:
        return False
    return found.hexdigest() == name.removesuffix(".dir")


def _is_json(path: Path) -> bool:
    import json

    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _is_as_long(remote: Any, cache: Any, name: str) -> bool:
    """Whether an object of the remote has the length of the cache's."""
    try:
        return bool(remote.fs.size(remote.oid_to_path(name)) == cache.fs.size(cache.oid_to_path(name)))
    except FileNotFoundError:
        return False


def _status_of(dep: Any) -> Callable[[], dict[str, str]]:
    """DVC's status of a dependency, but for a folder that holds nothing except .gitignore files: it is missing.

    DVC writes such files beside outputs. When Git brings them to a fresh checkout, DVC calls the folder modified.
    """

    def status() -> dict[str, str]:
        missing = dep.hash_info and _has_only_rules(Path(dep.fs_path))
        return {str(dep): "deleted"} if missing else dict(type(dep).status(dep))

    return status


def _has_only_rules(folder: Path) -> bool:
    """Whether a folder is there and has no files other than .gitignore, at any depth."""
    return folder.is_dir() and all(set(names) <= {".gitignore"} for _, _, names in os.walk(folder))


def _flat(states: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """DVC's state of a file, or of each parameter of a parameters file."""
    for name, state in states.items():
        if isinstance(state, dict):
            yield from _flat(state)
        else:
            yield name, str(state)


def _state(text: str) -> str:
    if SKIPPED.match(text):
        return "Skipped"
    return "Cached" if CACHED.match(text) else "Completed" if RUNNING.match(text) else ""
