"""Texts made clean, with every answer span moved along: mojibake, control characters, Unicode form, whitespace.

Each kind of fault is mended by edits (see edits.py), in this order, because each may uncover the next. What a
text must look like in the end is written here, at the functions below.
"""

import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core.params import Cleaning
from trainwright.rows import tables
from trainwright.rows.columns import Text
from trainwright.text import edits
from trainwright.text.edits import Edit, Edited

# RE2, run over a whole column: a text that this does not find is printable ASCII with single spaces and at most
# one blank line in a row, which nothing below would change.
SUSPECT = r"[^\x20-\x7E\n]|^[ \n]|[ \n]$|  |\n | \n|\n\n\n"

# Controls that separate what stands before and after them, and controls and invisible marks that say nothing:
# byte order marks, zero-width spaces, word joiners, soft hyphens, directional marks and overrides.
SEPARATORS = re.compile(r"[\x0b\x0c\x1c-\x1f\x85]")
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
    # Joiners shape letters from Hebrew to Mongolian and join emoji; after anything else they are residue.
    "|(?<![\u0590-\u1dff\u2190-\U0010ffff])[\u200c\u200d]"
)
# A space or a line break by itself inside a text is as it should be, and by far the most common: not found.
WHITESPACE = re.compile(r"\A\s+|\s{2,}|\s\Z|[^\S \n]")
LONG_SEGMENT = 64  # characters
LINE_BREAK = re.compile(r"\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")


@dataclass(frozen=True)
class Cleaned:
    """The rows that stay, and those that do not (tables.DROPPED: id, reason)."""

    rows: pa.Table
    dropped: pa.Table


def clean_text(text: str, params: Cleaning) -> Edited:
    """`text` clean, knowing where each of its characters went."""
    edited = edits.unchanged(text)
    if params.mojibake:
        edited = edited.apply(_mojibake(edited.text))
    if params.control_characters:
        edited = edited.apply(_control_characters(edited.text))
    if params.unicode_form != "none":
        edited = edited.apply(_unicode_form(edited.text, params.unicode_form))
    if params.whitespace:
        edited = edited.apply(_whitespace(edited.text))
    return edited


def clean_rows(rows: pa.Table, texts: Sequence[Text], params: Cleaning) -> Cleaned:
    """Rows with clean texts: span starts moved, span texts cut anew from the clean text.

    Dropped are rows of which a text is empty that is not optional ("empty context") and rows that lose a span
    ("lost answer_text"); of spans with labels only the span is dropped (see `Text`). A text that occurs in many rows
    is cleaned once.
    """
    reasons = np.full(rows.num_rows, "", dtype=object)
    for text in texts:
        rows, lost = _clean_column(rows, text, params)
        reasons[lost & (reasons == "")] = f"lost {text.texts}"
        if not text.optional:
            reasons[_empty(rows[text.column]) & (reasons == "")] = f"empty {text.column}"
    return drop(rows, reasons)


def drop(rows: pa.Table, reasons: Any) -> Cleaned:
    """Take out the rows that have a reason (an array of strings, "" for those that stay)."""
    out = pa.array(reasons != "")
    gone = {"id": rows["id"].filter(out), "reason": pa.array(reasons, pa.string()).filter(out)}
    return Cleaned(rows.filter(pc.invert(out)), pa.table(gone, schema=tables.DROPPED))


def _empty(column: pa.ChunkedArray) -> Any:
    """Which rows have nothing but white space in a text, or in one of a list of texts (bool array)."""
    if pa.types.is_list(column.type):
        lists = column.combine_chunks()
        blank = pc.equal(pc.utf8_trim_whitespace(lists.flatten()), "").fill_null(False)
        rows = pc.list_parent_indices(lists).filter(blank)
        return np.bincount(rows.to_numpy(), minlength=len(lists)).astype(np.bool_)
    return pc.equal(pc.utf8_trim_whitespace(column), "").fill_null(False).to_numpy()


