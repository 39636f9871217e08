"""What every reader gives, and how values of a file become typed columns."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core.errors import Fault, InputError

Columns = Mapping[str, Sequence[pa.DataType]]
"""The columns that are wanted, each with the types it may have; the first that fits is taken."""

WORDS = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": None}
NOT_WHOLE = ("is NaN or infinity, not a whole number", "is a number with a fraction, not a whole number")
"""Why a float is no whole number, indexed by whether it is finite."""
SPAN = ("start", "end", "label", "text")
ALSO: Mapping[str, Sequence[str]] = {
    "start": ("start_offset", "start_char", "begin"),
    "end": ("end_offset", "end_char"),
    "label": ("entity", "entity_group", "type", "tag", "category"),
    "text": ("surface", "surface_form", "mention", "word", "value"),
}
"""What annotation tools call the parts of a span."""
UNFIT = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, UnicodeEncodeError, OverflowError)
"""What Arrow raises for values that a type cannot hold."""


@dataclass
class Records:
    """The rows of one file: `places` has one entry a row; `problems` says of a row which field cannot be read."""

    columns: dict[str, Any]
    places: Sequence[str]
    found: list[str]
    problems: dict[int, tuple[str, str]] = field(default_factory=dict)

    def note(self, name: str, reasons: Mapping[int, str]) -> None:
        """Keep what is wrong with values of column `name`; a row keeps its first problem."""
        for row, reason in reasons.items():
            self.problems.setdefault(row, (name, reason))


def chunks(column: Any) -> list[pa.Array]:
    """The pieces of a column; Arrow makes several where its texts are too long for one."""
    return list(column.chunks) if isinstance(column, pa.ChunkedArray) else [column]


def repeated(names: Iterable[str]) -> str | None:
    """The first name that comes a second time; None if each comes once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def typed(values: Sequence[Any], types: Sequence[pa.DataType]) -> tuple[pa.Array, dict[int, str]]:
    """Values as parsed from JSON as one column of the first type that fits its first value; of the type null where
    there is no value.

    Values of another type become null; the second result says of each, by its index, what is wrong.
    """
    if any(_holds_spans(kind) for kind in types):
        values = [_spans(value) for value in values]
    first = next((value for value in values if value is not None), None)
    if first is None:
        return pa.nulls(len(values)), {}
    kind = next((t for t in types if _wrong(first, t) is None), types[0])
    try:
        if all(_convertible(value, kind) for value in values):
            return _array(values, kind), {}
    except UNFIT:
        pass  # some value does not fit: find which
    reasons = {row: reason for row, value in enumerate(values) if value is not None and (reason := _wrong(value, kind))}
    return _array([None if row in reasons else value for row, value in enumerate(values)], kind), reasons


def _holds_spans(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) and pa.types.is_struct(kind.value_type) and {*SPAN[:3]} <= {*_names(kind.value_type)}


def _spans(value: Any) -> Any:
    """Spans as objects {start, end, label, text}, be they lists of these or objects with an annotation tool's names."""
    return [_span(one) for one in value] if isinstance(value, list) else value


def _span(value: Any) -> Any:
    if isinstance(value, list) and len(value) in (3, 4):
        return dict(zip(SPAN, value, strict=False))
    if not isinstance(value, dict):
        return value
    named = {ours: next((name for name in (ours, *ALSO[ours]) if value.get(name) is not None), ours) for ours in SPAN}
    span = {ours: value.get(name) for ours, name in named.items()}
    return span if isinstance(span["text"], str) else {**span, "text": None}


