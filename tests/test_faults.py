"""What can happen to a machine that retrains at night, done to real ticks: each says so, and the next ends well."""

import http.server
import json
import os
import re
import socket
import socketserver
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import ROOT, processes_in, wait
from fixtures.serving import Server, serving
from test_deploy import client
from test_publication import commit
from test_training import run_training
from test_training import tiny as _tiny  # noqa: F401  (a fixture)
from ticks import STAGES, House, Tick

from flows import git, registry
from flows.workspace import turn
from trainwright.core.errors import MachineryError
from trainwright.engine import checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_api")]

OLD = 3600  # seconds


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[Path, int], Path]]:
    """Mounts a small disk of some kilobytes at a folder."""
    mounted: list[Path] = []

    def mount(folder: Path, kilobytes: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a small disk needs the right to mount one: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def house(clone: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(clone.parent / ".site"))
    return House(clone)


def fails(house: House, *parts: str) -> None:
    """A tick that cannot come to its end says why, without a traceback, and publishes nothing."""
    before = house.refs()
    code, words = Tick(house).end()
    assert code == 3 and "Traceback" not in words and "traceback" not in words, words
    assert all(part in words for part in parts), words
    assert house.refs() == before


def publishes(house: House, version: str, rows: int) -> str:
    """A tick that ends well, and what it has published is whole. Returns its words."""
    code, words = Tick(house).end()
    assert code == 0 and house.versions()[-1:] == [version], words
    house.whole(version, rows)
    return words


@pytest.mark.parametrize("place, kilobytes", [(".trainwright/workspaces", 120), (".dvc/cache", 24), ("../store", 24)])
def test_a_disk_that_is_full_is_named_and_nothing_half_written_is_taken(
    place: str, kilobytes: int, house: House, disk: Callable[[Path, int], Path]
) -> None:
    """Full while a stage writes its output, while DVC keeps it, and while it is pushed."""
    folder = disk(house.root / place, kilobytes)
    fails(house, "No space left on device")
    outcome = "unpublished" if place == "../store" else "failed"
    assert house.decisions()[0]["outcome"] == outcome
    subprocess.run(["mount", "-o", "remount,size=10m", str(folder)], check=True)
    publishes(house, "v1.0.0", 40)
    assert [told[2] for told in house.told() if told[0] == "end"].count("evaluation") == 1


def test_a_disk_without_any_room_is_told_in_words_though_the_ledger_cannot_be(
    house: House, disk: Callable[[Path, int], Path]
) -> None:
    """Nor is a tick's outcome lost for the ledger where only that has no room: the next tick puts it there."""
    none = "The ledger has no entry of this tick"
    for place in (".trainwright", ".trainwright/ledger"):
        folder = disk(house.root / place, 64)
        with (folder / "full").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b" " * 1024):
                continue
        if place == ".trainwright":
            fails(house, "No space left on device", none, "trainwright clean")
        else:
            assert none in publishes(house, "v1.0.0", 40)
        (folder / "full").unlink()
        subprocess.run(["mount", "-o", "remount,size=10m", str(folder)], check=True)
    code, words = Tick(house).end()
    assert code == 0 and "Nothing to do" in words, words
    nothing, killed = house.decisions()
    assert nothing["outcome"] == "nothing to do" and "or its disk was full" in killed["words"]


def test_where_nobody_knows_whom_to_tell_of_a_failure_the_server_is_left_to_tell(house: House) -> None:
    """It tells of what has crashed, by the automations of `deploy`: params.yaml names whom, and cannot be read."""
    house.write("params.yaml", '{"pipelines": {"one": {"task": "none"}}}')
    commit(house)
    code, words = Tick(house).end()
    assert code == 2 and "params.yaml" in words, words
    assert house.decisions()[0]["outcome"] == "failed"
    with client() as api:
        (run,) = api.read_flow_runs(sort="START_TIME_DESC", limit=1)
    assert (run.name, run.state.type) == ("one: by hand", "CRASHED") and "params.yaml" in run.state.message, run.state


@pytest.mark.parametrize("kilobytes", [60, 250])
def test_a_disk_that_is_full_leaves_no_checkpoint_that_looks_whole_and_is_told_in_words(
    kilobytes: int,
    _tiny: Path,  # noqa: F811
    tmp_path: Path,
    disk: Callable[[Path, int], Path],
) -> None:
    """Full while the weights are written, and while the optimizer's state is, for which torch has words of its own."""
    run = disk(tmp_path / "run", kilobytes)
    with pytest.raises(MachineryError, match=r"a checkpoint cannot be written to .*run, where \d+\.\d MB are free"):
        run_training(_tiny, tmp_path)
    assert not [found for found in run.glob("checkpoint-*") if checkpoints.progress(found)]
    subprocess.run(["mount", "-o", "remount,size=50m", str(run)], check=True)
    assert run_training(_tiny, tmp_path).weights.is_dir()


