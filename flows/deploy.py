"""`trainwright deploy`: what a Prefect server keeps of this project, so that schedules and workers find it.

One process pool with a queue a label, one deployment a scheduled pipeline, one for the stages that are sent to
workers, and the automation that ends runs whose process has died. Everything is compared before it is written, so
that a second `deploy` changes nothing. Import this module only once `server.required()` has answered.

A caller of the API can choose nothing that is executed: the pool's template has no variable at all (Prefect's own has
the command line and the environment), entrypoints are modules of the worker's own clone, and a deployment takes the
parameters that its flow declares. Whoever has the server's password can still replace pool and deployments.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.automations import ChangeFlowRunState, EventTrigger, Posture, SendNotification
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.callables import parameter_schema

from flows import pool
from flows.pool import POOL, TEMPLATE
from trainwright import operations
from trainwright.core.errors import Fault, InputError
from trainwright.operations import RETRAIN, Notification, Running, Schedule

RETRAIN_FLOW, STAGE_FLOW = "flows.retrain.retrain", "flows.remote_stage.stage"
# Not CANCEL_NEW: a tick that meets another one waits, then decides for itself, and leaves its decision on record.
ONE_AT_A_TIME = ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
SILENCE = timedelta(seconds=65)  # two heartbeats (flows/server.py) have not come
WAITS = timedelta(minutes=30)  # after which a run that has not begun is one that waits for too long
OURS = "trainwright: "  # what the names of our automations begin with
TELL = f"{OURS}tell "
WHO = "{{ flow_run.parameters.name or flow_run.name }}"  # a run that has not begun does not bear its pipeline's name
HEARTBEAT = "prefect.flow-run.heartbeat"
# The names of final states: Prefect's, those of stages (flows/remote_stage.py), and those of ticks (flows/retrain.py).
ENDS = {"Completed", "Failed", "Crashed", "Cancelled", "TimedOut", "Cached", "Skipped", "Stopped"}
ENDS |= {"NothingToDo", "Published", "Unpublished", "Refused"}
PAUSES = {"Cancelling", "Suspended", "Paused", "AwaitingRetry", "AwaitingConcurrencySlot"}
TAKEN, BEGUN = {"Pending", "Submitting"}, "Running"  # by a worker; by a process, whose first heartbeat comes after it


def _ending(name: str, description: str, words: str, after: set[str], **where: Any) -> AutomationCore:
    """An automation that ends a run of which no heartbeat nor end has come after one of the events `after`."""
    trigger = EventTrigger(
        posture=Posture.Proactive,
        match={"prefect.resource.id": "prefect.flow-run.*"},
        after=after,
        expect={HEARTBEAT, *(f"prefect.flow-run.{state}" for state in ENDS | PAUSES)},
        for_each={"prefect.resource.id"},
        threshold=1,
        within=SILENCE,
        **where,
    )
    crashed = ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=words, force=False)
    return AutomationCore(name=f"{OURS}{name}", description=description, trigger=trigger, actions=[crashed])


DEAD_RUNS = _ending(
    "end dead runs",
    "A run without a heartbeat has lost its process or its machine, which cannot say so any more.",
    "no heartbeat: its process has died",
    {HEARTBEAT},
)
LOST_RUNS = _ending(
    "end lost runs",
    "A run that a worker took and that has no first heartbeat has lost the worker; a pod may only wait for its node.",
    "no first heartbeat: its worker has died",
    {f"prefect.flow-run.{state}" for state in (*TAKEN, BEGUN)},
    match_related={"prefect.resource.role": "work-pool", "prefect.resource.name": POOL},
)
AUTOMATIONS = (DEAD_RUNS, LOST_RUNS)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """A deployment as it should be. `fixed` parameters are the same for every run, whoever starts it."""

    name: str
    entrypoint: str
    description: str
    queue: str | None = None
    fixed: tuple[tuple[str, str], ...] = ()
    schedule: Schedule | None = None
    pool: str = POOL


def deploy(root: Path, say: Say, retrain: str = RETRAIN_FLOW, stage: str = STAGE_FLOW) -> None:
    """Bring the server to what params.yaml of the project at `root` says, and say of each thing what was done.

    `retrain` and `stage` are the modules and functions of the two flows. Raises InputError where params.yaml is wrong
    or names a notification block that the server does not have.
    """
    params, running = operations.load(root / "params.yaml")
    wanted = list(_scheduled(list(params.pipelines), running, retrain))
    with pool.client() as client:
        blocks = _blocks(client, running)
        other = {label: needs.pool for label, needs in running.labels.items() if needs.pool}
        for line in ensure(client, (RETRAIN, *sorted(running.served() - other.keys())), stage):
            say(line)
        for line in _other_pools(client, other, stage):
            say(line)
        for deployment in wanted:
            say(_deployment(client, deployment))
        for line in _gone(client, {pool.STAGE_NAME, *(deployment.name for deployment in wanted)}):
            say(line)
        automations = (*AUTOMATIONS, *_telling(blocks))
        for automation in automations:
            say(_automation(client, automation))
        for line in _silenced(client, {automation.name for automation in automations}):
            say(line)


def ensure(client: SyncPrefectClient, labels: Iterable[str], stage: str = STAGE_FLOW) -> Iterator[str]:
    """Make what workers of `labels` need, or mend it: pool, queues, the deployment of stages. Yields what is done."""
    yield _pool(client)
    for label in labels:
        yield _queue(client, label)
    yield _deployment(client, Wanted(pool.STAGE_NAME, stage, "One stage, for a worker."))


def remove(say: Say) -> None:
    """Take away all that `deploy` makes. Runs that are on record stay."""
    with pool.client() as client:
        for line in _gone(client, set()):
            say(line)
        for line in _silenced(client, set()):
            say(line)
        try:
            client.delete_work_pool(POOL)
            say(f"work pool    removed: {POOL}, with its queues")
        except ObjectNotFound:
            say(f"work pool    not there: {POOL}")


def _pool(client: SyncPrefectClient) -> str:
    """Make the work pool, or take out of it what others have put into its template. Returns what was done."""
    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=TEMPLATE))
        return f"work pool    made: {POOL}"
    except ObjectAlreadyExists:
        found = client.read_work_pool(POOL)
    if found.type != "process":
        remedy = f"Remove it (`prefect work-pool delete {POOL}`) and deploy again."
        raise InputError(Fault(f"work pool {POOL}", f"it is of type {found.type}, not process", remedy))
    if found.base_job_template == TEMPLATE:
        return f"work pool    unchanged: {POOL}"
    client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=TEMPLATE))
    return f"work pool    updated: {POOL}; its job template had been changed"


def _scheduled(pipelines: list[str], running: Running, entrypoint: str) -> Iterator[Wanted]:
    for name in pipelines:
        if schedule := running.of(name).schedule:
            says = f"Decides whether to retrain {name}, and does."
            yield Wanted(name, entrypoint, says, RETRAIN, (("name", name),), schedule)


def _other_pools(client: SyncPrefectClient, labels: Mapping[str, str], stage: str) -> Iterator[str]:
    """Queues and a deployment of stages in pools that are not ours: of Kubernetes or Docker, made by a person."""
    for label, name in labels.items():
        try:
            found = client.read_work_pool(name)
        except ObjectNotFound:
            made = f"prefect work-pool create {name} --type kubernetes --base-job-template deploy/kubernetes-pool.json"
            reason = f"the server has no work pool {name}"
            raise InputError(Fault("params.yaml", reason, f"Make it: `{made}`.", f"labels.{label}.pool")) from None
        if (found.base_job_template.get("variables") or {}).get("properties"):
            reason = f"the job template of the work pool {name} has variables, by which a caller could run commands"
            remedy = "Make it of deploy/kubernetes-pool.json or deploy/docker-pool.json."
            raise InputError(Fault("params.yaml", reason, remedy, f"labels.{label}.pool"))
        yield _queue(client, label, name)
    for name in sorted(set(labels.values())):
        yield _deployment(client, Wanted(name, stage, "One stage, for a worker.", pool=name))


def _telling(blocks: Mapping[str, tuple[UUID, Notification]]) -> Iterator[AutomationCore]:
    """Automations that tell what no run can tell itself: that it was ended, or waits for too long to begin."""
    minutes = f"{WAITS.total_seconds() / 60:.0f} minutes"
    waits = f"It has waited for a worker, or for another run, for {minutes}. `trainwright status` says why."
    for slug, (block, notification) in blocks.items():
        if "failed" in notification.events:
            yield _notice(
                f"{slug} of failed",
                "A retrain that was ended cannot say so itself, nor one that cannot read whom to tell.",
                SendNotification(
                    block_document_id=block,
                    subject=f"{WHO}: failed",
                    body="It could not say so itself: {{ flow_run.state.message }}",
                ),
                ["retrain"],
                posture=Posture.Reactive,
                expect={"prefect.flow-run.Crashed"},
                within=timedelta(0),
            )
        if "waiting" in notification.events:
            yield _notice(
                f"{slug} of waiting",
                "A run that nobody takes, or that waits for another of its pipeline.",
                SendNotification(
                    block_document_id=block,
                    subject=f"{WHO}: waiting",
                    body=waits,
                ),
                ["retrain", "stage"],
                posture=Posture.Proactive,
                after={"prefect.flow-run.Late", "prefect.flow-run.AwaitingConcurrencySlot"},
                expect={f"prefect.flow-run.{state}" for state in {BEGUN, *TAKEN, *ENDS}},
                for_each={"prefect.resource.id"},
                within=WAITS,
            )


def _notice(name: str, description: str, send: SendNotification, flows: list[str], **when: Any) -> AutomationCore:
    """An automation that sends word of a run of one of `flows`."""
    trigger = EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": flows},
        threshold=1,
        **when,
    )
    return AutomationCore(name=f"{TELL}{name}", description=description, trigger=trigger, actions=[send])


def _silenced(client: SyncPrefectClient, names: set[str]) -> Iterator[str]:
    """Remove our automations other than `names`."""
    for found in client.read_automations():
        if found.name.startswith(OURS) and found.name not in names:
            client.delete_automation(found.id)
            yield f"automation   removed: {found.name}"


def _blocks(client: SyncPrefectClient, running: Running) -> dict[str, tuple[UUID, Notification]]:
    """The notification blocks of params.yaml. Raises InputError for those that nobody has saved on the server."""
    faults, found = [], {}
    for place, notification in enumerate(running.notifications):
        kind, _, name = notification.block.partition("/")
        try:
            known = client.read_block_document_by_name(name, kind, include_secrets=False)
            found[notification.block] = known.id, notification
        except ObjectNotFound:
            remedy = "Save it in the server's UI under Blocks, or take it out: docs/operations.md shows both ways."
            reason = f"the server has no block {notification.block}"
            faults.append(Fault("params.yaml", reason, remedy, field=f"notifications[{place}].block"))
    if faults:
        raise InputError(*faults)
    return found


def _queue(client: SyncPrefectClient, name: str, of: str = POOL) -> str:
    shown = name if of == POOL else f"{name} of the pool {of}"
    if pool.queue(client, name, of) is None:
        with suppress(ObjectAlreadyExists):  # another worker starts at this moment
            client.create_work_queue(name, work_pool_name=of)
            return f"queue        made: {shown}"
    return f"queue        unchanged: {shown}"


def _deployment(client: SyncPrefectClient, wanted: Wanted) -> str:
    flow = _flow(wanted.entrypoint)
    shown = f"{flow.name}/{wanted.name}"
    if wanted.schedule:
        shown += f", {wanted.schedule.cron} in {wanted.schedule.timezone}"
    content: dict[str, Any] = {
        "entrypoint": wanted.entrypoint,
        "description": wanted.description,
        "work_pool_name": wanted.pool,
        "work_queue_name": wanted.queue or "default",
        "parameters": dict(wanted.fixed),
        "parameter_openapi_schema": _declared(flow, wanted.fixed),
        "enforce_parameter_schema": True,
        "concurrency_options": ONE_AT_A_TIME if wanted.schedule else None,
    }
    try:
        found = client.read_deployment_by_name(f"{flow.name}/{wanted.name}")
    except ObjectNotFound:
        found = None
    by_hand = found is not None and is_paused(found)
    active = found is None or not found.schedules or any(entry.active for entry in found.schedules)
    if found and _same(found, content, wanted):
        return f"deployment   unchanged: {shown}{'; paused by hand' if by_hand else ''}"
    limit = 1 if wanted.schedule else None
    schedules = [DeploymentScheduleCreate(schedule=_cron(wanted.schedule), active=active)] if wanted.schedule else []
    flow_id = client.create_flow(flow)
    client.create_deployment(flow_id, wanted.name, schedules=schedules, concurrency_limit=limit, **content)
    return f"deployment   {'updated' if found else 'made'}: {shown}{'; paused by hand' if by_hand else ''}"


def is_paused(found: DeploymentResponse) -> bool:
    """Whether somebody has paused a deployment, or every schedule of it."""
    return found.paused or (bool(found.schedules) and not any(entry.active for entry in found.schedules))


def _flow(entrypoint: str) -> Flow[..., Any]:
    module, _, name = entrypoint.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, Flow):
        raise TypeError(f"{entrypoint} is no Prefect flow")
    return found


def _declared(flow: Flow[..., Any], fixed: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """The schema of the flow's parameters, closed to others; those that are `fixed` can be nothing else."""
    schema: dict[str, Any] = parameter_schema(flow.fn).model_dump_for_openapi()
    schema["additionalProperties"] = False
    for name, value in fixed:
        schema["properties"][name] |= {"enum": [value], "readOnly": True}
    return schema


