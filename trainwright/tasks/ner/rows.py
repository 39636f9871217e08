"""The rows of named entity recognition: a text, and spans of it that each have a label.

A source brings tokens and tags (BIO, IOB1, BIOES or BILOU; `tokens` and `tags`, lists of strings) or `text` and
`spans` ([{start, end, label}] or [[start, end, label]], in any order; offsets in characters, `end` one past the last).
A span's own `text` is compared. Where tokens have no tags, text and spans are read and tokens are not. A row whose
`answer` is "reject" or "ignore" is left out. `id`, `group` (a document), `split` and `answer` may be absent.

Tokens are joined to a text: by nothing where both neighbours are of a script without spaces, or where the source's
tokens are single characters, else by a space. How a row's tokens were joined is recorded in `token_start` and
`token_end`, which are empty for what came as text; no token is kept beside the text.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.core import labels
from trainwright.core.errors import Fault, InputError, nearest
from trainwright.rows import scripts, spans, tables, tags
from trainwright.rows.columns import Text
from trainwright.rows.offsets import fitting_unit
from trainwright.rows.reading import unshown_labels

STARTS, STRINGS = pa.list_(pa.int32()), pa.list_(pa.string())
SCHEMA = pa.schema(
    [
        *tables.COMMON,
        pa.field("text", pa.string(), nullable=False),
        pa.field("span_start", STARTS, nullable=False),
        pa.field("span_text", STRINGS, nullable=False),
        pa.field("span_label", STRINGS, nullable=False),
        pa.field("token_start", STARTS, nullable=False),
        pa.field("token_end", STARTS, nullable=False),
    ]
)
TEXTS = (
    Text("text", starts="span_start", texts="span_text", labels=("span_label",), pieces=("token_start", "token_end")),
)
IDENTITY = ("text",)
MAIN = ("text",)
GROUP = "group"
QUESTIONS: tuple[str, ...] = ()
GOLD = ("spans", "tags", "answer")
SPAN = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("label", pa.string())])
SPAN_TEXT = pa.struct([*SPAN, ("text", pa.string())])
COLUMNS: Mapping[str, tuple[pa.DataType, ...]] = {
    "id": (pa.string(), pa.int64()),
    "group": (pa.string(), pa.int64()),
    "text": (pa.string(),),
    "spans": (pa.list_(SPAN_TEXT), pa.list_(SPAN)),
    "tokens": (STRINGS,),
    "tags": (STRINGS,),
    "split": (pa.string(),),
    "answer": (pa.string(), pa.bool_(), pa.float64()),  # a person's, to the annotation of the row
}
REJECTING = ("reject", "ignore")  # what an annotation tool writes there for a row whose spans nobody confirmed
TAG, SPAN_OF = ("tags", "token"), ("spans", "span")  # a column, and what one of its list is called
SINGLE = 0.9  # from this share of tokens of one character on, tokens are characters
# What other schemes call a tag, by what BIOES calls it.
PREFIXES = {"B": "B", "I": "I", "O": "O", "E": "E", "S": "S", "L": "E", "U": "S", "M": "I"}

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Faults = dict[int, tuple[str, str, str]]  # the field, reason and remedy of the first thing wrong with a row


@dataclass(frozen=True)
class _Entities:
    """Entities as columns, adjacent for each row: its row, its first character and one past its last, its label."""

    row: Ints
    start: Ints
    end: Ints
    label: pa.Array

    def take(self, chosen: NDArray[Any]) -> "_Entities":
        label = self.label.take(pa.array(np.arange(len(self.row))[chosen]))
        return _Entities(self.row[chosen], self.start[chosen], self.end[chosen], label)


def from_source(table: pa.Table, file: str, answered: bool = True) -> tuple[pa.Table, list[Fault]]:
    """Rows of SCHEMA in the source's order, and a Fault for every row that is left out.

    White space at a span's ends is left out of it. Without an id a row gets a hash of its text, and without a group
    too. With `answered=False`, for texts that are yet to be labelled, tags and spans are neither wanted nor read.
    Raises InputError where a column is missing.
    """
    _require(table, file, answered)
    found: Faults = {}
    _check_values(table, found, answered)
    if answered:
        _leave_out_rejected(table, found)
    if _has_tokens(table.column_names, answered):
        columns, tokens = _joined(table, found)
        entities = _tagged(table, tokens, found) if answered else _none()
        entities = _trimmed(entities, columns["text"], "tags", found)
    else:
        none = pa.array([[]] * table.num_rows, STARTS)
        columns = {"text": _strings(table, "text"), "token_start": none, "token_end": none}
        entities = _given(table, columns["text"], found) if answered else _none()
    _note(found, _blank(columns["text"]), "text", "the text is empty", "Mend or remove the row.")
    nul = pc.match_substring(columns["text"], "\0")
    _note(found, _indices(nul), "text", "the text holds a NUL character", "Mend the row.")
    columns |= _columns(entities, columns["text"], found)
    columns |= _common(table, columns["text"])
    _check_ids(columns["id"], _strings(table, "place"), found)
    rows = pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)
    return _sound(rows, _strings(table, "place"), found, file)


def stratum(rows: pa.Table) -> pa.Array:
    """Whether a row has an entity: what splitting keeps in proportion."""
    some = pc.greater(pc.list_value_length(rows["span_label"]), 0)
    return pc.if_else(some, "with entities", "without").combine_chunks()


def _require(table: pa.Table, file: str, answered: bool) -> None:
    have = table.column_names
    known = json.loads((table.schema.metadata or {}).get(b"columns", json.dumps(have)))
    if not {"tokens", "text"} & set(have):
        remedy = f"{nearest('text', known)} Name it so, or map it: source.columns: {{text: THE_COLUMN}}."
        raise InputError(Fault(file, "there is neither a column 'text' nor 'tokens'", remedy, field="text"))
    needed = "tags" if _has_tokens(have, answered) else "spans"
    if answered and needed not in have:
        other = next((name for name in ("label", "labels", "entities") if name in known), None)
        if needed == "spans" and other:
            remedy = f"If {other!r} holds the spans, map it: source.columns: {{spans: {other}}}."
            raise InputError(Fault(file, "there is no column 'spans' beside 'text'", remedy, field=needed))
        remedy = f"{nearest(needed, known)} Name it so, or map it: source.columns: {{{needed}: THE_COLUMN}}."
        beside = "tokens" if needed == "tags" else "text"
        raise InputError(Fault(file, f"there is no column {needed!r} beside {beside!r}", remedy, field=needed))


def _has_tokens(columns: list[str], answered: bool) -> bool:
    """Whether rows come as tokens and tags. Text and spans go first where tokens have no tags, as tools export them;
    a text without either goes first where neither is wanted."""
    text = {"text", "spans"} if answered else {"text"}
    return "tokens" in columns and ("tags" in columns or not text <= {*columns})


def _check_values(table: pa.Table, found: Faults, answered: bool) -> None:
    """What could not be read, and splits that are unknown or missing."""
    if "problem" in table.column_names:
        problems = _whole(table, "problem")
        for row in _indices(problems.is_valid()).tolist():
            problem = problems[row].as_py()
            unread = () if _has_tokens(table.column_names, answered) else ("tokens",)
            if problem["field"] in (*unread, "answer"):
                continue
            _note(found, [row], problem["field"], problem["reason"], "Mend the value.")
    declared = _strings(table, "split")
    known, absent = pc.is_in(declared, value_set=pa.array(tables.SPLITS)), pc.equal(declared, "")
    remedy = f"Write {', '.join(tables.SPLITS)}, or leave the whole column empty."
    _note(found, _indices(pc.invert(pc.or_(known, absent))), "split", "there is no such split", remedy)
    if pc.any(known).as_py():
        _note(found, _indices(absent), "split", "the split is missing, while other rows declare one", remedy)


def _leave_out_rejected(table: pa.Table, found: Faults) -> None:
    """Note rows whose annotation was rejected or skipped: their spans are no gold."""
    answer = _strings(table, "answer")
    for word in REJECTING:
        remedy = "Remove the row, or allow more rows in quarantine: ingestion.max_bad_share."
        _note(found, _indices(pc.equal(answer, word)), "answer", f"the annotation has the answer {word!r}", remedy)


def _joined(table: pa.Table, found: Faults) -> tuple[dict[str, Any], _Entities]:
    """The columns `text`, `token_start` and `token_end`, and all tokens as if they were entities."""
    lists = _lists(table, "tokens")
    sizes, flat = pc.list_value_length(lists).to_numpy().astype(np.int64), lists.flatten()
    _note(found, np.flatnonzero(sizes == 0), "tokens", "the sentence is empty", "Mend or remove the row.")
    row = np.repeat(np.arange(len(sizes)), sizes)
    empty = _indices(pc.equal(pc.utf8_trim(flat.fill_null(""), labels.EDGES), ""))  # other white space may be a token
    blank = np.isin(np.arange(len(row)), empty)
    _note_parts(found, row, blank, ("tokens", "token"), "a token is empty", "Mend or remove the row.")
    flat = flat.fill_null("")
    length = pc.utf8_length(flat).to_numpy().astype(np.int64)
    glued = np.ones(len(row), dtype=np.bool_)  # to the token before; so is the first of a row, which has none
    within = np.flatnonzero(row[1:] == row[:-1]) + 1 if len(row) else np.zeros(0, dtype=np.int64)
    if len(row) and (length == 1).mean() < SINGLE:
        ends = [_unspaced(pc.utf8_slice_codeunits(flat, *part)) for part in ((0, 1), (-1, None))]
        glued[within] = ends[0][within] & ends[1][within - 1]
    pieces = pc.binary_join_element_wise(pa.array(np.where(glued, "", " "), pa.string()), flat, "")
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    text = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pieces), "")
    widths = np.concatenate([[0], np.cumsum(length + ~glued)])
    end = widths[1:] - widths[offsets[row]]
    tokens = _Entities(row, end - length, end, flat)
    bounds = pa.array(offsets.astype(np.int32))
    columns = {
        name: pa.ListArray.from_arrays(bounds, pa.array(part.astype(np.int32)))
        for name, part in (("token_start", tokens.start), ("token_end", tokens.end))
    }
    return {"text": text, **columns}, tokens


def _unspaced(characters: pa.Array) -> Mask:
    """Which characters are of a script that puts no spaces between words, or of its punctuation."""
    encoded = characters.dictionary_encode()
    of = pc.match_substring_regex(encoded.dictionary, scripts.UNSPACED).to_numpy(zero_copy_only=False)
    return np.asarray(of[encoded.indices.to_numpy()], dtype=np.bool_)


def _tagged(table: pa.Table, tokens: _Entities, found: Faults) -> _Entities:
    """The entities that the tags of tokens mark."""
    lists = _lists(table, "tags")
    sizes = pc.list_value_length(lists).to_numpy().astype(np.int64)
    wanted = np.bincount(tokens.row, minlength=table.num_rows)
    _note(found, np.flatnonzero(sizes != wanted), "tags", "there are not as many tags as tokens", "Give each one.")
    flat, row = lists.flatten(), np.repeat(np.arange(table.num_rows), sizes)
    missing = flat.is_null().to_numpy(zero_copy_only=False)
    _note_parts(found, row, missing, TAG, "a token has no tag", "Write O where there is no entity.")
    even = np.flatnonzero(sizes == wanted)  # tags of other rows have no tokens to belong to
    flat = flat.take(pa.array(np.flatnonzero(np.isin(row, even)))).fill_null("O")
    tokens = tokens.take(np.isin(tokens.row, even))
    encoded = flat.dictionary_encode()
    prefixes, kinds, names = _parsed(encoded.dictionary.to_pylist())
    prefix, kind = prefixes[encoded.indices.to_numpy()], kinds[encoded.indices.to_numpy()]
    remedy = "A tag is O, or B- or I- (or E-, S-) and a label."
    if (table.schema.metadata or {}).get(b"format") == b"conll":
        remedy += " If another column of the file holds the tags, name it: source.tag_column (counted from 1)."
    _note_each(found, tokens.row, prefix == "?", TAG, lambda at: f"{flat[at].as_py()!r} is not a tag", remedy)
    unshown = np.isin(np.arange(len(flat)), unshown_labels(flat))
    _note_each(found, tokens.row, unshown, TAG, lambda at: str(labels.unshown(flat[at].as_py())), labels.REMEDY)
    begins = _begins(tokens.row, prefix, kind, _scheme(table, tokens.row, prefix, kind), found)
    firsts, lasts = tags.runs(tokens.row, kind, begins)
    label = pa.array(names, pa.string()).take(pa.array(kind[firsts]))
    return _Entities(tokens.row[firsts], tokens.start[firsts], tokens.end[lasts], label)


def _parsed(distinct: list[str]) -> tuple[NDArray[Any], Ints, list[str]]:
    """Of each different tag its prefix as BIOES has it ("?" for what is no tag) and its label's number (-1 for O)."""
    parts = [tuple(part.strip() for part in tag.partition("-")[::2]) for tag in distinct]
    wrong = [(p not in PREFIXES) or ((p == "O") != (name == "")) for p, name in parts]
    names = sorted({name for (_, name), bad in zip(parts, wrong, strict=True) if name and not bad})
    number = {name: place for place, name in enumerate(names)}
    prefixes = ["?" if bad else PREFIXES[p] for (p, _), bad in zip(parts, wrong, strict=True)]
    kinds = [-1 if bad else number.get(name, -1) for (_, name), bad in zip(parts, wrong, strict=True)]
    return np.array(prefixes, dtype="<U1"), np.array(kinds, dtype=np.int64), names


