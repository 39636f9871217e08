"""Named entities from source to published model, English and Chinese together, with a tiny model from scratch."""

import json
import random
from importlib import import_module
from pathlib import Path

import pytest

from trainwright import pins
from trainwright.core import params, process
from trainwright.core.layout import STAGES, Layout
from trainwright.engine import answering, base_model
from trainwright.gates import runner
from trainwright.rows import tables

pytestmark = pytest.mark.slow
PEOPLE = ("Anna Berg", "Émile Roux", "Lu Xun", "Ada", "Ion Popa", "Mary Ann Lee")
PLACES = ("Oslo", "New York", "Łódź", "Rio", "San José")
CHINESE_PEOPLE = ("李明", "王小红", "欧阳修", "张伟")
CHINESE_PLACES = ("北京", "上海市", "哈尔滨", "成都")
PARAMS = """
pipelines:
  tiny-ner:
    task: ner
    language: en
    base_model: folder:base
    after: none
    source: {uri: rows.jsonl, format: jsonl, licence: CC0-1.0}
    ingestion: {}
    cleaning: {}
    augmentation: {typing_noise: 0.2}
    splitting: {train: 0.7, validation: 0.15, test: 0.15}
    tokenization: {max_length: 24, stride: 8}
    training: {epochs: 12, batch_size: 16, learning_rate: 5e-3, precision: float32, dropout: 0.0, early_stopping: 0}
    evaluation: {}
    postprocessing: {bootstrap: 50}
    report: {}
    gates:
      ingestion: {}
      cleaning: {}
      augmentation: {}
      splitting: {}
      tokenization: {max_misaligned_share: 0.0}
      training: {}
      evaluation: {}
      postprocessing: {}
      report: {min_f1: 50.0}
"""


def sentence(number: int, draw: random.Random) -> dict:
    """A person and a place in a sentence that is longer than a window, or in a Chinese one without a space."""
    if number % 2:
        who, where = draw.choice(CHINESE_PEOPLE), draw.choice(CHINESE_PLACES)
        text = f"{number}号的{who}昨天去了{where}，很高兴。"
    else:
        who, where = draw.choice(PEOPLE), draw.choice(PLACES)
        text = f"Guest {number}: {'very ' * draw.randint(0, 30)}old {who}  walked to {where}."
    spans = [
        {"start": text.index(t), "end": text.index(t) + len(t), "label": k} for t, k in ((who, "PER"), (where, "LOC"))
    ]
    return {"id": f"s{number:03}", "text": text, "spans": spans}


def scratch_bert(folder: Path, texts: list[str]) -> None:
    import torch
    import transformers

    letters = sorted({letter for text in texts for letter in text if not letter.isspace()})
    words = [
        "[PAD]",
        "[CLS]",
        "[SEP]",
        "[UNK]",
        "[MASK]",
        "very",
        "old",
        "walked",
        *letters,
        *(f"##{x}" for x in letters),
    ]
    vocabulary = {word: place for place, word in enumerate(words)}
    tokenizer = transformers.BertTokenizer(vocab=vocabulary, do_lower_case=False, model_max_length=32)
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> process.Run:
    """The whole pipeline, every stage and every gate of it."""
    root = tmp_path_factory.mktemp("project")
    draw = random.Random(5)
    rows = [sentence(number, draw) for number in range(160)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    (root / "params.yaml").write_text(PARAMS)
    scratch_bert(root / "base", [row["text"] for row in rows])
    run = process.Run(Layout(root, "tiny-ner"), params.load(root / "params.yaml").pipeline("tiny-ner"))
    pins.refresh(run.layout, run.params)
    base_model.pin(run.layout, run.params)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for stage in STAGES:
            import_module(f"stages.{stage}").main(run)
            runner.run(run.layout, run.params, stage)
    return run


def test_the_model_finds_people_and_places_that_it_was_not_trained_on_in_these_sentences(run):
    metrics = json.loads((run.layout.stage("postprocessing") / "metrics.json").read_text())
    assert metrics["test"]["f1"]["value"] > 80 > metrics["untrained"]["f1"]["value"]
    assert metrics["test"]["token_accuracy"]["value"] > 90
    assert [label["label"] for label in metrics["test"]["labels"]] == ["LOC", "PER"]
    assert metrics["test"]["f1"]["low"] <= metrics["test"]["f1"]["value"] <= metrics["test"]["f1"]["high"]


def test_cleaning_and_typing_noise_keep_every_entity_under_its_label(run):
    noised = 0
    for batch in tables.batches(run.layout.stage("augmentation") / "rows.parquet"):
        for row in batch.to_pylist():
            for start, text, label in zip(row["span_start"], row["span_text"], row["span_label"], strict=True):
                assert row["text"][start : start + len(text)] == text
                assert text in (PEOPLE + CHINESE_PEOPLE if label == "PER" else PLACES + CHINESE_PLACES)
            noised += row["parent"] is not None
            assert "  " not in row["text"]
    assert noised > 5


def test_long_sentences_lie_in_several_windows_and_each_of_their_words_is_answered_once(run):
    outputs = tables.read(run.layout.stage("evaluation") / "test.parquet")
    rows = tables.read(run.layout.stage("splitting") / "test.parquet")
    assert outputs.num_rows > rows.num_rows
    predictions = json.loads((run.layout.stage("postprocessing") / "predictions" / "predictions.json").read_text())
    assert list(predictions) == rows["id"].to_pylist()
    for text, entities in zip(rows["text"].to_pylist(), predictions.values(), strict=True):
        assert all(text[e["start"] : e["end"]] == e["text"] and 0 < e["probability"] <= 1 for e in entities)


def test_a_published_model_finds_entities_in_a_file_of_plain_texts_and_in_one_of_tokens(run, tmp_path):
    model = run.layout.stage("report") / "model"
    chinese, english = "88号的王小红昨天去了成都，很高兴。", "Guest 77: very old Ada walked to New York."
    lines = [json.dumps({"id": name, "text": text}) + "\n" for name, text in (("zh", chinese), ("en", english))]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    answered, faults = answering.predict_file(model, tmp_path / "in.jsonl", tmp_path / "out.json")
    assert (answered, faults) == (2, [])
    found = json.loads((tmp_path / "out.json").read_text())
    assert {(e["text"], e["label"]) for e in found["zh"]} == {("王小红", "PER"), ("成都", "LOC")}
    assert {(e["text"], e["label"]) for e in found["en"]} == {("Ada", "PER"), ("New York", "LOC")}
    assert all(chinese[e["start"] : e["end"]] == e["text"] for e in found["zh"])
    (tmp_path / "in.conll").write_text("".join(f"{character}\n" for character in chinese) + "\n")
    assert answering.predict_file(model, tmp_path / "in.conll", tmp_path / "conll.json") == (1, [])
    (characters,) = json.loads((tmp_path / "conll.json").read_text()).values()
    assert [(e["start"], e["end"], e["label"]) for e in characters] == [
        (e["start"], e["end"], e["label"]) for e in found["zh"]
    ]
