"""How raw outputs become entities: the likeliest sequence of tags that is well formed, all in numpy.

Of a word that several windows hold the one counts that shows the most around it (as in BERT's run_squad.py, "max
context", but that a text's own end hides nothing). Tags are decoded with the constraint that an I- follows a B- or an
I- of its own label: an I- that stands alone is repaired, not taken for a beginning. It becomes whatever makes the
whole sequence likeliest, words taken as independent.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.rows import spans, tags
from trainwright.scoring.constant import Constant, replaced
from trainwright.tasks.ner.params import Postprocessing

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ENTITY = pa.struct(
    [
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("label", pa.string()),
        ("text", pa.string()),
        ("probability", pa.float64()),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prediction", pa.list_(ENTITY)),
        ("word_start", pa.list_(pa.int32())),  # the words that were labelled: first character
        ("word_end", pa.list_(pa.int32())),  # and one past the last
    ]
)
PIECE = 512  # rows at a time
CELLS = 1 << 22  # log-probabilities at a time in decoding, so that one long text does not fill the memory
LEAST = -1e4  # the log-probability of a label that is not among the best, or not allowed


@dataclass(frozen=True)
class _Words:
    """Words as columns, in the order of rows and texts; `scores` (words, labels) are log-probabilities."""

    row: Ints
    start: Ints
    end: Ints
    scores: Floats
    labels: list[str]


def tune(rows: pa.Table, outputs: pa.Table, params: Postprocessing, language: str) -> dict[str, Any]:  # noqa: ARG001
    return {}


def untuned(tuned: dict[str, Any], params: Postprocessing) -> dict[str, Any]:  # noqa: ARG001
    return tuned


def predict(
    rows: pa.Table,
    outputs: pa.Table,
    params: Postprocessing,  # noqa: ARG001
    tuned: dict[str, Any],  # noqa: ARG001
) -> pa.Table:
    """The entities of each row (SCHEMA), in the order of `rows` and of their texts; none of a row without windows.

    An entity's probability is that of all its words having the labels that they were given, words taken as
    independent.
    """
    outputs = outputs.take(pa.array(np.argsort(outputs["row"].to_numpy(), kind="stable")))
    edges = np.arange(0, rows.num_rows + PIECE, PIECE)
    places = np.searchsorted(outputs["row"].to_numpy(), edges).tolist()
    pieces = []
    for begin, (first, last) in zip(edges.tolist(), pairwise(places), strict=False):
        pieces.append(_predict(rows.slice(begin, PIECE), outputs.slice(first, last - first), begin))
    return pa.concat_tables([SCHEMA.empty_table(), *pieces])


def constant(train: pa.Table, predictions: pa.Table) -> Constant:  # noqa: ARG001
    """Find no entity in any text."""
    none = pa.array([[]] * predictions.num_rows, SCHEMA.field("prediction").type)
    return Constant(replaced(predictions, prediction=none), "no entity")


def write(predictions: pa.Table, folder: Path) -> None:
    """predictions.json ({id: [{start, end, label, text, probability}]}), UTF-8, a line a row."""
    with (folder / "predictions.json").open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_json(predictions.select(["id", "prediction"])))


def _json(table: pa.Table) -> Iterator[str]:
    opening = "{\n"
    for batch in table.to_batches(max_chunksize=PIECE):
        for name, value in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield f"{opening}{json.dumps(name, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
            opening = ",\n"
    yield "{}\n" if opening == "{\n" else "\n}\n"


def _predict(rows: pa.Table, outputs: pa.Table, begin: int) -> pa.Table:
    """`predict` for a piece of rows and the windows of just these; the first row's number is `begin`."""
    words = _merged(outputs, begin)
    chosen = _decoded(words)
    firsts, lasts = tags.runs(words.row, np.where(chosen > 0, (chosen - 1) // 2, -1), chosen % 2 == 1)
    sure = np.append(0, np.cumsum(words.scores[np.arange(len(chosen)), chosen]))
    start, end, row = words.start[firsts], words.end[lasts], words.row[firsts]
    names = np.array([name[2:] for name in words.labels], dtype=object)
    parts = [
        pa.array(start.astype(np.int32)),
        pa.array(end.astype(np.int32)),
        pa.array(names[chosen[firsts]].tolist(), pa.string()),
        spans.cut(spans.whole(rows["text"]), row, start, end),
        pa.array(np.exp(np.minimum(sure[lasts + 1] - sure[firsts], 0))),
    ]
    entities = pa.StructArray.from_arrays(parts, fields=list(ENTITY))
    columns = [
        rows["id"],
        pa.ListArray.from_arrays(_offsets(row, rows.num_rows), entities),
        *(
            pa.ListArray.from_arrays(_offsets(words.row, rows.num_rows), pa.array(part.astype(np.int32)))
            for part in (words.start, words.end)
        ),
    ]
    return pa.table(columns, schema=SCHEMA)


def _offsets(row: Ints, rows: int) -> pa.Array:
    return pa.array(np.searchsorted(row, np.arange(rows + 1)).astype(np.int32))


def _merged(outputs: pa.Table, begin: int) -> _Words:
    """The words of all windows, each once, from the window that shows the most around it."""
    columns = {name: spans.whole(outputs[name]) for name in outputs.column_names}
    counts = pc.list_value_length(columns["word"]).to_numpy()
    flat = {n: columns[n].flatten().to_numpy() for n in ("word", "start_char", "end_char", "context")}
    row = np.repeat(columns["row"].to_numpy().astype(np.int64) - begin, counts)
    order = np.lexsort((-flat["context"].astype(np.int64), flat["word"], row))
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (np.diff(row[order]) != 0) | (np.diff(flat["word"][order]) != 0)
    chosen = order[new]
    names = columns["labels"][0].as_py() if len(counts) else ["O"]
    label, score = (columns[n].flatten().to_numpy() for n in ("label", "log_probability"))
    kept = len(label) // max(len(row), 1)
    scores = np.full((len(row), len(names)), LEAST)
    scores[np.arange(len(row))[:, None], label.reshape(-1, max(kept, 1))[: len(row)]] = score.reshape(-1, max(kept, 1))[
        : len(row)
    ]
    start, end = (flat[n][chosen].astype(np.int64) for n in ("start_char", "end_char"))
    return _Words(row[chosen], start, end, scores[chosen], names)


def _decoded(words: _Words) -> Ints:
    """The label of every word in the likeliest well-formed sequence of its row (Viterbi), rows side by side."""
    chosen = np.zeros(len(words.row), dtype=np.int64)
    rows, first, counts = np.unique(words.row, return_index=True, return_counts=True)
    order = np.argsort(counts, kind="stable")
    labels = len(words.labels)
    begin = 0
    while begin < len(rows):
        sizes = counts[order[begin:]]
        fits = sizes * labels * np.arange(1, len(sizes) + 1) <= CELLS
        many = max(int(np.argmin(fits)) if not fits.all() else len(fits), 1)
        some = order[begin : begin + many]
        width = int(counts[some].max())
        inside = np.arange(width) < counts[some][:, None]
        cells = spans.ranges(first[some], counts[some])
        scores = np.zeros((len(some), width, labels))
        scores[inside] = words.scores[cells]
        chosen[cells] = _viterbi(scores, counts[some])[inside]
        begin += many
    return chosen


def _viterbi(scores: Floats, sizes: Ints) -> Ints:
    """The best well-formed label sequences (rows, width) of scores (rows, width, labels), the first `sizes` of each.

    Labels are O, and B- and I- of each kind in turn. Equal sequences: the label that comes first.
    """
    rows, width, labels = scores.shape
    label = np.arange(labels)
    begins = label % 2 == 1
    allowed = begins | (label == 0) | (label[:, None] == label) | (label[:, None] == label - 1)  # from, to
    steps = np.where(allowed, 0.0, LEAST * width)
    best = scores[:, 0] + np.where(begins | (label == 0), 0.0, LEAST * width)
    back = np.zeros((rows, width, labels), dtype=np.int16)
    last = best
    for place in range(1, width):
        paths = best[:, :, None] + steps
        back[:, place] = paths.argmax(axis=1)
        best = paths.max(axis=1) + scores[:, place]
        last = np.where((sizes > place)[:, None], best, last)
    found = np.zeros((rows, width), dtype=np.int64)
    at = last.argmax(axis=1)
    for place in range(width - 1, -1, -1):
        within = sizes > place
        found[within, place] = at[within]
        at = np.where(within, back[np.arange(rows), place, at], at)
    return found
