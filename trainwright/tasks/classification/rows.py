"""The rows of classification: a text, maybe a second one, and what it is to be given.

A source brings `text`, for pairs `text_b` too, and one of

    label    one label, as text; a whole number or a truth value is taken as it is written
    labels   several labels or none: a list, a text that `source.separator` parts, or columns of 0 and 1, one a label
    value    a number

under these names or mapped by `source.columns`. `id`, `group` and `split` may be absent. Labels are kept as they are
written ("01" is not "1"), but for white space around them, and for the ".0" of whole numbers if all are whole: "1.0" is
"1".
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core.errors import Fault, InputError, nearest
from trainwright.rows import tables
from trainwright.rows.columns import Text
from trainwright.rows.reading import (
    Faulty,
    as_text,
    check_ids,
    identified,
    indices,
    named_by,
    note_labels,
    note_problems,
    note_splits,
    note_texts,
    sound_rows,
    whole,
)

SCHEMA = pa.schema(
    [
        *tables.COMMON,
        pa.field("text", pa.string(), nullable=False),
        pa.field("text_b", pa.string(), nullable=False),  # "" where texts come alone
        # Of these three all rows have the same one; rows that are to be predicted have none.
        pa.field("label", pa.string()),
        pa.field("labels", pa.list_(pa.string())),  # in order of their names, each once
        pa.field("value", pa.float64()),
    ]
)
TEXTS = (Text("text"), Text("text_b", optional=True))
IDENTITY = ("text", "text_b")
MAIN = ("text",)
GROUP = "group"
QUESTIONS: tuple[str, ...] = ()
GOLD = ("label", "labels", "value")
CONTENT = ("text", "text_b", "label", "labels", "value")  # what an id is made of where there is none

COLUMNS: Mapping[str, tuple[pa.DataType, ...]] = {
    "id": (pa.string(), pa.int64()),
    "group": (pa.string(), pa.int64()),
    "text": (pa.string(),),
    "text_b": (pa.string(),),
    "label": (pa.string(), pa.int64(), pa.bool_()),
    "labels": (pa.list_(pa.string()), pa.list_(pa.int64()), pa.string()),
    "value": (pa.float64(),),
    "split": (pa.string(),),
}


def from_source(table: pa.Table, file: str, answered: bool = True) -> tuple[pa.Table, list[Fault]]:
    """Rows of SCHEMA in the source's order, and a Fault for every row that is left out.

    Without an id a row gets a hash of its content, without a group one of its first text. With `answered=False`
    labels are neither wanted nor read. Raises InputError where there is no text, or not one kind of label.
    """
    found = _found(table)
    if "text" not in table.column_names:
        remedy = f"{nearest('text', found)} Name it so, or map it: source.columns: {{text: THE_COLUMN}}."
        raise InputError(Fault(file, "there is no column 'text'", remedy, field="text"))
    gold = _gold(table, file, found) if answered else None
    faulty = Faulty()
    note_problems(table, faulty)
    texts = [name for name in ("text", "text_b") if name in table.column_names]
    for name in texts:
        note_texts(name, as_text(table, name), None, faulty)
    note_splits(table, faulty)
    columns: dict[str, Any] = {"parent": pa.nulls(table.num_rows, pa.string())}
    columns |= {name: as_text(table, name).fill_null("") for name in ("text", "text_b")}
    columns |= {name: pa.nulls(table.num_rows, SCHEMA.field(name).type) for name in GOLD}
    if gold:
        columns[gold] = READ[gold](whole(table.column(gold)), faulty)
    split = as_text(table, "split")
    columns["split"] = pc.if_else(pc.equal(split, ""), pa.scalar(None, pa.string()), split)
    group = as_text(table, "group").fill_null("")
    hashes = named_by(tables.content_hash(pa.table({"text": columns["text"]}), ["text"]))
    columns["group"] = pc.if_else(pc.equal(group, ""), hashes, group)
    columns["id"] = identified(as_text(table, "id"), pa.table(columns), CONTENT)
    rows = pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)
    check_ids(rows, table.column("place"), faulty)
    return sound_rows(rows, table.column("place"), faulty, file)


def stratum(rows: pa.Table) -> pa.Array:
    """A row's label, of several the first by name: what splitting keeps in proportion. Numbers are of one kind."""
    if rows["value"].null_count < rows.num_rows:
        return pa.repeat(pa.scalar("number"), rows.num_rows)
    if rows["labels"].null_count == rows.num_rows:
        return whole(rows["label"]).fill_null("")
    lists = whole(rows["labels"])
    some = pc.greater(pc.list_value_length(lists), 0).fill_null(False)
    return pc.list_element(pc.if_else(some, lists, pa.scalar(["no label"])), 0)


