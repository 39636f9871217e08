"""The runner: Great Expectations judges, missing evidence fails, a refusal says what broke and where it is listed."""

import ast
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright.core import certificate, params, tasks
from trainwright.core.errors import RefusedError
from trainwright.core.layout import Layout
from trainwright.core.params import Pipeline
from trainwright.gates import runner
from trainwright.gates.promises import Promise, ids_unique, misplaced, share
from trainwright.rows import tables
from trainwright.tasks.qa import rows

ROOT = Path(__file__).parent.parent


def held(*promises: Promise) -> list[bool]:
    return [judged.held for judged in runner._judge(list(promises))]


def promise(value: float | None, minimum: float | None = None, maximum: float | None = None) -> Promise:
    return Promise("it", "it is so", value, minimum, maximum)


def test_a_value_is_held_to_its_range_both_ends_included() -> None:
    inside = [promise(0, 0, 1), promise(1.0, 0, 1), promise(0.5, 0, 1), promise(7, minimum=7), promise(0, maximum=0)]
    outside = [promise(-0.001, 0, 1), promise(1.001, 0, 1), promise(6, minimum=7), promise(1, maximum=0)]
    named = [Promise(f"p{i}", "", p.value, p.minimum, p.maximum) for i, p in enumerate(inside + outside)]
    assert held(*named) == [True] * len(inside) + [False] * len(outside)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_was_not_computed_never_passes(value: float | None) -> None:
    assert held(promise(value, minimum=0), Promise("other", "", value, maximum=1)) == [False, False]


def test_no_promises_never_pass() -> None:
    assert not runner.Verdict("p", "cleaning", "0", "0", runner._judge([])).passed


def test_a_promise_without_a_bound_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="min_value and max_value"):
        held(promise(1.0))


@pytest.mark.parametrize("ids", [["a", "b", "a"], ["a", None], [None, None], []])
def test_great_expectations_sees_for_itself_that_ids_are_there_and_unique(ids: list[str | None]) -> None:
    column = pa.chunked_array([pa.array(ids, pa.string())])
    assert held(Promise("ids", "unique", 0, maximum=0, ids=column)) == [False]
    assert not ids or held(ids_unique(column)) == [False]


def test_a_share_of_nothing_is_not_known() -> None:
    assert share(0, 0) is None


TEXT = st.text(max_size=20) | st.text("ab\0", max_size=20)  # numpy drops what a string ends in: zero characters


@given(
    st.lists(st.tuples(TEXT, st.integers(-3, 25), st.text(max_size=4)), min_size=1, max_size=8),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_an_answer_is_in_its_place_just_where_python_says_so(
    made: list[tuple[str, int, str]], data: st.DataObject
) -> None:
    records = []
    for context, any_start, any_text in made:
        start, text = any_start, any_text
        if context and data.draw(st.booleans()):
            start = data.draw(st.integers(0, len(context) - 1))
            text = context[start : start + data.draw(st.integers(1, 4))]
        records.append({"context": context, "answer_start": [start], "answer_text": [text]})
    schema = pa.schema([rows.SCHEMA.field(name) for name in ("context", "answer_start", "answer_text")])
    found = misplaced("context", "answer_start", "answer_text")(pa.Table.from_pylist(records, schema))
    for record, wrong in zip(records, found, strict=True):
        start, text = record["answer_start"][0], record["answer_text"][0]
        right = start >= 0 and text != "" and record["context"][start : start + len(text)] == text
        assert wrong == (not right)


SCRIPT = "<script>alert('x')</script>"


@pytest.fixture
def where(tmp_path: Path) -> Layout:
    """A project whose ingested rows have one wrong offset, under an id that is a script."""
    found = Layout(tmp_path, "sample-qa")
    found.stage("ingestion").mkdir(parents=True)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "dvc.yaml").write_text("")
    write_rows(found, SCRIPT, 3)
    return found


def write_rows(where: Layout, last_id: str, start: int) -> None:
    """120 rows, of which every fourth has no answer; the last row's offset is `start`, and 4 would be right."""
    made = []
    for i in range(120):
        made.append(
            {"id": f"q{i}", "group": f"g{i}", "title": "", "context": f"the secret word {i}", "question": f"What {i}?"}
            | {"answer_start": [4] if i % 4 else [], "answer_text": ["secret"] if i % 4 else []}
        )
    made[-1] |= {"id": last_id, "answer_start": [start]}
    tables.write(pa.Table.from_pylist(made, rows.SCHEMA), where.stage("ingestion") / "rows.parquet")


