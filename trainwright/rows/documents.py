"""Rows that are documents: one text each, for the tasks that learn from text alone.

A source brings `text`; `id`, `group` and `split` may be absent. A document is a group of its own, so that a text
that stands twice can be in one split only; a source that knows which documents belong together (the chapters of a
book, the pages of a site) says so in `group`. What a document may hold beside its text is not read.
"""

import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core.errors import Fault, InputError, nearest
from trainwright.rows import tables
from trainwright.rows.columns import Text
from trainwright.rows.reading import (
    Faulty,
    as_text,
    check_ids,
    identified,
    named_by,
    note_problems,
    note_splits,
    note_texts,
    sound_rows,
)

SCHEMA = pa.schema([*tables.COMMON, pa.field("text", pa.string(), nullable=False)])
TEXTS = (Text("text"),)
IDENTITY = ("text",)
MAIN = ("text",)
GROUP = "group"
QUESTIONS: tuple[str, ...] = ()
GOLD: tuple[str, ...] = ()
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
    faulty = Faulty()
    texts, group, split = (as_text(table, name) for name in ("text", "group", "split"))
    note_problems(table, faulty)
    note_texts("text", texts, None, faulty)
    note_splits(table, faulty)
    columns = {"text": texts.fill_null("")}
    own = named_by(tables.content_hash(pa.table(columns), ["text"]))
    columns["id"] = identified(as_text(table, "id"), pa.table(columns), ["text"])
    columns["group"] = pc.if_else(pc.equal(group, "").fill_null(True), own, group)
    columns["split"] = pc.if_else(pc.equal(split, ""), pa.scalar(None, pa.string()), split)
    columns["parent"] = pa.nulls(table.num_rows, pa.string())
    rows = pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)
    check_ids(rows, table.column("place"), faulty)
    return sound_rows(rows, table.column("place"), faulty, file)


def stratum(rows: pa.Table) -> pa.Array:
    """Documents are of one kind: there is nothing to keep in proportion."""
    return pa.repeat(pa.scalar(STRATUM), rows.num_rows)
