"""The flow that a worker runs: one stage of one pipeline at one commit, in a workspace of its own.

It is given names and hashes, nothing that is executed: code is the commit's, fetched from the Git remote of the
worker's own clone. What came of it goes back as an artifact of the flow run.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal
from uuid import UUID

from httpx import HTTPError, HTTPStatusError
from prefect import flow
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.runtime import flow_run
from pydantic import Field

from flows import dvc, evidence, git, leases, pool, worker
from flows.dvc_process import Line
from flows.workspace import bring_sources, workspace
from trainwright.core import params
from trainwright.core.errors import Fault, InputError, MachineryError, TrainwrightError
from trainwright.core.layout import Layout

BEAT = 1.0  # seconds between two signs of life, each way
# Seconds without one after which whoever asked is dead. That few, since an orphan holds a device that others wait for,
# while an error of ours costs little: a training keeps a checkpoint, and who asked for it sends it again.
ORPHANED = 7.0
SLOW = 0.3  # seconds of a server's answer, over which a sign of life that is late may be the server's doing
BLOCKED = 5.0  # seconds, likewise, over which nothing that is late says anything of its sender
DELETED = 3  # times that the server knows no such run, after which it was deleted
LOST = 60.0  # seconds without one after which it is dead, also where the server answers slowly
GAVE_UP = "who asked for it has given no sign of life"
ASKED, WORKS = "trainwright.asked", "trainwright.works"  # the labels of a flow run in which signs of life are counted
DELIVERED = "trainwright.delivered"  # the label that says that all which the stage reads is on the DVC remote
ARTIFACT = "trainwright-stage"
LOGGER = "prefect.flow_runs.stage"  # under which the stage's own lines stand in the run's log

Name = Annotated[str, Field(pattern=params.NAME.pattern, max_length=100)]
StageName = Annotated[str, Field(pattern=r"^[a-z]+(_[a-z]+)*$", max_length=100)]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Ref = Annotated[str, Field(pattern=r"^refs/trainwright/runs/[0-9a-f]{32}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, Field(pattern=r"^[0-9][0-9A-Za-z.]*$", max_length=40)]
Package = Literal[worker.PACKAGES]  # type: ignore[valid-type]


@dataclass(frozen=True)
class Result:
    """How a stage ended on a worker: as DVC's states have it (Completed, Cached, Skipped), or Failed, TimedOut,
    Stopped with an exit code and the stage's own words. `entry` is what the worker's dvc.lock says of it.
    """

    state: str
    exit_code: int = 0
    words: str = ""
    entry: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)
    worker: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    devices: str = ""


class Pulse:
    """How long something has stood still that moves as long as its owner lives: told without comparing the clocks of
    two machines."""

    def __init__(self) -> None:
        self._value: object = None
        self._moved = time.monotonic()

    def still(self, value: object) -> float:
        """Seconds since `value` was last another."""
        if value != self._value:
            self._value = value
            self.restart()
        return time.monotonic() - self._moved

    def restart(self) -> None:
        self._moved = time.monotonic()


class Stopped(BaseException):
    """The run is not wanted any more; says why. Nothing on its way takes it for an error of its own."""


class _Watch:
    """A thread that gives signs of life on the flow run, and looks whether somebody still waits for it."""

    def __init__(self, run: UUID) -> None:
        self._run, self._end, self._delivered = run, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.why = ""
        self.cancelled = False

    def __enter__(self) -> "_Watch":
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    def check(self, *_: object) -> None:
        """Raises Stopped once the run is not wanted any more."""
        if self.why:
            raise Stopped(self.why)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Have Stopped raised in the middle of the block, which is in the main thread and has no way to ask."""
        before = signal.signal(signal.SIGUSR1, self.check)
        try:
            self.check()
            yield
        finally:
            signal.signal(signal.SIGUSR1, before)

    def wait_for_inputs(self) -> None:
        """Wait until all that the stage reads is on the DVC remote. Raises Stopped."""
        while not self._delivered.wait(BEAT / 4):
            self.check()

    def _look(self) -> None:
        asked, heard, count, gone = Pulse(), Pulse(), 0, 0
        with pool.client() as api:
            while not self._end.is_set() and not self.why:
                began = time.monotonic()
                try:
                    api.update_flow_run_labels(self._run, {WORKS: (count := count + 1)})
                    seen = api.read_flow_run(self._run)
                except (HTTPError, ObjectNotFound) as error:  # a server that is away says nothing of who waits
                    gone = gone + 1 if _is_missing(error) else 0
                    if gone >= DELETED:
                        self.cancelled, self.why = True, "the run was deleted on the server"
                    asked.restart()
                    heard.restart()
                else:
                    gone = 0
                    took = time.monotonic() - began
                    if took > SLOW:
                        asked.restart()
                    if took > BLOCKED:
                        heard.restart()
                    labels = seen.labels or {}
                    if labels.get(DELIVERED):
                        self._delivered.set()
                    sign = labels.get(ASKED)
                    quick, long = asked.still(sign), heard.still(sign)
                    if seen.state and (seen.state.is_cancelling() or seen.state.is_final()):
                        self.cancelled, self.why = True, f"the run was ended: {seen.state.name}"
                    elif quick > ORPHANED or long > LOST:
                        self.why = f"{GAVE_UP} for {long:.0f} s"
                self._end.wait(BEAT)
        if self.why:
            os.kill(os.getpid(), signal.SIGUSR1)


