"""`trainwright worker LABEL…`: serve labels on this machine, with Prefect's process worker as a child.

`python -m flows.worker PARENT ARGUMENTS…` is that child, which ends when its parent does.
"""

import ctypes
import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows import server
from trainwright.core import process
from trainwright.core.errors import Fault, InputError, MachineryError, TrainwrightError
from trainwright.operations import LABEL, RETRAIN, Label, Running

PARENT = "TRAINWRIGHT_WORKER_PROCESS"  # the process whose end ends the runs that it started
DEVICES = "CUDA_VISIBLE_DEVICES"
PACKAGES = ("torch", "transformers", "datasets", "tokenizers", "pyarrow", "numpy")  # results depend on these
PR_SET_CHILD_SUBREAPER = 36
LOOK = 30.0  # seconds between two looks at what the server says of a run, or of the time
ENDED = ("CRASHED", "CANCELLED")  # by somebody else than the run itself, as a rule
LAST_RUNS = 20.0  # seconds that the runs of a worker that was told to end have to keep what they can


@dataclass(frozen=True)
class Machine:
    """What needs are held against: memory in GB (10^9 bytes), of the machine and of each GPU; `devices` are the names
    of the GPUs that we may use, `cuda` the version that their driver has."""

    cpus: int
    memory_gb: float
    devices: tuple[str, ...] = ()
    gpu_memory_gb: tuple[float, ...] = ()
    cuda: str = ""

    def unmet(self, label: str, needs: Label) -> list[str]:
        """The needs of a label that this machine does not meet, in words."""
        least = min(self.gpu_memory_gb, default=0.0)
        held = [
            ("gpu_memory_gb", needs.gpu_memory_gb, least, least >= (needs.gpu_memory_gb or 0)),
            ("cuda", needs.cuda, self.cuda or "none", _version(self.cuda) >= _version(needs.cuda or "")),
            ("memory_gb", needs.memory_gb, self.memory_gb, self.memory_gb >= (needs.memory_gb or 0)),
            ("cpus", needs.cpus, self.cpus, self.cpus >= (needs.cpus or 0)),
            ("devices", needs.gpus or None, len(self.devices), len(self.devices) >= needs.gpus),
        ]
        return [
            f"{label} needs {name}: {want}, this machine has {has}" for name, want, has, met in held if want and not met
        ]


def serve(root: Path, labels: Sequence[str], running: Running) -> int:
    """Serve `labels` until told to end (SIGTERM, SIGINT). Returns the exit code.

    Raises InputError where no server is named, a label is none, this machine does not meet its needs or has another
    time than the server; MachineryError where the server does not answer, a clock is set meanwhile or Prefect's worker
    ends by itself.
    """
    if RETRAIN in labels and len(labels) > 1:
        reason = f"{RETRAIN} holds its places while it waits for stages of other labels"
        raise InputError(Fault("LABEL", reason, f"Start two workers: one for {RETRAIN}, one for the others."))
    server.required(root, server.STARTING)
    for label in labels:
        if not LABEL.match(label):
            raise InputError(Fault("LABEL", f"{label!r} is no label", "Lower-case words joined by hyphens."))
    from flows import deploy, pool

    pool.settle_worker()
    machine, needs = look(), {label: running.labels.get(label, Label()) for label in labels}
    unmet = [words for label in labels for words in machine.unmet(label, needs[label])]
    faults = [Fault("params.yaml", words, "Serve another label here.", field="labels") for words in unmet]
    if wrong := server.clock():
        faults.append(wrong)
    # One that is started again and again, and refused each time, leaves one record.
    name = f"{platform.node()}-{'-'.join(labels) if faults else os.getpid()}"
    since = datetime.now(UTC).isoformat(timespec="seconds")
    refused = "; ".join(fault.reason for fault in faults)
    stated = {label: pool.stated(need) for label, need in needs.items()}
    me = pool.Worker(name, list(labels), platform.node(), since, asdict(machine), stated, refused)
    try:
        with pool.client() as api:
            pool.workers(api)  # which forgets the long dead
            if not faults:
                list(deploy.ensure(api, labels))
            pool.announce(api, me)
    except TrainwrightError:
        raise
    except Exception as error:
        raise MachineryError(f"the server at {os.environ['PREFECT_API_URL']} does not answer: {error}") from error
    if faults:
        raise InputError(*faults)
    for label in sorted(set(labels) - running.served() - {RETRAIN}):
        print(f"params.yaml sends no stage to {label}", flush=True)
    if os.geteuid() == 0:
        print("warning: this worker runs as root; give it an ordinary user outside of a container", file=sys.stderr)
    print(f"worker {name} serves {', '.join(labels)}", flush=True)
    try:
        return _supervise(root, name, labels, _limit(machine, needs))
    finally:
        with suppress(Exception), pool.client() as api:  # the server may be gone by now
            pool.retire(api, name)


