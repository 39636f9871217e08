"""Where a stage runs: send it to a worker that serves its label, and bring back what came of it.

What travels is a commit and hashes: the commit by a ref of the Git remote for as long as the stage runs, data by the
DVC remote. Import this only once Prefect's API is ready (flows/server.py).
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

from httpx import TransportError
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import filters, sorting
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import TypeAdapter

from flows import dvc, dvc_lock, pool, worker
from flows.dvc_process import Line
from flows.remote_stage import ARTIFACT, ASKED, BEAT, BLOCKED, DELIVERED, GAVE_UP, LOGGER, WORKS, Pulse, Result
from flows.sent_commit import sent_commit
from trainwright.core.errors import Fault, InputError, MachineryError
from trainwright.core.layout import Layout, write_file
from trainwright.operations import Label, Running

POLL = 0.5  # seconds between two looks at the run
TOLD = 15.0  # seconds after which it says again why it waits
NOBODY = 40.0  # seconds without a worker of the label, after which there is none
ABSENT = 10.0  # seconds without a look at its queue, after which a worker is away
SILENCE = 30.0  # seconds without a sign of life, while the server takes ours, after which a worker is dead
POD = 600.0  # seconds that a pod or container has for that, beside what one waits for a worker
STARTING = 120.0  # seconds that a worker has to start a run that it took
AWAY = 600.0  # seconds that the server may be away
SENT = 3  # times that a stage is sent, where workers take us for dead
ENDING = 30.0  # seconds that a cancelled run has to end
LATE = "Prefect's server takes nothing in, or answers late: is its database locked?"
Say = Callable[[Line], None]


def reproduce(
    project: dvc.Project,
    layout: Layout,
    stage: str,
    label: str,
    running: Running,
    say: Say,
    seconds: float,
    force: bool = False,
) -> str:
    """Bring `stage` (`training@sample-qa`) about on a worker that serves `label`: as `dvc.Project.reproduce`, with its
    outputs here and its entry in dvc.lock when it returns. With `force` it runs even where nothing has changed.

    Where it fails, the layout's failure file says what it said there. Raises dvc.StageError then, TimeoutError
    `seconds` after it began, InputError where there is no remote to travel by or what the stage reads was edited
    meanwhile, MachineryError where nobody serves the label, the worker dies, or what it made does not come back whole.
    The run is cancelled on any exception.
    """
    if not force and project.entries([stage]) and not project.changes(stage, missing=False):
        with suppress(MachineryError):  # it was made, here or elsewhere; only its outputs are not here
            project.restore([stage])
            project.verify(stage)
            return "Cached"
    if not project.remote():
        remedy = "Add one: `dvc remote add -d NAME URL`."
        raise InputError(Fault(".dvc/config", f"{stage} is sent to {label}, but there is no DVC remote", remedy))
    name = stage.partition("@")[0]
    with _server() as api:
        needs = running.labels.get(label, Label())
        journey = _Journey(api, label, needs, 60 * (running.of(layout.pipeline).wait_minutes or 0), say)
        deployment = journey.find_deployment()
        inputs = project.inputs(stage)
        lock = dvc_lock.of(project.entries([*dict.fromkeys(inputs.values()), stage]))
        with sent_commit(project, stage) as (commit, ref):
            parameters = {
                "pipeline": layout.pipeline,
                "stage": name,
                "commit": commit,
                "ref": ref,
                "lock": lock,
                "digest": sha256(lock.encode()).hexdigest(),
                "versions": worker.versions(),
                "devices": needs.gpus,
                "seconds": seconds,
                "force": force,
            }
            result = journey.run_until_kept(deployment, parameters, seconds, lambda: project.push(list(inputs)))
    if result.exit_code:
        write_file(layout.failure(name), json.dumps({"exit_code": result.exit_code, "message": result.words}) + "\n")
        if result.state == "TimedOut":
            raise TimeoutError
        raise dvc.StageError(result.words)
    project.merge(stage, result.entry)
    project.pull([stage])
    project.verify(stage)
    if changes := project.changes(stage):
        reason = f"what it reads was edited while {result.worker} ran it: {'; '.join(changes)}"
        raise InputError(Fault(stage, reason, "Run the pipeline again."))
    write_file(layout.timing(name), json.dumps({**result.timing, "worker": result.worker}) + "\n")
    return result.state


@contextmanager
def _server() -> Iterator[SyncPrefectClient]:
    try:
        with pool.client() as api:
            yield api
    except (TransportError, PrefectHTTPStatusError) as error:
        raise MachineryError(f"Prefect's server: {error}") from error


class _Signs:
    """What whoever asks says of itself on the flow run, and when the server last took that in."""

    def __init__(self) -> None:
        self.delivered = threading.Event()  # whether all that the stage reads is on the DVC remote
        self._taken = time.monotonic()

    def take(self) -> None:
        self._taken = time.monotonic()

    def blocked(self) -> bool:
        """Whether the server takes nothing in: its database may be locked, while it still answers what is asked."""
        return time.monotonic() - self._taken > BLOCKED


@contextmanager
def _asking(run: UUID) -> Iterator[_Signs]:
    """Give signs of life on a flow run while the block runs, from a thread that nothing else holds up.

    Each says whether the inputs are delivered, which the block tells: where two write labels at one moment, a server
    may lose what one has said.
    """
    end, signs = threading.Event(), _Signs()

    def beat() -> None:
        count = 0
        with pool.client() as api:
            while not end.wait(BEAT):
                with suppress(TransportError, PrefectHTTPStatusError, ObjectNotFound):  # the next one may get through
                    count += 1
                    api.update_flow_run_labels(run, {ASKED: count, DELIVERED: signs.delivered.is_set()})
                    signs.take()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield signs
    finally:
        end.set()
        thread.join()


class GivenUpError(MachineryError):
    """A worker took whoever asked for the stage for dead, and let go of it."""


class _Journey:
    """One stage on its way: sent, a worker waited for, watched, and its result read.

    `needs` are those of the label. `patience` is how many seconds it waits for a worker that is not there;
    NOBODY at least.
    """

    def __init__(self, api: SyncPrefectClient, label: str, needs: Label, patience: float, say: Say) -> None:
        self.api, self.label, self.needs, self.served_by = api, label, needs, needs.pool or pool.POOL
        self.patience, self.say = max(NOBODY, patience), say
        self._polls = Pulse()
        self._first_poll: datetime | None = None
        self._words, self._told = "", 0.0
        self._alone = 0.0

    def find_deployment(self) -> UUID:
        """The stage deployment's id, which `deploy` and workers make. Raises MachineryError where nobody comes to."""
        deadline = time.monotonic() + self.patience
        while True:
            with suppress(ObjectNotFound):
                return self.api.read_deployment_by_name(pool.stage(self.served_by)).id
            if self._is_served() and time.monotonic() > deadline:
                raise MachineryError(f"the server has no deployment {pool.stage(self.served_by)}: `trainwright deploy`")
            time.sleep(POLL)

    def run_until_kept(
        self, deployment: UUID, parameters: dict[str, Any], seconds: float, deliver: Callable[[], None]
    ) -> Result:
        """As `run`, and again where the worker gave up waiting for us, who are alive."""
        for _ in range(SENT - 1):
            try:
                return self.run(deployment, parameters, seconds, deliver)
            except GivenUpError as error:
                self.say(Line(f"sent again: {error}"))
        return self.run(deployment, parameters, seconds, deliver)

    def run(self, deployment: UUID, parameters: dict[str, Any], seconds: float, deliver: Callable[[], None]) -> Result:
        """Have a worker run the stage, and `deliver` its inputs while that starts.

        Raises MachineryError where the worker does not come to say how that ended.
        """
        try:
            made = self.api.create_flow_run_from_deployment(
                deployment,
                parameters=parameters,
                name=f"{parameters['stage']}@{parameters['pipeline']}",
                work_queue_name=self.label,
                labels={ASKED: 0},
            )
        except PrefectHTTPStatusError as error:
            raise MachineryError(f"the server does not take the run: {error.response.text}") from error
        try:
            with _asking(made.id) as signs:
                deliver()
                signs.delivered.set()
                return self._result(self._until_final(made.id, seconds, signs))
        except BaseException as error:
            self._cancel(made.id, str(error))
            raise

    def _until_final(self, run: UUID, seconds: float, signs: _Signs) -> FlowRun:
        works, began, away = Pulse(), 0.0, 0.0
        relayed: set[UUID] = set()
        while True:
            now = time.monotonic()
            try:
                with self._noticing():
                    seen = self.api.read_flow_run(run)
                    state, labels = seen.state or State(type=StateType.PENDING), seen.labels or {}
                    if state.is_running() or state.is_final():
                        self._relay(run, relayed)
                    if state.is_final():
                        return seen
                    name = labels.get("prefect.worker.name", "one")
                    # Nor does it take in what a worker says; and what it says of one may be as old as the question.
                    if signs.blocked() or time.monotonic() - now > BLOCKED:
                        works.restart()
                        self._alone = 0.0
                        self._tell(LATE)
                    if state.is_running():
                        began = began or now
                        if works.still(labels.get(WORKS)) > SILENCE:
                            raise MachineryError(f"worker {name} has given no sign of life for {SILENCE:.0f} s")
                        if now - began > seconds + ENDING:
                            raise TimeoutError
                    elif state.is_pending():
                        self._starting(str(name), works.still(state.type))
                    elif not signs.blocked() and self._is_served():
                        self._tell(self._busy(run))
                away = 0.0
            except ObjectNotFound:
                raise MachineryError("the stage's run was deleted on the server") from None
            except (TransportError, PrefectHTTPStatusError) as error:
                works.restart()
                self._polls.restart()
                away = away or now
                if now - away > AWAY:
                    raise MachineryError(f"Prefect's server is away: {error}") from error
                self._tell(f"Prefect's server does not answer: {error}")
            time.sleep(POLL)

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """Say that the server is late while the block still waits for it, which may be for minutes: Prefect's client
        asks again after a minute without an answer."""
        timer = threading.Timer(BLOCKED, self._tell, [LATE])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _starting(self, name: str, seconds: float) -> None:
        """Raise MachineryError where a worker took the stage so many seconds ago that it will not start it any more."""
        longest = STARTING
        if self.served_by != pool.POOL:  # a pod waits for its node, or for its image
            longest = POD + self.patience
            self._tell(f"its pod or container of the pool {self.served_by} has not begun")
        if seconds > longest:
            raise MachineryError(f"worker {name} took the stage and did not start it")

    def _is_served(self) -> bool:
        """Whether a worker looks at the label's queue. Says so where none does, and raises MachineryError when that has
        lasted too long."""
        queue = pool.queue(self.api, self.label, self.served_by)
        polled = queue.last_polled if queue else None
        self._first_poll = self._first_poll or polled
        moves = self._polls.still(polled) < ABSENT and polled != self._first_poll
        if polled and (moves or abs(datetime.now(UTC) - polled) < timedelta(seconds=ABSENT)):
            self._alone = 0.0
            return True
        self._alone = self._alone or time.monotonic()
        words = f"no worker serves the label {self.label}"
        if refused := [known for known in pool.workers(self.api) if known.refusal(self.label, self.needs)]:
            words += f"; {refused[0].machine} was refused at {refused[0].since}: {refused[0].refused}"
        if time.monotonic() - self._alone > self.patience:
            start = f"trainwright worker {self.label}"
            if self.served_by != pool.POOL:
                start = f"prefect worker start --pool {self.served_by} --work-queue {self.label}"
            raise MachineryError(f"{words}. Start one: `{start}`")
        if time.monotonic() - self._alone > ABSENT / 2:
            self._tell(words)
        return False

    def _busy(self, run: UUID) -> str:
        """With what the workers of the label are busy."""
        at_work = filters.FlowRunFilter(
            state=filters.FlowRunFilterState(
                type=filters.FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
            )
        )
        mine = filters.WorkQueueFilter(name=filters.WorkQueueFilterName(any_=[self.label]))
        runs = self.api.read_flow_runs(
            flow_run_filter=at_work, work_queue_filter=mine, sort=sorting.FlowRunSort.START_TIME_ASC, limit=10
        )
        others = [other for other in runs if other.id != run]
        if not others:
            queue = pool.queue(self.api, self.label, self.served_by)
            if queue and queue.is_paused:
                return f"the queue {self.label} is paused by hand"
            return f"the worker of {self.label} is about to take it, or is busy for another label"
        told = []
        for other in others:
            who = (other.labels or {}).get("prefect.worker.name", "a worker")
            since = f" since {other.start_time.astimezone():%H:%M:%S}" if other.start_time else ""
            told.append(f"{who} is busy with {other.name}{since}")
        return ", ".join(told)

    def _tell(self, words: str) -> None:
        if words != self._words or time.monotonic() - self._told > TOLD:
            self._words, self._told = words, time.monotonic()
            self.say(Line(f"waiting: {words}"))

    def _relay(self, run: UUID, relayed: set[UUID]) -> None:
        """Say what the stage has said since."""
        mine = filters.LogFilter(flow_run_id=filters.LogFilterFlowRunId(any_=[run]))
        page = 200
        start = max(0, len(relayed) - page // 2)  # what came late may stand before what was seen already
        while logs := self.api.read_logs(mine, limit=page, offset=start):
            for log in logs:
                if log.id not in relayed and log.name == LOGGER:
                    self.say(Line(log.message))
                relayed.add(log.id)
            start += len(logs)

    def _result(self, ended: FlowRun) -> Result:
        made = self.api.read_artifacts(
            flow_run_filter=filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[ended.id])),
            artifact_filter=filters.ArtifactFilter(type=filters.ArtifactFilterType(any_=[ARTIFACT])),
        )
        if not made:
            name, state = (ended.labels or {}).get("prefect.worker.name", "the worker"), ended.state
            gave_up = state is not None and GAVE_UP in str(state.message)
            words = f"{name} did not finish the stage: {state and state.name}, {state and state.message}"
            raise (GivenUpError if gave_up else MachineryError)(words)
        return TypeAdapter(Result).validate_python(made[0].data)

    def _cancel(self, run: UUID, why: str) -> None:
        """End a run that nobody waits for; a worker that lives lets go of it, of a dead one it is said."""
        with suppress(TransportError, PrefectHTTPStatusError, ObjectNotFound):
            state = self.api.read_flow_run(run).state
            if state is None or state.is_final():
                return
            if not state.is_scheduled():
                self.api.set_flow_run_state(run, State(type=StateType.CANCELLING, message=why), force=True)
                deadline = time.monotonic() + ENDING
                while time.monotonic() < deadline:
                    state = self.api.read_flow_run(run).state
                    if state is None or state.is_final():
                        return
                    time.sleep(POLL)
            kind = StateType.CANCELLED if state.is_scheduled() else StateType.CRASHED
            self.api.set_flow_run_state(run, State(type=kind, message=why), force=True)
