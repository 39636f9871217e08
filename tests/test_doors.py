"""Doors: who may ask a server for what, what of it is run, and where no secret may ever stand."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ROOT, Toy
from fixtures.repository import git, pipelines, repository
from test_deploy import NIGHTLY, client, deploy

CANARY = "s3cret-canary"


@pytest.fixture
def deployed(toy: Toy, prefect_api: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    pipelines(toy, "one", "two", operations={"one": NIGHTLY, "two": NIGHTLY})
    project = repository(toy, monkeypatch)
    deploy(project.root)
    yield project
    from flows import deploy as module

    module.remove(lambda _: None)


def ask(method: str, path: str, body: dict[str, Any] | None = None, password: str | None = None) -> httpx.Response:
    """A call of the API as anybody could make it who has the password, or another."""
    password = os.environ["PREFECT_API_AUTH_STRING"] if password is None else password
    auth = httpx.BasicAuth(*password.split(":", 1)) if ":" in password else None
    headers = {} if auth or not password else {"Authorization": f"Basic {_coded(password)}"}
    return httpx.request(
        method, os.environ["PREFECT_API_URL"] + path, json=body, auth=auth, headers=headers, timeout=60
    )


def _coded(password: str) -> str:
    import base64

    return base64.b64encode(password.encode()).decode()


def retrain_id(pipeline: str = "one") -> str:
    with client() as api:
        return str(api.read_deployment_by_name(f"retrain/{pipeline}").id)


@pytest.mark.parametrize("password", ["", "somebody:else"])
def test_a_call_without_the_password_is_refused_whatever_it_asks(deployed: Toy, password: str) -> None:
    for method, path, body in (
        ("POST", "/deployments/filter", {}),
        ("POST", f"/deployments/{retrain_id()}/create_flow_run", {}),
        ("POST", "/flow_runs/filter", {}),
        ("GET", "/work_pools/trainwright", None),
        ("POST", "/block_documents/filter", {"include_secrets": True}),
    ):
        assert ask(method, path, body, password).status_code == 401, path
        assert ask(method, path, body).status_code in (200, 201), path


def test_only_the_documented_pages_answer_without_the_password(deployed: Toy) -> None:
    server = os.environ["PREFECT_API_URL"].removesuffix("/api")
    line = next(
        line for line in (ROOT / "docs" / "operations.md").read_text().split("\n- ") if "needs the password" in line
    )
    free = set(re.findall(r"`(/[\w/.]+)`", line))
    for path in (
        "/api/health",
        "/api/ready",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/api/version",
        "/api/admin/settings",
    ):
        assert (httpx.get(server + path, timeout=60).status_code == 200) == (path in free), path


@pytest.mark.parametrize("changes", [{"source.uri": "secrets.env"}, {"gates.report.min_f1": "0"}], ids=str)
def test_the_flow_refuses_a_change_that_is_not_a_callers(
    deployed: Toy, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    from flows import retrain

    monkeypatch.setattr(retrain.worker, "end_with_worker", lambda: None)
    monkeypatch.setenv("TRAINWRIGHT_ROOT", str(deployed.root))
    monkeypatch.chdir(deployed.root)
    deployed.write("secrets.env", "AWS_SECRET,x\n1,2\n")
    state = retrain.retrain.fn("one", changes=changes)
    assert "cannot be set through the Prefect server" in state.message and "AWS_SECRET" not in state.message


@pytest.mark.parametrize(
    "body",
    [
        {"parameters": {"shell": "touch pwned"}},
        {"parameters": {"force": "perhaps"}},
        {"parameters": {"name": "two"}},
        {"parameters": {"changes": {"training.epochs": 1}}},
        {"job_variables": {"command": "touch pwned"}},
        {"job_variables": {"env": {"PYTHONPATH": "/tmp"}}},
        {"job_variables": {"env.PYTHONPATH": "/tmp"}},
        {"job_variables": {"working_dir": "/tmp"}},
    ],
    ids=str,
)
def test_a_run_with_what_its_flow_does_not_declare_or_with_a_command_is_not_even_made(
    deployed: Toy, body: dict[str, Any]
) -> None:
    deployment = {"deployments": {"id": {"any_": [retrain_id()]}}}
    assert ask("POST", f"/deployments/{retrain_id()}/create_flow_run", body).status_code in (409, 422)
    assert ask("POST", "/flow_runs/count", deployment).json() == 0


def test_a_caller_who_switches_the_check_off_gets_a_run_that_fails_before_it_does_anything(
    deployed: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside it a run as it should be, which the same worker carries out: what is not done could have been."""
    monkeypatch.setenv("TOUCHED", str(deployed.root))
    path = "/deployments/{}/create_flow_run"
    wrong = {"parameters": {"shell": "touch pwned"}, "enforce_parameter_schema": False}
    made = [ask("POST", path.format(retrain_id()), wrong), ask("POST", path.format(retrain_id("two")), {})]
    assert [answer.status_code for answer in made] == [201, 201]
    said = _work(deployed)
    first, second = (ask("GET", f"/flow_runs/{answer.json()['id']}").json()["state_type"] for answer in made)
    assert first in ("FAILED", "CRASHED"), said
    assert second == "COMPLETED", said
    assert [path.name for path in deployed.root.glob("retrained-*")] == ["retrained-two"]
    assert not list(deployed.root.glob("pwned"))