def _found(table: pa.Table) -> list[str]:
    """The source's own column names."""
    metadata = table.schema.metadata or {}
    return list(json.loads(metadata[b"columns"]) if b"columns" in metadata else table.column_names)


def _gold(table: pa.Table, file: str, found: list[str]) -> str:
    """Which of the columns of labels there is. Raises InputError where there is none, or more than one."""
    held = [name for name in GOLD if name in table.column_names]
    if not held:
        reason = "there is no column 'label' (one label), 'labels' (several) or 'value' (a number)"
        remedy = (
            f"{nearest('label', found)} Name it so, or map it: source.columns: {{label: THE_COLUMN}}; "
            "columns of 0 and 1 are labels by their names: {labels: [ONE, OTHER]}."
        )
        raise InputError(Fault(file, reason, remedy, field="label"))
    if len(held) > 1:
        reason = f"there are both {' and '.join(map(repr, held))}, and rows have one kind of label"
        raise InputError(Fault(file, reason, "Rename or remove the column that is not meant.", field=held[1]))
    if held == ["labels"] and not pa.types.is_list(table.schema.field("labels").type):
        reason = "'labels' holds text, and nothing says what stands between two labels"
        remedy = 'Name it, source.separator: "|" for one, or map the column as `label` where each row has one.'
        raise InputError(Fault(file, reason, remedy, field="source.separator"))
    return held[0]


def _written(labels: pa.Array) -> pa.Array:
    """Labels as text; whole numbers without ".0", unless some of the labels are no whole numbers."""
    texts = pc.utf8_trim_whitespace(labels.cast(pa.string()))
    whole_numbers = pc.match_substring_regex(texts, r"^([+-]?[0-9]+(\.0+)?)?$")
    return pc.replace_substring_regex(texts, r"\.0+$", "") if pc.all(whole_numbers).as_py() else texts


def _label(column: pa.Array, faulty: Faulty) -> pa.Array:
    labels = _written(column)
    note_labels("label", column.cast(pa.string()), None, faulty)
    missing = pc.equal(labels, "").fill_null(True)
    faulty.note(indices(missing), "label", "the label is missing", "Give the row its label, or remove it.")
    return labels


def _labels(column: pa.Array, faulty: Faulty) -> pa.Array:
    """The labels of each row in order of their names, each once."""
    missing = column.is_null()
    faulty.note(indices(missing), "labels", "the labels are missing", "Write an empty list where none applies.")
    owner = pc.list_parent_indices(column).to_numpy().astype(np.int64)
    labels = _written(column.flatten())
    note_labels("labels", column.flatten().cast(pa.string()), owner, faulty)
    blank = pc.equal(labels, "").fill_null(True).to_numpy(zero_copy_only=False)
    faulty.note(np.unique(owner[blank]), "labels", "a label is empty", "Name it, or remove it from the list.")
    encoded = labels.fill_null("").dictionary_encode()
    order = np.argsort(np.array(encoded.dictionary.to_pylist(), dtype=object), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    pairs = np.unique(np.stack([owner, rank[encoded.indices.to_numpy()]]), axis=1)
    offsets = np.searchsorted(pairs[0], np.arange(len(column) + 1)).astype(np.int32)
    values = encoded.dictionary.take(pa.array(order[pairs[1]]))
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=missing)


def _value(column: pa.Array, faulty: Faulty) -> pa.Array:
    values = column.cast(pa.float64())
    faulty.note(indices(values.is_null()), "value", "the number is missing", "Give it, or remove the row.")
    endless = pc.invert(pc.is_finite(values)).fill_null(False)
    faulty.note(indices(endless), "value", "the value is not a finite number (NaN or infinity)", "Mend the value.")
    return values


READ = {"label": _label, "labels": _labels, "value": _value}