def _convertible(value: Any, kind: pa.DataType) -> bool:
    """Whether Arrow may be left to say if a value fits: it takes true for 1 or 1.0, a text for the list of its
    characters and a list for an object."""
    if value is None:
        return True
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(_convertible(inner, kind.value_type) for inner in value)
    if pa.types.is_struct(kind):
        return isinstance(value, dict) and all(_convertible(value.get(field.name), field.type) for field in kind)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return type(value) in (int, float)
    return True


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Values as Arrow has them. Floats are whole numbers if they have no fraction. Whole numbers within lists and
    objects go through floats, whose cast refuses 1.5: read at once, they would lose their fraction without a word."""
    if pa.types.is_integer(kind) and float in set(map(type, values)):
        if any(type(value) is float and not value.is_integer() for value in values):
            raise pa.ArrowInvalid("a number with a fraction")
        values = [int(value) if type(value) is float else value for value in values]
    floating = _floating(kind)
    return pa.array(values, kind) if floating == kind else pa.array(values, floating).cast(kind)


def _floating(kind: pa.DataType) -> pa.DataType:
    """A nested type with floats for its whole numbers; any other as it is."""

    def inner(held: pa.DataType) -> pa.DataType:
        return pa.float64() if pa.types.is_integer(held) else _floating(held)

    if pa.types.is_list(kind):
        return pa.list_(inner(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, inner(field.type)) for field in kind])
    return kind


def _wrong(value: Any, kind: pa.DataType) -> str | None:
    """Why a value is not of type `kind`; None where it is."""
    try:
        if not _convertible(value, kind):
            raise pa.ArrowTypeError(kind)
        _array([value], kind)
    except UnicodeEncodeError as error:
        return f"holds half of a surrogate pair (\\u{ord(error.object[error.start]):04x}), which is no character"
    except OverflowError:
        return "is a number too large"
    except UNFIT:
        if pa.types.is_nested(kind) and isinstance(value, (list, dict)):
            return f"does not have the form {described(kind)}"
        whole = isinstance(value, float) and pa.types.is_integer(kind)
        return NOT_WHOLE[math.isfinite(value)] if whole else f"is {WORDS[type(value)]}, not {described(kind)}"
    return None


def described(kind: pa.DataType) -> str:
    """A type in words that a user of JSON or CSV knows."""
    if pa.types.is_list(kind):
        return f"[{described(kind.value_type)}, …]"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(f"{f.name}: {described(f.type)}" for f in kind) + "}"
    if pa.types.is_boolean(kind):
        return "true or false"
    if pa.types.is_floating(kind):
        return "a number"
    return "a whole number" if pa.types.is_integer(kind) else "text" if pa.types.is_string(kind) else str(kind)


def conformed(column: Any, types: Sequence[pa.DataType], file: str, name: str) -> Any:
    """A column of an Arrow table as the first of `types` that it holds without loss; a dictionary stays one.

    Raises InputError where it holds something else: numbers are not taken for text.
    """
    encoded = pa.types.is_dictionary(column.type)
    held = column.type.value_type if encoded else column.type
    if pa.types.is_null(held):
        return pa.nulls(len(column))  # decides nothing: other files may hold values
    for kind in types:
        if _alike(held, kind):
            try:
                found = column.cast(pa.dictionary(pa.int32(), kind) if encoded else kind)
                # A list of fixed size has values even where it is null; `take` leaves them out.
                return found.take(pa.array(np.arange(len(found)))) if "fixed_size_list" in str(held) else found
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                if pa.types.is_integer(kind) and not pa.types.is_integer(held):
                    raise InputError(_not_whole(column, file, name)) from None
    wanted = " or ".join(described(kind) for kind in types)
    reason = f"the column holds {described(held)}, not {wanted}"
    raise InputError(Fault(file, reason, "Convert the column, or map another one in source.columns.", field=name))


def _not_whole(column: Any, file: str, name: str) -> Fault:
    """The first of a column of floats that is no whole number."""
    held = column.cast(pa.float64())
    whole = pc.and_(pc.is_finite(held), pc.equal(held, pc.trunc(held)))
    wrong = pc.indices_nonzero(pc.and_(pc.invert(whole), held.is_valid()))
    if not len(wrong):
        return Fault(file, "the column holds a number too large", "Mend the value.", field=name)
    at = wrong[0].as_py()
    finite = pc.is_finite(held)[at].as_py()
    remedy = "Mend the value." if finite else "Mend the value; one that is missing is null."
    return Fault(file, NOT_WHOLE[finite], remedy, row=f"row {at + 1}", field=name)


def _alike(held: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether the two differ in width or representation alone."""
    t = pa.types
    if t.is_null(held):
        return True
    if t.is_string(wanted):
        return bool(t.is_string(held) or t.is_large_string(held) or t.is_string_view(held))
    if t.is_integer(wanted) or t.is_floating(wanted):
        return bool(t.is_integer(held) or t.is_floating(held) or t.is_decimal(held))
    if t.is_list(wanted):
        lists = t.is_list(held) or t.is_large_list(held) or t.is_fixed_size_list(held)
        return bool(lists and _alike(held.value_type, wanted.value_type))
    if t.is_struct(wanted):
        return bool(t.is_struct(held) and all(f.name in _names(held) for f in wanted))
    return bool(held == wanted)


def listed(column: Any, types: Sequence[pa.DataType], separator: str) -> Any:
    """A column of text parted at `separator` where a list of texts is wanted; white space around parts and empty
    parts after the last are left out. Any other column as it is."""
    if not pa.types.is_string(column.type) or pa.list_(pa.string()) not in types:
        return column
    held = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    parts = pc.split_pattern(held, separator)
    values = pc.utf8_trim_whitespace(parts.flatten())
    owner = pc.list_parent_indices(parts).to_numpy()
    filled = np.flatnonzero(np.asarray(pc.not_equal(values, "")))
    last = np.full(len(held), -1)
    last[owner[filled]] = filled  # of a row's places the last stays
    kept = np.arange(len(owner)) <= last[owner]
    ends = np.cumsum(np.bincount(owner[kept], minlength=len(held)))
    offsets = pa.array(np.append(0, ends).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values.filter(pa.array(kept)), mask=held.is_null())


def flagged(columns: Mapping[str, Any], records: Records) -> pa.Array:
    """Columns of 0 and 1, or other truth values, as the list of the names of those that are 1 in each row.

    A cell that is neither is a problem of its row.
    """
    known = {word: truth for word, truth in TRUTH.items() if truth is not None}
    cells = []
    for name, column in columns.items():
        words = pc.utf8_lower(pc.utf8_trim_whitespace(column.cast(pa.string())))
        words = pc.replace_substring_regex(words, r"^([01])\.0+$", r"\1")
        is_in = pc.is_in(words, value_set=pa.array(list(known)))
        records.note(name, dict.fromkeys(pc.indices_nonzero(pc.invert(is_in)).to_pylist(), "is neither 0 nor 1"))
        cells.append(np.asarray(pc.is_in(words, value_set=pa.array([word for word, truth in known.items() if truth]))))
    flags = np.stack(cells, axis=1)
    offsets = np.append(0, np.cumsum(flags.sum(axis=1))).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(list(columns), pa.string()).take(pa.array(np.nonzero(flags)[1])))


def _names(struct: pa.DataType) -> list[str]:
    return [field.name for field in struct]
