"""`trainwright deploy` against a real server: what it makes, that it changes nothing twice, what it takes away."""

import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from conftest import Toy
from fixtures.repository import pipelines, trainwright
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright import operations
from trainwright.core.errors import InputError, MachineryError
from trainwright.operations import Schedule

FLOWS = ("fixtures.flows_of_tests.retrain", "fixtures.flows_of_tests.stage")
NIGHTLY = {"schedule": {"cron": "0 2 * * *", "timezone": "Europe/Berlin"}}
BERLIN = "Europe/Berlin"


def deploy(root: Path) -> list[str]:
    """Each line that deploy says, with the blanks between its columns made one."""
    from flows import deploy

    said: list[str] = []
    deploy.deploy(root, said.append, *FLOWS)
    return [" ".join(line.split()) for line in said]


def client() -> Any:
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)


@pytest.fixture
def project(toy: Toy, prefect_api: None) -> Iterator[Toy]:
    toy.write("dvc.yaml", "stages: {}\n")
    yield toy
    from flows import deploy

    deploy.remove(lambda _: None)


def test_deploying_twice_changes_nothing_and_what_left_params_yaml_leaves_the_server(project: Toy) -> None:
    pipelines(project, "one", "two", "three", operations={"one": NIGHTLY, "two": NIGHTLY}, dispatch={"training": "gpu"})
    made = deploy(project.root)
    assert made == [
        "work pool made: trainwright",
        "queue made: retrain",
        "queue made: gpu",
        "deployment made: stage/stage",
        "deployment made: retrain/one, 0 2 * * * in Europe/Berlin",
        "deployment made: retrain/two, 0 2 * * * in Europe/Berlin",
        "automation made: trainwright: end dead runs",
        "automation made: trainwright: end lost runs",
    ]
    assert deploy(project.root) == [line.replace(" made:", " unchanged:") for line in made]

    pipelines(project, "one", "three", operations={"one": {"schedule": {"cron": "0 3 * * *"}}})
    said = deploy(project.root)
    assert "deployment updated: retrain/one, 0 3 * * * in UTC" in said
    assert "deployment removed: retrain/two" in said
    assert "deployment unchanged: stage/stage" in said
    with client() as api:
        (schedule,) = api.read_deployment_by_name("retrain/one").schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone, schedule.active) == ("0 3 * * *", "UTC", True)


def test_what_was_changed_by_hand_is_set_right_and_what_was_paused_stays_so(project: Toy) -> None:
    from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolUpdate
    from prefect.workers.process import ProcessWorker

    pipelines(project, "one", "two", operations={"one": NIGHTLY, "two": NIGHTLY})
    deploy(project.root)
    with client() as api:
        template = ProcessWorker.get_default_base_job_template()
        api.update_work_pool("trainwright", WorkPoolUpdate(base_job_template=template))
        api.update_deployment(api.read_deployment_by_name("retrain/one").id, DeploymentUpdate(entrypoint="os.system"))
        api.pause_deployment(api.read_deployment_by_name("retrain/two").id)
    said = deploy(project.root)
    assert "work pool updated: trainwright; its job template had been changed" in said
    assert "deployment updated: retrain/one, 0 2 * * * in Europe/Berlin" in said
    assert "deployment unchanged: retrain/two, 0 2 * * * in Europe/Berlin; paused by hand" in said
    with client() as api:
        assert api.read_deployment_by_name("retrain/one").entrypoint == FLOWS[0]
        assert "command" not in json.dumps(api.read_work_pool("trainwright").base_job_template)


def test_a_schedule_that_was_paused_stays_so_when_it_changes(project: Toy) -> None:
    pipelines(project, "one", operations={"one": NIGHTLY})
    deploy(project.root)
    with client() as api:
        found = api.read_deployment_by_name("retrain/one")
        api.update_deployment_schedule(found.id, found.schedules[0].id, active=False)
    assert "deployment unchanged: retrain/one, 0 2 * * * in Europe/Berlin; paused by hand" in deploy(project.root)
    pipelines(project, "one", operations={"one": {"schedule": {"cron": "0 3 * * *"}}})
    assert "deployment updated: retrain/one, 0 3 * * * in UTC; paused by hand" in deploy(project.root)
    with client() as api:
        found = api.read_deployment_by_name("retrain/one")
        assert [entry.active for entry in found.schedules] == [False]
        api.update_deployment_schedule(found.id, found.schedules[0].id, active=True)
        api.pause_deployment(found.id)
    pipelines(project, "one", operations={"one": NIGHTLY})
    assert "deployment updated: retrain/one, 0 2 * * * in Europe/Berlin; paused by hand" in deploy(project.root)
    with client() as api:  # so that to resume the deployment is enough
        found = api.read_deployment_by_name("retrain/one")
        assert found.paused and [entry.active for entry in found.schedules] == [True]


