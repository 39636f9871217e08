"""How raw outputs become answers: n-best spans of each row over all its windows, all in numpy.

The rules are those of transformers' `postprocess_qa_predictions`; what differs is said where it does.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.rows import spans, tables
from trainwright.scoring import answers
from trainwright.scoring.constant import Constant, replaced
from trainwright.tasks.qa.params import Postprocessing

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

WORD = re.compile(r"\w{1,30}|.", re.DOTALL)
LAST = np.iinfo(np.int64).max
NEVER = 1 << 30
PIECE = 512  # rows at a time, so that the pairs of their windows stay in the processor's cache
NBEST = pa.struct(
    [("text", pa.string()), ("probability", pa.float64()), ("start_logit", pa.float32()), ("end_logit", pa.float32())]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prediction", pa.string()),  # the answer, or empty where the threshold says so
        ("start", pa.int32()),  # its first character in the context; null where it is empty
        ("answer", pa.string()),  # the best one that is not empty
        ("score_difference", pa.float64()),  # the null score less the best answer's; NaN without an answer
        ("nbest", pa.list_(NBEST)),
    ]
)


@dataclass(frozen=True)
class Candidates:
    """Spans of a piece's rows as columns, sorted by row and there by score, best first."""

    row: Ints
    start_char: Ints
    end_char: Ints
    start_logit: Floats
    end_logit: Floats

    @property
    def score(self) -> Floats:
        return self.start_logit + self.end_logit

    def take(self, chosen: NDArray[Any]) -> "Candidates":
        return Candidates(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def tune(rows: pa.Table, outputs: pa.Table, params: Postprocessing, language: str) -> dict[str, Any]:
    """{"null_threshold": x}: the one of the best F1 on these rows, or the one that `params` fixes.

    It is None where no row is unanswerable: then no answer is ever empty.
    """
    answerable = pc.greater(pc.list_value_length(rows["answer_text"]), 0).to_numpy()
    if answerable.all():
        return {"null_threshold": None}
    if params.null_threshold != "tune":
        return {"null_threshold": params.null_threshold}
    found = predict(rows, outputs, params, {"null_threshold": 0.0})
    _, f1 = answers.exact_and_f1(found["answer"], rows["answer_text"], language)
    return {"null_threshold": answers.best_threshold(f1, found["score_difference"].to_numpy(), answerable)[1]}


def untuned(tuned: dict[str, Any], params: Postprocessing) -> dict[str, Any]:
    """The threshold of a model that was not tuned: 0, where an answer and none are equally likely.

    It is None where `tuned` has none, and the fixed one where `params` fixes it.
    """
    if tuned["null_threshold"] is None:
        return tuned
    return {"null_threshold": 0.0 if params.null_threshold == "tune" else params.null_threshold}


def predict(rows: pa.Table, outputs: pa.Table, params: Postprocessing, tuned: dict[str, Any]) -> pa.Table:
    """One row a row of `rows`, in their order (SCHEMA). A row without any window is answered with "".

    Any other answer is empty only where `tuned` has a threshold and the null score, the lowest of the row's windows,
    is over the best answer's by more than it.
    """
    outputs = outputs.take(pa.array(np.argsort(outputs["row"].to_numpy(), kind="stable")))
    bounds = np.arange(0, rows.num_rows + PIECE, PIECE)
    places = np.searchsorted(outputs["row"].to_numpy(), bounds)
    pieces = []
    for begin, (first, last) in zip(bounds.tolist(), pairwise(places.tolist()), strict=False):
        windows = outputs.slice(first, last - first)
        row = windows["row"].to_numpy().astype(np.int64) - begin
        pieces.append(_predict(rows.slice(begin, PIECE), windows, row, params, tuned["null_threshold"]))
    return pa.concat_tables([SCHEMA.empty_table(), *pieces])


def constant(train: pa.Table, predictions: pa.Table) -> Constant:  # noqa: ARG001
    """Answer no question: what a data set with unanswerable questions gives to a model that has learned nothing."""
    empty = pa.array([""] * predictions.num_rows, pa.string())
    return Constant(replaced(predictions, prediction=empty), "no answer")


def write(predictions: pa.Table, folder: Path) -> None:
    """predictions.json ({id: answer}) and nbest.json ({id: [{text, probability, start_logit, end_logit}]}), UTF-8."""
    for name, column in (("predictions", "prediction"), ("nbest", "nbest")):
        tables.write_json(predictions["id"], predictions[column], folder / f"{name}.json")


def _predict(rows: pa.Table, outputs: pa.Table, row: Ints, params: Postprocessing, threshold: float | None) -> pa.Table:
    """`predict` for a piece of rows and the windows of just these; `row` says whose each window is."""
    count = rows.num_rows
    nulls = np.full(count, np.inf, dtype=np.float32)
    np.minimum.at(nulls, row, outputs["null_score"].to_numpy())
    found = _pairs(outputs, row, params)
    found = _merged(found, np.bincount(row, minlength=count) > 1, params.n_best)
    lacking = np.isin(row, found.row, invert=True)
    if lacking.any():
        found = _with_words(found, outputs.filter(pa.array(lacking)), row[lacking], rows["context"])
    which, contexts = spans.distinct(rows["context"])
    texts = spans.cut(contexts, which[found.row], found.start_char, found.end_char)
    bounds = _bounds(found.row, count)
    some = bounds[:-1] < bounds[1:]
    best = found.take(bounds[:-1][some])
    difference = np.full(count, np.nan)
    difference[some] = nulls[some].astype(np.float64) - best.start_logit - best.end_logit
    answer = pc.fill_null(texts.take(pa.array(bounds[:-1], mask=~some)), "")
    empty = np.zeros(count, dtype=bool) if threshold is None else ~(difference <= threshold)
    if threshold is None:
        nbest = _nbest(texts, found.start_logit, found.end_logit, bounds)
    else:
        nbest = _with_null(texts, found, nulls, bounds, params.n_best)
    start = np.zeros(count, dtype=np.int32)
    start[some] = best.start_char
    prediction = pc.if_else(pa.array(empty), "", answer)
    starts = pa.array(start, mask=empty | ~some)
    columns = [rows["id"], prediction, starts, answer, pa.array(difference), nbest]
    return pa.table(columns, schema=SCHEMA)


def _pairs(outputs: pa.Table, row: Ints, params: Postprocessing) -> Candidates:
    """Of each window the `n_best` best pairs that start no later than they end and are no longer than allowed.

    In order of windows and there of score; equal scores keep the order of the starts and then of the ends.
    """
    # What fills up a short list of starts lies after every end, and of ends before every start: never valid.
    starts = {name: _dense(outputs[f"start_{name}"], NEVER) for name in ("token", "char", "logit")}
    ends = {name: _dense(outputs[f"end_{name}"], -1) for name in ("token", "char", "logit")}
    windows, across, down = len(row), starts["token"].shape[1], ends["token"].shape[1]
    if not windows or not across or not down:
        nothing = np.empty(0, dtype=np.int64)
        return Candidates(nothing, nothing, nothing, nothing.astype(np.float32), nothing.astype(np.float32))
    length = ends["token"][:, None, :] - starts["token"][:, :, None]
    valid = (length >= 0) & (length < params.max_answer_length)
    valid &= ends["char"][:, None, :] > starts["char"][:, :, None]  # a token may stand for no character
    keys = _keys(starts["logit"][:, :, None] + ends["logit"][:, None, :], valid).reshape(windows, across * down)
    kept = min(params.n_best, across * down)
    keys = np.sort(np.partition(keys, kept - 1, axis=1)[:, :kept], axis=1)
    window, rank = np.nonzero(keys != LAST)
    pair = keys[window, rank] & 0xFFFFFFFF
    start, end = pair // down, pair % down
    return Candidates(
        row[window],
        starts["char"][window, start].astype(np.int64),
        ends["char"][window, end].astype(np.int64),
        starts["logit"][window, start],
        ends["logit"][window, end],
    )


def _keys(scores: Floats, valid: NDArray[np.bool_]) -> Ints:
    """Integers that sort as scores fall, and by a pair's place where they are equal; LAST for what is not valid.

    The bits of a float sort as integers once those of negative ones are turned over; the place fills the
    lower half. So a plain partition is a stable one, the same on every machine.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # -0 becomes 0
    keys = (~bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) << 32
    keys |= np.arange(scores[0].size).reshape(scores[0].shape)
    keys[~valid] = LAST
    return keys


def _dense(column: pa.ChunkedArray, fill: int) -> NDArray[Any]:
    """A list column as a matrix, short lists filled up."""
    lists = spans.whole(column)
    sizes = pc.list_value_length(lists).to_numpy()
    values = lists.flatten().to_numpy()
    width = int(sizes.max(initial=0))
    dense = np.full((len(sizes), width), fill, dtype=values.dtype)
    dense[np.arange(width) < sizes[:, None]] = values
    return dense


def _merged(found: Candidates, several: NDArray[np.bool_], n_best: int) -> Candidates:
    """The `n_best` best candidates of each row; only rows with `several` windows are not yet in order."""
    apart = np.flatnonzero(several[found.row])
    if not len(apart):
        return found
    order = np.arange(len(found.row))
    order[apart] = apart[np.lexsort((-found.score[apart], found.row[apart]))]
    bounds = _bounds(found.row, len(several))
    return found.take(order[np.arange(len(order)) - bounds[found.row] < n_best])


def _with_words(found: Candidates, outputs: pa.Table, row: Ints, contexts: pa.ChunkedArray) -> Candidates:
    """`found` and, for the rows of the windows `outputs`, which have no valid pair, the word at their best start.

    Its last token is not among the best ends, so the lowest of these stands for its logit. (The official
    script answers such a row with "empty".)
    """
    words: dict[int, tuple[int, int, float, float]] = {}
    for place, window in zip(row.tolist(), outputs.to_pylist(), strict=True):
        start, logit = window["start_char"][0], window["start_logit"][0]
        if place not in words or logit > words[place][2]:
            word = WORD.match(contexts[place].as_py(), start)
            words[place] = (start, word.end() if word else start, logit, window["end_logit"][-1])
    starts, ends, start_logits, end_logits = zip(*words.values(), strict=True)
    columns = (list(words), starts, ends, start_logits, end_logits)
    joined = [
        np.concatenate([getattr(found, name), np.array(column, dtype=getattr(found, name).dtype)])
        for name, column in zip(Candidates.__dataclass_fields__, columns, strict=True)
    ]
    return Candidates(*joined).take(np.argsort(joined[0], kind="stable"))


def _bounds(row: Ints, count: int) -> Ints:
    """Where the candidates of each of `count` rows begin, and where the last row's end; `row` is sorted."""
    return np.asarray(np.searchsorted(row, np.arange(count + 1)), dtype=np.int64)


def _with_null(texts: pa.Array, found: Candidates, nulls: Floats, bounds: Ints, n_best: int) -> pa.Array:
    """`_nbest` with the empty answer in its place among the others, the last where it is not among the best.

    Of the empty answer only the sum of both logits is known: each is given half.
    """
    row, score, has = found.row, found.score, np.isfinite(nulls)
    ahead = np.bincount(row[score >= nulls[row]], minlength=len(nulls))  # of how many it comes after
    place = np.arange(len(row)) - bounds[row]
    place = place + (place >= ahead[row])
    kept = place < n_best
    counts = np.bincount(row[kept], minlength=len(nulls))
    wider = np.concatenate([[0], np.cumsum(counts + has)])
    order = np.full(wider[-1], -1)
    order[wider[row[kept]] + place[kept]] = np.flatnonzero(kept)
    ours = order < 0
    start, end = (np.append(logits, np.float32(0))[order] for logits in (found.start_logit, found.end_logit))
    start[ours] = end[ours] = nulls[has] / 2
    texts = pc.fill_null(texts.take(pa.array(order, mask=ours)), "")
    return _nbest(texts, start, end, wider)


def _nbest(texts: pa.Array, start: Floats, end: Floats, bounds: Ints) -> pa.Array:
    """Candidates as a list for each row, best first, with their softmax probabilities."""
    sizes = np.diff(bounds)
    score = (start + end).astype(np.float64)
    weight = np.exp(score - np.repeat(score[bounds[:-1][sizes > 0]], sizes[sizes > 0]))
    total = np.add.reduceat(weight, bounds[:-1][sizes > 0]) if len(weight) else weight
    probability = weight / np.repeat(total, sizes[sizes > 0])
    structs = pa.StructArray.from_arrays([texts, probability, start, end], fields=list(NBEST))
    return pa.ListArray.from_arrays(pa.array(bounds.astype(np.int32)), structs)
