"""The rows of a file to be predicted: read as the source was, numbered as the file has them, clean."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainwright.core import tasks
from trainwright.core.errors import InputError
from trainwright.core.params import Cleaning
from trainwright.engine import asked
from trainwright.report.publish import reading

PIN = {
    "uri": "data/mine.txt", "format": "csv", "columns": {"text": "satz", "label": ["art"], "id": "nr"},
    "header": ["nr", "art", "satz"], "delimiter": ";", "quoted": False, "separator": None, "splits": {},
    "files": [{"path": "data/mine.txt"}, {"path": "more.csv.gz"}],
}  # fmt: skip


def read(path: Path, text: str, options: dict[str, Any], task: str = "classification", **wish: Any) -> asked.Asked:
    path.write_text(text, encoding="utf-8")
    return asked.read(tasks.load(task, "rows"), path, options, asked.Wish(**wish), Cleaning())


def test_what_is_stored_of_a_source_says_how_it_is_read_and_not_where_it_is() -> None:
    stored = reading(PIN)
    assert stored["suffixes"] == [".csv.gz", ".txt"]
    assert (stored["columns"], stored["delimiter"], stored["quoted"]) == (PIN["columns"], ";", False)
    assert not {"uri", "files", "splits", "revision", "licence"} & {*stored}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("in.txt", '7;x;a "word\n8;y;b\n'),
        ("in.csv", '7;x;a "word\n8;y;b\n'),
        ("in.data", '7;x;a "word\n8;y;b\n'),
        ("in.csv", '7;a "word\n8;b\n'),
        ("in.csv", 'nr;satz\n7;a "word\n8;b\n'),
        ("in.tsv", 'nr\tsatz\n7\ta "word\n8\tb\n'),
        ("in.jsonl", '{"id": "7", "text": "a \\"word"}\n{"id": "8", "text": "b"}\n'),
        ("in.json", '[{"nr": "7", "satz": "a \\"word"}, {"nr": "8", "satz": "b"}]'),
    ],
    ids=["as trained", "by name", "no form", "no labels", "own header", "tsv", "our names", "array"],
)
def test_a_file_is_read_as_the_source_was_and_files_of_other_formats_as_such(
    name: str, text: str, tmp_path: Path
) -> None:
    found = read(tmp_path / name, text, reading(PIN))
    assert found.rows["text"].to_pylist() == ['a "word', "b"]
    assert (found.ids, found.faults) == (["7", "8"], {})


def test_what_a_person_says_goes_before_what_is_stored(tmp_path: Path) -> None:
    text = "one|two\na|b\n"
    found = read(tmp_path / "in.dat", text, reading(PIN), columns=("text=two",), header=("one", "two"), delimiter="|")
    assert found.rows["text"].to_pylist() == ["b"]
    found = read(tmp_path / "in.dat", '{"t": "a"}\n', {}, format="jsonl", columns=("text=t",))
    assert found.rows["text"].to_pylist() == ["a"]
    quoted = read(tmp_path / "in.csv", '1;x;"a"\n', reading(PIN), quoted=True)
    assert quoted.rows["text"].to_pylist() == ["a"]
    lines = {"format": "text", "documents": "lines", "suffixes": [".txt"]}
    for options, wish, count in ((lines, {}, 2), ({}, {}, 1), (lines, {"documents": "blank-lines"}, 1)):
        assert len(read(tmp_path / "in.txt", "a\nb\n", options, "mlm", **wish).places) == count


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"columns": ("txt=two",)}, r"reads no column 'txt'\. Did you mean `text`"),
        ({"columns": ("label=two",)}, "reads no column 'label'"),
        ({"columns": ("text=three",)}, r"field '--column text': there is no column 'three'"),
        ({"delimiter": "ab"}, "one character"),
        ({}, r"--column text=THE_COLUMN"),
    ],
)
def test_what_cannot_be_read_so_is_said_in_words_of_the_command_line(
    wish: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path / "in.csv", "one,two\na,b\n", {}, **wish)


def test_a_stray_quote_that_swallows_lines_is_refused_with_the_flag_that_mends_it(tmp_path: Path) -> None:
    lines = ["text,more", *(f"row {n},x" for n in range(60))]
    lines[9], lines[19] = 'row 8,"x', 'row 18,x"'
    with pytest.raises(InputError, match="--quoted false"):
        read(tmp_path / "in.csv", "\n".join(lines) + "\n", {})
    assert len(read(tmp_path / "in.csv", "\n".join(lines) + "\n", {}, quoted=False).places) == 60


def test_rows_keep_the_order_of_the_file_their_places_and_their_own_ids(tmp_path: Path) -> None:
    rows = [("a", "one", "Who?"), ("a", "two", "Who?"), ("", "one", "Where?"), ("b", "  ", "Who?"), ("c", "two", "?")]
    lines = ["id,context,question", *(",".join(row) for row in rows)]
    found = read(tmp_path / "in.csv", "\n".join(lines) + "\n", {}, "qa")
    assert found.rows["id"].to_pylist() == ["1", "2", "3", "5"]
    assert found.rows["context"].to_pylist() == ["one", "two", "one", "two"]
    assert found.ids == ["a", "a", None, "b", "c"]
    assert [(n, fault.row, fault.id, fault.reason) for n, fault in found.faults.items()] == [
        (4, "line 5", "b", "the context is empty")
    ]


def test_texts_are_cleaned_and_those_of_which_nothing_is_left_are_named(tmp_path: Path) -> None:
    texts = ["Zu\u0308rich  am\u200b See", "\u200b", "plain"]
    found = read(tmp_path / "in.jsonl", "".join(json.dumps({"text": t}) + "\n" for t in texts), {}, "ner")
    assert found.rows["text"].to_pylist() == ["Zürich am See", "plain"]
    assert found.texts.to_pylist() == [texts[0], "plain"]
    ((number, fault),) = found.faults.items()
    assert (number, fault.row, fault.reason) == (2, "line 2", "once it is cleaned, the row has an empty text")


def test_texts_go_before_the_tokens_that_a_tool_has_written_beside_them(tmp_path: Path) -> None:
    row = {"text": "Ada in Rom", "tokens": [{"text": "Ada", "start": 0}], "spans": [{"start": 0, "end": 3}]}
    found = read(tmp_path / "in.jsonl", json.dumps(row) + "\n", {}, "ner")
    assert (found.rows["text"].to_pylist(), found.faults) == (["Ada in Rom"], {})


@pytest.mark.parametrize("task", ["classification", "ner", "qa", "mlm", "clm", "seq2seq"])
def test_a_file_without_any_sound_row_names_them_all(task: str, tmp_path: Path) -> None:
    lines = ["text,source,context,question", " , , , ", "\u200b,\u200b,\u200b,\u200b"]
    found = read(tmp_path / "in.csv", "\n".join(lines) + "\n", {}, task)
    assert (found.rows.num_rows, {*found.faults}) == (0, {1, 2})
