"""The rows of question answering: a question, its context, and spans of the context that answer it.

A source brings `context` and `question`, and answers in one of three forms: `answers` as SQuAD's list of
{text, answer_start}, `answers` as the Hub's {text: [...], answer_start: [...]}, or the plain columns `answer` and
`answer_start`. Offsets count characters. `id`, `title`, `is_impossible` and `split` may be absent.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.core.errors import Fault, InputError, nearest
from trainwright.rows import tables
from trainwright.rows.columns import Text
from trainwright.rows.offsets import fitting_unit
from trainwright.rows.reading import (
    Faulty,
    Integers,
    as_text,
    check_ids,
    decoded,
    identified,
    indices,
    named_by,
    note_problems,
    note_splits,
    note_texts,
    sound_rows,
    whole,
)
from trainwright.rows.scripts import cuts_word

SCHEMA = pa.schema(
    [
        *tables.COMMON,
        pa.field("title", pa.string(), nullable=False),
        pa.field("context", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer_start", pa.list_(pa.int32()), nullable=False),
        pa.field("answer_text", pa.list_(pa.string()), nullable=False),
    ]
)
TEXTS = (Text("context", starts="answer_start", texts="answer_text"), Text("question"))
GOLD = ("answers", "answer", "answer_start", "is_impossible")
IDENTITY = ("context", "question")
MAIN = ("context",)
GROUP = "title"
CONTENT = ("context", "question", "answer_text", "answer_start")  # what an id is made of where there is none
QUESTIONS = ("question",)

ANSWER = pa.struct([("text", pa.string()), ("answer_start", pa.int64())])
ANSWERS = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int64()))])
COLUMNS: Mapping[str, tuple[pa.DataType, ...]] = {
    "id": (pa.string(), pa.int64()),
    "title": (pa.string(),),
    "context": (pa.string(),),
    "question": (pa.string(),),
    "answers": (pa.list_(ANSWER), ANSWERS),
    "answer": (pa.string(),),
    "answer_start": (pa.int64(),),
    "is_impossible": (pa.bool_(),),
    "split": (pa.string(),),
}

Truths = NDArray[np.bool_]


@dataclass
class _Answers:
    """All answers of all rows, one after the other, in the rows' order."""

    row: Integers  # the row that owns the answer
    text: pa.Array
    start: Integers  # in characters; 0 where unknown
    unknown: Truths
    stated: Truths  # one a row: the source says what the answers are, if only that there is none


def from_source(table: pa.Table, file: str, answered: bool = True) -> tuple[pa.Table, list[Fault]]:
    """Rows of SCHEMA, rows of one context adjacent, and a Fault for every row that is left out.

    Without an id a row gets a hash of its content; its group is its title or, without one, a hash of its context.
    With `answered=False`, for questions that are yet to be answered, answers are neither wanted nor read.
    Raises InputError where a column is missing.
    """
    _require(table, file, answered)
    table = decoded(table, kept="context")
    table, contexts, codes = _adjacent(table)
    faulty = Faulty()
    _check_values(table, contexts, codes, faulty)
    answers = _answers(table, faulty) if answered else _none(table.num_rows)
    if answered:
        _check_answerable(table, answers, faulty)
        _find_starts(contexts, codes, answers, faulty)
        _check_spans(contexts, codes, answers, faulty)
    rows = _assembled(table, contexts, codes, answers)
    check_ids(rows, table.column("place"), faulty)
    return sound_rows(rows, table.column("place"), faulty, file)


def stratum(rows: pa.Table) -> pa.Array:
    """Whether a row has an answer: what splitting keeps in proportion."""
    counts = pc.list_value_length(rows.column("answer_text"))
    return pc.if_else(pc.greater(counts, 0), "answerable", "unanswerable").combine_chunks()


