"""Sources of JSON, archives and special files: what is read alike in every form, and what is refused in words."""

import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from trainwright import sources
from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Source, check_name
from trainwright.rows.tables import require_rows
from trainwright.sources import jsonl
from trainwright.tasks.classification import rows as classification
from trainwright.tasks.multiple_choice import rows as multiple_choice
from trainwright.tasks.qa import rows as qa

OBJECT = "the file is one JSON object over several lines"
ROWS = [{"text": f"Text {n}.", "label": "a"} for n in range(3)]


def table(folder: Path, task: Any = classification, **section: Any) -> pa.Table:
    return sources.read(Source.model_validate({"uri": ".", "format": "jsonl", **section}), folder, task.COLUMNS)


def read(
    folder: Path, content: str | bytes, task: Any = classification, name: str = "a.jsonl", **more: Any
) -> pa.Table:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return table(folder, task, uri=name, **more)


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def refused(call: Callable[[], Any]) -> Fault:
    with pytest.raises(InputError) as caught:
        call()
    return caught.value.faults[0]


# Types of columns


def test_a_batch_of_nulls_decides_no_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "BATCH", 2)
    answers = [{"text": "Bob", "answer_start": 0}]
    known = [{"context": "Bob", "question": "Who?", "answers": answers, "id": n} for n in range(3)]
    unknown = [{"context": "Bob", "question": "Who?", "answers": None, "id": None}] * 5
    found, faults = qa.from_source(read(tmp_path, lines([*unknown, *known, *unknown]), qa), "a.jsonl")
    assert found["answer_text"].to_pylist() == [["Bob"]] * 3
    assert found["id"].to_pylist() == ["0", "1", "2"]
    assert {fault.reason for fault in faults} == {"there is no answer, and nothing says that the question has none"}


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_file_of_nulls_or_without_a_column_decides_no_type(tmp_path: Path, form: str) -> None:
    parts = {
        "a": [{"text": "One.", "value": None, "group": None}],
        "b": [{"text": "Two.", "value": 1, "group": 7}],
        "c": [{"text": "Three."}],
        "d": [{"text": "Four.", "value": 1.5, "group": None}],
    }
    for name, rows in parts.items():
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
        else:
            (tmp_path / f"{name}.jsonl").write_text(lines(rows))
    found = table(tmp_path, format=form)
    assert found["value"].to_pylist() == [None, 1.0, None, 1.5]
    assert found["group"].to_pylist() == [None, 7, None, None]


def test_a_column_may_be_categorical_in_one_file_only(tmp_path: Path) -> None:
    encoded = pa.table({"text": pa.array(["One."]).dictionary_encode(), "label": ["a"]})
    for name, part in (("a", encoded), ("b", pa.table({"text": ["Two."], "label": ["b"]}))):
        pq.write_table(part, tmp_path / f"{name}.parquet")
    assert table(tmp_path, format="parquet")["text"].to_pylist() == ["One.", "Two."]


def test_a_column_that_is_null_everywhere_has_its_first_type(tmp_path: Path) -> None:
    found = read(tmp_path, lines([{"text": "a", "label": None}] * 3))
    assert found.schema.field("label").type == pa.string()


def test_files_of_different_types_are_refused_by_file_and_field(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines([{"text": "a", "label": "x"}]))
    (tmp_path / "b.jsonl").write_text(lines([{"text": "a", "label": 5}]))
    fault = refused(lambda: table(tmp_path))
    assert (fault.file, fault.field) == ("b.jsonl", "label")
    assert fault.reason == "the column holds a whole number here, and text in a.jsonl"


@pytest.mark.parametrize("labels", [[None, ["a", "b"]], [["b", "a"], ["a", "c"]]])
def test_lists_of_fixed_size_are_read_as_lists(tmp_path: Path, labels: list[Any]) -> None:
    column = pa.array(labels, pa.list_(pa.string(), 2))
    pq.write_table(pa.table({"text": ["x", "y"], "labels": column}), tmp_path / "a.parquet")
    found, faults = classification.from_source(table(tmp_path, format="parquet"), "a.parquet")
    assert found["labels"].to_pylist() == [sorted(row) for row in labels if row]
    assert [fault.row for fault in faults] == [f"row {n}" for n, row in enumerate(labels, start=1) if not row]


