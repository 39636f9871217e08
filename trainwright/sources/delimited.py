"""CSV and TSV, with a header line unless the source names the columns, UTF-8, plain or packed with gzip.

Python's reader is used rather than Arrow's, because it knows the line on which a record begins and refuses a quote
that is never closed, where Arrow's takes the rest of the file for one cell.
"""

import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Source
from trainwright.rows.tables import BATCH
from trainwright.sources.opening import read_text
from trainwright.sources.records import Columns, Records, described, repeated

TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": None}
NUMBER = r"^([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?|(?i:[+-]?(nan|inf|infinity)))?$"
LONGEST = 1 << 30  # characters of one cell; Python's own limit of 131,072 is less than a long context

LISTS = "lists, which no CSV file holds: bring JSON Lines"
DELIMITERS = {"csv": ",", "tsv": "\t"}


def read(path: Path, file: str, columns: Columns, source: Source) -> Records:
    """Every cell as it stands: an empty cell is empty text, or no number.

    Raises InputError, with the line, for a record that has more or fewer cells than the header, an open quote,
    or a header that names a column twice.
    """
    rows = _records(read_text(path, file), file, source)
    header = source.header or next(rows, (0, []))[1]
    if (twice := repeated(header)) is not None:
        first = header.index(twice)
        reason = f"the header names {twice!r} twice (columns {first + 1} and {header.index(twice, first + 1) + 1})"
        row = "" if source.header else "line 1"
        raise InputError(Fault(file, reason, "Rename one.", row=row))
    kinds = {name: [t for t in columns[name] if not pa.types.is_nested(t)] for name in header if name in columns}
    pieces: dict[str, list[pa.Array]] = {name: [] for name, kind in kinds.items() if kind}
    lines: list[int] = []
    while batch := list(islice(rows, BATCH)):
        cells = dict(zip(header, zip(*(row for _, row in batch), strict=True), strict=True))
        for name, pieces_of in pieces.items():
            pieces_of.append(pa.array(cells[name], pa.string()))
        lines += [line for line, _ in batch]
    found = [name if kinds.get(name, True) else f"{name} ({LISTS})" for name in header]
    records = Records({}, [f"line {line}" for line in lines], found)
    for name, texts in pieces.items():
        records.columns[name], wrong = _parsed(pa.chunked_array(texts, pa.string()), kinds[name][0])
        records.note(name, wrong)
    return records


def _records(text: str, file: str, source: Source) -> Iterator[tuple[int, list[str]]]:
    """The line on which each record begins, and its cells; empty lines are passed over."""
    csv.field_size_limit(LONGEST)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if source.quoted else csv.QUOTE_NONE
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=DELIMITERS[source.format], quoting=quoting, strict=True)
    width, begins = len(source.header or []), 1
    try:
        for row in reader:
            if row:
                width = width or len(row)
                if len(row) != width:
                    reason = f"the record has {len(row)} cells, the header {width}"
                    raise InputError(Fault(file, reason, "Quote cells that hold delimiters.", row=f"line {begins}"))
                yield begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        reason = "a quote is never closed" if "unexpected end" in str(error) else str(error)
        remedy = 'Close the quote and write one within quotes twice (""), or say `source.quoted: false`.'
        raise InputError(Fault(file, reason, remedy, row=f"line {begins}")) from None


def _parsed(texts: Any, kind: pa.DataType) -> tuple[Any, dict[int, str]]:
    """A column of cells as text, numbers or truth values, and what is wrong with those that are not."""
    if pa.types.is_string(kind):
        return texts, {}
    trimmed = pc.utf8_trim_whitespace(texts)
    if pa.types.is_boolean(kind):
        good = pa.array(list(TRUTH))
        words = pc.utf8_lower(trimmed)
        fits = pc.is_in(words, value_set=good)
        values = pa.array(list(TRUTH.values())).take(pc.index_in(words, value_set=good))
    elif pa.types.is_floating(kind):
        fits = pc.match_substring_regex(trimmed, NUMBER)
        values = pc.if_else(pc.and_(fits, pc.not_equal(trimmed, "")), trimmed, None).cast(kind)
    else:
        fits = pc.match_substring_regex(trimmed, r"^(-?[0-9]{1,18})?$")
        values = pc.if_else(pc.and_(fits, pc.not_equal(trimmed, "")), trimmed, None).cast(kind)
    wrong = pc.indices_nonzero(pc.invert(fits)).to_pylist()
    return values, dict.fromkeys(wrong, f"is not {described(kind)}")
