"""How generated texts become predictions: one a row, windows of one text joined in their order by a line break."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainwright.tasks.seq2seq.params import Postprocessing

PIECE = 1_000
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prediction", pa.string()),  # the generated text; with sentinels where spans were dropped
        (
            "reference",
            pa.string(),
        ),  # the row's target, or what was dropped; null where there is nothing to compare with
        ("loss", pa.float64()),  # sums over the target's tokens, as in the raw outputs
        ("tokens", pa.int64()),
        ("baseline", pa.float64()),
    ]
)


def tune(rows: pa.Table, outputs: pa.Table, params: Postprocessing, language: str) -> dict[str, Any]:  # noqa: ARG001
    """Nothing is set on validation."""
    return {}


def untuned(tuned: dict[str, Any], params: Postprocessing) -> dict[str, Any]:  # noqa: ARG001
    return tuned


def predict(rows: pa.Table, outputs: pa.Table, params: Postprocessing, tuned: dict[str, Any]) -> pa.Table:  # noqa: ARG001
    """One row a row of `rows`, in their order (SCHEMA). For a row without features nothing was generated: ""."""
    order = np.argsort(outputs["row"].to_numpy(), kind="stable")
    outputs = outputs.take(pa.array(order, pa.int64()))
    row = outputs["row"].to_numpy()
    bounds = np.searchsorted(row, np.arange(rows.num_rows + 1)).astype(np.int32)
    dropped = _joined(outputs["reference"], bounds)
    dropped = pc.if_else(pc.equal(dropped, ""), pa.scalar(None, pa.string()), dropped)
    columns = {
        "id": rows["id"],
        "prediction": _joined(outputs["generated"], bounds),
        "reference": pc.coalesce(rows["target"].combine_chunks(), dropped),
    }
    for name in ("loss", "tokens", "baseline"):
        total = np.concatenate([[0], np.cumsum(outputs[name].to_numpy())])
        columns[name] = pa.array(total[bounds[1:]] - total[bounds[:-1]], SCHEMA.field(name).type)
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _joined(column: pa.ChunkedArray, bounds: Any) -> pa.Array:
    """The texts of each stretch in one; nulls are left out."""
    texts = pc.fill_null(column, "").combine_chunks()
    texts = pa.concat_arrays(texts.chunks) if isinstance(texts, pa.ChunkedArray) else texts
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), texts), "\n")


def constant(train: pa.Table, predictions: pa.Table) -> None:
    """Return none: the scores hold a baseline of token frequencies already."""


def write(predictions: pa.Table, folder: Path) -> None:
    """predictions.json ({id: text}), UTF-8, a line a row."""
    opening = "{\n"
    with (folder / "predictions.json").open("w", encoding="utf-8", newline="\n") as file:
        for batch in predictions.select(["id", "prediction"]).to_batches(max_chunksize=PIECE):
            for name, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                file.write(f"{opening}{json.dumps(name, ensure_ascii=False)}: {json.dumps(text, ensure_ascii=False)}")
                opening = ",\n"
        file.write("{}\n" if opening == "{\n" else "\n}\n")
