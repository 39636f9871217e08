"""How entities are scored: precision, recall and F1 in points of 100, with 95% intervals, by label and in slices.

What is undefined is None, never 0 or 1: the precision of no entities, the interval of a single group.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.rows import spans
from trainwright.scoring import entities
from trainwright.scoring.answers import UNSEGMENTED
from trainwright.scoring.entities import Entities
from trainwright.scoring.intervals import Score, interval, mean, measured
from trainwright.tasks.ner.params import Postprocessing

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STATISTICS = {
    "f1": entities.f1,
    "macro_f1": entities.macro_f1,
    "precision": entities.precision,
    "recall": entities.recall,
}
MARKED = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("label", pa.string()), ("text", pa.string())])
TEXT_LENGTHS = ((10, "up to 10"), (20, "11 to 20"), (40, "21 to 40"), (None, "over 40"))
ENTITY_LENGTHS = ((1, "1"), (2, "2"), (3, "3"), (None, "4 or more"))


def each(rows: pa.Table, predictions: pa.Table, language: str) -> pa.Table:  # noqa: ARG001
    """Of every row its id, whether all its entities are right, its F1 (0 to 1; NaN where there is no entity), its
    prediction, how sure of it the model was (its least sure entity; NaN where it found none) and the gold entities."""
    kinds, gold, found = _both(rows, predictions)
    sums = entities.sums(gold, found, rows.num_rows, max(len(kinds), 1))
    f1, totals = entities.f1(sums) / 100, sums.reshape(rows.num_rows, -1, 3).sum(axis=1)
    exact = ((totals[:, 0] == totals[:, 1]) & (totals[:, 0] == totals[:, 2])).astype(np.float64)
    least = np.full(rows.num_rows, np.nan)
    flat = spans.whole(predictions["prediction"]).flatten()
    np.fmin.at(least, found.row, pc.struct_field(flat, "probability").to_numpy(zero_copy_only=False))
    return pa.table(
        {
            "id": rows["id"],
            "exact": exact,
            "f1": f1,
            "prediction": predictions["prediction"],
            "gold": _marked(rows, gold),
            "confidence": least,
        }
    )


def headline(rows: pa.Table, predictions: pa.Table, params: Postprocessing, language: str) -> dict[str, Score]:  # noqa: ARG001
    """F1, macro F1, precision, recall over all entities; the accuracy of the words' tags."""
    kinds, gold, found = _both(rows, predictions)
    sums = entities.sums(gold, found, rows.num_rows, max(len(kinds), 1))
    return _headline(sums, _token_sums(gold, found, predictions))


def _headline(sums: Floats, tokens: Floats) -> dict[str, Score]:
    return {name: Score(sums, statistic) for name, statistic in STATISTICS.items()} | {
        "token_accuracy": Score(tokens, mean)
    }


def drawn(rows: pa.Table) -> Ints:
    """Groups are drawn, each with all its rows."""
    return spans.distinct(rows["group"])[0]


def scores(rows: pa.Table, predictions: pa.Table, params: Postprocessing, language: str) -> dict[str, Any]:
    """count; F1, macro F1, precision, recall, token accuracy with intervals; by label; partial schemes; slices.

    Groups are drawn with all their rows. Macro F1 is the mean over labels that are gold or predicted (seqeval's).
    Token accuracy is over the words that the model labelled.
    """
    kinds, gold, found = _both(rows, predictions)
    which = drawn(rows)
    sums = entities.sums(gold, found, rows.num_rows, max(len(kinds), 1))
    told: dict[str, Any] = {"count": rows.num_rows, "entities": len(gold.row)}
    headline = _headline(sums, _token_sums(gold, found, predictions))
    told |= measured(headline, which, params.bootstrap, params.seed)
    told["labels"] = [
        _by_label(sums[:, 3 * place : 3 * place + 3], which, name, params) for place, name in enumerate(kinds)
    ]
    told |= entities.partial(gold, found)
    told["slices"] = _slices(rows, predictions, gold, found, kinds, sums, language)
    return told


def _both(rows: pa.Table, predictions: pa.Table) -> tuple[list[str], Entities, Entities]:
    """The labels there are, sorted, and the gold and the predicted entities."""
    if not rows["id"].equals(predictions["id"]):
        raise ValueError("predictions are not for these rows in this order")
    starts, labels = spans.whole(rows["span_start"]), spans.whole(rows["span_label"]).flatten()
    row = np.repeat(np.arange(rows.num_rows), pc.list_value_length(starts).to_numpy())
    start = starts.flatten().to_numpy().astype(np.int64)
    length = pc.utf8_length(spans.whole(rows["span_text"]).flatten()).to_numpy()
    lists = spans.whole(predictions["prediction"])
    flat, owner = lists.flatten(), np.repeat(np.arange(rows.num_rows), pc.list_value_length(lists).to_numpy())
    begin, end = (pc.struct_field(flat, name).to_numpy().astype(np.int64) for name in ("start", "end"))
    given = pc.struct_field(flat, "label")
    kinds = sorted(set(pc.unique(labels).to_pylist()) | set(pc.unique(given).to_pylist()))
    number = [pc.index_in(part, value_set=pa.array(kinds, pa.string())) for part in (labels, given)]
    kind = [part.to_numpy(zero_copy_only=False).astype(np.int64) for part in number]
    return kinds, Entities(row, start, start + length, kind[0]), Entities(owner, begin, end, kind[1])


