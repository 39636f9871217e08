"""Tags of words (B-PER, I-PER, O) and the runs of words that they mark."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def follows(row: Ints, kinds: Ints) -> Mask:
    """Which places are inside an entity's kind (0 or more; -1 is outside) that the place before has too, in one row."""
    found = np.zeros(len(kinds), dtype=np.bool_)
    found[1:] = (row[1:] == row[:-1]) & (kinds[1:] == kinds[:-1]) & (kinds[1:] >= 0)
    return found


def runs(row: Ints, kinds: Ints, begins: Mask) -> tuple[Ints, Ints]:
    """The first and the last place of every entity, in order.

    Three arrays with an entry a word, rows adjacent: `kinds` is -1 outside entities, `begins` marks a B-. An entity
    begins at a B-, and at an inside word that no word of its kind comes before; so a stray I- begins one, as in
    IOB1 and as in seqeval's default mode.
    """
    on = follows(row, kinds) & ~begins
    firsts = (kinds >= 0) & ~on
    lasts = (kinds >= 0) & ~np.append(on[1:], np.zeros(min(1, len(on)), dtype=np.bool_))
    return np.flatnonzero(firsts), np.flatnonzero(lasts)
