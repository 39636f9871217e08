"""`trainwright status`: what it tells of Git, of this machine and of a real server, and that it can be read."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import Toy, wait
from fixtures.repository import git, pipelines, repository, trainwright
from test_deploy import NIGHTLY, client, deploy

from flows import ledger, local_runs, registry, status, workspace


@pytest.fixture
def project(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Toy:
    pipelines(toy, "one", "two", operations={"one": NIGHTLY}, dispatch={"training": "gpu"}, labels={"gpu": {"cpus": 2}})
    return repository(toy, monkeypatch)


@pytest.fixture
def deployed(project: Toy, prefect_api: None) -> Iterator[Toy]:
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Cancelled

    with client() as api:  # retrains that other tests have killed still run by what the server knows
        running = filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.RUNNING]))
        for left in api.read_flow_runs(flow_run_filter=filters.FlowRunFilter(state=running)):
            api.set_flow_run_state(left.id, Cancelled(), force=True)
    deploy(project.root)
    yield project
    from flows import deploy as module

    module.remove(lambda _: None)


def publish(project: Toy, version: str, use: int) -> None:
    project.write("data/one/published/version.json", json.dumps({"version": version}))
    git(project.root, "add", "--force", "data/one/published/version.json")
    git(project.root, "commit", "-q", "-m", version)
    for tag in (f"one@{version}", f"one#prod#{use}"):
        git(project.root, "tag", "-a", tag, "-m", "{}")


def shown(told: dict[str, Any], width: int = 100) -> str:
    """What a person sees, its blanks made one."""
    lines = list(status.lines(told, width))
    assert max(len(line) for line in lines) <= width
    return " ".join(" ".join(lines).split())


def test_without_a_server_it_tells_what_needs_none_and_which_to_start(
    project: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    said = trainwright(project.root, "status", "--json")
    assert said.returncode == 0
    told = json.loads(said.stdout)
    assert told["server"]["words"].startswith("PREFECT_API_URL unset: start one with")
    assert told["runs"] is told["workers"] is told["labels"] is None
    one, two = told["pipelines"]
    assert (one["name"], one["schedule"]["cron"], two["schedule"], two["next_tick"]) == ("one", "0 2 * * *", None, None)
    assert datetime.fromisoformat(one["next_tick"]) > datetime.now(UTC)
    assert told["disk"]["free"] > 0
    words = trainwright(project.root, "status").stdout
    assert "PREFECT_API_URL unset" in words and "no schedule" in words and "Runs" not in words


def test_the_version_in_use_is_that_of_the_newest_tag_of_its_stage(project: Toy) -> None:
    for version, use in (("v1.0.0", 9), ("v1.1.0", 10)):
        publish(project, version, use)
    told = status.status(project.root)
    assert told["pipelines"][0]["in_use"]["version"] == "v1.1.0"
    assert told["pipelines"][1]["in_use"] is None
    assert "one v1.1.0" in shown(told)


def test_tags_that_are_no_versions_are_left_out_and_named(project: Toy) -> None:
    git(project.root, "tag", "-a", "one@v9.9.9", "-m", "by hand")
    git(project.root, "tag", "two#prod#1", "HEAD^{tree}")
    told = status.status(project.root)
    assert [pipeline["in_use"] for pipeline in told["pipelines"]] == [None, None]
    first, second = told["unreadable"]
    assert first.startswith("one@v9.9.9 is left out: its commit is no publication")
    assert second == "two#prod#1 is left out: its commit is no published version"
    assert "Left out" in shown(told)


def test_the_last_decision_is_that_of_the_ledger_though_the_remote_is_away(project: Toy) -> None:
    git(project.root, "remote", "add", "origin", "none")
    for outcome in ("published", "nothing to do"):
        ledger.record(project.root, "one", {"outcome": outcome})
    told = status.status(project.root)
    assert told["pipelines"][0]["last_decision"]["outcome"] == "nothing to do"
    assert "nothing to do, 20" in shown(told)
    assert told["remote"]["answers"] is False
    assert "Git remote As it was when the remote was last reached: git ls-remote: " in shown(told)


def test_another_clone_is_told_what_was_published_and_put_in_use_elsewhere_since(
    project: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, other = tmp_path / "remote.git", tmp_path / "other"
    git(project.root, "clone", "-q", "--bare", ".", str(remote))
    git(project.root, "remote", "add", "origin", str(remote))
    git(project.root, "clone", "-q", str(remote), str(other))
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "t")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "t@example.org")
    for number in (1, 2):
        publish(project, f"v{number}.0.0", number)
    git(project.root, "push", "-q", "--tags", "origin")
    registry.rollback(project.root, "one", "worse")
    told = status.status(other)
    assert told["remote"] == {"answers": True, "words": ""}
    assert told["pipelines"][0]["in_use"]["version"] == "v1.0.0"
    assert "rolled back, 20" in shown(told) and "Git remote" not in shown(told)


def test_a_git_remote_that_never_answers_keeps_nobody_waiting(project: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    git(project.root, "config", "protocol.ext.allow", "always")
    git(project.root, "remote", "add", "origin", "ext::sleep 613")
    monkeypatch.setattr(status, "PATIENCE", 0.5)
    assert "no end after 0 s: the remote does not answer" in status.status(project.root)["remote"]["words"]


def test_a_workspace_that_is_held_and_one_that_a_crash_left_are_told_apart(project: Toy) -> None:
    with workspace.workspace(project.root, "one", git(project.root, "rev-parse", "HEAD")) as space:
        (space.root.parent / "two-dead.claim").touch()
        told = {entry["name"]: entry["held"] for entry in status.status(project.root)["workspaces"]}
    assert told == {space.root.name: True, "two-dead": False}
    assert "two-dead left by a crash" in shown(status.status(project.root))


def test_it_says_that_a_run_waits_for_a_label_that_nobody_serves_and_what_the_label_needs(deployed: Toy) -> None:
    with client() as api:
        stage = api.read_deployment_by_name("stage/stage").id
        given = {"commit": "c" * 40, "stage": "training", "lock": ""}
        api.create_flow_run_from_deployment(stage, parameters=given, work_queue_name="gpu")
    told = status.status(deployed.root)
    (run,) = told["runs"]
    assert (run["label"], run["state"]) == ("gpu", "Scheduled")
    assert run["why"] == "no live worker serves gpu: start one with `trainwright worker gpu`"
    words = shown(told, 80)
    assert run["why"] in words
    assert "none gpu no live worker; it needs cpus 2" in words
    assert told["pipelines"][0]["deployed"] is True
    assert "two none no schedule" in words


def test_it_says_which_run_keeps_the_workers_of_a_label_busy_and_since_when(deployed: Toy) -> None:
    from prefect.states import Pending, Running

    with client() as api:
        stage = api.read_deployment_by_name("stage/stage").id
        given = {"commit": "c" * 40, "stage": "training", "lock": ""}
        first, second = (
            api.create_flow_run_from_deployment(stage, parameters=given, work_queue_name="gpu") for _ in "ab"
        )
        api.send_worker_heartbeat("trainwright", "host-1")
        api.get_runs_in_work_queue(api.read_work_queue_by_name("gpu", work_pool_name="trainwright").id)
        for state in (Pending(), Running()):
            api.set_flow_run_state(first.id, state)
    told = status.status(deployed.root)
    runs = {run["name"]: run for run in told["runs"]}
    assert runs[first.name]["state"] == "Running" and runs[first.name]["why"] is None
    assert runs[second.name]["why"].startswith(f"the workers of gpu are busy with {first.name} since ")
    assert [(worker["name"], worker["alive"]) for worker in told["workers"]] == [("host-1", True)]
    assert "gpu needs cpus 2" in shown(told)


def test_a_refusal_for_other_needs_is_no_reason_any_more(deployed: Toy) -> None:
    from flows import pool
    from trainwright.operations import Label

    with client() as api:
        for cpus, name in ((64, "host-old"), (2, "host-new")):
            needs = {"gpu": pool.stated(Label(cpus=cpus))}
            refused = f"gpu needs cpus: {cpus}, this machine has 1"
            pool.announce(api, pool.Worker(name, ["gpu"], name, datetime.now(UTC).isoformat(), {}, needs, refused))
        told = status.status(deployed.root)
        for name in ("host-old", "host-new"):
            api.delete_variable_by_name(pool._record(name))
    (gpu,) = (label for label in told["labels"] if label["name"] == "gpu")
    assert gpu["refused"] == ["gpu needs cpus: 2, this machine has 1"]


def test_a_retrain_started_by_hand_is_shown_without_a_server(project: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    local_runs.begin(local_runs.new(project.root, "one"), datetime.now(UTC), "an-id")
    dead = local_runs.new(project.root, "two")
    local_runs.begin(dead, datetime.now(UTC), None)
    dead.write_text(json.dumps(json.loads(dead.read_text()) | {"since": 0.0}))  # its process id is another's now
    told = status.status(project.root)
    assert [(run["what"], run["run"]) for run in told["here"]] == [("retrain one", "an-id")]
    assert f"process {os.getpid()} on this machine" in shown(told)


def test_a_retrain_started_by_hand_is_shown_once_beside_a_server(deployed: Toy) -> None:
    from prefect import flow
    from prefect.runtime import flow_run

    told: dict[str, Any] = {}

    def body() -> None:
        local_runs.begin(local_runs.new(deployed.root, "one"), datetime.now(UTC), str(flow_run.id))
        told.update(status.status(deployed.root))

    flow(name="retrain", flow_run_name="one: by hand")(body)()
    assert [(run["name"], run["state"], run["label"]) for run in told["runs"]] == [("one: by hand", "Running", None)]
    assert "one: by hand Running" in shown(told).replace("  ", " ") and "on this machine" not in shown(told)


def test_a_paused_schedule_and_one_that_was_never_deployed_show_no_tick(deployed: Toy) -> None:
    with client() as api:
        api.pause_deployment(api.read_deployment_by_name("retrain/one").id)
    assert "one none paused" in shown(status.status(deployed.root))
    with client() as api:
        found = api.read_deployment_by_name("retrain/one")
        api.resume_deployment(found.id)
        api.update_deployment_schedule(found.id, found.schedules[0].id, active=False)
    assert "one none paused" in shown(status.status(deployed.root))
    pipelines(deployed, "one", "two", operations={"one": NIGHTLY, "two": NIGHTLY})
    assert "two none not deployed" in shown(status.status(deployed.root))


def test_a_run_that_was_paused_by_hand_says_so(deployed: Toy) -> None:
    from prefect.states import Pending, Running, Suspended

    with client() as api:
        run = api.create_flow_run_from_deployment(api.read_deployment_by_name("retrain/one").id)
        for state in (Pending(), Running(), Suspended(timeout_seconds=3600)):
            api.set_flow_run_state(run.id, state, force=True)
    wait(lambda: status.status(deployed.root)["runs"], 20, "the run is not told")
    (told,) = status.status(deployed.root)["runs"]
    assert (told["what"], told["why"]) == ("retrain one", "it was paused by hand: see its page in the server's UI")
