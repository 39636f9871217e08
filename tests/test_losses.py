"""Losses besides the models' own: smoothed labels and a teacher, against formulas worked by hand."""

import json

import numpy as np
import pytest
from test_training import run_training, tiny  # noqa: F401

from trainwright.core.errors import InputError
from trainwright.core.params import Training
from trainwright.engine.batching import FeatureTable
from trainwright.tasks.qa import model as part

LOGITS = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
TEACHER = np.array([[1.0, 1.0, 0.0], [-1.0, 0.0, 2.0]])
CLASSES = np.array([0, 2])


def softmax(logits: np.ndarray) -> np.ndarray:
    weight = np.exp(logits)
    return weight / weight.sum(axis=1, keepdims=True)


def pairs(logits: np.ndarray):
    import torch

    return [(torch.tensor(logits), torch.tensor(CLASSES))] * 2


def test_smoothed_labels_give_a_share_to_every_class():
    from trainwright.engine import losses

    target = 0.9 * np.eye(3)[CLASSES] + 0.1 / 3
    expected = -(target * np.log(softmax(LOGITS))).sum(axis=1).mean()
    assert float(losses.smoothed(pairs(LOGITS), 0.1)) == pytest.approx(expected, abs=1e-6)


def test_a_teachers_loss_is_the_divergence_of_the_softened_probabilities():
    from trainwright.engine import losses

    wanted, given = softmax(TEACHER / 2), softmax(LOGITS / 2)
    expected = 4 * (wanted * np.log(wanted / given)).sum(axis=1).mean()
    assert float(losses.distilled(pairs(LOGITS), pairs(TEACHER), 2.0)) == pytest.approx(expected, abs=1e-6)
    assert float(losses.distilled(pairs(LOGITS), pairs(LOGITS), 2.0)) == pytest.approx(0, abs=1e-7)


@pytest.fixture(scope="module")
def teacher(tiny, tmp_path_factory):  # noqa: F811
    """A model that has learned the task, but is not sure of itself."""
    out = tmp_path_factory.mktemp("teacher")
    settings = Training(epochs=1, batch_size=8, learning_rate=3e-3, early_stopping=0)
    return run_training(tiny, out, settings).weights


def distil(tiny, out, teacher, settings):  # noqa: F811
    import transformers

    from trainwright.engine.training import Job, train

    data = {name: FeatureTable.open(tiny / f"{name}.arrow") for name in ("train", "validation")}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "base")
    job = Job(part, tiny / "base", {}, tokenizer, data, settings, out / "run", out / "live", teacher)
    return train(job)


def divergence(folder, teacher, tiny):  # noqa: F811
    """How far a model's softened starts and ends on validation are from the teacher's."""
    import torch
    import transformers

    from trainwright.engine import losses
    from trainwright.engine.prediction import load_model

    table = FeatureTable.open(tiny / "validation.arrow")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "base")
    batch = part.collate(table.__getitems__(range(len(table))), tokenizer, labels=True)
    with torch.no_grad():
        both = [part.targets(load_model(part.AUTO_CLASS, f).eval()(**batch), batch) for f in (folder, teacher)]
    return float(losses.distilled(*both, 2.0))


def test_a_student_comes_nearer_to_its_teacher_than_one_without(tiny, teacher, tmp_path):  # noqa: F811
    settings = Training(epochs=3, batch_size=8, learning_rate=3e-3, early_stopping=0, teacher_weight=1.0)
    taught = distil(tiny, tmp_path / "taught", teacher, settings)
    alone = distil(tiny, tmp_path / "alone", None, settings)
    assert divergence(taught.weights, teacher, tiny) < 0.5 * divergence(alone.weights, teacher, tiny)


def test_a_teacher_of_other_labels_is_refused(tiny, teacher, tmp_path):  # noqa: F811
    import shutil

    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    config = json.loads((other / "config.json").read_text())
    config["id2label"] = {"0": "yes", "1": "no"}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="the teacher's labels are yes, no"):
        distil(tiny, tmp_path, other, Training())


def test_smoothing_changes_what_is_trained_and_not_what_is_measured(tiny, tmp_path):  # noqa: F811
    """The validation loss is the model's own: that of the same weights without smoothing is the same."""
    from trainwright.core.params import Evaluation
    from trainwright.engine.prediction import load_model, raw_outputs

    settings = Training(
        epochs=1, batch_size=8, learning_rate=3e-3, early_stopping=0, label_smoothing=0.2, precision="float32"
    )
    smoothed = run_training(tiny, tmp_path / "smoothed", settings)
    plain = run_training(tiny, tmp_path / "plain", settings.model_copy(update={"label_smoothing": 0.0}))
    assert smoothed.facts["first_loss"] != plain.facts["first_loss"]
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "base")
    table = FeatureTable.open(tiny / "validation.arrow")
    model = load_model(part.AUTO_CLASS, smoothed.weights)
    _, loss = raw_outputs(model, part, table, tokenizer, Evaluation(batch_size=16), "float32")
    assert loss == pytest.approx(smoothed.facts["best_loss"], rel=1e-5)


def test_a_teacher_of_another_vocabulary_is_refused(tiny, teacher, tmp_path):  # noqa: F811
    import transformers

    from trainwright.engine.base_model import check_same_tokenizer

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "base")
    tokenizer.save_pretrained(teacher)
    check_same_tokenizer(teacher, tokenizer)
    transformers.BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="the teacher has another vocabulary"):
        check_same_tokenizer(tmp_path, tokenizer)
