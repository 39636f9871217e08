"""Documents: one text a row, whatever else a source brings."""

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwright import sources
from trainwright.core.errors import InputError
from trainwright.core.params import Source
from trainwright.rows import documents, tables


def source(**columns):
    rows = len(next(iter(columns.values())))
    return pa.table({**columns, "place": [f"line {n + 1}" for n in range(rows)]})


def test_a_document_without_id_and_group_is_named_after_its_text_and_its_own_group():
    rows, faults = documents.from_source(source(text=["one", "two", "one"]), "a.jsonl")
    assert rows.drop_columns("place").schema == documents.SCHEMA
    assert not faults
    ids, groups = rows["id"].to_pylist(), rows["group"].to_pylist()
    assert ids == [groups[0], groups[1], f"{groups[0]}-2"]
    assert groups[0] == groups[2] != groups[1]


def test_ids_and_groups_of_the_source_are_kept_numbers_too():
    rows, _ = documents.from_source(source(text=["one", "two"], id=[7, 8], group=["book", "book"]), "a.jsonl")
    assert rows["id"].to_pylist() == ["7", "8"]
    assert rows["group"].to_pylist() == ["book", "book"]


@pytest.mark.parametrize(
    ("columns", "field", "reason"),
    [
        ({"text": ["a", " \t\n"]}, "text", "the text is empty"),
        ({"text": ["a", None]}, "text", "the text is empty"),
        ({"text": ["a", "b\0c"]}, "text", "the text holds a NUL character"),
        ({"text": ["a", "b"], "split": ["train", "dev"]}, "split", "there is no such split"),
        ({"text": ["a", "b"], "split": ["train", None]}, "split", "the split is missing, while other rows declare one"),
        ({"text": ["a", "b"], "id": ["x", "x"]}, "id", "the id is already that of line 1"),
    ],
)
def test_a_bad_row_is_left_out_with_its_row_field_and_reason(columns, field, reason):
    rows, faults = documents.from_source(source(**columns), "a.jsonl")
    assert rows["text"].to_pylist() == ["a"]
    assert [(f.file, f.row, f.field, f.reason) for f in faults] == [("a.jsonl", "line 2", field, reason)]
    assert faults[0].remedy


def test_a_value_that_the_reader_could_not_read_is_a_fault_of_its_row(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"text": 7}\n')
    table = sources.read(Source(uri="a.jsonl", format="jsonl"), tmp_path, documents.COLUMNS)
    rows, faults = documents.from_source(table, "a.jsonl")
    assert rows["text"].to_pylist() == ["good"]
    assert [(f.row, f.field, f.reason) for f in faults] == [("line 2", "text", "is a number, not text")]


def test_a_source_without_a_text_column_is_refused_with_the_nearest_name():
    with pytest.raises(InputError) as error:
        documents.from_source(source(texts=["a"]), "a.csv")
    assert "Did you mean `texts`?" in str(error.value)


@given(st.lists(st.text(alphabet="ab \n\0é中", max_size=4), min_size=1, max_size=12))
def test_every_row_is_a_row_or_a_fault_and_no_id_stands_twice(texts):
    rows, faults = documents.from_source(source(text=texts), "a")
    assert rows.num_rows + len(faults) == len(texts)
    assert len(set(rows["id"].to_pylist())) == rows.num_rows
    assert rows["text"].to_pylist() == [t for t in texts if t.strip() and "\0" not in t]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_the_plain_formats_give_the_same_documents(form, tmp_path):
    texts = ["A first one.", 'With "quotes", commas\nand lines.', "第三篇。"]
    path = tmp_path / f"a.{form}"
    table = pa.table({"text": texts})
    if form == "jsonl":
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    elif form == "csv":
        table.to_pandas().to_csv(path, index=False)
    else:
        tables.write(table, path)
    read = sources.read(Source(uri=path.name, format=form), tmp_path, documents.COLUMNS)
    rows, faults = documents.from_source(read, path.name)
    assert rows["text"].to_pylist() == texts
    assert not faults
    assert set(documents.stratum(rows).to_pylist()) == {"document"}
