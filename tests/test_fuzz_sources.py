"""Damaged sources of every form and task give rows or an InputError, with source locations that are right.

Each case is made by its form and number alone. A failure prints both, and the bytes: `check("qa csv", 17, folder)`
repeats it. TRAINWRIGHT_MANY=1 runs a thousand cases of each form instead of a few.
"""

import contextlib
import gzip
import io
import json
import os
import random
import re
import signal
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainwright import sources
from trainwright.core import tasks
from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Source

CASES = 1_000 if "TRAINWRIGHT_MANY" in os.environ else 12
HANG = 60  # seconds; a case takes milliseconds
MARK = re.compile(r"m\d+m")  # stands once in each row of a seed

Record = dict[str, Any]


# Seeds: a few sound rows of each task


def qa(n: int) -> Record:
    context = f"Ann m{n}m met Bob in Rome."
    start = context.index("Bob")
    return {
        "id": f"i{n}",
        "title": f"T{n % 3}",
        "context": context,
        "question": f"Whom, {n}?",
        "answer": "Bob",
        "answer_start": start,
    }


def qa_nested(n: int) -> Record:
    flat = qa(n)
    answers = [{"text": flat.pop("answer"), "answer_start": flat.pop("answer_start")}]
    return {**flat, "answers": answers, "is_impossible": False}


def qa_lists(n: int) -> Record:
    flat = qa(n)
    return {**flat, "answers": {"text": [flat.pop("answer")], "answer_start": [flat.pop("answer_start")]}}


def label(n: int) -> Record:
    return {"text": f"A text m{n}m, it is.", "label": ("good", "bad")[n % 2]}


def labels(n: int) -> Record:
    return {"id": n, "text": f"A text m{n}m", "labels": ["a", "b"][: n % 3]}


def joined_labels(n: int) -> Record:
    return {**labels(n), "labels": "|".join(labels(n)["labels"])}


def value(n: int) -> Record:
    return {
        "text": f"One m{n}m",
        "text_b": f"Other {n}",
        "value": n / 2,
        "split": ("train", "validation", "test")[n % 3],
    }


def choice(n: int) -> Record:
    return {"context": f"About m{n}m.", "question": f"Which, {n}?", "choices": ["one", "two"], "answer": n % 2}


def choice_columns(n: int) -> Record:
    return {"question": f"Which m{n}m?", "choice1": "one", "choice2": "two", "answer_number": 1 + n % 2}


def spans(n: int) -> Record:
    return {"id": f"i{n}", "text": f"Ann m{n}m met Bob.", "spans": [{"start": 0, "end": 3, "label": "PER"}]}


def tags(n: int) -> Record:
    return {"tokens": ["Ann", f"m{n}m", "Bob"], "tags": ["B-PER", "O", "B-PER"]}