def stands(contexts: pa.Array, codes: Integers, starts: Integers, texts: pa.Array) -> Truths:
    """Whether each of `texts` stands at its start (in characters) in its context, `contexts[code]`.

    Codes may come in any order, but texts of one context should be near each other: contexts are unpacked to four
    bytes a character in pieces, those between the least and the greatest code of some texts.
    """
    pieces = [
        _stand(contexts, codes[at : at + tables.BATCH], starts[at : at + tables.BATCH], texts.slice(at, tables.BATCH))
        for at in range(0, len(codes), tables.BATCH)
    ]
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.bool_)


def _stand(contexts: pa.Array, codes: Integers, starts: Integers, texts: pa.Array) -> Truths:
    first = int(codes.min())
    lengths, pool = _characters(contexts.slice(first, int(codes.max()) - first + 1))
    sizes, wanted = _characters(texts)
    codes = codes - first
    good: Truths = (starts >= 0) & (starts <= lengths[codes] - sizes)
    begins = _begins(lengths)[codes] + starts
    compared = np.where(good, sizes, 0)  # the others would reach outside
    owner = np.repeat(np.arange(len(sizes)), compared)
    within = np.arange(len(owner)) - _begins(compared)[owner]
    differ = pool[begins[owner] + within] != wanted[_begins(sizes)[owner] + within]
    good[owner[differ]] = False
    return good


def _begins(sizes: Integers) -> Integers:
    """Where each of several texts begins when they stand one after the other."""
    return np.cumsum(sizes) - sizes


def _characters(texts: pa.Array) -> tuple[Integers, NDArray[np.uint32]]:
    """The length of each text in characters, and all characters as code points."""
    joined = "".join(texts.to_pylist()).encode("utf-32-le")
    return pc.utf8_length(texts).to_numpy().astype(np.int64), np.frombuffer(joined, dtype="<u4")


def _require(table: pa.Table, file: str, answered: bool) -> None:
    metadata = table.schema.metadata or {}
    found = json.loads(metadata[b"columns"]) if b"columns" in metadata else table.column_names
    for name in ("context", "question"):
        if name not in table.column_names:
            remedy = f"{nearest(name, found)} Name it so, or map it: source.columns: {{{name}: THE_COLUMN}}."
            raise InputError(Fault(file, f"there is no column {name!r}", remedy, field=name))
    if answered and not {"answers", "answer"} & set(table.column_names):
        reason = "there is neither a column 'answers' nor 'answer' (with 'answer_start')"
        remedy = f"{nearest('answers', found)} Name it so, or map it in source.columns."
        raise InputError(Fault(file, reason, remedy, field="answers"))


def _adjacent(table: pa.Table) -> tuple[pa.Table, pa.Array, Integers]:
    """The table in an order where rows of one context are adjacent; the different contexts; each row's index there.

    Contexts keep the order in which they come first, and rows theirs within a context.
    """
    held = whole(table.column("context"))
    if pa.types.is_dictionary(held.type):
        distinct = held.dictionary.fill_null("").dictionary_encode()
        codes = distinct.indices.to_numpy()[held.indices.to_numpy()].astype(np.int64)
    else:
        distinct = held.fill_null("").dictionary_encode()
        codes = distinct.indices.to_numpy().astype(np.int64)
    if (np.diff(codes) < 0).any():
        order = np.argsort(codes, kind="stable")
        table, codes = table.take(order), codes[order]
    return table, distinct.dictionary, codes


def _check_values(table: pa.Table, contexts: pa.Array, codes: Integers, faulty: Faulty) -> None:
    """What could not be read, blank texts, NUL characters, unknown splits."""
    note_problems(table, faulty)
    note_texts("context", contexts, codes, faulty)
    note_texts("question", whole(table.column("question")), None, faulty)
    note_splits(table, faulty)


def _none(rows: int) -> _Answers:
    nothing = np.zeros(0, dtype=np.int64)
    return _Answers(nothing, pa.array([], pa.string()), nothing, nothing.astype(bool), np.ones(rows, dtype=np.bool_))


