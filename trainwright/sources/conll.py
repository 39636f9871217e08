"""CoNLL files: a token and its tag a line, an empty line after each sentence, plain or packed with gzip.

Columns are divided by a tab, or by spaces where most lines have no tab; any other white space is text. Of several
columns the first holds the token and the last the tag, unless the source names others. A line `-DOCSTART- …` begins a
new document: sentences of one document are one group. A line with a token alone has no tag.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Source
from trainwright.sources.opening import read_text
from trainwright.sources.records import Columns, Records

DOCUMENT = "-DOCSTART-"
BLANK = " \t"
SPACES = re.compile("[ \t]+")


@dataclass
class _Sentence:
    line: int
    document: int
    tokens: list[str] = field(default_factory=list)
    tags: list[str | None] = field(default_factory=list)
    problem: str = ""


@dataclass(frozen=True)
class _Form:
    """How the lines of a file are divided, and the places of their token and tag, counted from 0."""

    divider: str | None
    width: int
    token: int
    tag: int

    def cells(self, line: str) -> list[str]:
        return _cells(line, self.divider)


def read(path: Path, file: str, columns: Columns, source: Source) -> Records:
    """One row a sentence: `tokens`, `tags` (a null tag where a line has none) and `group`, its document, if any.

    A line with more or fewer columns than the others, or without a token, is the row's problem; `place` is the
    sentence's first line. Raises InputError for a column that the file does not have.
    """
    lines = [line.removesuffix("\r") for line in read_text(path, file, source.max_unpacked_gb).split("\n")]
    sentences = list(_sentences(lines, _form(lines, file, source)))
    records = Records({}, [f"line {sentence.line}" for sentence in sentences], ["tokens", "tags"])
    words = pa.list_(pa.string())
    data = {
        "tokens": pa.array([sentence.tokens for sentence in sentences], words),
        "tags": pa.array([sentence.tags for sentence in sentences], words),
    }
    if any(sentence.document for sentence in sentences):
        records.found.append("group")
        data["group"] = pa.array([f"{file}, document {s.document}" for s in sentences], pa.string())
    records.columns = {name: column for name, column in data.items() if name in columns}
    records.note("tokens", {row: sentence.problem for row, sentence in enumerate(sentences) if sentence.problem})
    return records


def _form(lines: list[str], file: str, source: Source) -> _Form:
    filled = [line for line in lines if line.strip(BLANK) and not line.startswith(DOCUMENT)]
    divider = "\t" if 2 * sum("\t" in line for line in filled) > len(filled) else None
    widths = Counter(len(_cells(line, divider)) for line in filled)
    several = {width: count for width, count in widths.items() if width > 1}
    width = max(several, key=lambda width: (several[width], -width), default=1)
    for name, column in (("token_column", source.token_column), ("tag_column", source.tag_column)):
        if filled and column and column > width:
            reason = f"it is {column}, and the file has {width} column{'s' if width > 1 else ''}"
            raise InputError(Fault(file, reason, f"Count from 1, up to {width}.", field=f"source.{name}"))
    return _Form(divider, width, (source.token_column or 1) - 1, (source.tag_column or width) - 1)


def _cells(line: str, divider: str | None) -> list[str]:
    return line.split(divider) if divider else SPACES.split(line.strip(BLANK))


def _sentences(lines: list[str], form: _Form) -> Iterator[_Sentence]:
    document, sentence = 0, None
    for number, line in enumerate(lines, start=1):
        if line.startswith(DOCUMENT):
            document += 1
        if not line.strip(BLANK) or line.startswith(DOCUMENT):
            if sentence:
                yield sentence
            sentence = None
            continue
        sentence = sentence or _Sentence(number, document)
        _add(sentence, form, line, number)
    if sentence:
        yield sentence


def _add(sentence: _Sentence, form: _Form, line: str, number: int) -> None:
    cells = [cell.strip(BLANK) for cell in form.cells(line)]
    width = len(cells)
    alone = width == 1 and form.token == 0
    token = "" if width <= form.token else cells[form.token]
    if not (alone or width == form.width) or not token:
        expected = f"and other lines have {form.width}" if form.width > 1 else "and the token should stand in another"
        wrong = f"{width} column{'s' if width > 1 else ''}, {expected}" if width != form.width else "no token"
        sentence.problem = sentence.problem or f"line {number} has {wrong}"
        return
    sentence.tokens.append(token)
    tag = None if alone or form.tag == form.token else cells[form.tag]
    sentence.tags.append(tag or None)