def _work(project: Toy) -> str:
    """One poll of a worker for what schedules start, and the runs that it finds. Returns all that it said."""
    command = ["worker", "start", "--pool", "trainwright", "--work-queue", "retrain", "--run-once", "--name", "w"]
    code = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *command],
        cwd=project.root, env={**os.environ, "PYTHONPATH": code}, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_no_secret_stands_in_a_file_a_log_an_artifact_the_lock_or_git(
    deployed: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server's password, the DVC remote's and a notification's URL, while a pipeline runs, publishes its data and
    nobody can be told of it; every place is then searched for all three."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    from flows import dvc, workspace
    from flows import git as ours
    from flows.notify import notify
    from flows.pipeline import Pipeline
    from flows.terminal import Terminal
    from trainwright import operations
    from trainwright.core.layout import Layout

    root = deployed.root
    stage = {"cmd": "cp params.yaml report.txt", "deps": ["params.yaml"], "outs": ["report.txt"]}
    deployed.stages(report__one=stage)
    (root / ".dvc" / "config.local").write_text(
        f"[core]\n    remote = kept\n['remote \"kept\"']\n    url = {root}/../kept\n"
        f"['remote \"far\"']\n    url = https://example.org/\n    password = {CANARY}-dvc\n"
    )
    hook = {"url": "http://127.0.0.1:9/{{token}}", "secrets": {"token": f"{CANARY}-token"}}
    CustomWebhookNotificationBlock(name="ops", allow_private_urls=True, **hook).save("ops", overwrite=True)
    pipelines(deployed, "one", operations={"one": NIGHTLY}, notifications=[{"block": "custom-webhook/ops"}])
    deploy(root)
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "A stage")
    with workspace.workspace(root, "one", ours.head(root)) as space:
        project = dvc.Project(space.root)
        _, running = operations.load(space.root / "params.yaml")
        assert Pipeline(Layout(space.root, "one"), project, running, Terminal()).run() == 0
        project.push(["report@one"])
        notify(running, "failed", "one", "the remote is away")
        git(space.root, "add", "--all")
        git(space.root, "commit", "-q", "-m", "What the run left")
        assert "dvc.lock" in git(space.root, "ls-files")

    secrets = [CANARY, os.environ["PREFECT_API_AUTH_STRING"], _coded(os.environ["PREFECT_API_AUTH_STRING"])]
    told = capsys.readouterr()
    logs = ask("POST", "/logs/filter", {"limit": 200}).text
    artifacts = ask("POST", "/artifacts/filter", {"limit": 200}).text
    runs = ask("POST", "/flow_runs/filter", {"limit": 200}).text
    objects = subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--batch"], cwd=root, capture_output=True, check=True
    ).stdout.decode(errors="replace")
    files = {
        str(path): path.read_text(errors="replace")
        for folder in (root, root.parent / "kept")
        for path in folder.rglob("*")
        if path.is_file() and path.name != "config.local"
    }
    assert "custom-webhook/ops" in objects and any("kept" in name for name in files) and "report" in told.out
    places = {
        "terminal": told.out + told.err,
        "logs": logs,
        "artifacts": artifacts,
        "runs": runs,
        "git": objects,
    } | files
    assert not [place for place, text in places.items() if any(secret in text for secret in secrets)]
    of_name = {"block_documents": {"name": {"any_": ["ops"]}}}
    blocks = ask("POST", "/block_documents/filter", of_name).text
    assert "custom-webhook" in blocks and CANARY not in blocks


def test_no_secret_is_written_into_what_we_generate_and_every_file_has_its_doors_shut() -> None:
    for path in sorted((ROOT / "deploy").iterdir()):
        text = path.read_text()
        for line in text.splitlines():
            key, _, value = line.strip().partition("=")
            if not key.startswith("#") and key.endswith(
                ("AUTH_STRING", "PASSWORD", "SECRET_ACCESS_KEY", "CONNECTION_URL")
            ):
                assert not value, f"{path.name}: {key}"
    example = (ROOT / "deploy" / "secrets.env.example").read_text()
    assert "PREFECT_SERVER_API_AUTH_STRING=" in example and "PREFECT_API_AUTH_STRING=" in example