def _clean_column(rows: pa.Table, text: Text, params: Cleaning) -> tuple[pa.Table, Any]:
    """The rows with one text column cleaned, and which of them lost a span (bool array, one a row)."""
    held = rows[text.column].combine_chunks()
    column = (held.flatten() if pa.types.is_list(held.type) else held).dictionary_encode()
    suspect = pc.indices_nonzero(pc.match_substring_regex(column.dictionary, SUSPECT)).to_pylist()
    edited = {i: clean_text(column.dictionary[i].as_py(), params) for i in suspect}
    edited = {i: change for i, change in edited.items() if change.layers}
    lost = np.zeros(rows.num_rows, dtype=bool)
    if not edited:
        return rows, lost
    if text.starts is not None:
        rows, lost = _move_spans(rows, text, column.indices.fill_null(-1).to_numpy(), edited)
    values = column.dictionary.to_pylist()
    for i, change in edited.items():
        values[i] = change.text
    clean = pa.array(values, pa.string()).take(column.indices)
    if pa.types.is_list(held.type):
        sizes = pc.list_value_length(held).fill_null(0).to_numpy()
        offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
        clean = pa.ListArray.from_arrays(offsets, clean)
    return _replace(rows, text.column, clean), lost


def _move_spans(rows: pa.Table, text: Text, codes: Any, edited: dict[int, Edited]) -> tuple[pa.Table, Any]:
    """Spans moved and cut anew where their text was `edited` (by its code), and which rows lost one.

    Spans with labels that are lost go alone, with their labels; such a row is only lost where two spans, grown by
    an edit that both touch, overlap.
    """
    starts, spans = rows[text.starts].combine_chunks(), rows[text.texts].combine_chunks()
    row_of = np.repeat(np.arange(rows.num_rows), pc.list_value_length(starts).to_numpy())
    begin = starts.flatten().to_numpy().astype(np.int64)
    end = begin + pc.utf8_length(spans.flatten()).to_numpy()
    cuts = spans.flatten().to_pylist()
    empty = np.zeros(len(begin), dtype=bool)
    begin, end = _moved(begin, end, codes[row_of], edited)
    for i in np.flatnonzero(np.isin(codes[row_of], list(edited))):
        cuts[i] = edited[codes[row_of[i]]].text[begin[i] : end[i]]
        empty[i] = not cuts[i].strip()
    lost = np.zeros(rows.num_rows, dtype=bool)
    keep = ~empty if text.labels else np.ones(len(empty), dtype=bool)
    columns: dict[str, Any] = {
        str(text.starts): pa.array(begin, pa.int32()),
        str(text.texts): pa.array(cuts, pa.string()),
    }
    if text.labels:
        columns |= {name: rows[name].combine_chunks().flatten() for name in text.labels}
        of, first, last = row_of[keep], begin[keep], end[keep]
        lost[of[1:][(of[1:] == of[:-1]) & (first[1:] < last[:-1])]] = True
    else:
        lost[row_of[empty]] = True
    rows = _replace_lists(rows, columns, row_of, keep)
    return (_move_pieces(rows, text.pieces, codes, edited) if text.pieces else rows), lost


def _move_pieces(rows: pa.Table, pieces: tuple[str, str], codes: Any, edited: dict[int, Edited]) -> pa.Table:
    """Starts and ends of parts of the text moved; those that became empty or white space go."""
    starts, ends = (rows[name].combine_chunks() for name in pieces)
    row_of = np.repeat(np.arange(rows.num_rows), pc.list_value_length(starts).to_numpy())
    begin, end = (part.flatten().to_numpy().astype(np.int64) for part in (starts, ends))
    begin, end = _moved(begin, end, codes[row_of], edited)
    keep = begin < end
    for i in np.flatnonzero(keep & np.isin(codes[row_of], list(edited))):
        keep[i] = not edited[codes[row_of[i]]].text[begin[i] : end[i]].isspace()
    columns = {name: pa.array(part, pa.int32()) for name, part in zip(pieces, (begin, end), strict=True)}
    return _replace_lists(rows, columns, row_of, keep)


def _moved(begin: Any, end: Any, codes: Any, edited: dict[int, Edited]) -> tuple[Any, Any]:
    """Spans of texts (by their code) where the edits of those texts put them."""
    begin, end = begin.copy(), end.copy()
    order = np.argsort(codes, kind="stable")
    of_text = codes[order]
    for code, change in edited.items():
        mine = order[np.searchsorted(of_text, code) : np.searchsorted(of_text, code, side="right")]
        begin[mine], end[mine] = change.map(begin[mine], end[mine])
    return begin, end


