"""JSON Lines: one object a line, UTF-8, plain or packed with gzip."""

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainwright.core.errors import Fault, InputError
from trainwright.rows.tables import BATCH
from trainwright.sources.opening import read_text
from trainwright.sources.records import Columns, Records, typed
from trainwright.sources.strict_json import parse


def read(path: Path, file: str, columns: Columns) -> Records:
    """One row a line; empty lines are passed over. Raises InputError, with line and column, for what is not JSON."""
    records = Records({}, [], [])
    pieces: dict[str, list[pa.Array]] = {name: [] for name in columns}
    places: list[str] = []
    found: dict[str, None] = {}
    objects = _objects(read_text(path, file), file)
    while batch := list(islice(objects, BATCH)):
        for _, value in batch:
            found |= dict.fromkeys(value)
        for name, kinds in columns.items():
            values = [value.get(name) for _, value in batch]
            piece, wrong = typed(values, kinds if not pieces[name] else [pieces[name][0].type])
            pieces[name].append(piece)
            records.note(name, {row + len(places): reason for row, reason in wrong.items()})
        places += [f"line {line}" for line, _ in batch]
    records.places, records.found = places, list(found)
    records.columns = {name: pa.chunked_array(pieces[name]) for name in columns if name in found}
    return records


def _objects(text: str, file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if line.strip():
            value = parse(line.rstrip("\r\n"), file, number)
            if not isinstance(value, dict):
                remedy = "JSON Lines holds one object {…} a line; for one whole document use another format."
                raise InputError(Fault(file, "the line is not an object", remedy, row=f"line {number}"))
            yield number, value