def pipeline() -> Pipeline:
    return params.load(ROOT / "params.yaml").pipeline("sample-qa")


def refused(where: Layout) -> str:
    with pytest.raises(RefusedError) as error:
        runner.run(where, pipeline(), "ingestion")
    return str(error.value)


def test_a_refusal_says_what_was_promised_what_was_seen_and_which_rows(where: Layout) -> None:
    words = refused(where)
    assert "The ingestion gate of sample-qa refused these data" in words
    assert "each answer is the text that stands in its context at its offset. Promised: none; seen: 1." in words
    assert SCRIPT in words
    assert str(where.refusal("ingestion").relative_to(where.root) / "report.json") in words


def test_a_refusal_names_the_settings_that_decide_and_their_values(where: Layout) -> None:
    table = tables.read(where.stage("ingestion") / "rows.parquet")
    records = [record | {"answer_start": [], "answer_text": []} for record in table.to_pylist()]
    tables.write(pa.Table.from_pylist(records, rows.SCHEMA), where.stage("ingestion") / "rows.parquet")
    keys = "gates.ingestion.min_unanswerable_share: 0.0, gates.ingestion.max_unanswerable_share: 0.6"
    assert f"Set in params.yaml: {keys}" in refused(where)
    assert keys in (where.refusal("ingestion") / "report.html").read_text()


FIELDS = [
    (task, gate, key)
    for task in tasks.names()
    for gate, section in tasks.load(task, "params").SECTIONS["gates"].model_fields.items()
    for key in section.annotation.model_fields
]


@pytest.mark.parametrize("task", tasks.names())
def test_every_setting_of_a_gate_is_a_key_of_an_expectation(task: str) -> None:
    said: set[str] = set()
    patterns: set[str] = set()
    for path in ("gates/rows.py", "gates/models.py", f"tasks/{task}/promises.py"):
        for node in ast.walk(ast.parse((ROOT / "trainwright" / path).read_text())):
            for call in [node] if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else []:
                if call.func.id not in ("Promise", "none_of", "enough_rows"):  # type: ignore[attr-defined]
                    continue
                given = [
                    *call.args[3 if call.func.id == "none_of" else 99 :],
                    *(  # type: ignore[attr-defined]
                        part
                        for word in call.keywords
                        if word.arg in ("key", "keys")
                        for part in (word.value.elts if isinstance(word.value, ast.Tuple) else [word.value])
                    ),
                ]
                said |= {part.value for part in given if isinstance(part, ast.Constant)}
                patterns |= {
                    "".join(str(v.value) if isinstance(v, ast.Constant) else "[a-z_0-9]+" for v in part.values)
                    for part in given
                    if isinstance(part, ast.JoinedStr)
                }
    splits = {f"min_{split}_rows" for split in tables.SPLITS}  # one call for the three
    missing = [
        f"{gate}.{key}"
        for name, gate, key in FIELDS
        if name == task and key not in said | splits and not any(re.fullmatch(p, key) for p in patterns)
    ]
    assert not missing


def test_a_refusal_leaves_a_tombstone_and_every_row_in_a_report_out_of_dvcs_reach(where: Layout) -> None:
    refused(where)
    assert json.loads(where.certificate("ingestion").read_text()) == {"REFUSED": ["answers_at_offsets"]}
    assert json.loads(where.gate_result("ingestion").read_text())["passed"] is False
    report = json.loads((where.refusal("ingestion") / "report.json").read_text())
    assert report["failed"] == ["answers_at_offsets"]
    assert {p["name"]: p["rows"] for p in report["promises"]}["answers_at_offsets"] == [SCRIPT]
    with pytest.raises(RefusedError, match="refused these data"):
        certificate.check(where, pipeline(), "ingestion")


def test_a_refusal_says_where_in_the_source_a_row_stands(where: Layout) -> None:
    places = pa.table({"id": ["q0", SCRIPT], "place": ["data[0]", "data[7].<b>"]})
    tables.write(places, where.stage("ingestion") / "places.parquet")
    assert f"    {SCRIPT} (data[7].<b>)\n" in refused(where)
    report = where.refusal("ingestion")
    assert json.loads((report / "report.json").read_text())["places"] == {SCRIPT: "data[7].<b>"}
    assert "(data[7].&lt;b&gt;)</li>" in (report / "report.html").read_text()


