"""How rows become windows of a model's input with a label for each word, column-wise.

A word is one of the row's tokens; in rows that came as text it is a word by the tokenizer's own rules, and of scripts
without spaces each token is one (each character, where the tokenizer takes them apart). Texts are encoded whole, so
that a text and its tokens give the model the same input. The first sub-word of a word carries its label, the others
none. A token of a row in which no sub-word begins (the letters of a word that were a token each) is part of the word
before it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.core.errors import Fault, InputError
from trainwright.rows import scripts, spans, tags
from trainwright.tasks.ner.params import Tokenization
from trainwright.text.windows import Encoded, Ints, Windows, bounds, encode, lists, windows

INTS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [
        ("row", pa.int32()),  # index into the split's rows
        ("input_ids", INTS),
        ("token_type_ids", pa.list_(pa.int8())),  # an empty list where the tokenizer has none
        ("word", INTS),  # of each word that begins in the window: its number in the row
        ("position", INTS),  # where in input_ids its first sub-word stands
        ("start_char", INTS),  # its first character in the text
        ("end_char", INTS),  # and one past its last
        ("context", INTS),  # how many tokens the window shows on its shorter side; EVERYTHING at an end of the text
        ("label", INTS),  # index into the learned labels; IGNORED where train has no such label
    ]
)
EVERYTHING = 1 << 30
IGNORED = -100  # what torch's cross entropy leaves out


@dataclass(frozen=True)
class _Template:
    """What a tokenizer puts before and after a text: token ids and type ids; `text` is the text's own type id."""

    before: tuple[list[int], list[int]]
    after: tuple[list[int], list[int]]
    text: int
    typed: bool

    @property
    def size(self) -> int:
        return len(self.before[0]) + len(self.after[0])


@dataclass(frozen=True)
class _Words:
    """The words of all rows, in order: row, number in it, first token (flat), first character and one past the last
    (in all texts joined)."""

    row: Ints
    number: Ints
    token: Ints
    start: Ints
    end: Ints


def check_tokenizer(tokenizer: Any, params: Tokenization) -> None:
    """Raises InputError for a tokenizer without offsets, or whose model is shorter than a window."""
    name = tokenizer.name_or_path or "base_model.scratch"
    if not tokenizer.is_fast:
        remedy = "Use a base model with a tokenizer.json."
        raise InputError(Fault(name, "the tokenizer is a slow one, which knows no character offsets", remedy))
    if params.max_length > tokenizer.model_max_length:
        reason = f"windows of {params.max_length} tokens are longer than the model's {tokenizer.model_max_length}"
        raise InputError(Fault("params.yaml", reason, "Lower it.", field="tokenization.max_length"))
    if params.max_length - _template(tokenizer).size <= params.stride:
        reason = f"windows of {params.max_length} tokens have no room for a stride of {params.stride}"
        raise InputError(Fault("params.yaml", reason, "Lower it.", field="tokenization.stride"))


def learn(train: Iterable[pa.Table], tokenizer: Any, params: Tokenization) -> dict[str, Any]:  # noqa: ARG001
    """{"labels": ["O", "B-LOC", "I-LOC", …]}: O, and two for each label of a training row's span, sorted."""
    seen: set[str] = set()
    for rows in train:
        seen |= set(pc.unique(spans.whole(rows["span_label"]).flatten()).to_pylist())
    return {"labels": ["O", *(f"{prefix}-{name}" for name in sorted(seen) for prefix in "BI")]}


def features(
    rows: pa.Table, tokenizer: Any, params: Tokenization, file: str, learned: Mapping[str, Any]
) -> tuple[pa.Table, list[Fault]]:
    """The windows of some rows, in row order (SCHEMA; `row` counts from 0), and a Fault for each row without any.

    A row has none where the tokenizer finds no token in its text.
    """
    template, texts = _template(tokenizer), spans.whole(rows["text"])
    encoded = encode(tokenizer.backend_tokenizer, texts)
    words = _words(rows, texts, encoded)
    labels = _labels(rows, encoded.base, words, learned["labels"])
    some = np.bincount(words.row, minlength=rows.num_rows) > 0
    room = np.full(rows.num_rows, params.max_length - template.size)
    seen = windows(np.flatnonzero(some), encoded.lengths, room, params.stride)
    table = _inputs(seen, encoded, template) | _of_words(seen, encoded, words, labels, len(template.before[0]))
    remedy = "Remove the row."
    faults = [
        Fault(file, "the tokenizer finds no word in the text", remedy, row=f"id {name}", field="text", id=name)
        for name in rows["id"].filter(pa.array(~some)).to_pylist()
    ]
    return pa.table(table, schema=SCHEMA), faults