def test_who_read_along_may_go_away_and_the_tick_goes_on(house: House) -> None:
    """`| head`, or a terminal's pager that was left."""
    reading, writing = os.pipe()
    tick = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "retrain", "one"],
        cwd=house.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert os.read(reading, 3) == b"one"
    os.close(reading)
    assert tick.communicate(timeout=300)[1] == "" and tick.returncode == 0
    assert house.decisions()[0]["outcome"] == "published"
    house.whole("v1.0.0", 40)


def test_what_could_not_be_published_is_said_before_any_work(house: House) -> None:
    house.write(".dvc/config", "")
    commit(house)
    code, words = Tick(house).end()
    assert code == 2 and f"{house.root}: not publishable: no DVC remote. Run `trainwright init`" in words
    assert house.told() == []


@pytest.mark.parametrize(
    "sections, words",
    [
        ({"operations": {"one": {"publication": {"approval": "required"}}}}, "nobody can be asked here"),
        (
            {"dispatch": {"evaluation": "gpu"}},
            "stages are sent to gpu, whose workers a Prefect server tells of them, and",
        ),
    ],
)
def test_what_would_be_in_vain_without_a_server_is_said_before_any_work(
    house: House, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any], words: str
) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    house.params(**sections)
    commit(house)
    code, said = Tick(house).end()
    assert code == 2 and words in said, said
    assert house.told() == []


def test_locks_that_nobody_holds_stop_no_tick(house: House) -> None:
    """What a machine leaves that lost its power: locks of Git, of DVC and of our own."""
    publishes(house, "v1.0.0", 40)
    house.source("one", 41)
    names = [".git/index.lock", ".git/packed-refs.lock", ".git/refs/remotes/origin/published.lock"]
    names += [".git/refs/tags/one@v1.1.0.lock", ".git/refs/trainwright/unpublished/one.lock"]
    names += [".dvc/tmp/lock", ".dvc/tmp/rwlock", ".dvc/tmp/rwlock.lock", ".trainwright/turns/one"]
    names += [".trainwright/ledger/lock", ".trainwright/unpublished/lock", ".trainwright/workspaces/one-0.claim"]
    for name in names:
        house.write(name, "4194305")  # no process has this number
        os.utime(house.root / name, (time.time() - OLD, time.time() - OLD))
    words = publishes(house, "v1.1.0", 41)
    assert "a git that was killed had left " in words and "packed-refs.lock" in words
    assert (house.root / ".git/index.lock").exists()  # a person's
    (house.root / ".git/packed-refs.lock").write_text("")  # a git that is at work just now
    assert git.sweep(house.root) == []


def test_a_broken_dvc_lock_of_the_checkout_is_not_the_retrains(house: House) -> None:
    house.write("dvc.lock", "schema: '2.0'\nstages:\n  splitting@one:\n    cmd: pyth")
    publishes(house, "v1.0.0", 40)
    commit(house)
    house.source("one", 41)
    code, words = Tick(house).end()
    assert code == 2 and "dvc.lock: is not whole. Restore it with Git" in words, words
    git.git(house.root, "revert", "--no-edit", "HEAD")
    publishes(house, "v1.1.0", 41)


