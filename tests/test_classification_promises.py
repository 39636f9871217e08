"""Every defect that a gate of classification is there for is planted in a sound pipeline, refused and named."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file
from test_promises import (
    Change,
    Project,
    edit,
    json_edit,
    put,
    read_stream,
    weights,
    write_json,
    write_stream,
)

from trainwright.core.layout import STAGES, Layout
from trainwright.core.params import Pipeline
from trainwright.core.yaml_file import read_yaml
from trainwright.rows import tables
from trainwright.tasks.classification import features, model, predictions, rows, scores

ROOT = Path(__file__).parent.parent
LEARNED = {
    "label": {"gold": "label", "pair": False, "labels": ["坏", "好"]},
    "labels": {"gold": "labels", "pair": False, "labels": ["坏", "好"]},
    "value": {"gold": "value", "pair": False, "mean": 3.0, "scale": 2.0},
}
GOLD: dict[str, Any] = {
    "label": lambda row: ["坏", "好"][row % 2],
    "labels": lambda row: [["坏", "好"], ["好"], ["坏"], []][row % 4],
    "value": lambda row: float(row % 7),
}
CLASSES = {gold: json.dumps({"gold": gold, "labels": learned.get("labels", [])}) for gold, learned in LEARNED.items()}


def row_of(gold: str, row: int) -> dict[str, Any]:
    head = {"id": f"r{row:02}", "group": f"g{row}", "text": f"房间 number {row}", "text_b": ""}
    return {**head, gold: GOLD[gold](row)}


def feature_of(gold: str, place: int, record: dict[str, Any]) -> dict[str, Any]:
    learned = LEARNED[gold]
    target: list[float] = []
    if gold == "labels":
        target = [float(name in record["labels"]) for name in learned["labels"]]
    if gold == "value":
        target = [(record["value"] - 3) / 2]
    label = learned["labels"].index(record["label"]) if gold == "label" else -1
    ids = {"input_ids": [1, 2, 3], "token_type_ids": [0, 0, 0], "truncated": False}
    return {"row": place, **ids, "label": label, "target": target}


def made(root: Path, gold: str) -> Project:
    """Sound output of every stage: 40 rows, of which 24 train, 8 validate and 8 test; nothing is trained."""
    ((_, section),) = read_yaml(ROOT / "recipes" / "sample-topics.yaml").items()
    section["tokenization"] = {"max_length": 4}
    limits = {"min_rows": 20, "max_text_characters": 60, "labels": ["坏", "好"], "max_label_share": 0.9}
    floors = {"label": {"min_accuracy": 50.0}, "labels": {"min_micro_f1": 50.0}, "value": {"min_pearson": 50.0}}
    section["gates"] |= {"ingestion": limits, "report": floors[gold]}
    section["gates"]["splitting"] = {"min_train_rows": 10, "max_stratum_difference": 0.3}
    project = Project(Layout(root, "tiny"), Pipeline.model_validate(section))
    for stage in STAGES:
        project.folder(stage).mkdir(parents=True)
    table = pa.Table.from_pylist([row_of(gold, row) for row in range(40)], rows.SCHEMA)
    for stage in ("ingestion", "cleaning", "augmentation"):
        tables.write(table, project.folder(stage) / "rows.parquet")
    tables.write(tables.DROPPED.empty_table(), project.folder("cleaning") / "dropped.parquet")
    write_json(project.folder("tokenization") / "learned.json", LEARNED[gold])
    (project.folder("tokenization") / "quarantine.jsonl").write_text("")
    parts = {"train": table.slice(0, 24), "validation": table.slice(24, 8), "test": table.slice(32)}
    outputs = {}
    for split, part in parts.items():
        tables.write(part, project.folder("splitting") / f"{split}.parquet")
        records = [feature_of(gold, place, record) for place, record in enumerate(part.to_pylist())]
        write_stream(pa.Table.from_pylist(records, features.SCHEMA), project.folder("tokenization") / f"{split}.arrow")
        outputs[split] = outputs_of(gold, records)
    outputs["untrained"] = outputs["test"]
    for split in ("validation", "test", "untrained"):
        tables.write(outputs[split], project.folder("evaluation") / f"{split}.parquet")
    write_json(project.folder("evaluation") / "losses.json", {"validation": 0.5, "test": 0.6})
    finish(project, parts, outputs)
    return project


def outputs_of(gold: str, records: list[dict[str, Any]]) -> pa.Table:
    """Outputs of a model that knows every label."""
    logits = {
        "label": lambda record: [4.0 - 8 * record["label"], 8.0 * record["label"] - 4],
        "labels": lambda record: [8 * value - 4 for value in record["target"]],
        "value": lambda record: [2 * record["target"][0] + 3],
    }[gold]
    held = [{"row": record["row"], "logits": logits(record)} for record in records]
    return pa.Table.from_pylist(held, model.OUTPUTS.with_metadata({"classes": CLASSES[gold]}))


def finish(project: Project, parts: dict[str, pa.Table], outputs: dict[str, pa.Table]) -> None:
    """Training's folder as it would be, predictions and scores made of the outputs, and the folder to publish."""
    trained, section = project.folder("training") / "model", project.params.postprocessing
    trained.mkdir()
    save_file({"layer": np.ones((3, 2), np.float32)}, trained / "model.safetensors")
    for name in ("config", "tokenizer"):
        write_json(trained / f"{name}.json", {"model_type": "bert"})
    write_json(project.folder("training") / "facts.json", {"first_loss": 5.0, "last_loss": 1.0, "best_loss": 1.5})
    tuned = predictions.tune(parts["validation"], outputs["validation"], section, "zh")
    found = predictions.predict(parts["test"], outputs["test"], section, tuned)
    folder = project.folder("postprocessing")
    (folder / "predictions").mkdir()
    predictions.write(found, folder / "predictions")
    write_json(folder / "tuned.json", tuned)
    write_json(folder / "metrics.json", {"test": scores.scores(parts["test"], found, section, "zh")})
    shutil.copytree(trained, project.folder("report") / "model")
    (project.folder("report") / "model" / "README.md").write_text("# A model\n")
    write_json(project.folder("report") / "model" / "trainwright.json", {"task": "classification"})


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Project]:
    return {gold: made(tmp_path_factory.mktemp(gold), gold) for gold in GOLD}


