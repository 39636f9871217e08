"""How a language model is scored: loss and perplexity by token, nats by character and byte, beside a unigram's.

Nats by character and by byte count all that the predicted tokens stand for, so that they may be compared between
tokenizers; perplexity by token may not. Intervals are drawn over documents (over the pieces of a stream).
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.rows import spans
from trainwright.scoring.intervals import Score, mean, measured
from trainwright.tasks.clm.params import Postprocessing

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SUMS = ("loss", "unigram", "right", "tokens", "characters", "bytes")
WENT_ON = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("text", pa.string())])
LENGTHS = ((499, "under 500"), (999, "500 to 999"), (1999, "1000 to 1999"), (None, "2000 or more"))


def each(rows: pa.Table, predictions: pa.Table, language: str) -> pa.Table:  # noqa: ARG001
    """Of every row its id, its continuation and, as `gold`, how its text went on from the same beginning.

    Gold is as long as the continuation; null where the beginning, read back from its tokens, is not the text's own.
    No row is right or wrong: there are many ways to go on.
    """
    if not rows["id"].equals(predictions["id"]):
        raise ValueError("predictions are not for these rows in this order")
    columns = (rows["text"], predictions["beginning"], predictions["prediction"])
    gold = [_went_on(*row) for row in zip(*(column.to_pylist() for column in columns), strict=True)]
    return pa.table({"id": rows["id"], "prediction": predictions["prediction"], "gold": pa.array(gold, WENT_ON)})


def _went_on(text: str, beginning: str, continuation: str) -> dict[str, Any] | None:
    start = len(beginning)
    if text[:start].lower() != beginning.lower() or start >= len(text):
        return None
    end = min(start + max(len(continuation), 1), len(text))
    return {"start": start, "end": end, "text": text[start:end]}


def headline(rows: pa.Table, predictions: pa.Table, params: Postprocessing, language: str) -> dict[str, Score]:  # noqa: ARG001
    """Loss, perplexity and accuracy by token; nats by character and by byte."""
    return _headline(_sums(predictions))


def _headline(sums: dict[str, Floats]) -> dict[str, Score]:
    def over(above: str, below: str) -> Floats:
        return np.stack([sums[above], sums[below]], axis=1)

    return {
        "loss": Score(over("loss", "tokens"), ratio, "nats", "lower"),
        "perplexity": Score(over("loss", "tokens"), perplexity, "perplexity", "lower"),
        "nats_per_character": Score(over("loss", "characters"), ratio, "nats", "lower"),
        "nats_per_byte": Score(over("loss", "bytes"), ratio, "nats", "lower"),
        "accuracy": Score(over("right", "tokens"), mean),
    }


def _sums(predictions: pa.Table) -> dict[str, Floats]:
    return {name: predictions[name].to_numpy() for name in SUMS}


def drawn(rows: pa.Table) -> Ints:
    """Documents (groups of them) are drawn whole; of a stream, which is one group, its pieces."""
    group, groups = spans.distinct(rows["group"])
    return group if len(groups) > 1 else np.arange(rows.num_rows)


def scores(rows: pa.Table, predictions: pa.Table, params: Postprocessing, language: str) -> dict[str, Any]:  # noqa: ARG001
    """Loss, perplexity, nats by character and byte, accuracy of the next token, the unigram baseline, slices."""
    sums = _sums(predictions)
    baseline = np.array([sums["unigram"].sum(), sums["tokens"].sum()])
    found: dict[str, Any] = {
        "count": rows.num_rows,
        **measured(_headline(sums), drawn(rows), params.bootstrap, params.seed),
        "unigram_loss": _number(ratio(baseline)),
        "unigram_perplexity": _number(perplexity(baseline)),
        "tokens": int(sums["tokens"].sum()),
        "characters": int(sums["characters"].sum()),
    }
    return found | {"slices": _slices(rows, sums)}


def ratio(sums: Floats) -> Floats:
    """Σ above by Σ below; NaN of nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def perplexity(sums: Floats) -> Floats:
    """e to the mean loss (Jelinek et al., 1977)."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(ratio(sums)))


def _number(value: Floats) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _slices(rows: pa.Table, sums: dict[str, Floats]) -> list[dict[str, Any]]:
    upper = np.array([limit for limit, _ in LENGTHS if limit is not None])
    bucket = np.searchsorted(upper, pc.utf8_length(rows["text"]).to_numpy())
    found = []
    for place, (_, name) in enumerate(LENGTHS):
        own = bucket == place
        if own.any():
            total = {kind: values[own].sum() for kind, values in sums.items()}
            entry = {"by": "length in characters", "value": name, "count": int(own.sum())}
            for score, below in (("loss", "tokens"), ("nats_per_character", "characters")):
                entry[score] = _number(ratio(np.array([total["loss"], total[below]])))
            found.append(entry)
    return found