def test_a_broken_dvc_lock_on_the_published_branch_is_named_and_what_is_ready_waits(house: House) -> None:
    publishes(house, "v1.0.0", 40)
    ref = "refs/heads/published"
    good = git.commit(house.root, "origin/published") or ""
    lock = git.read(house.root, good, "dvc.lock") or b""
    bad = git.make_commit(house.root, good, {"dvc.lock": lock[: len(lock) // 2]}, [good], "Break it")
    git.push(house.root, {ref: (bad, good)})
    house.source("one", 41)
    fails(house, "one@v1.1.0 is ready, and waits", f"commit {bad[:10]} cannot be built on: dvc.lock is not as DVC")
    mended = git.make_commit(house.root, bad, {"dvc.lock": lock}, [bad], "Mend it")
    git.push(house.root, {ref: (mended, bad)})
    words = publishes(house, "v1.1.0", 41)
    assert "one@v1.1.0, ready since an earlier run, is published" in words


def test_an_edit_during_a_run_is_not_in_it(house: House) -> None:
    before = house.read("params.yaml")
    tick = Tick(house)
    begun(house, "splitting", 40)
    edited = json.loads(before)
    edited["pipelines"]["one"]["training"]["epochs"] = 1
    house.write("params.yaml", json.dumps(edited))
    code, words = tick.end()
    assert code == 0, words
    assert git.read(house.root, "one@v1.0.0", "params.yaml") == before.encode()
    code, words = Tick(house).end()
    assert code == 0 and "Nothing to do" in words and "not in it as they are here: params.yaml" in words


def test_of_a_tick_that_was_killed_the_next_one_says_so(house: House) -> None:
    for rows, killed in ((40, 1), (41, 2)):
        house.source("one", rows)
        tick = Tick(house)
        begun(house, "splitting", rows)
        tick.kill()
        assert len(house.decisions()) == 2 * (killed - 1)
        publishes(house, f"v1.{killed - 1}.0", rows)
        last, before = house.decisions()[:2]
        assert (last["outcome"], before["outcome"]) == ("published", "killed")
        assert f"left no decision: its process ({tick.process.pid}) was ended" in before["words"]
        assert before["started"] < last["started"] and before["tick"] != last["tick"]
    assert len(house.decisions()) == 4
    assert not list((house.root / ".trainwright" / "ticks" / "one").iterdir())


def test_a_clock_that_is_set_back_an_hour_changes_no_order(house: House) -> None:
    publishes(house, "v1.0.0", 40)
    house.source("one", 41)
    code, words = Tick(house, hours=-1).end()
    assert code == 0, words
    assert (git.tags(house.root, "one@v1.0.0")[0].seconds - git.tags(house.root, "one@v1.1.0")[0].seconds) > 3000
    words = publishes(house, "v1.1.0", 41)
    assert "Nothing to do: no new data, code or parameters since one@v1.1.0" in words
    newest, before, first = house.decisions()
    assert [entry["outcome"] for entry in (newest, before, first)] == ["nothing to do", "published", "published"]
    assert before["in_use"] == "one@v1.0.0" and before["time"] < first["time"] < newest["time"]
    assert [use.commit for use in registry.uses(house.root, "one")] == [
        version.commit for version in registry.versions(house.root, "one")
    ]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "prefect") as found:
        yield found


def begun(house: House, stage: str, rows: int) -> None:
    wait(lambda: any(told[:4] == ("begin", "one", stage, str(rows)) for told in house.told()), 120, "it has not begun")


def test_a_server_that_is_killed_or_whose_database_is_locked_costs_no_version_and_no_finished_stage(
    house: House, server: Server
) -> None:
    def start(**more: str) -> subprocess.Popen[str]:
        return house.start("-m", "flows.cli", "retrain", "one", **server.environment, **more)

    def ended(tick: subprocess.Popen[str], code: int) -> str:
        out, err = tick.communicate(timeout=300)
        assert tick.returncode == code and "Traceback" not in out, out + err
        return out

    tick = start()  # killed, and back after a moment
    begun(house, "splitting", 40)
    server.kill()
    server.start()
    ended(tick, 0)
    assert house.versions() == ["v1.0.0"]

    house.source("one", 41)
    hasty = {"PREFECT_CLIENT_MAX_RETRIES": "0", "PREFECT_API_REQUEST_TIMEOUT": "1"}  # in earnest it waits for longer
    tick = start(**hasty)  # killed for good
    begun(house, "splitting", 41)
    server.kill()
    ended(tick, 3)
    newest = house.decisions()[0]
    assert newest["outcome"] == "failed" and "/api does not answer any more" in newest["words"]

    server.start()
    with closing(sqlite3.connect(server.home / "prefect.db", isolation_level=None, timeout=60)) as database:
        tick = start()  # its database is locked for some seconds
        begun(house, "splitting", 41)
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(3)  # the lock's own length, which nothing waits for
        database.execute("ROLLBACK")
        ended(tick, 0)
        assert house.versions() == ["v1.0.0", "v1.1.0"]

        house.source("one", 42)
        tick = start(**hasty)  # its database stays locked
        begun(house, "splitting", 42)
        database.execute("BEGIN EXCLUSIVE")
        ended(tick, 3)
        assert "/api does not answer any more" in house.decisions()[0]["words"]
        database.execute("ROLLBACK")
    ended(start(), 0)
    assert house.versions() == ["v1.0.0", "v1.1.0", "v1.2.0"]
    done = [told[2:4] for told in house.told() if told[0] == "end"]
    assert len(done) == len(set(done)) == len(STAGES) * 3


class Relay(socketserver.BaseRequestHandler):
    """Between a client and the server at a port, whose clock it shows `off` seconds from what it is."""

    port: ClassVar[int]
    off: ClassVar[float]

    def handle(self) -> None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)) as server:
            threading.Thread(target=self._ask, args=(server,), daemon=True).start()
            while answer := server.recv(1 << 16):
                now = formatdate(time.time() + self.off, usegmt=True).encode()
                self.request.sendall(re.sub(rb"(?<=\r\ndate: )[^\r]+", now, answer))

    def _ask(self, server: socket.socket) -> None:
        with suppress(OSError):
            while asked := self.request.recv(1 << 16):
                server.sendall(asked)
            server.shutdown(socket.SHUT_WR)