@pytest.mark.parametrize("gold", GOLD)
@pytest.mark.parametrize("gate", STAGES)
def test_each_gate_passes_what_is_sound(good: dict[str, Project], gold: str, gate: str) -> None:
    verdict = good[gold].verdict(gate)
    assert [(judged.promise.name, judged.promise.rows) for judged in verdict.failed] == []
    assert verdict.passed


def feature(number: int, split: str = "train", **values: object) -> Change:
    """Change one feature of a split."""

    def plant(project: Project) -> None:
        path = project.folder("tokenization") / f"{split}.arrow"
        records = read_stream(path).to_pylist()
        records[number] |= values
        write_stream(pa.Table.from_pylist(records, features.SCHEMA), path)

    return plant


def output(number: int, labels: list[str] | None = None, gold: str = "label", **values: object) -> Change:
    """Change one raw output of test, or the names of the labels."""

    def plant(project: Project) -> None:
        path = project.folder("evaluation") / "test.parquet"
        records = tables.read(path).to_pylist()
        records[number] |= values
        named = CLASSES[gold] if labels is None else json.dumps({"gold": gold, "labels": labels})
        tables.write(pa.Table.from_pylist(records, model.OUTPUTS.with_metadata({"classes": named})), path)

    return plant


def unknown_in_test(project: Project) -> None:
    edit("rows.parquet", put("r33", label="neu"), "augmentation")(project)
    edit("test.parquet", put("r33", label="neu"), "splitting")(project)


def every(**values: object) -> Any:
    return lambda records: [record | values for record in records]


def many_cut(project: Project) -> None:
    for number in range(6):
        feature(number, truncated=True)(project)


def ingested(change: Any) -> Change:
    return edit("rows.parquet", change, "ingestion")


def said(change: Any) -> Change:
    """Change predictions.json."""
    return json_edit("postprocessing", "predictions/predictions.json", change)


def scored(change: Any) -> Change:
    return json_edit("postprocessing", "metrics.json", change)


