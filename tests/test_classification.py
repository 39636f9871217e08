"""Classification from a source to predictions: every stage, every gate, and `trainwright predict`, on a tiny model."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainwright import pins
from trainwright.core import params, process
from trainwright.core.errors import RefusedError
from trainwright.core.layout import STAGES, Layout
from trainwright.engine import answering, base_model
from trainwright.gates import runner
from trainwright.rows import tables

ROOT = Path(__file__).parent.parent
SETTINGS = """
pipelines:
  tiny:
    task: classification
    language: {language}
    base_model: folder:base
    after: none
    source: {source}
    ingestion: {{}}
    cleaning: {{}}
    augmentation: {{typing_noise: 0.1}}
    splitting: {{train: 0.6, validation: 0.2, test: 0.2}}
    tokenization: {{max_length: 24}}
    training: {{epochs: {epochs}, batch_size: 8, learning_rate: 5e-3, precision: float32, early_stopping: 0}}
    evaluation: {{}}
    postprocessing: {{bootstrap: 50}}
    report: {{mistakes: 0}}
    gates:
      ingestion: {{}}
      cleaning: {{}}
      augmentation: {{}}
      splitting: {{min_train_rows: 10, max_stratum_difference: 0.5}}
      tokenization: {{}}
      training: {{min_loss_drop: -1}}
      evaluation: {{}}
      postprocessing: {{max_predicted_share: 1.0}}
      report: {floors}
"""


def base(folder: Path) -> None:
    """A BERT of two layers and 32 units that knows the letters of the tests' texts."""
    import torch
    import transformers

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,酒店房间很好差服务干净脏旧"
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "good", "bad", *letters, *(f"##{x}" for x in letters)]
    tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=32)
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def one_label(row: int) -> dict[str, Any]:
    good = row % 2 == 0
    return {"text": f"the {'good' if good else 'bad'} tea {row}", "label": "gut" if good else "schlecht"}


def chinese_pair(row: int) -> dict[str, Any]:
    good = row % 2 == 0
    return {
        "text": f"酒店房间{'很好' if good else '差'}{row}",
        "text_b": f"服务{row}",
        "label": "好评" if good else "差评",
    }


def several(row: int) -> dict[str, Any]:
    words = [word for word, every in (("good", 2), ("bad", 3)) if row % every == 0]
    return {"text": f"tea {' '.join(words)} {row}", "labels": "|".join(words)}


def a_number(row: int) -> dict[str, Any]:
    return {"text": f"{'good ' * (row % 4)}tea {row}", "value": 1000 + 50.0 * (row % 4)}


