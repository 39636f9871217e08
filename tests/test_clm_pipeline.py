"""Causal language modelling from a text file to a published folder: documents in pieces of bytes, and one stream by
characters; what its gates refuse; what the published models write."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, ran

from trainwright.core.layout import STAGES, Layout
from trainwright.core.process import Run
from trainwright.engine import answering
from trainwright.gates import runner
from trainwright.rows import tables

pytestmark = pytest.mark.slow

PASSAGES = [json.loads(line)["text"] for line in (ROOT / "data/sample/passages.jsonl").read_text().splitlines()[:50]]
SMALL = {"family": "gpt2", "layers": 2, "heads": 2, "width": 32, "positions": 64}
PIPELINE: dict[str, Any] = {
    "task": "clm",
    "language": "en",
    "base_model": {"scratch": {**SMALL, "tokenizer": "bpe", "vocabulary": 400}},
    "after": "none",
    "source": {"uri": "texts.txt", "format": "text", "licence": "MIT"},
    "ingestion": {},
    "cleaning": {},
    "augmentation": {},
    "splitting": {"train": 0.6, "validation": 0.2, "test": 0.2},
    "tokenization": {"block": 64, "beginning": 8},
    "training": {"epochs": 4, "batch_size": 16, "learning_rate": 0.01, "precision": "float32", "early_stopping": 0},
    "evaluation": {"new_tokens": 6},
    "postprocessing": {"bootstrap": 100},
    "report": {},
    "gates": {name: {} for name in STAGES},
}
STREAM = {
    "base_model": {"scratch": {**SMALL, "tokenizer": "character", "vocabulary": 200}},
    "source": PIPELINE["source"] | {"stream": {"train": 0.7, "validation": 0.15, "test": 0.15}},
    "cleaning": {"whitespace": False, "duplicates": False},
}


def finished(root: Path, section: dict[str, Any]) -> Run:
    """A project whose every stage and gate has run."""
    (root / "texts.txt").write_text("\n\n".join(PASSAGES) + "\n", encoding="utf-8")
    return ran(root, section)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finished(tmp_path_factory.mktemp("documents"), PIPELINE)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finished(tmp_path_factory.mktemp("stream"), PIPELINE | STREAM)


def content(run: Run, stage: str, name: str) -> Any:
    return json.loads((run.layout.stage(stage) / name).read_text(encoding="utf-8"))


def arrow(path: Path) -> pa.Table:
    with pa.ipc.open_stream(path.read_bytes()) as file:
        return file.read_all()


@pytest.mark.parametrize("kind", ["documents", "stream"])
def test_training_makes_a_better_model_than_the_untrained_one_and_than_frequencies(kind, request):
    run = request.getfixturevalue(kind)
    metrics = content(run, "postprocessing", "metrics.json")
    test, untrained = metrics["test"], metrics["untrained"]
    assert test["loss"]["high"] < untrained["loss"]["low"]
    assert test["loss"]["value"] < test["unigram_loss"] < untrained["loss"]["value"]
    assert test["tokens"] == untrained["tokens"] > 1000
    assert test["perplexity"]["value"] == pytest.approx(math.exp(test["loss"]["value"]), rel=1e-3)
    assert "perplexity" in (run.layout.stage("report") / "index.html").read_text(encoding="utf-8")
    assert "AutoModelForCausalLM" in (run.layout.stage("report") / "model" / "README.md").read_text(encoding="utf-8")


def test_a_stream_goes_through_all_stages_to_the_character(stream):
    whole = (stream.layout.root / "texts.txt").read_text(encoding="utf-8")
    tokenizer = json.loads((stream.layout.stage("tokenization") / "tokenizer" / "tokenizer.json").read_text())
    letters = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    said = ""
    for split in tables.SPLITS:
        blocks = arrow(stream.layout.stage("tokenization") / f"{split}.arrow")["input_ids"].to_pylist()
        assert all(len(block) == 64 for block in blocks[:-1])
        said += "".join(letters[token] for block in blocks for token in block)
    known = "".join(letter if letter in letters.values() else "<unk>" for letter in whole)
    assert said == known
    assert content(stream, "tokenization", "learned.json")["stream"] is True


def test_the_first_characters_of_a_stream_are_trained_on_and_the_last_tested_on(stream):
    whole = (stream.layout.root / "texts.txt").read_text(encoding="utf-8")
    parts = {s: tables.read(stream.layout.stage("splitting") / f"{s}.parquet") for s in tables.SPLITS}
    texts = {split: "".join(table["text"].to_pylist()) for split, table in parts.items()}
    assert whole == texts["train"] + texts["validation"] + texts["test"]
    assert len(texts["train"]) == int(len(whole) * 0.7)


@pytest.mark.parametrize("kind", ["documents", "stream"])
def test_a_published_model_goes_on_from_the_texts_of_a_file(kind, request, tmp_path):
    run = request.getfixturevalue(kind)
    texts = ["The city of", "A", "It was built in the year and then it was built again. " * 5]
    (tmp_path / "in.txt").write_text("\n\n".join(texts) + "\n")
    model = run.layout.stage("report") / "model"
    said: list[str] = []
    answered, faults = answering.predict_file(model, tmp_path / "in.txt", tmp_path / "out.json", say=said.append)
    assert (answered, faults) == (3, [])
    assert ["1 of 3 rows have more text than the model reads" in line for line in said] == [True]
    found = json.loads((tmp_path / "out.json").read_text())
    assert list(found) == ["1", "2", "3"]
    assert all(isinstance(text, str) for text in found.values())
    assert max(map(len, found.values())) >= 3
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model, local_files_only=True)
    network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    start = [] if kind == "stream" else [tokenizer.bos_token_id]  # a stream's model has never seen a beginning
    ids = torch.tensor([[*start, *tokenizer(texts[0])["input_ids"]]])
    new = network.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True) in found.values()


# What the gates refuse: one defect planted in a copy of the sound pipeline of documents


def edit(name: str, column: str, change: Callable[[Any], Any], every: bool = False) -> Callable[[Path], None]:
    """Change a column's first value (or every one) in a table, Parquet or an Arrow stream."""

    def plant(folder: Path) -> None:
        path = folder / name
        held = arrow(path) if path.suffix == ".arrow" else pq.read_table(path)
        values = held[column].to_pylist()
        values[: None if every else 1] = [change(value) for value in (values if every else values[:1])]
        place = held.schema.get_field_index(column)
        field = held.schema.field(place).with_nullable(True)
        save(held.set_column(place, field, pa.array(values, field.type)), path)

    return plant