def _scheme(table: pa.Table, row: Ints, prefix: NDArray[Any], kind: Ints) -> str:
    """The scheme of the tags: as `source.tags` says, or what all of them together show.

    With E- or S- they are BIOES. Where every B- comes right after an entity of its own kind, and an I- begins one,
    they are IOB1. All others are BIO.
    """
    stated: str = (table.schema.metadata or {}).get(b"tags", b"auto").decode()
    if stated != "auto":
        return stated
    if np.isin(prefix, ("E", "S")).any():
        return "bioes"
    after = tags.follows(row, kind)
    stray = (prefix == "I") & ~after
    return "iob1" if stray.any() and bool(after[prefix == "B"].all()) else "bio"


def _begins(row: Ints, prefix: NDArray[Any], kind: Ints, scheme: str, found: Faults) -> Mask:
    """Which tags begin an entity though one of their kind comes before; what breaks the scheme is a fault."""
    after = tags.follows(row, kind)
    begins = np.asarray(np.isin(prefix, ("B", "S")), dtype=np.bool_)
    stray = np.isin(prefix, ("I", "E")) & ~after
    if scheme == "bioes":
        open_before = np.append(False, np.isin(prefix[:-1], ("B", "I"))) if len(prefix) else begins
        stray |= np.isin(prefix, ("I", "E")) & ~open_before
        goes_on = np.append(after[1:] & np.isin(prefix[1:], ("I", "E")), False) if len(prefix) else begins
        unclosed = np.isin(prefix, ("B", "I")) & ~goes_on
        remedy = "Close it, or set source.tags: bio."
        _note_parts(found, row, unclosed, TAG, "an entity has no E- tag at its end", remedy)
    if scheme in ("bio", "bioes"):
        reason = "an I- tag has no B- tag of its label before it"
        remedy = "Write B-, or have it begin an entity: source.tags: repair (or iob1, where that is the scheme)."
        _note_parts(found, row, stray, TAG, reason, remedy)
    return begins


