"""Reads the pinned source into the row table: `python -m stages.ingestion PIPELINE`.

Writes rows.parquet, places.parquet (of each row its id, and where a person finds it in the source) and
quarantine.jsonl with the rows that are left out and why.
"""

import numpy as np
import pandas as pd
import pyarrow as pa

from trainwright import pins, sources
from trainwright.core import layout, process, tasks
from trainwright.core.errors import Fault, InputError
from trainwright.rows import tables


def ingestion(
    rows: pa.Table, limit: int | None, identity: tuple[str, ...], kept: frozenset[str] = frozenset()
) -> pa.Table:
    """At most `limit` rows, spread over all groups by content hash; declared splits keep their proportions.

    Rows whose id is in `kept` are taken first. Within a split every group gives its row of the smallest hash before any
    gives a second. Which rows are taken depends on their content and `kept` alone, not on their order; those taken stay
    in the source's order. Raises InputError when the kept rows leave no room for others.
    """
    if limit is None or limit >= rows.num_rows:
        return rows
    frame = pd.DataFrame(
        {
            "split": pd.Series(rows.column("split").to_pylist(), dtype=object).fillna(""),
            "group": rows.column("group").to_pylist(),
            "hash": tables.content_hash(rows, ["id", *identity]),
            "kept": pd.Series(rows.column("id").to_pylist(), dtype=object).isin(kept),
        }
    ).sort_values("hash", kind="stable")
    first = frame[frame["kept"]]
    _require_room(len(first), limit)
    frame["rank"] = frame.groupby(["split", "group"]).cumcount()
    others = frame[~frame["kept"]].sort_values(["rank", "hash"], kind="stable")
    wanted = _shares(frame["split"].value_counts(), limit)
    missing = (wanted - first["split"].value_counts().reindex(wanted.index, fill_value=0)).clip(lower=0)
    shares = _shares(missing, limit - len(first))
    taken = others[others.groupby("split").cumcount() < others["split"].map(shares)]
    return rows.take(pa.array(np.sort(np.concatenate([first.index, taken.index]))))


def _require_room(kept: int, limit: int) -> None:
    least = kept + len(tables.SPLITS) - 1  # one row each to train on and to validate
    if kept and limit < least:
        reason = f"a limit of {limit:,} leaves too few rows beside the {kept:,} test rows of the version in use"
        remedy = f"Raise it to {least:,} or more. `trainwright accept --new-test-set` freezes other test rows."
        raise InputError(Fault("params.yaml", reason, remedy, field="ingestion.limit"))


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
    taken = ingestion(rows, run.params.ingestion.limit, task.IDENTITY, pins.test_rows(run.layout))
    with layout.writing(run.layout.stage("ingestion")) as folder:
        process.quarantine(run, "ingestion", faults, table.num_rows, folder)
        tables.require_rows(len(rows), len(taken), source)
        tables.write(taken.drop_columns("place"), folder / "rows.parquet")
        tables.write(taken.select(["id", "place"]), folder / "places.parquet")
    limited = f", {len(taken):,} taken (limit)" if len(taken) < len(rows) else ""
    process.say(f"ingestion: {table.num_rows:,} rows read, {len(faults):,} in quarantine{limited}")


if __name__ == "__main__":
    process.stage("ingestion", main)
