"""Clean texts, empty and repeated rows taken out, every answer span moved along.

    python -m stages.cleaning sample-qa

Writes rows.parquet (the rows that stay, in their order) and dropped.parquet (id and reason of those that do not).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core import layout, process, tasks
from trainwright.core.params import Cleaning
from trainwright.rows import tables
from trainwright.text.cleaning import Cleaned, clean_rows, drop
from trainwright.text.duplicates import preference, repeated

if TYPE_CHECKING:
    from trainwright.tasks.interface import Rows


def cleaning(rows: pa.Table, params: Cleaning, task: "Rows") -> Cleaned:
    """A whole table cleaned: its texts first, then without what is empty, then without what is there twice."""
    cleaned = clean_rows(rows, task.TEXTS, params)
    if not params.duplicates:
        return cleaned
    unique = drop(cleaned.rows, repeated(*_compared(cleaned.rows, task)))
    return Cleaned(unique.rows, pa.concat_tables([cleaned.dropped, unique.dropped]))


def stream(batches: Iterable[pa.Table], params: Cleaning, task: "Rows", folder: Path) -> pa.Table:
    """`cleaning` of a table that comes in batches, into `folder`; of all rows it keeps only hashes in memory.

    Returns what was dropped. A repeated row may be in a later batch than the one kept or in an earlier, so
    cleaned rows wait in a file aside until all are known.
    """
    aside, path = folder / "aside.parquet", folder / "rows.parquet"
    dropped, compared = [tables.DROPPED.empty_table()], []
    with tables.writer(aside, task.SCHEMA) as file:
        for batch in batches:
            cleaned = clean_rows(batch, task.TEXTS, params)
            file.write_table(cleaned.rows)
            dropped.append(cleaned.dropped)
            compared.append(_compared(cleaned.rows, task))
    if params.duplicates and compared:
        reasons = repeated(*(np.concatenate(parts) for parts in zip(*compared, strict=True)))
        with tables.writer(path, task.SCHEMA) as file:
            for batch in tables.batches(aside):
                unique = drop(batch, reasons[: batch.num_rows])
                reasons = reasons[batch.num_rows :]
                file.write_table(unique.rows)
                dropped.append(unique.dropped)
        aside.unlink()
    else:
        aside.rename(path)
    everything = pa.concat_tables(dropped)
    tables.write(everything, folder / "dropped.parquet")
    return everything


def _compared(rows: pa.Table, task: "Rows") -> tuple[Any, Any, Any]:
    """What tells whether rows repeat one another: their identity, which is preferred, and their gold."""
    spans = [name for text in task.TEXTS for name in (text.starts, *text.labels) if name]
    gold = [*spans, *(name for name in task.GOLD if name in rows.column_names and name not in spans)]
    identities = tables.content_hash(rows, list(task.IDENTITY))
    return identities, preference(rows["split"]), tables.content_hash(rows, gold) if gold else identities


def main(run: process.Run) -> None:
    source = run.open("ingestion") / "rows.parquet"
    with layout.writing(run.layout.stage("cleaning")) as folder:
        task = tasks.load(run.params.task, "rows")
        dropped = stream(tables.batches(source), run.params.cleaning, task, folder)
        kept = tables.count(folder / "rows.parquet")
    reasons = pc.value_counts(dropped["reason"]).to_pylist()
    listed = ", ".join(f"{reason['counts']:,} {reason['values']}" for reason in reasons)
    process.say(
        f"cleaning: {kept + dropped.num_rows:,} rows in, {kept:,} kept, {dropped.num_rows:,} dropped"
        + (f" ({listed})" if listed else "")
    )


if __name__ == "__main__":
    process.stage("cleaning", main)
