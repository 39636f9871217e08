"""SQuAD JSON, versions 1.1 and 2.0, plain or packed with gzip."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Source
from trainwright.sources.opening import read_text
from trainwright.sources.records import WORDS, Columns, Records, typed
from trainwright.sources.strict_json import parse

FORM = "SQuAD JSON is {data: [{title, paragraphs: [{context, qas: [{id, question, answers}]}]}]}."


def read(path: Path, file: str, columns: Columns, source: Source) -> Records:
    """One row a question. Contexts are dictionary-encoded: each is held once, whatever its questions.

    Raises InputError where the file is not JSON of SQuAD's form above the level of questions. A question without
    `is_impossible` is answerable, as in version 1.1.
    """
    contexts: list[Any] = []
    titles: list[Any] = []
    owners: list[int] = []
    places: list[str] = []
    questions: list[dict[str, Any]] = []
    for title, paragraph, place in _paragraphs(parse(read_text(path, file, source.max_unpacked_gb), file), file):
        for k, question in enumerate(_get(paragraph, "qas", list, place, file)):
            places.append(f"{place}.qas[{k}]")
            questions.append(_object(question, places[-1], file))
            owners.append(len(contexts))
        contexts.append(_get(paragraph, "context", str, place, file))
        titles.append(title)
    found = dict.fromkeys(["title", "context", *(key for question in questions for key in question)])
    records = Records({}, places, list(found))
    _shared(records, columns, "title", titles, owners)
    _shared(records, columns, "context", contexts, owners)
    for name, missing in (("id", None), ("question", None), ("answers", None), ("is_impossible", False)):
        if name in columns:
            values = [question.get(name, missing) for question in questions]
            records.columns[name], wrong = typed(values, columns[name])
            records.note(name, wrong)
    return records


def _shared(records: Records, columns: Columns, name: str, values: list[Any], owners: list[int]) -> None:
    """A column whose values belong to a paragraph, repeated by reference for each of its questions."""
    if name in columns:
        held, wrong = typed(values, columns[name])
        indices = pa.array(owners, pa.int32())
        records.columns[name] = pa.DictionaryArray.from_arrays(indices, held)
        records.note(name, {row: wrong[owner] for row, owner in enumerate(owners) if owner in wrong} if wrong else {})


def _paragraphs(document: Any, file: str) -> Iterator[tuple[Any, dict[str, Any], str]]:
    """(title, paragraph, place) of every paragraph."""
    for i, article in enumerate(_get(_object(document, "", file), "data", list, "", file)):
        _object(article, f"data[{i}]", file)
        for j, paragraph in enumerate(_get(article, "paragraphs", list, f"data[{i}]", file)):
            place = f"data[{i}].paragraphs[{j}]"
            yield article.get("title"), _object(paragraph, place, file), place


def _object(value: Any, place: str, file: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise InputError(Fault(file, f"here stands {WORDS.get(type(value), 'null')}, not an object", FORM, row=place))


def _get(holder: dict[str, Any], key: str, kind: type, place: str, file: str) -> Any:
    value = holder.get(key)
    if isinstance(value, kind):
        return value
    if key in holder:
        reason = f"{key!r} is {WORDS.get(type(value), 'null')}, not {WORDS[kind]}"
    else:
        reason = f"there is no {key!r}"
    raise InputError(Fault(file, reason, FORM, row=place, field=key))
