"""A dvc command in a process of its own, and what it says.

`python -m flows.dvc_process PARENT ARGUMENTS…` is the `dvc` command that dies, with everything it has started, when the
process PARENT does.
"""

import math
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from trainwright.core import process
from trainwright.core.errors import MachineryError

POLL = 0.2  # seconds between two looks at a silent process
GRACE = 12.0  # seconds between asking a stage to end and killing it: a training keeps a checkpoint in ten
COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
CONTROL = {code: None for code in (*range(32), 127, *range(128, 160)) if code != ord("\t")}
BAR = re.compile(r"\d%\|")  # as tqdm draws it, at its end with a line end
LOCK = re.compile(r"(Generating|Updating) lock file '[^']*'$")  # also after output that ends without a newline


@dataclass(frozen=True)
class Line:
    """A line of a stage's output; a transient one (it ended in a carriage return, or is a progress bar that has come to
    its end) is to be overwritten."""

    text: str
    transient: bool = False


def environment(root: Path) -> dict[str, str]:
    """What dvc runs in: this Python first, so that `python` in dvc.yaml is ours, and a site cache of our own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    site = os.environ.get("DVC_SITE_CACHE_DIR", str(root / ".trainwright" / "dvc"))
    terminal = {process.TERMINAL: "1"} if sys.stdout.isatty() else {}
    code = {process.CODE: str(root)} if (root / "stages").is_dir() else {}
    return {**os.environ, **terminal, **code, "PATH": path, "DVC_SITE_CACHE_DIR": site, "DVC_NO_ANALYTICS": "true"}


@contextmanager
def start(root: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A dvc command on the project at `root`, in a group of its own; when the block ends, the group is no more.

    Where the block ends before the process does, that is asked to end first, and has GRACE for it however often we are
    told to end meanwhile.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.dvc_process", str(os.getpid()), "--wait-for-lock", *arguments],
        cwd=root,
        env=environment(root),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield child
    except BaseException:
        with _deaf():
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.communicate(timeout=GRACE + 3)  # which reads its pipe: who writes to a full one cannot end
        raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdout:
            child.stdout.close()


@contextmanager
def _deaf() -> Iterator[None]:
    """Have no SIGTERM raise anything while the block runs.

    A worker that was killed tells its runs to end two to four times within milliseconds: the kernel hands them from one
    of its ending threads to another, with a signal each time (forget_original_parent in Linux' kernel/exit.c).
    """
    if threading.current_thread() is not threading.main_thread():  # where no signal raises anything
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def lines(
    child: subprocess.Popen[bytes], deadline: float = math.inf, watch: Callable[[], None] = lambda: None
) -> Iterator[Line]:
    """The child's output by lines until it has ended. Raises TimeoutError at `deadline` (monotonic seconds)."""
    if child.stdout is None:
        raise MachineryError("dvc was started without a pipe")
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if time.monotonic() > deadline:
                raise TimeoutError
            watch()
            if selector.select(POLL):
                data = os.read(child.stdout.fileno(), 1 << 16)
                if not data:
                    break
                *whole, rest = re.split(rb"(?<=\n)|(?<=\r)(?!\n)", rest + data)
                yield from map(_line, whole)
            elif child.poll() is not None:  # what it has left running may hold the pipe open
                break
    if rest:
        yield _line(rest)
    try:
        child.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None


def _line(data: bytes) -> Line:
    text = COLOUR.sub("", data.decode(errors="replace")).translate(CONTROL)
    text = LOCK.sub("", text.rstrip())
    return Line(text, transient=data.endswith(b"\r") or BAR.search(text) is not None)


def main() -> int:
    """The dvc command in a process group that ends as a whole when process `argv[1]`, its parent, ends.

    SIGTERM, which the kernel sends then, goes on to the whole group, and what has not ended after GRACE is killed:
    dvc alone would leave the stage writing, and the next run would take a half-written output for a whole one.
    """
    signal.signal(signal.SIGTERM, _end_group)
    process.die_with_parent(signal.SIGTERM, int(sys.argv[1]))
    from dvc.cli import main as dvc

    return int(dvc(sys.argv[2:]))


def _end_group(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    with suppress(ChildProcessError):  # there is no stage, or none any more
        while not os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) and time.monotonic() < deadline:
            time.sleep(0.02)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
