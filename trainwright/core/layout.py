"""The only place that knows a path.

Everything lies under the project's root (the folder of params.yaml):

    data/<pipeline>/source.json, base_model.json     the pins, in Git
    data/<pipeline>/<stage>/                         what a stage wrote, tracked by DVC
    data/<pipeline>/gates/<stage>/certificate.json   what opens the stage after it, tracked by DVC
    data/<pipeline>/gates/<stage>/result.json        what the gate promised and saw, tracked by DVC
    .trainwright/                                    this machine's own: timings, refusals, checkpoints
"""

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainwright.core.errors import RefusedError

STAGES = (
    "ingestion",
    "cleaning",
    "augmentation",
    "splitting",
    "tokenization",
    "training",
    "evaluation",
    "postprocessing",
    "report",
)


@dataclass(frozen=True)
class Layout:
    """Paths of one pipeline in the project at `root`."""

    root: Path
    pipeline: str

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def data(self) -> Path:
        return self.root / "data" / self.pipeline

    @property
    def source_pin(self) -> Path:
        return self.data / "source.json"

    @property
    def base_model_pin(self) -> Path:
        return self.data / "base_model.json"

    def stage(self, name: str) -> Path:
        """The folder that stage `name` writes."""
        return self.data / name

    def certificate(self, gate: str) -> Path:
        return self.data / "gates" / gate / "certificate.json"

    def gate_result(self, gate: str) -> Path:
        return self.data / "gates" / gate / "result.json"

    @property
    def private(self) -> Path:
        """What belongs to this machine and no version: never tracked, never published."""
        return self.root / ".trainwright"

    def refusal(self, gate: str) -> Path:
        """The folder of a failed gate's full report (report.json, report.html), out of DVC's reach."""
        return self.private / "refusals" / self.pipeline / gate

    def quarantine(self, stage: str) -> Path:
        """The row errors of a stage that stopped (one that goes on keeps them among its outputs)."""
        return self.private / "quarantine" / self.pipeline / f"{stage}.jsonl"

    def timing(self, stage: str) -> Path:
        return self.private / "timings" / self.pipeline / f"{stage}.json"

    def failure(self, stage: str) -> Path:
        """Why the last run of a stage failed, and with what exit code: DVC hands neither on."""
        return self.private / "failures" / self.pipeline / f"{stage}.json"

    @property
    def inputs(self) -> Path:
        """Where a process keeps private copies of what it reads, for as long as it lives."""
        return self.private / "inputs"

    @property
    def checkpoints(self) -> Path:
        return self.private / "checkpoints" / self.pipeline


def find_root(start: Path | None = None) -> Path:
    """The nearest folder at or above `start` (default: here) that holds params.yaml and dvc.yaml.

    Raises FileNotFoundError when there is none.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
            return folder
    raise FileNotFoundError(f"{start} is not inside a Trainwright project: no params.yaml with a dvc.yaml beside it")


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """A new folder that becomes `target` only if the block ends well: written aside, flushed, renamed.

    A folder left aside by a killed process carries a leading dot and is removed by the next writer.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}.partial-*"):
        shutil.rmtree(left)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        yield aside
        for path in sorted(aside.rglob("*")):
            flush(path)
        flush(aside)
        aside.chmod(0o755)  # mkdtemp made it private; a worker's user may be another
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
        flush(target.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def write_file(path: Path, text: str) -> None:
    """Write a text file in one step: aside, flushed, renamed over the old one.

    Raises OSError, which names `path`, where it cannot; then nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as aside:
            aside.write(text)
            aside.flush()
            os.fsync(descriptor)
        Path(name).chmod(0o644)
        Path(name).rename(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        raise


def flush(path: Path) -> None:
    """Have the file system put a file or folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, or of a folder: of its sorted `<file's SHA-256>  <relative path>` lines."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise FileNotFoundError(path)
    lines = [f"{digest(p)}  {p.relative_to(path).as_posix()}\n" for p in plain_files(path)]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def plain_files(folder: Path) -> list[Path]:
    """Return the files in a stage's folder, sorted, without the .gitignore files that DVC writes beside its outputs.

    Raises RefusedError for a link, a named pipe, a device or a folder that cannot be read, wherever it lies, and where
    `folder` itself is a link: what a link names can change unseen.
    """
    found, folders = [], [folder]
    while folders:
        place = folders.pop()
        try:
            if place.is_symlink():
                raise RefusedError(f"{place} is a link. {_PLAIN}")
            for path in place.iterdir():
                mode = path.lstat().st_mode
                if stat.S_ISDIR(mode):
                    folders.append(path)
                elif stat.S_ISREG(mode):
                    found += [path] if path.name != ".gitignore" else []
                else:
                    kind = "a link" if stat.S_ISLNK(mode) else "no plain file"
                    raise RefusedError(f"{path} is {kind}. {_PLAIN}")
        except OSError as error:
            raise RefusedError(f"{place} cannot be read ({error.strerror}). Mend its rights, or remove it.") from None
    return sorted(found)


_PLAIN = (
    "The outputs of stages must be plain files, whose bytes a gate can vouch for. Remove it and run the stage again. "
    "If DVC made it (cache.type symlink), run `dvc config cache.type reflink,copy` and `dvc checkout --relink`."
)
