"""Typing errors as people make them, anywhere in a text but in an answer or beside it."""

import re
from collections.abc import Sequence

import numpy as np

from trainwright.text import edits
from trainwright.text.edits import Edit, Edited

# One word in thirty carries an error: about what careless typists leave in, and few enough to read past.
WORDS_PER_ERROR = 30
WORD = re.compile(r"[^\W\d_]{4,}")
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOURS = {key: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in ROWS for i, key in enumerate(row)}


def typing_noise(text: str, starts: Sequence[int], ends: Sequence[int], random: np.random.Generator) -> Edited:
    """`text` with a few letters swapped, dropped, doubled or struck on the neighbouring key.

    A word that overlaps or touches a span [start, end) stays as it is, and so do words under four letters and
    the first letter of every word. Where no word is left, the text comes back unchanged.
    """
    spans = list(zip(starts, ends, strict=True))
    words = [m for m in WORD.finditer(text) if all(m.end() < s or e < m.start() for s, e in spans)]
    count = min(len(words), max(1, len(WORD.findall(text)) // WORDS_PER_ERROR))
    chosen = sorted(random.choice(len(words), size=count, replace=False)) if words else []
    return edits.unchanged(text).apply(
        edit for i in chosen for edit in _error(text, words[i].start(), words[i].end(), random)
    )


def _error(text: str, start: int, end: int, random: np.random.Generator) -> list[Edit]:
    """One error in the word text[start:end], behind its first letter."""
    place = int(random.integers(start + 1, end - 1))
    letter, following = text[place], text[place + 1]
    keys = NEIGHBOURS.get(letter, "")
    kind = random.choice(["swap", "drop", "double", "neighbour"])
    if kind == "swap" and letter != following:
        return [Edit(place, place + 2, following + letter)]
    if kind == "neighbour" and keys:
        return [Edit(place, place + 1, keys[int(random.integers(len(keys)))])]
    return [Edit(place, place + 1, "")] if kind == "drop" else [Edit(place, place, letter)]
