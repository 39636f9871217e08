"""What running unattended costs: a stage that is sent to a worker, a workspace, a tick with nothing to do.

    python -m benchmarks.running [dispatch] [isolation] [nothing]

In a throw-away clone with a Git remote and a DVC remote that are folders, a Prefect server of its own and, for
`dispatch`, a worker in a second clone; the pipeline is a small one from scratch on the sample's passages. Each is
timed five times, and the median is told beside what it is compared with, in turns in the same run:

  dispatch   a stage on a worker against the same stage in this checkout, with parameters that it never had
  isolation  making a workspace, bringing what is published there, and removing it: what a run here has not
  nothing    `trainwright retrain` where nothing is new: under that server, and with one of its own
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from fixtures.serving import Server, serving  # noqa: E402  (the server of the tests)

NAME, LABEL = "tiny", "bench"
TIMES = 5
LIMITS = {"dispatch": 8.0, "isolation": 3.0, "nothing": 15.0}  # seconds
STAGE, WAYS = "augmentation", ("here", "worker")
BASE = {"scratch": {"family": "bert", "layers": 1, "heads": 2, "width": 16, "positions": 256, "tokenizer": "wordpiece"}}

SENT = """
import sys, time
from pathlib import Path
from flows import server
server.required(Path.cwd())
from flows import dispatch, dvc
from trainwright import operations
from trainwright.core.layout import Layout
name, stage, label, times = sys.argv[1:]
project, layout, path = dvc.Project(Path.cwd()), Layout(Path.cwd(), name), Path("params.yaml")
text, running = path.read_text(), operations.load(path)[1]
for turn in range(2 * int(times)):
    path.write_text(text.replace(f"{stage}: {{}}", f"{stage}: {{typing_noise: {0.01 + turn / 1000:.3f}}}", 1))
    began = time.perf_counter()
    if turn % 2:
        dispatch.reproduce(project, layout, f"{stage}@{name}", label, running, lambda line: None, 600)
    else:
        project.reproduce(f"{stage}@{name}", lambda line: None, 600)
    print(("here", "worker")[turn % 2], time.perf_counter() - began, flush=True)
path.write_text(text)
"""
ASIDE = """
import sys, time
from pathlib import Path
from flows import git, publication
from flows.workspace import bring_sources, workspace
from trainwright import operations
home, (name, times) = Path.cwd(), sys.argv[1:]
for _ in range(int(times)):
    head = publication.fetch(home, "published")
    began = time.perf_counter()
    with workspace(home, name, git.head(home)) as space:
        what = operations.load(space.root / "params.yaml")[0]
        publication.restore(space, name, what, head)
        bring_sources(space, what.pipelines[name])
    print(time.perf_counter() - began)
