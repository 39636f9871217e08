"""Scores with 95% intervals by the percentile bootstrap (Efron, 1979) over groups of rows.

Rows of one group (questions about one context, sentences of one document) fail together, so that rows drawn one by
one would promise too much: groups are drawn with all their rows.

A score is a `statistic` of sums: the mean of (Σ values, Σ 1), a perplexity of (Σ losses, Σ tokens), an F1 of a
confusion matrix. Each group brings its own sums, which are added up for every draw, so that thousands of draws
cost a few products of matrices.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    groups = _grouped(sums, which)
    if len(groups) < 2:
        return found
    drawn = _drawn(groups, statistic, draws, seed)
    for place, score in enumerate(found):
        defined = drawn[np.isfinite(drawn[:, place]), place]
        if score["value"] is not None and len(defined) >= 0.95 * draws:
            score["low"], score["high"] = (_number(bound) for bound in np.percentile(defined, [2.5, 97.5]))
    return found


def together(scores: Sequence[Score], which: NDArray[np.int64], draws: int, seed: int) -> tuple[Floats, Floats]:
    """The values (m) of scores of the same rows, and what each is on the same draws (draws, m); rows that a score does
    not count add nothing to it."""
    sums = [s.sums if s.counted is None else np.where(s.counted[:, None], s.sums, 0) for s in scores]
    groups = [_grouped(own, which) for own in sums]
    values = np.stack([s.statistic(own.sum(axis=0)) for s, own in zip(scores, sums, strict=True)])
    drawn = [
        np.stack([s.statistic(often @ own) for s, own in zip(scores, groups, strict=True)], axis=-1)
        for often in _often(len(groups[0]), draws, seed)
    ]
    return np.asarray(values, dtype=np.float64), np.concatenate(drawn)


def _grouped(sums: Floats, which: NDArray[np.int64]) -> Floats:
    """What each group brings (n, k)."""
    groups = np.zeros((int(which.max(initial=-1)) + 1, sums.shape[1]))
    np.add.at(groups, which, sums)
    return groups


def _drawn(groups: Floats, statistic: Statistic, draws: int, seed: int) -> Floats:
    """The scores (draws, m) of groups (n, k) drawn n at a time, each as often as it is drawn."""
    return np.concatenate([statistic(often @ groups) for often in _often(len(groups), draws, seed)])


def _often(groups: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each group is drawn, (some draws, groups) at a time."""
    rng = np.random.default_rng(seed)
    for begin in range(0, draws, RESAMPLES):
        chosen = rng.integers(groups, size=(min(RESAMPLES, draws - begin), groups))
        yield np.stack([np.bincount(one, minlength=groups) for one in chosen]).astype(np.float64)


def means(values: Floats) -> Floats:
    """The sums of a mean: each row's value, and that it is one row."""
    return np.stack([values, np.ones(len(values))], axis=1)


def mean(sums: Floats) -> Floats:
    """100 times the mean: points of 100 where values lie from 0 to 1. NaN of no rows."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(100 * sums[..., 0] / sums[..., 1])


def _number(value: Floats | np.float64) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
