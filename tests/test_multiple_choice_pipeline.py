"""A small pipeline of multiple choice runs whole, its model answers a file, and its gates refuse planted defects."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import ran
from test_multiple_choice import COLOURS, lines, tiny, tokenizer

from trainwright.core import params
from trainwright.core.layout import STAGES, Layout
from trainwright.engine import answering
from trainwright.gates import runner
from trainwright.rows import tables
from trainwright.tasks.multiple_choice.params import Tokenization

pytestmark = pytest.mark.slow

PIPELINE: dict[str, Any] = {
    "task": "multiple_choice",
    "language": "en",
    "base_model": "folder:base",
    "after": "none",
    "source": {"uri": "questions.jsonl", "format": "jsonl", "licence": "MIT"},
    "ingestion": {"max_bad_share": 0.05},
    "cleaning": {},
    "augmentation": {"paraphrase": 0.2},
    "splitting": {"train": 0.6, "validation": 0.2, "test": 0.2},
    "tokenization": {"max_length": 24},
    "training": {"epochs": 8, "batch_size": 8, "learning_rate": 0.003, "label_smoothing": 0.05, "early_stopping": 0},
    "evaluation": {},
    "postprocessing": {"bootstrap": 100},
    "report": {},
    "gates": {name: {} for name in STAGES} | {"report": {"min_accuracy": 60.0}},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose every stage and gate has run: the good choice is right, of two to four."""
    root = tmp_path_factory.mktemp("project")
    random = np.random.default_rng(3)
    records = []
    for i in range(150):
        count = int(random.integers(2, 5))
        answer = int(random.integers(count))
        choices = [f"{'good' if place == answer else 'bad'} {COLOURS[(i + place) % 5]}" for place in range(count)]
        context = f"the {COLOURS[i % 5]} {i}" if i % 3 else ""
        records.append({"context": context, "question": f"which is it {i} ?", "choices": choices, "answer": answer})
    records[7]["answer"] = 9  # goes into quarantine
    (root / "questions.jsonl").write_text(lines(*records))
    tiny().save_pretrained(root / "base")
    tokenizer().save_pretrained(root / "base")
    ran(root, PIPELINE)
    return root


def project(root: Path) -> tuple[Layout, params.Pipeline]:
    return Layout(root, "tiny"), params.load(root / "params.yaml").pipeline("tiny")


def test_a_pipeline_learns_what_can_be_learned_and_says_so(finished):
    layout, _ = project(finished)
    metrics = json.loads((layout.stage("postprocessing") / "metrics.json").read_text())
    assert metrics["test"]["accuracy"]["value"] > 90 > metrics["untrained"]["accuracy"]["value"]
    faults = (layout.stage("ingestion") / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(fault)["row"] for fault in faults] == ["line 8"]
    card = (layout.stage("report") / "model" / "README.md").read_text()
    assert "AutoModelForMultipleChoice" in card


def test_the_published_folder_answers_questions_without_answers(finished, tmp_path):
    layout, _ = project(finished)
    choices = [["bad red", "good blue"], ["good red", "bad blue", "bad pink"]]
    (tmp_path / "in.csv").write_text(
        "id,question,choice1,choice2,choice3\n"
        + "".join(f"q{i},which is it ?,{','.join([*own, ''][:3])}\n" for i, own in enumerate(choices))
    )
    answered, faults = answering.predict_file(
        layout.stage("report") / "model", tmp_path / "in.csv", tmp_path / "out.json"
    )
    found = json.loads((tmp_path / "out.json").read_text())
    assert (answered, faults) == (2, [])
    assert [(found[f"q{i}"]["choice"], found[f"q{i}"]["text"]) for i in range(2)] == [(1, "good blue"), (0, "good red")]
    assert all(0.34 < one["probability"] <= 1 for one in found.values())


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
        table = table.set_column(place, field, pa.array(values, field.type))
        path.unlink()
        if stream:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
                out.write_table(table)
        else:
            tables.write(table, path)

    return plant


