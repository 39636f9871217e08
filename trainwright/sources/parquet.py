"""Parquet files."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trainwright.core.errors import Fault, InputError
from trainwright.sources.opening import is_packed, read_bytes
from trainwright.sources.records import Columns, Records, conformed


def read(path: Path, file: str, columns: Columns) -> Records:
    """The wanted columns alone are read. Raises InputError for a file that is not whole Parquet, or another type."""
    content = pa.BufferReader(read_bytes(path, file)) if is_packed(path) else path
    try:
        with pq.ParquetFile(content) as parquet:
            found = parquet.schema_arrow.names
            if twice := [name for name in columns if found.count(name) > 1]:
                reason = f"{found.count(twice[0])} columns are called {twice[0]!r}"
                raise InputError(Fault(file, reason, "Rename all but one.", field=twice[0]))
            table = parquet.read([name for name in columns if name in found])
            table.validate(full=True)  # text that is not UTF-8 would be read without a word
    except (pa.ArrowInvalid, OSError) as error:
        reason = f"not a whole Parquet file ({str(error).splitlines()[0]})"
        raise InputError(Fault(file, reason, "Fetch the file again, or change the format.")) from None
    return Records(
        {name: conformed(table.column(name), columns[name], file, name) for name in table.column_names},
        numbered(table.num_rows),
        found,
    )


def numbered(rows: int) -> Sequence[str]:
    return [f"row {n}" for n in range(1, rows + 1)]
