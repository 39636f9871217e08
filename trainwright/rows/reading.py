"""What `from_source` does alike in every task: note what is wrong with rows, give ids, leave faulty rows out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.core import labels
from trainwright.core.errors import Fault
from trainwright.rows import tables

Integers = NDArray[np.int64]


@dataclass
class Faulty:
    """What is wrong with rows: the first thing found of each, as field, reason and remedy."""

    found: dict[int, tuple[str, str, str]] = field(default_factory=dict)

    def note(self, rows: Integers, name: str, reason: str, remedy: str) -> None:
        for row in rows.tolist():
            self.found.setdefault(row, (name, reason, remedy))


def note_problems(table: pa.Table, faulty: Faulty) -> None:
    """Values that the source's reader could not read."""
    if "problem" in table.column_names:
        problems = table.column("problem")
        for row in pc.indices_nonzero(problems.is_valid()).to_pylist():
            problem = problems[row].as_py()
            faulty.note(np.array([row]), problem["field"], problem["reason"], "Mend the value.")


def note_texts(name: str, texts: pa.Array, owner: Integers | None, faulty: Faulty) -> None:
    """Texts that are empty or hold a NUL character; `owner` says which text each row has where rows share them."""
    for wrong, reason in (
        (pc.equal(pc.utf8_trim_whitespace(texts.fill_null("")), ""), f"the {name} is empty"),
        (pc.match_substring(texts, "\0").fill_null(False), f"the {name} holds a NUL character"),
    ):
        mask = wrong.to_numpy(zero_copy_only=False)
        faulty.note(np.flatnonzero(mask if owner is None else mask[owner]), name, reason, "Mend or remove the row.")


def note_labels(name: str, values: pa.Array, owner: Integers | None, faulty: Faulty) -> None:
    """Note labels with control or invisible characters; `owner` is the row of each where a row may have several."""
    for at in unshown_labels(values).tolist():
        reason = str(labels.unshown(values[at].as_py()))
        faulty.note(np.array([at if owner is None else owner[at]]), name, reason, labels.REMEDY)


def unshown_labels(values: pa.Array) -> Integers:
    """Return the places of the labels that hold a control or invisible character."""
    return indices(pc.match_substring_regex(pc.utf8_trim(values.fill_null(""), labels.EDGES), labels.UNSHOWN))


def note_splits(table: pa.Table, faulty: Faulty) -> None:
    """Declared splits that there are not, and rows without one where others have one."""
    if "split" not in table.column_names:
        return
    split = table.column("split")
    absent = pc.equal(split, "").combine_chunks().fill_null(True).to_numpy(zero_copy_only=False)
    known = pc.is_in(split, value_set=pa.array(tables.SPLITS)).to_numpy()
    remedy = f"Write {', '.join(tables.SPLITS)}, or leave the whole column empty."
    faulty.note(np.flatnonzero(~known & ~absent), "split", "there is no such split", remedy)
    if known.any():
        faulty.note(np.flatnonzero(absent), "split", "the split is missing, while other rows declare one", remedy)


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.unify_dictionaries().chunks) if column.num_chunks else pa.array([], column.type)


def decoded(table: pa.Table, kept: str = "") -> pa.Table:
    """The table with dictionary-encoded columns (categorical ones of pandas, say) as plain ones, all but `kept`."""
    for at, column in enumerate(table.schema):
        if column.name != kept and pa.types.is_dictionary(column.type):
            table = table.set_column(at, column.name, table.column(at).cast(column.type.value_type))
    return table


def as_text(table: pa.Table, name: str) -> pa.Array:
    """A column as text, null where the source has none."""
    if name not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    return whole(table.column(name)).cast(pa.string())


def indices(mask: Any) -> Integers:
    """Where an Arrow mask is true."""
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False)).astype(np.int64)


def named_by(hashes: NDArray[np.uint64]) -> pa.Array:
    """Hashes as text."""
    return pa.array([f"{value:016x}" for value in hashes.tolist()], pa.string())


def identified(ids: pa.Array, rows: pa.Table, content: Sequence[str]) -> pa.Array:
    """Ids, with a hash of the columns `content` for rows that have none; equal rows are numbered, since cleaning
    judges them."""
    missing = pc.equal(ids, "").fill_null(True)
    where = indices(missing)
    if not len(where):
        return ids
    made = pd.Series(named_by(tables.content_hash(rows.take(pa.array(where)), list(content))).to_pylist())
    again = made.groupby(made).cumcount()
    made = made.where(again == 0, made + "-" + (again + 1).astype(str))
    return pc.replace_with_mask(ids, missing, pa.array(made.tolist(), pa.string()))


def check_ids(rows: pa.Table, places: pa.ChunkedArray, faulty: Faulty) -> None:
    """Of sound rows with one id the first stays."""
    sound = np.setdiff1d(np.arange(rows.num_rows), np.array(list(faulty.found), dtype=np.int64))
    ids = pd.Series(rows.column("id").take(pa.array(sound)).to_pylist(), index=sound, dtype=object)
    again = ids[ids.duplicated()]
    first = ids[ids.isin(again)].drop_duplicates()
    places_of = dict(zip(first, places.take(pa.array(first.index.to_numpy())).to_pylist(), strict=True))
    for row, id_ in again.items():
        faulty.note(np.array([row]), "id", f"the id is already that of {places_of[id_]}", "Give every row its own id.")


def sound_rows(rows: pa.Table, places: pa.ChunkedArray, faulty: Faulty, file: str) -> tuple[pa.Table, list[Fault]]:
    """The rows with which nothing is wrong, each with its `place`, and a Fault for each other."""
    wrong = sorted(faulty.found)
    where = pa.array(wrong, pa.int64())
    found = zip(wrong, places.take(where).to_pylist(), rows.column("id").take(where).to_pylist(), strict=True)
    faults = []
    for row, place, id_ in found:
        name, reason, remedy = faulty.found[row]
        faults.append(Fault(file, reason, remedy, row=place, field=name, id=id_))
    keep = np.ones(rows.num_rows, dtype=np.bool_)
    keep[wrong] = False
    return rows.append_column("place", places).filter(pa.array(keep)), faults
