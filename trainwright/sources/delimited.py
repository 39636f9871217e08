"""CSV and TSV, with a header line unless the source names the columns, UTF-8, plain or packed.

Python's reader is used rather than Arrow's, because it knows the line on which a record begins and refuses a quote
that is never closed, where Arrow's takes the rest of the file for one cell.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Source
from trainwright.rows.tables import BATCH
from trainwright.sources.opening import read_text
from trainwright.sources.records import NOT_WHOLE, TRUTH, Columns, Records, described, repeated

NUMBER = r"^([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?|(?i:[+-]?(nan|inf|infinity)))?$"
ENDLESS = r"^(?i:[+-]?(nan|inf|infinity))$"
WHOLE = r"^(-?[0-9]{1,18}(\.0*)?)?$"
LONGEST = 1 << 30  # characters of one cell; Python's own limit of 131,072 is less than a long context

LISTS = "lists, which no CSV file holds: bring JSON Lines"
DELIMITERS = {"csv": ",", "tsv": "\t"}
WORDS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}  # delimiters that are found out, in words
SAMPLE = 100  # records by which a delimiter is found out
EXCEL = re.compile(r'^"?sep=([^\w\s"]|\t)"?[^\S\n\r]*(\r\n|\n|\r|$)', re.IGNORECASE)  # the first line of some exports
LINE_END = re.compile(r"\r\n|\n|\r")
THOUSANDS = re.compile(r"[0-9]{3}(?![0-9])")
IN_PROSE = (",", ";", "|")  # delimiters that a text may hold, too
CHANCE = 3  # lines of prose that all look like records are rarer than a run of records
CLOSED = 50  # a column with more different values is not one of categories
REPEATS = 4  # how often, on average, each value of such a column comes


@dataclass(frozen=True)
class _Dialect:
    delimiter: str
    quoted: bool
    line_end: str
    skipped: int = 0  # lines before the first record


class _Record(NamedTuple):
    """The cells of a record, and the lines on which it begins and ends."""

    begins: int
    ends: int
    cells: list[str]


def read(path: Path, file: str, columns: Columns, source: Source) -> Records:
    """Every cell as it stands: an empty cell is empty text, or no number.

    Empty cells past the header are left out, and so are records of empty cells alone and columns without a name and
    without content. Raises InputError, with the line, for a record that has more or fewer cells than the header, a
    quote that is never closed or closes records later, or a header that names a column twice.
    """
    text = read_text(path, file, source.max_unpacked_gb)
    dialect = _dialect(text, source, columns)
    read_records = _records(text, file, dialect)
    first = next(read_records, None)
    if first is None:
        return Records({}, [], source.header or [])
    header = _header(first, file, source, dialect, columns)
    given = not source.header or _is_header(first, source.header, file, columns.keys() - _mapped(source))
    records = _fitting(read_records if given else _chain(first, read_records), header, file, dialect)
    runs = _Runs(header, dialect)
    if given and dialect.quoted:
        runs.suspect(first)
    kinds = {name: [t for t in columns[name] if not pa.types.is_nested(t)] for name in header if name in columns}
    pieces: dict[str, list[pa.Array]] = {name: [] for name, kind in kinds.items() if kind}
    nameless: dict[int, list[int]] = {at: [] for at, name in enumerate(header) if not name.strip()}
    lines: list[int] = []
    while batch := list(islice(records, BATCH)):
        cells = list(zip(*(record.cells for record in batch), strict=True))
        for at, name in enumerate(header):
            if name in pieces:
                pieces[name].append(pa.array(cells[at], pa.string()))
        for at, filled in nameless.items():
            filled += [len(lines) + row for row, cell in enumerate(cells[at]) if cell.strip()]
        runs.look(batch)
        lines += [record.begins for record in batch]
    runs.refuse(file)
    nameless = {at: filled for at, filled in nameless.items() if filled}
    found = [_shown(at, name, kinds.get(name)) for at, name in enumerate(header) if name.strip() or at in nameless]
    records_read = Records({}, [f"line {line}" for line in lines], found)
    for name, texts in pieces.items():
        records_read.columns[name], wrong = _parsed(pa.chunked_array(texts, pa.string()), kinds[name][0])
        records_read.note(name, wrong)
    for at, filled in nameless.items():
        if at or len(filled) < len(lines):  # a first column that is always filled is an index, as pandas writes it
            reason = "the row has content here, and the header has no name for the column"
            records_read.note(f"column {at + 1}", dict.fromkeys(filled, reason))
    return records_read


def _shown(at: int, name: str, kinds: list[pa.DataType] | None) -> str:
    """What messages call a column."""
    if not name.strip():
        return f"column {at + 1} (without a name)"
    return name if kinds is None or kinds else f"{name} ({LISTS})"


def _chain(first: _Record, rest: Iterator[_Record]) -> Iterator[_Record]:
    yield first
    yield from rest


# What divides cells


def _dialect(text: str, source: Source, columns: Columns) -> _Dialect:
    """The delimiter that the source names, or else Excel's line `sep=;`, or else the one that plainly divides cells."""
    excel = EXCEL.match(text)
    skipped, found = (1, excel[1]) if excel else (0, DELIMITERS[source.format])
    line_end = LINE_END.search(text)
    usual = _Dialect(source.delimiter or found, source.quoted, line_end[0] if line_end else "\n", skipped)
    if source.delimiter or excel:
        return usual
    width = len(source.header or []) or None
    first = next(iter(_sample(text, usual, 1)), [])
    if len(first) == width if width else any(name in columns for name in first):
        return usual
    plain = [d for d in (replace(usual, delimiter=mark) for mark in WORDS) if _divides(text, d, width)]
    return plain[0] if len(plain) == 1 and usual not in plain else usual