def edit_json(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
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


def every(change: Callable[[Any], Any]) -> Callable[[list[Any]], None]:
    def changed(values: list[Any]) -> None:
        values[:] = map(change, values)

    return changed


def first(change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def edited(content: dict[str, Any]) -> None:
        name = next(iter(content))
        content[name] = change(content[name])

    return edited


ROWS, TEST = "rows.parquet", "test.arrow"
PREDICTED, NBEST = "predictions/predictions.json", "predictions/nbest.json"
DEFECTS: list[tuple[str, str, Callable[[Path], None]]] = [
    ("ingestion", "enough_choices", edit(ROWS, "choices", put(3, lambda c: c[:1]))),
    ("ingestion", "no_empty_choices", edit(ROWS, "choices", put(3, lambda c: [" ", *c[1:]]))),
    ("ingestion", "choices_differ", edit(ROWS, "choices", put(3, lambda c: [c[1], *c[1:]]))),
    ("ingestion", "answers_among_choices", edit(ROWS, "answer", put(3, 4))),
    ("ingestion", "no_empty_questions", edit(ROWS, "question", put(3, " "))),
    ("ingestion", "choice_length", edit(ROWS, "choices", put(3, lambda c: ["x" * 5001, *c[1:]]))),
    ("ingestion", "context_length", edit(ROWS, "context", put(3, "x" * 200_001))),
    ("ingestion", "answer_share", edit(ROWS, "answer", every(lambda _: 0))),
    ("cleaning", "answers_among_choices", edit(ROWS, "answer", put(5, -1))),
    ("augmentation", "answers_among_choices", edit(ROWS, "answer", put(5, 7))),
    ("splitting", "rows_unchanged", edit("test.parquet", "answer", put(0, lambda a: 1 - min(a, 1)))),
    ("tokenization", "labels_are_answers", edit(TEST, "answer", put(0, lambda a: 1 - min(a, 1)))),
    ("tokenization", "inputs_for_choices", edit(TEST, "lengths", put(0, lambda s: [s[0] + 1, *s[1:]]))),
    ("tokenization", "inputs_for_choices", edit(TEST, "lengths", put(0, lambda s: [s[0] + s[1], *s[2:]]))),
    ("tokenization", "features_for_all", edit(TEST, "row", put(0, 1))),
    ("tokenization", "features_of_rows", edit(TEST, "row", put(0, 5000))),
    ("tokenization", "lengths", edit("train.arrow", "row", every(lambda row: row))),
    ("tokenization", "truncated_share", edit("train.arrow", "truncated", every(lambda _: 1))),
    ("tokenization", "indistinct_share", edit("train.arrow", "input_ids", every(lambda ids: [5] * len(ids)))),
    ("evaluation", "test_scores_finite", edit("test.parquet", "score", put(0, lambda s: [float("nan"), *s[1:]]))),
    ("evaluation", "test_score_for_choices", edit("test.parquet", "score", put(0, lambda s: [*s, 1.0]))),
    ("evaluation", "untrained_outputs", edit("untrained.parquet", "row", put(0, 1))),
    ("postprocessing", "predictions_are_choices", edit_json(PREDICTED, first(lambda p: {**p, "text": "other"}))),
    ("postprocessing", "predictions_are_choices", edit_json(PREDICTED, first(lambda p: {**p, "choice": 4}))),
    ("postprocessing", "predictions_for_all", edit_json(NBEST, lambda content: content.pop(next(iter(content))))),
    ("postprocessing", "probabilities_whole", edit_json(NBEST, first(lambda n: n[:-1]))),
    ("postprocessing", "probabilities_whole", edit_json(NBEST, first(lambda n: [{**x, "probability": 1} for x in n]))),
    ("postprocessing", "choice_share", edit_json(PREDICTED, lambda c: [x.update(choice=0) for x in c.values()])),
    ("postprocessing", "test_accuracy", edit_json("metrics.json", lambda m: m["test"]["accuracy"].update(value=None))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("gate", "promise", "plant"), DEFECTS, ids=[f"{gate} {name} {i}" for i, (gate, name, _) in enumerate(DEFECTS)]
)
def test_a_planted_defect_is_refused_by_name(finished, tmp_path, gate, promise, plant):
    root = tmp_path / "copy"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns(".trainwright", "training"))
    layout, section = project(root)
    if promise == "lengths":
        section = section.model_copy(update={"tokenization": Tokenization(max_length=10)})
    plant(layout.stage(gate))
    verdict = runner.judge(layout, section, gate)
    assert promise in [judged.promise.name for judged in verdict.failed]


def test_every_gate_passes_what_the_stages_wrote(finished):
    layout, section = project(finished)
    for stage in STAGES:
        assert runner.judge(layout, section, stage).failed == []
