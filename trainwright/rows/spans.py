"""Spans of characters in columns of texts, without a Python object for each.

Contexts are handled as one long text: a span of context i is counted from `bases(contexts)[i]`, so that one
array holds the spans of all of them.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# No character past U+3000 is white space, so that a short table answers for all.
SPACE = np.array([chr(code).isspace() for code in range(0x3002)])


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, whatever its chunks."""
    joined = column.combine_chunks()
    return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined


def distinct(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """For each row the index of its text among the distinct texts, and those texts."""
    encoded = whole(column).dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """arange(start, start + length) for each pair, one after the other."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)


def bases(texts: pa.Array) -> Ints:
    """Where each text begins, in characters, when all are joined."""
    return np.cumsum(_lengths(texts)) - _lengths(texts)


def trimmed(starts: Ints, ends: Ints, texts: pa.Array) -> tuple[Ints, Ints]:
    """The spans [start, end) of the joined texts without the white space at their ends."""
    space = _space(texts)
    while (blank := (starts < ends) & space[starts]).any():
        starts = starts + blank
    while (blank := (starts < ends) & space[ends - 1]).any():
        ends = ends - blank
    return starts, ends


def cut(texts: pa.Array, which: Ints, starts: Ints, ends: Ints) -> pa.Array:
    """The characters [start, end) of texts[which], as strings; all four run in parallel but for `texts`.

    Arrow slices a whole column at one place only, so the UTF-8 bytes are gathered here.
    """
    data = _bytes(texts)
    first = np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data))  # the first byte of every character
    base = bases(texts)[which]
    begin, end = first[base + starts], first[base + ends]
    bounds = np.concatenate([[0], np.cumsum(end - begin)])
    content = data[ranges(begin, end - begin)]
    return pa.StringArray.from_buffers(len(which), pa.py_buffer(bounds.astype(np.int32)), pa.py_buffer(content))


def _bytes(texts: pa.Array) -> NDArray[np.uint8]:
    """The UTF-8 bytes of all texts, joined."""
    _, bounds, data = texts.buffers()
    if data is None or not len(texts):
        return np.empty(0, dtype=np.uint8)
    bounds = np.frombuffer(bounds, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data, dtype=np.uint8)[bounds[0] : bounds[-1]]


def _lengths(texts: pa.Array) -> Ints:
    return np.asarray(pc.utf8_length(texts).to_numpy(), dtype=np.int64)


def _space(texts: pa.Array) -> NDArray[np.bool_]:
    """Of every character of the joined texts, and of their end, whether it is white space."""
    codes = np.frombuffer(_bytes(texts).tobytes().decode().encode("utf-32-le"), dtype=np.uint32)
    return np.append(SPACE[np.minimum(codes, len(SPACE) - 1)], np.False_)