def _given(table: pa.Table, text: pa.Array, found: Faults) -> _Entities:
    """The spans of rows that came as text, with white space at their ends taken off."""
    lists = _lists(table, "spans")
    sizes, flat = pc.list_value_length(lists).to_numpy().astype(np.int64), lists.flatten()
    row = np.repeat(np.arange(table.num_rows), sizes)
    missing = "there are no spans" if "problem" not in table.column_names else "the spans are missing"
    _note(found, _indices(_whole(table, "spans").is_null()), "spans", missing, "Write [] for a text without entities.")
    written = pc.struct_field(flat, "label").fill_null("")
    start, end = (pc.struct_field(flat, name).fill_null(-1).to_numpy().astype(np.int64) for name in ("start", "end"))
    order = np.lexsort((end, start, row))
    flat, written, start, end = flat.take(pa.array(order)), written.take(pa.array(order)), start[order], end[order]
    if flat.type.get_field_index("text") >= 0:
        _compare(text, row, start, end, pc.struct_field(flat, "text"), found)
    label = pc.utf8_trim_whitespace(written)
    unshown = np.isin(np.arange(len(flat)), unshown_labels(written))
    _note_each(found, row, unshown, SPAN_OF, lambda at: str(labels.unshown(written[at].as_py())), labels.REMEDY)
    length = pc.utf8_length(text).to_numpy().astype(np.int64)[row]
    remedy = "Count characters from 0; `end` is one past the last."
    nameless = pc.equal(label, "").to_numpy(zero_copy_only=False)
    after = np.append(False, row[1:] == row[:-1])[: len(row)]
    overlap = after & (start < np.roll(end, 1))
    for wrong, reason, mend in (
        (nameless, "a span has no label", "Give it one."),
        ((start < 0) | (end <= start), "a span has no start or does not end after it", remedy),
        (end > length, "a span ends past the end of the text", remedy),
    ):
        _note_parts(found, row, wrong, SPAN_OF, reason, mend)

    def both(at: int) -> str:
        first, second = (f"{start[i]} to {end[i]} ({label[i].as_py()})" for i in (at - 1, at))
        return f"two spans overlap: {first} and {second}"

    _note_each(found, row, overlap, SPAN_OF, both, "Keep one of them: entities lie side by side.")
    sound = ~np.isin(row, np.array(list(found), dtype=np.int64))
    given = _Entities(row[sound], start[sound], end[sound], label.take(pa.array(np.flatnonzero(sound))))
    return _trimmed(given, text, "spans", found)