def save(table: pa.Table, path: Path) -> None:
    path.unlink()
    if path.suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
            out.write_table(table)
    else:
        pq.write_table(table, path)


def cut(name: str, rows: slice) -> Callable[[Path], None]:
    """Keep some rows of a table alone."""

    def plant(folder: Path) -> None:
        path = folder / name
        held = arrow(path) if path.suffix == ".arrow" else pq.read_table(path)
        save(held.take(pa.array(range(held.num_rows)[rows], pa.int64())), path)

    return plant


def edit_json(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        held = json.loads((folder / name).read_text(encoding="utf-8"))
        change(held)
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(held), encoding="utf-8")

    return plant


def score(name: str, value: float | None) -> Callable[[Path], None]:
    return edit_json("metrics.json", lambda held: held["test"][name].update(value=value))


ROWS, TEST, TRAIN, PREDICTED = "rows.parquet", "test.arrow", "train.arrow", "predictions/predictions.json"
OUTPUT = "test.parquet"
DEFECTS: list[tuple[str, str, Callable[[Path], None]]] = [
    ("ingestion", "no_nulls", edit(ROWS, "beginning", lambda _: None)),
    ("ingestion", "no_empty_texts", edit(ROWS, "text", lambda _: " \n")),
    ("ingestion", "text_length", edit(ROWS, "text", lambda _: "x" * 10_000_001)),
    ("cleaning", "no_nulls", edit(ROWS, "text", lambda _: None)),
    ("cleaning", "no_empty_texts", edit(ROWS, "text", lambda _: "")),
    ("augmentation", "no_empty_texts", edit(ROWS, "text", lambda _: "")),
    ("augmentation", "originals_unchanged", edit(ROWS, "text", lambda _: "other")),
    ("splitting", "rows_unchanged", edit(OUTPUT, "text", lambda _: "other")),
    ("splitting", "rows_unchanged", edit(OUTPUT, "position", lambda _: 3)),
    ("tokenization", "bare", cut(TEST, slice(0, 1))),
    ("tokenization", "of_no_row", edit(TEST, "row", lambda _: 5000)),
    ("tokenization", "of_no_row", edit(TEST, "row", lambda _: -1)),
    ("tokenization", "too_long", edit(TRAIN, "input_ids", lambda ids: ids * 2)),
    ("tokenization", "uneven", edit(TRAIN, "unigram", lambda losses: losses[1:])),
    ("tokenization", "disordered", edit(TRAIN, "position", lambda places: [*places[:-1], 4000])),
    ("tokenization", "unpredicted", edit(TRAIN, "position", lambda places: [0] * len(places))),
    ("tokenization", "infinite", edit(TEST, "unigram", lambda losses: [math.nan, *losses[1:]])),
    ("tokenization", "misaligned_share", edit(TRAIN, "characters", lambda sizes: [0] * len(sizes), every=True)),
    ("tokenization", "misaligned_listed", edit(TRAIN, "characters", lambda sizes: [0] * len(sizes))),
    ("evaluation", "test_outputs", cut(OUTPUT, slice(1, None))),
    ("evaluation", "untrained_outputs", edit("untrained.parquet", "row", lambda row: row + 1)),
    ("evaluation", "test_output_count", cut(OUTPUT, slice(0, 0))),
    ("evaluation", "test_tokens", edit(OUTPUT, "loss", lambda losses: losses[1:])),
    ("evaluation", "validation_tokens", edit("validation.parquet", "continuation", lambda texts: [*texts, "more"])),
    ("evaluation", "test_losses", edit(OUTPUT, "loss", lambda losses: [math.nan, *losses[1:]])),
    ("evaluation", "untrained_losses", edit("untrained.parquet", "loss", lambda losses: [-1.0, *losses[1:]])),
    ("evaluation", "test_loss", edit_json("losses.json", lambda held: held.update(test=None))),
    ("evaluation", "validation_loss", edit_json("losses.json", lambda held: held.update(validation=20.5))),
    ("evaluation", "test_loss_of_tokens", edit_json("losses.json", lambda held: held.update(test=held["test"] + 0.5))),
    ("postprocessing", "predictions_for_all", edit_json(PREDICTED, lambda held: held.popitem())),
    ("postprocessing", "predictions_for_all", edit_json(PREDICTED, lambda held: held.update(strange="x"))),
    ("postprocessing", "empty_share", edit_json(PREDICTED, lambda held: held.update(dict.fromkeys(held, "")))),
    ("postprocessing", "test_loss", score("loss", None)),
    ("postprocessing", "test_perplexity", score("perplexity", 0.5)),
    ("postprocessing", "test_nats_per_character", score("nats_per_character", None)),
    ("postprocessing", "test_nats_per_byte", score("nats_per_byte", -1.0)),
    ("postprocessing", "perplexity_of_loss", score("perplexity", 2.0)),
    ("postprocessing", "test_count", edit_json("metrics.json", lambda held: held["test"].update(count=1))),
]


