"""Precision, recall, F1 and Matthews' correlation of labels, of sums over rows, so that intervals cost little.

Gold and predicted labels are matrices of indicators (rows, labels): one label a row and several are counted alike.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]


def indicators(column: pa.ChunkedArray | pa.Array, names: list[str]) -> Truths:
    """Which of `names` each row has, of a column of labels or of lists of labels; others are left out."""
    held = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lists = pa.types.is_list(held.type)
    numbers = pc.index_in(held.flatten() if lists else held, value_set=pa.array(names, pa.string()))
    owner = pc.list_parent_indices(held) if lists else pa.array(np.arange(len(held)))
    known = numbers.is_valid()
    found = np.zeros((len(held), len(names)), dtype=np.bool_)
    found[owner.filter(known).to_numpy(), numbers.filter(known).to_numpy()] = True
    return found


def counts(gold: Truths, predicted: Truths) -> Floats:
    """What each row adds (rows, 3 · labels): labels rightly predicted, labels predicted, labels that are right."""
    return np.concatenate([gold & predicted, predicted, gold], axis=1).astype(np.float64)


def by_class(sums: Floats) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 (…, labels), 0 to 1, of sums of `counts`; 0 where a label is never predicted, or never
    right, and NaN where it is neither."""
    hits, predicted, gold = np.split(sums, 3, axis=-1)
    absent = predicted + gold == 0
    scores = (hits / np.maximum(predicted, 1), hits / np.maximum(gold, 1), 2 * hits / np.maximum(predicted + gold, 1))
    precision, recall, f1 = (np.where(absent, np.nan, score) for score in scores)
    return precision, recall, f1


def macro(sums: Floats) -> Floats:
    """Macro precision, recall and F1 (…, 3), in points of 100: means over the labels that are right or predicted
    somewhere, as scikit-learn counts them."""
    hits_of = np.split(sums, 3, axis=-1)
    present = np.count_nonzero(hits_of[1] + hits_of[2], axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([100 * np.nansum(score, axis=-1) / present for score in by_class(sums)], axis=-1)


def micro(sums: Floats) -> Floats:
    """Micro precision, recall and F1 (…, 3), in points of 100: of all decisions together."""
    hits, predicted, gold = (part.sum(axis=-1) for part in np.split(sums, 3, axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        both = 2 * hits / (predicted + gold)
        return 100 * np.stack([np.where(predicted > 0, hits / predicted, 0 * both), hits / gold, both], axis=-1)


def matthews(sums: Floats) -> Floats:
    """Matthews' correlation of rows with one label each, for any number of labels (Gorodkin, 2004), in points of 100.

    0 where all predictions, or all labels, are the same, as scikit-learn has it; NaN of no rows.
    """
    hits, predicted, gold = np.split(sums, 3, axis=-1)
    rows = gold.sum(axis=-1)
    top = hits.sum(axis=-1) * rows - (predicted * gold).sum(axis=-1)
    spread = [rows * part.sum(axis=-1) - (part * part).sum(axis=-1) for part in (predicted, gold)]
    bottom = np.sqrt(np.maximum(spread[0], 0) * np.maximum(spread[1], 0))
    found = 100 * np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), 0)
    return np.asarray(np.where(rows > 0, found, np.nan))


def confusion(gold: Truths, predicted: Truths) -> list[list[int]]:
    """How often each label that is right (row) was predicted as each label (column), of rows with one label each."""
    return [[int(count) for count in row] for row in gold.astype(np.int64).T @ predicted.astype(np.int64)]
