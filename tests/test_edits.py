"""Edits keep offsets true."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwright.text.edits import Edit, Edited, difference, replacement, substitution, unchanged

texts = st.text(alphabet="abc é\n漢😀", max_size=30)


@st.composite
def edits_of(draw: st.DrawFn, text: str) -> list[Edit]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pairs = zip(cuts[::2], cuts[1::2], strict=False)
    return [Edit(start, end, draw(st.text(alphabet="xyz", max_size=4))) for start, end in pairs]


@st.composite
def edited_texts(draw: st.DrawFn) -> tuple[str, Edited]:
    old = draw(texts)
    edited = unchanged(old)
    for _ in range(draw(st.integers(0, 3))):
        edited = edited.apply(draw(edits_of(edited.text)))
    return old, edited


def all_spans(text: str) -> tuple[list[int], list[int]]:
    pairs = [(s, e) for s in range(len(text) + 1) for e in range(s, len(text) + 1)]
    return [s for s, _ in pairs], [e for _, e in pairs]


def test_an_unchanged_text_maps_every_offset_to_itself() -> None:
    starts, ends = unchanged("Marie Curie").map([0, 6], [5, 11])
    assert starts.tolist() == [0, 6]
    assert ends.tolist() == [5, 11]


@given(st.data())
def test_a_span_that_no_edit_touches_comes_back(data: st.DataObject) -> None:
    old = data.draw(texts)
    edits = data.draw(edits_of(old))
    edited = unchanged(old).apply(edits)
    for start, end in zip(*all_spans(old), strict=True):
        if start < end and not any(e.start < end and start < e.end for e in edits):
            assert [place.tolist() for place in edited.map_back(*edited.map([start], [end]))] == [[start], [end]]


@given(st.data())
def test_a_span_that_no_edit_touches_keeps_its_text(data: st.DataObject) -> None:
    old = data.draw(texts)
    edits = data.draw(edits_of(old))
    edited = unchanged(old).apply(edits)
    starts, ends = all_spans(old)
    new_starts, new_ends = edited.map(starts, ends)
    for start, end, new_start, new_end in zip(starts, ends, new_starts, new_ends, strict=True):
        if start < end and not any(e.start < end and start < e.end for e in edits):
            assert edited.text[new_start:new_end] == old[start:end]


@given(st.data())
def test_a_span_that_holds_whole_edits_holds_what_they_became(data: st.DataObject) -> None:
    old = data.draw(texts)
    edits = data.draw(edits_of(old))
    start = data.draw(st.integers(0, len(old)))
    end = data.draw(st.integers(start, len(old)))
    inside = [e for e in edits if start <= e.start and e.end <= end and (e.start < e.end or start < e.start < end)]
    if any(e.start < start < e.end or e.start < end < e.end for e in edits) or start == end:
        return
    alone = unchanged(old[start:end]).apply([Edit(e.start - start, e.end - start, e.new) for e in inside])
    (new_start,), (new_end,) = unchanged(old).apply(edits).map([start], [end])
    assert unchanged(old).apply(edits).text[new_start:new_end] == alone.text


@given(edited_texts())
def test_mapped_spans_lie_in_the_new_text_in_order(pair: tuple[str, Edited]) -> None:
    old, edited = pair
    starts, ends = edited.map(*all_spans(old))
    assert (starts >= 0).all()
    assert (starts <= ends).all()
    assert (ends <= len(edited.text)).all()
    points = edited.map(range(len(old)), range(1, len(old) + 1))
    assert (np.diff(points[0]) >= 0).all()
    assert (np.diff(points[1]) >= 0).all()


@given(st.data())
def test_edits_composed_map_as_one_after_the_other(data: st.DataObject) -> None:
    old = data.draw(texts)
    first = data.draw(edits_of(old))
    middle = unchanged(old).apply(first)
    second = data.draw(edits_of(middle.text))
    composed = middle.apply(second)
    spans = all_spans(old)
    apart = unchanged(middle.text).apply(second)
    assert composed.text == apart.text
    assert np.array_equal(composed.map(*spans), apart.map(*middle.map(*spans)))


def test_a_deleted_span_comes_back_empty_and_a_cut_one_grows_to_the_whole_edit() -> None:
    edited = unchanged("one two three").apply([Edit(4, 8, ""), Edit(8, 13, "3rd")])
    assert edited.text == "one 3rd"
    starts, ends = edited.map([4, 5, 9, 0], [7, 6, 10, 13])
    assert [edited.text[s:e] for s, e in zip(starts, ends, strict=True)] == ["", "", "3rd", "one 3rd"]


def test_text_inserted_at_the_edge_of_a_span_stays_outside() -> None:
    edited = unchanged("ab").apply([Edit(1, 1, "-")])
    starts, ends = edited.map([0, 1], [1, 2])
    assert [edited.text[s:e] for s, e in zip(starts, ends, strict=True)] == ["a", "b"]


def test_overlapping_edits_are_refused() -> None:
    with pytest.raises(ValueError, match="overlaps"):
        unchanged("abcdef").apply([Edit(0, 3, "x"), Edit(2, 4, "y")])


@given(texts, texts)
def test_the_difference_of_two_texts_turns_one_into_the_other(old: str, new: str) -> None:
    assert unchanged(old).apply(difference(old, new)).text == new


def test_the_difference_anchors_on_what_both_texts_share() -> None:
    old, new = "le prÃ©fÃ©rÃ© d'Ã©tÃ©, dit-on", "le préféré d'été, dit-on"
    edited = unchanged(old).apply(difference(old, new))
    start = old.index("Ã©tÃ©")
    (new_start,), (new_end,) = edited.map([start], [start + len("Ã©tÃ©")])
    assert edited.text[new_start:new_end] == "été"


@given(texts, texts)
def test_a_replacement_shares_neither_head_nor_tail_with_what_it_replaces(old: str, new: str) -> None:
    for edit in replacement(0, old, new):
        cut = old[edit.start : edit.end]
        assert not (cut and edit.new and (cut[0] == edit.new[0] or cut[-1] == edit.new[-1]))


def test_a_substitution_makes_the_smallest_edits() -> None:
    edits = substitution("a   b", re.compile(" +"), lambda _: " ")
    assert edits == [Edit(2, 4, "")]