def test_with_no_pipeline_left_none_goes_on(project: Toy) -> None:
    pipelines(project, "one", operations={"one": NIGHTLY})
    deploy(project.root)
    project.write("params.yaml", "pipelines: {}\n")
    assert "deployment removed: retrain/one" in deploy(project.root)


def test_two_ticks_of_a_pipeline_come_one_after_the_other_and_none_is_dropped(project: Toy) -> None:
    pipelines(project, "one", operations={"one": NIGHTLY})
    deploy(project.root)
    with client() as api:
        found = api.read_deployment_by_name("retrain/one")
    assert found.global_concurrency_limit.limit == 1
    assert found.concurrency_options.collision_strategy == "ENQUEUE"


def test_remove_takes_away_all_that_deploy_made_and_may_be_said_twice(project: Toy) -> None:
    from flows.deploy import AUTOMATIONS
    from flows.pool import POOL

    pipelines(project, "one", operations={"one": NIGHTLY})
    deploy(project.root)
    for expected in ("removed: trainwright, with its queues", "not there: trainwright"):
        said = trainwright(project.root, "deploy", "--remove")
        assert said.returncode == 0
        assert expected in said.stdout
    with client() as api:
        ours = [found for found in api.read_deployments() if found.work_pool_name == POOL]
        assert not ours and not [found for each in AUTOMATIONS for found in api.read_automations_by_name(each.name)]


def test_every_name_that_a_final_state_has_is_one_that_the_automation_knows(prefect_api: None) -> None:
    """It could not end such a run, but would try."""
    from prefect import states

    from flows import deploy, retrain

    theirs = (states.Completed, states.Failed, states.Crashed, states.Cancelled)
    stages = {"Completed", "Cached", "Skipped", "Failed", "TimedOut", "Stopped"}  # flows/remote_stage.py
    words = (retrain.NOTHING, retrain.PUBLISHED, retrain.UNPUBLISHED, retrain.REFUSED, retrain.FAILED)
    names = {make().name for make in theirs} | stages | {retrain.shown(outcome) for outcome in words}
    for automation in deploy.AUTOMATIONS:
        assert {f"prefect.flow-run.{name}" for name in names} <= automation.trigger.expect


def test_a_notification_block_that_nobody_saved_is_named_before_anything_is_made(project: Toy) -> None:
    pipelines(project, "one", notifications=[{"block": "slack-webhook/never-saved"}])
    with pytest.raises(InputError, match=r"notifications\[0\].block.*no block slack-webhook/never-saved"):
        deploy(project.root)
    with client() as api:
        assert not [pool for pool in api.read_work_pools() if pool.name == "trainwright"]


