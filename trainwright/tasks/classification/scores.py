"""How labels and numbers are scored: in points of 100, with 95% intervals over groups of rows, and slices.

A row without a prediction is wrong where it has labels, and is left out (and counted in `unanswered`) where it has a
number. What is undefined is None, never 0 or 1: Matthews' correlation of no rows, the correlation of a constant.
"""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.rows import spans
from trainwright.scoring import calibration, classes, correlation
from trainwright.scoring.intervals import Score, Statistic, intervals, mean, means, measured
from trainwright.tasks.classification.params import Postprocessing

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Truths = NDArray[np.bool_]

LENGTHS = ((49, "under 50"), (99, "50 to 99"), (199, "100 to 199"), (499, "200 to 499"), (None, "500 or more"))
LOWER = "lower"


def each(rows: pa.Table, predictions: pa.Table, language: str) -> pa.Table:  # noqa: ARG001
    """Of every row its id, prediction, gold, confidence and, where it has labels, its own scores, 0 to 1."""
    gold, labels = _classes(rows, predictions)
    columns: dict[str, Any] = {"id": rows["id"]}
    if gold == "value":  # in a struct, since a column of numbers would be a score
        pair = {"prediction": predictions["prediction"], "gold": rows["value"]}
        made = {name: pa.StructArray.from_arrays([spans.whole(held)], ["value"]) for name, held in pair.items()}
        return pa.table({**columns, **made})
    right, predicted = _indicators(rows, predictions, gold, labels)
    columns["accuracy"] = (right == predicted).all(axis=1).astype(np.float64)
    names = spans.whole(rows[gold])
    if gold == "label":
        confidence = pc.struct_field(predictions["prediction"], "probability").to_numpy()
        own = pa.StructArray.from_arrays([names], ["label"])
    else:
        both = right.sum(axis=1) + predicted.sum(axis=1)
        columns["f1"] = np.where(both > 0, 2 * (right & predicted).sum(axis=1) / np.maximum(both, 1), 1.0)
        confidence = _certainty(predictions)
        structs = pa.StructArray.from_arrays([names.flatten()], ["label"])
        own = pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(right.sum(axis=1))).astype(np.int32)), structs)
    return pa.table({**columns, "confidence": confidence, "prediction": predictions["prediction"], "gold": own})


def headline(rows: pa.Table, predictions: pa.Table, params: Postprocessing, language: str) -> dict[str, Score]:  # noqa: ARG001
    """Of labels accuracy, macro and micro scores, Matthews' correlation, calibration; of numbers correlations and the
    mean error."""
    gold, labels = _classes(rows, predictions)
    if gold == "value":
        return _numbers(rows, predictions)
    right, predicted = _indicators(rows, predictions, gold, labels)
    return _headline(right, predicted, gold) | _calibration(predictions, right, params, gold)


def drawn(rows: pa.Table) -> Ints:
    """Groups are drawn, each with all its rows."""
    return spans.distinct(rows["group"])[0]


def scores(rows: pa.Table, predictions: pa.Table, params: Postprocessing, language: str) -> dict[str, Any]:  # noqa: ARG001
    """count, the headline scores of the kind of label that rows have, a table by class, the confusion, slices."""
    gold, labels = _classes(rows, predictions)
    which = drawn(rows)
    if gold == "value":
        told = measured(_numbers(rows, predictions), which, params.bootstrap, params.seed)
        return {"count": rows.num_rows, **told, **_errors(rows, predictions)}
    right, predicted = _indicators(rows, predictions, gold, labels)
    headline = _headline(right, predicted, gold) | _calibration(predictions, right, params, gold)
    found: dict[str, Any] = {"count": rows.num_rows, **measured(headline, which, params.bootstrap, params.seed)}
    found["classes"] = _by_class(right, predicted, which, params, labels)
    if gold == "label":
        found["confusion"] = {"labels": labels, "counts": classes.confusion(right, predicted)}
    found["slices"] = _slices(rows, right, predicted, labels)
    return found


def _classes(rows: pa.Table, predictions: pa.Table) -> tuple[str, list[str]]:
    if not rows["id"].equals(predictions["id"]):
        raise ValueError("predictions are not for these rows in this order")
    found = json.loads(predictions.schema.metadata[b"classes"])
    return found["gold"], found["labels"]


def _indicators(rows: pa.Table, predictions: pa.Table, gold: str, labels: list[str]) -> tuple[Truths, Truths]:
    """Which labels each row has, and which were predicted."""
    chosen = spans.whole(predictions["prediction"])
    if gold == "label":
        names = pc.struct_field(chosen, "label")
    else:
        offsets = pa.array(np.append(0, np.cumsum(pc.list_value_length(chosen).fill_null(0))).astype(np.int32))
        names = pa.ListArray.from_arrays(offsets, pc.struct_field(chosen.flatten(), "label"))
    return classes.indicators(rows[gold], labels), classes.indicators(names, labels)


def _headline(right: Truths, predicted: Truths, gold: str) -> dict[str, Score]:
    """Accuracy (of several labels: all of them right), then macro and micro scores. For one label micro precision,
    recall and F1 are all the accuracy, so that only the F1 is told."""
    exact = (right == predicted).all(axis=1).astype(np.float64)
    sums = classes.counts(right, predicted)
    found = {"accuracy": Score(means(exact), mean)}
    parts = ("precision", "recall", "f1")
    for name, statistic in (("macro", classes.macro), ("micro", classes.micro)):
        for place, part in reversed(list(enumerate(parts))):
            found[f"{name}_{part}"] = Score(sums, _part(statistic, place))
    if gold == "label":
        del found["micro_precision"], found["micro_recall"]
        found["mcc"] = Score(sums, classes.matthews)
    return found


