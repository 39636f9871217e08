"""Rows that are documents: one text each, for the tasks that learn from text alone.

A source brings `text`; `id`, `group` and `split` may be absent. A document is a group of its own, so that a text
that stands twice can be in one split only; a source that knows which documents belong together (the chapters of a
book, the pages of a site) says so in `group`. What a document may hold beside its text is not read.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright import tables
from trainwright.core.errors import Fault, InputError, nearest
from trainwright.tasks.interface import Text

SCHEMA = pa.schema([*tables.COMMON, pa.field("text", pa.string(), nullable=False)])
TEXTS = (Text("text"),)
IDENTITY = ("text",)
QUESTIONS: tuple[str, ...] = ()
COLUMNS: Mapping[str, tuple[pa.DataType, ...]] = {
    "id": (pa.string(), pa.int64()),
    "group": (pa.string(), pa.int64()),
    "text": (pa.string(),),
    "split": (pa.string(),),
}
STRATUM = "document"


def from_source(table: pa.Table, file: str, answered: bool = True) -> tuple[pa.Table, list[Fault]]:  # noqa: ARG001
    """Rows of SCHEMA in the source's order, and a Fault for every row that is left out.

    Without an id a document gets a hash of its text, and without a group too. There is no gold that `answered` could
    speak of. Raises InputError where there is no column `text`.
    """
    if "text" not in table.column_names:
        found = json.loads((table.schema.metadata or {}).get(b"columns", json.dumps(table.column_names)))
        remedy = f"{nearest('text', found)} Name it so, or map it: source.columns: {{text: THE_COLUMN}}."
        raise InputError(Fault(file, "there is no column 'text'", remedy, field="text"))
    columns = {name: _strings(table, name) for name in COLUMNS}
    hashes = pa.array([f"{value:016x}" for value in tables.content_hash(pa.table(columns), ["text"])], pa.string())
    columns["group"] = _filled(columns["group"], hashes)
    unnamed = pc.equal(columns["id"], "").to_numpy(zero_copy_only=False)
    columns["id"] = _filled(columns["id"], _numbered(hashes, unnamed))
    faults = _faults(table, columns)
    places = _strings(table, "place").to_pylist()
    found = [
        Fault(file, reason, remedy, row=places[row], field=name, id=columns["id"][row].as_py())
        for row, (name, reason, remedy) in sorted(faults.items())
    ]
    columns["split"] = pc.if_else(pc.equal(columns["split"], ""), pa.scalar(None, pa.string()), columns["split"])
    columns["parent"] = pa.nulls(table.num_rows, pa.string())
    rows = pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)
    keep = np.ones(table.num_rows, dtype=np.bool_)
    keep[list(faults)] = False
    return rows.filter(pa.array(keep)), found


def stratum(rows: pa.Table) -> pa.Array:
    """Documents are of one kind: there is nothing to keep in proportion."""
    return pa.repeat(pa.scalar(STRATUM), rows.num_rows)


def _strings(table: pa.Table, name: str) -> pa.Array:
    """A column as text in one piece, "" where a row or the whole source has none."""
    if name not in table.column_names:
        return pa.repeat(pa.scalar(""), table.num_rows)
    column = table.column(name).cast(pa.string()).fill_null("").combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def _filled(values: pa.Array, instead: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(values, ""), instead, values)


def _numbered(hashes: pa.Array, unnamed: NDArray[np.bool_]) -> pa.Array:
    """Hashes as ids; of the `unnamed` rows with equal texts the second gets "-2", since cleaning is to judge them."""
    names = pd.Series(hashes.to_pylist(), dtype=object)
    again = names[unnamed].groupby(names[unnamed]).cumcount().reindex(names.index, fill_value=0)
    return pa.array(names.where(again == 0, names + "-" + (again + 1).astype(str)).tolist(), pa.string())


def _faults(table: pa.Table, columns: Mapping[str, pa.Array]) -> dict[int, tuple[str, str, str]]:
    """Field, reason and remedy of the first thing that is wrong with each faulty row."""
    found: dict[int, tuple[str, str, str]] = {}

    def note(wrong: Any, name: str, reason: str, remedy: str) -> None:
        for row in np.flatnonzero(np.asarray(wrong)).tolist():
            found.setdefault(row, (name, reason, remedy))

    if "problem" in table.column_names:
        for row, problem in enumerate(table.column("problem").to_pylist()):
            if problem:
                found[row] = (problem["field"], problem["reason"], "Mend the value.")
    remedy = "Mend or remove the row."
    note(pc.equal(pc.utf8_trim_whitespace(columns["text"]), ""), "text", "the text is empty", remedy)
    note(pc.match_substring(columns["text"], "\0"), "text", "the text holds a NUL character", remedy)
    declared = columns["split"]
    known, absent = pc.is_in(declared, value_set=pa.array(tables.SPLITS)), pc.equal(declared, "")
    remedy = f"Write {', '.join(tables.SPLITS)}, or leave the whole column empty."
    note(pc.invert(pc.or_(known, absent)), "split", "there is no such split", remedy)
    if pc.any(known).as_py():
        note(absent, "split", "the split is missing, while other rows declare one", remedy)
    sound = [row for row in range(table.num_rows) if row not in found]
    ids = pd.Series(columns["id"].take(pa.array(sound, pa.int64())).to_pylist(), index=sound, dtype=object)
    again = ids.index[ids.duplicated()].to_numpy()
    note(np.isin(np.arange(table.num_rows), again), "id", "an earlier row has the same id", "Give every row its own.")
    return found
