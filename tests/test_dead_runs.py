"""The automation that ends dead runs, at work: a real server, flows whose processes are killed, and flows that end."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from conftest import Toy, wait
from fixtures.repository import pipelines
from fixtures.serving import Server, serving

pytestmark = pytest.mark.slow

SOON = 10  # seconds, the least that Prefect takes; a living run beats every 30, so that this is for dead ones
DEPLOY = """
import sys
from datetime import timedelta
from flows import deploy, pool
with pool.client() as api:
    list(deploy.ensure(api, ["gpu"]))
    for automation in deploy.AUTOMATIONS:
        trigger = automation.trigger.model_copy(update={"within": timedelta(seconds=float(sys.argv[1]))})
        api.create_automation(automation.model_copy(update={"trigger": trigger}))
"""
LIVE = """
import pathlib, signal, sys
from flows import server
server.settle(pathlib.Path.cwd())
from flows import pool
from prefect import flow, pause_flow_run
from prefect.flow_engine import run_flow
from prefect.runtime import flow_run

@flow(name=sys.argv[1])
def live():
    pathlib.Path(sys.argv[1]).write_text(str(flow_run.id))
    if sys.argv[1] == "waiting":
        pause_flow_run(timeout=3600, poll_interval=1)
    signal.pause()

run = None
if sys.argv[2:] == ["for a worker"]:
    with pool.client() as api:
        made = api.create_deployment(api.create_flow(live), sys.argv[1], work_pool_name=pool.POOL)
        run = api.create_flow_run_from_deployment(made)
run_flow(live, flow_run=run)
"""
END = """
import json
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

def body(kind, name):
    ended[flow_run.id] = name
    return State(type=kind, name=name)

ended = {}
for pair in (("COMPLETED", "Completed"), ("COMPLETED", "Published"), ("FAILED", "Stopped")):
    flow(name="ended", persist_result=False)(body)(*pair, return_state=True)
print(json.dumps(ended))
"""

TAKEN = """
from flows import pool
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Pending, Running, Submitting

with pool.client() as api:
    api.create_work_pool(WorkPoolCreate(name="pods", type="kubernetes", base_job_template={}))
    flow = api.create_flow_from_name("taken")
    here, pods = (api.create_deployment(flow, name, work_pool_name=name) for name in (pool.POOL, "pods"))
    for deployment, states in (
        (here, [Pending(), Submitting()]), (here, [Pending(), Running()]),
        (pods, [Pending(), Submitting()]), (pods, [Running()]), (here, [Pending(), Running()]),
    ):
        run = api.create_flow_run_from_deployment(deployment)
        for state in states:
            api.set_flow_run_state(run.id, state)
        print(run.id)
"""


TELL = """
import sys
from datetime import timedelta
from pathlib import Path
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.schemas.objects import State
from prefect.states import Crashed
from flows import deploy, pool

body = {"title": "{{subject}}", "text": "{{body}}"}
CustomWebhookNotificationBlock(name="ops", url=sys.argv[1], json_data=body, allow_private_urls=True).save("ops")
deploy.WAITS = timedelta(seconds=10)  # the least that Prefect takes
for _ in range(2):
    deploy.deploy(Path.cwd(), print)
with pool.client() as api:
    flows = {name: api.create_flow_from_name(name) for name in ("retrain", "another")}
    def run(flow, *states, **given):
        made = api.create_deployment(flows[flow], flow, work_pool_name=pool.POOL)
        made = api.create_flow_run_from_deployment(made, parameters=given, name=None if given else f"a {flow}")
        for state in states:
            api.set_flow_run_state(made.id, state, force=True)
    run("another", Crashed(message="not ours"))
    run("retrain", Crashed(message="its process has died"), name="one")
    run("retrain", State(type="SCHEDULED", name="Late"))
"""


class Hook(BaseHTTPRequestHandler):
    """Where the server's notifications come to."""

    told: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        self.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def server(toy: Toy) -> Iterator[Server]:
    with serving(toy.root / "prefect") as found:
        yield found


def python(toy: Toy, server: Server, script: str, *arguments: str) -> subprocess.Popen[str]:
    return toy.start("-c", script, *arguments, **server.environment)


def said(toy: Toy, server: Server, script: str, *arguments: str) -> str:
    """What a process says that ends well."""
    child = python(toy, server, script, *arguments)
    out, errors = child.communicate(timeout=120)
    assert child.returncode == 0, out + errors
    return out


def begun(toy: Toy, server: Server, name: str, *how: str) -> tuple[subprocess.Popen[str], str, dict[str, Any]]:
    """A process in a flow that does not end by itself, once the server has a heartbeat of it; the run's id; that."""
    child = python(toy, server, LIVE, name, *how)
    wait(lambda: (toy.root / name).exists() and toy.read(name), 60, f"{name} does not begin")
    run = toy.read(name)
    resource = {"id": [f"prefect.flow-run.{run}"]}
    asked = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}, "any_resource": resource}}
    wait(lambda: server.ask("/events/filter", asked)["events"], 60, f"{name} does not beat")
    return child, run, server.ask("/events/filter", asked)["events"][-1]