def test_without_a_server_it_says_which_to_start(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    pipelines(toy, "one")
    toy.write("dvc.yaml", "stages: {}\n")
    said = trainwright(toy.root, "deploy")
    assert said.returncode == 2
    assert said.stderr.startswith("PREFECT_API_URL unset: start one with `prefect server start`")


def test_a_server_that_is_not_there_and_a_wrong_password_are_told_apart(
    prefect_api: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import server

    assert server.required()
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "not it")
    with pytest.raises(InputError, match=r"PREFECT_API_AUTH_STRING: is not the server's password"):
        server.required()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(MachineryError, match=r"No Prefect server answers at http://127.0.0.1:9/api"):
        server.required()


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_is_only_starting_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import server

    with HTTPServer(("127.0.0.1", 0), Healthy, bind_and_activate=False) as late:
        late.server_bind()  # which has an address, and refuses connections until it listens
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{late.server_address[1]}/api")
        with pytest.raises(MachineryError, match="No Prefect server answers"):
            server.required()
        said: list[str] = []

        class Terminal(io.StringIO):
            def write(self, text: str) -> int:  # it comes once we are known to wait for it
                if not said:
                    late.server_activate()
                    threading.Thread(target=late.serve_forever, daemon=True).start()
                said.append(text)
                return len(text)

        monkeypatch.setattr("sys.stderr", Terminal())
        assert server.required(patience=60) in "".join(said)
        assert "".join(said).count("waiting for") == 1
        late.shutdown()


@pytest.mark.parametrize(("day", "utc"), [("2026-03-29", {"00:30", "01:00"}), ("2026-10-25", {"00:30"})])
def test_a_tick_in_an_hour_that_the_clocks_skip_or_repeat_comes_once(
    prefect_api: None, day: str, utc: set[str]
) -> None:
    """Whenever Prefect's scheduler looks, and by our own reckoning. 02:30 that never comes is 30 minutes apart: it is
    01:30 in winter's time for Prefect, and 03:00 in summer's for us; no tick is lost or doubled by either."""
    import asyncio

    from prefect.server.schemas.schedules import CronSchedule

    start, cron = datetime.fromisoformat(f"{day}T00:00").replace(tzinfo=ZoneInfo(BERLIN)), "30 2 * * *"
    theirs = set()
    for minutes in range(-180, 240, 15):
        look = CronSchedule(cron=cron, timezone=BERLIN).get_dates(n=2, start=start + timedelta(minutes=minutes))
        theirs |= {tick.astimezone(UTC) for tick in asyncio.run(look)}
    ours = Schedule(cron=cron, timezone=BERLIN).following(start).astimezone(UTC)
    that_day = [tick for tick in theirs if tick.astimezone(ZoneInfo(BERLIN)).date() == start.date()]
    assert len(that_day) == 1
    assert {f"{tick:%H:%M}" for tick in (ours, *that_day)} == utc
    after = Schedule(cron=cron, timezone=BERLIN).following(ours).astimezone(ZoneInfo(BERLIN))
    assert after.date() == start.date() + timedelta(days=1)


PARTS = [
    "*",
    "*/2",
    "*/40",
    "1",
    "4",
    "7",
    "5-5",
    "2-4",
    "4-2",
    "1-6/2",
    "2/2",
    "MON",
    "jan-mar",
    "L",
    "5L",
    "W",
    "MON#1",
    "H",
]


@given(st.lists(st.lists(st.sampled_from(PARTS), min_size=1, max_size=2).map(",".join), min_size=4, max_size=6))
@settings(max_examples=500)
def test_a_schedule_that_we_take_is_one_of_prefects_and_means_the_same_there(
    prefect_api: None, fields: list[str]
) -> None:
    import asyncio

    from prefect.server.schemas.schedules import CronSchedule

    try:
        ours = Schedule(cron=" ".join(fields))
    except ValueError:
        return
    start = datetime(2026, 3, 1, 12, 7, tzinfo=UTC)
    (theirs,) = asyncio.run(CronSchedule(cron=ours.cron, timezone="UTC").get_dates(n=1, start=start))
    assert ours.following(start - timedelta(minutes=1)) == theirs


class Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))  # type: ignore[attr-defined]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing on the terminal."""


def test_those_who_want_to_hear_of_it_are_told_and_one_that_cannot_be_reached_stops_nothing(
    project: Toy, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    from flows.notify import notify

    with HTTPServer(("127.0.0.1", 0), Hook) as hook:
        hook.told = []  # type: ignore[attr-defined]
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        body = {"title": "{{subject}}", "text": "{{body}}"}
        places = {"ops": f"http://127.0.0.1:{hook.server_port}/", "gone": "http://127.0.0.1:9/a-word-of-the-url"}
        for name, url in places.items():
            CustomWebhookNotificationBlock(name=name, url=url, json_data=body, allow_private_urls=True).save(
                name, overwrite=True
            )
        blocks = [
            {"block": "custom-webhook/gone"},
            {"block": "custom-webhook/none"},
            {"block": "custom-webhook/ops", "events": ["refused", "failed"]},
        ]
        pipelines(project, "one", notifications=blocks)
        _, running = operations.load(project.root / "params.yaml")
        for event in ("published", "refused"):
            notify(running, event, "one", "F1 fell by 3 points")
        hook.shutdown()
        assert hook.told == [{"title": "one: refused", "text": "F1 fell by 3 points"}]  # type: ignore[attr-defined]
    assert caplog.text.count("not told of it: custom-webhook/gone") == 2
    assert caplog.text.count("not told of it: custom-webhook/none") == 2
    assert "a-word-of-the-url" not in "".join(
        record.getMessage() for record in caplog.records if record.name == "flows.notify"
    )
