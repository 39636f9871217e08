"""Reads the pinned source into the row table: `python -m stages.ingestion PIPELINE`.

Writes rows.parquet, places.parquet (of each row its id, and where a person finds it in the source) and
quarantine.jsonl with the rows that are left out and why.
"""

import numpy as np
import pandas as pd
import pyarrow as pa

from trainwright import pins, sources
from trainwright.core import layout, process, tasks
from trainwright.rows import tables


def ingestion(rows: pa.Table, limit: int | None, identity: tuple[str, ...]) -> pa.Table:
    """At most `limit` rows, spread over all groups by content hash; declared splits keep their proportions.

    Within a split every group gives its row of the smallest hash before any gives a second. Which rows are taken
    depends on their content alone, not on their order; those taken stay in the source's order.
    """
    if limit is None or limit >= rows.num_rows:
        return rows
    frame = pd.DataFrame(
        {
            "split": pd.Series(rows.column("split").to_pylist(), dtype=object).fillna(""),
            "group": rows.column("group").to_pylist(),
            "hash": tables.content_hash(rows, ["id", *identity]),
        }
    ).sort_values("hash", kind="stable")
    frame["rank"] = frame.groupby(["split", "group"]).cumcount()
    frame = frame.sort_values(["rank", "hash"], kind="stable")
    shares = _shares(frame["split"].value_counts(), limit)
    keep = frame.groupby("split").cumcount() < frame["split"].map(shares)
    return rows.take(pa.array(np.sort(frame.index[keep].to_numpy())))


def _shares(counts: "pd.Series[int]", limit: int) -> "pd.Series[int]":
    """`limit` divided in proportion to `counts`, by largest remainders; ties go by name."""
    exact = counts.sort_index() * limit / counts.sum()
    whole = exact.astype(int)
    most = (whole - exact).sort_values(kind="stable").index[: limit - whole.sum()]
    return whole + whole.index.isin(most)


def main(run: process.Run) -> None:
    task = tasks.load(run.params.task, "rows")
    source = pins.verify(run.layout, run.params)
    table = sources.read(source, run.layout.root, task.COLUMNS)
    pins.verify(run.layout, run.params)  # a file may have changed while it was read
    rows, faults = task.from_source(table, source.uri)
    taken = ingestion(rows, run.params.ingestion.limit, task.IDENTITY)
    with layout.writing(run.layout.stage("ingestion")) as folder:
        process.quarantine(run, "ingestion", faults, table.num_rows, folder)
        tables.require_rows(len(rows), len(taken), source)
        tables.write(taken.drop_columns("place"), folder / "rows.parquet")
        tables.write(taken.select(["id", "place"]), folder / "places.parquet")
    limited = f", {len(taken):,} taken (limit)" if len(taken) < len(rows) else ""
    process.say(f"ingestion: {table.num_rows:,} rows read, {len(faults):,} in quarantine{limited}")


if __name__ == "__main__":
    process.stage("ingestion", main)
