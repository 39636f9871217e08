"""A change to a text is a list of edits, so that every offset into the old text has its place in the new one.

    edited = unchanged("Mme  Curie").apply([Edit(4, 5, "")])
    edited.text                      # "Mme Curie"
    edited.map([5], [10])            # (array([4]), array([9])): still "Curie"

Offsets count characters (Unicode code points). Cleaning and augmentation move answer spans through `map` alone.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Offsets = NDArray[np.int64]
WORD = re.compile(r"[^ \n\t\r]*[ \n\t\r]*")
ASCII_RUN = re.compile(r"([\x00-\x7f]+)")


class Edit(NamedTuple):
    """`old[start:end]` becomes `new`; start == end inserts, an empty `new` deletes."""

    start: int
    end: int
    new: str


@dataclass(frozen=True)
class Moves:
    """One list of edits as arrays, in order: where they were, and by how much all before each have moved the text."""

    starts: Offsets
    ends: Offsets
    shifts: Offsets  # one longer than the others: shifts[k] is the sum of the first k edits' growth

    def map(self, starts: Offsets, ends: Offsets) -> tuple[Offsets, Offsets]:
        before = np.searchsorted(self.ends, starts, side="right")
        cut_at = np.append(self.starts, np.iinfo(np.int64).max)
        new_starts = np.minimum(starts, cut_at[before]) + self.shifts[before]
        before = np.searchsorted(self.starts, ends, side="left")
        cut_at = np.insert(self.ends, 0, -1)
        new_ends = np.maximum(ends, cut_at[before]) + self.shifts[before]
        return new_starts, np.maximum(new_starts, new_ends)

    def reversed(self) -> "Moves":
        """The edits that would undo these, over the text that these have made."""
        return Moves(self.starts + self.shifts[:-1], self.ends + self.shifts[1:], -self.shifts)


@dataclass(frozen=True)
class Edited:
    """A text, and how offsets into the text that it once was move into it: one layer for each list of edits."""

    text: str
    layers: tuple[Moves, ...] = ()

    def apply(self, edits: Iterable[Edit]) -> "Edited":
        """The text with `edits` made; they must be in order and must not overlap. Raises ValueError if they do."""
        edits = list(edits)
        if not edits:
            return self
        pieces, end = [], 0
        for edit in edits:
            if not end <= edit.start <= edit.end <= len(self.text):
                raise ValueError(f"edit {edit.start}:{edit.end} overlaps the one before it or leaves the text")
            pieces += [self.text[end : edit.start], edit.new]
            end = edit.end
        text = "".join(pieces) + self.text[end:]
        growth = [len(edit.new) - (edit.end - edit.start) for edit in edits]
        moves = Moves(
            np.array([edit.start for edit in edits], dtype=np.int64),
            np.array([edit.end for edit in edits], dtype=np.int64),
            np.cumsum([0, *growth], dtype=np.int64),
        )
        return Edited(text, (*self.layers, moves))

    def map(self, starts: Sequence[int] | Offsets, ends: Sequence[int] | Offsets) -> tuple[Offsets, Offsets]:
        """Old half-open spans as new ones, both as arrays.

        A span that no edit touches keeps its text; one that holds whole edits holds what they became; one that
        cuts through an edit grows to hold all of it; text inserted at a span's edge stays outside; a span whose
        text was deleted comes back empty.
        """
        new_starts = np.asarray(starts, dtype=np.int64)
        new_ends = np.asarray(ends, dtype=np.int64)
        for layer in self.layers:
            new_starts, new_ends = layer.map(new_starts, new_ends)
        return new_starts, new_ends

    def map_back(self, starts: Sequence[int] | Offsets, ends: Sequence[int] | Offsets) -> tuple[Offsets, Offsets]:
        """Half-open spans of this text as spans of the text that it once was, both as arrays.

        The same holds as for `map`: what was deleted at a span's edge stays outside, and a span that cuts through what
        an edit made grows to hold all that it was made of.
        """
        old_starts = np.asarray(starts, dtype=np.int64)
        old_ends = np.asarray(ends, dtype=np.int64)
        for layer in reversed(self.layers):
            old_starts, old_ends = layer.reversed().map(old_starts, old_ends)
        return old_starts, old_ends


def unchanged(text: str) -> Edited:
    return Edited(text)


def replacement(start: int, old: str, new: str) -> list[Edit]:
    """The smallest edit that makes `old`, which stands at `start`, into `new`; none where they are equal."""
    if old == new:
        return []
    shortest = min(len(old), len(new))
    head = next((i for i in range(shortest) if old[i] != new[i]), shortest)
    tail = next((i for i in range(shortest - head) if old[-1 - i] != new[-1 - i]), shortest - head)
    return [Edit(start + head, start + len(old) - tail, new[head : len(new) - tail])]


def substitution(text: str, pattern: re.Pattern[str], new: Callable[[re.Match[str]], str]) -> list[Edit]:
    """The edits that put `new(match)` for every match of `pattern`, each as small as it can be."""
    return [edit for match in pattern.finditer(text) for edit in replacement(match.start(), match[0], new(match))]


def difference(old: str, new: str) -> list[Edit]:
    """Edits that turn `old` into `new`, where some other program made `new` and kept no account.

    Words are paired first; within a pair that differs, runs of ASCII are anchors, since what is mended (UTF-8
    read in another encoding) never is ASCII.
    """
    before, after = WORD.findall(old), WORD.findall(new)
    places = np.cumsum([0, *map(len, before)])
    edits: list[Edit] = []
    if len(before) == len(after):
        pairs = [(i, i + 1, i, i + 1) for i in range(len(before))]
    else:
        pairs = [code[1:] for code in SequenceMatcher(None, before, after, autojunk=False).get_opcodes()]
    for start, end, new_start, new_end in pairs:
        edits += _within(int(places[start]), "".join(before[start:end]), "".join(after[new_start:new_end]))
    return edits


def _within(start: int, old: str, new: str) -> list[Edit]:
    if old == new:
        return []
    before, after = ASCII_RUN.split(old), ASCII_RUN.split(new)
    if before[1::2] != after[1::2]:
        return replacement(start, old, new)
    edits = []
    for piece, becomes in zip(before, after, strict=True):
        edits += replacement(start, piece, becomes)
        start += len(piece)
    return edits
