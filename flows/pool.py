"""The work pool on Prefect's server, its queues, one for each label, and the workers known there.

A label is a work queue of its name. The pool's job template has no variables: neither a command nor an environment can
be given along with a run. Import this only once Prefect's settings are made (flows/server.py).
"""

import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.client.schemas.objects import WorkQueue
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError

from trainwright.operations import Label

POOL = "trainwright"
STAGE_NAME = "stage"  # the deployment of the flow `stage`, which workers run
TEMPLATE: dict[str, Any] = {
    "job_configuration": {"stream_output": True},
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}
RECORD = "worker_"  # what names of variables begin with that tell of a worker
FRESH = timedelta(seconds=60)  # a worker is heard of every five, one that others have started every thirty
FORGOTTEN = timedelta(days=7)


@dataclass(frozen=True)
class Worker:
    """What a worker said of itself when it started. `has` is what needs are held against, `needs` what each of its
    labels needed then; `refused` is the need that it did not meet, after which it did not start. The server adds when
    it was last `heard`, and whether that is fresh.
    """

    name: str
    labels: list[str]
    machine: str
    since: str
    has: dict[str, Any] = field(default_factory=dict)
    needs: dict[str, Any] = field(default_factory=dict)
    refused: str = ""
    heard: datetime | None = None
    alive: bool = False

    def refusal(self, label: str, needs: Label) -> str:
        """Why it does not serve a label that has these needs now; empty if it does, or was refused for other needs."""
        return self.refused if self.needs.get(label) == stated(needs) else ""


def stated(needs: Label) -> dict[str, Any]:
    """Return what a label needs of a machine, as workers keep it on the server."""
    return needs.model_dump(mode="json", exclude_none=True, exclude={"pool"})


def client() -> SyncPrefectClient:
    """A client of the server that PREFECT_API_URL names; to be used in a `with`."""
    return get_client(sync_client=True)


def stage(of: str = POOL) -> str:
    """The flow and the deployment by which a pool's workers run stages."""
    return f"stage/{STAGE_NAME if of == POOL else of}"


def queue(api: SyncPrefectClient, label: str, of: str = POOL) -> WorkQueue | None:
    """The queue of a label in a pool; None where there is none."""
    try:
        return api.read_work_queue_by_name(label, work_pool_name=of)
    except ObjectNotFound:
        return None


def announce(api: SyncPrefectClient, worker: Worker) -> None:
    """Keep on the server what a worker says of itself."""
    name, value = _record(worker.name), asdict(worker)
    try:
        api.create_variable(VariableCreate(name=name, value=value, tags=[POOL]))
    except ObjectAlreadyExists:
        api.update_variable(VariableUpdate(name=name, value=value))


def retire(api: SyncPrefectClient, name: str) -> None:
    """Take away what is kept of a worker that has ended."""
    with suppress(ObjectNotFound):
        api.delete_variable_by_name(_record(name))
    with suppress(ObjectNotFound):
        place = {"work_pool_name": POOL, "name": name}
        api.request("DELETE", "/work_pools/{work_pool_name}/workers/{name}", path_params=place).raise_for_status()


def workers(api: SyncPrefectClient) -> list[Worker]:
    """The workers that the server knows, the newest first; `alive` are those heard of within FRESH.

    One that others have started has no label that we know of, and one that was not heard of for a week is forgotten.
    """
    try:
        heard = {known.name: known.last_heartbeat_time for known in api.read_workers_for_work_pool(POOL)}
    except PrefectHTTPStatusError as error:
        if error.response.status_code != HTTPStatus.NOT_FOUND:
            raise
        heard = {}  # there is no pool yet
    said = []
    for variable in api.read_variables(limit=200):
        if variable.name.startswith(RECORD) and isinstance(variable.value, dict):
            with suppress(TypeError):  # somebody else's, of a name like ours
                said.append(Worker(**variable.value))
    now, found, unknown = datetime.now(UTC), [], heard.keys() - {worker.name for worker in said}
    for worker in (*said, *(Worker(name, [], "", now.isoformat()) for name in unknown)):
        last = heard.get(worker.name)
        if now - (last or datetime.fromisoformat(worker.since)) > FORGOTTEN:
            retire(api, worker.name)
            continue
        alive = not worker.refused and last is not None and now - last < FRESH
        found.append(replace(worker, heard=last, alive=alive))
    return sorted(found, key=lambda worker: worker.since, reverse=True)


def _record(worker: str) -> str:
    return RECORD + "".join(letter if letter.isalnum() else "-" for letter in worker.lower())


def settle_worker() -> None:
    """Set in the environment what makes Prefect's worker quick to see a run, and to be missed."""
    for name, value in {"PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_WORKER_HEARTBEAT_SECONDS": "5"}.items():
        os.environ.setdefault(name, value)
