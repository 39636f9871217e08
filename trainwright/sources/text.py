"""Plain text, UTF-8, plain or packed: documents apart by blank lines, one on each line, or one contiguous stream.

Documents are rows with the column `text`. A stream is one text from end to end: it is cut by position into its
train, validation and test parts, in this order and to the character, and each part into rows of about PIECE
characters, at ends of lines where there are any. Its rows have `group` (the part: rows of one part stay together),
`position` (the row's place in its part, from 0) and `id` (the file and the row's first character in it).
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from trainwright.core.params import Source, Stream
from trainwright.sources.opening import read_text
from trainwright.sources.records import Columns, Records

PIECE = 1_000
BLANK = re.compile(r"\n(?:[^\S\n]*\n)+")


def read(path: Path, file: str, columns: Columns, source: Source, split: str | None = None) -> Records:
    """The documents of a file, or with `source.stream` its one text; `split` is the one declared for the file.

    Line ends are made \\n. Raises InputError where the file is not UTF-8.
    """
    text = read_text(path, file, source.max_unpacked_gb).replace("\r\n", "\n").replace("\r", "\n")
    part = _lines if source.documents == "lines" else _documents
    records = _stream(text, file, source.stream, split) if source.stream else part(text)
    records.columns = {name: column for name, column in records.columns.items() if name in columns}
    return records


def _documents(text: str) -> Records:
    """One row a document, without the white space at its ends."""
    texts, lines = [], []
    begin, line = 0, 1
    for end, after in [*(found.span() for found in BLANK.finditer(text)), (len(text), len(text))]:
        document = text[begin:end]
        if bare := document.strip():
            texts.append(bare)
            lines.append(line + document[: document.index(bare)].count("\n"))
        line += text.count("\n", begin, after)
        begin = after
    return Records({"text": pa.array(texts, pa.string())}, [f"line {number}" for number in lines], ["text"])


def _lines(text: str) -> Records:
    """One row a line that holds more than white space, without the white space at its ends."""
    rows = {line: bare for line, raw in enumerate(text.split("\n"), start=1) if (bare := raw.strip())}
    return Records({"text": pa.array(rows.values(), pa.string())}, [f"line {line}" for line in rows], ["text"])


def _stream(text: str, file: str, shares: Stream, split: str | None) -> Records:
    """The rows of a stream; a part whose share is 0 has none."""
    bounds = [0, int(len(text) * shares.train), int(len(text) * (shares.train + shares.validation)), len(text)]
    parts = [(split, 0, len(text))] if split else zip(("train", "validation", "test"), bounds, bounds[1:], strict=False)
    columns: dict[str, list[str]] = {name: [] for name in ("id", "group", "text", "split")}
    positions: list[int] = []
    places: list[str] = []
    for name, begin, end in parts:
        for position, (first, last) in enumerate(pairwise(_cuts(text, begin, end))):
            values = (f"{file}:{first}", f"{file}:{name}", text[first:last], str(name))
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
            positions.append(position)
            places.append(f"character {first}")
    arrays = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    return Records({**arrays, "position": pa.array(positions, pa.int64())}, places, [*columns, "position"])


def _cuts(text: str, begin: int, end: int) -> Iterator[int]:
    """Where the rows of a part begin, and where it ends: after the last line end within PIECE characters, so that a
    row never begins in mid-line unless the line is longer. What is white space alone goes with the row before it.
    """
    yield begin
    at = begin
    while end - at > PIECE:
        line = text.rfind("\n", at, at + PIECE) + 1
        at = line if line > at else at + PIECE
        rest = re.compile(r"\s*").match(text, at, end)
        at = rest.end() if rest else at
        if at < end:
            yield at
    if begin < end:
        yield end
