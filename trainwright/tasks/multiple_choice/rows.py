"""The rows of multiple choice: a question, perhaps a context, two choices or more, and which of them is right.

A source brings `question`, and `context` where there is one. Choices come

- as a list of texts, `choices` (in a CSV file as one cell, parted by `source.separator`);
- as the Hub's {text: [...], label: [...]}, `choices`, of which the answer names a label;
- as columns of their own, `choice1`, `choice2`, … (mapped from any names); the last may be empty.

The answer comes as one of three columns: `answer` is the place among the choices counted from 0, a letter (A is
the first), a label, or a choice's text; `answer_number` is the place counted from 1; `answer_text` is a choice's
text. `id`, `group` and `split` may be absent; without a group, rows of one context (without one, of one question)
are a group.
"""

import json
import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core.errors import Fault, InputError, nearest
from trainwright.rows import reading, tables
from trainwright.rows.columns import Text
from trainwright.rows.reading import Faulty, Integers

SCHEMA = pa.schema(
    [
        *tables.COMMON,
        pa.field("context", pa.string(), nullable=False),  # "" where there is none
        pa.field("question", pa.string(), nullable=False),
        pa.field("choices", pa.list_(pa.string()), nullable=False),
        pa.field("answer", pa.int32(), nullable=False),  # the place of the right choice, from 0; -1 where unknown
    ]
)
TEXTS = (Text("context", optional=True), Text("question"), Text("choices"))
IDENTITY = ("context", "question", "choices")
MAIN = ("context", "question")
GROUP = "group"
QUESTIONS = ("question",)

UNKNOWN = -1
SINGLE = tuple(f"choice{number}" for number in range(1, 11))
LABELLED = pa.struct([("text", pa.list_(pa.string())), ("label", pa.list_(pa.string()))])
GOLD = ("answer", "answer_number", "answer_text")
COLUMNS: Mapping[str, tuple[pa.DataType, ...]] = {
    "id": (pa.string(), pa.int64()),
    "group": (pa.string(), pa.int64()),
    "context": (pa.string(),),
    "question": (pa.string(),),
    "choices": (pa.list_(pa.string()), LABELLED, pa.string()),
    **dict.fromkeys(SINGLE, (pa.string(),)),
    "answer": (pa.string(), pa.int64()),
    "answer_number": (pa.int64(),),
    "answer_text": (pa.string(),),
    "split": (pa.string(),),
}


def from_source(table: pa.Table, file: str, answered: bool = True) -> tuple[pa.Table, list[Fault]]:
    """Rows of SCHEMA in the source's order, and a Fault for every row that is left out.

    Without an id a row gets a hash of its content. With `answered=False` answers are neither wanted nor read.
    Raises InputError where a column is missing, or where answers come in two columns.
    """
    table = reading.decoded(table)
    _require(table, file, answered)
    faulty = Faulty()
    reading.note_problems(table, faulty)
    reading.note_splits(table, faulty)
    context = reading.as_text(table, "context").fill_null("")
    question = reading.as_text(table, "question").fill_null("")
    reading.note_texts("question", question, None, faulty)
    nul = reading.indices(pc.match_substring(context, "\0"))
    faulty.note(nul, "context", "the context holds a NUL character", "Mend or remove the row.")
    choices, labels = _choices(table, faulty)
    _check_choices(choices, faulty)
    answer = np.full(table.num_rows, UNKNOWN)
    if answered:
        answer = _answers(table, choices, labels, faulty)
    own = pc.if_else(pc.equal(pc.utf8_trim_whitespace(context), ""), question, context)
    group, split = (reading.as_text(table, name) for name in ("group", "split"))
    grouped = pc.if_else(pc.equal(group.fill_null(""), ""), _named(own), group)
    columns = {
        "group": grouped,
        "split": pc.if_else(pc.equal(split, ""), pa.scalar(None, pa.string()), split),
        "parent": pa.nulls(table.num_rows, pa.string()),
        "context": context,
        "question": question,
        "choices": choices,
        "answer": pa.array(answer, pa.int32()),
    }
    columns["id"] = reading.identified(reading.as_text(table, "id"), pa.table(columns), (*IDENTITY, "answer"))
    rows = pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)
    reading.check_ids(rows, table.column("place"), faulty)
    return reading.sound_rows(rows, table.column("place"), faulty, file)


def stratum(rows: pa.Table) -> pa.Array:
    """Which place is right: what splitting keeps in proportion."""
    return pc.cast(rows.column("answer"), pa.string()).combine_chunks()


