"""Small pipelines of text to text run whole, their models generate for a file, and their gates refuse defects."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import ran

from trainwright.core import params
from trainwright.core.layout import STAGES, Layout
from trainwright.engine import answering
from trainwright.gates import runner
from trainwright.rows import tables

pytestmark = pytest.mark.slow

COLOURS = ("red", "blue", "green", "grey", "蓝")
THINGS = ("fox", "boat", "door", "lamp", "船")
PIPELINE: dict[str, Any] = {
    "task": "seq2seq",
    "language": "en",
    "base_model": {
        "scratch": {"family": "t5", "layers": 1, "heads": 2, "width": 32, "tokenizer": "unigram", "vocabulary": 240}
    },
    "after": "none",
    "source": {"uri": "rows.jsonl", "format": "jsonl", "licence": "MIT"},
    "ingestion": {"max_bad_share": 0.05},
    "cleaning": {},
    "augmentation": {"typing_noise": 0.1},
    "splitting": {"train": 0.6, "validation": 0.2, "test": 0.2},
    "tokenization": {"max_source_length": 32, "max_target_length": 16},
    "training": {"epochs": 12, "batch_size": 8, "learning_rate": 0.01, "dropout": 0.0, "early_stopping": 0},
    "evaluation": {"beams": 2, "max_new_tokens": 12},
    "postprocessing": {"bootstrap": 100},
    "report": {},
    "gates": {name: {} for name in STAGES},
}


def records(kind: str) -> list[dict[str, Any]]:
    """Which colour a thing has is there to be copied; what is dropped of a count follows from what stays."""
    random = np.random.default_rng(3)
    found = []
    for i in range(150):
        colour, thing = COLOURS[int(random.integers(5))], THINGS[int(random.integers(5))]
        source, text = f"colour of the {colour} {thing} {i} ?", f"one two three four five six seven eight {thing} {i}"
        own = {"source": source, "target": f"{colour} {thing}"} if kind == "pairs" else {"text": text}
        found.append({"id": f"r{i}", **own})
    found[7]["target" if kind == "pairs" else "text"] = " "  # goes into quarantine
    return found


def finished(root: Path, kind: str) -> Path:
    """A project whose every stage and gate has run."""
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records(kind))
    (root / "rows.jsonl").write_text(lines, encoding="utf-8")
    ran(root, PIPELINE)
    return root


def project(root: Path) -> tuple[Layout, params.Pipeline]:
    return Layout(root, "tiny"), params.load(root / "params.yaml").pipeline("tiny")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("pairs"), "pairs")


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("spans"), "spans")


def metrics(root: Path) -> dict[str, Any]:
    return json.loads((project(root)[0].stage("postprocessing") / "metrics.json").read_text())


@pytest.mark.parametrize("kind", ["pairs", "spans"])
def test_a_pipeline_learns_what_the_frequencies_of_tokens_do_not_tell(kind, request):
    root = request.getfixturevalue(kind)
    test, untrained = metrics(root)["test"], metrics(root)["untrained"]
    assert test["loss"]["value"] + test["margin"]["value"] == pytest.approx(test["baseline_loss"]["value"], abs=1e-3)
    assert test["margin"]["low"] > 0.3
    assert untrained["margin"]["high"] < 0
    assert untrained["baseline_loss"] == test["baseline_loss"]
    assert test["perplexity"]["value"] == pytest.approx(np.exp(test["loss"]["value"]), rel=1e-3)
    assert test["chrf"]["value"] > untrained["chrf"]["value"]
    layout, _ = project(root)
    faults = [json.loads(line) for line in (layout.stage("ingestion") / "quarantine.jsonl").read_text().splitlines()]
    assert [(fault["row"], fault["id"]) for fault in faults] == [("line 8", "r7")]
    assert "AutoModelForSeq2SeqLM" in (layout.stage("report") / "model" / "README.md").read_text()


def test_no_typing_error_is_put_into_a_target(pairs):
    table = tables.read(project(pairs)[0].stage("augmentation") / "rows.parquet").to_pylist()
    targets = {row["id"]: row["target"] for row in table}
    children = [row for row in table if row["parent"]]
    assert children
    assert all(row["target"] == targets[row["parent"]] for row in children)


def test_the_published_folder_generates_for_a_file_of_sources(pairs, tmp_path):
    model = project(pairs)[0].stage("report") / "model"
    sources = [f"colour of the {colour} {thing} 7 ?" for colour in COLOURS for thing in THINGS]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"source": text}) + "\n" for text in sources))
    answered, faults = answering.predict_file(model, tmp_path / "in.jsonl", tmp_path / "out.json")
    assert (answered, faults) == (25, [])
    found = json.loads((tmp_path / "out.json").read_text())
    assert len(found) == 25
    assert all(isinstance(text, str) for text in found.values())
    settings = json.loads((model / "trainwright.json").read_text())
    assert (settings["learned"]["kind"], settings["evaluation"]["beams"]) == ("pairs", 2)


def test_a_published_model_fills_the_blanks_of_a_file(spans, tmp_path):
    model = project(spans)[0].stage("report") / "model"
    (tmp_path / "in.csv").write_text(
        "id,source\nq,the red fox of the <extra_id_0> is red\nr,the grey door of the door\n"
    )
    answered, _ = answering.predict_file(model, tmp_path / "in.csv", tmp_path / "out.json")
    assert answered == 2
    assert set(json.loads((tmp_path / "out.json").read_text())) == {"q", "r"}


def edit(name: str, column: str, change: Callable[[list[Any]], None]) -> Callable[[Path], None]:
    """A defect: a column's values changed in a table (Parquet, or an Arrow stream)."""

    def plant(folder: Path) -> None:
        path = folder / name
        stream = path.suffix == ".arrow"
        table = pa.ipc.open_stream(path.read_bytes()).read_all() if stream else tables.read(path)
        values = table[column].to_pylist()
        change(values)
        place = table.schema.get_field_index(column)
        field = table.schema.field(place)
        table = table.set_column(place, pa.field(column, field.type), pa.array(values, field.type))
        path.unlink()
        if stream:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
                out.write_table(table)
        else:
            tables.write(table, path)

    return plant


