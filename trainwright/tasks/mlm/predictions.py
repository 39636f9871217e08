"""How raw outputs become the fillings of each document's blanks, with what its tokens' losses were beside them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.rows import spans
from trainwright.tasks.mlm.params import Postprocessing

Ints = NDArray[np.int64]

CANDIDATE = pa.struct([("text", pa.string()), ("probability", pa.float32())])
BLANK = pa.struct(
    [("start", pa.int32()), ("end", pa.int32()), ("text", pa.string()), ("candidates", pa.list_(CANDIDATE))]
)
# Of each token that was chosen, and of each blank, what scores are made of (see model.OUTPUTS).
TOKENS = (("loss", pa.float32()), ("unigram", pa.float32()), ("right", pa.bool_()), ("shown", pa.int8()))
BLANKS = (("pieces", pa.int32()), ("rank", pa.int32()))
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prediction", pa.list_(BLANK)),  # of each blank where it is, what stands there, its fillings, best first
        *((name, pa.list_(kind)) for name, kind in (*TOKENS, *BLANKS)),
    ]
)
PIECE = 512


def tune(rows: pa.Table, outputs: pa.Table, params: Postprocessing, language: str) -> dict[str, Any]:  # noqa: ARG001
    return {}


def untuned(tuned: dict[str, Any], params: Postprocessing) -> dict[str, Any]:  # noqa: ARG001
    return tuned


def predict(rows: pa.Table, outputs: pa.Table, params: Postprocessing, tuned: dict[str, Any]) -> pa.Table:  # noqa: ARG001
    """One row a row of `rows`, in their order (SCHEMA), the blanks of its windows one after the other.

    `text` is what stands in the document from `start` to `end`: the right filling where the blank was made for
    evaluation, the mask token where the document came with it.
    """
    outputs = outputs.take(pa.array(np.argsort(outputs["row"].to_numpy(), kind="stable"))).combine_chunks()
    bounds = np.searchsorted(outputs["row"].to_numpy(), np.arange(rows.num_rows + 1))
    columns: dict[str, Any] = {name: _joined(outputs, name, bounds) for name, _ in (*TOKENS, *BLANKS)}
    blanks = _joined(outputs, "start", bounds)
    starts = blanks.flatten().to_numpy().astype(np.int64)
    ends = _joined(outputs, "end", bounds).flatten().to_numpy().astype(np.int64)
    owner = np.repeat(np.arange(rows.num_rows), np.diff(blanks.offsets.to_numpy()))
    texts = spans.cut(spans.whole(rows["text"]), owner, starts, ends)
    candidates = _candidates(outputs, bounds, params.n_best)
    parts = [pa.array(starts, pa.int32()), pa.array(ends, pa.int32()), texts, candidates]
    flat = pa.StructArray.from_arrays(parts, fields=list(BLANK))
    columns |= {"id": rows["id"], "prediction": pa.ListArray.from_arrays(blanks.offsets, flat)}
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def constant(train: pa.Table, predictions: pa.Table) -> None:
    """Return none: the scores hold a baseline of token frequencies already."""


def write(predictions: pa.Table, folder: Path) -> None:
    """predictions.json: {id: [{start, end, text, candidates: [{text, probability}]}]}, UTF-8, a line a document."""
    with (folder / "predictions.json").open("w", encoding="utf-8", newline="\n") as file:
        opening = "{\n"
        for batch in predictions.select(["id", "prediction"]).to_batches(max_chunksize=PIECE):
            for id, blanks in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                file.write(f"{opening}{json.dumps(id, ensure_ascii=False)}: {json.dumps(blanks, ensure_ascii=False)}")
                opening = ",\n"
        file.write("{}\n" if opening == "{\n" else "\n}\n")


def _joined(outputs: pa.Table, name: str, bounds: Ints) -> pa.Array:
    """A list column of windows, those of one row in one list; `bounds` say which they are."""
    column = spans.whole(outputs[name])
    first = column.offsets.to_numpy()
    flat = column.values.slice(first[0], first[-1] - first[0])
    return pa.ListArray.from_arrays(pa.array((first - first[0])[bounds], pa.int32()), flat)


def _candidates(outputs: pa.Table, bounds: Ints, n_best: int) -> pa.Array:
    """Of each blank its `n_best` best fillings, as lists of CANDIDATE."""
    texts, probabilities = (
        pc.list_slice(_joined(outputs, name, bounds).flatten(), 0, n_best) for name in ("candidates", "probabilities")
    )
    flat = pa.StructArray.from_arrays([texts.flatten(), probabilities.flatten()], fields=list(CANDIDATE))
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(texts).to_numpy())])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)
