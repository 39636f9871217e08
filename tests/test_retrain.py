"""One tick: it decides, works aside, compares and publishes, and leaves a decision on record either way.

Real Git and DVC remotes; the stages copy what a model came to, and their gates hold digests, so that a tick takes
seconds. Every tick is a process of its own, under one Prefect server.
"""

import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from conftest import Toy, processes_in, wait
from ruamel.yaml import YAML
from test_accepting import WIDE, results
from test_accepting import project as _project  # noqa: F401  (a fixture)
from test_publication import commit
from ticks import STAGES, House, Tick

from flows import challenge, git, ledger, pinning, registry
from flows.terminal import Terminal
from trainwright.champion import TestSet
from trainwright.core.layout import Layout

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_api")]

EVERY = """
import json, pathlib, sys
from trainwright.core.layout import digest
stages = ("splitting", "evaluation", "postprocessing")
for stage in stages:
    paper = json.loads(pathlib.Path(f"data/one/gates/{stage}/certificate.json").read_text())
    if paper["digest"] != digest(pathlib.Path(f"data/one/{stage}")):
        print(f"the {stage} gate did not check these bytes", file=sys.stderr)
        sys.exit(1)
print("every gate ran again: 3 promises held")
"""
MANY = pytest.mark.skipif("TRAINWRIGHT_MANY" not in os.environ, reason="long: set TRAINWRIGHT_MANY=1 to run it")


def source(toy: Toy, rows: int) -> None:
    """The pipeline's source, which Git does not know."""
    lines = [
        json.dumps({"id": f"s{n}", "context": f"The {n}th.", "question": "?", "choices": ["a", "b"], "answer": 0})
        for n in range(rows)
    ]
    toy.write("../rows.jsonl", "".join(f"{line}\n" for line in lines))


@pytest.fixture
def house(_project: Toy) -> Toy:  # noqa: F811
    """A pipeline `one` that is committed and has a source with a pin of its own."""
    toy = _project
    graph = json.loads(toy.read("dvc.yaml"))
    graph["stages"]["splitting"]["do"]["deps"].append("data/one/source.json")
    graph["stages"]["splitting"]["do"]["cmd"] += " && cp data/one/source.json data/one/splitting/"  # other data
    toy.write("dvc.yaml", json.dumps(graph))
    toy.write("stages/__init__.py", "")
    toy.write("stages/gate.py", EVERY)
    section = json.loads(toy.read("params.yaml"))["pipelines"]["one"]
    section["source"] = {"uri": str(toy.root.parent / "rows.jsonl"), "format": "jsonl"}
    section["base_model"] = {
        "scratch": {"family": "bert", "layers": 1, "heads": 1, "width": 8, "tokenizer": "wordpiece"}
    }
    toy.write("params.yaml", json.dumps({"pipelines": {"one": section}, "operations": {"one": WIDE}}))
    source(toy, 40)
    commit(toy)
    return toy


def start(toy: Toy, *arguments: str) -> subprocess.Popen[str]:
    return toy.start("-m", "flows.cli", "retrain", "one", *arguments)


def tick(toy: Toy, *arguments: str) -> tuple[int, str]:
    """The exit code and the words of one tick."""
    child = start(toy, *arguments)
    out, err = child.communicate(timeout=300)
    return child.returncode, out + err


def decisions(toy: Toy) -> list[dict[str, Any]]:
    ledger.sync(toy.root)
    return ledger.entries(toy.root, "one")


def in_use(toy: Toy) -> str | None:
    registry.fetch(toy.root, "one")
    found = registry.in_use(toy.root, "one")
    return found.version if found else None


def refs(toy: Toy) -> str:
    """What of the remote a reader of versions sees."""
    return git.git(toy.root, "ls-remote", "origin", "refs/heads/published", "refs/tags/*")


def test_ticks_publish_rest_and_publish_again_and_each_leaves_its_decision(house: Toy) -> None:
    code, words = tick(house)
    assert code == 0 and "one@v1.0.0 is published and in use" in words, words
    before = refs(house)
    code, words = tick(house)
    assert code == 0 and "Nothing to do: no new data, code or parameters since one@v1.0.0, in use since" in words
    assert "--force" in words and refs(house) == before
    source(house, 50)
    results(house.root, set(range(0, 300, 5)))
    commit(house)
    code, words = tick(house)
    assert code == 0 and "one@v1.1.0 is published" in words, words
    assert "against" in words and in_use(house) == "v1.1.0"
    newest, *others = decisions(house)
    assert [entry["outcome"] for entry in (newest, *others)] == ["published", "nothing to do", "published"]
    assert newest["commit"] == git.head(house.root) and newest["in_use"] == "one@v1.0.0"
    assert any(reason.startswith("new data: ") and "50 rows" in reason for reason in newest["reasons"])
    assert git.changed(house.root) == []  # the checkout is as it was
    assert git.git(house.root, "worktree", "list").count("\n") == 0
    assert tick(house, "--force", "--why", "I want to")[0] == 0
    newest = decisions(house)[0]
    assert newest["forced"] and newest["reasons"] == ["forced: I want to"] and newest["outcome"] == "nothing to do"
    assert "the same bytes as those of one@v1.1.0" in newest["words"] and in_use(house) == "v1.1.0"


