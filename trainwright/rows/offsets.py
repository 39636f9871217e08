"""Offsets of texts that stand elsewhere than their source says: in which unit they were counted."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UNITS = ("UTF-16 units", "UTF-8 bytes", "characters from 1", "characters, with an inclusive end")

Span = tuple[int, int | None, str]
"""A span's start, its end if the source gives one, and the text that it should hold."""


def fitting_unit(text: str, spans: Sequence[Span]) -> tuple[str, list[int]] | None:
    """Return the unit other than characters from 0 in which all spans hold their texts, and their starts in characters.

    A span without an end fits where its text begins. White space around a span's text is not compared.
    """
    for unit in UNITS:
        edges = _edges(text, unit)
        places: list[int] = []
        for start, end, held in spans:
            begin = _character(edges, start - (unit == "characters from 1"))
            shift = (unit == "characters, with an inclusive end") - (unit == "characters from 1")
            stop = None if end is None else _character(edges, end + shift)
            if begin is None or not _holds(text, begin, stop, held):
                break
            places.append(begin)
        else:
            return (unit, places) if places else None
    return None


def _edges(text: str, unit: str) -> NDArray[np.int64]:
    """Where each character begins, and the text ends, counted in `unit`."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    width = np.ones(len(codes), dtype=np.int64)
    for above in {"UTF-16 units": (0xFFFF,), "UTF-8 bytes": (0x7F, 0x7FF, 0xFFFF)}.get(unit, ()):
        width += codes > above
    return np.append(0, np.cumsum(width))


def _character(edges: NDArray[np.int64], offset: int) -> int | None:
    """The character in which an offset lies; None before the text."""
    return int(np.searchsorted(edges, offset, side="right")) - 1 if offset >= 0 else None


def _holds(text: str, begin: int, stop: int | None, held: str) -> bool:
    return text.startswith(held, begin) if stop is None else text[begin:stop].strip() == held.strip()