def project(root: Path, made: Callable[[int], dict[str, Any]], language: str, floors: str, epochs: int) -> process.Run:
    """A project of 80 rows of JSON Lines and a scratch model, its source and model pinned."""
    root.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": f"r{row}", **made(row)}, ensure_ascii=False) for row in range(80)]
    (root / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = '{uri: rows.jsonl, format: jsonl, separator: "|"}'
    text = SETTINGS.format(language=language, source=source, floors=floors, epochs=epochs)
    (root / "params.yaml").write_text(text, encoding="utf-8")
    base(root / "base")
    run = process.Run(Layout(root, "tiny"), params.load(root / "params.yaml").pipeline("tiny"))
    pins.refresh(run.layout, run.params)
    base_model.pin(run.layout, run.params)
    return run


def through(run: process.Run, last: str = "report") -> None:
    """Every stage with its gate, up to `last`."""
    for stage in STAGES[: STAGES.index(last) + 1]:
        importlib.import_module(f"stages.{stage}").main(run)
        runner.run(run.layout, run.params, stage)


def read(run: process.Run, stage: str, name: str) -> Any:
    return json.loads((run.layout.stage(stage) / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> process.Run:
    """A pipeline of Chinese pairs that went the whole way."""
    run = project(tmp_path_factory.mktemp("pairs"), chinese_pair, "zh", "{min_accuracy: 90.0, min_macro_f1: 90.0}", 6)
    through(run)
    return run


@pytest.mark.slow
def test_a_tiny_model_learns_the_labels_of_chinese_pairs_through_every_gate(trained: process.Run) -> None:
    metrics = read(trained, "postprocessing", "metrics.json")
    assert metrics["test"]["accuracy"]["value"] > metrics["untrained"]["accuracy"]["value"]
    assert metrics["test"]["confusion"]["labels"] == ["好评", "差评"]
    assert read(trained, "tokenization", "learned.json") == {"gold": "label", "pair": True, "labels": ["好评", "差评"]}


@pytest.mark.slow
def test_predictions_are_labels_with_probabilities(trained: process.Run) -> None:
    rows = tables.read(trained.layout.stage("splitting") / "test.parquet")
    found = read(trained, "postprocessing", "predictions/predictions.json")
    assert list(found) == rows["id"].to_pylist()
    assert {choice["label"] for choice in found.values()} == {"好评", "差评"}
    nbest = read(trained, "postprocessing", "predictions/nbest.json")
    assert all(nbest[id][0] == choice for id, choice in found.items())
    assert all(sum(c["probability"] for c in choices) == pytest.approx(1, abs=1e-4) for choices in nbest.values())


@pytest.mark.slow
def test_the_published_folder_loads_and_names_its_labels(trained: process.Run) -> None:
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(trained.layout.stage("report") / "model")
    assert model.config.id2label == {0: "好评", 1: "差评"}
    assert model.config.problem_type == "single_label_classification"


@pytest.mark.slow
def test_predict_answers_a_file_without_labels_as_the_pipeline_did(trained: process.Run, tmp_path: Path) -> None:
    rows = tables.read(trained.layout.stage("splitting") / "test.parquet").to_pylist()
    lines = ["id,text,text_b", *(f"{row['id']},{row['text']},{row['text_b']}" for row in rows)]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "flows.cli", "predict", str(trained.layout.stage("report") / "model"), "in.csv"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*command, "out.json"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    pipeline = read(trained, "postprocessing", "predictions/predictions.json")
    assert {id: choice["label"] for id, choice in found.items()} == {id: c["label"] for id, c in pipeline.items()}


@pytest.mark.slow
def test_predict_says_which_rows_lack_the_second_text(trained: process.Run, tmp_path: Path) -> None:
    lines = ["id,text,text_b", *(f"q{row},酒店{row},服务" for row in range(200)), "q200,酒店,"]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = trained.layout.stage("report") / "model"
    answered, faults = answering.predict_file(model, tmp_path / "in.csv", tmp_path / "out.json")
    assert answered == 200
    assert [(fault.id, fault.field) for fault in faults] == [("q200", "text_b")]


@pytest.mark.slow
def test_several_labels_are_those_over_a_threshold_set_on_validation(tmp_path: Path) -> None:
    run = project(tmp_path, several, "en", "{min_micro_f1: 60.0}", 10)
    through(run)
    tuned = read(run, "postprocessing", "tuned.json")
    assert tuned["labels"] == ["bad", "good"]
    assert 0 < tuned["threshold"] < 1
    assert tuned["temperature"] is None
    found = read(run, "postprocessing", "predictions/predictions.json")
    chosen = [choice for choices in found.values() for choice in choices]
    assert all(choice["probability"] >= tuned["threshold"] for choice in chosen)
    assert {len(choices) for choices in found.values()} > {1}


@pytest.mark.slow
def test_numbers_of_any_scale_are_learned_and_given_back_on_their_own_scale(tmp_path: Path) -> None:
    run = project(tmp_path, a_number, "en", "{min_pearson: 50.0}", 6)
    through(run)
    found = read(run, "postprocessing", "predictions/predictions.json")
    assert all(900 < value < 1250 for value in found.values())
    metrics = read(run, "postprocessing", "metrics.json")
    assert metrics["test"]["mae"]["value"] < metrics["untrained"]["mae"]["value"]
    assert metrics["test"]["spearman"]["value"] > 50
    model = run.layout.stage("report") / "model"
    (tmp_path / "in.csv").write_text("id,text\na,tea 1\nb,good good good tea 2\n")
    answering.predict_file(model, tmp_path / "in.csv", tmp_path / "out.json")
    answered = json.loads((tmp_path / "out.json").read_text())
    assert answered["b"] > answered["a"]


@pytest.mark.slow
def test_a_label_that_train_lacks_stops_the_pipeline_at_the_splitting_gate_and_names_its_rows(tmp_path: Path) -> None:
    def made(row: int) -> dict[str, Any]:
        return one_label(row) | ({"label": "neu", "split": "test"} if row == 7 else {"split": "train"})

    run = project(tmp_path, made, "en", "{}", 1)
    with pytest.raises(RefusedError):
        through(run, "splitting")
    report = json.loads((run.layout.refusal("splitting") / "report.json").read_text())
    failed = {promise["name"]: promise["rows"] for promise in report["promises"] if promise["name"] in report["failed"]}
    assert failed["test_labels_in_train"] == ["r7"]


@pytest.mark.slow
def test_a_run_that_is_repeated_gives_the_same_predictions_to_the_bit(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        run = project(tmp_path / name, one_label, "en", "{}", 1)
        through(run, "postprocessing")
        found.append(tables.read(run.layout.stage("evaluation") / "test.parquet")["logits"].combine_chunks())
    assert np.array_equal(found[0].flatten().to_numpy(), found[1].flatten().to_numpy())
