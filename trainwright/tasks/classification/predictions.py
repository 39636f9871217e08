"""How raw outputs become predictions: a label and its probability, the labels over a threshold, or a number."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.rows import spans, tables
from trainwright.scoring import calibration, classes
from trainwright.scoring.constant import Constant, replaced
from trainwright.tasks.classification.params import Postprocessing

Floats = NDArray[np.float64]

CHOICE = pa.struct([("label", pa.string()), ("probability", pa.float64())])
PREDICTION = {"label": CHOICE, "labels": pa.list_(CHOICE), "value": pa.float64()}
DIGITS = 6


def schema(gold: str) -> pa.Schema:
    """The columns of predictions for rows whose labels are in column `gold`; a row without output has nulls."""
    lists = pa.list_(pa.float64())
    columns = [
        ("id", pa.string()),
        ("prediction", PREDICTION[gold]),
        ("probabilities", lists),  # of all labels
        ("uncalibrated", lists),  # the same at a temperature of 1
        ("nbest", pa.list_(CHOICE)),
    ]
    return pa.schema(columns)


def tune(rows: pa.Table, outputs: pa.Table, params: Postprocessing, language: str) -> dict[str, Any]:  # noqa: ARG001
    """{"gold", "labels", "temperature", "threshold"}: what the logits are of, and what was set on these rows.

    The temperature is that of the least negative log likelihood, the threshold that of the best micro F1; each is None
    where it has no meaning.
    """
    found = json.loads(outputs.schema.metadata[b"classes"])
    tuned = {**found, "temperature": None, "threshold": None}
    if found["gold"] == "value":
        return tuned
    logits = _matrix(outputs["logits"])
    gold = classes.indicators(rows[found["gold"]], found["labels"])[outputs["row"].to_numpy()]
    if found["gold"] == "labels":
        probabilities = calibration.sigmoid(logits)
        best = calibration.threshold(probabilities, gold) if params.threshold == "tune" else params.threshold
        return tuned | {"threshold": best}
    known = gold.any(axis=1)
    if params.temperature != "tune":
        return tuned | {"temperature": params.temperature}
    return tuned | {"temperature": calibration.temperature(logits[known], gold[known].argmax(axis=1))}


def untuned(tuned: dict[str, Any], params: Postprocessing) -> dict[str, Any]:
    """A temperature of 1 and a threshold of one half, or what `params` fix."""
    plain = {"temperature": 1.0, "threshold": 0.5}
    fixed = {name: value for name in plain if (value := getattr(params, name)) != "tune"}
    return tuned | {name: (plain | fixed)[name] for name in plain if tuned[name] is not None}


def predict(rows: pa.Table, outputs: pa.Table, params: Postprocessing, tuned: dict[str, Any]) -> pa.Table:
    """One row a row of `rows`, in their order, in the columns of `schema`."""
    place = np.full(rows.num_rows, -1, dtype=np.int64)
    place[outputs["row"].to_numpy()] = np.arange(outputs.num_rows)
    take = pa.array(place, mask=place < 0)
    logits = _matrix(outputs["logits"])
    gold, labels = tuned["gold"], tuned["labels"]
    if gold == "value":
        number = pa.array(np.round(logits[:, 0] if len(logits) else np.zeros(0), DIGITS))
        made = {"prediction": number, "probabilities": None, "uncalibrated": None, "nbest": None}
    elif gold == "label":
        made = _one(logits, labels, tuned["temperature"])
    else:
        made = _several(logits, labels, tuned["threshold"])
    if gold != "value":
        made["nbest"] = _nbest(made["probabilities"], labels, params.n_best)
        made |= {name: _lists(made[name]) for name in ("probabilities", "uncalibrated")}
    wanted = schema(gold)
    columns = {
        name: pa.nulls(rows.num_rows, wanted.field(name).type) if column is None else column.take(take)
        for name, column in made.items()
    }
    metadata = {"classes": json.dumps({"gold": gold, "labels": labels}, ensure_ascii=False)}
    return pa.table({"id": rows["id"], **columns}, schema=wanted.with_metadata(metadata))


def constant(train: pa.Table, predictions: pa.Table) -> Constant:
    """Predict the most frequent label of `train`, the labels that more than half of its rows have, or its mean value.

    Every row's probabilities are the labels' shares of `train`.
    """
    found = json.loads(predictions.schema.metadata[b"classes"])
    gold, labels, count = found["gold"], found["labels"], predictions.num_rows
    if gold == "value":
        mean = round(float(np.mean(train["value"].to_numpy())), DIGITS) if train.num_rows else 0.0
        return Constant(replaced(predictions, prediction=pa.array([mean] * count, pa.float64())), f"{mean:g}")
    given = classes.indicators(train[gold], labels)
    shares = given.mean(axis=0) if len(given) else np.zeros(len(labels))
    if gold == "label":
        best = np.full(count, shares.argmax())
        chosen, words = _choices(best, shares[best], labels), labels[shares.argmax()]
    else:
        most = np.flatnonzero(shares > 0.5)
        every = np.tile(most, count)
        offsets = pa.array((np.arange(count + 1) * len(most)).astype(np.int32))
        chosen = pa.ListArray.from_arrays(offsets, _choices(every, shares[every], labels))
        words = ", ".join(labels[place] for place in most) or "no label"
    probabilities = _lists(np.tile(shares, (count, 1)))
    columns = {"prediction": chosen, "probabilities": probabilities, "uncalibrated": probabilities}
    return Constant(replaced(predictions, **columns), words)


def write(predictions: pa.Table, folder: Path) -> None:
    """predictions.json ({id: prediction}) and, for labels, nbest.json ({id: [{label, probability}]}, best first).

    A prediction is {"label", "probability"}, a list of these, or a number.
    """
    tables.write_json(predictions["id"], predictions["prediction"], folder / "predictions.json")
    if predictions["nbest"].null_count < predictions.num_rows:
        tables.write_json(predictions["id"], predictions["nbest"], folder / "nbest.json")


def _one(logits: Floats, labels: list[str], temperature: float) -> dict[str, Any]:
    probabilities = calibration.softmax(logits / temperature)
    best = probabilities.argmax(axis=1)
    chosen = _choices(best, probabilities[np.arange(len(best)), best], labels)
    return {"prediction": chosen, "probabilities": probabilities, "uncalibrated": calibration.softmax(logits)}


def _several(logits: Floats, labels: list[str], threshold: float) -> dict[str, Any]:
    """Labels over the threshold, the most probable first."""
    probabilities = calibration.sigmoid(logits)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    over = ranked >= threshold
    offsets = np.append(0, np.cumsum(over.sum(axis=1))).astype(np.int32)
    chosen = pa.ListArray.from_arrays(pa.array(offsets), _choices(order[over], ranked[over], labels))
    return {"prediction": chosen, "probabilities": probabilities, "uncalibrated": probabilities}


def _nbest(probabilities: Floats, labels: list[str], most: int) -> pa.Array:
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :most]
    offsets = (np.arange(len(order) + 1) * order.shape[1]).astype(np.int32)
    values = np.take_along_axis(probabilities, order, axis=1)
    return pa.ListArray.from_arrays(pa.array(offsets), _choices(order.ravel(), values.ravel(), labels))


def _choices(numbers: NDArray[np.int64], probabilities: Floats, labels: list[str]) -> pa.Array:
    names = pa.array(labels, pa.string()).take(pa.array(numbers))
    return pa.StructArray.from_arrays([names, pa.array(np.round(probabilities, DIGITS))], fields=list(CHOICE))


def _lists(matrix: Floats) -> pa.Array:
    offsets = (np.arange(len(matrix) + 1) * matrix.shape[1]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.ravel()))


def _matrix(column: pa.ChunkedArray) -> Floats:
    """A column of lists of one length as a matrix; (0, 1) of none."""
    lists = spans.whole(column)
    width = int(pc.list_value_length(lists)[0].as_py()) if len(lists) else 1
    return np.asarray(lists.flatten().to_numpy().reshape(len(lists), width), dtype=np.float64)
