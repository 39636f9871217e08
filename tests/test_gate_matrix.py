"""No way into the stage after a gate leads past it: every way in, by every state that its data can be in.

The gate is cleaning's, the stage after it augmentation's, in a real DVC project with the repository's own graph
up to there. Whatever ran, augmentation has output only if it was made from bytes that the gate has passed under
its present promises.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from trainwright import pins
from trainwright.core import certificate, layout, params
from trainwright.core.errors import RefusedError
from trainwright.core.layout import Layout
from trainwright.core.yaml_file import read_yaml
from trainwright.rows import tables

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
NAME = "tiny"
NEXT = f"augmentation@{NAME}"
GRAPH = ("ingestion", "ingestion_gate", "cleaning", "cleaning_gate", "augmentation")
DVC = [sys.executable, "-m", "dvc"]

WAYS: dict[str, list[list[str]]] = {
    "dvc repro": [[*DVC, "repro"]],
    "repro -s NEXT": [[*DVC, "repro", "-s", NEXT]],
    "repro NEXT": [[*DVC, "repro", NEXT]],
    "repro -f -s": [[*DVC, "repro", "-f", "-s", NEXT]],
    "repro --pull": [[*DVC, "repro", "--pull"]],
    "repro -s NEXT --pull": [[*DVC, "repro", "-s", NEXT, "--pull"]],
    "repro --no-run-cache": [[*DVC, "repro", "--no-run-cache"]],
    "checkout, repro -s": [[*DVC, "checkout", "--force"], [*DVC, "repro", "-s", NEXT]],
    "pull, repro -s": [[*DVC, "pull", "--force"], [*DVC, "repro", "-s", NEXT]],
    "exp run": [[*DVC, "exp", "run"]],
    "trainwright run": [[sys.executable, "-m", "flows.cli", "run", NAME]],
}
WHOLE = {"dvc repro", "repro NEXT", "repro --pull", "repro --no-run-cache", "exp run", "trainwright run"}
RESTORING = {"checkout, repro -s", "pull, repro -s"}
SINGLE = set(WAYS) - WHOLE - RESTORING


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in the project at `root`, which has its own copy of the code and DVC's site cache to itself."""
    own = {"PYTHONPATH": str(root), "DVC_SITE_CACHE_DIR": str(root / "site")}
    own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the graph says `python`
    git = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = os.environ | own | git | {"DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def must(root: Path, *command: str) -> None:
    done = run(root, *command)
    assert done.returncode == 0, done.stdout + done.stderr


def write_source(root: Path, repeated: int) -> None:
    """30 questions as JSON Lines and some of them a second time, which cleaning drops; and the pin of it."""
    lines = []
    for i in range(30 + repeated):
        n = i % 30
        row = {
            "id": f"q{i:02}",
            "title": f"t{n // 3}",
            "context": f"The tower of town {n // 3} is {n // 3 + 50} m high.",
        }
        answer = {"text": [], "answer_start": []} if n % 3 == 2 else {"text": [f"town {n // 3}"], "answer_start": [13]}
        lines.append(row | {"question": f"Which tower is number {n}?", "answers": answer})
    lines.sort(key=lambda row: (row["context"], row["id"]))
    (root / "source.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pins.refresh(Layout(root, NAME), params.load(root / "params.yaml").pipeline(NAME))


def set_limit(root: Path, share: float) -> None:
    data = read_yaml(root / "params.yaml")
    data["pipelines"][NAME]["gates"]["cleaning"] = {"max_dropped_share": share}
    with (root / "params.yaml").open("w") as file:
        YAML().dump(data, file)


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose cleaning has passed its gate and been pushed; augmentation has never run."""
    root = tmp_path_factory.mktemp("passed")
    for name in ("trainwright", "stages", "flows"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".dvcignore", root)
    section = read_yaml(ROOT / "params.yaml")["pipelines"]["sample-qa"]
    section["source"] = {"uri": "source.jsonl", "format": "jsonl"}
    section["gates"]["ingestion"] = {"min_rows": 10}
    with (root / "params.yaml").open("w") as file:
        YAML().dump({"pipelines": {NAME: section}}, file)
    graph = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
    graph["stages"] = {stage: graph["stages"][stage] for stage in GRAPH}
    with (root / "dvc.yaml").open("w") as file:
        YAML().dump(graph, file)
    (root / ".gitignore").write_text("/data\n/remote\n/site\n/.trainwright\n/tmp\n__pycache__\n")
    set_limit(root, 0.2)
    write_source(root, repeated=2)
    must(root, "git", "init", "-q")
    must(root, *DVC, "init", "-q")
    must(root, *DVC, "remote", "add", "-q", "-d", "store", "remote")
    must(root, *DVC, "repro", f"cleaning_gate@{NAME}")
    must(root, *DVC, "push", "--run-cache")
    must(root, "git", "add", ".")
    must(root, "git", "commit", "-q", "-m", "A project that has passed")
    return root


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, symlinks=True)
    return target


@pytest.fixture(scope="module")
def bad(passed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after new data, of which cleaning drops more than is allowed; the old certificate still lies there."""
    root = copy(passed, tmp_path_factory.mktemp("bad") / "project")
    write_source(root, repeated=20)
    must(root, *DVC, "repro", f"cleaning@{NAME}")
    return root


@pytest.fixture(scope="module")
def bad_refused(bad: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """And after the gate has said no."""
    root = copy(bad, tmp_path_factory.mktemp("bad_refused") / "project")
    refuse(root)
    return root


@pytest.fixture(scope="module")
def tightened_refused(passed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data that passed, after the gate has said no to them under a tightened promise."""
    root = copy(passed, tmp_path_factory.mktemp("tightened_refused") / "project")
    set_limit(root, 0.0)
    refuse(root)
    return root


def refuse(root: Path) -> None:
    done = run(root, *DVC, "repro", f"cleaning_gate@{NAME}")
    assert done.returncode != 0
    assert "The cleaning gate of tiny refused these data" in done.stderr
    assert "REFUSED" in Layout(root, NAME).certificate("cleaning").read_text()


def replace_rows(root: Path) -> None:
    """Somebody edits what cleaning wrote."""
    path = Layout(root, NAME).stage("cleaning") / "rows.parquet"
    table = pq.read_table(path)
    path.unlink()  # it may be a link into DVC's cache
    tables.write(table.slice(1), path)


def remove_certificate(root: Path) -> None:
    Layout(root, NAME).certificate("cleaning").unlink()


def make_certificate(root: Path) -> None:
    """Somebody edits what cleaning wrote, and writes a certificate for it by hand."""
    replace_rows(root)
    where = Layout(root, NAME)
    paper = {"pipeline": NAME, "gate": "cleaning", "digest": layout.digest(where.stage("cleaning"))}
    where.certificate("cleaning").unlink()
    layout.write_file(where.certificate("cleaning"), json.dumps(paper, indent=2) + "\n")


# Of each state: the project that it starts from, what is done to it, and the ways that lead on because they have
# made or brought back, first, data that the gate has passed. All other ways must be refused.
STATES: dict[str, tuple[str, Callable[[Path], None] | None, set[str]]] = {
    "bad data": ("bad", None, set()),
    "data changed after a pass": ("passed", replace_rows, WHOLE | RESTORING),
    "a promise tightened": ("passed", lambda root: set_limit(root, 0.0), set()),
    "no certificate": ("passed", remove_certificate, WHOLE | RESTORING | {"repro -s NEXT --pull"}),
    "a certificate made by hand": ("passed", make_certificate, WHOLE | RESTORING),
}
CELLS = [(state, way) for state in STATES for way in WAYS]
AFTER_A_REFUSAL = [(state, way) for state in ("bad_refused", "tightened_refused") for way in sorted(SINGLE | RESTORING)]


@dataclass(frozen=True)
class Outcome:
    """A project after a way in was tried: the exit code of its last command, and all that was said."""

    root: Path
    code: int
    said: str


def go(root: Path, way: str) -> Outcome:
    said, code = "", 0
    for command in WAYS[way]:
        done = run(root, *command)
        code, said = done.returncode, said + done.stdout + done.stderr
    return Outcome(root, code, said)


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Outcome]:
    """What came of every cell that was asked for, each in a copy of its project; as many at once as there are cores."""
    tests = [item for item in request.session.items if item.module is request.module and hasattr(item, "callspec")]
    cells = [(item.callspec.params["state"], item.callspec.params["way"]) for item in tests]
    starts = {state: STATES.get(state, (state, None, set()))[0] for state, _ in cells}
    projects = {state: request.getfixturevalue(start) for state, start in starts.items()}
    folder = tmp_path_factory.mktemp("cells")

    def outcome(number: int) -> Outcome:
        state, way = cells[number]
        root = copy(projects[state], folder / str(number))
        change = STATES[state][1] if state in STATES else None
        if change:
            change(root)
        return go(root, way)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(cells, pool.map(outcome, range(len(cells))), strict=True))


def assert_refused(outcome: Outcome) -> None:
    assert outcome.code != 0, outcome.said
    assert not Layout(outcome.root, NAME).stage("augmentation").exists(), outcome.said
    assert "cleaning gate" in outcome.said or "gates/cleaning/certificate.json" in outcome.said
    assert "Traceback" not in outcome.said


@pytest.mark.parametrize(("state", "way"), CELLS, ids=[" by ".join(cell) for cell in CELLS])
def test_no_stage_runs_on_unchecked_bytes(state: str, way: str, outcomes: dict[tuple[str, str], Outcome]) -> None:
    outcome = outcomes[state, way]
    if way not in STATES[state][2]:
        assert_refused(outcome)
        return
    assert outcome.code == 0, outcome.said
    where = Layout(outcome.root, NAME)
    assert where.stage("augmentation").exists()
    certificate.check(where, params.load(where.params).pipeline(NAME), "cleaning")


@pytest.mark.parametrize(("state", "way"), AFTER_A_REFUSAL, ids=[" by ".join(cell) for cell in AFTER_A_REFUSAL])
def test_nothing_brings_an_old_certificate_back_after_a_refusal(
    state: str, way: str, outcomes: dict[tuple[str, str], Outcome]
) -> None:
    assert_refused(outcomes[state, way])


def test_a_tightened_promise_that_still_holds_runs_the_gate_again_and_nothing_after_it(
    passed: Path, tmp_path: Path
) -> None:
    root = copy(passed, tmp_path / "project")
    must(root, *DVC, "repro", "-s", NEXT)
    set_limit(root, 0.1)
    done = run(root, *DVC, "repro")
    assert done.returncode == 0
    assert "Running stage 'cleaning_gate@tiny'" in done.stdout
    assert f"Stage '{NEXT}' didn't change, skipping" in done.stdout


def test_the_remedy_for_a_byte_that_dvc_does_not_see_mends_it(passed: Path, tmp_path: Path) -> None:
    root = copy(passed, tmp_path / "project")
    where = Layout(root, NAME)
    path = where.stage("cleaning") / "rows.parquet"
    before, times = path.read_bytes(), path.stat()
    path.chmod(0o644)
    path.write_bytes(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    pipeline = params.load(where.params).pipeline(NAME)
    with pytest.raises(RefusedError) as refused:
        certificate.check(where, pipeline, "cleaning")
    command = str(refused.value).partition("`dvc ")[2].partition("`")[0].split()
    must(root, *DVC, *command)
    certificate.check(where, pipeline, "cleaning")
    assert path.read_bytes() == before