def _answers(table: pa.Table, faulty: Faulty) -> _Answers:
    """The answers in whichever of the three forms they come."""
    if "answers" not in table.column_names:
        return _plain_answers(table)
    held = whole(table.column("answers"))
    if pa.types.is_list(held.type):
        owner, flat = pc.list_parent_indices(held), pc.list_flatten(held)
        return _flattened(owner, pc.struct_field(flat, "text"), pc.struct_field(flat, "answer_start"), held, faulty)
    texts, starts = pc.struct_field(held, "text"), pc.struct_field(held, "answer_start")
    unequal = pc.not_equal(pc.list_value_length(texts), pc.list_value_length(starts)).fill_null(True)
    unequal = pc.and_(unequal, held.is_valid())
    reason, remedy = "text and answer_start differ in length", "Give a start for every text."
    faulty.note(indices(unequal), "answers", reason, remedy)
    nothing = pa.scalar(None, texts.type), pa.scalar(None, starts.type)
    texts, starts = pc.if_else(unequal, nothing[0], texts), pc.if_else(unequal, nothing[1], starts)
    return _flattened(pc.list_parent_indices(texts), pc.list_flatten(texts), pc.list_flatten(starts), held, faulty)


def _flattened(owner: pa.Array, texts: pa.Array, starts: pa.Array, held: pa.Array, faulty: Faulty) -> _Answers:
    row = owner.to_numpy().astype(np.int64)
    blank = pc.equal(pc.utf8_trim_whitespace(texts.fill_null("")), "").to_numpy(zero_copy_only=False)
    faulty.note(row[blank], "answers", "an answer has no text", "Give the text, or remove the answer.")
    unknown = starts.is_null().to_numpy(zero_copy_only=False)
    stated = held.is_valid().to_numpy(zero_copy_only=False)
    return _Answers(row, texts.fill_null(""), np.array(starts.fill_null(0)), unknown, stated)


def _plain_answers(table: pa.Table) -> _Answers:
    """At most one answer a row: an empty cell is none."""
    texts = whole(table.column("answer")).fill_null("")
    row = indices(pc.not_equal(pc.utf8_trim_whitespace(texts), ""))
    starts = whole(table.column("answer_start")) if "answer_start" in table.column_names else None
    given = (starts if starts is not None else pa.nulls(len(texts), pa.int64())).take(pa.array(row))
    unknown = given.is_null().to_numpy(zero_copy_only=False)
    stated = np.zeros(len(texts), dtype=np.bool_)
    return _Answers(row, texts.take(pa.array(row)), np.array(given.fill_null(0)), unknown, stated)


def _check_answerable(table: pa.Table, answers: _Answers, faulty: Faulty) -> None:
    """Whether `is_impossible`, where it is known, and the answers say the same."""
    count = np.bincount(answers.row, minlength=table.num_rows)
    known = impossible = np.zeros(table.num_rows, dtype=np.bool_)
    if "is_impossible" in table.column_names:
        column = whole(table.column("is_impossible"))
        known = column.is_valid().to_numpy(zero_copy_only=False)
        impossible = column.fill_null(False).to_numpy(zero_copy_only=False)
    faulty.note(
        np.flatnonzero(impossible & (count > 0)),
        "answers",
        "answers are given, but is_impossible says that there is none",
        "Remove the answers, or set is_impossible to false.",
    )
    faulty.note(
        np.flatnonzero((count == 0) & ~impossible & (known | ~answers.stated)),
        "answers",
        "there is no answer, and nothing says that the question has none",
        "Give an answer, or set is_impossible to true.",
    )


