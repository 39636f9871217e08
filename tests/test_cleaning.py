"""Cleaning mends texts, moves answers along and says which rows it dropped and why."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stages.cleaning import cleaning, stream
from trainwright import sources
from trainwright.core import tasks
from trainwright.core.params import Cleaning, Source
from trainwright.rows import tables
from trainwright.rows.columns import Text
from trainwright.text.cleaning import _normalized, clean_text
from trainwright.text.duplicates import preference, repeated

QA = tasks.load("qa", "rows")
ALL = Cleaning()


def qa_rows(*records: dict[str, Any]) -> pa.Table:
    """Rows of question answering; `answers` are texts, found in the context."""
    made = []
    for i, record in enumerate(records):
        context, answers = record["context"], record.get("answers", [])
        made.append(
            {
                "id": record.get("id", f"r{i}"),
                "group": record.get("group", "g"),
                "split": record.get("split"),
                "parent": None,
                "title": "t",
                "context": context,
                "question": record.get("question", f"Question {i}?"),
                "answer_start": [context.index(a) for a in answers],
                "answer_text": answers,
            }
        )
    return pa.Table.from_pylist(made, schema=QA.SCHEMA)


def dropped(cleaned: Any) -> dict[str, str]:
    return dict(zip(cleaned.dropped["id"].to_pylist(), cleaned.dropped["reason"].to_pylist(), strict=True))


def assert_spans_hold(rows: pa.Table) -> None:
    for row in rows.to_pylist():
        for start, text in zip(row["answer_start"], row["answer_text"], strict=True):
            assert row["context"][start : start + len(text)] == text
            assert text


class Choosing:
    """A task with a text that may be empty and a list of texts."""

    TEXTS = (Text("context", optional=True), Text("choices"))
    IDENTITY = ("context", "choices")
    GOLD: tuple[str, ...] = ()


def test_a_list_of_texts_is_cleaned_one_by_one_and_a_row_with_an_empty_one_is_dropped() -> None:
    texts = [("", ["cafÃ©", " tea "]), ("so  what", []), ("x", ["tea", "\u200b"]), ("y", ["tea", "cafÃ©", "milk"])]
    columns = {"id": list("abcd"), "split": pa.nulls(4, pa.string()), "context": [context for context, _ in texts]}
    rows = pa.table({**columns, "choices": pa.array([choices for _, choices in texts], pa.list_(pa.string()))})
    cleaned = cleaning(rows, ALL, Choosing)
    assert cleaned.rows["choices"].to_pylist() == [["café", "tea"], [], ["tea", "café", "milk"]]
    assert cleaned.rows["context"].to_pylist() == ["", "so what", "y"]
    assert dropped(cleaned) == {"c": "empty choices"}


def test_an_answer_after_mended_mojibake_is_cut_anew_at_its_new_place() -> None:
    rows = qa_rows({"context": "  MichÃ¨le  lives in  OrlÃ©ans.", "answers": ["OrlÃ©ans", "MichÃ¨le"]})
    cleaned = cleaning(rows, ALL, QA).rows
    assert cleaned["context"].to_pylist() == ["Michèle lives in Orléans."]
    assert cleaned["answer_text"].to_pylist() == [["Orléans", "Michèle"]]
    assert cleaned["answer_start"].to_pylist() == [[17, 0]]


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("sÃ³lo â€œaquÃ\xadâ€\x9d", "sólo “aquí”"),
        ("voilÃ  le travail", "voilà le travail"),
        ("Cafe\u0301 de la Paix", "Café de la Paix"),
        ("\ufeffBOM and ze\u200bro width", "BOM and zero width"),
        ("soft\u00adhyphen \u202eabc\u202c", "softhyphen abc"),
        ("tab\there\x0bthere\u00a0now", "tab here there now"),
        ("bell\x07 and nul\x00.", "bell and nul."),
        ("line\r\nline\n \n\n\npara", "line\nline\n\npara"),
        ("\u1112\u1161\u11ab\u1100\u1173\u11af", "한글"),
        (" \n", ""),
    ],
)
def test_a_dirty_text_becomes_clean(dirty: str, clean: str) -> None:
    assert clean_text(dirty, ALL).text == clean


@pytest.mark.parametrize(
    "text",
    [
        "👩\u200d🚀 and ❤️\u200d🔥 and 👨🏽\u200d⚕️",  # emoji made of several
        "می\u200cخواهم",  # Persian
        "क्\u200dष and क्\u200cष",  # Hindi
        "Ångström, Søren Sørensen, São Paulo, Łódź, 北京, Москва",
        "He said “naïve façade” – twice…",
        "verse\nverse\n\nparagraph",
    ],
)
def test_a_text_that_is_right_stays_as_it_is(text: str) -> None:
    assert clean_text(text, ALL).layers == ()


def test_each_kind_of_cleaning_can_be_left_out() -> None:
    nothing = Cleaning(mojibake=False, unicode_form="none", control_characters=False, whitespace=False)
    text = " sÃ³ \x07 e\u0301  "
    assert clean_text(text, nothing).text == text
    assert clean_text(text, nothing.model_copy(update={"unicode_form": "NFC"})).text == " sÃ³ \x07 é  "
    assert clean_text(text, nothing.model_copy(update={"whitespace": True})).text == "sÃ³ \x07 e\u0301"
    assert clean_text("ﬁne x²", nothing.model_copy(update={"unicode_form": "NFKC"})).text == "fine x2"


marks = st.text(
    alphabet="aeq\u0301\u0323\u0307ÅA\u030a\u1100\u1161\u11a8\uac00\u0dd9\u0dcf\u0dca\uff9eｶﬁ²\u0344\u0f71\u0f72",
    max_size=12,
)


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
@given(text=st.one_of(marks, st.text(max_size=12)))
@example(text="\u1100\u1161\u11a8")
def test_normalizing_by_segments_is_normalizing_the_whole(form: Any, text: str) -> None:
    alone = Cleaning(mojibake=False, unicode_form=form, control_characters=False, whitespace=False)
    assert clean_text(text, alone).text == unicodedata.normalize(form, text)


@given(st.text(alphabet="ab \n\t\x00\x85\u00a0\u2029\u200b\u200de\u0301é", max_size=20))
def test_cleaning_what_is_clean_changes_nothing(text: str) -> None:
    once = clean_text(text, ALL).text
    assert clean_text(once, ALL).text == once


@given(st.text(alphabet="ab \n\tÃ©\x00\u200be\u0301", min_size=1, max_size=12))
def test_a_span_of_a_clean_text_is_one_of_the_text_that_it_was(text: str) -> None:
    edited = clean_text(text, Cleaning())
    size = len(edited.text)
    for start, end in [(a, b) for a in range(size) for b in range(a + 1, size + 1)]:
        begin, stop = (int(place[0]) for place in edited.map_back([start], [end]))
        assert text[begin:stop] != ""
        again = [int(place[0]) for place in edited.map([begin], [stop])]
        assert again[0] <= start < end <= again[1]
        if edited.text[start:end].isascii() and edited.text[start:end].isalpha():
            assert text[begin:stop].replace("\x00", "").replace("\u200b", "") == edited.text[start:end]


@given(st.text(alphabet="ab \n\tÃ©\x00\u200be\u0301", max_size=20), st.data())
def test_every_kept_span_lies_in_its_clean_context(context: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(context)))
    end = data.draw(st.integers(start, len(context)))
    rows = qa_rows({"context": context})
    rows = rows.set_column(7, QA.SCHEMA.field(7), pa.array([[start]], QA.SCHEMA.field(7).type))
    rows = rows.set_column(8, QA.SCHEMA.field(8), pa.array([[context[start:end]]], QA.SCHEMA.field(8).type))
    cleaned = cleaning(rows, ALL, QA)
    assert cleaned.rows.num_rows + cleaned.dropped.num_rows == 1
    for row in cleaned.rows.to_pylist():
        (place,), (text,) = row["answer_start"], row["answer_text"]
        assert row["context"][place : place + len(text)] == text


def test_rows_that_lose_their_answer_or_their_text_are_dropped_with_the_reason() -> None:
    rows = qa_rows(
        {"id": "kept", "context": "Iron\u200b rusts.", "answers": ["Iron"]},
        {"id": "vanished", "context": "Iron\u200b rusts.", "answers": ["\u200b"]},
        {"id": "silent", "context": "Iron rusts.", "question": "\u200b \x00"},
        {"id": "void", "context": "\ufeff \n"},
    )
    cleaned = cleaning(rows, ALL, QA)
    assert cleaned.rows["id"].to_pylist() == ["kept"]
    assert dropped(cleaned) == {"vanished": "lost answer_text", "silent": "empty question", "void": "empty context"}
    assert_spans_hold(cleaned.rows)


def test_texts_that_are_empty_are_dropped_even_when_whitespace_is_left_alone() -> None:
    rows = qa_rows({"id": "kept", "context": " Iron "}, {"id": "blank", "context": " \u00a0 "})
    assert dropped(cleaning(rows, Cleaning(whitespace=False), QA)) == {"blank": "empty context"}


def test_the_first_of_rows_that_become_equal_stays() -> None:
    rows = qa_rows(
        {"id": "a", "context": "Iron rusts.", "question": "What rusts?"},
        {"id": "b", "context": "Iron  rusts. ", "question": "What\trusts?"},
        {"id": "c", "context": "Iron rusts.", "question": "What does?"},
    )
    cleaned = cleaning(rows, ALL, QA)
    assert cleaned.rows["id"].to_pylist() == ["a", "c"]
    assert dropped(cleaned) == {"b": "duplicate"}
    assert cleaning(rows, Cleaning(duplicates=False), QA).rows.num_rows == 3


ONE = {"text": "It floats.", "label": "wood"}
SAID_TWICE = [  # of every task that has gold: a row, and what else could be said of it
    ("classification", ONE, {**ONE, "label": "cork"}),
    ("classification", {"text": "a", "labels": ["x", "y"]}, {"text": "a", "labels": ["x"]}),
    ("classification", {"text": "a", "value": 1.0}, {"text": "a", "value": 2.0}),
    (
        "ner",
        {"text": "Ada left.", "spans": [{"start": 0, "end": 3, "label": "PER"}]},
        {"text": "Ada left.", "spans": [{"start": 0, "end": 3, "label": "ORG"}]},
    ),
    (
        "multiple_choice",
        {"question": "Which?", "choices": ["this", "that"], "answer": 0},
        {"question": "Which?", "choices": ["this", "that"], "answer": 1},
    ),
    (
        "qa",
        {"context": "Ada met Bo.", "question": "Who?", "answer": "Ada"},
        {"context": "Ada met Bo.", "question": "Who?", "answer": "Bo"},
    ),
]


@pytest.mark.parametrize(("task", "one", "other"), SAID_TWICE)
def test_a_duplicate_of_which_something_else_is_said_is_named_apart(task, one, other, tmp_path: Path) -> None:
    lines = [json.dumps({**row, "id": str(n)}) + "\n" for n, row in enumerate((one, one, other))]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    part = tasks.load(task, "rows")
    table = sources.read(Source(uri="a.jsonl", format="jsonl"), tmp_path, part.COLUMNS)
    rows, faults = part.from_source(table, "a.jsonl")
    assert not faults
    rows = rows.drop_columns("place")
    expected = {"1": "duplicate", "2": "duplicate that says otherwise"}
    assert dropped(cleaning(rows, ALL, part)) == expected
    (tmp_path / "out").mkdir()
    stream((rows.slice(i, 1) for i in range(3)), ALL, part, tmp_path / "out")
    found = tables.read(tmp_path / "out" / "dropped.parquet").to_pylist()
    assert {row["id"]: row["reason"] for row in found} == expected


def test_a_test_row_never_loses_to_a_training_row() -> None:
    same = {"context": "Iron rusts.", "question": "What rusts?"}
    rows = qa_rows(*[{"id": str(s), "split": s, **same} for s in (None, "train", "validation", "test", "test")])
    assert cleaning(rows, ALL, QA).rows["split"].to_pylist() == ["test"]
    assert cleaning(rows.slice(0, 3), ALL, QA).rows["split"].to_pylist() == ["validation"]
    assert cleaning(rows.slice(0, 2), ALL, QA).rows["split"].to_pylist() == ["train"]


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["test", "validation", "train", None])), max_size=20))
def test_one_row_of_each_identity_stays(rows: list[tuple[int, str | None]]) -> None:
    identities = np.array([identity for identity, _ in rows], dtype=np.uint64)
    reasons = repeated(identities, preference(pa.chunked_array([[s for _, s in rows]], pa.string())), identities)
    kept = identities[reasons == ""].tolist()
    assert sorted(kept) == sorted(set(identities.tolist()))


def test_a_table_in_batches_is_cleaned_as_the_whole_is(tmp_path: Path) -> None:
    same = {"context": "Iron  rusts.", "question": "What rusts?"}
    rows = qa_rows(
        {"id": "a", "split": "train", **same},
        {"id": "b", "context": "Gold\u200b does not.", "answers": ["Gold"]},
        {"id": "c", "split": "test", **same},
        {"id": "d", "context": " "},
    )
    whole = cleaning(rows, ALL, QA)
    stream((rows.slice(i, 1) for i in range(rows.num_rows)), ALL, QA, tmp_path)
    assert tables.read(tmp_path / "rows.parquet").equals(whole.rows)
    assert dict(tables.read(tmp_path / "dropped.parquet").to_pylist()[0]) == {"id": "d", "reason": "empty context"}
    assert {r["id"] for r in tables.read(tmp_path / "dropped.parquet").to_pylist()} == set(dropped(whole))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dropped.parquet", "rows.parquet"]


def test_clean_rows_come_back_untouched_and_a_table_without_rows_stays_a_table() -> None:
    rows = qa_rows({"context": "Iron rusts.", "answers": ["Iron"]})
    assert cleaning(rows, ALL, QA).rows.equals(rows)
    assert cleaning(rows.slice(0, 0), ALL, QA).rows.num_rows == 0


def test_many_alternating_marks_are_normalized_in_linear_work():
    marks = 150_000
    cleaned = clean_text("a" + "\u0301\u0316" * marks + " b", Cleaning()).text
    assert cleaned == "\u00e1" + "\u0316" * marks + "\u0301" * (marks - 1) + " b"


@given(st.lists(st.sampled_from([*"ae\u0301\u0316\u0327\u0345\u1161\u1100\u09be\u0344\u0958\ufb01"]), min_size=60))
def test_long_runs_of_marks_have_the_normal_form_of_unicode(characters):
    text = "".join(characters)
    for form in ("NFC", "NFKC"):
        assert _normalized(text, form) == unicodedata.normalize(form, text)