def _replace_lists(rows: pa.Table, columns: dict[str, Any], row_of: Any, keep: Any) -> pa.Table:
    """Parallel list columns from their values and the row of each, without those that are not kept."""
    counts = np.bincount(row_of[keep], minlength=rows.num_rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    for name, values in columns.items():
        rows = _replace(rows, name, pa.ListArray.from_arrays(offsets, values.filter(pa.array(keep, pa.bool_()))))
    return rows


def _replace(rows: pa.Table, column: str, values: pa.Array) -> pa.Table:
    place = rows.schema.get_field_index(column)
    return rows.set_column(place, rows.schema.field(place), values.cast(rows.schema.field(place).type))


def _mojibake(text: str) -> list[Edit]:
    """UTF-8 that was read in another encoding ("MichÃ¨le"), mended by ftfy line by line, as its `fix_text` does."""
    import ftfy

    if text.isascii() or not ftfy.is_bad(text):
        return []
    mended = "".join(ftfy.fix_encoding(line) for line in text.splitlines(keepends=True))
    return edits.difference(text, mended)


def _control_characters(text: str) -> list[Edit]:
    """Separating controls become a space each; other controls and invisible marks vanish. Tab, LF and CR stay."""
    made = edits.substitution(text, SEPARATORS, lambda _: " ") + edits.substitution(text, INVISIBLE, lambda _: "")
    return sorted(made)


def _unicode_form(text: str, form: Literal["NFC", "NFKC"]) -> list[Edit]:
    """The text in a Unicode normal form, one combining segment at a time, so that offsets stay exact."""
    if unicodedata.is_normalized(form, text):
        return []
    inner = "".join(re.escape(c) for c in sorted(set(text)) if not _begins_segment(c, form))
    segment = re.compile(rf".[{inner}]*" if inner else ".", re.DOTALL)
    return edits.substitution(text, segment, lambda old: _normalized(old[0], form))


def _normalized(segment: str, form: Literal["NFC", "NFKC"]) -> str:
    """A segment in a normal form. `unicodedata` orders marks in quadratic time, so long runs come to it in order."""
    if len(segment) <= LONG_SEGMENT:
        return unicodedata.normalize(form, segment)
    apart: Literal["NFD", "NFKD"] = "NFD" if form == "NFC" else "NFKD"
    characters = "".join(unicodedata.normalize(apart, character) for character in segment)
    ordered: list[str] = []
    for _, run in groupby(characters, lambda character: unicodedata.combining(character) > 0):
        ordered += sorted(run, key=unicodedata.combining)
    return unicodedata.normalize(form, "".join(ordered))


def _begins_segment(character: str, form: Literal["NFC", "NFKC"]) -> bool:
    """Whether nothing before `character` can change what it normalizes to, nor the other way round."""
    first = unicodedata.normalize("NFD" if form == "NFC" else "NFKD", character)[0]
    return unicodedata.combining(first) == 0 and first not in _joining_starters()


@lru_cache(maxsize=1)
def _joining_starters() -> frozenset[str]:
    """Characters of combining class 0 that compose with the one before: Hangul jamo and some Indic vowel signs."""
    jamo = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    pairs = (unicodedata.decomposition(chr(code)).split() for code in range(sys.maxunicode + 1))
    seconds = {chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2 and pair[0][0] != "<"}
    return frozenset(jamo | {c for c in seconds if unicodedata.combining(c) == 0})


def _whitespace(text: str) -> list[Edit]:
    """Nothing at the ends; a run with a blank line in it one blank line, with a line break a break, else a space.

    Line breaks stay, because they carry meaning: paragraphs, verses, the rows of a list.
    """
    inside = len(text.rstrip())

    def kept(run: re.Match[str]) -> str:
        if run.start() == 0 or run.start() >= inside:
            return ""
        return "\n" * min(2, len(LINE_BREAK.findall(run[0]))) or " "

    return edits.substitution(text, WHITESPACE, kept)