def _find_starts(contexts: pa.Array, codes: Integers, answers: _Answers, faulty: Faulty) -> None:
    """Set the starts that the source leaves open, where the answer stands exactly once as whole words."""
    remedy = "Give answer_start, in characters."
    for at in np.flatnonzero(answers.unknown).tolist():
        row, text = answers.row[at], answers.text[at].as_py()
        context = contexts[int(codes[row])].as_py()
        first = context.find(text)
        found = list(islice(_whole_words(context, text), 2))
        answers.start[at] = found[0] if found else first
        if first < 0:
            faulty.note(row[None], "answer_start", "the answer is not in its context", "Mend the answer.")
        elif not found:
            reason = "there is no answer_start, and the answer stands only inside a word"
            mend = "Mend the answer, or give answer_start, in characters."
            faulty.note(row[None], "answer_start", reason, mend)
        elif len(found) > 1:
            reason = "there is no answer_start, and the answer occurs more than once"
            faulty.note(row[None], "answer_start", reason, remedy)


def _whole_words(context: str, text: str) -> Iterator[int]:
    """Yield the places where `text` stands and cuts no word or number of `context` in two."""
    start = context.find(text)
    while start >= 0:
        if not cuts_word(context, start) and not cuts_word(context, start + len(text)):
            yield start
        start = context.find(text, start + 1)


def _check_spans(contexts: pa.Array, codes: Integers, answers: _Answers, faulty: Faulty) -> None:
    good = stands(contexts, codes[answers.row], answers.start, answers.text)
    for at in np.flatnonzero(~good).tolist():
        row = answers.row[at]
        if int(row) not in faulty.found:
            context = contexts[int(codes[row])].as_py()
            reason, remedy = _misplaced(context, int(answers.start[at]), answers.text[at].as_py())
            faulty.note(row[None], "answer_start", reason, remedy)


def _misplaced(context: str, start: int, text: str) -> tuple[str, str]:
    """Why `text` does not stand at `start`, and what would be right: it may have been counted in other units."""
    first = context.find(text)
    if start < 0:
        return f"answer_start {start} is negative", "Count characters from 0."
    if first < 0:
        return "the answer is not in its context", "Mend the answer or the context; they must agree to the letter."
    if fits := fitting_unit(context, [(start, None, text)]):
        unit, (place,) = fits
        return f"answer_start {start} fits when counted in {unit}", f"Count characters: here it is {place}."
    once = context.find(text, first + 1) < 0
    remedy = f"The answer stands at {first}." if once else "The answer occurs more than once: give the right place."
    if start >= len(context):
        return f"answer_start {start} lies past the end of the context ({len(context)} characters)", remedy
    return f"the answer does not stand at answer_start {start}", remedy


def _assembled(table: pa.Table, contexts: pa.Array, codes: Integers, answers: _Answers) -> pa.Table:
    """All rows in the form of SCHEMA, faulty ones too."""
    count = table.num_rows
    ends = np.cumsum(np.bincount(answers.row, minlength=count))
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    starts = np.clip(answers.start, -1, np.iinfo(np.int32).max)  # those beyond are faulty
    title = as_text(table, "title").fill_null("")
    hashes = named_by(tables.content_hash(pa.table({"context": contexts}), ["context"]))
    split = as_text(table, "split")
    columns = {
        "group": pc.if_else(pc.equal(title, ""), hashes.take(pa.array(codes)), title),
        "split": pc.if_else(pc.equal(split, ""), pa.scalar(None, pa.string()), split),
        "parent": pa.nulls(count, pa.string()),
        "title": title,
        "context": pa.chunked_array(
            [contexts.take(pa.array(codes[at : at + tables.BATCH])) for at in range(0, count, tables.BATCH)],
            pa.string(),
        ),
        "question": as_text(table, "question").fill_null(""),
        "answer_start": pa.ListArray.from_arrays(offsets, pa.array(starts, pa.int32())),
        "answer_text": pa.ListArray.from_arrays(offsets, answers.text),
    }
    columns["id"] = identified(as_text(table, "id"), pa.table(columns), CONTENT)
    return pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)
