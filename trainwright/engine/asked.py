"""The rows of a file that is to be predicted, read and cleaned as the pipeline read and cleaned those of its source.

The readers are those of ingestion. How the source was read is stored with the model; what a person says on the command
line goes first, and what is meant for files of another format is left out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainwright import sources
from trainwright.core.errors import Fault, InputError, nearest
from trainwright.core.params import Cleaning, Source
from trainwright.sources.records import Columns
from trainwright.text.cleaning import clean_rows

OF_ALL = ("columns", "separator", "max_unpacked_gb")  # settings that files of every format may have
OF_SOME = ("header", "delimiter", "quoted", "documents", "token_column", "tag_column")
FLAG = re.compile(r"`?source\.(delimiter|quoted|header)(?:: ?(?=\S)([^\s`]*))?`?")


@dataclass(frozen=True)
class Wish:
    """What a person says of how the file is read; what is None or empty is as the model has it stored."""

    format: str | None = None
    columns: tuple[str, ...] = ()  # OURS=THEIRS
    header: tuple[str, ...] = ()
    delimiter: str | None = None
    quoted: bool | None = None
    documents: str | None = None


@dataclass(frozen=True)
class Asked:
    """Sound rows, clean, in the file's order, each with its number (from 1, as text) as its `id`.

    `texts` are the first text of each row as the file has it. `ids` and `places` are of every row of the file, the
    former None where it has none of its own. `faults` name the rows that are left out, by their numbers.
    """

    rows: pa.Table
    texts: pa.ChunkedArray
    ids: list[str | None]
    places: list[str]
    faults: dict[int, Fault]

    def fault(self, number: str, fault: Fault) -> Fault:
        """The fault of a row with the id and the place that the row has in the file."""
        at = int(number) - 1
        return replace(fault, row=self.places[at], id=self.ids[at] or "")


def read(part: Any, path: Path, options: Mapping[str, Any], wish: Wish, cleaning: Cleaning) -> Asked:
    """The rows of a file that can be predicted, and a Fault for each that cannot be; `part` is the task's rows part.

    What the file may say of gold or of splits is not looked at. `options` are what publishing stored of the source.
    Raises InputError where the file cannot be read, in words of the command line.
    """
    try:
        table, rows, faults = _sound(part, path, options, wish)
    except InputError as error:
        raise InputError(*map(_as_flags, error.faults)) from None
    held = table["id"].cast(pa.string()).to_pylist() if "id" in table.column_names else [None] * table.num_rows
    asked = Asked(rows, rows[part.TEXTS[0].column], [name or None for name in held], table["place"].to_pylist(), {})
    found = {int(fault.id): asked.fault(fault.id, fault) for fault in faults}
    rows = rows.take(pa.array(np.argsort(np.array(rows["id"].to_pylist(), dtype=np.int64))))
    texts = rows[part.TEXTS[0].column]
    cleaned = clean_rows(rows, part.TEXTS, cleaning)
    kept = pc.is_in(rows["id"], value_set=cleaned.rows["id"].combine_chunks())
    for number, reason in zip(*(cleaned.dropped[name].to_pylist() for name in ("id", "reason")), strict=True):
        says = f"once it is cleaned, the row has an {reason}"
        found[int(number)] = asked.fault(number, Fault(str(path), says, "Mend or remove the row."))
    return replace(asked, rows=cleaned.rows, texts=texts.filter(kept), faults=found)


def _sound(part: Any, path: Path, options: Mapping[str, Any], wish: Wish) -> tuple[pa.Table, pa.Table, list[Fault]]:
    """The file's table, and its rows and faults as the task has them, with their numbers as ids."""
    source, columns = _source(part, path, options, wish)
    given = {pair.partition("=")[0] for pair in wish.columns}
    missed: InputError | None = None
    while True:
        try:
            table = _table(source, columns, () if wish.header else _gold(part, options))
            break
        except InputError as error:
            ours = error.faults[0].field.removeprefix("source.columns.")
            if ours not in source.columns or ours in given:
                raise
            missed = missed or error  # the file may have our own name for it, or do without
            source = source.model_copy(update={"columns": {n: c for n, c in source.columns.items() if n != ours}})
    numbers = pa.array(map(str, range(1, table.num_rows + 1)), pa.string())
    numbered = table.drop_columns("id") if "id" in table.column_names else table
    try:
        rows, faults = part.from_source(numbered.append_column("id", numbers), str(path), answered=False)
    except InputError as error:
        raise (missed or error) from None
    return table, rows, faults