# Documents of JSON


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("document", [ROWS, {"version": [1], "data": ROWS, "more": {}}])
@pytest.mark.parametrize("before", ["", "\ufeff", "\n \n"])
def test_an_array_of_records_is_read_as_lines_are(
    tmp_path: Path, document: Any, indent: int | None, before: str
) -> None:
    content = before + json.dumps(document, indent=indent) + "\n"
    found = read(tmp_path, content)
    assert found.select(["text", "label"]).to_pylist() == ROWS
    places = found["place"].to_pylist()
    if indent is None:
        assert places == ["record 1", "record 2", "record 3"]
    else:
        listed = content.split("\n")
        starts = [int(place.removeprefix("line ")) for place in places]
        assert ["".join(listed[at - 1 : at + 1]).split() for at in starts] == [
            ["{", '"text":', '"Text', f'{n}.",'] for n in range(3)
        ]


@pytest.mark.parametrize(
    ("content", "row", "reason"),
    [
        ('{\n "text": "a",\n "rows": []\n}', "line 1", f"{OBJECT}, with the keys 'text', 'rows'"),
        ('\n{\n "data": {}\n}', "line 2", f"{OBJECT}, with the keys 'data'"),
        ('[{"text": "a"},\n 5]', "line 2, column 2", "here stands a number, not an object"),
        ('[{"text": "a"}\n {"text": "a"}]', "line 2, column 2", "not JSON: Expecting ',' delimiter"),
        ('[{"text": "a"},\n]', "line 2, column 1", "not JSON: a comma before ]"),
        ('[{"text": "a"}]\n]', "line 2, column 1", "not JSON: text after the array"),
        ('[\n{"text": "a"},\n{"text": }]', "line 3, column 10", "not JSON: Expecting value"),
        ('[\n{"text": "a", "text": "b"}]', "line 2, column 1", "the key 'text' stands twice"),
        ("[" * 100_000, "line 1", "nested too deeply"),
    ],
)  # fmt: skip
def test_a_document_that_is_no_records_is_refused_by_place(tmp_path: Path, content: str, row: str, reason: str) -> None:
    fault = refused(lambda: read(tmp_path, content))
    assert fault.row == row
    assert fault.reason.startswith(reason)


# Values


@pytest.mark.parametrize("start", [True, 2**63 - 1, 2**63, 10**400, -(2**63) - 1])
@pytest.mark.parametrize("nested", [True, False])
def test_a_start_that_is_no_place_is_an_error_of_its_row(tmp_path: Path, start: Any, nested: bool) -> None:
    answer = {"text": "Bob", "answer_start": start}
    bad: dict[str, Any] = {"answers": [answer]} if nested else {"answer": "Bob", "answer_start": start}
    good: dict[str, Any] = (
        {"answers": [{**answer, "answer_start": 0}]} if nested else {"answer": "Bob", "answer_start": 0}
    )
    content = lines([{"context": "Bob", "question": f"{n}?", **row} for n, row in enumerate((good, bad))])
    found, faults = qa.from_source(read(tmp_path, content, qa), "a.jsonl")
    assert (found.num_rows, [fault.row for fault in faults]) == (1, ["line 2"])
    assert faults[0].field in ("answers", "answer_start")


@pytest.mark.parametrize("answers", [[[]], [None], [[1]], [{"text": ["a"]}], True])
def test_answers_of_another_form_are_an_error_of_their_row(tmp_path: Path, answers: Any) -> None:
    content = lines([{"context": "Bob", "question": "Who?", "answers": answers}])
    found, faults = qa.from_source(read(tmp_path, content, qa), "a.jsonl")
    assert (found.num_rows, [(fault.row, fault.field) for fault in faults]) == (0, [("line 1", "answers")])


def test_truth_values_in_a_list_are_no_labels(tmp_path: Path) -> None:
    content = lines([{"text": "a", "labels": ["x"]}, {"text": "b", "labels": [True]}])
    _, faults = classification.from_source(read(tmp_path, content), "a.jsonl")
    assert [(fault.row, fault.field, fault.reason) for fault in faults] == [
        ("line 2", "labels", "does not have the form [text, …]")
    ]
    only, (fault,) = classification.from_source(read(tmp_path, lines([{"text": "b", "labels": [True]}])), "a.jsonl")
    assert (only.num_rows, fault.field) == (0, "labels")


@pytest.mark.parametrize("column", ["choices", "answer_text", "question"])
def test_categorical_columns_of_choices_are_read(tmp_path: Path, column: str) -> None:
    whole = pa.table({"question": ["Which?"], "choices": ["a|b"], "answer_text": ["b"]})
    at = whole.column_names.index(column)
    pq.write_table(whole.set_column(at, column, whole.column(at).dictionary_encode()), tmp_path / "a.parquet")
    if column == "choices":  # a separator parts text, not categories
        found = table(tmp_path, multiple_choice, format="parquet")
        assert refused(lambda: multiple_choice.from_source(found, "a")).field == "choices"
    else:
        found = table(tmp_path, multiple_choice, format="parquet", separator="|")
        assert multiple_choice.from_source(found, "a")[0]["answer"].to_pylist() == [1]