DEFECTS: list[tuple[str, str, str, Change, str, list[str]]] = [
    ("label", "an empty text", "ingestion", ingested(put("r01", text=" ")), "no_empty_texts", ["r01"]),
    ("label", "no label", "ingestion", ingested(put("r01", label=None)), "one_label_column", ["r01"]),
    ("label", "a blank label", "ingestion", ingested(put("r01", label=" ")), "labels_named", ["r01"]),
    ("label", "two kinds of label", "ingestion", ingested(put("r01", value=1.0)), "one_label_column", ["r01"]),
    ("label", "a row of another kind", "ingestion", ingested(put("r01", label=None, value=1.0)), "one_kind", ["r01"]),
    ("label", "a label not allowed", "ingestion", ingested(put("r01", label="neu")), "labels_allowed", ["r01"]),
    ("label", "one label only", "ingestion", ingested(every(label="好")), "label_count", []),
    ("label", "nearly one label", "ingestion", ingested(every(label="好")), "label_share", []),
    ("label", "half a pair", "ingestion", ingested(put("r01", text_b="too")), "pairs_whole", ["r01"]),
    ("label", "a long text", "ingestion", ingested(put("r01", text="长" * 61)), "text_length", ["r01"]),
    ("label", "an id twice", "ingestion", ingested(put("r01", id="r02")), "ids_unique", ["r02", "r02"]),
    ("labels", "a label twice", "ingestion", ingested(put("r01", labels=["好", "好"])), "labels_named", ["r01"]),
    ("labels", "an empty label", "ingestion", ingested(put("r01", labels=[""])), "labels_named", ["r01"]),
    ("labels", "a label not allowed", "ingestion", ingested(put("r01", labels=["neu"])), "labels_allowed", ["r01"]),
    ("value", "NaN", "ingestion", ingested(put("r01", value=float("nan"))), "one_label_column", ["r01"]),
    ("value", "one number only", "ingestion", ingested(every(value=2.0)), "values_differ", []),
    (
        "label",
        "a changed text",
        "splitting",
        edit("test.parquet", put("r33", text="other"), "splitting"),
        "rows_unchanged",
        ["r33"],
    ),
    ("label", "a label that train lacks", "splitting", unknown_in_test, "test_labels_in_train", ["r33"]),
    ("label", "a wrong label number", "tokenization", feature(3, label=0), "labels_read_back", ["r03"]),
    ("label", "an unknown label number", "tokenization", feature(3, "test", label=-1), "labels_read_back", ["r35"]),
    ("label", "a label number too high", "tokenization", feature(3, label=2), "labels_read_back", ["r03"]),
    ("label", "a feature too long", "tokenization", feature(2, input_ids=[1] * 5), "lengths", ["r02"]),
    ("label", "a feature without tokens", "tokenization", feature(2, input_ids=[]), "lengths", ["r02"]),
    ("label", "a feature of no row", "tokenization", feature(2, row=99), "features_of_rows", ["row 99"]),
    ("label", "a row without a feature", "tokenization", feature(2, row=99), "features_for_all", ["r02"]),
    ("label", "texts cut", "tokenization", many_cut, "truncated_share", [f"r0{i}" for i in range(6)]),
    ("labels", "a target of another row", "tokenization", feature(0, target=[1.0, 0.0]), "labels_read_back", ["r00"]),
    ("labels", "a target too short", "tokenization", feature(0, target=[1.0]), "labels_read_back", ["r00"]),
    ("value", "a target of another number", "tokenization", feature(2, target=[0.4]), "labels_read_back", ["r02"]),
    (
        "label",
        "NaN weights",
        "training",
        weights("training", layer=np.full(2, np.nan, np.float32)),
        "weights_finite",
        ["model.safetensors: layer"],
    ),
    (
        "label",
        "an output that is NaN",
        "evaluation",
        output(1, logits=[0.0, float("nan")]),
        "test_scores_finite",
        ["r33"],
    ),
    ("label", "an output too short", "evaluation", output(1, logits=[0.0]), "test_scores_finite", ["r33"]),
    ("label", "an output twice", "evaluation", output(1, row=0), "test_outputs", ["r32", "r33"]),
    ("label", "labels in another order", "evaluation", output(0, labels=["好", "坏"]), "test_labels", ["好", "坏"]),
    (
        "label",
        "a loss too high",
        "evaluation",
        json_edit("evaluation", "losses.json", lambda c: c.update(test=90)),
        "test_loss",
        [],
    ),
    ("label", "a prediction missing", "postprocessing", said(lambda c: c.pop("r33")), "predictions_for_all", ["r33"]),
    (
        "label",
        "a prediction of no row",
        "postprocessing",
        said(lambda c: c.update(x=c["r33"])),
        "predictions_for_all",
        ["x"],
    ),
    ("label", "no prediction", "postprocessing", said(lambda c: c.update(r33=None)), "predictions_sound", ["r33"]),
    (
        "label",
        "an unknown label",
        "postprocessing",
        said(lambda c: c["r33"].update(label="neu")),
        "predictions_sound",
        ["r33"],
    ),
    (
        "label",
        "a probability over 1",
        "postprocessing",
        said(lambda c: c["r33"].update(probability=1.5)),
        "predictions_sound",
        ["r33"],
    ),
    (
        "labels",
        "a label where a list belongs",
        "postprocessing",
        said(lambda c: c.update(r33={"label": "好", "probability": 1})),
        "predictions_sound",
        ["r33"],
    ),
    ("value", "text for a number", "postprocessing", said(lambda c: c.update(r33="2")), "predictions_sound", ["r33"]),
    (
        "label",
        "a model that says one thing",
        "postprocessing",
        said(lambda c: c.update(dict.fromkeys(c, c["r33"]))),
        "predicted_share",
        [],
    ),
    ("label", "rows not scored", "postprocessing", scored(lambda c: c["test"].update(count=3)), "test_count", []),
    (
        "label",
        "a score not computed",
        "postprocessing",
        scored(lambda c: c["test"]["accuracy"].update(value=None)),
        "test_accuracy",
        [],
    ),
    (
        "label",
        "a score below its floor",
        "report",
        scored(lambda c: c["test"]["accuracy"].update(value=49.9)),
        "test_accuracy",
        [],
    ),
    (
        "value",
        "a floor for a score that is not there",
        "report",
        scored(lambda c: c["test"].pop("pearson")),
        "test_pearson",
        [],
    ),
    (
        "label",
        "other weights",
        "report",
        weights("report", layer=np.zeros((3, 2), np.float32)),
        "weights_as_trained",
        ["weights"],
    ),
]