"""


class House:
    """A clone with remotes, and a server that dies with this process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.environment = {
            **os.environ,
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        (folder / "store").mkdir()
        self.do(ROOT, "git", "init", "--quiet", "--bare", "--initial-branch", "main", str(folder / "remote.git"))
        self._fill()

    def _fill(self) -> None:
        """Bring the clone about, and its remotes."""
        folder = self.folder
        self.do(ROOT, "git", "clone", "--quiet", str(ROOT), str(self.home))
        self._pipeline()
        who = ["--name", "Bench", "--email", "bench@example.org"]
        self.do(self.home, "git", "config", "user.name", "Bench")
        self.do(self.home, "git", "config", "user.email", "bench@example.org")
        remotes = ["--git-remote", str(folder / "remote.git"), "--dvc-remote", str(folder / "store")]
        self.command("init", *remotes, *who)
        self.do(self.home, "git", "commit", "--quiet", "--all", "--message", "One small pipeline, and our remotes")
        self.do(self.home, "git", "push", "--quiet", "origin", "HEAD:main")

    def _pipeline(self) -> None:
        """params.yaml with one small pipeline of the recipe for topics."""
        yaml = YAML()
        section = yaml.load(ROOT / "recipes" / "sample-topics.yaml")["sample-topics"]
        section["base_model"] = BASE
        section["training"] = {"epochs": 1, "learning_rate": 1e-3}
        section["postprocessing"] = {"bootstrap": 100}
        section["gates"] |= {"training": {"min_loss_drop": -5.0}, "postprocessing": {"max_predicted_share": 1.0}}
        section["gates"]["report"] = {}
        with (self.home / "params.yaml").open("w", encoding="utf-8") as file:
            yaml.dump({"pipelines": {NAME: section}}, file)

    @staticmethod
    def _python(root: Path) -> dict[str, str]:
        return {"PYTHONPATH": str(root), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def do(self, root: Path, *command: str, **more: str) -> str:
        """What a command that must succeed prints."""
        environment = self.environment | self._python(root) | more
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def command(self, *arguments: str, **more: str) -> str:
        return self.do(self.home, sys.executable, "-m", "flows.cli", *arguments, **more)

    def start(self, root: Path, *command: str) -> subprocess.Popen[bytes]:
        from trainwright.core import process

        log = (self.folder / "log.txt").open("ab")
        return subprocess.Popen(
            command, cwd=root, env=self.environment | self._python(root), stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=process.die_with_parent,  # noqa: PLW1509
        )  # fmt: skip

    @contextmanager
    def server(self) -> Iterator[Server]:
        with serving(self.folder / "prefect") as found:
            self.environment |= found.environment
            yield found


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def dispatch(house: House) -> tuple[float, str]:
    """Seconds that a worker adds to a stage: each of a pair is run with a parameter that it never had."""
    worker = house.folder / "worker"
    house.do(house.folder, "git", "clone", "--quiet", "--branch", "main", str(house.folder / "remote.git"), str(worker))
    house.command("deploy")
    child = house.start(worker, sys.executable, "-m", "flows.cli", "worker", LABEL)
    house.command("run", NAME)
    try:
        said = house.do(house.home, sys.executable, "-c", SENT, NAME, STAGE, LABEL, str(TIMES)).split()
    finally:
        child.terminate()
        child.wait()
    here, there = ([float(value) for way, value in zip(said[::2], said[1::2], strict=True) if way == of] for of in WAYS)
    added = [away - near for near, away in zip(here, there, strict=True)]
    middle = statistics.median(there), statistics.median(here)
    return statistics.median(added), f"{middle[0]:.1f} s on a worker, {middle[1]:.1f} s here; added {_all(added)}"


def isolation(house: House) -> tuple[float, str]:
    """Seconds of a workspace's making and removal, in a process that has read what it needs."""
    found = [float(line) for line in house.do(house.home, sys.executable, "-c", ASIDE, NAME, str(TIMES)).split()]
    return statistics.median(found), f"each {_all(found)}"


def nothing(house: House) -> tuple[float, str]:
    """Seconds of a tick that finds nothing to do: of the slower way, a server that is there or one of its own."""

    def tick(**more: str) -> float:
        said: list[str] = []
        spent = seconds(lambda: said.append(house.command("retrain", NAME, **more)))
        if "Nothing to do" not in said[0]:
            raise SystemExit(f"there was something to do:\n{said[0]}")
        return spent

    served, own = zip(*((tick(), tick(PREFECT_API_URL="")) for _ in range(TIMES)), strict=True)
    middle = statistics.median(served), statistics.median(own)
    return max(middle), f"{middle[0]:.1f} s under a server, {middle[1]:.1f} s with its own; {_all(served)}; {_all(own)}"


def _all(values: "list[float] | tuple[float, ...]") -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"of {', '.join(LIMITS)}; without one, all of them")
    chosen = parser.parse_args().what or list(LIMITS)
    if unknown := set(chosen) - set(LIMITS):
        parser.error(f"no such thing: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory(prefix="trainwright-running-") as folder:
        house = House(Path(folder))
        with house.server():
            if chosen != ["dispatch"]:
                house.command("retrain", NAME)  # a first version
            for what in chosen:
                value, words = globals()[what](house)
                verdict = "within" if value < LIMITS[what] else "OVER"
                print(f"{what}: {value:.1f} s, {verdict} {LIMITS[what]:g} s ({words})", flush=True)


if __name__ == "__main__":
    main()