def pair(n: int) -> Record:
    return {"source": f"Say m{n}m", "target": f"Said {n}", "group": n // 2}


def text(n: int) -> Record:
    return {"text": f"A document m{n}m."}


# Forms: seeds as bytes


def delimited(rows: list[Record], mark: str) -> bytes:
    import csv

    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=mark, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_json(found: Any, indent: int | None = None) -> bytes:
    return json.dumps(found, ensure_ascii=False, indent=indent).encode(errors="surrogatepass")


def lines(rows: list[Any]) -> bytes:
    return b"".join(as_json(row) + b"\n" for row in rows)


def squad(rows: list[Any]) -> Any:
    paragraphs = []
    for row in rows:
        asked = {key: found for key, found in row.items() if key not in ("title", "context")}
        paragraphs.append({"context": row["context"], "qas": [asked]})
    half = len(paragraphs) // 2
    return {
        "version": "v2.0",
        "data": [{"title": "T", "paragraphs": p} for p in (paragraphs[:half], paragraphs[half:])],
    }


def parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def conll(rows: list[Record]) -> bytes:
    def sentence(row: Record) -> str:
        return "\n".join(f"{token} {tag}" for token, tag in zip(row["tokens"], row["tags"], strict=True))

    return ("-DOCSTART- O\n\n" + "\n\n".join(sentence(row) for row in rows) + "\n").encode()


@dataclass(frozen=True)
class Form:
    """A seed, how it becomes a file, and the source section that reads it. `write` takes a list of rows; a form with
    `nest` (the rows as one JSON document) or `table` is also damaged before it becomes bytes."""

    task: str
    suffix: str
    row: Callable[[int], Record]
    write: Callable[[Any], bytes]
    section: dict[str, Any] = field(default_factory=dict)
    values: bool = False  # whether values of its rows can be of another type


def csv_of(rows: list[Record]) -> bytes:
    return delimited(rows, ",")


def tsv_of(rows: list[Record]) -> bytes:
    return delimited(rows, "\t")


def array(rows: list[Any]) -> bytes:
    return as_json(rows)


def pretty(rows: list[Any]) -> bytes:
    return as_json({"version": 1, "data": rows}, indent=1)


def squad_of(rows: list[Any]) -> bytes:
    return as_json(squad(rows) if all(isinstance(row, dict) and "context" in row for row in rows) else {"data": rows})


def parquet_of(rows: list[Any]) -> bytes:
    return parquet(pa.Table.from_pylist(rows))


def documents(rows: list[Record]) -> bytes:
    return "\n\n".join(row["text"] for row in rows).encode()


FORMS = {
    "qa csv": Form("qa", "csv", qa, csv_of),
    "qa csv quoted": Form("qa", "csv", qa, csv_of, {"quoted": True}),
    "qa tsv": Form("qa", "tsv", qa, tsv_of),
    "qa jsonl": Form("qa", "jsonl", qa_nested, lines, values=True),
    "qa jsonl lists": Form("qa", "jsonl", qa_lists, lines, values=True),
    "qa jsonl flat": Form("qa", "jsonl", qa, lines, values=True),
    "qa array": Form("qa", "jsonl", qa_nested, array, values=True),
    "qa squad": Form("qa", "squad", qa_nested, squad_of, values=True),
    "qa parquet": Form("qa", "parquet", qa_nested, parquet_of, values=True),
    "label csv": Form("classification", "csv", label, csv_of),
    "label tsv": Form("classification", "tsv", label, tsv_of, {"quoted": False}),
    "label jsonl": Form("classification", "jsonl", label, lines, values=True),
    "labels csv": Form("classification", "csv", joined_labels, csv_of, {"separator": "|"}),
    "labels jsonl": Form("classification", "jsonl", labels, lines, values=True),
    "labels pretty": Form("classification", "jsonl", labels, pretty, values=True),
    "labels parquet": Form("classification", "parquet", labels, parquet_of, values=True),
    "value csv": Form("classification", "csv", value, csv_of),
    "value jsonl": Form("classification", "jsonl", value, lines, values=True),
    "choice jsonl": Form("multiple_choice", "jsonl", choice, lines, values=True),
    "choice csv": Form("multiple_choice", "csv", choice_columns, csv_of),
    "choice parquet": Form("multiple_choice", "parquet", choice, parquet_of, values=True),
    "spans jsonl": Form("ner", "jsonl", spans, lines, values=True),
    "spans parquet": Form("ner", "parquet", spans, parquet_of, values=True),
    "tags jsonl": Form("ner", "jsonl", tags, lines, values=True),
    "tags conll": Form("ner", "conll", tags, conll),
    "pair csv": Form("seq2seq", "csv", pair, csv_of),
    "pair jsonl": Form("seq2seq", "jsonl", pair, lines, values=True),
    "documents": Form("clm", "text", text, documents),
    "stream": Form("clm", "text", text, documents, {"stream": {}}),
    "documents mlm": Form("mlm", "text", text, documents),
    "documents jsonl": Form("mlm", "jsonl", text, lines, values=True),
}

# Damage

ODD = (
    None, True, False, 0, -1, 1.5, 42.0, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 1e308, -0.0, "", " ", "a\0b",
    "\ud83d", "\u2028", "\ufeff", "NaN", "9" * 400, [], [[]], [None], [True], [1, "a"], {}, {"a": 1}, [{}],
    {"text": []}, {"text": ["a"], "answer_start": [1]}, [{"text": "Bob", "answer_start": True}],
    [[0, 3, "PER"]], [["a"]], "a|b||",
)  # fmt: skip
BITS = (
    b'"', b'""', b"'", b"\0", b"\xef\xbb\xbf", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\r", b"\r\n", b"\n", b"\n\n", b"\t",
    b",", b";", b"|", b"\xe2\x80\xa8", b"\xc2\x85", b"\x0b", b"\x0c", b"\x1b[31m", b"\x1e", b"\xc2\xa0", b"{", b"}",
    b"[", b"]", b":", b"\\", b"\\ud83d", b"\\u0000", b"null", b"NaN", b"-Infinity", b"1e999", b"9" * 30, b"9" * 5000,
    b"[" * 3000, b'{"a":' * 3000, b"[[[[]]]]", b"sep=;\n", b"-DOCSTART- O\n", b"\xf0\x9f\x98\x80", b"e\xcc\x81",
)  # fmt: skip
TYPES = (
    pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float32(), pa.float64(), pa.string(), pa.large_string(),
    pa.string_view(), pa.binary(), pa.binary(4), pa.date32(), pa.timestamp("us"), pa.decimal128(20, 2),
    pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 2), pa.list_(pa.list_(pa.string())),
    pa.list_(pa.null()), pa.list_(pa.bool_()), pa.struct([("a", pa.int64())]), pa.map_(pa.string(), pa.int64()),
    pa.struct([("text", pa.string()), ("answer_start", pa.float64())]), pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.int32(), pa.int64()),
    pa.list_(pa.struct([("text", pa.large_string()), ("answer_start", pa.int32())])),
)  # fmt: skip


