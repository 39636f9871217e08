"""Readers of sources: SQuAD JSON, CSV and TSV, JSON Lines, Parquet, plain text, CoNLL, data sets of the Hub.

`read` gives one table, whatever the format: the columns that were asked for, under our names, and

    place    string           where a person finds the row: "line 3", "row 17", "data[0].paragraphs[2].qas[1]"
    split    string           the split that the source declares for the row, else null (or absent)
    problem  struct or null   {field, reason}: a value of the row that could not be read, which is null in its column

Text stays text: "NA", "null", "None" and "01" are what they were in the file. What is wrong with a file as a
whole (its encoding, its form, a missing column) raises InputError at once; what is wrong with a row's content
is for the task's `from_source` to say.
"""

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core.errors import Fault, InputError, nearest
from trainwright.core.params import Source
from trainwright.sources import conll, delimited, hub, jsonl, parquet, squad, text
from trainwright.sources.opening import GB
from trainwright.sources.records import Columns, Records, described, flagged, listed

READERS: Mapping[str, Callable[[Path, str, Columns, Source], Records]] = {
    "squad": squad.read,
    "jsonl": jsonl.read,
    "parquet": parquet.read,
    "conll": conll.read,
}
SUFFIXES = {
    "squad": (".json", ".json.gz", ".json.zip"),
    "csv": (".csv", ".csv.gz", ".csv.zip"),
    "tsv": (".tsv", ".tsv.gz", ".tsv.zip"),
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zip", ".ndjson"),
    "parquet": (".parquet",),
    "text": (".txt", ".txt.gz", ".txt.zip"),
    "conll": (".conll", ".conll.gz", ".conll.zip", ".bio", ".iob"),
}
HIDDEN = (".", "~$")  # how names begin that macOS, editors and Office leave beside a user's own files
TEXT = (pa.string(),)
FLAG = (pa.string(), pa.int64(), pa.bool_())
FLAGGED = "labels"  # several columns mapped to it hold 0 or 1 each, and are labels by their names
SPECIAL = {stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
LONGEST = 2**31 - 1  # bytes of a column
PROBLEM = pa.struct([("field", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True)
class File:
    """One file of a source: its name as a user would write it, and the split that the source declares for it."""

    name: str
    path: Path
    split: str | None = None


def read(source: Source, root: Path, columns: Columns) -> pa.Table:
    """All rows of `source`, a relative `uri` read against `root`. `columns` are those that the task can use.

    Raises InputError where the source cannot be read or holds no rows, and MachineryError where a server fails.
    """
    pieces = dict(read_files(source, root, columns))
    _require_alike(pieces)
    whole = pa.concat_tables(_one_encoding(list(pieces.values())), promote_options="permissive")
    _require_short(whole, source.uri)
    for at, name in enumerate(whole.column_names):
        if pa.types.is_null(whole.schema.field(name).type) and name in columns:
            whole = whole.set_column(at, name, pa.nulls(whole.num_rows, columns[name][0]))
    if whole.num_rows == 0:
        raise InputError(Fault(source.uri, "holds no rows", "Name a source with at least one row."))
    return whole


def _require_alike(pieces: Mapping[str, pa.Table]) -> None:
    """Raises InputError if files differ in the type of a column. One without values has no type."""
    first: dict[str, tuple[str, pa.DataType]] = {}
    for file, table in pieces.items():
        for name in table.column_names:
            kind = table.schema.field(name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if pa.types.is_null(kind):
                continue
            other, known = first.setdefault(name, (file, kind))
            if known != kind:
                reason = f"the column holds {described(kind)} here, and {described(known)} in {other}"
                raise InputError(Fault(file, reason, "Give the column one type in all files.", field=name))


def _one_encoding(tables: list[pa.Table]) -> list[pa.Table]:
    """Tables in which a column is dictionary-encoded (categorical, in pandas' words) in all or in none."""
    fields = [field for table in tables for field in table.schema]
    plain = {f.name for f in fields if not pa.types.is_dictionary(f.type) and not pa.types.is_null(f.type)}
    return [
        pa.table(
            {
                field.name: column.cast(field.type.value_type)
                if field.name in plain and pa.types.is_dictionary(field.type)
                else column
                for field, column in zip(table.schema, table.columns, strict=True)
            },
            metadata=table.schema.metadata,
        )
        for table in tables
    ]


def _require_short(table: pa.Table, file: str) -> None:
    """Raises InputError if a column has more text than Arrow's 32-bit offsets reach."""
    for name in table.column_names:
        column = table.column(name)
        if not pa.types.is_dictionary(column.type) and column.nbytes > LONGEST:
            reason = f"the column holds {column.nbytes / GB:.1f} GB, and at most {LONGEST / GB:.1f} GB can be read"
            remedy = "Divide the source among pipelines, or shorten the texts."
            raise InputError(Fault(file, reason, remedy, field=name))


def read_files(source: Source, root: Path, columns: Columns) -> Iterator[tuple[str, pa.Table]]:
    """The name and the table of every file of a source, or of every split of a Hub data set."""
    for ours in source.columns:
        if ours not in columns:
            field = f"source.columns.{ours}"
            raise InputError(Fault("params.yaml", "unknown column", nearest(ours, columns), field=field))
        if isinstance(source.columns[ours], list) and not _flagged(source, ours):
            field = f"source.columns.{ours}"
            if ours == "label":
                remedy = f"Name one column, or map columns of 0 and 1 as `{FLAGGED}: […]`."
                raise InputError(Fault("params.yaml", "a label comes from one column", remedy, field=field))
            if pa.string() not in columns[ours]:
                reason = "columns are joined where a text is wanted"
                raise InputError(Fault("params.yaml", reason, "Name one column.", field=field))
    names = _names(source, columns)
    wanted = {name: _types(source, columns, ours) for ours, theirs in names.items() for name in theirs}
    if source.format == "hub":
        parts = [(name, name, split, records) for name, split, records in hub.read(source, wanted)]
    else:
        parts = [(f.name, f.name, f.split, _records(source, f, wanted)) for f in files(source, root)]
    for name, shown, split, records in parts:
        prefix = f"{shown}, " if len(parts) > 1 else ""
        yield name, _table(source, columns, records, split, prefix)


def _flagged(source: Source, ours: str) -> bool:
    """Whether the columns mapped to `ours` say of each label whether a row has it."""
    return ours == FLAGGED and isinstance(source.columns.get(ours), list)


def _types(source: Source, columns: Columns, ours: str) -> Sequence[pa.DataType]:
    """The types that the source's columns for `ours` may have."""
    if _flagged(source, ours):
        return FLAG
    theirs = source.columns.get(ours)
    return TEXT if isinstance(theirs, list) and len(theirs) > 1 else columns[ours]


def _records(source: Source, file: File, wanted: Columns) -> Records:
    if source.format == "text":
        return text.read(file.path, file.name, wanted, source, file.split)
    if source.format in delimited.DELIMITERS:
        return delimited.read(file.path, file.name, wanted, source)
    return READERS[source.format](file.path, file.name, wanted, source)


def files(source: Source, root: Path) -> list[File]:
    """The files of a source that is not on the Hub, in a fixed order. Raises InputError for one that is missing."""
    if source.uri.startswith(("http://", "https://", "hub:")):
        remedy = "Download it and name the file; for the Hub write `format: hub` and `uri: hub:owner/name`."
        raise InputError(Fault(source.uri, f"format {source.format} is read from files", remedy))
    base = root / source.uri
    if base.is_dir():
        return _in_folder(source, base)
    if source.splits:
        remedy = "Let uri be the folder and splits the files in it."
        raise InputError(
            Fault(source.uri, "`splits` names files, but uri is not a folder", remedy, field="source.splits")
        )
    return [_existing(source.uri, base, None)]


def _in_folder(source: Source, folder: Path) -> list[File]:
    if source.splits:
        declared = [_existing(name, folder / name, split) for split, name in source.splits.items()]
        _require_different(declared)
        return declared
    suffixes = SUFFIXES[source.format]
    names = (path.name for path in folder.iterdir() if not path.name.startswith(HIDDEN))
    found = sorted(name for name in names if name.lower().endswith(suffixes))
    if not found:
        reason = f"the folder holds no file that ends in {' or '.join(suffixes)}"
        raise InputError(Fault(source.uri, reason, "Name the folder that holds them, or change the format."))
    return [_existing(name, folder / name, None) for name in found]


def _require_different(declared: list[File]) -> None:
    """Raises InputError if two splits are one file, whatever its names."""
    seen: dict[tuple[int, int], File] = {}
    for file in declared:
        known = file.path.stat()
        other = seen.setdefault((known.st_dev, known.st_ino), file)
        if other is not file:
            reason = f"the splits {other.split} and {file.split} are one file"
            raise InputError(Fault(file.name, reason, "Name another file for one of them.", field="source.splits"))


def _existing(name: str, path: Path, split: str | None) -> File:
    """A file that is there, and can be read without waiting. Raises InputError for a folder, a pipe or a device."""
    if any("\ud800" <= character <= "\udfff" for character in name):
        shown = os.fsencode(name).decode("utf-8", errors="backslashreplace")
        raise InputError(Fault(shown, "the name of the file is not UTF-8", "Rename the file."))
    if path.is_dir() or (path.is_symlink() and not path.exists()):
        reason = "it is a folder" if path.is_dir() else "it is a link to nothing"
        raise InputError(Fault(name, reason, "Take it out of the folder, or name the files one by one in `splits`."))
    if path.exists() and not path.is_file():
        kind = SPECIAL.get(stat.S_IFMT(path.stat().st_mode), "no plain file")
        raise InputError(Fault(name, f"it is {kind}, not a file", "Write its content to a file, and name that."))
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        remedy = nearest(path.name, beside) if beside else f"There is no folder {path.parent} either."
        raise InputError(Fault(name, "there is no such file", remedy))
    return File(name, path, split)


def _names(source: Source, columns: Columns) -> dict[str, list[str]]:
    """The source's names of each of our columns. One that is mapped to ours is not also taken under its own name."""
    mapped = {ours: [theirs] if isinstance(theirs, str) else theirs for ours, theirs in source.columns.items()}
    taken = {name for theirs in mapped.values() for name in theirs}
    return {n: mapped.get(n, [n]) for n in columns if n in mapped or n not in taken}


def _table(source: Source, columns: Columns, records: Records, split: str | None, prefix: str) -> pa.Table:
    """Records under our names. The source's own column names, for a task's messages, and the scheme of its tags go
    along as metadata.
    """
    names = _names(source, columns)
    for ours in source.columns:
        for theirs in names[ours]:
            if records.found and theirs not in records.found:  # an empty file has none
                reason, remedy = f"there is no column {theirs!r}", nearest(theirs, records.found)
                raise InputError(Fault(source.uri, reason, remedy, field=f"source.columns.{ours}"))
    data = {}
    for ours, of in names.items():
        if records.columns.keys() >= {*of}:
            parts = {name: records.columns[name] for name in of}
            data[ours] = flagged(parts, records) if _flagged(source, ours) else _joined(list(parts.values()))
    if source.separator:
        data = {ours: listed(column, columns[ours], source.separator) for ours, column in data.items()}
    data["place"] = pa.array([f"{prefix}{place}" for place in records.places], pa.string())
    count = len(records.places)
    if split is not None:
        data["split"] = pa.repeat(pa.scalar(split), count)
    if records.problems:
        problems = [records.problems.get(row) for row in range(count)]
        data["problem"] = pa.array([p and {"field": p[0], "reason": p[1]} for p in problems], PROBLEM)
    return pa.table(data).replace_schema_metadata(
        {"columns": json.dumps(records.found), "tags": source.tags, "format": source.format}
    )


def _joined(parts: list[Any]) -> Any:
    """A column as it is; texts of several as one, null where one of them is."""
    if len(parts) == 1:
        return parts[0]
    return pc.binary_join_element_wise(*(part.cast(pa.string()) for part in parts), ": ")
