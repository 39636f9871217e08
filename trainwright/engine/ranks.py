"""Training as several processes, one a device: how many there are, how they are started, and what they agree on.

torch's elastic launcher (that of `torchrun`) starts them, on this machine alone, and ends all when one fails. Each is
told its rank by the environment; the first, rank 0, is the one that writes and prints.
"""

import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import distributed

from trainwright.core import process
from trainwright.core.errors import ChildError, Fault, InputError, MachineryError
from trainwright.core.layout import write_file
from trainwright.core.process import Terminated

PROCESSES = "TRAINWRIGHT_PROCESSES"  # how many train where there is no CUDA device
ENDING = 10  # seconds for all to end by themselves, a checkpoint included; flows/dvc.py kills after 12
RESULT = "result.json"
LIVE = "live"
OUT_OF_MEMORY = 12  # ENOMEM as an exit code: the stage's process starts them again with smaller batches
SETTINGS = {
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # no store that listens on a port: a file will do on one machine
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # DDP warns in each process that it looks for parameters that are not used
    **({"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),
}


def count() -> int:
    """How many processes this machine trains with: one a CUDA device that is visible, else as PROCESSES says, or one.

    Raises InputError where PROCESSES is no such number.
    """
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    said = os.environ.get(PROCESSES, "1")
    if not said.isascii() or not said.isdigit() or int(said) < 1:
        raise InputError(Fault("the environment", f"{said!r} is no number of processes", "Unset it.", field=PROCESSES))
    return int(said)


def join() -> int:
    """Meet the other processes of this one's training; how many there are.

    Through a file, where torch would open a port to all interfaces, and then through the loopback interface.
    """
    world, device = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(device)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    store = distributed.FileStore(str(folder() / "meeting"), world)  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=store, rank=number(), world_size=world)
    return world


def number() -> int:
    """This process's rank; 0 where it trains alone."""
    return process.rank() or 0


def added(values: Sequence[float], device: torch.device) -> list[float]:
    """The sum over all processes of each value: the same numbers in each."""
    if not distributed.is_initialized():
        return list(values)
    totals = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(totals)
    return [float(value) for value in totals]


def of_the_first(value: Any) -> Any:
    """What rank 0 calls this with, in every process."""
    values = [value]
    if distributed.is_initialized():
        distributed.broadcast_object_list(values)
    return values[0]


def leave(result: Mapping[str, Any]) -> None:
    """Rank 0's answer to who launched it."""
    write_file(folder() / RESULT, json.dumps(result))


def live() -> Path:
    """Where rank 0 leaves its curves."""
    return folder() / LIVE


def folder() -> Path:
    """What the processes of a training share with the one that launched them."""
    return Path(os.environ[process.RANKS])


def launch(command: Sequence[str], processes: int, shared: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a Python command (`-m`, module, arguments) in that many processes; what rank 0 left at its end.

    `shared` is their folder and is emptied first. SIGTERM and SIGINT go on to all, which have ENDING seconds then.
    Raises Terminated, KeyboardInterrupt, torch.OutOfMemoryError as they did, and ChildError with the words and exit
    code of the first that failed.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir(parents=True)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=str(shared / "rendezvous"),
        rdzv_configs={"store_type": "file"},
        local_addr="localhost",
        max_restarts=0,
        signals_to_handle="SIGTERM,SIGINT",
        shutdown_timeout=ENDING,
        logs_specs=DefaultLogsSpecs(log_dir=str(shared / "launcher")),
    )
    threads = str(max(1, torch.get_num_threads() // processes))
    ours = {process.RANKS: str(shared), "OMP_NUM_THREADS": threads, **SETTINGS, **environment}
    failed: Mapping[int, Any] = {}
    told: signal.Signals | None = None
    with _quiet_launcher(), _environment(ours):
        try:
            elastic_launch(config, sys.executable)(*command)
        except SignalException as end:
            told = signal.Signals(end.sigval)
        except ChildFailedError as error:
            failed = error.failures
    if (shared / RESULT).is_file() and not failed:
        return dict(json.loads((shared / RESULT).read_text(encoding="utf-8")))
    if told is signal.SIGINT:
        raise KeyboardInterrupt
    raise _end_of(shared, {rank: failure.exitcode for rank, failure in failed.items()})


def _end_of(shared: Path, exits: Mapping[int, int]) -> Exception:
    """What ended the first process that failed; one that a signal killed says nothing, and its peers only that it left.

    `exits` are the exit codes of those that failed; none where all were told to end.
    """
    left = sorted(shared.glob("[0-9]*.json"), key=lambda path: path.stat().st_mtime_ns)
    said = [json.loads(path.read_text(encoding="utf-8")) for path in left]
    explained = [end for end in said if not end["message"].startswith("Traceback")]
    killed = {rank: signal.Signals(-code).name for rank, code in exits.items() if code < 0}
    if killed and not explained:
        rank, name = min(killed.items(), key=lambda item: item[1] == "SIGTERM")  # which is how the others are ended
        return MachineryError(f"The training process of rank {rank} was ended by {name}. Run the stage again.")
    if not said:
        return Terminated("told to end before a step was done; the next run starts where this one did")
    words, code = (explained or said)[0]["message"], (explained or said)[0]["exit_code"]
    ends = {process.TERMINATED: Terminated, OUT_OF_MEMORY: torch.OutOfMemoryError}
    return ends[code](words) if code in ends else ChildError(words, code)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables for the processes started in the block: the launcher hands on those of this one."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    """The launcher takes signals for itself and warns in a log of its own; neither outlives the block."""
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    log = logging.getLogger("torch.distributed.elastic")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
