"""Which characters stand where no spaces part words, and which belong to the character before them."""

import sys
import unicodedata
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Thai, Lao, Tibetan; Myanmar; Khmer; CJK signs and kana; Han; full-width forms. First and last code point of each.
RANGES = (
    (0x0E00, 0x0FFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3000, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF00, 0xFFEF),
    (0x20000, 0x3FFFF),
)
UNSPACED = "^[" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in RANGES) + "]$"  # for Arrow's RE2


def unspaced(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which code points are of a script that puts no spaces between words, or of its punctuation."""
    edges = np.array([edge for first, last in RANGES for edge in (first, last + 1)])
    return np.asarray(np.searchsorted(edges, codes, side="right") % 2 == 1, dtype=np.bool_)


def marks(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which code points are combining marks: vowel signs, accents that are a character of their own."""
    return _marks()[codes]


@lru_cache(maxsize=1)
def _marks() -> NDArray[np.bool_]:
    return np.array([unicodedata.category(chr(code))[0] == "M" for code in range(sys.maxunicode + 1)])


def cuts_word(text: str, place: int) -> bool:
    """Return whether a cut before character `place` goes through a word or a number.

    Only where scripts part words by spaces and attach no particles to them: Latin, Greek, Cyrillic, Armenian. A digit
    beside a letter ends a word ("5kg"), and so do hyphens and apostrophes.
    """
    if not 0 < place < len(text):
        return False
    after = text[place]
    if unicodedata.category(after)[0] == "M":
        return True
    last = place - 1
    while last > 0 and unicodedata.category(text[last])[0] == "M":  # accents of the letter before the cut
        last -= 1
    before = text[last]
    if before in ".,":  # 3.5 and 1,500 are one number each
        return after.isdecimal() and text[last - 1 : last].isdecimal()
    if after in ".,":
        return before.isdecimal() and text[place + 1 : place + 2].isdecimal()
    return (before.isdecimal() and after.isdecimal()) or (_is_spaced(before) and _is_spaced(after))


def _is_spaced(letter: str) -> bool:
    return letter.isalpha() and unicodedata.name(letter, "").startswith(("LATIN ", "GREEK ", "CYRILLIC ", "ARMENIAN "))
