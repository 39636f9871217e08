"""A pipeline as a Prefect flow: what Prefect shows of it, what a person sees, and how it ends."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ROOT, Toy, processes_in, wait

from flows import dvc
from flows.terminal import Terminal, duration
from trainwright.core.layout import Layout
from trainwright.operations import Operation, Operations, Running

pytestmark = pytest.mark.usefixtures("prefect_api")

FIRST = {"cmd": "echo one line; cp in.txt a", "deps": ["in.txt"], "outs": ["a"]}
SECOND = {"cmd": "cp a b", "deps": ["a"], "outs": ["b"]}
REFUSAL = "The cleaning gate of toy refused these data.\n  ids_unique: every id is there once. Promised: none; seen: 2."
RESULT = {
    "passed": False,
    "promises": [
        {
            "name": "ids_unique",
            "says": "every <id> is | there once",
            "observed": 2,
            "minimum": None,
            "maximum": 0,
            "success": False,
        }
    ],
}
METRICS = {
    "test": {
        "count": 1200,
        "exact": {"value": 25.0, "low": 20.1, "high": 30.2},
        "f1": {"value": 36.4, "low": 31.0, "high": 41.0},
    },
    "untrained": {
        "count": 1200,
        "exact": {"value": 0.0, "low": 0.0, "high": 1.0},
        "f1": {"value": None, "low": None, "high": None},
    },
}


def run(toy: Toy, **operations: Operation) -> int:
    from flows.pipeline import Pipeline

    running = Running.model_construct(operations={"toy": Operations.model_construct(**operations)})
    return Pipeline(Layout(toy.root, "toy"), dvc.Project(toy.root), running, Terminal()).run()


def fails(toy: Toy, stage: str, exit_code: int, message: str) -> str:
    """The command of a stage that says `message` as our stages do, and fails."""
    says = json.dumps({"exit_code": exit_code, "message": message})
    toy.write(f"{stage}.json", says)
    folder = Layout(toy.root, "toy").failure(stage).parent.relative_to(toy.root)
    return f"echo tried >> tries; mkdir -p {folder}; cp {stage}.json {folder}/; exit {exit_code}"


def told(what: str) -> Any:
    """Prefect's own record of the newest flow run: "flow", "tasks" (by name), "logs" or "artifacts" (by key)."""
    return asyncio.run(_told(what))


async def _told(what: str) -> Any:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters, sorting

    async with get_client() as client:
        (newest,) = await client.read_flow_runs(sort=sorting.FlowRunSort.START_TIME_DESC, limit=1)
        mine = filters.FlowRunFilterId(any_=[newest.id])
        if what == "flow":
            return newest
        if what == "tasks":
            runs = await client.read_task_runs(flow_run_filter=filters.FlowRunFilter(id=mine))
            return {run.name: run for run in runs}
        if what == "logs":
            return [log.message for log in await client.read_logs(filters.LogFilter(flow_run_id={"any_": [newest.id]}))]
        found = await client.read_artifacts(flow_run_filter=filters.FlowRunFilter(id=mine))
        return {artifact.key: artifact for artifact in found}


def states() -> dict[str, str]:
    return {name: run.state_name for name, run in told("tasks").items()}


def seen(expected: dict[str, str]) -> None:
    """Prefect records states a moment after they are reached."""
    wait(lambda: states() == expected, 20, lambda: f"Prefect shows {states()}")


@pytest.fixture
def two(toy: Toy) -> Iterator[Toy]:
    toy.stages(first=FIRST, second=SECOND)
    toy.write("in.txt", "one")
    yield toy


def test_prefect_shows_each_stage_as_completed_skipped_or_cached(two: Toy) -> None:
    assert run(two) == 0
    seen({"first@toy": "Completed", "second@toy": "Completed"})
    assert told("flow").state_name == "Completed"
    assert run(two) == 0
    seen({"first@toy": "Skipped", "second@toy": "Skipped"})
    two.write("in.txt", "other")
    assert run(two) == 0
    two.write("in.txt", "one")
    assert run(two) == 0
    seen({"first@toy": "Cached", "second@toy": "Cached"})


def test_a_stages_lines_reach_the_terminal_under_its_heading_and_prefects_log(
    two: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(two) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0:2] == ["first@toy", "    one line"]
    assert lines[2].startswith("    Completed in ")
    assert lines[-1].startswith("toy: Completed in ")
    wait(lambda: "one line" in told("logs"), 20, "the line is not in the log")


