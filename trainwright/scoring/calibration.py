"""Probabilities that mean what they say: temperature, threshold, and the expected calibration error."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COLDEST, HOTTEST = 0.05, 20.0  # temperatures beyond say that validation is too small to set one


def softmax(logits: Floats) -> Floats:
    """Probabilities of rows of logits (n, k)."""
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def sigmoid(logits: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)))


def temperature(logits: Floats, classes: NDArray[np.int64]) -> float:
    """The temperature T that makes the classes (n) most likely under softmax(logits / T) (Guo et al., 2017).

    In 1/T the negative log likelihood is convex, and its slope is the sum of the logit that is expected less the one
    that is right: halving an interval finds its zero. 1 where there are no rows.
    """
    if not len(logits):
        return 1.0
    right = logits[np.arange(len(logits)), classes]
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(60):
        middle = np.sqrt(low * high)
        slope = ((softmax(logits * middle) * logits).sum(axis=1) - right).sum()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return round(float(1 / np.sqrt(low * high)), 6)


def threshold(probabilities: Floats, gold: NDArray[np.bool_]) -> float:
    """The threshold of the best micro F1 over decisions (n, k), half way to the next probability; 0.5 where no
    decision is right."""
    order = np.argsort(-probabilities.ravel(), kind="stable")
    ranked = probabilities.ravel()[order]
    f1 = 2 * np.cumsum(gold.ravel()[order]) / (np.arange(1, len(order) + 1) + gold.sum())
    last = np.append(ranked[1:] < ranked[:-1], True)  # equal probabilities stand or fall together
    if not len(order) or not gold.any():
        return 0.5
    best = int(np.argmax(np.where(last, f1, -1)))
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return round(float((ranked[best] + below) / 2), 6)


def gaps(confidence: Floats, right: Floats, bins: int) -> Floats:
    """What each decision adds to the sums of `calibration_error`: its confidence less whether it is right, in the bin
    of its confidence, and that it is one. Both have the same shape (n) or (n, k); of several decisions a row the sums.
    """
    which = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    rows = len(confidence)
    place = np.arange(rows).reshape(-1, *[1] * (confidence.ndim - 1)) * bins + which
    sums = np.bincount(place.ravel(), (confidence - right).ravel(), minlength=rows * bins).reshape(rows, bins)
    decisions = np.full((rows, 1), confidence.size / max(rows, 1))
    return np.concatenate([sums, decisions], axis=1)


def calibration_error(sums: Floats) -> Floats:
    """The expected calibration error (Naeini et al., 2015; Guo et al., 2017) in points of 100, of sums of `gaps`: the
    distance between confidence and accuracy in bins of equal width, weighed by how many decisions are in each."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(100 * np.abs(sums[..., :-1]).sum(axis=-1) / sums[..., -1])
