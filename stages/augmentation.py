"""More training rows from those there are, without touching an answer.

    python -m stages.augmentation sample-qa

Writes rows.parquet: every row that came in, and after it its children.
"""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from trainwright.core import layout, process, tasks
from trainwright.core.params import Augmentation
from trainwright.rows import tables
from trainwright.text.augmentation import children, passages

if TYPE_CHECKING:
    from trainwright.tasks.interface import Rows


def augmentation(rows: pa.Table, params: Augmentation, task: "Rows", language: str) -> pa.Table:
    """The rows with their children: paraphrases right behind their parent, for they share its context; noised
    ones, whose context is their own, behind the last row of their parent's, so that a context's rows stay together.
    """
    last = _last_of_context(rows, task)
    noised, noised_from = children(rows, task, "noise", params.typing_noise, params.seed)
    # The rules are English; another language has none yet.
    rate = params.paraphrase if language == "en" else 0.0
    said, said_from = children(rows, task, "paraphrase", rate, params.seed)
    places = [np.arange(rows.num_rows, dtype=float), said_from + 0.25, last[noised_from] + 0.5]
    order = np.argsort(np.concatenate(places), kind="stable")
    return pa.concat_tables([rows, said, noised]).take(order)


def _last_of_context(rows: pa.Table, task: "Rows") -> np.ndarray:
    """For each row the place of the last row in its run of rows with the same passages."""
    contexts = tables.content_hash(rows, [text.column for text in passages(task)])
    ends = np.flatnonzero(np.append(contexts[1:] != contexts[:-1], [True] * bool(rows.num_rows)))
    last: np.ndarray = ends[np.searchsorted(ends, np.arange(rows.num_rows))]
    return last


def main(run: process.Run) -> None:
    source = run.open("cleaning") / "rows.parquet"
    task = tasks.load(run.params.task, "rows")
    came = went = 0
    with (
        layout.writing(run.layout.stage("augmentation")) as folder,
        tables.writer(folder / "rows.parquet", task.SCHEMA) as file,
    ):
        for batch in tables.batches(source):
            rows = augmentation(batch, run.params.augmentation, task, run.params.language)
            file.write_table(rows)
            came, went = came + batch.num_rows, went + rows.num_rows
    process.say(f"augmentation: {came:,} rows in, {went - came:,} children made")


if __name__ == "__main__":
    process.stage("augmentation", main)
