"""How fillings are scored: loss and perplexity by token, accuracy by blank, with 95% intervals and slices.

The loss is that of every chosen token in nats, whatever stood in its place, as in training, but without label
smoothing; perplexity is e to its mean. A blank is right where each of its tokens is the most likely one. Intervals are
drawn over documents (over groups of them, where a source names more than one). What is undefined is None.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.rows import spans
from trainwright.scoring.intervals import Score, mean, measured
from trainwright.tasks.mlm.params import Postprocessing

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TOP = 5
SHOWN = ("masked", "replaced", "kept")
DOCUMENT_LENGTHS = ((499, "under 500"), (999, "500 to 999"), (1999, "1000 to 1999"), (None, "2000 or more"))
WORD_LENGTHS = ((1, "1"), (2, "2"), (3, "3"), (None, "4 or more"))
SAID = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("text", pa.string())])


def each(rows: pa.Table, predictions: pa.Table, language: str) -> pa.Table:  # noqa: ARG001
    """Of every document its id, the share of its blanks that are filled right, the best fillings, the right ones.

    `confidence` is the mean probability of its best fillings; it and the accuracy are NaN where there is no blank.
    """
    if not rows["id"].equals(predictions["id"]):
        raise ValueError("predictions are not for these rows in this order")
    blanks = spans.whole(predictions["prediction"])
    flat = blanks.flatten()
    start, end, text, candidates = (pc.struct_field(flat, name) for name in ("start", "end", "text", "candidates"))
    best = pc.list_element(candidates, 0) if len(flat) else pa.array([], candidates.type.value_type)
    said = pa.StructArray.from_arrays([start, end, pc.struct_field(best, "text")], fields=list(SAID))
    gold = pa.StructArray.from_arrays([start, end, text], fields=list(SAID))
    offsets = pa.array(np.concatenate([[0], np.cumsum(pc.list_value_length(blanks).to_numpy())]), pa.int32())
    owner, rank = _flat(predictions, "rank")
    count = np.bincount(owner, minlength=rows.num_rows)
    probability = pc.struct_field(best, "probability").to_numpy(zero_copy_only=False).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return pa.table(
            {
                "id": rows["id"],
                "accuracy": np.bincount(owner, rank == 0, minlength=rows.num_rows) / count,
                "prediction": pa.ListArray.from_arrays(offsets, said),
                "gold": pa.ListArray.from_arrays(offsets, gold),
                "confidence": np.bincount(owner, probability, minlength=rows.num_rows) / count,
            }
        )


def headline(rows: pa.Table, predictions: pa.Table, params: Postprocessing, language: str) -> dict[str, Score]:  # noqa: ARG001
    """Loss, perplexity and nats below the unigram's by token; accuracy by blank."""
    return _headline(*_sums(rows.num_rows, predictions))


def _headline(tokens: Floats, blanks: Floats) -> dict[str, Score]:
    own, below = tokens[:, [0, 3]], np.stack([tokens[:, 1] - tokens[:, 0], tokens[:, 3]], axis=1)
    return {
        "loss": Score(own, _ratio, "nats", "lower"),
        "perplexity": Score(own, _perplexity, "perplexity", "lower"),
        "accuracy": Score(blanks[:, [0, 2]], mean),
        f"top{TOP}_accuracy": Score(blanks[:, [1, 2]], mean),
        "nats_below_unigram": Score(below, _ratio, "nats"),
    }


def drawn(rows: pa.Table) -> Ints:
    """Documents (groups of them) are drawn whole; of a stream, which is one group, its pieces."""
    group, groups = spans.distinct(rows["group"])
    return group if len(groups) > 1 else np.arange(rows.num_rows)


def scores(rows: pa.Table, predictions: pa.Table, params: Postprocessing, language: str) -> dict[str, Any]:  # noqa: ARG001
    """Loss, perplexity, accuracy of fillings, the unigram baseline and the distance to it, slices.

    `top5_accuracy` is the share of blanks whose right filling is among the five best. `nats_below_unigram` is the
    baseline's loss less the model's on the same tokens: more is better, and 0 says that context taught it nothing.
    """
    tokens, blanks = _sums(rows.num_rows, predictions)
    baseline = tokens[:, [1, 3]]
    found: dict[str, Any] = {
        "count": rows.num_rows,
        **measured(_headline(tokens, blanks), drawn(rows), params.bootstrap, params.seed),
        "unigram_loss": _number(_ratio(baseline.sum(axis=0))),
        "unigram_perplexity": _number(_perplexity(baseline.sum(axis=0))),
        "token_accuracy": _number(mean(tokens[:, [2, 3]].sum(axis=0))),
        "tokens": int(tokens[:, 3].sum()),
        "blanks": int(blanks[:, 2].sum()),
    }
    found["slices"] = [*_by_length(rows, tokens, blanks), *_by_pieces(predictions), *_by_shown(predictions)]
    return found