def test_a_worse_model_is_refused_and_what_is_in_use_stays(house: Toy) -> None:
    assert tick(house)[0] == 0
    before = refs(house)
    results(house.root, set(range(0, 400, 2)))
    commit(house)
    code, words = tick(house)
    assert code == 1 and "one: refused" in words, words
    assert refs(house) == before and in_use(house) == "v1.0.0"
    assert decisions(house)[0]["outcome"] == "refused" and "30" in decisions(house)[0]["words"]


def test_what_is_not_committed_is_named_and_not_used(house: Toy) -> None:
    results(house.root, set(range(0, 400, 2)))
    code, words = tick(house)
    assert code == 0 and f"the run uses commit {git.head(house.root)[:10]}" in words
    assert "made/evaluation/test.parquet" in words
    assert registry.record(house.root, registry.versions(house.root, "one")[0])["frozen"]["values"] == {
        "accuracy": 80.0
    }
    params = json.loads(house.read("params.yaml"))
    params["pipelines"]["two"] = params["pipelines"]["one"]
    house.write("params.yaml", json.dumps(params))
    child = house.start("-m", "flows.cli", "retrain", "two")
    _, err = child.communicate()
    assert child.returncode == 2 and "pipeline 'two' is not in commit" in _ + err


def test_parameters_for_one_run_are_in_its_record_and_the_next_tick_sees_them_gone(house: Toy) -> None:
    assert tick(house, "--set", "training.epochs=2")[0] == 0
    version = registry.versions(house.root, "one")[0]
    assert registry.record(house.root, version)["set_for_this_run"] == {"training.epochs": {"was": "10", "is": "2"}}
    held = YAML(typ="safe").load((git.read(house.root, version.commit, "params.yaml") or b"").decode())
    assert held["pipelines"]["one"]["training"]["epochs"] == 2
    for wrong, part in (
        ("training.epochs=six", "training.epochs"),
        ("training.epoch=2", "epochs"),
        ("training", "value"),
    ):
        code, words = tick(house, "--set", wrong)
        assert code == 2 and part in words, words
    assert in_use(house) == "v1.0.0"


def test_a_remote_that_is_away_delays_a_version_and_loses_none(house: Toy) -> None:
    store = house.root.parent / "store"
    store.write_text("no folder")
    code, words = tick(house)
    assert code == 3 and "waits to be published by the next tick: " in words, words
    assert refs(house) == "" and decisions(house)[0]["outcome"] == "unpublished"
    store.unlink()
    code, words = tick(house)
    assert code == 0 and "one@v1.0.0, ready since an earlier run, is published" in words, words
    assert in_use(house) == "v1.0.0" and "Nothing to do" in words
    assert any(store.rglob("*"))


def test_with_the_git_remote_away_the_work_goes_on_and_the_version_waits(house: Toy) -> None:
    assert tick(house)[0] == 0
    remote = house.root.parent / "remote.git"
    remote.rename(remote.with_name("away"))
    source(house, 50)
    code, words = tick(house)
    assert code == 3 and "going on with what was fetched last" in words, words
    assert "waits to be published by the next tick: " in words
    remote.with_name("away").rename(remote)
    code, words = tick(house)
    assert code == 0 and "one@v1.1.0, ready since an earlier run, is published" in words and "Nothing to do" in words
    assert [told["outcome"] for told in decisions(house)] == ["nothing to do", "published", "unpublished", "published"]


def test_a_broken_edit_that_nobody_committed_is_named_and_not_used(house: Toy) -> None:
    house.write("params.yaml", "pipelines: [")
    code, words = tick(house)
    assert code == 0 and "not in it as they are here: params.yaml" in words, words


def test_after_a_rollback_the_tick_says_what_was_taken_out(house: Toy) -> None:
    assert tick(house)[0] == 0
    source(house, 50)
    assert tick(house)[0] == 0
    registry.rollback(house.root, "one", "wrong in the shop")
    code, words = tick(house)
    assert code == 0 and "since one@v1.1.0, which was taken out of use; in use is one@v1.0.0, since" in words, words


def test_a_source_that_nobody_can_read_ends_the_tick_in_words(house: Toy) -> None:
    (house.root.parent / "rows.jsonl").unlink()
    code, words = tick(house)
    assert code == 2 and "rows.jsonl" in words and "Traceback" not in words
    assert decisions(house)[0]["outcome"] == "failed"


