"""What several test files share: small DVC projects whose stages are a line of shell or Python, and one Prefect API."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from flows import pinning
from trainwright.core import params
from trainwright.core.layout import STAGES, Layout
from trainwright.core.process import Run
from trainwright.gates import runner

settings.register_profile("untimed", deadline=None)  # a busy machine is no defect of ours
settings.load_profile("untimed")

ROOT = Path(__file__).parent.parent
BEAT = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
while True:
    print("beat", flush=True)
    time.sleep(0.05)
"""


def ran(root: Path, section: dict[str, Any]) -> Run:
    """A project in `root`, with one pipeline `tiny`, whose every stage and gate has run in this process."""
    (root / "params.yaml").write_text(json.dumps({"pipelines": {"tiny": section}}))
    (root / "dvc.yaml").write_text("stages: {}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run = Run(Layout(root, "tiny"), params.load(root / "params.yaml").pipeline("tiny"))
        pinning.ensure(run.layout, run.params)
        for stage in STAGES:
            importlib.import_module(f"stages.{stage}").main(run)
            runner.run(run.layout, run.params, stage)
    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests come first, so that at the end no core waits for the other's last file."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


class Toy:
    """A DVC project in `root` with stages of the tests' own making."""

    def __init__(self, root: Path) -> None:
        from dvc.repo import Repo

        self.root = root
        Repo.init(str(root), no_scm=True).close()
        (root / "beat.py").write_text(BEAT)

    def stages(self, **stages: dict[str, Any]) -> None:
        """Write dvc.yaml. `first={...}` is the stage `first@toy`, unless its name says another pipeline."""
        graph: dict[str, Any] = {}
        for name, stage in stages.items():
            base, _, pipeline = name.partition("__")
            graph.setdefault(base, {"foreach": {}, "do": {"cmd": "${item.cmd}"}})
            graph[base]["foreach"][pipeline or "toy"] = {"cmd": stage["cmd"]}
            graph[base]["do"] |= {key: value for key, value in stage.items() if key != "cmd"}
        (self.root / "dvc.yaml").write_text(json.dumps({"stages": graph}))

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def read(self, name: str) -> str:
        return (self.root / name).read_text()

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """A process of this Python in the project; ended, with its group, by whoever started it."""
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that starts us in the background has SIGINT ignored, which a child would inherit.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )

    def beating(self, name: str = "pid", seconds: float = 60) -> int:
        """The process id of a stage that runs beat.py, once it has written it."""
        path = self.root / name
        wait(lambda: path.exists() and path.read_text() != "", seconds, f"{name} was not written")
        return int(path.read_text())


def wait(condition: Callable[[], Any], seconds: float, otherwise: str | Callable[[], str]) -> None:
    """`otherwise` tells of what did not come: words, or what finds them then."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise if isinstance(otherwise, str) else otherwise()
        time.sleep(0.02)


def processes_in(root: Path) -> list[str]:
    """The commands of all living processes, but ours, whose working folder is `root`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if (entry / "cwd").readlink() == root:
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:  # it has ended
                continue
    return found


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / ".site"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Toy(tmp_path.resolve())


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A bare Git repository to publish to, as one on a server."""
    subprocess.run(["git", "init", "--quiet", "--bare", "remote.git"], cwd=tmp_path, check=True)
    return tmp_path.resolve() / "remote.git"


@pytest.fixture
def clone(tmp_path: Path, remote: Path) -> Path:
    """A repository with one commit, whose origin is `remote`."""
    root = tmp_path.resolve() / "clone"
    root.mkdir()
    (root / ".gitignore").write_text("/.trainwright/\n")
    commands = (
        ["init", "--quiet", "--initial-branch=main"],
        ["config", "user.name", "Someone"],
        ["config", "user.email", "someone@example.org"],
        ["remote", "add", "origin", str(remote)],
        ["add", "--all"],
        ["commit", "--quiet", "--message=Begin"],
        ["push", "--quiet", "origin", "main"],
    )
    for command in commands:
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Our own embedded server, once a session. Nothing but flows.pipeline may import prefect, and only after it."""
    from flows.server import Server

    assert "prefect" not in sys.modules
    server = Server(tmp_path_factory.mktemp("prefect"))
    server.ready()
    yield