def _sample(text: str, dialect: _Dialect, records: int) -> list[list[str]]:
    """The cells of the first records; none if they cannot be read so."""
    try:
        return [record.cells for record in islice(_records(text, "", dialect), records)]
    except InputError:
        return []


def _divides(text: str, dialect: _Dialect, width: int | None) -> bool:
    """Whether all of the first records have the same number of cells: `width`, or at least two."""
    widths = {len(cells) for cells in _sample(text, dialect, SAMPLE)}
    return len(widths) == 1 and (widths == {width} if width else min(widths) > 1)


def _in_words(delimiter: str) -> str:
    return WORDS.get(delimiter, repr(delimiter))


def _records(text: str, file: str, dialect: _Dialect) -> Iterator[_Record]:
    """All records; empty lines are passed over, and so are lines of empty cells alone."""
    csv.field_size_limit(LONGEST)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE
    lines = io.StringIO(text, newline="")
    for _ in range(dialect.skipped):
        next(lines, "")
    reader = csv.reader(lines, delimiter=dialect.delimiter, quoting=quoting, strict=True)
    begins = dialect.skipped + 1
    try:
        for cells in reader:
            ends = dialect.skipped + reader.line_num
            if any(cells) or len(cells) == 1:
                yield _Record(begins, ends, cells)
            begins = ends + 1
    except csv.Error as error:
        ends = dialect.skipped + reader.line_num
        if "unexpected end" in str(error):
            reason = f"a quote opens here and is never closed (the file ends on line {ends})"
        else:
            until = f" on line {ends}" if ends > begins else ""
            reason = f"a quote closes within a cell{until} ({error})"
        remedy = 'Close the quote and write one within quotes twice (""), or say `source.quoted: false`.'
        raise InputError(Fault(file, reason, remedy, row=f"line {begins}")) from None


# The header


def _header(first: _Record, file: str, source: Source, dialect: _Dialect, columns: Columns) -> list[str]:
    """The names of the columns. Raises InputError for one that comes twice, and for a header in other marks."""
    header, row = source.header or first.cells, "" if source.header else f"line {first.begins}"
    if (twice := repeated(name for name in header if name.strip())) is not None:
        at = header.index(twice)
        reason = f"the header names {twice!r} twice (columns {at + 1} and {header.index(twice, at + 1) + 1})"
        raise InputError(Fault(file, reason, "Rename one.", row=row))
    if not dialect.quoted and any(len(name) > 1 and name[0] == name[-1] == '"' for name in header):
        reason = "the names in the header stand in quotes, and quotes are read as text"
        raise InputError(Fault(file, reason, "Write `source.quoted: true`.", row=row, field="source.quoted"))
    others = [mark for mark in WORDS if mark != dialect.delimiter and mark in header[0]]
    if len(header) == 1 and header[0] not in columns and others and not source.delimiter:
        reason = f"the header is one cell, which holds {' and '.join(_in_words(mark) for mark in others)}"
        shown = "\\t" if others[0] == "\t" else others[0]
        remedy = f'If that divides the columns, say so: source.delimiter: "{shown}". Otherwise map the column.'
        raise InputError(Fault(file, reason, remedy, row=row, field="source.delimiter"))
    return header


