"""`trainwright status`: how things stand, for the person on duty: in a terminal, or as one JSON document.

Versions and ledger are fetched first. What Git, DVC and this machine know is told without a server as well. Import of
Prefect happens only once a server has answered.
"""

import os
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows import dvc, git, ledger, local_runs, registry, server, workspace
from flows.terminal import duration
from trainwright import operations
from trainwright.core.errors import TrainwrightError, printable
from trainwright.operations import RETRAIN, Label, Running

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, WorkQueue

    from flows.pool import Worker

WIDEST = 120
PATIENCE = 10.0  # seconds that the Git remote has for each answer: who asks how things stand waits
HELD_BACK = {
    "AwaitingConcurrencySlot": "another run of the same pipeline is running",
    "AwaitingRetry": "it failed, and is tried again: see its log",
}
Told = dict[str, Any]


def status(root: Path) -> Told:
    """All that is known now. Keys are stable; times are ISO 8601 in UTC, sizes are bytes, what is not known is null.

    `server.words` says why the server's part is missing where `server.answers` is false; then `runs`, `workers` and
    `labels` are null: not known is not the same as none. `here` are the retrains on this machine, whoever started them,
    with the id of their run where the server knows it. Where `remote.answers` is false, `remote.words` says why, and
    versions and decisions are as they were when it was last reached; it is null where there is no Git remote.
    """
    params, running = operations.load(root / "params.yaml")
    remote = _fetch(root)
    told: Told = {
        "line": 1,
        "time": _iso(datetime.now(UTC)),
        "project": {"root": str(root), "commit": git.commit(root, "HEAD")},
        "remote": remote,
        "unreadable": [
            *registry.unsound(root),
            *(bad for name in params.pipelines for bad in ledger.unreadable(root, name)),
        ],
        "server": {"url": os.environ.get("PREFECT_API_URL"), "answers": False, "words": ""},
        "pipelines": [_pipeline(root, name, running) for name in params.pipelines],
        "here": [_here(run) for name in params.pipelines for run in local_runs.begun(root, name) if run.lives()],
        "runs": None,
        "workers": None,
        "labels": None,
        "workspaces": workspace.listed(root),
        "disk": _disk(root),
    }
    try:
        told["server"] |= {"url": server.required(root), "answers": True}
    except TrainwrightError as error:
        told["server"]["words"] = str(error)
        return told
    _serve(told, running)
    return told


def _fetch(root: Path) -> Told:
    """Bring the remote's versions and ledger here. Returns whether it answered."""
    if git.remote(root) is None:
        return {"answers": None, "words": ""}
    with git.hurrying(PATIENCE):
        try:
            registry.fetch(root)
            busy = "the ledger could not be fetched, or not what waits here be brought there"
            words = "" if ledger.sync(root, wait=False) else busy
        except TrainwrightError as error:
            words = str(error)
    return {"answers": not words, "words": words and f"As it was when the remote was last reached: {words}"}


def _pipeline(root: Path, name: str, running: Running) -> Told:
    schedule = running.of(name).schedule
    tick = schedule.following(datetime.now(UTC)) if schedule else None
    return {
        "name": name,
        "in_use": _in_use(root, name),
        "last_decision": ledger.last(root, name),
        "schedule": schedule and schedule.model_dump(),
        "next_tick": _iso(tick),
        "deployed": None,
        "paused": None,
    }


def _in_use(root: Path, name: str) -> Told | None:
    found = registry.in_use(root, name)
    return {"version": found.version, "commit": found.commit, "since": found.put_in_use} if found else None


def _here(run: local_runs.LocalRun) -> Told:
    return {
        "what": f"retrain {run.pipeline}",
        "process": run.process,
        "since": run.started,
        "run": run.flow_run,
    }


def _disk(root: Path) -> Told:
    private = root / ".trainwright"
    return {
        "free": shutil.disk_usage(root).free,
        "cache": dvc.size(dvc.Project(root).cache()),
        "checkpoints": dvc.size(private / "checkpoints") + dvc.size(private / "retrains" / "checkpoints"),
    }