def test_a_failed_gate_ends_the_flow_with_its_own_words_and_stops_what_waits_for_it(toy: Toy) -> None:
    gate = {"cmd": fails(toy, "cleaning_gate", 1, REFUSAL), "deps": ["a"], "outs": ["cert"]}
    toy.stages(cleaning=FIRST, cleaning_gate=gate, splitting={"cmd": "touch b", "deps": ["cert"], "outs": ["b"]})
    toy.write("in.txt", "one")
    toy.write("data/toy/gates/cleaning/result.json", json.dumps(RESULT))
    assert run(toy, cleaning=Operation(retries=2)) == 1
    assert told("flow").state_name == "Failed"
    assert told("flow").state.message == f"cleaning_gate@toy: {REFUSAL}"
    seen({"cleaning@toy": "Completed", "cleaning_gate@toy": "Failed", "splitting@toy": "NotReady"})
    assert not (toy.root / "b").exists()


def test_a_failed_gate_has_an_artifact_in_which_markdown_from_data_stays_text(toy: Toy) -> None:
    toy.stages(cleaning_gate={"cmd": fails(toy, "cleaning_gate", 1, REFUSAL)})
    toy.write("data/toy/gates/cleaning/result.json", json.dumps(RESULT))
    assert run(toy) == 1
    artifact = told("artifacts")["toy-cleaning-gate"]
    assert "REFUSED" in artifact.description
    assert json.loads(artifact.data) == [
        {
            "promise": r"ids\_unique: every \<id\> is \| there once",
            "promised": "none",
            "observed": "2",
            "verdict": "BROKEN",
        }
    ]


def test_when_only_a_floor_is_broken_the_report_is_there_and_the_scores_are_told(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics, page = "data/toy/postprocessing/metrics.json", "data/toy/report/index.html"
    toy.write("metrics.json", json.dumps(METRICS))
    toy.stages(
        postprocessing={"cmd": f"mkdir -p data/toy/postprocessing; cp metrics.json {metrics}", "outs": [metrics]},
        report={"cmd": f"mkdir -p data/toy/report; touch {page}", "deps": [metrics], "outs": [page]},
        report_gate={"cmd": fails(toy, "report_gate", 1, "F1 is under its floor"), "deps": [page], "outs": ["cert"]},
    )
    assert run(toy) == 1
    said = capsys.readouterr().out
    assert "report_gate@toy Failed: F1 is under its floor" in said
    assert " ".join(["F1", "36.4", "(31.0", "to", "41.0)", "test,", "1,200", "rows"]) in " ".join(said.split())
    assert "undefined" in said
    assert page in said
    rows = json.loads(told("artifacts")["toy-scores"].data)
    assert {"set": "test", "score": "F1", "value": 36.4, "low": 31.0, "high": 41.0, "rows": 1200} in rows


def test_results_of_an_earlier_run_are_not_told_as_this_ones(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    toy.write("data/toy/postprocessing/metrics.json", json.dumps(METRICS))
    toy.stages(training={"cmd": "exit 5", "outs": ["a"]}, postprocessing=SECOND)
    assert run(toy) == 3
    assert "36.4" not in capsys.readouterr().out
    assert set(told("artifacts")) == {"toy-progress"}


def test_a_failure_of_the_machinery_is_tried_again(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    toy.stages(training={"cmd": "echo tried >> tries; test $(wc -l < tries) -gt 1"})
    assert run(toy, training=Operation(retries=1, retry_delay_seconds=0)) == 0
    assert re.search(r"exited with 1\n +It is tried again", capsys.readouterr().out)
    seen({"training@toy": "Completed"})
    assert toy.read("tries") == "tried\n" * 2


@pytest.mark.parametrize("exit_code", [1, 2])
def test_a_no_is_not_asked_again(toy: Toy, exit_code: int) -> None:
    toy.stages(training={"cmd": fails(toy, "training", exit_code, "no")})
    assert run(toy, training=Operation(retries=3, retry_delay_seconds=0)) == exit_code
    assert toy.read("tries") == "tried\n"


def test_a_stage_over_its_time_is_timed_out_and_leaves_no_process(toy: Toy) -> None:
    toy.stages(training={"cmd": "python beat.py pid"})
    limit = Operation.model_construct(retries=0, retry_delay_seconds=0, timeout_minutes=0.1)
    assert run(toy, training=limit) == 3
    seen({"training@toy": "TimedOut"})
    assert "timeout_minutes" in told("flow").state.message
    wait(lambda: not processes_in(toy.root), 20, "still running")


def test_the_traceback_of_a_stage_stays_in_its_file(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    message = 'Traceback (most recent call last):\n  File "x.py", line 1\nKeyError: 7'
    toy.stages(training={"cmd": fails(toy, "training", 3, message)})
    assert run(toy) == 3
    said = capsys.readouterr().out
    assert "KeyError: 7 (traceback in .trainwright/failures/toy/training.json)" in said
    assert "x.py" not in said


def test_the_flow_loads_no_torch_and_no_great_expectations() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'great_expectations'} & set(sys.modules)"
    code = (
        f"import sys, flows.pipeline, flows.checking, flows.pinning, flows.recipes, flows.cli; sys.exit(repr({heavy}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (12.3, "12 s"), (59.6, "1 min 0 s"), (7500, "2 h 5 min")]
)
def test_durations_read_as_a_person_says_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words