def _mapped(source: Source) -> set[str]:
    """The source's columns that `source.columns` names."""
    return {name for theirs in source.columns.values() for name in ([theirs] if isinstance(theirs, str) else theirs)}


def _is_header(first: _Record, header: Sequence[str], file: str, ours: Set[str]) -> bool:
    """Whether the first record repeats the names of `source.header`.

    Raises InputError if it does so in another order, or in one of the columns that have our name.
    """
    own, named = ([name.strip().casefold() for name in names] for names in (first.cells, header))
    while own and not own[-1]:
        own.pop()
    if own != named and sorted(own) == sorted(named):
        reason = "the file has a header of its own, whose names are in another order than in source.header"
        remedy = "Take `header` out of the source."
        raise InputError(Fault(file, reason, remedy, row=f"line {first.begins}", field="source.header"))
    pairs = zip(first.cells, header, strict=False)
    same = [name for cell, name in pairs if name in ours and cell.strip().casefold() == name.casefold()]
    if own != named and same:
        reason = f"the line looks like a header, with {same[0]!r} in the column of this name"
        remedy = "Take `header` out of the source and map the columns, or take the line out of the file."
        raise InputError(Fault(file, reason, remedy, row=f"line {first.begins}", field="source.header"))
    return own == named


def _fitting(records: Iterator[_Record], header: Sequence[str], file: str, dialect: _Dialect) -> Iterator[_Record]:
    """The records with as many cells as the header: those of trailing columns without a name may be absent.

    Raises InputError for a record that has other cells too many or too few.
    """
    width = len(header)
    for record in records:
        cells = _fitted(record.cells, header)
        if cells is None:
            cells_found = f"{len(record.cells)} cell{'s' * (len(record.cells) != 1)}"
            reason = f"the record has {cells_found}, the header {width}"
            wrong = f"Quote cells that hold {_in_words(dialect.delimiter)} or a line break"
            if not dialect.quoted:
                wrong = "Write `source.quoted: true` if cells stand in quotes"
            remedy = f"{wrong}; if something else divides the cells, name it: source.delimiter."
            raise InputError(Fault(file, reason, remedy, row=f"line {record.begins}"))
        yield record if cells is record.cells else _Record(record.begins, record.ends, cells)


def _fitted(cells: list[str], header: Sequence[str]) -> list[str] | None:
    """As many cells as the header has; None if others than empty ones would be lost or made up."""
    if len(cells) == len(header):
        return cells
    if any(cells[len(header) :]) or any(name.strip() for name in header[len(cells) :]):
        return None
    return [*cells[: len(header)], *[""] * (len(header) - len(cells))]


# Quotes that swallow records


@dataclass
class _Suspect:
    """A cell over several lines, and the cells that its lines would have as records of their own."""

    column: int
    begins: int
    ends: int
    records: list[list[str]]


