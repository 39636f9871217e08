"""The row tables that stages hand on: Parquet files of Arrow tables, written and read in one way."""

import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Source

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


def writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """The same, for a table that comes in pieces; a context manager with `write_table`."""
    return pq.ParquetWriter(path, schema, compression="zstd")


def read(path: Path, columns: list[str] | None = None) -> pa.Table:
    return pq.read_table(path, columns=columns, memory_map=True)


def places(path: Path, ids: Collection[str]) -> dict[str, str]:
    """Where in the source the rows of these ids stand, as far as ingestion has said so in its places.parquet. It is no
    evidence: what is refused is refused without, so that a file that cannot be read says nothing."""
    try:
        known = read(path)
    except (OSError, pa.ArrowException):
        return {}
    found = known.filter(pc.is_in(known["id"], value_set=pa.array(sorted(ids), pa.string())))
    return dict(zip(found["id"].to_pylist(), found["place"].to_pylist(), strict=True))


def count(path: Path) -> int:
    """How many rows a table has, from its file's footer alone."""
    return int(pq.read_metadata(path).num_rows)


def require_rows(found: int, taken: int, source: Source) -> None:
    """Raises InputError where there are fewer rows than splits: whatever the shares, one of them would be empty."""
    least = len(SPLITS)
    if found < least:
        reason = f"only {found} {'row' if found == 1 else 'rows'} of it can be used"
        remedy = f"Give at least {least}, one each to train on, to validate and to test."
        if source.format == "text" and source.documents == "blank-lines" and not source.stream:
            remedy += " Blank lines part documents; if each line is one, set `source.documents: lines`."
        raise InputError(Fault(source.uri, reason, remedy))
    if taken < least:
        reason = f"a limit of {taken} leaves a split without a row"
        raise InputError(Fault("params.yaml", reason, f"Raise it to {least} or more.", field="ingestion.limit"))


def batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The table in pieces of at most BATCH rows, so that memory stays flat as rows grow."""
    with pq.ParquetFile(path, memory_map=True) as file:
        for batch in file.iter_batches(batch_size=BATCH, columns=columns):
            yield pa.Table.from_batches([batch])


def write_json(keys: pa.ChunkedArray, values: pa.ChunkedArray, path: Path) -> None:
    """Two columns as one JSON object in UTF-8, a line a row, without the whole of it in memory."""
    opening = "{\n"
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for batch in pa.table({"key": keys, "value": values}).to_batches(max_chunksize=BATCH):
            for key, value in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                file.write(f"{opening}{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}")
                opening = ",\n"
        file.write("{}\n" if opening == "{\n" else "\n}\n")


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


def main_text_hash(table: pa.Table, columns: tuple[str, ...]) -> np.ndarray:
    """A 64-bit hash of each row's main text: the first of `columns` that is not blank in it."""
    text = table[columns[-1]]
    for name in reversed(columns[:-1]):
        blank = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(table[name], "")), "")
        text = pc.if_else(blank, text, table[name])
    return content_hash(pa.table({"text": text}), ["text"])


def draw(hashes: np.ndarray, salt: str) -> np.ndarray:
    """A number in [0, 1) for each 64-bit hash: the same for ever, and another for another salt.

    A row's number depends on its own hash alone, so it stays when other rows come or go. The mixing is the
    finalizer of SplitMix64 (Steele, Lea and Flood 2014).
    """
    key = int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "little")
    mixed = hashes ^ np.uint64(key)
    with np.errstate(over="ignore"):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)) / float(2**53)