def _flat(predictions: pa.Table, name: str) -> tuple[Ints, NDArray[Any]]:
    """The values of a list column one after the other, and the row that each is of."""
    lists = spans.whole(predictions[name])
    owner = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy())
    return owner, lists.flatten().to_numpy(zero_copy_only=False)


def _sums(count: int, predictions: pa.Table) -> tuple[Floats, Floats]:
    """Of each row loss, unigram loss, right ones and number of its tokens; right ones, nearly right ones, blanks."""
    owner = _flat(predictions, "loss")[0]
    parts = [_flat(predictions, name)[1].astype(np.float64) for name in ("loss", "unigram", "right")]
    tokens = [np.bincount(owner, weights, minlength=count) for weights in (*parts, np.ones(len(owner)))]
    owner, rank = _flat(predictions, "rank")
    hits = (rank == 0, (rank >= 0) & (rank < TOP), np.ones(len(rank)))
    blanks = [np.bincount(owner, weights, minlength=count) for weights in hits]
    return np.stack(tokens, axis=1), np.stack(blanks, axis=1)


def _ratio(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def _perplexity(sums: Floats) -> Floats:
    """e to the mean loss (Jelinek et al., 1977); infinite beyond what a double holds."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(_ratio(sums)))


def _number(value: Floats) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _by_length(rows: pa.Table, tokens: Floats, blanks: Floats) -> list[dict[str, Any]]:
    bucket, names = _buckets(pc.utf8_length(rows["text"]).to_numpy(), DOCUMENT_LENGTHS)
    found = []
    for place, name in enumerate(names):
        own = bucket == place
        if own.any():
            token, blank = tokens[own].sum(axis=0), blanks[own].sum(axis=0)
            found.append(
                {
                    "by": "document length in characters",
                    "value": name,
                    "count": int(own.sum()),
                    "loss": _number(_ratio(token[[0, 3]])),
                    "perplexity": _number(_perplexity(token[[0, 3]])),
                    "accuracy": _number(mean(blank[[0, 2]])),
                }
            )
    return found


def _by_pieces(predictions: pa.Table) -> list[dict[str, Any]]:
    """Blanks by how many tokens they have: a longer one is right only where all of them are."""
    bucket, names = _buckets(_flat(predictions, "pieces")[1], WORD_LENGTHS)
    rank = _flat(predictions, "rank")[1]
    near = (rank >= 0) & (rank < TOP)
    return [
        {
            "by": "blank length in tokens",
            "value": name,
            "count": int(own.sum()),
            "accuracy": _number(100 * (rank[own] == 0).mean()),
            f"top{TOP}_accuracy": _number(100 * near[own].mean()),
        }
        for place, name in enumerate(names)
        if (own := bucket == place).any()
    ]


def _by_shown(predictions: pa.Table) -> list[dict[str, Any]]:
    """Chosen tokens by what the model saw in their place: those kept are the easy ones."""
    shown, loss = (_flat(predictions, name)[1] for name in ("shown", "loss"))
    found = []
    for place, name in enumerate(SHOWN):
        own = loss[shown == place].astype(np.float64)
        if len(own):
            sums = np.array([own.sum(), len(own)])
            entry = {"loss": _number(_ratio(sums)), "perplexity": _number(_perplexity(sums))}
            found.append({"by": "what stood in a token's place", "value": name, "count": len(own), **entry})
    return found


def _buckets(length: NDArray[Any], limits: tuple[tuple[int | None, str], ...]) -> tuple[Ints, list[str]]:
    """Each length as the number of the first bucket whose limit it does not pass, and the buckets' names."""
    upper = np.array([limit for limit, _ in limits if limit is not None])
    return np.searchsorted(upper, length), [name for _, name in limits]