@dataclass
class _Runs:
    """The search for cells that hold a run of whole records, between a stray quote and another one below.

    A cell of several lines is a text in most files. It is a run of records if its lines, taken as records, have the
    header's number of cells, and if these look like those of other records: one of the column's values where the column
    has few, empty only where others are, and without what commas have in prose: a space after them, or thousands. A
    line break that does not end records, or an empty line, belongs to a text. In a file with such texts a short run
    of lines may look like records by chance, so it takes more of them.
    """

    header: Sequence[str]
    dialect: _Dialect
    suspects: list[_Suspect] = field(default_factory=list)
    texts: int = 0  # cells of several lines that are no records
    count: int = 0  # records that nothing is suspected of, from which the next two are
    values: dict[int, set[str]] = field(default_factory=dict)  # of columns with few of them
    blank: set[int] = field(default_factory=set)  # columns that may be empty

    def __post_init__(self) -> None:
        self.values = {at: set() for at in range(len(self.header))}
        self.named = max(  # the least number of cells of a record
            (at + 1 for at, name in enumerate(self.header) if name.strip()), default=0
        )

    def look(self, records: Sequence[_Record]) -> None:
        """Take in what the cells of each column hold, and which cells may be runs."""
        if not self.dialect.quoted:
            return
        plain = [r.cells for r in records if r.begins == r.ends or not self.suspect(r)]
        self.count += len(plain)
        for at, cells in enumerate(zip(*plain, strict=True)):
            distinct = set(cells)
            if "" in distinct:
                self.blank.add(at)
            if at in self.values:
                self.values[at] |= distinct
                if len(self.values[at]) > CLOSED:
                    del self.values[at]

    def suspect(self, record: _Record) -> bool:
        """Keep the cells whose first and last lines, with what stands beside them, have as many cells as a record."""
        begins, before = record.begins, len(self.suspects)
        for at, cell in enumerate(record.cells):
            breaks = LINE_END.findall(cell)
            ends = begins + len(breaks)
            if set(breaks) == {self.dialect.line_end}:
                lines = [line.split(self.dialect.delimiter) for line in cell.split(self.dialect.line_end)]
                if self._may_fit(at + len(lines[0])) and self._may_fit(len(lines[-1]) + len(record.cells) - at - 1):
                    first, last = [*record.cells[:at], *lines[0]], [*lines[-1], *record.cells[at + 1 :]]
                    if self._fits(first) and self._fits(last):
                        self.suspects.append(_Suspect(at, begins, ends, [first, *lines[1:-1]]))
            self.texts += bool(breaks)
            begins = ends
        return len(self.suspects) > before

    def refuse(self, file: str) -> None:
        """Raises InputError for the first cell that is a run of records."""
        alike = [sum(map(self._alike, suspect.records)) for suspect in self.suspects]
        runs = [s for s, count in zip(self.suspects, alike, strict=True) if 2 * count >= len(s.records)]
        if self.texts > len(runs) and self.dialect.delimiter in IN_PROSE:
            runs = [s for s in runs if len(s.records) >= CHANCE and all(map(self._alike, s.records))]
        if runs:
            reason = f"a quote opens here and closes on line {runs[0].ends}, and the lines between are records"
            remedy = (
                "If quotes are text in this file, write `source.quoted: false`. Otherwise mend the two quotes (one "
                'within quotes is written twice: ""), or take the line breaks out of the cell.'
            )
            name = self.header[runs[0].column]
            raise InputError(Fault(file, reason, remedy, row=f"line {runs[0].begins}", field=name))

    def _may_fit(self, cells: int) -> bool:
        """Whether so many cells may be those of a record: asked first, so that no wide record is copied in vain."""
        return cells >= self.named

    def _fits(self, cells: list[str]) -> bool:
        return _fitted(cells, self.header) is not None

    def _alike(self, cells: list[str]) -> bool:
        """Whether the cells of a line look like those of the records around."""
        fitted = _fitted(cells, self.header)
        if fitted is None or self.dialect.delimiter not in IN_PROSE:
            return fitted is not None
        return all(self._is_like(at, cell, fitted[at - 1]) for at, cell in enumerate(fitted))

    def _is_like(self, at: int, cell: str, before: str) -> bool:
        known = self.values.get(at)
        if known and self.count >= REPEATS * max(len(known), CHANCE):
            return cell in known
        if cell == "":
            return at in self.blank
        spaced = cell[0] == " " and not any(name.startswith(" ") for name in self.header[1:])
        numbers = before.strip().isdigit() and cell.strip().isdigit()
        thousands = self.dialect.delimiter == "," and not numbers and before[-1:].isdigit() and THOUSANDS.match(cell)
        return at == 0 or not (spaced or thousands)


# What cells hold


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
        fits = pc.match_substring_regex(trimmed, WHOLE)
        digits = pc.replace_substring_regex(trimmed, r"\.0*$", "")
        values = pc.if_else(pc.and_(fits, pc.not_equal(trimmed, "")), digits, None).cast(kind)
    endless = pc.match_substring_regex(trimmed, ENDLESS)
    wrong = dict.fromkeys(pc.indices_nonzero(pc.invert(fits)).to_pylist(), f"is not {described(kind)}")
    wrong |= dict.fromkeys(pc.indices_nonzero(pc.and_(endless, pc.invert(fits))).to_pylist(), NOT_WHOLE[0])
    return values, wrong