@pytest.mark.parametrize(
    ("gate", "promise", "plant"), DEFECTS, ids=[f"{gate} {name} {i}" for i, (gate, name, _) in enumerate(DEFECTS)]
)
def test_a_planted_defect_is_refused_by_name(gate, promise, plant, documents, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(documents.layout.root, root, ignore=shutil.ignore_patterns(".trainwright", "training", "report"))
    layout = Layout(root, "tiny")
    plant(layout.stage(gate))
    verdict = runner.judge(layout, documents.params, gate)
    assert promise in [judged.promise.name for judged in verdict.failed]


@pytest.mark.parametrize("gate", ["tokenization", "evaluation", "postprocessing"])
def test_every_promise_of_the_tasks_own_is_broken_by_a_defect(gate, documents):
    def kind(name: str) -> str:  # the same is promised of each split
        return name.removeprefix("validation_").removeprefix("untrained_").removeprefix("test_")

    judged = {kind(judged.promise.name) for judged in runner.judge(documents.layout, documents.params, gate).judged}
    assert judged == {kind(name) for stage, name, _ in DEFECTS if stage == gate}


@pytest.mark.parametrize("kind", ["documents", "stream"])
def test_every_gate_passes_what_the_stages_wrote(kind, request):
    run = request.getfixturevalue(kind)
    assert [stage for stage in STAGES if runner.judge(run.layout, run.params, stage).failed] == []


def test_a_model_with_more_nats_a_character_than_its_ceiling_is_not_published(documents):
    limits = documents.params.gates.report.model_copy(update={"max_nats_per_character": 0.01})
    gates = documents.params.gates.model_copy(update={"report": limits})
    verdict = runner.judge(documents.layout, documents.params.model_copy(update={"gates": gates}), "report")
    assert [judged.promise.name for judged in verdict.failed] == ["test_nats_per_character"]
