"""Scores with 95% intervals by the percentile bootstrap (Efron, 1979) over groups of rows.

Rows of one group (questions about one context, sentences of one document) fail together, so that rows drawn one by
one would promise too much: groups are drawn with all their rows.

A score is a `statistic` of sums: the mean of (Σ values, Σ 1), a perplexity of (Σ losses, Σ tokens), an F1 of a
confusion matrix. Each group brings its own sums, which are added up for every draw, so that thousands of draws
cost a few products of matrices.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
RESAMPLES = 64  # drawn at a time, so that memory stays flat


@dataclass(frozen=True)
class Score:
    """A headline score of some rows: what each row adds (rows, k), and the `statistic` of the sums.

    `unit` is empty for points of 100; `better` is "lower" or "higher". `counted` (rows) says which rows have anything
    to count, all where it is None.
    """

    sums: Floats
    statistic: Statistic
    unit: str = ""
    better: str = "higher"
    counted: NDArray[np.bool_] | None = None


def measured(scores: Mapping[str, Score], which: NDArray[np.int64], draws: int, seed: int) -> dict[str, dict[str, Any]]:
    """{value, low, high} of each score, with its unit and `better` where they are not the usual ones."""
    found: dict[str, dict[str, Any]] = {}
    for name, score in scores.items():
        sums, groups = score.sums, which
        if score.counted is not None:
            sums, groups = sums[score.counted], which[score.counted]
            groups = np.unique(groups, return_inverse=True)[1].astype(np.int64)  # one without rows is none
        found[name] = dict(interval(sums, groups, score.statistic, draws, seed))
        found[name] |= {"unit": score.unit} if score.unit else {}
        found[name] |= {"better": score.better} if score.better != "higher" else {}
    return found


def interval(
    sums: Floats, which: NDArray[np.int64], statistic: Statistic, draws: int, seed: int
) -> dict[str, float | None]:
    """{value, low, high} of a score; None for what is undefined.

    `sums` (rows, k) are what each row adds, `which` (rows) the number of its group, from 0; `statistic` makes scores
    (…) of sums (…, k), NaN where there is none. The interval of a single group is undefined, and so is one of which
    more than one draw in twenty has no score.
    """
    return intervals(sums, which, lambda total: statistic(total)[..., None], draws, seed)[0]


def intervals(
    sums: Floats, which: NDArray[np.int64], statistic: Statistic, draws: int, seed: int
) -> list[dict[str, float | None]]:
    """The same for several scores of the same draws: `statistic` makes scores (…, m) of sums (…, k)."""
    values = statistic(sums.sum(axis=0)) if len(sums) else np.full_like(statistic(np.zeros(sums.shape[1])), np.nan)
    found = [{"value": _number(value), "low": None, "high": None} for value in values]
    groups = np.zeros((int(which.max(initial=-1)) + 1, sums.shape[1]))
    np.add.at(groups, which, sums)
    if len(groups) < 2:
        return found
    drawn = _drawn(groups, statistic, draws, seed)
    for place, score in enumerate(found):
        defined = drawn[np.isfinite(drawn[:, place]), place]
        if score["value"] is not None and len(defined) >= 0.95 * draws:
            score["low"], score["high"] = (_number(bound) for bound in np.percentile(defined, [2.5, 97.5]))
    return found


def _drawn(groups: Floats, statistic: Statistic, draws: int, seed: int) -> Floats:
    """The scores (draws, m) of groups (n, k) drawn n at a time, each as often as it is drawn."""
    rng, scores = np.random.default_rng(seed), []
    for begin in range(0, draws, RESAMPLES):
        chosen = rng.integers(len(groups), size=(min(RESAMPLES, draws - begin), len(groups)))
        often = np.stack([np.bincount(one, minlength=len(groups)) for one in chosen])
        scores.append(statistic(often.astype(np.float64) @ groups))
    return np.concatenate(scores)


def means(values: Floats) -> Floats:
    """The sums of a mean: each row's value, and that it is one row."""
    return np.stack([values, np.ones(len(values))], axis=1)


def mean(sums: Floats) -> Floats:
    """100 times the mean: points of 100 where values lie from 0 to 1. NaN of no rows."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(100 * sums[..., 0] / sums[..., 1])


def _number(value: Floats | np.float64) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
