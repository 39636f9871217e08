"""Scores of labels and numbers agree with scikit-learn, torchmetrics and SciPy; what is undefined is said to be."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright.scoring import calibration, classes, correlation
from trainwright.tasks.classification import model, predictions, scores
from trainwright.tasks.classification.params import Postprocessing
from trainwright.tasks.classification.rows import SCHEMA

PARAMS = Postprocessing(bootstrap=200)
NAMES = ["Sport", "Kultur", "政治", "рынок"]


def rows_of(gold: str, values: list[Any]) -> pa.Table:
    made = [
        {"id": f"r{i}", "group": f"g{i // 2}", "text": "x" * (10 + 40 * (i % 7)), "text_b": "", gold: value}
        for i, value in enumerate(values)
    ]
    return pa.Table.from_pylist(made, schema=SCHEMA)


def outputs_of(gold: str, labels: list[str], logits: np.ndarray) -> pa.Table:
    classes_ = json.dumps({"gold": gold, "labels": labels})
    made = [{"row": i, "logits": row.tolist()} for i, row in enumerate(logits)]
    return pa.Table.from_pylist(made, schema=model.OUTPUTS.with_metadata({"classes": classes_}))


def noisy(gold: np.ndarray, sure: float, seed: int = 0) -> np.ndarray:
    """Logits that lean to the gold indicators."""
    return np.random.default_rng(seed).normal(size=gold.shape) + sure * gold


def scored(gold: str, labels: list[str], values: list[Any], logits: np.ndarray) -> tuple[pa.Table, dict[str, Any]]:
    rows, outputs = rows_of(gold, values), outputs_of(gold, labels, logits)
    tuned = predictions.tune(rows, outputs, PARAMS, "de")
    found = predictions.predict(rows, outputs, PARAMS, tuned)
    return found, scores.scores(rows, found, PARAMS, "de")


def test_scores_of_one_label_are_those_of_scikit_learn() -> None:
    from sklearn import metrics

    number = np.random.default_rng(1).choice(4, size=200, p=[0.6, 0.2, 0.15, 0.05])
    gold = [NAMES[i] for i in number]
    found, measured = scored("label", NAMES, gold, noisy(np.eye(4)[number], 1.5))
    guess = [choice["label"] for choice in found["prediction"].to_pylist()]
    assert measured["accuracy"]["value"] == pytest.approx(100 * metrics.accuracy_score(gold, guess), abs=1e-3)
    assert measured["mcc"]["value"] == pytest.approx(100 * metrics.matthews_corrcoef(gold, guess), abs=1e-3)
    for average in ("macro", "micro"):
        expected = metrics.precision_recall_fscore_support(gold, guess, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), expected[:3], strict=True):
            if average == "macro" or name == "f1":
                assert measured[f"{average}_{name}"]["value"] == pytest.approx(100 * value, abs=1e-3)
    per_class = metrics.precision_recall_fscore_support(gold, guess, labels=NAMES, zero_division=0)
    for place, row in enumerate(measured["classes"]):
        assert row["label"] == NAMES[place]
        assert [row["precision"], row["recall"], row["f1"]] == pytest.approx(
            [100 * part[place] for part in per_class[:3]], abs=1e-3
        )
        assert row["count"] == per_class[3][place]
        for score in ("precision", "recall", "f1"):
            assert row[f"{score}_low"] < row[score] < row[f"{score}_high"]
    assert measured["confusion"]["counts"] == metrics.confusion_matrix(gold, guess, labels=NAMES).tolist()


def test_scores_of_several_labels_are_those_of_scikit_learn() -> None:
    from sklearn import metrics

    gold = np.random.default_rng(2).random((150, 4)) < [0.5, 0.3, 0.1, 0.02]
    values = [[NAMES[i] for i in np.flatnonzero(row)] for row in gold]
    found, measured = scored("labels", NAMES, values, noisy(gold, 2.0))
    chosen = [{choice["label"] for choice in choices} for choices in found["prediction"].to_pylist()]
    guess = np.array([[name in names for name in NAMES] for names in chosen])
    assert measured["accuracy"]["value"] == pytest.approx(100 * metrics.accuracy_score(gold, guess), abs=1e-3)
    for average in ("macro", "micro"):
        expected = metrics.precision_recall_fscore_support(gold, guess, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), expected[:3], strict=True):
            assert measured[f"{average}_{name}"]["value"] == pytest.approx(100 * value, abs=1e-3)
    assert "confusion" not in measured


def test_scores_of_numbers_are_those_of_scipy() -> None:
    from scipy import stats

    random = np.random.default_rng(3)
    gold = np.round(random.normal(4000, 30, size=120))  # with ties, far from zero
    guess = (gold + random.normal(0, 20, size=120)).astype(np.float32)
    found, measured = scored("value", [], gold.tolist(), guess[:, None])
    said = found["prediction"].to_numpy()
    assert measured["pearson"]["value"] == pytest.approx(100 * stats.pearsonr(gold, said).statistic, abs=1e-3)
    assert measured["spearman"]["value"] == pytest.approx(100 * stats.spearmanr(gold, said).statistic, abs=1e-3)
    assert measured["mae"]["value"] == pytest.approx(np.abs(gold - said).mean(), abs=1e-3)
    assert measured["mae"]["better"] == "lower"
    assert measured["pearson"]["low"] < measured["pearson"]["value"] < measured["pearson"]["high"]


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    import torch
    from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

    number = np.random.default_rng(4).integers(4, size=300)
    logits = noisy(np.eye(4)[number], 3.0).astype(np.float32)
    found, measured = scored("label", NAMES, [NAMES[i] for i in number], logits)
    for name, column in (("ece", "probabilities"), ("ece_uncalibrated", "uncalibrated")):
        probabilities = torch.tensor(found[column].to_pylist())
        expected = multiclass_calibration_error(probabilities, torch.tensor(number), num_classes=4, n_bins=15)
        assert measured[name]["value"] == pytest.approx(100 * float(expected), abs=1e-2)
    probabilities, right = np.random.default_rng(5).random((2, 500))
    hits = (right < probabilities**2).astype(float)
    expected = binary_calibration_error(torch.tensor(probabilities), torch.tensor(hits).long(), n_bins=10)
    error = calibration.calibration_error(calibration.gaps(probabilities, hits, 10).sum(axis=0))
    assert float(error) == pytest.approx(100 * float(expected), abs=1e-3)


def test_the_temperature_is_where_the_likelihood_of_validation_is_highest() -> None:
    from scipy import optimize, special

    number = np.random.default_rng(6).integers(4, size=200)
    logits = 3 * noisy(np.eye(4)[number], 1.0)  # three times too sure

    def likelihood(t: float) -> float:
        return -special.log_softmax(logits / t, axis=1)[np.arange(200), number].sum()

    best = optimize.minimize_scalar(likelihood, bounds=(0.05, 20), method="bounded").x
    assert calibration.temperature(logits, number) == pytest.approx(best, abs=1e-3)


def test_a_temperature_changes_no_label_and_mends_the_calibration() -> None:
    number = np.random.default_rng(7).integers(4, size=400)
    logits = 5 * noisy(np.eye(4)[number], 1.5)
    found, measured = scored("label", NAMES, [NAMES[i] for i in number], logits)
    assert [c["label"] for c in found["prediction"].to_pylist()] == [NAMES[i] for i in logits.argmax(axis=1)]
    assert measured["ece"]["value"] < measured["ece_uncalibrated"]["value"] / 2


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(2, 5))
def test_no_threshold_gives_a_better_micro_f1_than_the_one_that_is_set(seed: int, rows: int, labels: int) -> None:
    random = np.random.default_rng(seed)
    probabilities, gold = random.random((rows, labels)).round(1), random.random((rows, labels)) < 0.4

    def f1(threshold: float) -> float:
        return float(np.nan_to_num(classes.micro(classes.counts(gold, probabilities >= threshold).sum(axis=0))[2]))

    best = max((f1(t) for t in np.arange(0, 1.05, 0.05)), default=0)
    assert f1(calibration.threshold(probabilities, gold)) >= best - 1e-9


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_matthews_and_macro_scores_agree_with_scikit_learn_on_any_labels(pairs: list[tuple[int, int]]) -> None:
    from sklearn import metrics

    gold, guess = (np.array(side) for side in zip(*pairs, strict=True))
    sums = classes.counts(np.eye(4, dtype=bool)[gold], np.eye(4, dtype=bool)[guess]).sum(axis=0)
    assert classes.matthews(sums) == pytest.approx(100 * metrics.matthews_corrcoef(gold, guess), abs=1e-9)
    expected = metrics.precision_recall_fscore_support(gold, guess, average="macro", zero_division=0)
    assert classes.macro(sums) == pytest.approx([100 * value for value in expected[:3]], abs=1e-9)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30))
def test_ranks_share_their_mean_where_values_are_equal(values: list[int]) -> None:
    from scipy import stats

    assert correlation.ranks(np.array(values, dtype=float)).tolist() == stats.rankdata(values).tolist()


def test_what_is_undefined_is_none() -> None:
    _, constant = scored("value", [], [2.0] * 6, np.arange(6.0)[:, None])
    assert constant["pearson"]["value"] is None
    _, measured = scored("label", [*NAMES, "nie"], ["Sport"] * 6, np.eye(5)[[0] * 6])
    never = measured["classes"][-1]
    assert (never["count"], never["precision"], never["f1"], never["f1_low"]) == (0, None, None, None)


def test_a_row_without_an_output_is_wrong_and_has_no_prediction() -> None:
    rows = rows_of("label", ["Sport", "Kultur", "Sport"])
    outputs = outputs_of("label", NAMES, 9 * np.eye(4)[[0, 1, 0]])
    tuned = predictions.tune(rows, outputs, PARAMS, "de")
    found = predictions.predict(rows, outputs.slice(0, 2), PARAMS, tuned)
    assert found["prediction"].to_pylist()[2] is None
    measured = scores.scores(rows, found, PARAMS, "de")
    assert measured["accuracy"]["value"] == pytest.approx(200 / 3, abs=1e-3)
    assert scores.each(rows, found, "de")["accuracy"].to_pylist() == [1, 1, 0]


def test_slices_are_by_label_and_by_length_of_text() -> None:
    number = np.arange(28) % 2
    _, measured = scored("label", NAMES[:2], [NAMES[i] for i in number], 9 * np.eye(2)[number % 2])
    by = {(part["by"], part["value"]): part for part in measured["slices"]}
    assert by["label", "Sport"]["count"] == 14
    assert by["label", "Kultur"]["accuracy"] == 100
    assert sum(part["count"] for (name, _), part in by.items() if name.startswith("text length")) == 28


def test_the_untrained_model_is_not_tuned_but_keeps_what_params_fix() -> None:
    tuned = {"gold": "label", "labels": NAMES, "temperature": 3.0, "threshold": None}
    assert predictions.untuned(tuned, PARAMS)["temperature"] == 1
    assert predictions.untuned(tuned, Postprocessing(temperature=2.0))["temperature"] == 2
    assert predictions.untuned(tuned, PARAMS)["threshold"] is None


def test_each_row_of_several_labels_has_its_own_f1_and_the_certainty_of_its_least_sure_decision() -> None:
    rows = rows_of("labels", [["Sport"], [], ["Kultur", "Sport"]])
    outputs = outputs_of("labels", NAMES[:2], np.array([[9.0, -9], [-9, -9], [9, -1]]))
    found = predictions.predict(rows, outputs, PARAMS, {"gold": "labels", "labels": NAMES[:2], "threshold": 0.5})
    each = scores.each(rows, found, "de")
    assert each["accuracy"].to_pylist() == [1, 1, 0]
    assert each["f1"].to_pylist() == pytest.approx([1, 1, 2 / 3])
    assert each["confidence"].to_pylist()[2] == pytest.approx(1 - 1 / (1 + np.e), abs=1e-6)
    assert each["gold"].to_pylist()[2] == [{"label": "Kultur"}, {"label": "Sport"}]
