"""Masked language modelling from source to published folder, with a tiny model and real passages."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from stages import (
    augmentation,
    cleaning,
    evaluation,
    ingestion,
    postprocessing,
    report,
    splitting,
    tokenization,
    training,
)
from trainwright import pins, tables
from trainwright.core import params
from trainwright.core.layout import Layout
from trainwright.core.process import Run
from trainwright.engine import answering, base_model
from trainwright.gates import runner

STAGES = {
    "ingestion": ingestion,
    "cleaning": cleaning,
    "augmentation": augmentation,
    "splitting": splitting,
    "tokenization": tokenization,
    "training": training,
    "evaluation": evaluation,
    "postprocessing": postprocessing,
    "report": report,
}
pytestmark = pytest.mark.slow
PASSAGES = ROOT / "data" / "sample" / "passages.jsonl"


def tiny_bert(folder: Path, texts: list[str]) -> None:
    """A BERT of two layers whose vocabulary is the letters and the common words of some texts."""
    import torch
    import transformers

    words: dict[str, int] = {}
    for word in " ".join(texts).lower().split():
        words[word] = words.get(word, 0) + 1
    common = [word for word, count in sorted(words.items(), key=lambda pair: -pair[1]) if word.isalpha() and count > 3]
    letters = sorted({letter for text in texts for letter in text.lower() if not letter.isspace()})
    marks = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    vocabulary = list(dict.fromkeys([*marks, *letters, *(f"##{x}" for x in letters), *common]))
    transformers.BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The recipe, on 60 of its passages and with a tiny base model, run stage by stage through every gate."""
    import torch

    root = tmp_path_factory.mktemp("project")
    lines = PASSAGES.read_text(encoding="utf-8").splitlines()[:60]
    (root / "passages.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tiny_bert(root / "base", [json.loads(line)["text"] for line in lines])
    ((_, section),) = params.read_yaml(ROOT / "recipes" / "sample-mlm.yaml").items()
    section["base_model"] = "folder:base"
    section["source"]["uri"] = "passages.jsonl"
    section["tokenization"]["max_length"] = 48
    section["training"] |= {"epochs": 4, "learning_rate": 1e-2, "precision": "float32", "label_smoothing": 0.1}
    section["gates"]["splitting"] = {"min_train_rows": 20, "min_validation_rows": 3, "min_test_rows": 3}
    run = Run(Layout(root, "tiny"), params.Pipeline.model_validate(section))
    pins.refresh(run.layout, run.params)
    base_model.pin(run.layout, run.params)
    torch.set_num_threads(1)
    for name, stage in STAGES.items():
        stage.main(run)
        runner.run(run.layout, run.params, name)
    return run


def content(run: Run, stage: str, name: str) -> Any:
    return json.loads((run.layout.stage(stage) / name).read_text(encoding="utf-8"))


def test_training_makes_a_better_model_than_the_untrained_one_and_the_unigrams(project):
    metrics = content(project, "postprocessing", "metrics.json")
    test, untrained = metrics["test"], metrics["untrained"]
    assert test["loss"]["high"] < untrained["loss"]["low"]
    assert test["tokens"] == untrained["tokens"] > 100
    assert test["unigram_loss"] == untrained["unigram_loss"]
    assert test["nats_below_unigram"]["value"] == pytest.approx(test["unigram_loss"] - test["loss"]["value"], abs=2e-4)
    assert untrained["nats_below_unigram"]["high"] < 0


def test_perplexity_on_test_is_e_to_the_loss_of_its_tokens_though_training_smoothed_its_labels(project):
    metrics = content(project, "postprocessing", "metrics.json")
    outputs = tables.read(project.layout.stage("evaluation") / "test.parquet")
    losses = [loss for row in outputs["loss"].to_pylist() for loss in row]
    assert len({len(row) for row in outputs["loss"].to_pylist()}) > 1  # batches are uneven
    mean = sum(losses) / len(losses)
    assert metrics["test"]["loss"]["value"] == pytest.approx(mean, abs=1e-4)
    assert metrics["test"]["perplexity"]["value"] == pytest.approx(math.exp(mean), rel=1e-4)
    assert content(project, "evaluation", "losses.json")["test"] == pytest.approx(mean, abs=1e-4)


def test_every_blank_of_the_predictions_is_what_stands_in_its_document(project):
    found = content(project, "postprocessing", "predictions/predictions.json")
    rows = tables.read(project.layout.stage("splitting") / "test.parquet").to_pylist()
    assert list(found) == [row["id"] for row in rows]
    for row in rows:
        assert found[row["id"]]
        for blank in found[row["id"]]:
            assert row["text"][blank["start"] : blank["end"]] == blank["text"] != ""
            assert len(blank["candidates"]) == project.params.postprocessing.n_best
            assert all(candidate["text"] for candidate in blank["candidates"])


def test_the_published_folder_fills_the_masks_of_a_file(project, tmp_path):
    texts = ["The [MASK] of the [MASK] was built.", "Nothing is missing here.", "[MASK]"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": n, "text": t}) + "\n" for n, t in enumerate(texts)))
    model = project.layout.stage("report") / "model"
    answered, faults = answering.predict_file(model, tmp_path / "in.jsonl", tmp_path / "out.json")
    assert (answered, faults) == (3, [])
    found = json.loads((tmp_path / "out.json").read_text())
    places = {id: [(blank["start"], blank["end"], blank["text"]) for blank in said] for id, said in found.items()}
    assert places == {"0": [(4, 10, "[MASK]"), (18, 24, "[MASK]")], "1": [], "2": [(0, 6, "[MASK]")]}
    assert all(len(blank["candidates"]) == 5 for said in found.values() for blank in said)


def test_a_file_of_plain_texts_is_filled_in_too(project, tmp_path):
    (tmp_path / "in.txt").write_text("One [MASK] here.\n\nAnd none.\n")
    model = project.layout.stage("report") / "model"
    answered, faults = answering.predict_file(model, tmp_path / "in.txt", tmp_path / "out.json")
    assert (answered, faults) == (2, [])
    assert sorted(len(said) for said in json.loads((tmp_path / "out.json").read_text()).values()) == [0, 1]


def test_the_report_tells_loss_and_perplexity_and_the_published_folder_holds_the_unigrams(project):
    page = (project.layout.stage("report") / "index.html").read_text(encoding="utf-8")
    assert "perplexity" in page
    assert "nats" in page
    settings = content(project, "report", "model/trainwright.json")
    assert settings["task"] == "mlm"
    assert settings["learned"]["unigrams"]["counts"]
