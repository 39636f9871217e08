"""Which split a row goes to: where its source says, and else where the hash of its group puts it.

The rules, for which docs/decisions/0003-declared-splits.md gives the reasons:

1. A row that its source declares validation or test is in that split.
2. Every other row, declared train or not declared at all, belongs to train; but a split that no row declares
   is made from these: whole groups go to it, chosen by the hash of the group's name.
3. Children go where their parents go, and stay only in train.
4. Rows with one main text (the context of a question, say) belong together like rows of one group. Groups that share
   a main text stay together: they go where the smallest of their numbers puts them.

A group's number depends on its name and the salt alone, so no row moves when others come or go, unless a new row
joins groups by a text that they share. Such groups move towards test, never from test into train.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.core.params import Splitting
from trainwright.rows import tables
from trainwright.rows.components import components


def declared_splits(splits: Iterable[pa.ChunkedArray]) -> set[str]:
    """The splits that a source's rows declare, of their `split` columns."""
    return {name for column in splits for name in pc.unique(column).to_pylist() if name is not None}


def places(rows: Iterable[pa.Table], params: Splitting, main: tuple[str, ...]) -> NDArray[np.float64]:
    """Draw a number in [0, 1] for each row, the same for all rows that belong together. `main`: see tasks/interface.py.

    Rows may be connected from one batch to another, so all are read first; only hashes are kept in memory.
    """
    names, texts, drawn = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)], [np.zeros(0)]
    for batch in rows:
        text = tables.main_text_hash(batch, main)
        group = tables.content_hash(batch, ["group"])
        own = tables.draw(group if params.by == "group" else text, params.salt)
        if params.by == "text":  # a child has another text than its parent, with which it stays
            origin = pc.coalesce(batch["parent"], batch["id"])
            group = tables.content_hash(pa.table({"id": origin}), ["id"])
        own[batch["parent"].is_valid().to_numpy()] = 1
        names.append(group)
        texts.append(text)
        drawn.append(own)
    together = components(np.concatenate(names), np.concatenate(texts))
    least = np.ones(int(together.max(initial=-1)) + 1)
    np.minimum.at(least, together, np.concatenate(drawn))
    return np.asarray(least[together])


def assign(rows: pa.Table, place: NDArray[np.float64], params: Splitting, declared: set[str]) -> pa.Array:
    """The split of each row (strings), which has its number in `place`; `declared` are all splits that rows declare."""
    made = np.full(rows.num_rows, "train", dtype=object)
    if "validation" not in declared:
        made[(place >= params.test) & (place < params.test + params.validation)] = "validation"
    if "test" not in declared:
        made[place < params.test] = "test"
    held_out = pc.is_in(rows["split"], value_set=pa.array(["validation", "test"]))
    return pc.if_else(held_out, rows["split"], pa.array(made, pa.string())).combine_chunks()