def test_all_failing_rows_are_listed_however_many(where: Layout) -> None:
    table = tables.read(where.stage("ingestion") / "rows.parquet")
    records = [record | {"answer_start": [0] * len(record["answer_start"])} for record in table.to_pylist()]
    made = [record | {"id": f"{n}-{i}"} for n in range(5) for i, record in enumerate(records)]
    many = pa.Table.from_pylist(made, rows.SCHEMA)
    tables.write(many, where.stage("ingestion") / "rows.parquet")
    assert "and 445 more" in refused(where)
    report = json.loads((where.refusal("ingestion") / "report.json").read_text())
    assert len({p["name"]: p["rows"] for p in report["promises"]}["answers_at_offsets"]) == 450


def test_the_page_of_a_refusal_escapes_ids_and_loads_nothing(where: Layout) -> None:
    refused(where)
    page = (where.refusal("ingestion") / "report.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_evidence_holds_no_text_of_a_context(where: Layout) -> None:
    refused(where)
    written = [where.gate_result("ingestion"), *where.refusal("ingestion").iterdir()]
    assert not [path for path in written if "secret" in path.read_text()]


def test_a_terminal_sees_no_control_characters_of_an_id(where: Layout) -> None:
    write_rows(where, "\x1b[2J", 3)
    assert "\x1b" not in refused(where)


def test_a_later_success_certifies_and_removes_the_old_refusal(where: Layout) -> None:
    refused(where)
    write_rows(where, "last", 4)
    verdict = runner.run(where, pipeline(), "ingestion")
    assert verdict.passed
    assert not where.refusal("ingestion").exists()
    certificate.check(where, pipeline(), "ingestion")


def test_a_gate_writes_the_same_bytes_every_time(where: Layout) -> None:
    write_rows(where, "last", 4)
    papers = (where.certificate("ingestion"), where.gate_result("ingestion"))
    runs = []
    for _ in range(2):
        runner.run(where, pipeline(), "ingestion")
        runs.append([paper.read_bytes() for paper in papers])
    assert runs[0] == runs[1]
    result = json.loads(papers[1].read_text())
    assert result["promises"][0] == {
        "name": "columns",
        "says": f"the columns are {', '.join(rows.SCHEMA.names)}",
        "observed": 0,
        "minimum": None,
        "maximum": 0,
        "success": True,
        "settings": {},
    }


def test_a_gate_certifies_the_bytes_that_it_looked_at(where: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody shows good rows while the gate looks, and has others in their place before and after."""
    write_rows(where, "last", 4)
    path = where.stage("ingestion") / "rows.parquet"
    good, seen = path.read_bytes(), []

    def observe(layout: Layout, params: Pipeline, gate: str, folder: Path, aside: Path) -> list[Promise]:
        path.write_bytes(b"others")  # in place: a hard link would show them
        seen.append((folder / "rows.parquet").read_bytes())
        return [Promise("one", "there is one", 1.0, minimum=1)]

    monkeypatch.setattr(runner, "_observe", observe)
    verdict = runner.run(where, pipeline(), "ingestion")
    assert seen == [good]
    with pytest.raises(RefusedError, match="not the bytes that the ingestion gate checked"):
        certificate.check(where, pipeline(), "ingestion")
    path.write_bytes(good)
    assert certificate.check(where, pipeline(), "ingestion") == verdict.digest
    assert [p for p in where.inputs.iterdir() if p.is_dir()] == []


def test_a_gate_whose_comparison_is_not_certified_refuses(where: Layout) -> None:
    write_rows(where, "last", 4)
    where.stage("cleaning").mkdir()
    for name in ("rows.parquet", "dropped.parquet"):
        (where.stage("cleaning") / name).write_bytes((where.stage("ingestion") / "rows.parquet").read_bytes())
    with pytest.raises(RefusedError, match=r"inputs_certified.*dvc repro ingestion_gate@sample-qa"):
        runner.run(where, pipeline(), "cleaning")
    assert "REFUSED" in where.certificate("cleaning").read_text()


def run_gate(where: Layout, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.gate", *arguments]
    return subprocess.run(command, cwd=where.root, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_ends_with_1_and_the_gates_words_or_with_0(where: Layout) -> None:
    bad = run_gate(where, "ingestion", "sample-qa")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.startswith("The ingestion gate of sample-qa refused these data")
    assert json.loads(where.failure("ingestion_gate").read_text())["exit_code"] == 1
    write_rows(where, "last", 4)
    good = run_gate(where, "ingestion", "sample-qa")
    assert (good.returncode, good.stderr) == (0, "")
    assert "promises held" in good.stdout


def test_the_command_wants_a_gate_that_there_is(where: Layout) -> None:
    wrong = run_gate(where, "clening", "sample-qa")
    assert wrong.returncode == 2
    assert "usage" in wrong.stderr
