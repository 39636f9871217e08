"""Fifty pipelines whose schedules fire in the same minute, on one server with one worker: what it costs.

    python -m benchmarks.fifty [--pipelines 50]

A clone with a Git and a DVC remote that are folders and as many small pipelines (those of tests/ticks.py: three stages
and their gates); a real Prefect server, `trainwright deploy` with a cron of a minute that is near, and `trainwright
worker retrain`. Every tick finds a first version to make, publishes it, and leaves its decision. Told are the time from
the minute to the last decision, the processor seconds of a tick, and the most memory that server and worker's processes
had together.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from benchmarks.running import House as Running  # which finds the tests' modules, too

MINUTES = 2  # until the schedules fire
PATIENCE = 3600  # seconds
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class House(Running):
    """The remotes and server of `running`, with a clone of small pipelines."""

    def _fill(self) -> None:
        self.home.mkdir()
        self.do(self.folder, "git", "init", "--quiet", "--initial-branch", "main", str(self.home))
        for key, value in {"user.name": "Bench", "user.email": "bench@example.org"}.items():
            self.do(self.home, "git", "config", key, value)
        self.do(self.home, "git", "remote", "add", "origin", str(self.folder / "remote.git"))

    def pipelines(self, names: list[str], at: datetime) -> None:
        os.environ |= {"DVC_SITE_CACHE_DIR": self.environment["DVC_SITE_CACHE_DIR"]}
        from ticks import House as Small

        schedule = {"schedule": {"cron": f"{at.minute} {at.hour} * * *", "timezone": "UTC"}}
        Small(self.home, names, operations=dict.fromkeys(names, schedule))
        self.do(self.home, "git", "push", "--quiet", "origin", "HEAD:main")


def memory(processes: list[psutil.Process]) -> list[float]:
    """Megabytes that each process has with its children, those shared by several counted once for each."""
    found = []
    for process in processes:
        total = 0
        for one in (process, *process.children(recursive=True)):
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        found.append(total / 1e6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipelines", type=int, default=50)
    count = parser.parse_args().pipelines
    names = [f"p{number:02d}" for number in range(count)]
    with tempfile.TemporaryDirectory(prefix="trainwright-fifty-") as folder:
        house = House(Path(folder))
        with house.server() as server:
            at = (datetime.now(UTC) + timedelta(minutes=MINUTES)).replace(second=0, microsecond=0)
            house.pipelines(names, at)
            house.command("deploy")
            worker = house.start(house.home, sys.executable, "-m", "flows.cli", "worker", "retrain")
            known = [psutil.Process(child.pid) for child in (server, worker)]
            peak, states = [0.0, 0.0], Counter[str]()
            while sum(states[end] for end in ENDS) < count and time.time() - at.timestamp() < PATIENCE:
                time.sleep(2)
                peak = [max(pair) for pair in zip(peak, memory(known), strict=True)]
                runs = server.ask("/flow_runs/filter", {"flows": {"name": {"any_": ["retrain"]}}, "limit": 200})
                mine = [run for run in runs if datetime.fromisoformat(run["expected_start_time"]) <= datetime.now(UTC)]
                states = Counter(run["state_type"] for run in mine)
            took, spent = time.time() - at.timestamp(), _spent(worker)
            named = Counter(run["state_name"] for run in mine)
            worker.terminate()
            worker.wait()
        versions = house.do(house.home, "git", "ls-remote", "origin", "refs/tags/*@v1.0.0").count("@v1.0.0\n")
        decided = _decisions(house.home, names)
    print(f"{count} pipelines, {os.cpu_count()} processors: {', '.join(f'{n} {name}' for name, n in named.items())}")
    told = f"{sum(decided.values())}, of {sum(map(bool, decided.values()))} pipelines"
    print(f"decisions in the ledger: {told}; versions published: {versions}")
    print(f"{took:.0f} s from the minute to the last decision, {spent / count:.1f} processor seconds a tick")
    print(f"memory: server {peak[0]:,.0f} MB, worker with its ticks {peak[1]:,.0f} MB")


def _spent(process: "subprocess.Popen[bytes]") -> float:
    times = psutil.Process(process.pid).cpu_times()
    children = [child.cpu_times() for child in psutil.Process(process.pid).children(recursive=True)]
    return sum(t.user + t.system + t.children_user + t.children_system for t in (times, *children))


def _decisions(home: Path, names: list[str]) -> Counter[str]:
    from flows import ledger

    ledger.sync(home)
    return Counter({name: len(ledger.entries(home, name)) for name in names})


if __name__ == "__main__":
    main()
