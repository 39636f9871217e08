"""Rows into train, validation and test: as the source declares them, else whole groups by content hash.

    python -m stages.splitting sample-qa

Writes train.parquet, validation.parquet and test.parquet. A split that no row falls into is an empty table, which
the gate refuses. Proportions of kinds of rows are not forced: they are told here and checked by the gate.
"""

from collections import Counter
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.core import layout, process, tasks
from trainwright.core.params import Splitting
from trainwright.rows import tables
from trainwright.splits import assign, declared_splits, places


def splitting(rows: pa.Table, place: NDArray[np.float64], params: Splitting, declared: set[str]) -> dict[str, pa.Table]:
    """The rows of each split, in their order; children in train alone. The rest: see trainwright.splits.assign."""
    split = assign(rows, place, params, declared)
    stays = pc.or_(pc.equal(split, "train"), rows["parent"].is_null())
    return {name: rows.filter(pc.and_(pc.equal(split, name), stays)) for name in tables.SPLITS}


def main(run: process.Run) -> None:
    source = run.open("augmentation") / "rows.parquet"
    task = tasks.load(run.params.task, "rows")
    declared = declared_splits(batch["split"] for batch in tables.batches(source, ["split"]))
    columns = ["id", "group", "parent", *task.MAIN]
    place = places(tables.batches(source, columns), run.params.splitting, task.MAIN)
    kinds: dict[str, Counter[str]] = {name: Counter() for name in tables.SPLITS}
    with layout.writing(run.layout.stage("splitting")) as folder, ExitStack() as stack:
        files = {n: stack.enter_context(tables.writer(folder / f"{n}.parquet", task.SCHEMA)) for n in tables.SPLITS}
        for batch in tables.batches(source):
            own, place = place[: batch.num_rows], place[batch.num_rows :]
            for name, rows in splitting(batch, own, run.params.splitting, declared).items():
                files[name].write_table(rows)
                kinds[name].update(task.stratum(rows).to_pylist())
    says = f"declared {', '.join(sorted(declared))}" if declared else "no declared splits"
    process.say(f"splitting: {sum(map(Counter.total, kinds.values())):,} rows, {says}")
    for line in told(kinds):
        process.say(f"  {line}")


def told(kinds: dict[str, Counter[str]]) -> list[str]:
    """A line a split: its rows and, where they are of several kinds, the share of each kind."""
    several = len(set().union(*kinds.values())) > 1
    return [
        f"{name}: {count.total():,} rows" + (f" ({', '.join(_shares(count))})" if several and count else "")
        for name, count in kinds.items()
    ]


def _shares(count: Counter[str]) -> list[str]:
    return [f"{number / count.total():.1%} {kind}" for kind, number in sorted(count.items())]


if __name__ == "__main__":
    process.stage("splitting", main)