@contextmanager
def beats(server: Server, heartbeat: dict[str, Any]) -> Iterator[None]:
    """Heartbeats like this one, each second, for as long as the block runs."""

    def beat() -> None:
        while not over.wait(1):
            server.ask("/events", [{**heartbeat, "id": str(uuid4()), "occurred": datetime.now(UTC).isoformat()}])

    over = threading.Event()
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def state(server: Server, run: str) -> dict[str, Any]:
    (found,) = server.ask("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return dict(found["state"])


def crashed(server: Server, run: str, words: str = "no heartbeat: its process has died") -> bool:
    found = state(server, run)
    return (found["type"], found["message"]) == ("CRASHED", words)


def test_a_run_whose_process_was_killed_is_ended_and_one_that_has_ended_is_not(toy: Toy, server: Server) -> None:
    said(toy, server, DEPLOY, str(SOON))
    ended = json.loads(said(toy, server, END))
    child, run, _ = begun(toy, server, "working")
    child.kill()
    child.communicate()
    wait(lambda: crashed(server, run), 120, "the run goes on without a process")
    assert {run: state(server, run)["name"] for run in ended} == ended


def test_a_run_whose_worker_was_killed_before_its_first_heartbeat_is_ended(toy: Toy, server: Server) -> None:
    """Taken by a worker, or begun by a process; not a pod, which may wait for a node.

    Where SQLite is busy, ends that fall due at one moment come one by one: each try may wait a minute for its lock.
    A server that is busy may also see a heartbeat before the begin that it follows, so that one alone proves nothing.
    """
    said(toy, server, DEPLOY, str(SOON))
    child, _, heartbeat = begun(toy, server, "working", "for a worker")
    child.kill()
    child.communicate()
    *taken, pod, begun_pod, beating = said(toy, server, TAKEN).split()
    resource = {"prefect.resource.id": f"prefect.flow-run.{beating}"}
    with beats(server, {key: heartbeat[key] for key in ("event", "related")} | {"resource": resource}):
        lost = "no first heartbeat: its worker has died"
        wait(lambda: all(crashed(server, run, lost) for run in taken), 300, "a run that a worker took stays with it")
    wait(lambda: crashed(server, beating), 300, lambda: f"the one that had heartbeats: {state(server, beating)}")
    assert [state(server, run)["name"] for run in (pod, begun_pod)] == ["Submitting", "Running"]


def test_the_server_tells_of_runs_that_were_ended_or_wait_too_long(toy: Toy, server: Server) -> None:
    toy.write("dvc.yaml", "stages: {}\n")
    pipelines(toy, "one", notifications=[{"block": "custom-webhook/ops", "events": ["failed", "waiting"]}])
    with HTTPServer(("127.0.0.1", 0), Hook) as hook:
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        lines = said(toy, server, TELL, f"http://127.0.0.1:{hook.server_port}/").splitlines()
        tell = "trainwright: tell custom-webhook/ops of"
        for done in ("made", "unchanged"):
            assert {f"automation   {done}: {tell} failed", f"automation   {done}: {tell} waiting"} <= set(lines)
        wait(lambda: len(Hook.told) >= 2, 120, "the server tells nobody")
        hook.shutdown()
    ended = {"title": "one: failed", "text": "It could not say so itself: its process has died"}
    words = "It has waited for a worker, or for another run, for 0 minutes. `trainwright status` says why."
    assert sorted(Hook.told, key=str) == sorted([ended, {"title": "a retrain: waiting", "text": words}], key=str)


@pytest.mark.skipif("TRAINWRIGHT_SLOW" not in os.environ, reason="TRAINWRIGHT_SLOW is unset: this waits two minutes")
def test_as_deployed_it_lets_runs_live_that_work_or_wait_for_a_person(toy: Toy, server: Server) -> None:
    from flows import deploy

    said(toy, server, DEPLOY, str(deploy.SILENCE.total_seconds()))
    living = [begun(toy, server, name, "for a worker") for name in ("working", "waiting")]
    try:
        wait(lambda: state(server, living[1][1])["name"] == "Paused", 60, "it does not wait")
        (toy.root / "working").unlink()
        child, run, _ = begun(toy, server, "working", "for a worker")
        child.kill()
        child.communicate()
        wait(lambda: crashed(server, run), 240, "the run goes on without a process")
        assert [state(server, run)["name"] for _, run, _ in living] == ["Running", "Paused"]
    finally:
        for child, _, _ in living:
            child.kill()
            child.communicate()