def test_a_column_longer_than_arrow_reaches_is_refused_by_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LONGEST", 1000)
    fault = refused(lambda: read(tmp_path, lines([{"text": "a" * 300, "label": "x"}] * 4)))
    assert (fault.file, fault.field) == ("a.jsonl", "text")
    assert "can be read" in fault.reason


# Archives and special files


def zipped(content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("a.txt", content)
    return out.getvalue()


@pytest.mark.parametrize("pack", [gzip.compress, zipped])
def test_an_archive_that_unpacks_to_too_much_names_the_setting(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    content = pack(lines(ROWS).encode() + b" " * 3_000_000)
    fault = refused(lambda: read(tmp_path, content, max_unpacked_gb=0.002))
    assert (fault.reason, fault.field) == ("it unpacks to more than 0.002 GB", "source.max_unpacked_gb")
    assert read(tmp_path, content, max_unpacked_gb=0.004).num_rows == 3


def test_a_parquet_file_that_unpacks_to_too_much_names_the_setting(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a" * 1000] * 3000, "label": ["x"] * 3000}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    fault = refused(lambda: table(tmp_path, format="parquet", max_unpacked_gb=0.002))
    assert fault.field == "source.max_unpacked_gb"
    assert table(tmp_path, format="parquet").num_rows == 3000


def test_a_zip_file_that_is_damaged_is_refused(tmp_path: Path) -> None:
    sound = zipped(lines(ROWS).encode(), zipfile.ZIP_LZMA)
    read(tmp_path, sound)
    for at in range(4, len(sound)):
        try:
            read(tmp_path, sound[:at] + bytes([sound[at] ^ 0xFF]) + sound[at + 1 :])
        except InputError:
            continue


@pytest.mark.parametrize("name", ["a.jsonl", "."])
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    fault = refused(lambda: table(tmp_path, uri=name))
    assert (fault.file, fault.reason) == ("a.jsonl", "it is a pipe (FIFO), not a file")


def test_a_device_is_refused() -> None:
    assert refused(lambda: table(Path("/"), uri="dev/zero")).reason == "it is a device, not a file"


def test_a_file_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jsonl")).write_text(lines(ROWS))
    fault = refused(lambda: table(tmp_path))
    assert (fault.file, fault.reason) == ("caf\\xe9.jsonl", "the name of the file is not UTF-8")


def test_one_file_for_two_splits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(ROWS))
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    for other in ("a.jsonl", "b.jsonl", "../" + tmp_path.name + "/a.jsonl"):
        fault = refused(lambda other=other: table(tmp_path, splits={"train": "a.jsonl", "test": other}))  # type: ignore[misc]
        assert (fault.file, fault.reason) == (other, "the splits train and test are one file")


# Names and settings


def test_names_that_no_file_system_has_are_refused() -> None:
    with pytest.raises(ValueError, match="has 300 characters; 64 are allowed"):
        check_name("a" * 300)
    check_name("a" * 64)
    for section in ({"uri": "a" * 300}, {"uri": "é" * 128}, {"uri": ".", "splits": {"train": "a" * 300}}):
        with pytest.raises(ValidationError, match="255 bytes at most"):
            Source.model_validate({"format": "csv", **section})
    Source(uri="/".join(["a" * 255] * 3), format="csv")


def test_each_line_of_a_text_may_be_a_document(tmp_path: Path) -> None:
    content = "One.\r\n\n  Two. \n \t\nThree."
    found = read(tmp_path, content, name="a.txt", format="text", documents="lines")
    assert found["text"].to_pylist() == ["One.", "Two.", "Three."]
    assert found["place"].to_pylist() == ["line 1", "line 3", "line 5"]
    for wrong in ({"format": "csv"}, {"format": "text", "stream": {}}):
        with pytest.raises(ValidationError, match="is for format: text without `stream`"):
            Source.model_validate({"uri": "a", "documents": "lines", **wrong})


def test_too_few_documents_name_the_setting_that_parts_them() -> None:
    fault = refused(lambda: require_rows(1, 1, Source(uri="a.txt", format="text")))
    assert fault.reason == "only 1 row of it can be used"
    assert "Blank lines part documents" in fault.remedy
    assert "source.documents: lines" in fault.remedy
    for other in (Source(uri="a.txt", format="text", documents="lines"), Source(uri="a.csv", format="csv")):
        assert "source.documents" not in refused(lambda other=other: require_rows(1, 1, other)).remedy  # type: ignore[misc]
