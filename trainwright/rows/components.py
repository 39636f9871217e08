"""Which rows belong together, so that no two splits share them."""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.uint64]


def components(groups: Numbers, texts: Numbers) -> NDArray[np.int64]:
    """Number the sets of rows that a chain of shared groups and shared main texts connects; one number a row."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, group = np.unique(groups, return_inverse=True)
    others, text = np.unique(texts, return_inverse=True)
    size = len(names) + len(others)
    links = coo_array((np.ones(len(group), dtype=np.int8), (group, len(names) + text)), shape=(size, size))
    return np.asarray(connected_components(links, directed=False)[1][group], dtype=np.int64)
