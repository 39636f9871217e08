"""Rows that say the same: which of them to keep."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# A test row never loses to a training row, or a published test set would shrink.
PREFERENCE = pa.array(["test", "validation", "train", None])


def preference(splits: pa.ChunkedArray) -> NDArray[np.int8]:
    """How early a row of each declared split is kept: 0 for test, then validation, train, undeclared."""
    places: NDArray[np.int8] = pc.index_in(splits, PREFERENCE).to_numpy().astype(np.int8)
    return places


def repeated(identities: NDArray[np.uint64], preferences: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Which rows repeat another that is kept: of rows with equal identity the preferred stays, then the first."""
    order = np.lexsort((preferences, identities))  # stable: the first by place comes first
    of_row = identities[order]
    repeats = np.zeros(len(identities), dtype=bool)
    repeats[order[1:]] = of_row[1:] == of_row[:-1]
    return repeats
