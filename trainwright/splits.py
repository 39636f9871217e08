"""Which split a row goes to: where its source says, and else where the hash of its group puts it.

The rules, for which docs/decisions/0003-declared-splits.md gives the reasons:

1. A row that its source declares validation or test is in that split.
2. Every other row, declared train or not declared at all, belongs to train; but a split that no row declares
   is made from these: whole groups go to it, chosen by the hash of the group's name.
3. Children go where their parents go, and stay only in train.

A group's place depends on its name, the salt and the shares alone, so no row moves when others come or go.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core.params import Splitting
from trainwright.rows import tables


def declared_splits(splits: Iterable[pa.ChunkedArray]) -> set[str]:
    """The splits that a source's rows declare, of their `split` columns."""
    return {name for column in splits for name in pc.unique(column).to_pylist() if name is not None}


def assign(rows: pa.Table, params: Splitting, declared: set[str]) -> pa.Array:
    """The split of each row (strings); `declared` are the splits that the source's rows declare, all of them."""
    place = tables.draw(tables.content_hash(rows, ["group"]), params.salt)
    made = np.full(rows.num_rows, "train", dtype=object)
    if "validation" not in declared:
        made[(place >= params.test) & (place < params.test + params.validation)] = "validation"
    if "test" not in declared:
        made[place < params.test] = "test"
    held_out = pc.is_in(rows["split"], value_set=pa.array(["validation", "test"]))
    return pc.if_else(held_out, rows["split"], pa.array(made, pa.string())).combine_chunks()
