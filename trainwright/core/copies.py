"""Private copies of what a process reads, so that nobody can change it between its check and its use.

A hard link would not do: whoever writes into the file in place writes into the link as well. Where the file system can
clone (XFS, Btrfs), a copy takes no room and no time; elsewhere it costs a few times its digest, and its room.
"""

import atexit
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from trainwright.core import layout
from trainwright.core.errors import RefusedError

_process = ExitStack()
atexit.register(_process.close)


@contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent` that is removed when the block ends.

    Its owner holds a file lock on it. A folder that a killed process left is removed by the next one to come here.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / ".lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        for left in parent.iterdir():
            if left.is_dir() and not left.is_symlink():
                _remove_unowned(left)
        folder = Path(tempfile.mkdtemp(dir=parent))
        owner = os.open(folder, os.O_RDONLY)
        fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(owner)


def process_folder(parent: Path) -> Path:
    """Return a private folder in `parent` that lasts as long as this process."""
    return _process.enter_context(private_folder(parent))


def temporary_folder() -> Path:
    """Return a new folder in the system's place for temporary files that lasts as long as this process."""
    return Path(_process.enter_context(tempfile.TemporaryDirectory(prefix="trainwright-")))


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a plain file, or of the one that a link names, into a new file.

    Raises RefusedError for anything but a file (a named pipe is not waited for), OSError where it cannot be read.
    """
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as read, target.open("xb") as write:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RefusedError(f"{source} is not a plain file. Put a copy of the file in its place.")
        try:
            while os.copy_file_range(descriptor, write.fileno(), 1 << 30):
                pass
        except (AttributeError, OSError):  # not on this system, or not between these file systems
            read.seek(0)
            write.seek(0)
            shutil.copyfileobj(read, write, 1 << 20)


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a stage's folder into a new folder. Raises RefusedError as `layout.plain_files` does."""
    target.mkdir(parents=True)
    for path in layout.plain_files(source):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy_file(path, copy)


def _remove_unowned(folder: Path) -> None:
    owner = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:  # its process lives
        pass
    finally:
        os.close(owner)
