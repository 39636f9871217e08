"""Parquet files."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Source
from trainwright.rows.tables import BATCH
from trainwright.sources.opening import is_packed, read_bytes, require_size
from trainwright.sources.records import Columns, Records, conformed

# What Arrow raises for files that are damaged: some damage is a form that it doesn't know.
DAMAGED = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError, pa.ArrowIndexError, OSError, OverflowError)


def read(path: Path, file: str, columns: Columns, source: Source) -> Records:
    """The wanted columns alone are read. Raises InputError for a file that is not whole Parquet, or another type."""
    content = pa.BufferReader(read_bytes(path, file, source.max_unpacked_gb)) if is_packed(path) else path
    try:
        with pq.ParquetFile(content) as parquet:
            found = parquet.schema_arrow.names
            if twice := [name for name in columns if found.count(name) > 1]:
                reason = f"{found.count(twice[0])} columns are called {twice[0]!r}"
                raise InputError(Fault(file, reason, "Rename all but one.", field=twice[0]))
            table = _table(parquet, [name for name in columns if name in found], file, source)
            table.validate(full=True)  # text that is not UTF-8 would be read without a word
    except DAMAGED as error:
        reason = f"not a whole Parquet file ({str(error).splitlines()[0]})"
        raise InputError(Fault(file, reason, "Fetch the file again, or change the format.")) from None
    return Records(
        {name: conformed(table.column(name), columns[name], file, name) for name in table.column_names},
        numbered(table.num_rows),
        found,
    )


def _table(parquet: pq.ParquetFile, names: list[str], file: str, source: Source) -> pa.Table:
    """Columns batch by batch, so that a file that unpacks to too much is refused before it fills the memory."""
    batches, size = [], 0
    for batch in parquet.iter_batches(BATCH, columns=names):
        batches.append(batch)
        size += batch.nbytes
        require_size(size, file, source.max_unpacked_gb)
    return pa.Table.from_batches(batches) if batches and names else parquet.read(names)


def numbered(rows: int) -> Sequence[str]:
    return [f"row {n}" for n in range(1, rows + 1)]
