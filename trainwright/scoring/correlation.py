"""Correlation of numbers and their mean error, of sums over rows, so that intervals cost little."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def products(x: Floats, y: Floats) -> Floats:
    """What each row adds to the sums of `pearson`. Both are centred and scaled first, which changes no correlation and
    keeps sums of squares from swallowing their difference."""
    x, y = ((values - values.mean()) / (values.std() or 1.0) if len(values) else values for values in (x, y))
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)


def pearson(sums: Floats) -> Floats:
    """Pearson's correlation in points of 100; NaN where one of both is constant."""
    count, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.maximum(count * xx - x * x, 0) * np.maximum(count * yy - y * y, 0)
        return np.asarray(100 * np.where(spread > 1e-9, (count * xy - x * y) / np.sqrt(spread), np.nan))


def ranks(values: Floats) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs: Spearman's correlation is Pearson's of these.

    Over drawn rows the ranks of the whole are kept, which the interval of Spearman's correlation takes for those of
    the draw.
    """
    _, code, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return np.asarray((ends - (count - 1) / 2)[code])