def _is_missing(error: Exception) -> bool:
    return isinstance(error, ObjectNotFound) or (
        isinstance(error, HTTPStatusError) and error.response.status_code == HTTPStatus.NOT_FOUND
    )


@flow(name="stage", flow_run_name="{stage}@{pipeline}", validate_parameters=True, persist_result=False)
def stage(
    pipeline: Name,
    stage: StageName,
    commit: Commit,
    ref: Ref,
    lock: str,
    digest: Digest,
    versions: dict[Package, Version],
    devices: Annotated[int, Field(ge=0, le=64)],
    seconds: Annotated[float, Field(gt=0)],
    force: bool = False,
) -> State[Any]:
    """Run one stage as a worker. `ref` of the Git remote has `commit`; `lock` is dvc.lock as far as the stage needs it,
    `digest` its SHA-256; `versions` are the packages that whoever asks has; it may take `seconds`. With `force`
    it is run even where its outputs are known.
    """
    worker.end_with_worker()
    run, home = UUID(str(flow_run.id)), Path(os.environ.get("TRAINWRIGHT_ROOT", Path.cwd()))
    name = os.environ.get("PREFECT__WORKER_NAME", "")
    with _Watch(run) as watch:
        try:
            _same(lock, digest, versions)
            result = _work(home, Layout(home, pipeline), stage, commit, ref, lock, devices, seconds, force, watch)
        except TrainwrightError as error:
            result = Result("Failed", error.exit_code, f"{error} (on worker {name})")
        except Stopped as error:
            kind = StateType.CANCELLED if watch.cancelled else StateType.CRASHED
            return State(type=kind, message=str(error))
    for handler in get_logger("prefect.flow_runs").handlers:
        handler.flush()  # whoever asked reads no line that comes after the end
    told = asdict(result) | {"worker": name, "versions": worker.versions()}
    with pool.client() as api:
        api.create_artifact(ArtifactCreate(type=ARTIFACT, data=told, flow_run_id=run))
    kind = StateType.FAILED if result.exit_code else StateType.COMPLETED
    return State(type=kind, name=result.state, message=result.words or None)


def _same(lock: str, digest: str, versions: dict[str, str]) -> None:
    if sha256(lock.encode()).hexdigest() != digest:
        raise InputError(Fault("dvc.lock", "it did not arrive as it was sent", "Run the pipeline again."))
    here = worker.versions()
    wrong = [f"{name} {here.get(name)}, not {want}" for name, want in versions.items() if here.get(name) != want]
    if wrong:
        remedy = "Install what constraints.txt pins, on both machines."
        raise InputError(Fault("constraints.txt", f"this worker has {', '.join(wrong)}", remedy))


def _work(
    home: Path,
    theirs: Layout,
    stage: str,
    commit: str,
    ref: str,
    lock: str,
    devices: int,
    seconds: float,
    force: bool,
    watch: _Watch,
) -> Result:
    """Run the stage in a workspace and push what it made."""
    pipeline, logger = theirs.pipeline, get_logger(LOGGER)
    git.fetch(home, ref)
    if git.commit(home, commit) is None:
        remedy = "Push it, and give both clones one Git remote."
        raise InputError(Fault(str(home), f"commit {commit} is not on the Git remote of this worker", remedy))

    watch.wait_for_inputs()

    def wait(words: str) -> None:
        watch.check()
        logger.info("waiting for %s", words)

    with workspace(home, pipeline, commit) as space, leases.lease(devices, worker.look().devices, wait) as lent:
        os.environ[worker.DEVICES] = lent
        (space.root / "dvc.lock").write_text(lock, encoding="utf-8")
        layout, project = Layout(space.root, pipeline), dvc.Project(space.root, watch.check)
        known = params.load(layout.params).pipelines
        if pipeline in known:
            bring_sources(space, known[pipeline])
        full = f"{stage}@{pipeline}"
        with watch.interrupting():
            project.pull(list(project.inputs(full)))

        def say(line: Line) -> None:
            if not line.transient:
                logger.info("%s", line.text)

        try:
            state = project.reproduce(full, say, seconds, force=force)
        except TimeoutError:
            return Result("TimedOut", MachineryError.exit_code, f"stopped after {seconds:.0f} s")
        except dvc.StageError as error:
            code, words = evidence.failure(layout, stage) or (MachineryError.exit_code, str(error))
            return Result("Failed", code, words)
        with watch.interrupting():
            project.push([full])
        return Result(state, 0, "", project.entries([full])[full], evidence.timing(layout, stage), devices=lent)