def damage_value(found: Any, draw: random.Random) -> Any:
    """A JSON value with one value in it replaced, removed or doubled, at any depth."""
    inner = list(found) if isinstance(found, dict) else list(range(len(found))) if isinstance(found, list) else []
    if not inner or draw.random() < 0.1:
        return draw.choice(ODD)
    at = draw.choice(inner)
    found = found.copy()
    if draw.random() < 0.7:
        found[at] = damage_value(found[at], draw)
    elif draw.random() < 0.5:
        del found[at]
    elif isinstance(found, list):
        found.insert(at, found[at])
    else:
        found[f"{at}2"] = found[at]
    return found


def damage_bytes(content: bytes, draw: random.Random) -> bytes:
    at, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    bit = draw.choice(BITS)
    parts = content.split(b"\n")
    one, other = draw.randrange(len(parts)), draw.randrange(len(parts))
    swapped = parts.copy()
    swapped[one], swapped[other] = parts[other], parts[one]
    where = 0 if draw.random() < 0.1 else at
    return draw.choice(
        (
            content[:at] + bytes(byte ^ 1 << draw.randrange(8) for byte in content[at : at + 1]) + content[at + 1 :],
            content[:at],  # cut off
            content[:end] + content[at:],  # doubled
            content[:at] + content[end:],  # left out
            content[at:end] + content[:at] + content[end:],  # moved
            b"\n".join(swapped),
            b"\n".join([*parts[:one], bit + parts[one], *parts[one + 1 :]]),
            b"\n".join([*parts[:one], parts[one] + bit, *parts[one + 1 :]]),
            content[:where] + bit + content[where:],
            content[:where] + bit + content[where:],
        )
    )


def damage_table(table: pa.Table, draw: random.Random) -> pa.Table:
    """A table with one column of another type; values that cannot have it are null."""
    at, kind = draw.randrange(table.num_columns), draw.choice(TYPES)
    try:
        column = table.column(at).combine_chunks().cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        column = pa.nulls(table.num_rows, kind)
    table = table.set_column(at, table.column_names[at], column)
    return table.select([*table.column_names, table.column_names[at]]) if draw.random() < 0.1 else table


def made(form: Form, draw: random.Random) -> bytes:
    """The bytes of a case: sound, or damaged as values, as a table, as text or as packed bytes."""
    rows: Any = [form.row(n) for n in range(draw.randint(1, 8))]
    if form.values and draw.random() < 0.6:
        for _ in range(draw.randint(1, 2)):
            at = draw.randrange(len(rows))
            rows[at] = damage_value(rows[at], draw)
    content = b""
    if form.suffix == "parquet":
        try:
            table = pa.Table.from_pylist(rows)
        except (pa.ArrowException, TypeError, OverflowError, UnicodeEncodeError, AttributeError):
            table = pa.Table.from_pylist([form.row(n) for n in range(3)])
        if table.num_columns and draw.random() < 0.7:
            table = damage_table(table, draw)
        with contextlib.suppress(pa.ArrowNotImplementedError, pa.ArrowInvalid):  # no column of Parquet's
            content = parquet(table)
        if draw.random() < 0.6:
            return content
    else:
        content = form.write(rows)
    for _ in range(draw.choice((0, 0, 0, 1, 2)) if form.values else draw.choice((0, 1, 1, 1, 2, 5))):
        content = damage_bytes(content, draw)
    return content


def packed(content: bytes, name: str, draw: random.Random) -> tuple[str, bytes]:
    """A file's name and bytes: mostly as they are, or in a gzip or zip archive that may be damaged itself."""
    kind = draw.randrange(8)
    if kind > 1 or name.endswith("parquet"):
        return name, content
    if kind == 0:
        content, ending = gzip.compress(content, mtime=0), ".gz"
    else:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(draw.choice((1, 1, 1, 0, 2))):
                archive.writestr(zipfile.ZipInfo(name if not number else f"{number}/{name}"), content)
        content, ending = out.getvalue(), ".zip"
    if draw.random() < 0.4:
        content = damage_bytes(content, draw)
    return (f"{name}{ending}" if draw.random() < 0.7 else name), content