def _serve(told: Told, running: Running) -> None:
    """Put in what the server knows."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    from flows import deploy, pool

    with get_client(sync_client=True) as client:
        known = {found.name: found for found in deploy.deployments(client) if found.work_queue_name == RETRAIN}
        for pipeline in told["pipelines"]:
            found = known.get(pipeline["name"])
            pipeline |= {"deployed": found is not None, "paused": deploy.is_paused(found) if found else None}
        others = {label: needs.pool for label, needs in running.labels.items() if needs.pool}
        queues: dict[str, WorkQueue] = {}
        for of in (pool.POOL, *dict.fromkeys(others.values())):
            with suppress(ObjectNotFound):
                found_there = client.read_work_queues(work_pool_name=of)
                queues |= {queue.name: queue for queue in found_there if others.get(queue.name, pool.POOL) == of}
        told["workers"] = [_worker(known, running) for known in pool.workers(client)] if queues else []
        runs = _runs(client, [pool.POOL, *others.values()])
        told["labels"] = [
            _label(name, queues, told["workers"], running) for name in (RETRAIN, *sorted(running.served()))
        ]
        labels = {label["name"]: label for label in told["labels"]}
        told["runs"] = [_run(client, run, runs, labels, queues) for run in runs]


def _worker(known: "Worker", running: Running) -> Told:
    refusals = (known.refusal(label, running.labels.get(label, Label())) for label in known.labels)
    return {
        "name": known.name,
        "labels": known.labels,
        "alive": known.alive,
        "heard": _iso(known.heard),
        "refused": next(filter(None, refusals), None),
    }


def _label(name: str, queues: "dict[str, WorkQueue]", workers: list[Told], running: Running) -> Told:
    from flows import pool

    wants = running.labels.get(name)
    needs = pool.stated(wants) if wants else {}
    queue = queues.get(name)
    asked = queue.last_polled if queue else None
    return {
        "name": name,
        "needs": needs,
        "pool": (wants and wants.pool) or pool.POOL,
        "workers": [worker["name"] for worker in workers if worker["alive"] and name in worker["labels"]],
        "refused": [worker["refused"] for worker in workers if worker["refused"] and name in worker["labels"]],
        "polled": _iso(asked),
        "live": asked is not None and datetime.now(UTC) - asked < pool.FRESH,
    }


def _runs(client: "SyncPrefectClient", pools: list[str]) -> "list[FlowRun]":
    """The runs of some pools that are going on or due, oldest first; those of schedules that are still to come are
    not."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    going = [StateType.RUNNING, StateType.PENDING, StateType.PAUSED, StateType.CANCELLING, StateType.SCHEDULED]
    due = filters.FlowRunFilterNextScheduledStartTime.model_validate(
        {"before_": datetime.now(UTC) + timedelta(minutes=1)}
    )
    ours = filters.WorkPoolFilter(name=filters.WorkPoolFilterName(any_=pools))
    by_hand = filters.FlowFilter(name=filters.FlowFilterName(any_=[RETRAIN]))  # of a command line: in no pool
    found: dict[UUID, FlowRun] = {}
    for types, when in ((going[:-1], None), (going[-1:], due)):
        wanted = filters.FlowRunFilter(
            state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=types)),
            next_scheduled_start_time=when,
        )
        order = FlowRunSort.EXPECTED_START_TIME_ASC
        for where in ({"work_pool_filter": ours}, {"flow_filter": by_hand}):
            runs = client.read_flow_runs(**where, flow_run_filter=wanted, sort=order, limit=200)
            found |= {run.id: run for run in runs}
    return list(found.values())


def _run(
    client: "SyncPrefectClient", run: "FlowRun", runs: "list[FlowRun]", labels: dict[str, Told],
    queues: "dict[str, WorkQueue]",
) -> Told:  # fmt: skip
    given = run.parameters
    what = f"{given['stage']}@{given.get('pipeline')}" if "stage" in given else f"retrain {given.get('name')}"
    state = run.state
    since = (state.timestamp if state else None) if run.start_time is None else run.start_time
    return {
        "id": str(run.id),
        "name": run.name,
        "what": what if "stage" in given or "name" in given else run.name,
        "label": run.work_queue_name,
        "state": state.name if state else None,
        "since": _iso(since),
        "why": _why(run, runs, labels, queues) or _asks(client, run),
    }


