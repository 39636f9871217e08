"""The rows of causal language modelling: documents, or the pieces of a stream, which know their place in it."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core.errors import Fault
from trainwright.rows import documents
from trainwright.rows.documents import GOLD, GROUP, IDENTITY, MAIN, QUESTIONS, TEXTS, stratum

__all__ = ["COLUMNS", "GOLD", "GROUP", "IDENTITY", "MAIN", "QUESTIONS", "SCHEMA", "TEXTS", "from_source", "stratum"]

SCHEMA = pa.schema(
    [
        *documents.SCHEMA,
        pa.field("position", pa.int64()),  # of a piece of a stream its place in its group; null for a document
        pa.field("beginning", pa.bool_(), nullable=False),  # whether the whole text is to be gone on from
    ]
)
COLUMNS: Mapping[str, tuple[pa.DataType, ...]] = {**documents.COLUMNS, "position": (pa.int64(),)}


def from_source(table: pa.Table, file: str, answered: bool = True) -> tuple[pa.Table, list[Fault]]:
    """Rows of SCHEMA, and a Fault for each that is left out. With `answered=False` each is a beginning."""
    rows, faults = documents.from_source(table, file, answered)
    positions = pa.nulls(rows.num_rows, pa.int64())
    if "position" in table.column_names and "id" in table.column_names:
        at = pc.index_in(rows["id"], value_set=table["id"].cast(pa.string()).combine_chunks())
        positions = table["position"].cast(pa.int64()).take(at)
    rows = rows.append_column(SCHEMA.field("position"), positions)
    beginning = pa.repeat(pa.scalar(not answered), rows.num_rows)
    rows = rows.append_column(SCHEMA.field("beginning"), beginning)
    return rows.select([*SCHEMA.names, "place"]), faults