# The oracle


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Raises TimeoutError when a case hangs."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no end within {HANG} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def unpacked(content: bytes) -> str:
    """The text that a reader sees, for source locations; "" when the archive is damaged."""
    with contextlib.suppress(Exception):
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        elif content.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                content = archive.read(archive.namelist()[0])
    return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace")


def require_location(location: str, whole: str, rows: int) -> None:
    """Fails if a source location names nothing that the file has."""
    listed = whole.split("\n")
    if found := re.fullmatch(r"line (\d+)(?:, column (\d+))?", location):
        line = int(found[1])
        # A reader that ends lines at \r too counts more of them.
        most = max(len(listed), len(re.split(r"\r\n|\r|\n", whole)))
        assert 1 <= line <= most, f"{location} of {most} lines"
        if found[2]:
            assert 1 <= int(found[2]) <= len(listed[line - 1]) + 1, f"{location}: the line is shorter"
    elif found := re.fullmatch(r"(?:row|record) (\d+)", location):
        assert 1 <= int(found[1]) <= rows, f"{location} of {rows} rows"
    elif found := re.fullmatch(r"character (\d+)", location):
        assert int(found[1]) <= len(whole), location
    elif re.fullmatch(r"data(\[\d+\]|\.[a-z]+)*", location):
        here = json.loads(whole)
        for part in re.findall(r"\[(\d+)\]|([a-z]+)", location):
            here = here[int(part[0])] if part[0] else here[part[1]]
    else:
        assert location == "", f"a location of an unknown form: {location!r}"


def require_rows_where_they_are(table: pa.Table, whole: str, json_lines: bool) -> None:
    """Fails if a row's mark does not stand between its source location and the next one."""
    # JSON Lines end at \n alone, records of CSV at \r too
    listed = whole.split("\n") if json_lines else re.split(r"\r\n|\r|\n", whole)
    locations = table["place"].to_pylist()
    begins = [int(line) for place in locations for line in re.findall(r"^line (\d+)$", place)]
    if len(begins) < len(locations):
        return
    assert begins == sorted(begins), "rows of a file are in the order of its lines"
    for number, row in enumerate(table.drop_columns(["place"]).to_pylist()):
        end = begins[number + 1] if number + 1 < len(begins) else len(listed) + 1
        same_line = end == begins[number]
        part = "\n".join(listed[begins[number] - 1 : end - (0 if same_line else 1)])
        for mark in MARK.findall(str({name: found for name, found in row.items() if name != "problem"})):
            assert mark in part, f"{mark} does not stand at {locations[number]}"


def check(name: str, number: int, folder: Path) -> str:
    """Read one damaged file. Returns what came of it; fails with the case and its bytes."""
    form, draw = FORMS[name], random.Random(f"{name} {number}")
    file, content = packed(made(form, draw), f"a.{form.suffix}", draw)
    answered = draw.random() < 0.9
    (folder / file).write_bytes(content)
    try:
        with watched():
            return read(form, folder, file, content, answered)
    except Exception as error:
        error.add_note(f"case: check({name!r}, {number}, folder)\nfile {file}: {content[:3000]!r}")
        raise


def read(form: Form, folder: Path, file: str, content: bytes, answered: bool) -> str:
    part = tasks.load(form.task, "rows")
    source = Source.model_validate({"uri": file, "format": form.suffix, **form.section})
    whole = unpacked(content)
    columns = {n: kinds for n, kinds in part.COLUMNS.items() if answered or n not in (*part.GOLD, "split")}
    try:
        table = sources.read(source, folder, columns)
    except InputError as error:
        require_faults(list(error.faults), whole)
        return "refused"
    table.validate(full=True)
    for location in table["place"].to_pylist():
        require_location(location, whole, table.num_rows)
    require_rows_where_they_are(table, whole, form.suffix == "jsonl")
    try:
        rows, faults = part.from_source(table, file, answered)
    except InputError as error:
        require_faults(list(error.faults), whole, table.num_rows)
        return "no rows"
    rows.validate(full=True)
    assert {fault.row for fault in faults} <= set(table["place"].to_pylist())
    assert all(str(fault) and fault.reason and fault.remedy for fault in faults)
    assert len({*rows["id"].to_pylist()}) == rows.num_rows, "ids are different"
    return "rows" if rows.num_rows else "faulty rows"


def require_faults(faults: list[Fault], whole: str, rows: int = 10**9) -> None:
    assert faults
    for fault in faults:
        assert fault.reason, fault
        assert fault.remedy, fault
        require_location(fault.row, whole, rows)


@pytest.mark.parametrize("name", FORMS)
def test_a_damaged_source_gives_rows_or_an_input_error(name: str, tmp_path: Path) -> None:
    for number in range(CASES):
        check(name, number, tmp_path)