def edit_json(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(content))

    return plant


def put(place: int, value: Any) -> Callable[[list[Any]], None]:
    def change(values: list[Any]) -> None:
        values[place] = value(values[place]) if callable(value) else value

    return change


def every(value: Any) -> Callable[[list[Any]], None]:
    def change(values: list[Any]) -> None:
        values[:] = [value] * len(values)

    return change


ROWS, TEST, TRAIN = "rows.parquet", "test.arrow", "train.arrow"
PREDICTED = "predictions/predictions.json"
DEFECTS: list[tuple[str, str, str, Callable[[Path], None]]] = [
    ("pairs", "ingestion", "no_empty_texts", edit(ROWS, "target", put(3, " "))),
    ("pairs", "ingestion", "no_nulls", edit(ROWS, "source", put(3, None))),
    ("pairs", "ingestion", "one_kind", edit(ROWS, "target", put(3, None))),
    ("pairs", "ingestion", "source_length", edit(ROWS, "source", put(3, "x" * 200_001))),
    ("pairs", "ingestion", "target_length", edit(ROWS, "target", put(3, "x" * 20_001))),
    ("spans", "ingestion", "no_sentinels", edit(ROWS, "source", put(3, "the <extra_id_0> is red"))),
    ("pairs", "cleaning", "no_empty_texts", edit(ROWS, "source", put(3, ""))),
    ("pairs", "augmentation", "originals_unchanged", edit(ROWS, "target", put(0, "other"))),
    ("pairs", "splitting", "rows_unchanged", edit("test.parquet", "target", put(0, "other"))),
    ("pairs", "tokenization", "features_for_all", edit(TEST, "row", put(0, 1))),
    ("pairs", "tokenization", "features_of_rows", edit(TEST, "row", put(0, 5000))),
    ("pairs", "tokenization", "source_lengths", edit(TRAIN, "input_ids", put(0, lambda ids: ids * 9))),
    ("pairs", "tokenization", "target_lengths", edit(TRAIN, "labels", put(0, lambda ids: ids * 9))),
    ("pairs", "tokenization", "targets_there", edit(TEST, "labels", put(0, []))),
    ("pairs", "tokenization", "truncated_share", edit(TRAIN, "source_cut", every(1))),
    ("pairs", "tokenization", "unknown_share", edit(TRAIN, "unknown", every(2))),
    ("pairs", "tokenization", "misaligned_listed", edit(TEST, "unknown", put(0, 1))),
    ("pairs", "tokenization", "baselines_known", edit(TEST, "baseline", put(0, float("nan")))),
    ("spans", "tokenization", "source_lengths", edit(TRAIN, "input_ids", put(0, lambda ids: ids * 9))),
    ("spans", "tokenization", "noise_as_asked", edit(TRAIN, "noise_tokens", put(0, lambda count: count + 1))),
    ("spans", "tokenization", "noise_as_asked", edit(TRAIN, "labels", put(0, [5]))),
    ("spans", "tokenization", "targets_there", edit(TRAIN, "noise_spans", put(0, 0))),
    ("pairs", "evaluation", "test_losses", edit("test.parquet", "loss", put(0, float("inf")))),
    ("pairs", "evaluation", "test_losses", edit("test.parquet", "loss", put(0, -1.0))),
    ("spans", "evaluation", "test_tokens", edit("test.parquet", "tokens", put(0, 0))),
    ("pairs", "evaluation", "validation_texts", edit("validation.parquet", "generated", put(0, None))),
    ("pairs", "evaluation", "untrained_outputs", edit("untrained.parquet", "row", put(0, 1))),
    ("pairs", "evaluation", "test_loss", edit_json("losses.json", lambda content: content.update(test=None))),
    ("pairs", "postprocessing", "predictions_for_all", edit_json(PREDICTED, lambda c: c.pop(next(iter(c))))),
    ("pairs", "postprocessing", "predictions_for_all", edit_json(PREDICTED, lambda c: c.update(strange="x"))),
    ("pairs", "postprocessing", "predictions_are_texts", edit_json(PREDICTED, lambda c: c.update({next(iter(c)): 3}))),
    ("pairs", "postprocessing", "empty_share", edit_json(PREDICTED, lambda c: c.update(dict.fromkeys(c, " ")))),
    ("pairs", "postprocessing", "test_chrf", edit_json("metrics.json", lambda m: m["test"]["chrf"].update(value=None))),
    ("spans", "postprocessing", "test_loss", edit_json("metrics.json", lambda m: m["test"].pop("loss"))),
    ("pairs", "postprocessing", "test_count", edit_json("metrics.json", lambda m: m["test"].update(count=3))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "gate", "promise", "plant"),
    DEFECTS,
    ids=[f"{gate} {name} {i}" for i, (_, gate, name, _) in enumerate(DEFECTS)],
)
def test_a_planted_defect_is_refused_by_name(kind, gate, promise, plant, request, tmp_path):
    root = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".trainwright", "training")
    shutil.copytree(request.getfixturevalue(kind), root, ignore=ignored)
    layout, section = project(root)
    plant(layout.stage(gate))
    verdict = runner.judge(layout, section, gate)
    assert promise in [judged.promise.name for judged in verdict.failed]


def test_a_model_that_does_not_beat_the_frequencies_is_not_published(pairs):
    layout, section = project(pairs)
    floor = section.gates.model_copy(update={"report": section.gates.report.model_copy(update={"min_margin": 50.0})})
    verdict = runner.judge(layout, section.model_copy(update={"gates": floor}), "report")
    assert [judged.promise.name for judged in verdict.failed] == ["test_margin"]


@pytest.mark.parametrize("kind", ["pairs", "spans"])
def test_every_gate_passes_what_the_stages_wrote(kind, request):
    layout, section = project(request.getfixturevalue(kind))
    for stage in STAGES:
        assert runner.judge(layout, section, stage).failed == []
