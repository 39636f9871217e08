"""What a worker has, what it lends, and what travels to it: without a server."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, Toy, wait

from flows import dvc, dvc_lock, git, leases, worker
from flows.dvc_process import Line
from flows.worker import Machine, _limit, look, serve
from trainwright.core.errors import InputError, MachineryError
from trainwright.operations import Label, Running

HOLD = """
import sys
from pathlib import Path
from flows import leases
def wait(words):
    print(words, flush=True)
with leases.lease(int(sys.argv[1]), ["0", "1", "2"], wait, Path(sys.argv[2])) as lent:
    print("lent", lent, flush=True)
    sys.stdin.read()
"""


class Holder:
    """A process that holds devices until its input ends."""

    def __init__(self, count: int, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(count), str(folder)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.said: Iterator[str] = map(str.strip, self.process.stdout)


def test_no_device_is_lent_twice_and_a_killed_holder_gives_its_own_back(tmp_path: Path) -> None:
    first, second = Holder(1, tmp_path), Holder(2, tmp_path)
    third = None
    try:
        lent = [*next(first.said).split()[1].split(","), *next(second.said).split()[1].split(",")]
        assert sorted(lent) == ["0", "1", "2"]
        third = Holder(2, tmp_path)
        assert next(third.said) == "2 of the devices 0, 1, 2 of this machine, which other stages hold"
        second.process.kill()
        assert next(said for said in third.said if said.startswith("lent")).split()[1].split(",") == sorted(lent[1:])
    finally:
        for holder in filter(None, (first, second, third)):
            holder.process.kill()
            holder.process.communicate()


def test_a_stage_without_devices_sees_none(tmp_path: Path) -> None:
    with leases.lease(0, ["0", "1"], print, tmp_path) as lent:
        assert lent == ""


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (Label(gpu_memory_gb=16), "gpu needs gpu_memory_gb: 16.0, this machine has 12.0"),
        (Label(cuda="12.10"), "gpu needs cuda: 12.10, this machine has 12.4"),
        (Label(memory_gb=65), "gpu needs memory_gb: 65.0, this machine has 64.0"),
        (Label(cpus=9), "gpu needs cpus: 9, this machine has 8"),
        (Label(devices=3), "gpu needs devices: 3, this machine has 2"),
    ],
)
def test_a_need_that_is_not_met_is_said_and_a_lesser_one_is_met(needs: Label, words: str) -> None:
    machine = Machine(cpus=8, memory_gb=64.0, devices=("0", "1"), gpu_memory_gb=(24.0, 12.0), cuda="12.4")
    assert machine.unmet("gpu", needs) == [words]
    assert machine.unmet("gpu", Label(gpu_memory_gb=12, cuda="12.4", memory_gb=64, cpus=8, devices=2)) == []


def test_a_machine_without_gpus_does_not_meet_a_need_of_one() -> None:
    machine = Machine(cpus=8, memory_gb=64.0)
    assert len(machine.unmet("gpu", Label(gpu_memory_gb=1, cuda="11"))) == 3
    assert look().cpus >= 1


def test_a_worker_of_retrains_serves_no_stages_and_runs_several_side_by_side(
    tmp_path: Path,
) -> None:
    """A retrain holds its place while its stage waits for one: on one worker the two would wait for ever."""
    with pytest.raises(InputError, match="Start two workers: one for retrain, one for the others"):
        serve(tmp_path, ["retrain", "gpu"], Running(pipelines={}))
    assert _limit(Machine(1, 8.0), {"retrain": Label()}) == 2
    assert _limit(Machine(8, 8.0), {"retrain": Label()}) == 8
    assert _limit(Machine(8, 8.0), {"cpu": Label()}) == 1


def test_a_worker_says_that_it_needs_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(InputError, match="PREFECT_API_URL unset: start one with"):
        serve(tmp_path, ["gpu"], Running(pipelines={}))


@pytest.fixture
def tracked(toy: Toy) -> Toy:
    toy.stages(first={"cmd": "cp in.txt a", "deps": ["in.txt"], "outs": ["a"]})
    toy.write("in.txt", "one\n")
    toy.write(".gitignore", "/.site/\n/a\n/secret\n")
    for arguments in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "Begin"],
    ):
        git.git(toy.root, *arguments)
    return toy


def test_what_travels_is_the_commit_itself_where_nothing_is_changed(tracked: Toy) -> None:
    assert git.snapshot(tracked.root, [], "travels") == git.head(tracked.root)


def test_edits_travel_and_new_files_only_where_the_stage_needs_them(tracked: Toy) -> None:
    tracked.write("in.txt", "two\n")
    for name in ("pin.json", "note.txt", "secret"):
        tracked.write(name, "new")
    before = git.git(tracked.root, "status", "--porcelain")
    commit = git.snapshot(tracked.root, ["pin.json", "secret", "in.txt"], "travels")
    assert git.read(tracked.root, commit, "in.txt") == b"two\n"
    assert git.read(tracked.root, commit, "pin.json") == b"new"
    assert git.read(tracked.root, commit, "note.txt") is None
    assert git.read(tracked.root, commit, "secret") is None
    assert git.git(tracked.root, "status", "--porcelain") == before


def test_an_entry_of_another_lock_is_merged_as_dvc_would_have_written_it(toy: Toy) -> None:
    second = {"cmd": "cp a b", "deps": ["a"], "outs": ["b"]}
    toy.stages(first={"cmd": "cp in.txt a", "deps": ["in.txt"], "outs": ["a"]}, second=second)
    toy.write("in.txt", "one\n")
    project = dvc.Project(toy.root)
    for stage in ("first@toy", "second@toy"):
        project.reproduce(stage, print, 60)
    whole, entry = toy.read("dvc.lock"), project.entries(["second@toy"])["second@toy"]
    assert project.inputs("second@toy") == {"a": "first@toy"}
    assert project.sources("first@toy") == ["in.txt"]
    toy.write("dvc.lock", dvc_lock.of(project.entries(["first@toy"])))
    project.merge("second@toy", entry)
    assert toy.read("dvc.lock") == whole
    assert project.changes("second@toy") == []
    with pytest.raises(MachineryError, match="no entry"):
        project.merge("second@toy", {"cmd": 7})


KEEPS = """
import pathlib, signal, sys, time
def keep(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(2)
    pathlib.Path("kept").write_text("all")
    sys.exit(143)
signal.signal(signal.SIGTERM, keep)
pathlib.Path("ready").write_text("yes")
print("ready", flush=True)
time.sleep(600)
"""


def test_a_stage_may_keep_what_it_can_before_it_is_killed(toy: Toy) -> None:
    """It is told by SIGTERM to end: when what reads its lines stops, too."""
    toy.write("keeps.py", KEEPS)
    toy.stages(first={"cmd": "exec python keeps.py"})

    def say(line: Line) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dvc.Project(toy.root).reproduce("first@toy", say, 60)
    assert toy.read("kept") == "all"


TOLD = """
import signal, sys
from pathlib import Path
from flows import dvc
def end(*_):
    raise SystemExit(5)
signal.signal(signal.SIGTERM, end)
dvc.Project(Path.cwd()).reproduce("first@toy", print, 60)
"""


def test_it_may_keep_it_where_a_run_is_told_to_end_again_and_again(toy: Toy) -> None:
    """As the kernel tells a run whose worker was killed: once for each of the worker's threads."""
    toy.write("keeps.py", KEEPS)
    toy.stages(first={"cmd": "exec python keeps.py"})
    run = toy.start("-c", TOLD)
    try:
        wait((toy.root / "ready").exists, 60, "it does not begin")
        while run.poll() is None and not (toy.root / "kept").exists():
            run.send_signal(signal.SIGTERM)
            time.sleep(0.005)
        said = run.communicate(timeout=60)
    finally:
        run.kill()
    assert toy.read("kept") == "all", said


@pytest.mark.parametrize("cut", ["a", "folder/one"])
def test_an_object_that_the_remote_has_in_part_is_found_and_not_kept(toy: Toy, cut: str) -> None:
    command = "cp in.txt a; mkdir folder; cp in.txt folder/one; echo other > folder/two"
    toy.stages(first={"cmd": command, "deps": ["in.txt"], "outs": ["a", "folder"]})
    toy.write("in.txt", "a whole line\n")
    project = dvc.Project(toy.root)
    project.reproduce("first@toy", print, 60)
    project.verify("first@toy")
    toy.write(
        ".dvc/config",
        f"[core]\n    no_scm = true\n    remote = store\n['remote \"store\"']\n    url = {toy.root}/store\n",
    )
    project = dvc.Project(toy.root)
    project.push(["first@toy"])
    shutil.rmtree(toy.root / ".dvc/cache")
    shutil.rmtree(toy.root / "folder")
    (toy.root / "a").unlink()
    (bad,) = (
        path for path in (toy.root / "store").rglob("*") if path.is_file() and path.read_text() == "a whole line\n"
    )
    bad.chmod(0o644)
    bad.write_text("a wh")
    project.pull(["first@toy"])
    with pytest.raises(MachineryError, match=re.escape(cut)):
        project.verify("first@toy")
    assert not (toy.root / ".dvc/cache" / bad.relative_to(toy.root / "store")).exists()


DEAF = """
import os, signal, sys
os.environ["TRAINWRIGHT_WORKER_PROCESS"] = str(os.getppid())
signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
from flows import worker
worker.LAST_RUNS = 1.0
worker.end_with_worker()
print(os.getpid(), flush=True)
while True:
    signal.pause()
"""


def test_a_run_that_its_workers_end_cannot_end_is_killed() -> None:
    command = [
        sys.executable,
        "-c",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])",
        DEAF,
    ]
    worker = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    run = psutil.Process(int(worker.stdout.readline()))
    worker.kill()
    worker.wait()
    try:
        assert worker.stdout.readline() == "told\n"
        wait(lambda: not run.is_running() or run.status() == psutil.STATUS_ZOMBIE, 60, "it goes on")
    finally:
        worker.stdout.close()
        with suppress(psutil.NoSuchProcess):
            run.kill()


