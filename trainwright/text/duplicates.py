"""Rows that say the same: which of them to keep."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

DUPLICATE = "duplicate"
CONTRADICTING = "duplicate that says otherwise"
# A test row never loses to a training row, or a published test set would shrink.
PREFERENCE = pa.array(["test", "validation", "train", None])


def preference(splits: pa.ChunkedArray) -> NDArray[np.int8]:
    """How early a row of each declared split is kept: 0 for test, then validation, train, undeclared."""
    places: NDArray[np.int8] = pc.index_in(splits, PREFERENCE).to_numpy().astype(np.int8)
    return places


def repeated(
    identities: NDArray[np.uint64], preferences: NDArray[np.int8], golds: NDArray[np.uint64]
) -> NDArray[np.object_]:
    """Why each row goes that repeats another, "" for those that stay: of rows with equal identity the preferred, then
    the first. A repeated row with another gold than the one that stays (a text with two labels) contradicts it.
    """
    order = np.lexsort((preferences, identities))  # stable: the first by place comes first
    of_row = identities[order]
    again = np.append(False, of_row[1:] == of_row[:-1])[: len(order)]
    stays = order[np.maximum.accumulate(np.where(again, 0, np.arange(len(order))))] if len(order) else order
    reasons = np.full(len(identities), "", dtype=object)
    reasons[order[again]] = DUPLICATE
    reasons[order[again & (golds[order] != golds[stays])]] = CONTRADICTING
    return reasons