def _marked(rows: pa.Table, gold: Entities) -> pa.Array:
    starts, texts, labels = (spans.whole(rows[name]) for name in ("span_start", "span_text", "span_label"))
    end = pa.array(gold.end.astype(np.int32))
    structs = pa.StructArray.from_arrays(
        [starts.flatten(), end, labels.flatten(), texts.flatten()], fields=list(MARKED)
    )
    offsets = np.searchsorted(gold.row, np.arange(rows.num_rows + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), structs)


def _token_sums(gold: Entities, found: Entities, predictions: pa.Table) -> Floats:
    """Of each row how many words have the right tag, and how many were labelled."""
    starts, ends = (spans.whole(predictions[name]) for name in ("word_start", "word_end"))
    row = np.repeat(np.arange(predictions.num_rows), pc.list_value_length(starts).to_numpy())
    start, end = (part.flatten().to_numpy().astype(np.int64) for part in (starts, ends))
    tags = [_tags(part, row, start, end) for part in (gold, found)]
    sums = np.zeros((predictions.num_rows, 2))
    np.add.at(sums, row, np.stack([tags[0] == tags[1], np.ones(len(row))], axis=1))
    return sums


def _tags(of: Entities, row: Ints, start: Ints, end: Ints) -> Ints:
    """The tag of each word as a number: 0 outside; odd where it is an entity's first."""
    keys, words = (of.row << 32) + of.end, (row << 32) + start
    place = np.searchsorted(keys, words, side="right")
    inside = place < len(keys)
    inside[inside] = ((of.row << 32) + of.start)[place[inside]] < ((row << 32) + end)[inside]
    first = np.ones(len(row), dtype=np.bool_)
    first[1:] = ~inside[:-1] | (place[1:] != place[:-1])
    tags = np.zeros(len(row), dtype=np.int64)
    tags[inside] = 2 + 2 * of.kind[place[inside]] - first[inside]
    return tags


def _by_label(sums: Floats, which: Ints, name: str, params: Postprocessing) -> dict[str, Any]:
    """One label's scores with their intervals, and how many entities it has and was found to have."""
    told = {"label": name, "count": int(sums[:, 2].sum())}
    for score in ("precision", "recall", "f1"):
        drawn = interval(sums, which, STATISTICS[score], params.bootstrap, params.seed)
        told |= {score: drawn["value"], f"{score}_low": drawn["low"], f"{score}_high": drawn["high"]}
    return {**told, "predicted": int(sums[:, 1].sum())}


def _measured(totals: Floats) -> dict[str, Any]:
    """Scores of sums (right, found, gold; or several kinds of them), and the number of gold entities as `count`."""
    found = {name: float(STATISTICS[name](totals)) for name in ("precision", "recall", "f1")}
    points = {name: round(value, 4) if np.isfinite(value) else None for name, value in found.items()}
    return {"count": int(totals.reshape(-1, 3)[:, 2].sum()), **points}


def _slices(
    rows: pa.Table,
    predictions: pa.Table,
    gold: Entities,
    found: Entities,
    kinds: list[str],
    sums: Floats,
    language: str,
) -> list[dict[str, Any]]:
    """By label and by the text's length, counting entities; by the entity's own length, where recall alone is known."""
    slices = [
        {"by": "label", "value": name, **_measured(sums[:, 3 * place : 3 * place + 3].sum(axis=0))}
        for place, name in enumerate(kinds)
    ]
    words = pc.list_value_length(predictions["word_start"]).to_numpy()
    lengths, names = _buckets(words, TEXT_LENGTHS)
    for name in names:
        if (lengths == name).any():
            part = _measured(sums[lengths == name].sum(axis=0))
            slices.append({"by": "words in the text", "value": name, **part})
    texts = spans.whole(rows["span_text"]).flatten()
    size = pc.utf8_length(texts) if language in UNSEGMENTED else pc.list_value_length(pc.utf8_split_whitespace(texts))
    by = f"entity length in {'characters' if language in UNSEGMENTED else 'words'}"
    lengths, names = _buckets(size.to_numpy(), ENTITY_LENGTHS)
    got, _ = entities.matched(gold, found)
    for name in names:
        if (chosen := lengths == name).any():
            share = round(100 * float(got[chosen].mean()), 4)
            slices.append({"by": by, "value": name, "count": int(chosen.sum()), "recall": share})
    return slices


def _buckets(length: NDArray[Any], limits: tuple[tuple[int | None, str], ...]) -> tuple[NDArray[Any], list[str]]:
    """Each length as the name of the first bucket whose limit it does not pass."""
    names = [name for _, name in limits]
    upper = np.array([limit for limit, _ in limits if limit is not None])
    return np.array(names)[np.searchsorted(upper, length)], names