def settings_of(path: Path) -> dict[str, str]:
    lines = [line.split("=", 1) for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(lines)


def test_every_setting_of_server_env_is_one_of_prefects_and_shuts_its_door(prefect_api: None) -> None:
    from prefect.settings.models.root import Settings

    given = settings_of(ROOT / "deploy" / "server.env")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            patch.delenv(name)
        plain = Settings().to_environment_variables(exclude_unset=True)
        for name, value in (given | {"PREFECT_SERVER_API_AUTH_STRING": "a:b"}).items():
            patch.setenv(name, value)
        settings = Settings()
    known = settings.to_environment_variables(exclude_unset=True)
    assert set(given) - {"DO_NOT_TRACK"} <= set(known) - set(plain)
    server = settings.server
    assert server.api.auth_string and server.api.auth_string.get_secret_value() == "a:b"
    assert (server.api.host, server.api.csrf_protection_enabled) == ("127.0.0.1", True)
    assert (server.api.cors_allowed_origins, server.analytics_enabled) == ("http://127.0.0.1:4200", False)
    assert settings.results.default_serializer == "json"
    assert settings.flows.heartbeat_frequency == 30


def test_compose_gives_every_service_a_password_and_opens_no_port_but_on_loopback() -> None:
    from ruamel.yaml import YAML

    services = YAML(typ="safe").load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    assert set(services) == {"database", "server", "retrain", "label"}
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        required = [value for value in service["environment"].values() if ":?" in str(value)]
        assert required, f"{name} would start without a password"
        if name != "database":
            assert service["cap_drop"] == ["ALL"] and service["user"] == "1000:1000"
    assert services["retrain"]["command"] == ["trainwright", "worker", "retrain"]


@pytest.mark.parametrize("unit", ["trainwright-server.service", "trainwright-worker@.service"])
def test_systemd_takes_the_units_and_they_run_as_an_ordinary_user(unit: str, tmp_path: Path) -> None:
    import shutil

    text = (ROOT / "deploy" / unit).read_text()
    assert "\nUser=trainwright\n" in text and "\nNoNewPrivileges=true\n" in text
    assert "EnvironmentFile=/etc/trainwright/secrets.env" in text
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    program = Path(sys.executable).parent
    (tmp_path / unit).write_text(text.replace("/opt/trainwright/.venv/bin", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", str(tmp_path / unit)], capture_output=True, text=True)
    assert done.returncode == 0 and unit not in done.stderr, done.stderr


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_server_takes_the_pools_templates_and_a_caller_can_change_nothing_of_them(
    prefect_api: None, kind: str
) -> None:
    import json

    from prefect.client.schemas.actions import WorkPoolCreate

    template = json.loads((ROOT / "deploy" / f"{kind}-pool.json").read_text())
    with client() as api:
        api.create_work_pool(WorkPoolCreate(name=f"try-{kind}", type=kind, base_job_template=template))
        try:
            pool = api.read_work_pool(f"try-{kind}")
            assert pool.base_job_template == template
            body = {"name": "x", "flow_id": str(api.create_flow_from_name("x")), "work_pool_name": pool.name}
            for variable in ("command", "image", "env"):
                assert ask("POST", "/deployments/", {**body, "job_variables": {variable: "x"}}).status_code == 422
            assert ask("POST", "/deployments/", body).status_code in (200, 201)
        finally:
            api.delete_work_pool(pool.name)


SETTLED = """
from pathlib import Path
from flows import server
server.settle(Path.cwd())
from prefect.settings import get_current_settings
found = get_current_settings()
print(found.results.default_serializer, found.flows.heartbeat_frequency)
"""


def test_no_setting_of_a_user_makes_results_code_or_a_run_beat_too_slowly_for_the_server(toy: Toy) -> None:
    others = {"PREFECT_RESULTS_DEFAULT_SERIALIZER": "pickle", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "180"}
    assert toy.start("-c", SETTLED, **others).communicate()[0].split() == ["json", "30"]


@pytest.mark.parametrize("file", ["server.env", "kubernetes-worker.yaml", "kubernetes-pool.json", "docker-pool.json"])
def test_what_starts_runs_elsewhere_has_the_settings_that_hold_for_every_run(file: str) -> None:
    from flows import server

    text = (ROOT / "deploy" / file).read_text()
    for name, value in server.FIXED.items():
        assert re.search(rf"\b{name}\W+(value\W+)?{value}\b", text), name