def end_with_worker() -> None:
    """Have this run told to end (SIGTERM) when the worker that started it ends, however it does, and killed where it
    goes on all the same; a run that no worker of ours has started goes its own way."""
    if parent := os.environ.get(PARENT):
        process.die_with_parent(signal.SIGTERM, int(parent))
        threading.Thread(target=_end_after, args=(int(parent),), daemon=True).start()


def _end_after(parent: int) -> None:
    """Kill this process LAST_RUNS after its parent's end, or after the server has ended its run: it would keep the turn
    of its pipeline. A SIGTERM that meets Prefect's HTTP client just when it takes its lock leaves the lock taken: what
    the client should then tell the server waits for it for ever. So nothing of Prefect's is used here, nor a logger."""
    run, looked = os.environ.get("PREFECT__FLOW_RUN_ID", ""), time.monotonic()
    while os.getppid() == parent:
        time.sleep(1)
        if time.monotonic() - looked > LOOK:
            looked = time.monotonic()
            if server.run_state(run) in ENDED:
                break
    time.sleep(LAST_RUNS)
    os.kill(os.getpid(), signal.SIGKILL)


def look() -> Machine:
    """What this machine has. GPUs are those that the driver lists, and CUDA_VISIBLE_DEVICES where it is set."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(cpus, round(memory, 1), *_gpus())


def _gpus() -> tuple[tuple[str, ...], tuple[float, ...], str]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return (), (), ""
    try:
        count, version = pynvml.nvmlDeviceGetCount(), pynvml.nvmlSystemGetCudaDriverVersion_v2()
        wanted = os.environ.get(DEVICES, ",".join(map(str, range(count))))
        mine = [int(name) for name in wanted.split(",") if name.strip().isdigit() and int(name) < count]
        sizes = [pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(device)).total for device in mine]
    finally:
        pynvml.nvmlShutdown()
    major, minor = version // 1000, version % 1000 // 10
    return tuple(map(str, mine)), tuple(round(size / 1e9, 1) for size in sizes), f"{major}.{minor}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part)


def versions() -> dict[str, str]:
    """The packages that results depend on, as they are installed here; a build's local part is not told."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in PACKAGES}


def _limit(machine: Machine, needs: Mapping[str, Label]) -> int:
    """How many stages at once: one, or as many as there are devices for. Of retrains, which mostly wait for their
    stages, as many as there are processors, and two at least: a long one must not hold up another pipeline's tick."""
    if RETRAIN in needs:
        return max(2, machine.cpus)
    each = max(label.gpus for label in needs.values())
    return max(1, len(machine.devices) // each) if each else 1


def _supervise(root: Path, name: str, labels: Sequence[str], limit: int) -> int:
    """Run Prefect's worker as a child, and end with nothing of it left running."""
    if platform.system() == "Linux":  # the runs of a worker that was killed become our children, and ours to wait for
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)
    queues = [part for label in labels for part in ("--work-queue", label)]
    command = ["worker", "start", "--pool", "trainwright", "--type", "process", "--name", name, "--limit", str(limit)]
    code = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.worker", str(os.getpid()), *command, *queues],
        cwd=root,
        env={**os.environ, "PYTHONPATH": code, "TRAINWRIGHT_ROOT": str(root)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    told, wrong = False, list[Fault]()

    def end(*_: object) -> None:
        nonlocal told
        told = True
        with suppress(ProcessLookupError):  # told twice
            # The kernel tells its runs to end; idle, it would not hear a first SIGTERM.
            os.kill(child.pid, signal.SIGKILL)

    def watch() -> None:
        while not wrong:
            time.sleep(LOOK)
            wrong.extend(filter(None, [server.clock()]))
        end()

    threading.Thread(target=watch, daemon=True).start()
    for by in (signal.SIGTERM, signal.SIGINT):
        signal.signal(by, end)
    ended = 0
    while ended != child.pid:  # or an orphan of one of its runs
        ended, status = os.waitpid(-1, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    _reap(time.monotonic() + LAST_RUNS)
    if wrong:
        raise MachineryError(str(wrong[0]))
    if not told:
        raise MachineryError(f"Prefect's worker ended by itself, with exit code {child.returncode}")
    return 0


def _reap(deadline: float) -> None:
    """Wait for what the worker has left running, then kill it."""
    with suppress(ChildProcessError):
        while True:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    for child in _children():
                        os.kill(child, signal.SIGKILL)
                time.sleep(0.05)


def _children() -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process().children()]


def main() -> None:
    """Prefect's worker, as a process that ends with its parent, and is known to the runs that it starts."""
    process.die_with_parent(signal.SIGKILL, int(sys.argv[1]))
    os.environ[PARENT] = str(os.getpid())
    from prefect.cli import app

    sys.argv = ["prefect", *sys.argv[2:]]
    app()


if __name__ == "__main__":
    main()
