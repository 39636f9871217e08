"""The rows of text to text: a source and its target, or a text alone, of which spans are to be dropped.

A source of data brings `source` and `target`, or else `text`; `id`, `group` and `split` may be absent. A row of a
plain text has it as its `source`, and no target.
"""

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core.errors import Fault, InputError, nearest
from trainwright.rows import documents, tables
from trainwright.rows.columns import Text

SCHEMA = pa.schema(
    [
        *tables.COMMON,
        pa.field("source", pa.string(), nullable=False),
        pa.field("target", pa.string()),  # null in a row of a plain text
    ]
)
TEXTS = (Text("source"), Text("target", augment=False))
IDENTITY = ("source", "target")
MAIN = ("source",)
GROUP = "group"
QUESTIONS: tuple[str, ...] = ()
GOLD = ("target",)
COLUMNS: Mapping[str, tuple[pa.DataType, ...]] = {
    **documents.COLUMNS,
    "source": (pa.string(),),
    "target": (pa.string(),),
}


def from_source(table: pa.Table, file: str, answered: bool = True) -> tuple[pa.Table, list[Fault]]:
    """Rows of SCHEMA in the source's order, and a Fault for every row that is left out.

    Where there is a column `source`, a column `text` is not read. Rows of one source are of one group where none is
    given. With `answered=False` targets are neither wanted nor read. Raises InputError where a column is missing.
    """
    name = _column(table, file, answered)
    targets, faults = pa.nulls(table.num_rows, pa.string()), []
    if name == "source" and answered:
        targets = pc.fill_null(table["target"].cast(pa.string()), "").combine_chunks()
        empty = pc.equal(pc.utf8_trim_whitespace(targets), "")
        nul = pc.match_substring(targets, "\0")
        faults = _faults(table, file, empty, "the target is empty") + _faults(
            table, file, pc.and_(nul, pc.invert(empty)), "the target holds a NUL character"
        )
        sound = pc.invert(pc.or_(empty, nul))
        table, targets = table.filter(sound), targets.filter(sound)
    texts = table.drop_columns([n for n in ("text", "target") if n in table.column_names and n != name])
    texts = texts.rename_columns(["text" if n == name else n for n in texts.column_names])
    rows, found = documents.from_source(texts, file)
    faults += [replace(fault, field=name if fault.field == "text" else fault.field) for fault in found]
    gone = pc.is_in(table["place"], value_set=pa.array([fault.row for fault in found], pa.string()))
    columns = {"source": rows["text"], "target": pa.chunked_array([targets.filter(pc.invert(gone))])}
    made = {n: columns[n] if n in columns else rows[n] for n in SCHEMA.names}
    return pa.table(made, schema=SCHEMA).append_column("place", rows["place"]), faults


def stratum(rows: pa.Table) -> pa.Array:
    """Rows are of one kind: there is nothing to keep in proportion."""
    return pa.repeat(pa.scalar("row"), rows.num_rows)


def _column(table: pa.Table, file: str, answered: bool) -> str:
    """The column that holds what goes in: `source`, or `text`."""
    found = json.loads((table.schema.metadata or {}).get(b"columns", json.dumps(table.column_names)))
    has = [name for name in ("source", "target", "text") if name in table.column_names]
    if not has:
        remedy = f"{nearest('source', found)} Name them so, or map them in source.columns."
        raise InputError(Fault(file, "there are no columns 'source' and 'target', and no 'text'", remedy))
    if "source" in has or "text" not in has:
        for name in ("source", "target") if answered else ("source",):
            if name not in has:
                remedy = f"{nearest(name, found)} Name it so, or map it: source.columns: {{{name}: THE_COLUMN}}."
                raise InputError(Fault(file, f"there is no column {name!r}", remedy, field=name))
    if answered and has == ["target", "text"]:
        remedy = (
            "Map it: source.columns: {source: text}. To learn from the texts alone, leave 'target' out of the file."
        )
        raise InputError(Fault(file, "there is no column 'source' beside 'target'", remedy, field="source"))
    return "source" if "source" in has else "text"


def _faults(table: pa.Table, file: str, wrong: pa.Array, reason: str) -> list[Fault]:
    """A Fault for the target of each row where `wrong` is true."""
    at = pa.array(np.flatnonzero(np.asarray(wrong)))
    places = table["place"].take(at).to_pylist()
    ids = table["id"].take(at).cast(pa.string()).to_pylist() if "id" in table.column_names else [""] * len(places)
    remedy = "Mend or remove the row."
    return [
        Fault(file, reason, remedy, row=place, field="target", id=id_ or "")
        for place, id_ in zip(places, ids, strict=True)
    ]
