"""CoNLL files: a token and its tag a line, an empty line after each sentence, plain or packed with gzip.

The two stand in columns divided by a tab, or by spaces where most lines have no tab. A line `-DOCSTART- …` begins a
new document: sentences of one document are one group. A line with a token alone has no tag.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from trainwright.core.params import Source
from trainwright.sources.opening import read_text
from trainwright.sources.records import Columns, Records

DOCUMENT = "-DOCSTART-"


@dataclass
class _Sentence:
    line: int
    document: int
    tokens: list[str] = field(default_factory=list)
    tags: list[str | None] = field(default_factory=list)
    problem: str = ""


def read(path: Path, file: str, columns: Columns, source: Source) -> Records:
    """One row a sentence: `tokens`, `tags` (a null tag where a line has none) and `group`, its document, if any.

    A line with more than two columns, or without a token, is the row's problem; `place` is the sentence's first line.
    """
    sentences = list(_sentences(read_text(path, file, source.max_unpacked_gb)))
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


def _sentences(text: str) -> Iterator[_Sentence]:
    lines = text.split("\n")
    with_tab, with_text = sum("\t" in line for line in lines), sum(bool(line.strip()) for line in lines)
    divider = "\t" if 2 * with_tab > with_text else None
    document, sentence = 0, None
    for number, raw in enumerate(lines, start=1):
        line = raw.rstrip("\r")
        if line.startswith(DOCUMENT):
            document += 1
        if not line.strip(" \t") or line.startswith(DOCUMENT):
            if sentence:
                yield sentence
            sentence = None
            continue
        sentence = sentence or _Sentence(number, document)
        _add(sentence, line.split(divider), number)
    if sentence:
        yield sentence


def _add(sentence: _Sentence, cells: list[str], number: int) -> None:
    if len(cells) > 2 or not cells or not cells[0].strip():
        what = f"{len(cells)} columns" if len(cells) > 2 else "no token"
        sentence.problem = sentence.problem or f"line {number} has {what}, where a token and its tag should stand"
        return
    sentence.tokens.append(cells[0])
    sentence.tags.append(cells[1].strip() if len(cells) > 1 and cells[1].strip() else None)
