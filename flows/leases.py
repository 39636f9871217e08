"""GPUs lent to one stage at a time: a file for each device, which a process holds and the kernel lets go of."""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

POLL = 0.5  # seconds between two looks at who has let go


@contextmanager
def lease(
    count: int, devices: Sequence[str], watch: Callable[[str], None], folder: Path | None = None
) -> Iterator[str]:
    """Hold `count` of `devices` while the block runs; yields them as CUDA_VISIBLE_DEVICES has them ("0,2").

    Waits while there are not enough, and calls `watch` with what it waits for; what that raises ends the wait. All
    users of a machine share one folder: TRAINWRIGHT_DEVICES where it is set, as for services and containers, each of
    which has a temporary folder of its own.
    """
    shared = os.environ.get("TRAINWRIGHT_DEVICES") or Path(tempfile.gettempdir()) / "trainwright-devices"
    folder = folder or Path(shared)
    folder.mkdir(exist_ok=True)
    with suppress(PermissionError):  # another user's, made so by them
        folder.chmod(0o1777)
    while True:
        with ExitStack() as held:
            mine: list[str] = []
            for device in devices:
                if len(mine) < count and (file := _hold(folder / device)) is not None:
                    held.callback(os.close, file)
                    mine.append(device)
            if len(mine) == count:
                yield ",".join(mine)
                return
        watch(f"{count} of the devices {', '.join(devices)} of this machine, which other stages hold")
        time.sleep(POLL)


def _hold(path: Path) -> int | None:
    """An open file that only we have locked; None where another process has."""
    try:
        file = os.open(
            path, os.O_RDONLY
        )  # in a folder that all may write, even root may not open another's to create it
    except FileNotFoundError:
        file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file
