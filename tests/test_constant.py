"""The constant baseline gives every row the answer that fits most rows of the train split."""

import json

import numpy as np
import pyarrow as pa
import pytest

from trainwright.tasks.classification import predictions as classified
from trainwright.tasks.classification import scores
from trainwright.tasks.classification.params import Postprocessing
from trainwright.tasks.classification.rows import SCHEMA
from trainwright.tasks.multiple_choice import predictions as chosen
from trainwright.tasks.ner import predictions as entities

LABELS = ["negative", "positive", "so-so"]


def rows(gold, values):
    made = [{"id": f"r{n}", "group": "g", "text": "x", "text_b": "", gold: value} for n, value in enumerate(values)]
    return pa.Table.from_pylist(made, schema=SCHEMA)


def predicted(gold, count):
    metadata = {"classes": json.dumps({"gold": gold, "labels": [] if gold == "value" else LABELS})}
    ids = [{"id": f"r{n}"} for n in range(count)]
    return pa.Table.from_pylist(ids, schema=classified.schema(gold).with_metadata(metadata))


def test_the_most_frequent_label_scores_as_scikit_learns_dummy():
    from sklearn import metrics
    from sklearn.dummy import DummyClassifier

    train, test = (np.random.default_rng(n).choice(3, size=60, p=[0.5, 0.3, 0.2]) for n in (1, 2))
    dummy = DummyClassifier(strategy="prior").fit(np.zeros((60, 1)), train)
    table = rows("label", [LABELS[n] for n in test])
    constant = classified.constant(rows("label", [LABELS[n] for n in train]), predicted("label", 60))
    found = scores.scores(table, constant.predictions, Postprocessing(bootstrap=10), "en")
    expected = metrics.accuracy_score(test, dummy.predict(np.zeros((60, 1))))
    assert constant.answer == "negative"
    assert found["accuracy"]["value"] == pytest.approx(100 * expected, abs=1e-3)
    probabilities = constant.predictions["probabilities"][0].as_py()
    assert probabilities == pytest.approx(dummy.predict_proba(np.zeros((1, 1)))[0])


@pytest.mark.parametrize(
    ("gold", "train", "answer", "first"),
    [
        ("labels", [["positive"], ["positive", "so-so"], []], "positive", ["positive"]),
        ("labels", [["positive"], [], []], "no label", []),
        ("value", [1.0, 2.0, 4.5], "2.5", 2.5),
    ],
)
def test_several_labels_and_numbers_have_a_constant_too(gold, train, answer, first):
    constant = classified.constant(rows(gold, train), predicted(gold, 2))
    given = constant.predictions["prediction"].to_pylist()
    shown = [[choice["label"] for choice in row] for row in given] if gold == "labels" else given
    assert (constant.answer, shown) == (answer, [first, first])
    measured = scores.headline(rows(gold, train[:2]), constant.predictions, Postprocessing(), "en")
    assert measured  # scores take the table as they take a model's


def test_a_choice_is_the_place_that_is_right_most_often():
    train = pa.table({"answer": pa.array([1, 1, 0, -1, -1, -1], pa.int32())})
    empty = pa.Table.from_pylist([{"id": "a"}, {"id": "b"}], schema=chosen.SCHEMA)
    constant = chosen.constant(train, empty)
    assert constant.answer == "choice 2"
    assert [row["choice"] for row in constant.predictions["prediction"].to_pylist()] == [1, 1]


def test_no_entity_keeps_the_words_that_were_labelled():
    row = {"id": "a", "prediction": [{"start": 0, "end": 1, "label": "PER"}], "word_start": [0], "word_end": [1]}
    constant = entities.constant(pa.table({}), pa.Table.from_pylist([row], schema=entities.SCHEMA))
    assert constant.predictions.to_pylist() == [row | {"prediction": []}]