def _cron(schedule: Schedule) -> CronSchedule:
    return CronSchedule(cron=schedule.cron, timezone=schedule.timezone)


def _same(found: DeploymentResponse, content: dict[str, Any], wanted: Wanted) -> bool:
    """Whether the server has a deployment as it should be. A schedule that somebody has paused stays paused."""
    limit = found.global_concurrency_limit
    return (
        all(getattr(found, key) == value for key, value in content.items())
        and [entry.schedule for entry in found.schedules] == ([_cron(wanted.schedule)] if wanted.schedule else [])
        and (limit.limit if limit else None) == (1 if wanted.schedule else None)
        and not (found.pull_steps or found.job_variables or found.path)
    )


def _gone(client: SyncPrefectClient, names: set[str]) -> Iterator[str]:
    """Remove the pool's deployments other than `names`, and with them the runs that were to come."""
    flows: dict[UUID, str] = {}
    for found in deployments(client):
        if found.name not in names:
            flow = flows.setdefault(found.flow_id, client.read_flow(found.flow_id).name)
            client.delete_deployment(found.id)
            yield f"deployment   removed: {flow}/{found.name}"


def deployments(client: SyncPrefectClient) -> list[DeploymentResponse]:
    """The deployments of the pool."""
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])), limit=200, offset=len(found)
    ):
        found += page
    return found


def _automation(client: SyncPrefectClient, wanted: AutomationCore) -> str:
    known = client.read_automations_by_name(wanted.name)
    for more in known[1:]:
        client.delete_automation(more.id)
    if not known:
        client.create_automation(wanted)
        return f"automation   made: {wanted.name}"
    parts = ("trigger", "actions", "description")
    if all(_plain(getattr(known[0], part)) == _plain(getattr(wanted, part)) for part in parts):
        return f"automation   unchanged: {wanted.name}{'' if known[0].enabled else '; switched off by hand'}"
    client.update_automation(known[0].id, wanted)
    return f"automation   updated: {wanted.name}"


def _plain(part: Any) -> Any:
    """What a part of an automation says, without the ids that the server gives."""
    if isinstance(part, list):
        return [_plain(entry) for entry in part]
    if isinstance(part, str | None):
        return part
    return {key: value for key, value in part.model_dump().items() if key != "id"}