def _source(part: Any, path: Path, options: Mapping[str, Any], wish: Wish) -> tuple[Source, Columns]:
    """How the file is read, and the columns that are."""
    form = wish.format or _format(part, path, options)
    names = OF_ALL + (OF_SOME if form == options.get("format") else ())
    settings = {name: options[name] for name in names if options.get(name) is not None}
    settings |= {"header": list(wish.header)} if wish.header else {}
    said = {"delimiter": wish.delimiter, "quoted": wish.quoted, "documents": wish.documents}
    settings |= {name: value for name, value in said.items() if value is not None}
    gold = _gold(part, options)
    mapped = {ours: theirs for ours, theirs in settings.get("columns", {}).items() if _is_read(part, ours)}
    for pair in wish.columns:
        ours, _, theirs = pair.partition("=")
        if not _is_read(part, ours):
            known = [name for name in part.COLUMNS if _is_read(part, name)]
            raise InputError(Fault("--column", f"the task reads no column {ours!r}", nearest(ours, known)))
        mapped[ours] = theirs
    columns = {
        name: kinds
        for name, kinds in part.COLUMNS.items()
        if _is_read(part, name) and (name in mapped or name not in gold)
    }
    try:
        source = Source.model_validate(settings | {"uri": str(path.resolve()), "format": form, "columns": mapped})
    except ValueError as error:
        reason = str(error).splitlines()[2 if "\n" in str(error) else 0].strip()
        raise InputError(Fault(str(path), reason, "See `trainwright predict --help`.")) from None
    return source, columns


def _is_read(part: Any, name: str) -> bool:
    return name in part.COLUMNS and name not in (*part.GOLD, "split")


def _gold(part: Any, options: Mapping[str, Any]) -> set[str]:
    """The names that columns of gold have in the source: mapped ones, and our own."""
    mapped = [options.get("columns", {}).get(name, name) for name in part.GOLD]
    return {name for theirs in mapped for name in ([theirs] if isinstance(theirs, str) else theirs)}


def _format(part: Any, path: Path, options: Mapping[str, Any]) -> str:
    """The format of a file by its name; the source's if names like this one had it there, or the name says nothing."""
    name, trained = path.name.lower(), options.get("format")
    by_name = [form for form, ends in sources.SUFFIXES.items() if name.endswith(ends)]
    same_name = trained in by_name or name.endswith(tuple(options.get("suffixes", ())))
    if trained not in (None, "hub") and (same_name or not by_name):
        return str(trained)
    if not by_name:
        ends = ", ".join(end for ends in sources.SUFFIXES.values() for end in ends)
        remedy = f"Let it end in one of {ends}, or give its format: --format."
        raise InputError(Fault(str(path), "its name does not say what form it has", remedy))
    return "jsonl" if by_name == ["squad"] and "answers" not in part.COLUMNS else by_name[0]


def _table(source: Source, columns: Columns, gold: set[str] | tuple[()]) -> pa.Table:
    """The file's table. Of the names in `header` those of gold may be left out, as their cells are."""
    try:
        return sources.read(source, Path.cwd(), columns)
    except InputError:
        shorter = [name for name in source.header or [] if name not in gold]
        if not shorter or shorter == source.header:
            raise
        try:
            return sources.read(source.model_copy(update={"header": shorter}), Path.cwd(), columns)
        except InputError:
            pass
        raise


def _as_flags(fault: Fault) -> Fault:
    """A fault that names a setting of params.yaml, with the command line's flag in its place."""
    remedy = re.sub(r"source\.columns: \{(\w+): THE_COLUMN\}", r"--column \1=THE_COLUMN", fault.remedy)
    remedy = FLAG.sub(lambda found: f"--{found[1]}" + (f" {found[2]}" if found[2] else ""), remedy)
    field = re.sub(r"^source\.columns\.(\w+)$", r"--column \1", fault.field)
    return replace(fault, remedy=remedy, field=FLAG.sub(r"--\1", field))