@pytest.fixture
def quick(clone: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """A pipeline `one` whose ticks are killed; its evaluation is tried a second time, its other stages are not."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(clone.parent / ".site"))
    return House(clone, operations={"one": {"evaluation": {"retries": 1, "retry_delay_seconds": 0}}})


@pytest.mark.parametrize("seed, draws", [(0, 4), *(pytest.param(seed, 10, marks=MANY) for seed in range(10))])
def test_whatever_is_killed_at_any_moment_the_next_tick_ends_well_and_nothing_is_lost_or_doubled(
    quick: House, seed: int, draws: int
) -> None:
    """Draws of SIGKILL of the orchestrator, of a dvc or of a stage's process, after a random while."""
    moments, expected = random.Random(seed), dict[str, int]()
    for number in range(draws):
        rows = 41 + number
        quick.source("one", rows)
        who = moments.choice(("the orchestrator", "a dvc", *STAGES))
        tick = Tick(quick)
        _kill(quick, tick, who, moments.random(), rows)
        code, words = tick.end()
        drawn = f"draw {number}: {who}\n{words}"
        wait(lambda: not _workers(quick.root), 10, lambda drawn=drawn: f"left running: {_workers(quick.root)}\n{drawn}")
        if who != "the orchestrator":
            assert code in ((0,) if who == "evaluation" else (0, 3)) and "Traceback" not in words, drawn
            newest = quick.decisions()[0]
            assert newest["exit_code"] == code and newest["words"], drawn
            assert newest["outcome"] in (("published", "nothing to do") if code == 0 else ("failed", "unpublished"))
        code, words = Tick(quick).end()
        assert code == 0, f"{drawn}\nThe next tick: {words}"
        expected[f"v1.{number}.0"] = rows
        assert quick.versions() == list(expected), drawn
        ended = [told[2] for told in quick.told() if told[0] == "end" and told[3] == str(rows)]
        assert set(ended) == set(STAGES) and len(ended) <= len(STAGES) + 1, f"{drawn}\nstages that ended: {ended}"
    assert git.git(quick.root, "worktree", "list").count("\n") == 0
    assert not list((quick.root / ".trainwright" / "workspaces").glob("one-*"))
    for version, rows in expected.items():
        quick.whole(version, rows)


def _kill(house: House, tick: Tick, who: str, moment: float, rows: int) -> None:
    """End a process of the tick by SIGKILL; `moment`, from 0 to 1, says when, of the time that there is for it."""
    if who in STAGES:
        told = lambda: [line for line in house.told() if line[:4] == ("begin", "one", who, str(rows))]  # noqa: E731
        wait(told, 60, lambda: f"{who} has not begun\n{tick.said}")
        time.sleep(moment * 0.3)  # the moment is what is drawn, not what is waited for
        with suppress(ProcessLookupError):
            os.kill(int(told()[0][4]), signal.SIGKILL)
        return
    time.sleep(moment * 7)
    if who == "the orchestrator":
        tick.kill()
        return
    wait(lambda: tick.dvc() or not tick.process.is_alive(), 60, tick.said)
    for process in tick.dvc():
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _workers(root: Path) -> list[str]:
    """What runs in the project or one of its workspaces."""
    spaces = (root / ".trainwright" / "workspaces").glob("one-*")
    return [
        command for folder in (root, *(path for path in spaces if path.is_dir())) for command in processes_in(folder)
    ]


@pytest.mark.parametrize("limit, stale, kept", [(5, True, ["a", "b"]), (None, True, None), (5, False, None)])
def test_only_an_ingestion_that_runs_anew_under_a_limit_keeps_the_test_rows_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None, stale: bool, kept: list[str] | None
) -> None:
    from flows.retrain import Retrain

    layout = Layout(tmp_path, "one")
    layout.source_pin.parent.mkdir(parents=True)
    pin = {"uri": "a.csv", "commit": None, "rows": 9, "bytes": 1, "sha256": "", "files": []}
    layout.source_pin.write_text(json.dumps(pin))
    used = registry.Version("one", "v1.0.0", "c", "2026-01-01T00:00:00+00:00", in_use=True)
    monkeypatch.setattr(registry, "in_use", lambda *_: used)
    monkeypatch.setattr(challenge, "frozen", lambda *_: TestSet(1, ("b", "a"), ("", "")))
    monkeypatch.setattr(pinning, "refresh", lambda *_: [])
    nodes = [SimpleNamespace(name=f"{stage}@one") for stage in ("ingestion", "ingestion_gate")]
    project = SimpleNamespace(
        graph=lambda *_: nodes, changes=lambda node, **_: ["params changed"] * (stale and node == "ingestion@one")
    )
    pipeline = SimpleNamespace(ingestion=SimpleNamespace(limit=limit))
    what = SimpleNamespace(chain=lambda name: [name], pipelines={"one": pipeline})
    run = Retrain(tmp_path, "one", Terminal(), False, "", {})
    run.in_use = used
    space: Any = SimpleNamespace(root=tmp_path)
    assert run._reasons(space, what, project) == ["ingestion@one: params changed"] * stale  # type: ignore[arg-type]
    assert json.loads(layout.source_pin.read_text()).get("test_rows") == kept