def test_a_machine_whose_clock_is_not_the_servers_takes_no_run_and_says_so(house: House, server: Server) -> None:
    """It would take what is due an hour late, and its heartbeats would be an hour old."""
    house.params(labels={"gpu": {}})
    Relay.port, Relay.off = int(server.url.rpartition(":")[2]), 3600

    def said(*command: str) -> tuple[int, str]:
        child = house.start("-m", "flows.cli", *command, **through)
        out, errors = child.communicate(timeout=120)
        return child.returncode, out + errors

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as relay:
        relay.daemon_threads = True
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{relay.server_address[1]}/api"
        through = server.environment | {"PREFECT_API_URL": url}
        behind = f"this machine's clock is 3600 s behind the server's ({url})"
        code, words = said("deploy")
        assert code == 0, words
        for command in (("worker", "gpu"), ("retrain", "one")):
            code, words = said(*command)
            assert code == 2 and re.sub(r"3(599|601)", "3600", words).count(behind) == 1, words
        code, words = said("status")
        assert code == 0 and "did not start: this machine's clock is" in words

        Relay.off = 0
        worker = house.start("-m", "flows.cli", "worker", "gpu", **through)
        assert worker.stdout
        while "serves gpu" not in (line := worker.stdout.readline()):
            assert line, worker.communicate()
        Relay.off = -3600  # while it runs
        out, errors = worker.communicate(timeout=120)
        assert worker.returncode == 3 and " s ahead of the server's" in errors, out + errors
        relay.shutdown()


def test_a_server_that_stood_still_and_tells_an_old_time_at_first_shows_no_wrong_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Prefect's does after a minute in which its database was locked: every worker of it ended itself."""
    from flows.server import clock

    old = [70.0]

    class Standing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def date_time_string(self, *_: object) -> str:
            return formatdate(time.time() - (old.pop() if old else 0), usegmt=True)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Standing) as standing:
        threading.Thread(target=standing.serve_forever, daemon=True).start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{standing.server_address[1]}/api")
        assert clock() is None
        assert not old
        old += [70.0] * 9
        assert (wrong := clock()) and "70 s ahead of the server's" in re.sub("(69|71) s", "70 s", wrong.reason)
        standing.shutdown()


def test_a_tick_ends_with_the_worker_that_started_it_and_the_next_worker_publishes(
    house: House, server: Server
) -> None:
    house.params(operations={"one": {"schedule": {"cron": "0 2 * * *", "timezone": "UTC"}}})
    commit(house)

    def works() -> "subprocess.Popen[str]":
        return house.start("-m", "flows.cli", "worker", "retrain", **server.environment)

    def tick() -> str:
        (deployed,) = server.ask("/deployments/filter", {"deployments": {"name": {"any_": ["one"]}}})
        return str(server.ask(f"/deployments/{deployed['id']}/create_flow_run")["id"])

    def ticks() -> list[str]:
        return [command for command in processes_in(house.root) if "prefect.engine" in command]

    def states() -> list[str]:
        return [run["state"]["name"] for run in server.ask("/flow_runs/filter", {"flow_runs": {"id": {"any_": mine}}})]

    deployed = house.start("-m", "flows.cli", "deploy", **server.environment)
    assert deployed.wait(120) == 0, deployed.communicate()
    worker, mine = works(), [tick()]
    try:
        with turn(house.root, "one", print):  # so that it waits, and says nothing by which it would find out
            wait(ticks, 120, lambda: f"no tick begins: {states()}")
            worker.kill()
            wait(lambda: not ticks(), 60, lambda: f"{ticks()} goes on")
        worker.communicate()
        assert house.versions() == []
        worker = works()
        mine = [tick()]
        wait(lambda: states() == ["Published"], 300, lambda: f"the next tick is {states()}")
    finally:
        worker.terminate()
        worker.communicate()
    assert house.versions() == ["v1.0.0"]
    house.whole("v1.0.0", 40)
