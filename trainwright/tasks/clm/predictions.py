"""How raw outputs become continuations, with the sums of their losses that scores are made of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainwright.rows import spans
from trainwright.tasks.clm.params import Postprocessing

SUMS = ("loss", "unigram", "right", "tokens", "characters", "bytes")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prediction", pa.string()),  # the continuation
        ("beginning", pa.string()),
        *((name, pa.float64()) for name in SUMS),  # over the tokens of the row that were predicted
    ]
)


def tune(rows: pa.Table, outputs: pa.Table, params: Postprocessing, language: str) -> dict[str, Any]:  # noqa: ARG001
    return {}


def untuned(tuned: dict[str, Any], params: Postprocessing) -> dict[str, Any]:  # noqa: ARG001
    return tuned


def predict(rows: pa.Table, outputs: pa.Table, params: Postprocessing, tuned: dict[str, Any]) -> pa.Table:  # noqa: ARG001
    """One row a row of `rows`, in their order (SCHEMA). A row without a block has an empty continuation."""
    owner, _ = _rows(outputs, "owner")
    columns: dict[str, Any] = {"id": rows["id"]}
    for name in SUMS:
        values = np.ones(len(owner)) if name == "tokens" else _rows(outputs, name)[1].astype(np.float64)
        columns[name] = np.bincount(owner, values, minlength=rows.num_rows)
    beginner, _ = _rows(outputs, "beginner")
    for name, source in (("prediction", "continuation"), ("beginning", "beginning")):
        texts = np.full(rows.num_rows, "", dtype=object)
        texts[beginner] = spans.whole(outputs[source]).flatten().to_pylist()
        columns[name] = pa.array(texts, pa.string())
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def constant(train: pa.Table, predictions: pa.Table) -> None:
    """Return none: the scores hold a baseline of token frequencies already."""


def write(predictions: pa.Table, folder: Path) -> None:
    """predictions.json ({id: continuation}) and beginnings.json ({id: what it goes on from}), UTF-8."""
    for file, column in (("predictions", "prediction"), ("beginnings", "beginning")):
        content = dict(zip(predictions["id"].to_pylist(), predictions[column].to_pylist(), strict=True))
        text = json.dumps(content, indent=0, ensure_ascii=False)
        (folder / f"{file}.json").write_text(text + "\n", encoding="utf-8")


def _rows(outputs: pa.Table, name: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The row of every entry of a list column (named as `owner` or `beginner` say), and the entries."""
    column = spans.whole(outputs[name])
    values = column.flatten().to_numpy(zero_copy_only=False)
    first = np.repeat(outputs["row"].to_numpy().astype(np.int64), column.value_lengths().to_numpy())
    return (first + values if name in ("owner", "beginner") else first), values
