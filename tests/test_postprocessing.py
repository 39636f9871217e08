"""The stage postprocessing: from certified raw outputs to answers, scores and what was tuned."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stages import postprocessing as stage
from trainwright import params, process, tables
from trainwright.errors import RefusedError
from trainwright.gates import certificate
from trainwright.layout import Layout, digest
from trainwright.tasks.qa import model
from trainwright.tasks.qa.rows import SCHEMA

ROOT = Path(__file__).parent.parent
CONTEXT = "Åsa met 王 in Rome <script>."


def rows_of(count: int, unanswerable: int = 0) -> pa.Table:
    """The first `unanswerable` rows have no answer, the others "Rome"."""
    rows = [
        {
            "id": f"q{i}",
            "group": f"g{i}",
            "title": "title",
            "context": f"{CONTEXT} {i // 2}",
            "question": "Where?",
            "answer_start": [] if i < unanswerable else [CONTEXT.index("Rome")],
            "answer_text": [] if i < unanswerable else ["Rome"],
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def outputs_of(texts: list[str], nulls: list[float]) -> pa.Table:
    """A model sure of these texts, with these null scores; a span's own score is 2."""
    windows: list[dict[str, Any]] = []
    for row, (text, null) in enumerate(zip(texts, nulls, strict=True)):
        start = CONTEXT.index(text)
        one = {"start_token": [5], "start_char": [start], "start_logit": [1.0]}
        other = {"end_token": [5], "end_char": [start + len(text)], "end_logit": [1.0]}
        windows.append({"row": row, "null_score": null, **one, **other})
    return pa.Table.from_pylist(windows, schema=model.OUTPUTS)


def certified(run: process.Run, name: str) -> None:
    """The certificate and the result that a gate leaves which passed."""
    head = {"pipeline": run.layout.pipeline, "gate": name, "digest": digest(run.layout.stage(name))}
    result = {**head, "suite": certificate.suite_digest(run.params, name), "passed": True, "failed": []}
    certificate.certify(run.layout, name, head["digest"], result)


def made(tmp_path: Path, rows: dict[str, pa.Table], outputs: dict[str, pa.Table]) -> process.Run:
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    run = process.Run(Layout(tmp_path, "sample-qa"), params.load(tmp_path / "params.yaml").pipeline("sample-qa"))
    for name, content in (("splitting", rows), ("evaluation", outputs)):
        run.layout.stage(name).mkdir(parents=True)
        for key, table in content.items():
            tables.write(table, run.layout.stage(name) / f"{key}.parquet")
        certified(run, name)
    return run


@pytest.fixture
def with_unanswerable(tmp_path: Path) -> process.Run:
    """Validation says that null scores of up to 5 are answers; on test one of six is then wrong."""
    rows = {"train": rows_of(4), "validation": rows_of(4, unanswerable=2), "test": rows_of(6, unanswerable=3)}
    outputs = {
        "validation": outputs_of(["Rome"] * 4, [7.0, 8.0, 5.0, 3.0]),
        "test": outputs_of(["Rome"] * 5 + ["王"], [6.0, 7.0, 9.0, 4.0, 3.0, 3.0]),
        "untrained": outputs_of(["met"] * 6, [1.0] * 6),
    }
    return made(tmp_path, rows, outputs)


def read(run: process.Run, name: str) -> Any:
    return json.loads((run.layout.stage("postprocessing") / f"{name}.json").read_text(encoding="utf-8"))


def test_the_threshold_is_tuned_on_validation_and_applied_to_test(with_unanswerable: process.Run) -> None:
    stage.main(with_unanswerable)
    assert read(with_unanswerable, "tuned") == {"null_threshold": 3.0}
    expected = {"q0": "", "q1": "", "q2": "", "q3": "Rome", "q4": "Rome", "q5": "王"}
    assert read(with_unanswerable, "predictions") == expected
    assert read(with_unanswerable, "nbest")["q0"][0]["text"] == ""


def test_scores_of_test_validation_and_the_untrained_model_stand_side_by_side(
    with_unanswerable: process.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.main(with_unanswerable)
    metrics = read(with_unanswerable, "metrics")
    assert list(metrics) == ["test", "validation", "untrained"]
    assert metrics["test"]["exact"]["value"] == pytest.approx(500 / 6, abs=1e-3)
    assert metrics["test"]["NoAns"] == {"count": 3, "exact": 100, "f1": 100}
    assert metrics["validation"]["f1"]["value"] == 100
    assert metrics["untrained"]["exact"]["value"] == 0
    test, untrained = capsys.readouterr().out.splitlines()
    assert test.startswith("postprocessing: test, 6 rows: exact 83.3")
    assert untrained == "postprocessing: the untrained base model on the same rows: exact 0.0 (0.0 to 0.0), " + (
        "f1 0.0 (0.0 to 0.0)"
    )


def test_every_test_row_keeps_its_prediction_and_scores(with_unanswerable: process.Run) -> None:
    stage.main(with_unanswerable)
    table = tables.read(with_unanswerable.layout.stage("postprocessing") / "scores.parquet")
    assert table.column_names == ["id", "exact", "f1", "prediction"]
    assert table["exact"].to_pylist() == [1, 1, 1, 1, 1, 0]
    assert table["prediction"].to_pylist()[-1] == "王"


def test_without_unanswerable_questions_no_answer_is_empty(tmp_path: Path) -> None:
    rows = {split: rows_of(4) for split in tables.SPLITS}
    outputs = {name: outputs_of(["Rome"] * 4, [50.0] * 4) for name in ("validation", "test", "untrained")}
    run = made(tmp_path, rows, outputs)
    stage.main(run)
    assert read(run, "tuned") == {"null_threshold": None}
    assert set(read(run, "predictions").values()) == {"Rome"}
    assert read(run, "metrics")["test"]["NoAns"]["f1"] is None
    assert "best_f1" not in read(run, "metrics")["test"]


def test_the_same_outputs_give_the_same_bytes(with_unanswerable: process.Run) -> None:
    stage.main(with_unanswerable)
    first = digest(with_unanswerable.layout.stage("postprocessing"))
    stage.main(with_unanswerable)
    assert digest(with_unanswerable.layout.stage("postprocessing")) == first


def test_outputs_that_no_gate_has_passed_are_not_scored(with_unanswerable: process.Run) -> None:
    with_unanswerable.layout.certificate("evaluation").unlink()
    with pytest.raises(RefusedError, match="evaluation gate has left no certificate"):
        stage.main(with_unanswerable)
    assert not with_unanswerable.layout.stage("postprocessing").exists()


def test_an_undefined_score_is_said_to_be_undefined() -> None:
    nothing = {"count": 0, "f1": {"value": None, "low": None, "high": None}}
    assert stage.summary({"test": nothing, "untrained": nothing}) == [
        "test, 0 rows: f1 undefined",
        "the untrained base model on the same rows: f1 undefined",
    ]
