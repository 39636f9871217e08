"""How raw outputs become predictions: the best choice of each question, and the probability of all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.scoring.constant import Constant, replaced
from trainwright.tasks.multiple_choice.params import Postprocessing

PIECE = 10_000  # rows that are written at a time
CHOICE = pa.struct([("choice", pa.int32()), ("text", pa.string()), ("probability", pa.float64())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prediction", CHOICE),  # of a row without raw outputs null
        ("nbest", pa.list_(CHOICE)),  # all choices, the best first
    ]
)


def tune(rows: pa.Table, outputs: pa.Table, params: Postprocessing, language: str) -> dict[str, Any]:  # noqa: ARG001
    return {}


def untuned(tuned: dict[str, Any], params: Postprocessing) -> dict[str, Any]:  # noqa: ARG001
    return {}


def predict(rows: pa.Table, outputs: pa.Table, params: Postprocessing, tuned: dict[str, Any]) -> pa.Table:  # noqa: ARG001
    """One row a row of `rows`, in their order (SCHEMA); of equal choices the first is best.

    A row without raw outputs, because it was too long for a feature, has no prediction.
    """
    owner, logits = _flat(outputs)
    place = np.arange(len(owner)) - np.searchsorted(owner, owner)
    order = np.lexsort((place, -logits, owner))
    texts = rows["choices"].combine_chunks()
    chosen = texts.offsets.to_numpy()[owner] + place
    probability = _softmax(owner, logits)
    counts = np.bincount(owner, minlength=rows.num_rows)
    offsets = np.append(0, np.cumsum(counts)).astype(np.int32)
    ranked = pa.StructArray.from_arrays(
        [
            pa.array(place[order].astype(np.int32)),
            texts.values.take(pa.array(chosen[order])),
            pa.array(probability[order]),
        ],
        fields=list(CHOICE),
    )
    best = ranked.take(pa.array(offsets[:-1], mask=counts == 0))
    nbest = pa.ListArray.from_arrays(pa.array(offsets), ranked)
    return pa.table([rows["id"], best, nbest], schema=SCHEMA)


def constant(train: pa.Table, predictions: pa.Table) -> Constant:
    """Take the place that is right most often in `train`; of places equally often right the first."""
    answers = train["answer"].to_numpy()
    place = int(np.bincount(answers[answers >= 0], minlength=1).argmax())
    chosen = pa.array([{"choice": place, "text": None, "probability": None}] * predictions.num_rows, CHOICE)
    return Constant(replaced(predictions, prediction=chosen), f"choice {place + 1}")


def write(predictions: pa.Table, folder: Path) -> None:
    """predictions.json ({id: {choice, text, probability}}) and nbest.json ({id: [the same of all, best first]})."""
    for name, column in (("predictions", "prediction"), ("nbest", "nbest")):
        with (folder / f"{name}.json").open("w", encoding="utf-8", newline="\n") as file:
            opening = "{\n"
            for batch in predictions.select(["id", column]).to_batches(max_chunksize=PIECE):
                for id, value in zip(*(part.to_pylist() for part in batch.columns), strict=True):
                    line = f"{json.dumps(id, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
                    file.write(f"{opening}{line}")
                    opening = ",\n"
            file.write("{}\n" if opening == "{\n" else "\n}\n")


def _flat(outputs: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The row of each score, ascending, and the score."""
    outputs = outputs.take(pa.array(np.argsort(outputs["row"].to_numpy(), kind="stable")))
    scores = outputs["score"].combine_chunks()
    owner = outputs["row"].to_numpy()[pc.list_parent_indices(scores).to_numpy()].astype(np.int64)
    return owner, scores.flatten().to_numpy().astype(np.float64)


def _softmax(owner: NDArray[np.int64], logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probabilities of each row's scores; `owner` is ascending."""
    if not len(owner):
        return logits
    _, begins = np.unique(owner, return_index=True)
    sizes = np.diff(np.append(begins, len(owner)))
    weight = np.exp(logits - np.repeat(np.maximum.reduceat(logits, begins), sizes))
    return np.asarray(weight / np.repeat(np.add.reduceat(weight, begins), sizes))
