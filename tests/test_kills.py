"""Kills of what a deployed pipeline runs on, at random moments: its server, its workers, the processes they start."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, processes_in, wait
from fixtures.serving import Server, serving
from ticks import STAGES, House

pytestmark = pytest.mark.slow

MANY = pytest.mark.skipif("TRAINWRIGHT_MANY" not in os.environ, reason="long: set TRAINWRIGHT_MANY=1 to run it")
LABELS = ("retrain", "big")
KILLED = ("the server", *(f"the {label} worker{more}" for label in LABELS for more in ("", " with its engine")))
OURS = ("prefect.engine", "flows.dvc", "make.py")  # what the processes of a run have in their commands


class Deployed(House):
    """A house whose pipeline is deployed: a server, a worker for its ticks, and one for a stage, in the same clone."""

    def __init__(self, clone: Path, server: Server) -> None:
        schedule = {"cron": "0 2 1 1 *", "timezone": "UTC"}
        super().__init__(clone, operations={"one": {"schedule": schedule}}, dispatch={"evaluation": "big"})
        self.server, self.workers = server, dict[str, subprocess.Popen[bytes]]()
        self.said = (clone.parent / "workers.log").open("ab")
        assert self.command("deploy").wait(180) == 0
        for label in LABELS:
            self.work(label)

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.server.environment},
            stdout=self.said,
            stderr=self.said,
        )

    def work(self, label: str) -> None:
        self.workers[label] = self.command("worker", label)

    def tick(self) -> str:
        """Have a run of the pipeline begin, as its schedule would. Returns the run's id."""
        (deployed,) = self.server.ask("/deployments/filter", {"deployments": {"name": {"any_": ["one"]}}})
        return str(self.server.ask(f"/deployments/{deployed['id']}/create_flow_run")["id"])

    def state(self, run: str) -> dict[str, Any]:
        (found,) = self.server.ask("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return dict(found["state"])

    def final(self, run: str) -> bool:
        return self.state(run)["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def ends(self, run: str, words: str) -> None:
        wait(lambda: self.final(run), 180, lambda: f"{words}: the run does not end: {self.state(run)}")

    def running(self) -> list[str]:
        """The processes of runs, in the checkout or in a workspace."""
        spaces = [path for path in (self.root / ".trainwright" / "workspaces").glob("one-*") if path.is_dir()]
        found = [command for folder in (self.root, *spaces) for command in processes_in(folder)]
        return [command for command in found if any(part in command for part in OURS)]

    def kill(self, who: str) -> None:
        """End it by SIGKILL, and start it again once what it had started is gone."""
        if who == "the server":
            self.server.kill()
            self.server.start()
            return
        label = who.split()[1]
        worker = self.workers[label]
        engines = [
            child
            for child in psutil.Process(worker.pid).children(recursive=True)
            if "prefect.engine" in child.cmdline()
        ]
        worker.kill()
        for engine in engines if "engine" in who else []:
            with suppress(psutil.NoSuchProcess):
                engine.kill()
        worker.wait()
        wait(lambda: not any(engine.is_running() for engine in engines), 20, f"{engines} go on")
        self.work(label)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers.values():
            worker.wait(60)
        self.said.close()


@pytest.fixture
def deployed(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployed]:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(clone.parent / ".site"))
    with serving(tmp_path / "prefect") as server:
        house = Deployed(clone, server)
        yield house
        house.close()


@MANY
@pytest.mark.parametrize("seed, draws", [(1, 2), *((seed, 5) for seed in range(2, 12))])
def test_whatever_is_killed_of_server_and_workers_the_run_ends_and_the_next_loses_and_doubles_nothing(
    deployed: Deployed, seed: int, draws: int
) -> None:
    """Each kind at most once, in random order, each after a random while."""
    moments, expected = random.Random(seed), dict[str, int]()
    for number, who in enumerate(moments.sample(KILLED, len(KILLED))[:draws]):
        rows = 41 + number
        deployed.source("one", rows)
        run = deployed.tick()
        time.sleep(moments.random() * 12)  # the moment is what is drawn, not what is waited for
        deployed.kill(who)
        drawn = f"draw {number}: {who}"
        deployed.ends(run, drawn)
        wait(lambda: not deployed.running(), 20, lambda drawn=drawn: f"{drawn}: left running: {deployed.running()}")
        again = deployed.tick()
        deployed.ends(again, f"{drawn}: the next")
        assert deployed.state(again)["name"] in ("Published", "NothingToDo"), f"{drawn}: {deployed.state(again)}"
        expected[f"v1.{number}.0"] = rows
        assert deployed.versions() == list(expected), drawn
        ended = [told[2] for told in deployed.told() if told[0] == "end" and told[3] == str(rows)]
        assert set(ended) == set(STAGES) and len(ended) <= len(STAGES) + 1, f"{drawn}: stages that ended: {ended}"
    for version, rows in expected.items():
        deployed.whole(version, rows)