def _asks(client: "SyncPrefectClient", run: "FlowRun") -> str | None:
    """That a retrain waits for a person's approval, in words; None for one that does not."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType

    if run.work_queue_name != RETRAIN:
        return None
    asking = filters.FlowRunFilter(
        parent_flow_run_id=filters.FlowRunFilterParentFlowRunId(any_=[run.id]),
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.PAUSED])),
    )
    if not client.read_flow_runs(flow_run_filter=asking, limit=1):
        return None
    return "it waits for a person's answer: open its run `approval` in the server's UI"


def _why(run: "FlowRun", runs: "list[FlowRun]", labels: dict[str, Told], queues: "dict[str, WorkQueue]") -> str | None:
    """Why a run waits, in words; None for one that runs."""
    state, label = run.state, run.work_queue_name or ""
    if state is None or state.is_running():
        return None
    if state.is_paused():
        return "it was paused by hand: see its page in the server's UI"
    if state.name in HELD_BACK:
        return HELD_BACK[state.name]
    queue, known = queues.get(label), labels.get(label)
    if queue and queue.is_paused:
        return f"the queue {label} is paused by hand"
    if known and known["live"]:
        return _busy(label, runs) or f"a worker of {label} will take it at its next poll"
    unmet = f"; one did not start: {known['refused'][-1]}" if known and known["refused"] else ""
    ours = f"trainwright worker {label}"
    start = ours if not known or known["pool"] == "trainwright" else f"prefect worker start --pool {known['pool']}"
    return f"no live worker serves {label}: start one with `{start}`{unmet}"


def _busy(label: str, runs: "list[FlowRun]") -> str:
    """What the workers of a label are running; empty where it is nothing."""
    busy = [run for run in runs if run.work_queue_name == label and run.state and run.state.is_running()]
    told = [f"{run.name} since {run.start_time.astimezone():%H:%M}" for run in busy if run.start_time]
    return f"the workers of {label} are busy with {', '.join(told)}" if told else ""


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="seconds") if moment else None


def lines(told: Told, width: int) -> Iterator[str]:
    """What `status` found, for a terminal of `width` columns."""
    width = min(max(width, 60), WIDEST)
    answers = f"{told['server']['url']} answers" if told["server"]["answers"] else told["server"]["words"]
    yield from _wrapped("Server", answers, width)
    if told["remote"]["words"]:
        yield from _wrapped("Git remote", told["remote"]["words"], width)
    for words in told["unreadable"]:
        yield from _wrapped("Left out", words, width)
    yield from ("", "Pipelines", *_table(list(_pipeline_rows(told)), width))
    if told["server"]["answers"] or told["here"]:
        yield from ("", "Runs", *_table(list(_run_rows(told)), width, "none is running or waiting"))
    if told["server"]["answers"]:
        yield from ("", "Workers", *_table(list(_worker_rows(told)), width, "none has been heard of"))
    left = "left by a crash: `trainwright clean` removes it"
    rows = [(space["name"], "in use" if space["held"] else left) for space in told["workspaces"]]
    yield from ("", "Workspaces", *_table(rows, width, "none"), "")
    disk = told["disk"]
    sizes = f"cache {_gb(disk['cache'])}, checkpoints {_gb(disk['checkpoints'])}"
    yield from _wrapped("Disk", f"{_gb(disk['free'])} free; {sizes}", width)


def _pipeline_rows(told: Told) -> Iterator[tuple[str, ...]]:
    yield ("NAME", "IN USE", "SINCE", "NEXT TICK", "LAST DECISION")
    for entry in told["pipelines"]:
        used, decision, schedule = entry["in_use"], entry["last_decision"], entry["schedule"]
        tick = _local(entry["next_tick"]) if schedule else "no schedule"
        if schedule and entry["deployed"] is False:
            tick = "not deployed"
        elif entry["paused"]:
            tick = "paused"
        # Ticks have an outcome, the acts of `models` a decision.
        came_to = (decision.get("outcome") or decision.get("decision", "?")) if decision else ""
        words = f"{came_to}, {_local(decision.get('time'))}" if decision else "none yet"
        version, since = (used["version"], _local(used["since"])) if used else ("none", "")
        yield (entry["name"], version, since, tick, words)


def _run_rows(told: Told) -> Iterator[tuple[str, ...]]:
    known = {run["id"] for run in told["runs"] or []}
    own = [run for run in told["here"] if run["run"] not in known]
    if told["runs"] or own:
        yield ("RUN", "LABEL", "STATE", "FOR", "WHY IT WAITS")
    for run in own:
        yield (run["what"], "", "Running", _ago(told, run["since"]), f"process {run['process']} on this machine")
    for run in told["runs"] or []:
        yield (run["what"], run["label"] or "", run["state"] or "", f"{_ago(told, run['since'])}", run["why"] or "")


def _worker_rows(told: Told) -> Iterator[tuple[str, ...]]:
    if told["workers"]:
        yield ("WORKER", "LABELS", "STATE")
    for worker in told["workers"]:
        state = "alive" if worker["alive"] else f"did not start: {worker['refused']}" if worker["refused"] else "silent"
        heard = f", heard {_ago(told, worker['heard'])} ago" if worker["heard"] else ""
        yield (worker["name"], ", ".join(worker["labels"]) or "?", f"{state}{heard}")
    for label in told["labels"]:
        needs = ", ".join(f"{key} {value}" for key, value in label["needs"].items())
        if not label["live"]:
            yield ("none", label["name"], "no live worker" + (f"; it needs {needs}" if needs else ""))
        elif needs:
            yield ("", label["name"], f"needs {needs}")


def _table(rows: Sequence[tuple[str, ...]], width: int, otherwise: str = "") -> Iterator[str]:
    """Rows in columns; the last column is wrapped."""
    if not rows:
        yield f"  {otherwise}"
        return
    rows = [tuple(printable(cell) for cell in row) for row in rows]
    sizes = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        start = "  " + "".join(f"{cell:<{size}}  " for cell, size in zip(row, sizes, strict=False))
        rest = textwrap.wrap(row[-1], max(20, width - len(start))) or [""]
        yield (start + rest[0]).rstrip()
        yield from (" " * len(start) + more for more in rest[1:])


def _wrapped(title: str, text: str, width: int) -> Iterator[str]:
    text = printable(text)
    start = f"{title:<12} "
    first, *rest = textwrap.wrap(text, width - len(start), break_on_hyphens=False, break_long_words=False) or [""]
    yield start + first
    yield from (" " * len(start) + line for line in rest)


def _local(moment: str | None) -> str:
    try:
        return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M %Z}" if moment else ""
    except (TypeError, ValueError, OverflowError):  # of an entry or a tag that was made by hand
        return "unknown"


def _ago(told: Told, moment: str | None) -> str:
    if moment is None:
        return ""
    return duration(max(0.0, (datetime.fromisoformat(told["time"]) - datetime.fromisoformat(moment)).total_seconds()))


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
