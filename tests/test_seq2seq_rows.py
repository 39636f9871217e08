"""Rows of text to text: a source with its target, or a text alone."""

import pyarrow as pa
import pytest

from trainwright.core.errors import InputError
from trainwright.core.params import Cleaning
from trainwright.rows import tables
from trainwright.tasks.seq2seq import rows
from trainwright.text.cleaning import clean_rows


def source(**columns):
    count = len(next(iter(columns.values())))
    return pa.table({**columns, "place": [f"line {n + 1}" for n in range(count)]})


def test_pairs_keep_their_order_their_ids_and_their_targets():
    given = source(id=[7, 8, 9], source=["a", "b", "a"], target=["1", "01", "NA"])
    found, faults = rows.from_source(given, "a.jsonl")
    assert not faults
    assert found.drop_columns("place").schema == rows.SCHEMA
    assert found.select(["id", "source", "target"]).to_pylist() == [
        {"id": "7", "source": "a", "target": "1"},
        {"id": "8", "source": "b", "target": "01"},
        {"id": "9", "source": "a", "target": "NA"},
    ]
    groups = found["group"].to_pylist()
    assert groups[0] == groups[2] != groups[1]


def test_a_plain_text_is_a_source_without_a_target():
    found, faults = rows.from_source(source(text=["one", "two"], group=["g", "h"]), "a.txt")
    assert not faults
    assert found["source"].to_pylist() == ["one", "two"]
    assert found["target"].null_count == 2
    assert found["group"].to_pylist() == ["g", "h"]


def test_a_row_to_be_predicted_needs_no_target_and_shows_none():
    for given in (source(source=["a", "b"]), source(source=["a", "b"], target=["x", None])):
        found, faults = rows.from_source(given, "a.jsonl", answered=False)
        assert not faults
        assert found["target"].null_count == 2


@pytest.mark.parametrize(
    ("columns", "field", "reason"),
    [
        ({"source": ["a", "b"], "target": ["x", " \n"]}, "target", "the target is empty"),
        ({"source": ["a", "b"], "target": ["x", None]}, "target", "the target is empty"),
        ({"source": ["a", "b"], "target": ["x", "y\0"]}, "target", "the target holds a NUL character"),
        ({"source": ["a", ""], "target": ["x", "y"]}, "source", "the text is empty"),
        ({"text": ["a", None]}, "text", "the text is empty"),
        ({"source": ["a", "b"], "target": ["x", "y"], "id": ["1", "1"]}, "id", "the id is already that of line 1"),
        ({"source": ["a", "b"], "target": ["x", "y"], "split": ["train", "dev"]}, "split", "there is no such split"),
    ],
)
def test_a_bad_row_is_left_out_with_its_place_and_reason(columns, field, reason):
    found, faults = rows.from_source(source(**columns), "a.jsonl")
    assert found["source"].to_pylist() == ["a"]
    assert [(fault.row, fault.field, fault.reason) for fault in faults] == [("line 2", field, reason)]
    assert faults[0].remedy


def test_targets_stay_with_their_sources_when_rows_before_them_are_bad():
    given = source(source=["", "b", "c", "d"], target=["w", "", "y", "z"], id=["1", "2", "3", "4"])
    found, faults = rows.from_source(given, "a.jsonl")
    assert [(row["id"], row["source"], row["target"]) for row in found.to_pylist()] == [
        ("3", "c", "y"),
        ("4", "d", "z"),
    ]
    assert sorted((fault.row, fault.id) for fault in faults) == [("line 1", "1"), ("line 2", "2")]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"sources": ["a"], "target": ["x"]}, "there is no column 'source'"),
        ({"source": ["a"], "goal": ["x"]}, "there is no column 'target'"),
        ({"text": ["a"], "target": ["x"]}, "there is no column 'source' beside 'target'. Map it"),
        ({"body": ["a"]}, "no columns 'source' and 'target', and no 'text'"),
    ],
)
def test_a_missing_column_is_said(columns, says):
    with pytest.raises(InputError, match=says):
        rows.from_source(source(**columns), "a.csv")


def test_cleaning_leaves_rows_without_a_target_and_drops_those_whose_target_vanishes():
    made = [
        {"id": "1", "group": "a", "source": "a  b", "target": None},
        {"id": "2", "group": "b", "source": "c", "target": "d\u200b  e"},
        {"id": "3", "group": "c", "source": "f", "target": "\u200b"},
    ]
    cleaned = clean_rows(pa.Table.from_pylist(made, rows.SCHEMA), rows.TEXTS, Cleaning())
    assert cleaned.rows.select(["source", "target"]).to_pylist() == [
        {"source": "a b", "target": None},
        {"source": "c", "target": "d e"},
    ]
    assert cleaned.dropped.to_pylist() == [{"id": "3", "reason": "empty target"}]


def test_rows_are_the_same_only_where_source_and_target_are():
    made = [{"id": str(i), "group": "a", "source": "a", "target": t} for i, t in enumerate(["x", "y", "x", None])]
    hashes = tables.content_hash(pa.Table.from_pylist(made, rows.SCHEMA), list(rows.IDENTITY))
    assert hashes[0] == hashes[2]
    assert len(set(hashes.tolist())) == 3
