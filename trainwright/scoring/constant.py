"""The constant baseline: one answer for every row, which a model has to beat to have learned anything."""

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Constant:
    """Predictions that are the same for every row, in the task's own columns, and the answer in words."""

    predictions: pa.Table
    answer: str


def replaced(predictions: pa.Table, **columns: pa.Array) -> pa.Table:
    """Return `predictions` with these columns in place of its own, schema metadata kept."""
    for name, column in columns.items():
        place = predictions.schema.get_field_index(name)
        predictions = predictions.set_column(place, predictions.schema.field(name), column)
    return predictions
