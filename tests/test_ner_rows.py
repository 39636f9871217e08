"""Texts and spans from sources: CoNLL files and their schemes, spans in JSON Lines, what is wrong with a row said."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright import sources
from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Cleaning, Source
from trainwright.sources import hub
from trainwright.tasks.ner import rows as part
from trainwright.text.augmentation import children
from trainwright.text.cleaning import clean_rows

CORPORA = Path(os.environ.get("TRAINWRIGHT_CORPORA", "no-corpora"))


def load(path: Path, answered: bool = True, **more: str) -> tuple[list[dict], list[Fault]]:
    form = {".conll": "conll", ".jsonl": "jsonl"}[path.suffix]
    source = Source(uri=path.name, format=form, **more)
    table, faults = part.from_source(sources.read(source, path.parent, part.COLUMNS), path.name, answered)
    return table.to_pylist(), faults


def conll(tmp_path: Path, text: str, **more: str) -> tuple[list[dict], list[Fault]]:
    (tmp_path / "in.conll").write_text(text, encoding="utf-8")
    return load(tmp_path / "in.conll", **more)


def jsonl(tmp_path: Path, *objects: dict, **more: bool) -> tuple[list[dict], list[Fault]]:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in objects), encoding="utf-8")
    return load(tmp_path / "in.jsonl", **more)


def entities(row: dict) -> list[tuple[str, str]]:
    return list(zip(row["span_text"], row["span_label"], strict=True))


def test_tokens_are_joined_and_where_each_stands_is_kept(tmp_path):
    (row,), faults = conll(tmp_path, "Ada\tB-PER\nBerg\tI-PER\nleft\tO\nOslo\tB-LOC\n.\tO\n\n")
    assert not faults
    assert row["text"] == "Ada Berg left Oslo ."
    assert (row["span_start"], entities(row)) == ([0, 14], [("Ada Berg", "PER"), ("Oslo", "LOC")])
    starts_ends = zip(row["token_start"], row["token_end"], strict=True)
    assert [row["text"][a:b] for a, b in starts_ends] == ["Ada", "Berg", "left", "Oslo", "."]


def test_chinese_characters_are_joined_without_spaces_and_latin_words_between_them_with(tmp_path):
    (row,), _ = conll(
        tmp_path, "".join(f"{c}\t{t}\n" for c, t in zip("李明在iPad", ["B-PER", "I-PER", *"OOOOO"], strict=True))
    )
    assert (row["text"], entities(row)) == ("李明在iPad", [("李明", "PER")])
    (row,), _ = conll(
        tmp_path,
        "李明\tB-PER\n用\tO\nApple\tB-ORG\nWatch\tO\n跑步\tO\n",
    )
    assert (row["text"], entities(row)) == ("李明用 Apple Watch 跑步", [("李明", "PER"), ("Apple", "ORG")])


@pytest.mark.parametrize(
    ("tags", "scheme", "expected"),
    [
        ("B-X I-X B-X O", "auto", ["a b", "c"]),
        ("I-X I-X B-X O", "auto", ["a b", "c"]),  # IOB1: a B- parts what touches
        ("I-X O I-Y I-Y", "auto", ["a", "c d"]),
        ("B-X E-X S-X S-Y", "auto", ["a b", "c", "d"]),
        ("B-X I-X L-X U-Y", "auto", ["a b c", "d"]),  # BILOU
        ("B-X O I-X I-Y", "repair", ["a", "c", "d"]),
        ("B-X I-X I-Y I-Y", "iob1", ["a b", "c d"]),
    ],
)
def test_every_scheme_of_tags_gives_its_entities(tmp_path, tags, scheme, expected):
    lines = "".join(f"{word} {tag}\n" for word, tag in zip("abcd", tags.split(), strict=True)).replace("a ", "a ")
    lines += "\nlonger O\nwords O\nso O\nthat O\nspaces O\njoin O\n"
    found, faults = conll(tmp_path, lines, tags=scheme)
    assert not faults
    assert found[0]["span_text"] == expected


def test_one_stray_tab_does_not_make_a_file_of_spaces_one_of_tabs(tmp_path):
    found, faults = conll(tmp_path, "longer B-X\nwords\tO\n\nthat O\njoin O\n")
    assert ([row["text"] for row in found], faults) == (["longer words", "that join"], [])


def test_spans_in_a_csv_file_are_said_to_be_what_it_cannot_hold(tmp_path):
    (tmp_path / "in.csv").write_text('text,spans\na,"[]"\n')
    table = sources.read(Source(uri="in.csv", format="csv"), tmp_path, part.COLUMNS)
    with pytest.raises(InputError, match=r"'spans' beside 'text'.*which no CSV file holds: bring JSON Lines"):
        part.from_source(table, "in.csv")


def test_white_space_around_a_tag_makes_no_kind_of_its_own(tmp_path):
    (row,), _ = jsonl(tmp_path, {"tokens": ["a", "b", "c"], "tags": ["B-X ", "B- X", " O"]})
    assert entities(row) == [("a", "X"), ("b", "X")]


def test_documents_are_groups_and_sentences_without_any_are_their_own(tmp_path):
    found, _ = conll(tmp_path, "-DOCSTART- O\n\nOne O\n\nTwo O\n\n-DOCSTART- -X-\n\nThree O\n")
    assert [row["group"] for row in found] == ["in.conll, document 1"] * 2 + ["in.conll, document 2"]
    found, _ = conll(tmp_path, "One O\n\nTwo O\n")
    assert len({row["group"] for row in found}) == 2


@pytest.mark.parametrize(
    ("lines", "row", "field", "reason"),
    [
        ("good O\n\nAda\tB-PER\textra\nx\tO\n", "line 3", "tokens", "line 3 has 3 columns, and other lines have 2"),
        ("good O\n\nAda B-P\x1bER\n", "line 3", "tags", "holds the character U+001B"),
        ("good O\n\nAda B-PER\x0b\n", "line 3", "tags", "holds the character U+000B"),
        ("good\tO\n\nx\tO\n\tO\n", "line 3", "tokens", "line 4 has no token"),
        ("good O\n\nis O\nAda\n", "line 3", "tags", "a token has no tag (token 2)"),
        ("good O\n\nAda PER\n", "line 3", "tags", "'PER' is not a tag (token 1)"),
        ("good O\n\nAda B-\n", "line 3", "tags", "'B-' is not a tag"),
        ("Bo B-X\n\nAda B-X\nBo O\nCy I-X\n", "line 3", "tags", "no B- tag of its label before it (token 3)"),
        ("Bo S-X\n\nAda B-X\nBo O\n", "line 3", "tags", "no E- tag at its end (token 1)"),
    ],
)  # fmt: skip
def test_a_faulty_sentence_is_left_out_and_named(tmp_path, lines, row, field, reason):
    found, (fault,) = conll(tmp_path, lines.replace("good O", "good\tO") if "\t" in lines else lines)
    assert len(found) == 1
    assert (fault.file, fault.row, fault.field) == ("in.conll", row, field)
    assert reason in fault.reason
    assert fault.remedy


FOUR = "-DOCSTART- -X- -X- O\n\nAda NNP I-NP B-PER\nsings VBZ I-VP O\n\nOslo NNP I-NP B-LOC\n"


def test_of_several_columns_the_first_is_the_token_and_the_last_the_tag(tmp_path):
    found, faults = conll(tmp_path, FOUR)
    assert ([row["text"] for row in found], faults) == (["Ada sings", "Oslo"], [])
    assert [entities(row) for row in found] == [[("Ada", "PER")], [("Oslo", "LOC")]]


def test_the_columns_of_token_and_tag_can_be_named(tmp_path):
    lines = "1\tAda\tB-PER\t0\n2\tsings\tO\t0\n\n1\tOslo\tB-LOC\t0\n"
    found, faults = conll(tmp_path, lines, token_column=2, tag_column=3)
    assert ([row["text"] for row in found], faults) == (["Ada sings", "Oslo"], [])
    assert entities(found[0]) == [("Ada", "PER")]
    with pytest.raises(InputError, match=r"it is 5, and the file has 4 columns"):
        conll(tmp_path, lines, token_column=2, tag_column=5)
    with pytest.raises(ValueError, match="are for conll"):
        Source(uri="a.csv", format="csv", tag_column=2)
    with pytest.raises(ValueError, match="the same column"):
        Source(uri="a.conll", format="conll", token_column=2, tag_column=2)


def test_a_column_without_tags_is_refused_with_the_setting_that_names_another(tmp_path):
    found, faults = conll(tmp_path, FOUR, tag_column=2)
    assert not found
    assert [fault.reason for fault in faults] == ["'NNP' is not a tag (token 1)"] * 2
    assert all("source.tag_column" in fault.remedy for fault in faults)


@pytest.mark.parametrize("token", ["\u00a0", "5\u00a0km", "\u3000", "a\u3000b", "\u0085", "a\u2028b", "\x0b", "a\x1cb"])
@pytest.mark.parametrize("divider", [" ", "\t"])
def test_only_space_and_tab_divide_the_columns_of_a_line(tmp_path, token, divider):
    lines = f"runs O\n{token} O\nOslo B-LOC\n".replace(" ", divider)
    (row,), faults = conll(tmp_path, lines)
    assert not faults
    starts_ends = zip(row["token_start"], row["token_end"], strict=True)
    assert [row["text"][a:b] for a, b in starts_ends] == ["runs", token, "Oslo"]
    assert entities(row) == [("Oslo", "LOC")]


def test_thousands_of_different_bad_tags_take_linear_work(tmp_path):
    count = 300_000
    tags = [f"T{number}" for number in range(count)]
    table = pa.table({"tokens": [["x"] * count], "tags": [tags], "place": ["p"]})
    found, (fault,) = part.from_source(table, "made")
    assert (found.num_rows, fault.reason) == (0, "'T0' is not a tag (token 1)")


def test_tags_of_the_hub_that_are_numbers_of_classes_are_read_by_name():
    import datasets

    label = datasets.ClassLabel(names=["O", "B-PER", "I-PER"])
    features = datasets.Features({"tags": datasets.List(label), "tokens": datasets.List(datasets.Value("string"))})
    made = datasets.Dataset.from_dict({"tags": [[1, 2, 0], []], "tokens": [["a"], []]}, features)
    table = made.with_format("arrow")[:]
    assert hub.named(table["tags"], made.features["tags"]).to_pylist() == [["B-PER", "I-PER", "O"], []]
    assert hub.named(table["tokens"], made.features["tokens"]).to_pylist() == [["a"], []]


def span(start: int, end: int, label: str = "PER") -> dict:
    return {"start": start, "end": end, "label": label}


def test_spans_of_a_text_come_without_the_white_space_at_their_ends(tmp_path):
    (row,), faults = jsonl(tmp_path, {"id": "a", "text": "So Ada Berg left.", "spans": [span(2, 12)]})
    assert not faults
    assert (row["span_start"], row["span_text"], row["token_start"]) == ([3], ["Ada Berg"], [])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([span(0, 3), span(2, 5)], "two spans overlap: 0 to 3 (PER) and 2 to 5 (PER) (span 2)"),
        ([span(0, 3, "P\x1b")], "holds the character U+001B"),
        ([span(0, 1), span(2, 99)], "ends past the end of the text (span 2)"),
        ([span(-1, 3)], "no start or does not end after it"),
        ([span(3, 3)], "no start or does not end after it"),
        ([span(3, 4)], "white space alone"),
        ([span(0, 3, " ")], "has no label"),
        ([{"start": 0, "end": 3}], "has no label"),
        (None, "no spans"),
        ("Ada", "is text, not [{start: a whole number"),
    ],
)
def test_a_span_that_makes_no_sense_is_a_row_error(tmp_path, bad, reason):
    good = {"id": "good", "text": "Ada", "spans": [span(0, 3)]}
    found, (fault,) = jsonl(tmp_path, good, {"id": "bad", "text": "Ada is Bo", "spans": bad})
    assert [row["id"] for row in found] == ["good"]
    assert (fault.row, fault.field, fault.id) == ("line 2", "spans", "bad")
    assert reason in fault.reason


@pytest.mark.parametrize(
    ("text", "places", "unit"),
    [
        ("🎉🎉 Ada met Bo", [(5, 8), (13, 15)], "UTF-16 units"),
        ("😀今天王小明从成都出发", [(4, 7), (8, 10)], "UTF-16 units"),
        ("é Ada met Bo", [(3, 6), (11, 13)], "UTF-8 bytes"),
        ("I, Ada met Bo", [(3, 5), (11, 12)], "characters, with an inclusive end"),
        ("I, Ada met Bo", [(4, 7), (12, 14)], "characters from 1"),
    ],
)
@pytest.mark.parametrize("key", ["text", "surface"])
def test_spans_whose_own_text_stands_elsewhere_name_the_unit_that_fits(tmp_path, text, places, unit, key):
    texts = ("王小明", "成都") if "王" in text else ("Ada", "Bo")
    given = [span(a, b) | {key: held} for (a, b), held in zip(places, texts, strict=True)]
    found, (fault,) = jsonl(tmp_path, {"text": text, "spans": given})
    assert (found, fault.row, fault.field) == ([], "line 1", "spans")
    assert f"a span says {texts[0]!r}" in fault.reason
    assert fault.reason.endswith(f"all spans of the row fit when counted in {unit}")
    assert fault.remedy.endswith(f"the first span begins at {text.index(texts[0])}.")


def test_a_span_whose_text_fits_no_unit_is_refused_with_both_texts(tmp_path):
    _, (fault,) = jsonl(tmp_path, {"text": "Ada met Bo", "spans": [span(0, 3) | {"text": "Eve"}]})
    assert fault.reason == "a span says 'Eve', and 'Ada' stands at 0 to 3"


def test_spans_come_in_the_forms_of_annotation_tools_in_any_order(tmp_path):
    forms = (
        [[8, 10, "LOC"], [0, 3, "PER"]],
        [{"start_offset": 0, "end_offset": 3, "label": "PER"}, {"start_offset": 8, "end_offset": 10, "label": "LOC"}],
        [{"start": 8, "end": 10, "entity": "LOC"}, {"start": 0, "end": 3, "entity": "PER", "value": "Ada"}],
    )
    rows = [{"id": str(n), "text": "Ada met Bo", "label": form} for n, form in enumerate(forms)]
    found, faults = jsonl(tmp_path, *rows, columns={"spans": "label"})
    assert not faults
    assert [entities(row) for row in found] == [[("Ada", "PER"), ("Bo", "LOC")]] * 3
    with pytest.raises(InputError, match=r"map it: source.columns: \{spans: label\}"):
        jsonl(tmp_path, *rows)


def test_text_and_spans_go_before_tokens_without_tags(tmp_path):
    tokens = [{"text": "Ada", "start": 0, "end": 3, "id": 0, "ws": False}]
    (row,), faults = jsonl(tmp_path, {"text": "Ada", "spans": [span(0, 3)], "tokens": tokens, "answer": "accept"})
    assert (entities(row), faults) == ([("Ada", "PER")], [])


def test_rejected_and_skipped_annotations_are_no_gold(tmp_path):
    answers = ["accept", "reject", "ignore", None, 3, "", True]
    rows = [{"id": str(n), "text": "Ada", "spans": [span(0, 3)], "answer": answer} for n, answer in enumerate(answers)]
    found, faults = jsonl(tmp_path, *rows)
    assert [row["id"] for row in found] == ["0", "3", "4", "5", "6"]
    assert [(fault.id, fault.field, fault.reason) for fault in faults] == [
        ("1", "answer", "the annotation has the answer 'reject'"),
        ("2", "answer", "the annotation has the answer 'ignore'"),
    ]
    assert len(jsonl(tmp_path, *rows, answered=False)[0]) == 7


def test_a_source_without_spans_or_tags_is_refused_but_for_prediction(tmp_path):
    with pytest.raises(InputError, match="no column 'spans' beside 'text'"):
        jsonl(tmp_path, {"text": "Ada", "span": []})
    (row,), faults = jsonl(tmp_path, {"text": "Ada"}, answered=False)
    assert (row["text"], row["span_text"], faults) == ("Ada", [], [])


words = st.lists(st.sampled_from(["Ada", "北", "京", "x", "e\u0301t", "🦊", "New", "，"]), min_size=1, max_size=9)


@settings(max_examples=100, deadline=None)
@given(st.lists(words, min_size=1, max_size=5))
def test_every_token_stands_where_its_offsets_say_however_it_was_joined(sentences):
    tags = [["B-X", *["I-X"] * (len(one) - 1)] for one in sentences]
    table = pa.table({"tokens": sentences, "tags": tags, "place": ["p"] * len(sentences)})
    found, faults = part.from_source(table, "made")
    assert not faults
    for row, tokens in zip(found.to_pylist(), sentences, strict=True):
        starts_ends = zip(row["token_start"], row["token_end"], strict=True)
        assert [row["text"][a:b] for a, b in starts_ends] == tokens
        assert row["span_text"] == [row["text"]]


def dirty() -> pa.Table:
    text = "Mme  Curie\u00a0 met \u200b\u200b in   Par\u00c3\u00ads."
    spans = [(text.index(t), t, k) for t, k in (("Curie", "PER"), ("\u200b\u200b", "ORG"), ("Par\u00c3\u00ads", "LOC"))]
    tokens = [
        (text.index(t), text.index(t) + len(t))
        for t in ("Mme", "Curie", "met", "\u200b\u200b", "in", "Par\u00c3\u00ads")
    ]
    return pa.Table.from_pylist(
        [
            {
                "id": "d", "group": "g", "split": None, "parent": None, "text": text,
                "span_start": [a for a, _, _ in spans], "span_text": [t for _, t, _ in spans],
                "span_label": [k for _, _, k in spans],
                "token_start": [a for a, _ in tokens], "token_end": [b for _, b in tokens],
            }
        ],
        part.SCHEMA,
    )  # fmt: skip


def test_cleaning_moves_entities_and_tokens_and_drops_a_lost_entity_with_its_label():
    cleaned = clean_rows(dirty(), part.TEXTS, Cleaning())
    (row,) = cleaned.rows.to_pylist()
    assert row["text"] == "Mme Curie met in París."
    assert entities(row) == [("Curie", "PER"), ("París", "LOC")]
    assert all(row["text"].startswith(t, a) for a, t in zip(row["span_start"], row["span_text"], strict=True))
    starts_ends = zip(row["token_start"], row["token_end"], strict=True)
    assert [row["text"][a:b] for a, b in starts_ends] == ["Mme", "Curie", "met", "in", "París"]
    assert cleaned.dropped.num_rows == 0


def test_typing_noise_leaves_entities_alone_and_takes_tokens_along(tmp_path):
    lines = (
        "".join(f"{word}\tO\n" for word in ("yesterday", "several", "visitors", "walked", "towards"))
        + "Stockholm\tB-LOC\n"
    )
    (row,), _ = conll(tmp_path, lines)
    made, _ = children(pa.Table.from_pylist([row], part.SCHEMA), part, "noise", 1.0, 3)
    (child,) = made.to_pylist()
    assert child["text"] != row["text"]
    assert entities(child) == [("Stockholm", "LOC")]
    assert child["text"][child["span_start"][0] :] == "Stockholm"
    starts_ends = list(zip(child["token_start"], child["token_end"], strict=True))
    assert " ".join(child["text"][a:b] for a, b in starts_ends) == child["text"]


# Sentences as published; tokens; entities by their B- tags, and in Weibo's training file 10 stray I- tags besides.
PUBLISHED = {
    "wnut17-train": (3394, 62730, 1975),
    "wnut17-dev": (1009, 15733, 836),
    "wikigold": (1696, 39007, 3558),
    "weibo-ner-train": (1350, 73778, 1885 + 10),
    "weibo-ner-dev": (270, 14509, 389),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sets_have_their_published_sentences_tokens_and_entities(name):
    if not (CORPORA / f"{name}.conll").is_file():
        pytest.skip("TRAINWRIGHT_CORPORA names no folder with the set")
    found, faults = load(CORPORA / f"{name}.conll", tags="repair" if "weibo" in name else "auto")
    tokens, spans = (sum(len(row[column]) for row in found) for column in ("token_start", "span_label"))
    assert (len(found), tokens, spans, faults) == (*PUBLISHED[name], [])
    if "weibo" not in name:
        assert np.mean([" " in row["text"] for row in found]) > 0.9
    else:
        assert not any(" " in row["text"] for row in found)