def _compare(text: pa.Array, row: Ints, start: Ints, end: Ints, held: pa.Array, found: Faults) -> None:
    """Note rows with spans that carry a text other than the one at their place, and the unit that would fit."""
    for one in np.unique(row[np.asarray(held.is_valid())]).tolist():
        own = text[one].as_py()
        places = range(np.searchsorted(row, one), np.searchsorted(row, one, side="right"))
        given = [(int(start[at]), int(end[at]), held[at].as_py()) for at in places if held[at].is_valid]
        wrong = next((s for s in given if s[0] < 0 or own[s[0] : s[1]].strip() != s[2].strip()), None)
        if wrong is None:
            continue
        begin, stop, says = wrong
        reason = f"a span says {says!r}, and {own[max(begin, 0) : max(stop, 0)]!r} stands at {begin} to {stop}"
        remedy = "Mend the offsets or the text; they must agree to the letter."
        if fits := fitting_unit(own, given):
            reason += f"; all spans of the row fit when counted in {fits[0]}"
            remedy = f"Count characters from 0, with `end` one past the last: the first span begins at {fits[1][0]}."
        _note(found, [one], "spans", reason, remedy)


def _trimmed(entities: _Entities, text: pa.Array, name: str, found: Faults) -> _Entities:
    """Entities without the white space at their ends; one of white space alone is a fault of its row."""
    base = spans.bases(text)[entities.row]
    start, end = spans.trimmed(base + entities.start, base + entities.end, text)
    _note(found, entities.row[start == end], name, "a span holds white space alone", "Remove it.")
    return _Entities(entities.row, start - base, end - base, entities.label)