def misaligned(rows: pa.Table, windows: pa.Table) -> pa.Array:
    """The ids of the rows whose entities, read back from the labels of their words, are not exactly the row's.

    `windows` are features of `rows`. So is a row of which an entity begins or ends within a word ("York" in
    "York-based", where that is one word), or has a label that no training row has.
    """
    row = windows["row"].to_numpy().astype(np.int64)
    columns = {name: spans.whole(windows[name]) for name in ("word", "start_char", "end_char", "label")}
    flat = {name: column.flatten().to_numpy().astype(np.int64) for name, column in columns.items()}
    owner = np.repeat(row, pc.list_value_length(columns["word"]).to_numpy())
    order = np.lexsort((flat["word"], owner))
    new = np.ones(len(order), dtype=np.bool_)  # a word that several windows hold has one label in all of them
    new[1:] = (np.diff(owner[order]) != 0) | (np.diff(flat["word"][order]) != 0)
    chosen = order[new]
    owner, label = owner[chosen], flat["label"][chosen]
    firsts, lasts = tags.runs(owner, np.where(label > 0, (label - 1) // 2, -1), label % 2 == 1)
    base = spans.bases(spans.whole(rows["text"]))
    found = _key(
        base[owner[firsts]] + flat["start_char"][chosen][firsts], base[owner[lasts]] + flat["end_char"][chosen][lasts]
    )
    gold_row, start, end, _ = _gold(rows, base)
    gold = _key(start, end)
    wrong = np.concatenate([gold_row[~np.isin(gold, found)], owner[firsts][~np.isin(found, gold)]])
    wrong = np.intersect1d(wrong, row)
    return rows["id"].take(pa.array(wrong)).combine_chunks()


def _key(starts: Ints, ends: Ints) -> Ints:
    return (starts << 32) | ends


def _gold(rows: pa.Table, base: Ints) -> tuple[Ints, Ints, Ints, pa.Array]:
    """The spans of all rows: row, first character and one past the last (in all texts joined), label."""
    starts, texts = spans.whole(rows["span_start"]), spans.whole(rows["span_text"])
    row = np.repeat(np.arange(rows.num_rows), pc.list_value_length(starts).to_numpy())
    begin = base[row] + starts.flatten().to_numpy()
    length = pc.utf8_length(texts.flatten()).to_numpy()
    return row, begin, begin + length, spans.whole(rows["span_label"]).flatten()


def _template(tokenizer: Any) -> _Template:
    """Seen by encoding a word."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # a tokenizer.json may carry both from its own training
    backend.no_padding()
    probe = backend.encode("a")
    places = [place for place, text in enumerate(probe.sequence_ids) if text is not None]
    if not places:
        name = tokenizer.name_or_path or "base_model.scratch"
        remedy = "Choose a base model whose tokenizer has a token for what it does not know."
        raise InputError(Fault(name, "the tokenizer makes no token of a letter", remedy))
    before, after = slice(0, places[0]), slice(places[-1] + 1, None)
    first, last = ((probe.ids[part], probe.type_ids[part]) for part in (before, after))
    return _Template(first, last, probe.type_ids[places[0]], "token_type_ids" in tokenizer.model_input_names)


def _words(rows: pa.Table, texts: pa.Array, encoded: Encoded) -> _Words:
    """Where words begin and end; see the module's own words for what a word is."""
    solid = np.flatnonzero(encoded.starts < encoded.ends)  # a token may stand for no character
    row = np.repeat(np.arange(rows.num_rows), encoded.lengths)[solid]
    start, end = encoded.starts[solid], encoded.ends[solid]
    codes = np.frombuffer(("".join(texts.to_pylist()) + "\0").encode("utf-32-le"), dtype=np.uint32)
    given = spans.whole(rows["token_start"])
    counts = pc.list_value_length(given).to_numpy()
    of = np.repeat(encoded.base, counts) + given.flatten().to_numpy()
    unit = np.where(counts[row] > 0, np.searchsorted(of, start, side="right"), encoded.words[solid])
    begins = np.ones(len(solid), dtype=np.bool_)
    apart = scripts.unspaced(codes[start[1:]]) | scripts.unspaced(codes[end[:-1] - 1])
    parted = (unit[1:] != unit[:-1]) | (apart & (counts[row[1:]] == 0))
    begins[1:] = (row[1:] != row[:-1]) | (parted & (start[1:] >= end[:-1]))
    first = np.flatnonzero(begins)
    last = np.append(first[1:] - 1, len(solid) - 1)[: len(first)]
    number = np.arange(len(first)) - np.searchsorted(row[first], row[first])
    stop = _with_marks(end[last], np.append(start[first][1:], len(codes) - 1)[: len(first)], codes)
    return _Words(row[first], number, solid[first], start[first], stop)


def _with_marks(ends: Ints, limits: Ints, codes: NDArray[np.uint32]) -> Ints:
    """Ends of words moved past the combining marks that a tokenizer left out (as one that strips accents does)."""
    mark = scripts.marks(codes)
    while (more := (ends < limits) & mark[ends]).any():
        ends = ends + more
    return ends


def _labels(rows: pa.Table, base: Ints, words: _Words, names: list[str]) -> Ints:
    """The label of every word: a word that a span touches is the span's, the first's where it touches two."""
    _, start, end, label = _gold(rows, base)
    place = np.searchsorted(end, words.start, side="right")
    inside = place < len(end)
    inside[inside] = start[place[inside]] < words.end[inside]
    kinds = pc.index_in(label, value_set=pa.array([name[2:] for name in names[1::2]], pa.string()))
    kinds = kinds.fill_null(-1).to_numpy().astype(np.int64)
    kind = np.full(len(place), -1, dtype=np.int64)
    kind[inside] = kinds[place[inside]]
    again = np.zeros(len(place), dtype=np.bool_)
    again[1:] = inside[1:] & inside[:-1] & (place[1:] == place[:-1])
    return np.where(inside, np.where(kind < 0, IGNORED, 1 + 2 * kind + again), 0)


def _inputs(seen: Windows, encoded: Encoded, template: _Template) -> dict[str, pa.Array]:
    """Special tokens and the text's tokens of each window, gathered into flat arrays."""
    ends = bounds(seen.length + template.size)
    ids, types = np.empty(ends[-1], dtype=np.int32), np.full(ends[-1], template.text, dtype=np.int8)
    text = ends[:-1] + len(template.before[0])
    for place, (tokens, kinds) in ((ends[:-1], template.before), (text + seen.length, template.after)):
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
            ids[place + i], types[place + i] = token, kind
    ids[spans.ranges(text, seen.length)] = encoded.ids[spans.ranges(encoded.bounds[seen.row] + seen.start, seen.length)]
    typed = lists(ends, types) if template.typed else lists(np.zeros_like(ends), types[:0])
    return {"row": pa.array(seen.row.astype(np.int32)), "input_ids": lists(ends, ids), "token_type_ids": typed}


def _of_words(seen: Windows, encoded: Encoded, words: _Words, labels: Ints, before: int) -> dict[str, pa.Array]:
    """What each window says of the words that begin in it."""
    first = encoded.bounds[seen.row] + seen.start
    low, high = (np.searchsorted(words.token, edge) for edge in (first, first + seen.length))
    count = high - low
    word, window = spans.ranges(low, count), np.repeat(np.arange(len(count)), count)
    left = words.token[word] - first[window]
    right = seen.length[window] - 1 - left
    right = np.where((seen.start + seen.length)[window] == encoded.lengths[seen.row[window]], EVERYTHING, right)
    context = np.minimum(np.where(seen.start[window] == 0, EVERYTHING, left), right)
    base = encoded.base[seen.row[window]]
    columns = {
        "word": words.number[word],
        "position": left + before,
        "start_char": words.start[word] - base,
        "end_char": words.end[word] - base,
        "context": context,
        "label": labels[word],
    }
    return {name: lists(bounds(count), values.astype(np.int32)) for name, values in columns.items()}