def _part(statistic: Statistic, place: int) -> Statistic:
    """One of the scores that a statistic makes at once."""
    return lambda sums: statistic(sums)[..., place]


def _calibration(predictions: pa.Table, right: Truths, params: Postprocessing, gold: str) -> dict[str, Score]:
    """The expected calibration error with the temperature that was set and without it; of several labels, which have
    no temperature, over all decisions. Rows without a prediction have no probability."""
    known = predictions["probabilities"].combine_chunks().is_valid().to_numpy(zero_copy_only=False)
    found = {}
    for name, column in (("ece", "probabilities"), ("ece_uncalibrated", "uncalibrated")):
        probabilities = _matrix(predictions[column], right.shape[1])
        hits: Any = right[known].astype(np.float64)
        if gold == "label":
            best = probabilities.argmax(axis=1)
            hits = hits[np.arange(len(best)), best]
            probabilities = probabilities[np.arange(len(best)), best]
        gaps = calibration.gaps(probabilities, hits, params.bins)
        sums = np.zeros((len(known), gaps.shape[1]))
        sums[known] = gaps
        found[name] = Score(sums, calibration.calibration_error, better=LOWER, counted=known)
    return found if gold == "label" else {"ece": found["ece"]}


def _by_class(
    right: Truths, predicted: Truths, which: Ints, params: Postprocessing, labels: list[str]
) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each label with their intervals; None where it neither occurs nor is predicted."""

    def statistic(total: Floats) -> Floats:
        return 100 * np.concatenate(classes.by_class(total), axis=-1)

    drawn = intervals(classes.counts(right, predicted), which, statistic, params.bootstrap, params.seed)
    found = []
    for place, label in enumerate(labels):
        row: dict[str, Any] = {"label": label, "count": int(right[:, place].sum())}
        for name, score in zip(("precision", "recall", "f1"), drawn[place :: len(labels)], strict=True):
            row |= {name: score["value"], f"{name}_low": score["low"], f"{name}_high": score["high"]}
        found.append(row)
    return found


def _numbers(rows: pa.Table, predictions: pa.Table) -> dict[str, Score]:
    known, gold, guess = _known(rows, predictions)
    pairs = {
        "pearson": (correlation.products(gold, guess), correlation.pearson),
        "spearman": (correlation.products(correlation.ranks(gold), correlation.ranks(guess)), correlation.pearson),
        # `mean` is in points of 100, an error in the label's own unit.
        "mae": (means(np.abs(gold - guess) / 100), mean),
    }
    found = {}
    for name, (own, statistic) in pairs.items():
        sums = np.zeros((len(known), own.shape[1]))
        sums[known] = own
        unit = {"unit": "in the label's unit", "better": LOWER} if name == "mae" else {}
        found[name] = Score(sums, statistic, counted=known, **unit)
    return found


def _known(rows: pa.Table, predictions: pa.Table) -> tuple[Truths, Floats, Floats]:
    """Which rows have a predicted number, and of these what is right and what was predicted."""
    known = predictions["prediction"].is_valid().to_numpy()
    guess = predictions["prediction"].filter(pa.array(known)).to_numpy()
    return known, rows["value"].to_numpy()[known], guess


def _errors(rows: pa.Table, predictions: pa.Table) -> dict[str, Any]:
    known, gold, guess = _known(rows, predictions)
    slices = [
        {"by": by, "value": value, "count": int(mask.sum()), "mae": round(float(np.abs(gold - guess)[mask].mean()), 4)}
        for by, value, mask in _lengths(rows.filter(pa.array(known)))
    ]
    return {"unanswered": int((~known).sum()), "slices": slices}


def _slices(rows: pa.Table, right: Truths, predicted: Truths, labels: list[str]) -> list[dict[str, Any]]:
    exact = (right == predicted).all(axis=1)
    of_labels = [("label", label, right[:, place]) for place, label in enumerate(labels) if right[:, place].any()]
    found = []
    for by, value, mask in (*of_labels, *_lengths(rows)):
        macro = classes.macro(classes.counts(right[mask], predicted[mask]).sum(axis=0))[2]
        scored = {"accuracy": _points(exact[mask].mean())}
        if by != "label":  # where one label is all there is to find, macro F1 says nothing
            scored["macro_f1"] = _points(macro / 100)
        found.append({"by": by, "value": value, "count": int(mask.sum()), **scored})
    return found


def _lengths(rows: pa.Table) -> list[tuple[str, str, Truths]]:
    """The slices by length of all text of a row, shortest first, without empty ones."""
    length = pc.add(pc.utf8_length(rows["text"]), pc.utf8_length(rows["text_b"])).to_numpy()
    place = np.searchsorted([limit for limit, _ in LENGTHS if limit is not None], length)
    slices = [("text length in characters", name, place == number) for number, (_, name) in enumerate(LENGTHS)]
    return [part for part in slices if part[2].any()]


def _certainty(predictions: pa.Table) -> Floats:
    """Of several labels how sure the least sure decision is, from a half to 1; NaN without a prediction."""
    lists = spans.whole(predictions["probabilities"])
    found = np.full(len(lists), np.nan)
    known = lists.is_valid().to_numpy(zero_copy_only=False)
    if known.any():
        matrix = lists.flatten().to_numpy().reshape(int(known.sum()), -1)
        found[known] = np.maximum(matrix, 1 - matrix).min(axis=1)
    return found


def _matrix(column: pa.ChunkedArray, width: int) -> Floats:
    """The lists of a column, those that are there, as a matrix."""
    return np.asarray(spans.whole(column).flatten().to_numpy().reshape(-1, width), dtype=np.float64)


def _points(share: Any) -> float | None:
    return round(100 * float(share), 4) if np.isfinite(share) else None
