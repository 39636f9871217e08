"""A comparison from what is published, and results taken for other code: on real rows, through DVC and Git."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Toy
from ruamel.yaml import YAML
from test_champion import LEARNT, METRICS, RECIPE, ROWS, table
from test_publication import commit

from flows import accepting, challenge, dvc, git, ledger, publication, registry
from flows.publication import PUBLISHED, UNPUBLISHED
from flows.workspace import workspace
from trainwright import operations
from trainwright.champion import Verdict
from trainwright.core.errors import InputError, MachineryError, RefusedError
from trainwright.rows import tables
from trainwright.tasks.multiple_choice import model

WIDE = {"publication": {"small_test_set": "widen"}}
STAGES = ("splitting", "evaluation", "postprocessing")
COPY = "mkdir -p data/one && cp -r made/{0} data/one/{0}"
GATE = """
import json, pathlib, sys
from trainwright.core.layout import digest
stage = sys.argv[1]
if pathlib.Path("no").exists():
    sys.exit("it says no")
path = pathlib.Path("data/one/gates") / stage / "certificate.json"
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(json.dumps({"pipeline": "one", "gate": stage, "digest": digest(pathlib.Path("data/one") / stage)}))
"""


def results(root: Path, wrong: set[int], rows: Any = ROWS) -> None:
    """What a model came to that is wrong on some test rows, as its stages leave it."""
    for stage in STAGES:
        (root / "made" / stage).mkdir(parents=True, exist_ok=True)
    for split, of in (("train", LEARNT), ("validation", table(10, 2000)), ("test", rows)):
        tables.write(of, root / f"made/splitting/{split}.parquet")
    scores = [[0.0, 1.0] if n in wrong else [1.0, 0.0] for n in range(rows.num_rows)]
    outputs = pa_table({"row": list(range(rows.num_rows)), "score": scores})
    tables.write(outputs, root / "made/evaluation/test.parquet")
    (root / "made/postprocessing/metrics.json").write_text(json.dumps(METRICS))
    (root / "made/postprocessing/tuned.json").write_text("{}")


def pa_table(columns: dict[str, list[Any]]) -> Any:
    import pyarrow as pa

    return pa.table(columns, schema=model.OUTPUTS)


@pytest.fixture
def project(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(clone.parent / ".site"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    toy, graph = Toy(clone), {}
    for stage in STAGES:
        data, gate = f"data/one/{stage}", f"data/one/gates/{stage}/certificate.json"
        code = [f"made/{stage}", f"stages/{stage}.py"]
        graph[f"{stage}@one"] = {"cmd": COPY.format(stage), "deps": code, "outs": [data]}
        graph[f"{stage}_gate@one"] = {"cmd": f"python gate.py {stage}", "deps": [data, "gate.py"], "outs": [gate]}
        toy.write(f"stages/{stage}.py", "")
    stages: dict[str, Any] = {}
    for name, stage in graph.items():
        stages[name.partition("@")[0]] = {"foreach": {"one": {}}, "do": stage}
    toy.write("dvc.yaml", json.dumps({"stages": stages}))
    toy.write("gate.py", GATE)
    store = '[core]\n    remote = store\n    no_scm = false\n[remote "store"]\n    url = ../../store\n'
    toy.write(".dvc/config", store)
    toy.write(".dvc/.gitignore", "/config.local\n/tmp\n/cache\n")
    toy.write(".gitignore", "/.trainwright/\n/data/one/*/\n!/data/one/published/\n")
    recipe = YAML(typ="safe").load(RECIPE.read_text())["copa"]
    toy.write("params.yaml", json.dumps({"pipelines": {"one": recipe}, "operations": {"one": WIDE}}))
    results(clone, set(range(0, 400, 5)))
    commit(toy)
    return toy


def tick(toy: Toy, wrong: set[int] | None = None, rows: Any = ROWS) -> tuple[Verdict, str]:
    """What a retrain does of the comparison and the publication; where it was published to, if it was."""
    with workspace(toy.root, "one", git.head(toy.root)) as space:
        what, running = operations.load(space.root / "params.yaml")
        publication.restore(space, "one", what, publication.fetch(toy.root, "published"))
        if wrong is not None:
            results(space.root, wrong, rows)
        project = dvc.Project(space.root)
        project._command("repro", *(node.name for node in project.graph("one")))  # all in one process
        verdict = challenge.compare(space, "one", what.pipelines["one"], running.of("one").publication)
        if not verdict.publish:
            return verdict, ""
        return verdict, publication.publish(space, "one", what, running, project, verdict, {})[1]


def in_use(toy: Toy) -> registry.Version:
    found = registry.in_use(toy.root, "one")
    assert found is not None
    return found


def frozen(toy: Toy) -> Any:
    return json.loads(git.read(toy.root, in_use(toy).commit, "data/one/published/test_set.json") or b"")


def test_what_came_truncated_from_the_remote_does_not_stay_in_the_cache(project: Toy) -> None:
    tick(project)
    evaluation = (project.root / "made/evaluation/test.parquet").read_bytes()
    name = hashlib.md5(evaluation).hexdigest()
    kept = project.root.parent / "store" / "files" / "md5" / name[:2] / name[2:]
    kept.chmod(0o644)
    kept.write_bytes(evaluation[: len(evaluation) // 2])
    for folder in (project.root / ".dvc" / "cache", project.root.parent / ".site"):
        shutil.rmtree(folder)  # as on a machine that is new
    for _ in range(2):
        with pytest.raises(
            MachineryError, match=rf"not as they were made: data/one/evaluation/test.parquet \({name}\)"
        ):
            tick(project, set(range(0, 300, 5)))
    kept.write_bytes(evaluation)
    assert not tick(project, set(range(0, 400, 2)))[0].publish  # it could be compared
    cached = project.root / ".dvc" / "cache" / "files" / "md5" / name[:2] / name[2:]
    cached.chmod(0o644)
    cached.write_bytes(evaluation[: len(evaluation) // 2])  # here alone: it comes from the remote again
    assert tick(project, set(range(0, 300, 5)))[1] == PUBLISHED
    assert cached.read_bytes() == evaluation


def test_a_version_that_waits_comes_before_what_is_accepted(project: Toy) -> None:
    tick(project)
    store = project.root.parent / "store"
    store.rename(store.with_name("away"))
    store.write_text("a file where the folder was")
    results(project.root, set(range(0, 300, 5)))
    commit(project)
    assert tick(project)[1] == UNPUBLISHED
    project.write("stages/evaluation.py", "# another comment\n")
    commit(project)
    with pytest.raises(MachineryError, match="a version waits to be published, which comes first"):
        accepting.accept(project.root, "one", "a comment", lambda _: None)
    store.unlink()
    store.with_name("away").rename(store)
    assert "one@v1.1.1 has the results of v1.1.0" in accepting.accept(project.root, "one", "a comment", lambda _: None)


def test_a_challenger_is_compared_with_what_is_published_on_the_rows_of_the_first_version(project: Toy) -> None:
    first, where = tick(project)
    assert where == PUBLISHED and not first.comparisons
    better, where = tick(project, set(range(0, 300, 5)), table(450))  # rows have come in since
    assert where == PUBLISHED and in_use(project).version == "v1.1.0"
    (found,) = better.comparisons
    assert (found.against, found.rows, found.challenger, found.other) == ("v1.0.0", 400, 85.0, 80.0)
    assert len(frozen(project)["ids"]) == 400 and frozen(project)["frozen_at"] == "v1.0.0"
    assert registry.record(project.root, in_use(project))["frozen"]["values"] == {"accuracy": 85.0}
    registry.rollback(project.root, "one")
    worse, where = tick(project, set(range(0, 400, 2)))
    assert where == "" and [found.against for found in worse.comparisons] == ["v1.0.0"]  # v1.1.0 was taken out
    assert in_use(project).version == "v1.0.0"


def test_results_are_accepted_for_code_that_changes_none_and_for_nothing_else(project: Toy) -> None:
    tick(project)
    with pytest.raises(InputError, match="is of this code already"):
        accepting.accept(project.root, "one", "why not", lambda _: None)
    project.write("stages/evaluation.py", "# a comment\n")
    new = commit(project)
    words = accepting.accept(project.root, "one", "a comment", lambda _: None)
    assert words == f"one@v1.0.1 has the results of v1.0.0 for the code of {new[:10]}: published"
    version = in_use(project)
    record = registry.record(project.root, version)
    assert (record["act"], record["why"], record["accepted"]["stages"]) == ("accept", "a comment", ["evaluation@one"])
    assert (ledger.last(project.root, "one") or {})["decision"] == "accepted"
    before, after = (publication._entries(project.root, f"one@v1.0.{n}") for n in (0, 1))
    assert before["splitting@one"] == after["splitting@one"] and before["evaluation@one"] != after["evaluation@one"]
    outs = [entries["evaluation@one"].partition("outs:")[2] for entries in (before, after)]
    assert outs[0] == outs[1]  # the same bytes
    with workspace(project.root, "one", version.commit) as space:
        assert all(not dvc.Project(space.root).changes(f"{stage}@one", missing=False) for stage in STAGES)
    results(project.root, {1})
    commit(project)
    with pytest.raises(InputError, match="not its code alone has changed"):
        accepting.accept(project.root, "one", "new data", lambda _: None)


def test_what_a_gate_refuses_is_not_accepted(project: Toy) -> None:
    tick(project)
    project.write("stages/evaluation.py", "# a comment\n")
    project.write("no", "")
    commit(project)
    with pytest.raises(RefusedError, match="splitting_gate@one"):
        accepting.accept(project.root, "one", "a comment", lambda _: None)
    assert in_use(project).version == "v1.0.0"


def test_a_person_starts_a_new_line_whose_rows_are_frozen_anew(project: Toy) -> None:
    tick(project)
    gone, where = tick(project, {1}, table(300))
    assert where == "" and len(gone.unmeasured[0][1]) == 100
    accepting.accept(project.root, "one", "the old test is worn out", lambda _: None, new_line=True)
    assert frozen(project)["line"] == 2 and frozen(project)["frozen_at"] == "v1.0.1"
