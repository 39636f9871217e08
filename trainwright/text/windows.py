"""Texts as tokens, flat, and windows over them: what tasks make features of, with no Python object a token."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainwright.rows import spans

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """Windows as columns: the row of each, its first token (counted in the row's text), how many."""

    row: Ints
    start: Ints
    length: Ints


@dataclass(frozen=True)
class Encoded:
    """Texts as tokens, flat: text i has the tokens bounds[i] to bounds[i + 1].

    `starts` and `ends` are character offsets into all texts joined (text i begins at `base[i]`), without the white
    space that some tokenizers count to a word. `words` numbers the words that the tokenizer's own rules make of a
    text, before it cuts them into tokens (-1 for what is in none).
    """

    ids: NDArray[np.int32]
    bounds: Ints
    base: Ints
    starts: Ints
    ends: Ints
    words: Ints

    @property
    def lengths(self) -> Ints:
        return np.diff(self.bounds)


def encode(backend: Any, texts: pa.Array) -> Encoded:
    """Texts (a string array) as tokens by a `tokenizers.Tokenizer`, without special tokens."""
    encodings = backend.encode_batch(texts.to_pylist(), add_special_tokens=False)
    ends = bounds([len(encoding) for encoding in encodings])
    count = int(ends[-1])
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32, count)
    pairs: Iterable[tuple[int, int]] = chain.from_iterable(encoding.offsets for encoding in encodings)
    offsets = np.fromiter(chain.from_iterable(pairs), np.int64, 2 * count).reshape(count, 2)
    named = (word for encoding in encodings for word in encoding.word_ids)
    words = np.fromiter((-1 if word is None else word for word in named), np.int64, count)
    base = spans.bases(texts)
    offsets += np.repeat(base, np.diff(ends))[:, None]
    starts, stops = spans.trimmed(offsets[:, 0], offsets[:, 1], texts)
    return Encoded(ids, ends, base, starts, stops, words)


def bounds(lengths: list[int] | Ints) -> Ints:
    """Where each of several runs begins when they stand one after the other, and where the last ends."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def windows(rows: Ints, length: Ints, room: Ints, stride: int) -> Windows:
    """Windows of each of `rows` over its text of `length` tokens, `room` at a time, sharing `stride`."""
    length, room = length[rows], room[rows]
    step = np.maximum(room - stride, 1)
    count = np.where(length <= room, 1, 1 + -(-(length - room) // step))
    place = np.repeat(np.arange(len(rows)), count)
    start = spans.ranges(np.zeros_like(count), count) * step[place]
    return Windows(rows[place], start, np.minimum(start + room[place], length[place]) - start)


def lists(ends: Ints, values: NDArray[Any]) -> pa.Array:
    """A list column from the bounds of its lists and all their values."""
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(values))
