"""Stages sent to workers: a Prefect server, two workers in clones of their own, a Git and a DVC remote, all real."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from conftest import BEAT, ROOT, Toy, wait
from fixtures.serving import Server, serving

from trainwright.core import process

pytestmark = [pytest.mark.slow]

RUN = """
import sys
from pathlib import Path
from flows import server
server.settle(Path.cwd())
from flows import dvc
from flows.pipeline import Pipeline
from flows.terminal import Terminal
from trainwright import operations
from trainwright.core.layout import Layout
_, running = operations.load(Path("params.yaml"))
sys.exit(Pipeline(Layout(Path.cwd(), "toy"), dvc.Project(Path.cwd()), running, Terminal(), *sys.argv[1:]).run())
"""
IN_A_WORKSPACE = """
import sys
from pathlib import Path
from flows import server
server.settle(Path.cwd())
from flows import dvc, git
from flows.pipeline import Pipeline
from flows.terminal import Terminal
from flows.workspace import workspace
from trainwright import operations
from trainwright.core.layout import Layout
_, running = operations.load(Path("params.yaml"))
with workspace(Path.cwd(), "toy", git.head(Path.cwd())) as space:
    (space.root / "in.txt").write_text("a workspace's rows\\n")
    layout, project = Layout(space.root, "toy"), dvc.Project(space.root)
    code = Pipeline(layout, project, running, Terminal(), "training").run()
    print((space.root / "b").read_text())
sys.exit(code)
"""
# A training that takes a while to keep a checkpoint when it is told to end; tests/test_training.py has the real one.
LEARN = """
import os, pathlib, signal, sys, time
where, kept = pathlib.Path(os.environ["TRAINWRIGHT_ROOT"]), pathlib.Path(".trainwright/checkpoints/learnt")
if kept.exists():
    pathlib.Path("e").write_text(f"{kept.read_text()} began, {where.name} went on")
    sys.exit()
