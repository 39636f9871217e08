"""JSON Lines, one object a line, and JSON documents of records: an array or {"data": [...]}; plain or packed."""

import io
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Source
from trainwright.rows.tables import BATCH
from trainwright.sources.opening import read_text
from trainwright.sources.records import WORDS, Columns, Records, chunks, typed
from trainwright.sources.strict_json import Position, parse, parse_value

FORM = 'Write one object {…} a line, an array [{…}, …] or {"data": [{…}, …]}.'


def read(path: Path, file: str, columns: Columns, source: Source) -> Records:
    """One row a record. Its location is the line on which it begins, or its number where several begin on one line.

    A column that is null in every record has the type null. Raises InputError, with line and column, for what is not
    JSON, and for JSON that is no records.
    """
    records = Records({}, [], [])
    pieces: dict[str, list[pa.Array]] = {name: [] for name in columns}
    kinds = dict(columns)
    lines: list[int] = []
    found: dict[str, None] = {}
    objects = _objects(read_text(path, file, source.max_unpacked_gb), file, columns)
    while batch := list(islice(objects, BATCH)):
        for _, value in batch:
            found |= dict.fromkeys(value)
        for name in columns:
            piece, wrong = typed([value.get(name) for _, value in batch], kinds[name])
            if not pa.types.is_null(piece.type):
                kinds[name] = [piece.type]  # the first batch with a value decides
            pieces[name] += chunks(piece)
            records.note(name, {row + len(lines): reason for row, reason in wrong.items()})
        lines += [line for line, _ in batch]
    alone = len({*lines}) == len(lines)
    records.places = [f"line {line}" if alone else f"record {n}" for n, line in enumerate(lines, start=1)]
    records.found = list(found)
    for name in columns:
        if name in found:
            held = next((piece.type for piece in pieces[name] if not pa.types.is_null(piece.type)), pa.null())
            records.columns[name] = pa.chunked_array([piece.cast(held) for piece in pieces[name]], held)
    return records


def _objects(text: str, file: str, columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a file, each with the line on which it begins."""
    begin = Position(text).after_space()
    if text.startswith("[", begin.at):
        return _elements(text, file, begin)
    following = re.compile(r"\n\s*(\S)").search(text, begin.at)
    if text.startswith("{", begin.at) and (following is None or following[1] != "{"):
        value, end = parse_value(text, file, begin)
        if end.after_space().at == len(text) and (end.line > begin.line or _is_document(value, columns)):
            return _elements(text, file, _data(text, file, begin, value))
    return _lines(text, file)


def _is_document(value: dict[str, Any], columns: Columns) -> bool:
    return isinstance(value.get("data"), list) and not columns.keys() & value.keys()


def _data(text: str, file: str, begin: Position, value: dict[str, Any]) -> Position:
    """Where the list `data` of a document begins. Raises InputError if it has none."""
    if not isinstance(value.get("data"), list):
        keys = ", ".join(map(repr, islice(value, 5))) + (", …" if len(value) > 5 else "")
        reason = f"the file is one JSON object over several lines, with {f'the keys {keys}' if keys else 'no keys'}"
        raise InputError(Fault(file, f"{reason}, not a record on each line", FORM, row=f"line {begin.line}"))
    here = begin.moved(1).after_space()
    while True:  # past the keys and values before it
        key, here = parse_value(text, file, here)
        here = here.after_space().moved(1).after_space()
        if key == "data":
            return here
        _, here = parse_value(text, file, here)
        here = here.after_space().moved(1).after_space()


def _elements(text: str, file: str, begin: Position) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of the array that begins at `begin`. Raises InputError for other elements."""
    whole = begin.text[begin.at] == "[" and not text[: begin.at].strip()
    here = begin.moved(1).after_space()
    while not text.startswith("]", here.at):
        value, end = parse_value(text, file, here)
        if not isinstance(value, dict):
            reason = f"here stands {WORDS.get(type(value), 'null')}, not an object"
            raise InputError(Fault(file, reason, FORM, row=here.location))
        yield here.line, value
        here = end.after_space()
        if text.startswith(",", here.at):
            here = here.moved(1).after_space()
            if text.startswith("]", here.at):
                raise InputError(Fault(file, "not JSON: a comma before ]", "Remove it.", row=here.location))
        elif not text.startswith("]", here.at):
            reason = "not JSON: Expecting ',' delimiter"
            raise InputError(Fault(file, reason, "Mend the file at that place.", row=here.location))
    rest = here.moved(1).after_space()
    if whole and rest.at < len(text):
        reason = "not JSON: text after the array"
        raise InputError(Fault(file, reason, "Mend the file at that place.", row=rest.location))


def _lines(text: str, file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if line.strip():
            value = parse(line.rstrip("\r\n"), file, number)
            if not isinstance(value, dict):
                raise InputError(Fault(file, "the line is not an object", FORM, row=f"line {number}"))
            yield number, value