GOES_ON = """
import signal, sys, threading
from flows import worker
worker.LOOK, worker.LAST_RUNS = 0.1, 0.5
worker.end_with_worker()
print("began", flush=True)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
threading.Lock().acquire()
threading.Event().wait()
"""


class Api(BaseHTTPRequestHandler):
    """A server that says of every run that it was ended, once `over` is set."""

    over = threading.Event()

    def do_GET(self) -> None:
        content = json.dumps({"state": {"type": "CRASHED" if self.over.is_set() else "RUNNING"}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Nothing on the terminal."""


def test_a_run_that_the_server_has_ended_and_that_goes_on_is_killed() -> None:
    with HTTPServer(("127.0.0.1", 0), Api) as api:
        threading.Thread(target=api.serve_forever, daemon=True).start()
        own = {"PREFECT_API_URL": f"http://127.0.0.1:{api.server_port}/api", "PREFECT__FLOW_RUN_ID": "a-run"}
        own |= {worker.PARENT: str(os.getpid()), "PYTHONPATH": str(ROOT)}
        run = subprocess.Popen(
            [sys.executable, "-c", GOES_ON], cwd=ROOT, env={**os.environ, **own}, stdout=subprocess.PIPE, text=True
        )
        try:
            assert run.stdout is not None and run.stdout.readline() == "began\n"
            with pytest.raises(subprocess.TimeoutExpired):
                run.wait(3)
            Api.over.set()
            assert run.wait(60) == -signal.SIGKILL
        finally:
            run.kill()
            run.communicate()
            api.shutdown()