def keep(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(2)
    kept.write_text(where.name)
    sys.exit(143)
signal.signal(signal.SIGTERM, keep)
(where / "pid").write_text(str(os.getpid()))
while True:
    time.sleep(0.05)
"""
WHERE = "basename $TRAINWRIGHT_ROOT"
STAGES: dict[str, dict[str, Any]] = {
    "cleaning": {"cmd": "cp in.txt a", "deps": ["in.txt"], "outs": ["a"]},
    "cleaning_gate": {"cmd": "echo yes > paper; echo seen > result", "deps": ["a"], "outs": ["paper", "result"]},
    # It reads the gate's result, too, as every stage does that opens its input.
    "training": {"cmd": f"cat result; echo learning; ({WHERE}; cat a) > b", "deps": ["a", "paper"], "outs": ["b"]},
    "evaluation": {"cmd": f"({WHERE}; cat b) > c", "deps": ["b"], "outs": ["c"]},
    "tokenization": {"cmd": "exec python beat.py $TRAINWRIGHT_ROOT/pid", "deps": ["a"], "outs": ["d"]},
    "postprocessing": {"cmd": "exec python learn.py", "deps": ["a"], "outs": ["e"]},
    "augmentation": {"cmd": "true", "deps": ["a"]},
    "splitting": {"cmd": "echo tried >> $TRAINWRIGHT_ROOT/tries; sh refuse.sh; exit 1", "deps": ["a", "refuse.sh"]},
}
REFUSE = """mkdir -p .trainwright/failures/toy
echo '{"exit_code": 1, "message": "these rows are no good"}' > .trainwright/failures/toy/splitting.json
"""
PARAMS = {
    "pipelines": {},
    "dispatch": {
        "training": "big",
        "evaluation": "small",
        "tokenization": "big",
        "postprocessing": "big",
        "splitting": "small",
        "augmentation": "nowhere",
    },
    "labels": {"vast": {"memory_gb": 1e6}},
}


class Clone(Toy):
    """A clone that is there already."""

    def __init__(self, root: Path) -> None:
        self.root = root


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


class World:
    """A server with a password, a Git and a DVC remote, and three clones: `home`, and `one` and `two` of workers."""

    big: subprocess.Popen[str]  # the worker of the label of this name

    def __init__(self, folder: Path, server: Server) -> None:
        from dvc.repo import Repo

        self.folder, self.ask, self.started = folder, server.ask, list[subprocess.Popen[str]]()
        (folder / "store").mkdir()
        git(folder, "init", "--quiet", "--bare", "remote.git")
        git(folder, "init", "--quiet", "--initial-branch", "main", "home")
        self.home = Clone(folder / "home")
        for key, value in {"user.name": "a person", "user.email": "person@example.org"}.items():
            git(self.home.root, "config", key, value)
        Repo.init(str(self.home.root)).close()
        self.remote("store", url=str(folder / "store"))
        self.home.stages(**STAGES)
        self.home.write("params.yaml", json.dumps(PARAMS))
        self.home.write("beat.py", BEAT)
        self.home.write("learn.py", LEARN)
        self.home.write("refuse.sh", REFUSE)
        self.home.write("in.txt", "rows\n")
        self.home.write(".gitignore", "/.trainwright/\n/pid\n/tries\n/paper\n/result\n/a\n/b\n/c\n/d\n/e\n")
        git(self.home.root, "add", ".")
        git(self.home.root, "commit", "--quiet", "-m", "Begin")
        git(self.home.root, "remote", "add", "origin", str(folder / "remote.git"))
        git(self.home.root, "push", "--quiet", "origin", "main")
        for name in ("one", "two"):
            git(folder, "clone", "--quiet", "--branch", "main", str(folder / "remote.git"), name)
        self.one, self.two = Clone(folder / "one"), Clone(folder / "two")
        self.environment = {
            **server.environment,
            "TRAINWRIGHT_CHECKPOINTS": str(folder / "checkpoints"),
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "PYTHONUNBUFFERED": "1",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def remote(self, name: str, **settings: str) -> None:
        """Name the DVC remote."""
        lines = [f"    {key} = {value}" for key, value in settings.items()]
        self.home.write(
            ".dvc/config", "\n".join(["[core]", f"    remote = {name}", f"['remote \"{name}\"']", *lines, ""])
        )

    def work(self, clone: Clone, *labels: str) -> subprocess.Popen[str]:
        """Start a worker of `clone`."""
        log = (self.folder / f"{clone.root.name}.log").open("a")
        worker = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "worker", *labels],
            cwd=clone.root,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
            preexec_fn=process.die_with_parent,  # noqa: PLW1509
        )
        self.started.append(worker)
        return worker

    def start(self, *goal: str) -> subprocess.Popen[str]:
        """Start to run a stage and what it waits for, in `home`; a second one is forced."""
        return self.home.start("-c", RUN, *goal, **self.environment)

    def run(self, *goal: str, code: int = 0) -> str:
        """What a run says on the terminal, once it has ended with exit code `code`."""
        child = self.start(*goal)
        try:
            said, errors = child.communicate(timeout=180)
        finally:
            child.kill()
        assert child.returncode == code, said + errors
        return said

    def newest(self) -> dict[str, Any]:
        """The newest run of a stage."""
        runs = self.ask("/flow_runs/filter", {"flows": {"name": {"any_": ["stage"]}}, "sort": "START_TIME_DESC"})
        return dict(runs[0])

    def close(self) -> None:
        for worker in self.started:
            worker.terminate()
        for worker in self.started:
            try:
                worker.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world").resolve()
    with serving(folder / "prefect") as server:
        found = World(folder, server)
        try:
            found.big = found.work(found.one, "big")
            found.work(found.two, "small")
            yield found
        finally:
            found.close()


def test_each_stage_runs_where_its_label_says_and_dvc_finds_nothing_changed(world: World) -> None:
    said = world.run("evaluation")
    assert world.home.read("b") == "one\nrows\n"
    assert world.home.read("c") == "two\none\nrows\n"
    assert {"    seen", "    learning"} <= set(said.splitlines()), said
    status = [sys.executable, "-m", "dvc", "status", "evaluation"]
    done = subprocess.run(status, cwd=world.home.root, capture_output=True, text=True)
    assert "up to date" in done.stdout, done.stdout + done.stderr
    assert "Skipped" in world.run("evaluation")
    assert "    learning" in world.run("training", "training").splitlines()  # forced: no cache answers for it
    assert git(world.folder / "remote.git", "for-each-ref", "refs/trainwright") == ""


def test_data_travel_by_s3_and_an_edit_that_is_not_committed_travels_too(world: World) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        store = f"http://{host}:{port}"
        keys = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nothing", "region_name": "eu-central-1"}
        bucket = boto3.resource("s3", endpoint_url=store, **keys).Bucket("models")
        bucket.create(CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        world.remote("cloud", url="s3://models/data", endpointurl=store)
        world.home.write("in.txt", "other rows\n")
        world.run("training")
        assert world.home.read("b") == "one\nother rows\n"
        assert sum(1 for _ in bucket.objects.all()) == 4  # what it reads and what it made
    finally:
        server.stop()
        world.remote("store", url=str(world.folder / "store"))


def test_a_workers_no_comes_back_in_its_own_words_and_is_not_asked_again(world: World) -> None:
    assert "splitting@toy Failed: these rows are no good" in world.run("splitting", code=1)
    assert world.two.read("tries") == "tried\n"


def test_a_label_that_nobody_serves_is_an_error_that_names_it_and_why_a_worker_was_refused(world: World) -> None:
    refused = world.work(world.two, "nowhere", "vast")
    assert refused.wait(120) == 2
    log = (world.folder / "two.log").read_text()
    assert "vast needs memory_gb: 1000000.0, this machine has" in log
    said = world.run("augmentation", code=3)
    assert "waiting: no worker serves the label nowhere" in said
    assert "was refused at" in said
    assert "Start one: `trainwright worker nowhere`" in said


def test_a_label_may_be_served_by_another_pool(world: World) -> None:
    """One whose workers are Prefect's own, as those of Kubernetes and Docker are; here of processes."""
    params = json.loads(world.home.read("params.yaml"))
    params["labels"]["clustered"], params["dispatch"]["training"] = {"pool": "cluster"}, "clustered"
    world.home.write("params.yaml", json.dumps(params))
    template = {"job_configuration": {"stream_output": True}, "variables": {"type": "object", "properties": {}}}
    deploy = [sys.executable, "-m", "flows.cli", "deploy"]
    own = {"cwd": world.home.root, "env": {**os.environ, "PYTHONPATH": str(ROOT), **world.environment}}
    try:
        done = subprocess.run(deploy, capture_output=True, text=True, **own)  # type: ignore[call-overload]
        assert (
            done.returncode == 2 and "the server has no work pool cluster. Make it: `prefect work-pool" in done.stderr
        )
        world.ask("/work_pools/", {"name": "cluster", "type": "process", "base_job_template": template})
        done = subprocess.run(deploy, capture_output=True, text=True, **own)  # type: ignore[call-overload]
        assert "clustered of the pool cluster" in done.stdout and "stage/cluster" in done.stdout, done.stderr
        world.home.write("in.txt", "rows of a cluster\n")
        start = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cluster", "--work-queue", "clustered"]
        own["env"] |= {"TRAINWRIGHT_ROOT": str(world.two.root)}  # type: ignore[operator]
        log = (world.folder / "cluster.log").open("a")
        worker = subprocess.Popen(
            start,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=process.die_with_parent,  # noqa: PLW1509
            **own,  # type: ignore[call-overload]
        )
        try:
            world.run("training")
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        assert world.home.read("b") == "two\nrows of a cluster\n"
    finally:
        world.home.write("params.yaml", json.dumps(PARAMS))


def test_a_run_that_somebody_deletes_is_over_on_both_sides(world: World) -> None:
    (world.one.root / "pid").unlink(missing_ok=True)
    world.home.write("in.txt", "rows of a run that is deleted\n")
    run = world.start("tokenization")
    try:
        stage = world.one.beating(seconds=120)
        world.ask(f"/flow_runs/{world.newest()['id']}", method="DELETE")
        said, errors = run.communicate(timeout=120)
        assert run.returncode == 3 and "the stage's run was deleted on the server" in said, said + errors
        wait(lambda: not Path(f"/proc/{stage}").exists(), 60, "the stage goes on")
    finally:
        run.kill()


PARAMETERS = {
    "pipeline": "toy",
    "stage": "training",
    "commit": "0" * 40,
    "ref": f"refs/trainwright/runs/{'0' * 32}",
    "lock": "",
    "digest": "0" * 64,
    "versions": {},
    "devices": 0,
    "seconds": 60.0,
}


@pytest.mark.parametrize(
    "run",
    [
        {"parameters": PARAMETERS | {"command": "touch door"}},
        {"parameters": PARAMETERS | {"pipeline": "toy; touch door"}},
        {"parameters": PARAMETERS | {"stage": "../door"}},
        {"parameters": PARAMETERS, "job_variables": {"command": "touch door"}},
        {"parameters": PARAMETERS, "job_variables": {"env": {"PYTHONSTARTUP": "door.py"}}},
        {"parameters": PARAMETERS, "job_variables": {"working_dir": "/tmp"}},
    ],
    ids=["parameter", "pipeline", "stage", "command", "environment", "folder"],
)
def test_a_run_with_anything_but_the_declared_parameters_is_refused(world: World, run: dict[str, Any]) -> None:
    (deployment,) = world.ask("/deployments/filter", {"deployments": {"name": {"any_": ["stage"]}}})
    before = world.ask("/flow_runs/count")
    with pytest.raises(urllib.error.HTTPError) as refused:
        world.ask(f"/deployments/{deployment['id']}/create_flow_run", run)
    assert refused.value.code in (409, 422)
    assert world.ask("/flow_runs/count") == before


def test_what_a_worker_cannot_do_as_asked_it_refuses_in_words(world: World) -> None:
    there = PARAMETERS | {"digest": sha256(b"").hexdigest()}
    asked = {
        "dvc.lock: it did not arrive as it was sent": PARAMETERS,
        "constraints.txt: this worker has torch ": there | {"versions": {"torch": "0.0.1"}},
        f"commit {'0' * 40} is not on the Git remote of this worker": there,
    }
    stages = {"deployments": {"name": {"any_": ["stage"]}}}
    wait(lambda: world.ask("/deployments/filter", stages), 60, "no worker has started")
    (deployment,) = world.ask("/deployments/filter", stages)
    made: dict[str, str] = {}

    def is_taken(words: str, label: str) -> bool:
        run = {"parameters": asked[words], "work_queue_name": label}
        try:
            made[words] = world.ask(f"/deployments/{deployment['id']}/create_flow_run", run)["id"]
        except urllib.error.HTTPError as error:
            assert error.code == 503  # its database is locked for a moment
        return words in made

    for words, label in zip(asked, ("big", "small", "big"), strict=True):
        wait(lambda words=words, label=label: is_taken(words, label), 60, "the server takes no run")

    def states() -> dict[str, Any]:
        found = world.ask("/flow_runs/filter", {"flow_runs": {"id": {"any_": list(made.values())}}})
        return {run["id"]: run["state"] for run in found}

    wait(lambda: {state["type"] for state in states().values()} == {"FAILED"}, 120, lambda: f"{states()}")
    for words, run in made.items():
        told = states()[run]["message"]
        assert words in told and "(on worker " in told and "Traceback" not in told, told


def test_a_run_that_waits_says_with_which_run_the_worker_is_busy_since_when(world: World) -> None:
    (world.one.root / "pid").unlink(missing_ok=True)
    busy = world.start("tokenization")
    waiting = None
    try:
        world.one.beating(seconds=120)
        world.home.write("in.txt", "rows that wait\n")
        waiting = world.start("training")
        assert waiting.stdout
        busy_with = re.compile(r"waiting: \S+ is busy with tokenization@toy since \d\d:\d\d:\d\d")
        assert any(busy_with.search(line) for line in waiting.stdout)
        busy.kill()
        waiting.communicate(timeout=120)
        assert waiting.returncode == 0
        assert world.home.read("b") == "one\nrows that wait\n"
    finally:
        for child in filter(None, (busy, waiting)):
            child.kill()
            child.communicate()


def test_a_server_that_takes_nothing_in_for_a_while_ends_no_stage(world: World) -> None:
    """As with SQLite, where one writes for long: neither side may take the other for dead. It answers at first, and
    no more once what wants to write has all the connections of its pool.
    """
    (world.one.root / "pid").unlink(missing_ok=True)
    run = world.start("tokenization")
    try:
        stage = world.one.beating(seconds=120)
        with (
            closing(sqlite3.connect(world.folder / "prefect" / "prefect.db", timeout=60)) as database,
            ThreadPoolExecutor(20) as crowd,
        ):
            database.execute("BEGIN IMMEDIATE")
            with pytest.raises(subprocess.TimeoutExpired):
                run.wait(2)
            for at in range(20):
                crowd.submit(world.ask, "/variables/", {"name": f"v{at}", "value": at})
            with pytest.raises(subprocess.TimeoutExpired):
                run.wait(40)
            database.rollback()
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(10)
        assert Path(f"/proc/{stage}").exists()
    finally:
        run.kill()
    assert "waiting: Prefect's server takes nothing in, or answers late" in run.communicate()[0]
    wait(lambda: not Path(f"/proc/{stage}").exists(), 120, f"{stage} goes on")


def test_a_stage_of_a_retrains_workspace_travels_as_one_of_the_checkout(world: World) -> None:
    child = world.home.start("-c", IN_A_WORKSPACE, **world.environment)
    said = child.communicate(timeout=180)
    assert child.returncode == 0, said
    assert "one\na workspace's rows\n" in said[0]


def test_who_does_not_know_the_servers_password_is_refused(world: World) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        world.ask("/flow_runs/filter", password=False)
    assert refused.value.code == 401


def engine_of(stage: int) -> int:
    """The process of Prefect's engine, above a stage's."""
    import psutil

    return next(p.pid for p in psutil.Process(stage).parents() if "prefect.engine" in p.cmdline())


@pytest.mark.parametrize("killed", ["worker", "worker and engine", "orchestrator"])
def test_a_kill_leaves_no_orphan_and_a_run_that_has_ended(world: World, killed: str) -> None:
    (world.one.root / "pid").unlink(missing_ok=True)
    run = world.start("tokenization")
    try:
        stage = world.one.beating(seconds=120)
        engine, worker = engine_of(stage), world.big
        if killed == "orchestrator":
            run.kill()
        else:
            worker.kill()
            if killed != "worker":
                os.kill(engine, signal.SIGKILL)
        for process in [stage] if killed == "orchestrator" else [stage, engine]:
            wait(lambda pid=process: not Path(f"/proc/{pid}").exists(), 60, f"{process} goes on")
        said, _ = run.communicate(timeout=240)
        wait(lambda: world.newest()["state_type"] in ("CRASHED", "CANCELLED", "FAILED"), 60, "the run has no end")
    finally:
        run.kill()
    if killed != "orchestrator":
        assert run.returncode == 3
        assert "tokenization@toy Failed" in said
        world.big = world.work(world.one, "big")


def test_a_run_that_nobody_waits_for_ends_in_the_middle_of_fetching(world: World) -> None:
    settings = world.one.root / ".dvc" / "config.local"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a DVC remote that takes connections, and says nothing
        silent.settimeout(120)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        shutil.rmtree(world.one.root / ".dvc" / "cache")
        settings.write_text(f"['remote \"store\"']\n    url = {address}\n")
        run = world.start("tokenization")
        try:
            with silent.accept()[0]:
                engine = world.newest()["infrastructure_pid"].rpartition(":")[2]
                run.kill()
                wait(lambda: not Path(f"/proc/{engine}").exists(), 60, "it goes on")
        finally:
            run.kill()
            settings.unlink()
    said = world.newest()["state"]
    assert said["type"] == "CRASHED" and "no sign of life" in said["message"], said


def test_what_a_worker_began_another_goes_on_with_where_they_share_checkpoints(world: World) -> None:
    (world.one.root / "pid").unlink(missing_ok=True)
    run = world.start("postprocessing")
    try:
        world.one.beating(seconds=120)
        world.big.terminate()
        said, _ = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == 3 and "postprocessing@toy Failed" in said, said
    assert world.big.wait(40) == 0
    other = world.work(world.two, "big")
    world.run("postprocessing")
    assert world.home.read("e") == "one began, two went on"
    other.terminate()
    assert other.wait(40) == 0
    world.big = world.work(world.one, "big")


def test_who_was_only_away_sends_its_stage_again(world: World) -> None:
    (world.one.root / "pid").unlink(missing_ok=True)
    run = world.start("tokenization")
    try:
        stage = world.one.beating(seconds=120)
        run.send_signal(signal.SIGSTOP)
        wait(lambda: not Path(f"/proc/{stage}").exists(), 60, f"{stage} goes on")
        (world.one.root / "pid").unlink()
        run.send_signal(signal.SIGCONT)
        again = world.one.beating(seconds=120)
        assert again != stage and world.newest()["state_type"] == "RUNNING"
    finally:
        run.kill()
    wait(lambda: not Path(f"/proc/{again}").exists(), 60, f"{again} goes on")