def _named(texts: pa.Array) -> pa.Array:
    return reading.named_by(tables.content_hash(pa.table({"text": texts}), ["text"]))


def _require(table: pa.Table, file: str, answered: bool) -> None:
    metadata = table.schema.metadata or {}
    found = json.loads(metadata[b"columns"]) if b"columns" in metadata else table.column_names
    have = set(table.column_names)

    def missing(field: str, reason: str) -> InputError:
        remedy = f"{nearest(field, found)} Name it so, or map it: source.columns: {{{field}: THE_COLUMN}}."
        return InputError(Fault(file, reason, remedy, field=field))

    if "question" not in have:
        raise missing("question", "there is no column 'question'")
    if "choices" not in have and not set(SINGLE[:2]) <= have:
        raise missing("choices", "there are neither choices in one column nor in 'choice1', 'choice2', …")
    _require_choices(file, found, have)
    if "choices" in have and pa.types.is_string(table.schema.field("choices").type):
        remedy = "Say what parts them (source.separator), or give each choice a column."
        raise InputError(Fault(file, "the column holds text, not lists of texts", remedy, field="choices"))
    given = [name for name in GOLD if name in have]
    if answered and not given:
        raise missing("answer", "there is no column 'answer' ('answer_number', 'answer_text')")
    if answered and len(given) > 1:
        raise InputError(Fault(file, f"answers come in {' and '.join(given)}", "Map one of them.", field=given[1]))


def _require_choices(file: str, found: list[str], have: set[str]) -> None:
    """Raises InputError where columns of single choices would be left out, or one between them is not there."""
    single = [name for name in SINGLE if name in have]
    like = [name for name in found if re.fullmatch(r"choice\d+", name)]
    if single and "choices" in have:
        raise InputError(Fault(file, f"choices come in choices and {single[0]}", "Map one of them.", field=single[0]))
    if single != list(SINGLE[: len(single)]):
        gap = next(name for name in SINGLE if name not in single)
        reason = f"there is no column {gap!r} before {single[-1]!r}"
        raise InputError(Fault(file, reason, "Count the choices from 1, without a gap.", field=gap))
    left_out = [name for name in like if name not in SINGLE]
    if single and left_out and len(like) > len(single):
        reason = f"it is none of the columns {SINGLE[0]!r} to {SINGLE[-1]!r}"
        remedy = "Map it to one of them (source.columns), or write all choices into one column 'choices'."
        raise InputError(*(Fault(file, reason, remedy, field=name) for name in left_out))


def _choices(table: pa.Table, faulty: Faulty) -> tuple[pa.Array, pa.Array | None]:
    """The choices of each row as a list, and their labels where the source gives some."""
    if "choices" not in table.column_names:
        return _gathered(table, faulty), None
    held = reading.whole(table.column("choices"))
    if not pa.types.is_struct(held.type):
        return _filled(held), None
    texts, labels = (_filled(pc.struct_field(held, name)) for name in ("text", "label"))
    unequal = reading.indices(pc.not_equal(pc.list_value_length(texts), pc.list_value_length(labels)))
    faulty.note(unequal, "choices", "text and label differ in length", "Give every choice its label.")
    owner = pc.list_parent_indices(labels).to_numpy().astype(np.int64)
    reading.note_labels("choices", labels.flatten(), owner, faulty)
    return texts, labels


def _filled(lists: pa.Array) -> pa.Array:
    """Lists in an array that begins at 0, without nulls: no list is an empty one, no text an empty text."""
    sizes = pc.list_value_length(lists).fill_null(0).to_numpy()
    offsets = pa.array(np.append(0, np.cumsum(sizes)).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pc.list_flatten(lists).cast(pa.string()).fill_null(""))


def _gathered(table: pa.Table, faulty: Faulty) -> pa.Array:
    """Choices from columns of their own; empty cells after the last choice are none."""
    names = [name for name in SINGLE if name in table.column_names]
    cells = [reading.as_text(table, name).fill_null("") for name in names]
    filled = np.stack([pc.not_equal(pc.utf8_trim_whitespace(c), "").to_numpy(zero_copy_only=False) for c in cells], 1)
    count = filled.shape[1] - np.argmax(filled[:, ::-1], axis=1)
    count[~filled.any(axis=1)] = 0
    taken = np.arange(len(names)) < count[:, None]
    gaps = np.flatnonzero((taken & ~filled).any(axis=1))
    faulty.note(gaps, "choices", "a choice before the last is empty", "Fill it, or move the others up.")
    row, column = np.nonzero(taken)
    values = pa.concat_arrays(cells).take(pa.array(column * table.num_rows + row))
    return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(count)).astype(np.int32)), values)


