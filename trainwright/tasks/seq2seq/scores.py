"""How generated texts are scored, and how well the model foretells the targets' tokens.

Exact match, F1, ROUGE-L and chrF compare texts, in points of 100; where spans were dropped, what was generated for
them with what they were, sentinels left out. Loss and perplexity are weighed by token, without label smoothing; they
leave sentinels out too. `baseline_loss` is what the frequencies of the train split's target tokens lose on the same
tokens, `margin` by how many nats a token the model does better. What is undefined is None, never 0.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.rows import spans
from trainwright.scoring import answers, generation
from trainwright.scoring.intervals import Score, mean, means, measured
from trainwright.tasks.seq2seq.params import Postprocessing

Floats = NDArray[np.float64]

SENTINEL = r" ?<extra_id_\d+> ?"
LENGTHS = ((99, "under 100"), (499, "100 to 499"), (1999, "500 to 1999"), (None, "2000 or more"))
TEXT_SCORES = ("exact", "f1", "rouge_l", "chrf")


def each(rows: pa.Table, predictions: pa.Table, language: str) -> pa.Table:
    """Of every row its id, exact match, F1, ROUGE-L and chrF (0 to 1), its prediction and, as `gold`, the reference.

    `predictions` run parallel to `rows`.
    """
    if not rows["id"].equals(predictions["id"]):
        raise ValueError("predictions are not for these rows in this order")
    own, _ = _measured(predictions, language)
    gold = pc.fill_null(predictions["reference"], "")
    return pa.table({"id": rows["id"], **own, "prediction": predictions["prediction"], "gold": gold})


def headline(rows: pa.Table, predictions: pa.Table, params: Postprocessing, language: str) -> dict[str, Score]:  # noqa: ARG001
    """The texts' scores, then the tokens'; where spans are filled in, the tokens' first."""
    return _headline(rows, *_measured(predictions, language), _tokens(predictions))


def _headline(rows: pa.Table, each_row: dict[str, Floats], grams: Floats, sums: Floats) -> dict[str, Score]:
    texts = {name: Score(means(each_row[name]), mean) for name in TEXT_SCORES if name != "chrf"}
    texts["chrf"] = Score(grams, generation.chrf)
    tokens = {
        "loss": Score(sums, _loss, "nats", "lower"),
        "perplexity": Score(sums, _perplexity, "perplexity", "lower"),
        "baseline_loss": Score(sums, _baseline, "nats", "lower"),
        "margin": Score(sums, _margin, "nats"),
    }
    filled = not rows["target"].is_valid().to_numpy().any()
    return {**tokens, **texts} if filled else {**texts, **tokens}


def _tokens(predictions: pa.Table) -> Floats:
    """Of each row its loss, that of token frequencies, and its tokens."""
    return np.stack(
        [predictions[name].to_numpy().astype(np.float64) for name in ("loss", "baseline", "tokens")], axis=1
    )


def drawn(rows: pa.Table) -> NDArray[np.int64]:
    """Groups are drawn, each with all its rows."""
    return spans.distinct(rows["group"])[0]


def scores(rows: pa.Table, predictions: pa.Table, params: Postprocessing, language: str) -> dict[str, Any]:
    """count, the texts' scores, the tokens' scores, and slices by the length of the source. Groups are drawn whole."""
    each_row, grams = _measured(predictions, language)
    sums = _tokens(predictions)
    found = measured(_headline(rows, each_row, grams, sums), drawn(rows), params.bootstrap, params.seed)
    whole = {"target_tokens": int(sums[:, 2].sum())}
    return {"count": rows.num_rows, **found, **whole, "slices": list(_slices(rows, each_row, grams, sums))}


def _measured(predictions: pa.Table, language: str) -> tuple[dict[str, Floats], Floats]:
    """Each row's scores (0 to 1), and its n-grams for chrF. A row without a reference is compared with nothing."""
    said, gold = (
        pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.fill_null(predictions[name], ""), SENTINEL, " "))
        for name in ("prediction", "reference")
    )
    wanted = gold.to_pylist()
    lists = pa.chunked_array([pa.array([[text] for text in wanted], pa.list_(pa.string()))])
    exact, f1 = answers.exact_and_f1(said, lists, language)
    rouge = generation.rouge_l(said.to_pylist(), wanted, language)
    grams = generation.chrf_sums(said.to_pylist(), wanted)
    return {"exact": exact, "f1": f1, "rouge_l": rouge, "chrf": generation.chrf(grams) / 100}, grams


def _per_token(nats: Floats, tokens: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(nats / tokens)


def _loss(sums: Floats) -> Floats:
    return _per_token(sums[..., 0], sums[..., 2])


def _perplexity(sums: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(_loss(sums)))


def _baseline(sums: Floats) -> Floats:
    return _per_token(sums[..., 1], sums[..., 2])


def _margin(sums: Floats) -> Floats:
    return _per_token(sums[..., 1] - sums[..., 0], sums[..., 2])


def _slices(rows: pa.Table, each_row: dict[str, Floats], grams: Floats, sums: Floats) -> Any:
    """The scores of rows of one length of source, in characters, shortest first."""
    upper = np.array([limit for limit, _ in LENGTHS if limit is not None])
    bucket = np.searchsorted(upper, pc.utf8_length(rows["source"]).to_numpy())
    for place, (_, name) in enumerate(LENGTHS):
        chosen = bucket == place
        if chosen.any():
            figures = {score: 100 * each_row[score][chosen].mean() for score in TEXT_SCORES[:-1]}
            figures["chrf"] = generation.chrf(grams[chosen].sum(axis=0))
            figures |= {"loss": _loss(sums[chosen].sum(axis=0)), "margin": _margin(sums[chosen].sum(axis=0))}
            rounded = {key: round(float(v), 4) if np.isfinite(v) else None for key, v in figures.items()}
            yield {"by": "source length in characters", "value": name, "count": int(chosen.sum()), **rounded}