def _columns(entities: _Entities, text: pa.Array, found: Faults) -> dict[str, Any]:
    """The span columns; faulty rows have none."""
    entities = entities.take(~np.isin(entities.row, np.array(list(found), dtype=np.int64)))
    counts = np.bincount(entities.row, minlength=len(text))
    bounds = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    cuts = spans.cut(text, entities.row, entities.start, entities.end)
    parts = {"span_start": pa.array(entities.start.astype(np.int32)), "span_text": cuts, "span_label": entities.label}
    return {name: pa.ListArray.from_arrays(bounds, part) for name, part in parts.items()}


def _common(table: pa.Table, text: pa.Array) -> dict[str, Any]:
    """Ids, groups and splits. Of rows without an id and with one text the second's gets "-2": cleaning judges them."""
    hashed = tables.content_hash(pa.table({"text": text}), ["text"])
    hashes = pa.array([f"{value:016x}" for value in hashed.tolist()], pa.string())
    ids, groups, split = (_strings(table, name) for name in ("id", "group", "split"))
    unnamed = pc.equal(ids, "").to_numpy(zero_copy_only=False)
    names = pd.Series(hashes.to_pylist(), dtype=object)
    again = names[unnamed].groupby(names[unnamed]).cumcount().reindex(names.index, fill_value=0)
    names = names.where(again == 0, names + "-" + (again + 1).astype(str))
    return {
        "id": pc.if_else(pa.array(unnamed), pa.array(names.tolist(), pa.string()), ids),
        "group": pc.if_else(pc.equal(groups, ""), hashes, groups),
        "split": pc.if_else(pc.equal(split, ""), pa.scalar(None, pa.string()), split),
        "parent": pa.nulls(table.num_rows, pa.string()),
    }


