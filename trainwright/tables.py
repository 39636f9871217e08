"""The row tables that stages hand on: Parquet files of Arrow tables, written and read in one way."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

COMMON = (
    pa.field("id", pa.string(), nullable=False),
    pa.field("group", pa.string(), nullable=False),
    pa.field("split", pa.string()),
    pa.field("parent", pa.string()),
)
DROPPED = pa.schema([("id", pa.string()), ("reason", pa.string())])
SPLITS = ("train", "validation", "test")
BATCH = 10_000


def write(table: pa.Table, path: Path) -> None:
    """A table as Parquet. The same rows give the same bytes."""
    pq.write_table(table, path, compression="zstd", row_group_size=BATCH)


def read(path: Path, columns: list[str] | None = None) -> pa.Table:
    return pq.read_table(path, columns=columns, memory_map=True)


def batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The table in pieces of at most BATCH rows, so that memory stays flat as rows grow."""
    with pq.ParquetFile(path, memory_map=True) as file:
        for batch in file.iter_batches(batch_size=BATCH, columns=columns):
            yield pa.Table.from_batches([batch])


def content_hash(table: pa.Table, columns: list[str]) -> np.ndarray:
    """A 64-bit hash of each row's content in `columns`, the same on every machine and in every run.

    Columns may hold strings or lists of strings or integers. Hashes of single columns are SipHash-2-4 with
    pandas' fixed key (`pandas.util.hash_array`), combined in order.
    """
    total = np.zeros(table.num_rows, dtype=np.uint64)
    for name in columns:
        column = table.column(name).combine_chunks()
        if pa.types.is_list(column.type):
            values = [str(value) for value in column.to_pylist()]
            hashed = pd.util.hash_array(np.array(values, dtype=object), categorize=False)
        else:
            filled = column.cast(pa.string()).fill_null("\0")
            hashed = pd.util.hash_array(filled.to_numpy(zero_copy_only=False).astype(object), categorize=True)
        with np.errstate(over="ignore"):
            total = (total * np.uint64(0x9E3779B97F4A7C15)) ^ (hashed + np.uint64(0x632BE59BD9B4E019))
    return total