def _check_choices(choices: pa.Array, faulty: Faulty) -> None:
    """At least two, none of them empty, no two alike: not even once they are cleaned."""
    owner, texts = pc.list_parent_indices(choices).to_numpy(), choices.flatten()
    few = np.flatnonzero(np.diff(choices.offsets.to_numpy()) < 2)
    faulty.note(few, "choices", "there are fewer than two choices", "Give at least two.")
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_normalize(texts, form="NFKC"), r"\s+", " "))
    blank = pc.equal(plain, "").to_numpy(zero_copy_only=False)
    faulty.note(owner[blank], "choices", "a choice is empty", "Fill it, or take it out.")
    nul = pc.match_substring(texts, "\0").to_numpy(zero_copy_only=False)
    faulty.note(owner[nul], "choices", "a choice holds a NUL character", "Mend or remove the row.")
    alike = pd.DataFrame({"row": owner, "text": plain.to_pylist()}).duplicated().to_numpy()
    faulty.note(owner[alike], "choices", "two choices are alike", "Take one out, and mind the answer's place.")


def _answers(table: pa.Table, choices: pa.Array, labels: pa.Array | None, faulty: Faulty) -> Integers:
    """The place of the right choice of each row; UNKNOWN where it is faulty."""
    name = next(name for name in GOLD if name in table.column_names)
    held = reading.whole(table.column(name))
    count = np.diff(choices.offsets.to_numpy())
    if pa.types.is_integer(held.type):
        readings = [_inside(np.array(held.fill_null(UNKNOWN)) - (name == "answer_number"), count)]
    else:
        held = pc.utf8_trim_whitespace(held)
        readings = [_by_text(held, choices)]
        if labels is not None:
            readings.append(_by_text(held, labels))
        elif name == "answer":
            readings += [_inside(number, count) for number in (_numbers(held), _letters(held))]
        held = pc.if_else(pc.equal(held, ""), pa.scalar(None, pa.string()), held)
    answer: Integers = np.max(readings, axis=0)
    several = np.flatnonzero(np.any([(found >= 0) & (found != answer) for found in readings], axis=0))
    reason = "the answer names one choice by its text and another by its place or label"
    faulty.note(several, name, reason, "Name it by its text alone, and map the column to answer_text.")
    faulty.note(reading.indices(held.is_null()), name, "there is no answer", "Give it, or remove the row.")
    for row in np.flatnonzero(answer < 0).tolist():
        reason = f"the answer is none of the {count[row]} choices: not {_allowed(name, int(count[row]), labels)}"
        faulty.note(np.array([row]), name, reason, "Mend the answer or the choices.")
    return answer


def _allowed(name: str, count: int, labels: pa.Array | None) -> str:
    """What would have named one of so many choices, in words."""
    if name == "answer_number":
        return f"a number from 1 to {count}"
    if name == "answer_text":
        return "the text of one"
    if labels is not None:
        return "the label or the text of one"
    return f"a number from 0 to {count - 1}, a letter from A to {chr(64 + max(count, 1))}, or the text of one"


def _inside(places: Integers, count: Integers) -> Integers:
    return np.where((places >= 0) & (places < count), places, UNKNOWN)


def _numbers(answers: pa.Array) -> Integers:
    fits = pc.match_substring_regex(answers, r"^[0-9]{1,9}(\.0*)?$").fill_null(False)
    return np.array(pc.if_else(fits, pc.replace_substring_regex(answers, r"\.0*$", ""), "-1").cast(pa.int64()))


def _letters(answers: pa.Array) -> Integers:
    alphabet = pa.array([chr(65 + place) for place in range(26)])
    return np.array(pc.index_in(pc.utf8_upper(answers), value_set=alphabet).fill_null(UNKNOWN)).astype(np.int64)


def _by_text(answers: pa.Array, lists: pa.Array) -> Integers:
    """The place in each row's list of the text that is the row's answer, white space around them apart."""
    owner, texts = pc.list_parent_indices(lists).to_numpy(), pc.utf8_trim_whitespace(lists.flatten())
    same = np.flatnonzero(
        pc.equal(texts, answers.take(pa.array(owner))).fill_null(False).to_numpy(zero_copy_only=False)
    )
    place: Integers = np.full(len(answers), UNKNOWN)
    place[owner[same]] = same - lists.offsets.to_numpy()[owner[same]]
    return place