def _check_ids(ids: pa.Array, places: pa.Array, found: Faults) -> None:
    """Of sound rows with one id the first stays."""
    sound = [row for row in range(len(ids)) if row not in found]
    named = pd.Series(ids.take(pa.array(sound, pa.int64())).to_pylist(), index=sound, dtype=object)
    first = {id: row for row, id in reversed(list(named.items()))} if named.duplicated().any() else {}
    for row, id in named[named.duplicated()].items():
        reason = f"the id is already that of {places[first[id]].as_py()}"
        _note(found, [row], "id", reason, "Give every row its own id.")


def _sound(rows: pa.Table, places: pa.Array, found: Faults, file: str) -> tuple[pa.Table, list[Fault]]:
    ids = rows["id"]
    faults = [
        Fault(file, reason, remedy, row=places[row].as_py(), field=name, id=ids[row].as_py())
        for row, (name, reason, remedy) in sorted(found.items())
    ]
    keep = np.ones(rows.num_rows, dtype=np.bool_)
    keep[list(found)] = False
    return rows.append_column("place", places).filter(pa.array(keep)), faults


def _note(found: Faults, rows: Any, name: str, reason: str, remedy: str) -> None:
    """Keep what is wrong with some rows; a row keeps the first thing."""
    for row in np.asarray(rows, dtype=np.int64).tolist():
        found.setdefault(row, (name, reason, remedy))


def _note_parts(found: Faults, row: Ints, wrong: Mask, what: tuple[str, str], reason: str, remedy: str) -> None:
    """Keep what is wrong with tokens or spans, row by row; `what` is their column and what one is called."""
    _note_each(found, row, wrong, what, lambda _: reason, remedy)


def _note_each(
    found: Faults, row: Ints, wrong: Mask, what: tuple[str, str], reason: Callable[[int], str], remedy: str
) -> None:
    """As `_note_parts`, with a reason for each token or span by its place."""
    for at in np.flatnonzero(wrong).tolist():
        if row[at] not in found:
            number = at - np.searchsorted(row, row[at]) + 1
            _note(found, [row[at]], what[0], f"{reason(at)} ({what[1]} {number})", remedy)


def _none() -> _Entities:
    nothing = np.zeros(0, dtype=np.int64)
    return _Entities(nothing, nothing, nothing, pa.array([], pa.string()))


def _whole(table: pa.Table, name: str) -> pa.Array:
    return spans.whole(table.column(name))


def _lists(table: pa.Table, name: str) -> pa.Array:
    """A list column in one piece, a null as an empty list."""
    return pc.if_else(_whole(table, name).is_valid(), _whole(table, name), pa.scalar([], table[name].type))


def _strings(table: pa.Table, name: str) -> pa.Array:
    """A column as text in one piece, "" where a row or the whole source has none."""
    if name not in table.column_names:
        return pa.array([""] * table.num_rows, pa.string())
    return spans.whole(table.column(name).cast(pa.string()).fill_null(""))


def _blank(texts: pa.Array) -> Ints:
    return _indices(pc.equal(pc.utf8_trim_whitespace(texts), ""))


def _indices(mask: Any) -> Ints:
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False)).astype(np.int64)