@pytest.mark.parametrize(
    ("gold", "gate", "plant", "promise", "names"),
    [pytest.param(d[0], *d[2:], id=f"{d[0]}, {d[2]}: {d[1]}") for d in DEFECTS],
)
def test_a_planted_defect_is_refused_and_named(
    good: dict[str, Project], tmp_path: Path, gold: str, gate: str, plant: Change, promise: str, names: list[str]
) -> None:
    shutil.copytree(good[gold].layout.root, tmp_path, dirs_exist_ok=True)
    project = Project(Layout(tmp_path, "tiny"), good[gold].params)
    plant(project)
    failed = {judged.promise.name: judged.promise.rows for judged in project.verdict(gate).failed}
    assert promise in failed
    assert sorted(failed[promise]) == sorted(names)


def test_only_rows_in_quarantine_may_lack_a_feature_and_a_prediction(good: dict[str, Project], tmp_path: Path) -> None:
    shutil.copytree(good["label"].layout.root, tmp_path, dirs_exist_ok=True)
    project = Project(Layout(tmp_path, "tiny"), good["label"].params)
    path = project.folder("tokenization") / "test.arrow"
    kept = read_stream(path).slice(0, 7)
    write_stream(kept, path)
    assert [judged.promise.rows for judged in project.verdict("tokenization").failed] == [["r39"]]
    (project.folder("tokenization") / "quarantine.jsonl").write_text(json.dumps({"id": "r39"}) + "\n")
    assert project.verdict("tokenization").passed
    for name in ("test", "untrained"):
        outputs = project.folder("evaluation") / f"{name}.parquet"
        tables.write(tables.read(outputs).slice(0, 7), outputs)
    said(lambda content: content.update(r39=None))(project)
    assert project.verdict("evaluation").passed
    assert project.verdict("postprocessing").passed
