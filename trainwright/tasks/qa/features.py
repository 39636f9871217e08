"""How rows become windows of a model's input, column-wise.

Every distinct context is encoded once for all its questions; windows, labels and type ids are then numpy
gathers over flat arrays. The windows are those of
`tokenizer(question, context, truncation="only_second", max_length=…, stride=…, return_overflowing_tokens=True)`,
token for token; a test holds the two together.

The question always comes first, whichever side the tokenizer pads on. No padding is stored: that is for
whoever collates a batch.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.core.errors import Fault, InputError
from trainwright.rows import spans
from trainwright.tasks.qa.params import Tokenization

Ints = NDArray[np.int64]

SCHEMA = pa.schema(
    [
        ("row", pa.int32()),  # index into the split's rows
        ("input_ids", pa.list_(pa.int32())),
        ("token_type_ids", pa.list_(pa.int8())),  # an empty list where the tokenizer has none
        ("context_start", pa.int32()),  # index of the window's first context token
        ("start_char", pa.list_(pa.int32())),  # of each context token: its first character in the context
        ("end_char", pa.list_(pa.int32())),  # and one past its last, both without white space
        ("null_position", pa.int32()),  # the CLS or BOS token
        ("start_position", pa.int32()),  # labels; both are null_position where the window does not
        ("end_position", pa.int32()),  # hold the whole answer
    ]
)


@dataclass(frozen=True)
class Template:
    """What a tokenizer puts before, between and after question and context: token ids and type ids.

    `question_type` and `context_type` are the type ids of the two texts; `null` says in which of the three
    parts, and where in it, the CLS or BOS token stands.
    """

    ids: tuple[list[int], list[int], list[int]]
    types: tuple[list[int], list[int], list[int]]
    question_type: int
    context_type: int
    null: tuple[int, int]
    typed: bool  # whether the model takes type ids

    @property
    def size(self) -> int:
        return sum(map(len, self.ids))


@dataclass(frozen=True)
class Windows:
    """Windows as columns: the row of each, its first context token (counted in the context), how many."""

    row: Ints
    start: Ints
    length: Ints


@dataclass(frozen=True)
class Encoded:
    """Texts as tokens, flat: text i has the tokens bounds[i] to bounds[i + 1].

    `starts` and `ends` are character offsets into all texts joined (text i begins at `base[i]`); they are
    empty where offsets were not asked for.
    """

    ids: NDArray[np.int32]
    bounds: Ints
    base: Ints
    starts: Ints
    ends: Ints

    @property
    def lengths(self) -> Ints:
        return np.diff(self.bounds)


def check_tokenizer(tokenizer: Any, params: Tokenization) -> None:
    """Raises InputError for a tokenizer without offsets, CLS or BOS, or whose model is shorter than a window."""
    name = tokenizer.name_or_path or "base_model.scratch"
    if not tokenizer.is_fast:
        remedy = "Use a base model with a tokenizer.json."
        raise InputError(Fault(name, "the tokenizer is a slow one, which knows no character offsets", remedy))
    template = _template(tokenizer)
    if params.max_length > tokenizer.model_max_length:
        reason = f"windows of {params.max_length} tokens are longer than the model's {tokenizer.model_max_length}"
        raise InputError(Fault("params.yaml", reason, "Lower it.", field="tokenization.max_length"))
    if params.max_length - template.size <= params.stride:
        reason = f"windows of {params.max_length} tokens have no room for a stride of {params.stride}"
        raise InputError(Fault("params.yaml", reason, "Lower it.", field="tokenization.stride"))


def learn(train: Iterable[pa.Table], tokenizer: Any, params: Tokenization) -> dict[str, Any]:  # noqa: ARG001
    return {}


def features(
    rows: pa.Table,
    tokenizer: Any,
    params: Tokenization,
    file: str,
    learned: Mapping[str, Any],  # noqa: ARG001
) -> tuple[pa.Table, list[Fault]]:
    """The windows of some rows, in row order (SCHEMA; `row` counts from 0), and a Fault for each row without any.

    A row has none where the question leaves its context so little room that windows could not advance.
    """
    template = _template(tokenizer)
    backend = tokenizer.backend_tokenizer
    which, contexts = spans.distinct(rows["context"])
    encoded = _encode_contexts(backend, contexts)
    questions = _encode(backend.encode_batch_fast, rows["question"].to_pylist())
    length = encoded.lengths[which]
    room = params.max_length - template.size - questions.lengths
    fits = (length > 0) & (room >= np.minimum(length, params.stride + 1))
    windows = _windows(np.flatnonzero(fits), length, room, params.stride, tokenizer.truncation_side == "left")
    labels = _labels(rows, which, encoded, contexts)
    table = _assemble(windows, which, encoded, questions, template)
    table |= _positions(windows, labels, table)
    without = rows["id"].take(pa.array(np.flatnonzero(~fits))).to_pylist()
    measures = zip(without, length[~fits].tolist(), room[~fits].tolist(), strict=True)
    faults = [_fault(file, params, *measure) for measure in measures]
    return pa.table(table, schema=SCHEMA), faults


def misaligned(rows: pa.Table, windows: pa.Table) -> pa.Array:
    """The ids of the rows with a labelled window that does not decode to the answer ("3" in "32").

    `windows` are features of `rows`. White space at an answer's ends is not compared: tokens have none.
    """
    labelled = windows.filter(pc.not_equal(windows["start_position"], windows["null_position"]))
    row = labelled["row"].to_numpy().astype(np.int64)
    at = {name: _at_label(labelled, name) for name in ("start", "end")}
    which, contexts = spans.distinct(rows["context"])
    base = spans.bases(contexts)[which]
    has, starts, ends = _answers(rows)
    starts, ends = spans.trimmed(base[has] + starts, base[has] + ends, contexts)
    answer = np.full((2, rows.num_rows), -1, dtype=np.int64)
    answer[:, has] = starts - base[has], ends - base[has]
    wrong = (at["start"] != answer[0, row]) | (at["end"] != answer[1, row])
    return rows["id"].take(pa.array(np.unique(row[wrong]))).combine_chunks()


def _at_label(labelled: pa.Table, name: str) -> Ints:
    """The start_char or end_char of the token that is labelled as the answer's start or end."""
    column = spans.whole(labelled[f"{name}_char"])
    place = labelled[f"{name}_position"].to_numpy().astype(np.int64) - labelled["context_start"].to_numpy()
    chars = column.values.to_numpy().astype(np.int64)
    return np.asarray(chars[column.offsets.to_numpy()[:-1] + place], dtype=np.int64)


def _template(tokenizer: Any) -> Template:
    """Seen by encoding a pair. The probe is the null token's own text: one token in any vocabulary.

    Raises InputError where there is no null token, or where pairs are joined without it.
    """
    null, probe = tokenizer.cls_token_id, tokenizer.cls_token
    if null is None:
        null, probe = tokenizer.bos_token_id, tokenizer.bos_token
    if null is None:
        reason = "the tokenizer has neither a CLS nor a BOS token, where the model could say that there is no answer"
        raise _unsuitable(tokenizer, reason)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # a tokenizer.json may carry both from its own training
    backend.no_padding()
    pair = backend.encode(probe, probe)
    texts = [(text, place) for place, text in enumerate(pair.sequence_ids) if text is not None]
    if [text for text, _ in texts] != [0, 1]:
        raise _unsuitable(tokenizer, "the tokenizer does not join a pair of texts")
    first, second = (place for _, place in texts)
    before, between, after = slice(0, first), slice(first + 1, second), slice(second + 1, None)
    ids = (pair.ids[before], pair.ids[between], pair.ids[after])
    types = (pair.type_ids[before], pair.type_ids[between], pair.type_ids[after])
    nulls = [(part, ids[part].index(null)) for part in range(3) if null in ids[part]]
    if not nulls:
        raise _unsuitable(tokenizer, "the tokenizer puts no CLS or BOS token beside a pair of texts")
    typed = "token_type_ids" in tokenizer.model_input_names
    return Template(ids, types, pair.type_ids[first], pair.type_ids[second], nulls[0], typed)


def _unsuitable(tokenizer: Any, reason: str) -> InputError:
    name = tokenizer.name_or_path or "base_model.scratch"
    return InputError(Fault(name, reason, "Choose a base model made for pairs of texts (BERT, RoBERTa, …)."))


def _encode(encode: Callable[..., list[Any]], texts: list[str]) -> Encoded:
    encodings = encode(texts, add_special_tokens=False)
    bounds = _bounds([len(encoding) for encoding in encodings])
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32, bounds[-1])
    nothing = np.empty(0, dtype=np.int64)
    return Encoded(ids, bounds, nothing, nothing, nothing)


def _encode_contexts(backend: Any, contexts: pa.Array) -> Encoded:
    encodings = backend.encode_batch(contexts.to_pylist(), add_special_tokens=False)
    bounds = _bounds([len(encoding) for encoding in encodings])
    count = int(bounds[-1])
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32, count)
    pairs: Iterable[tuple[int, int]] = chain.from_iterable(encoding.offsets for encoding in encodings)
    offsets = np.fromiter(chain.from_iterable(pairs), np.int64, 2 * count).reshape(count, 2)
    base = spans.bases(contexts)
    offsets += np.repeat(base, np.diff(bounds))[:, None]
    # Some tokenizers count the space before a word to it; an answer never begins or ends with one.
    starts, ends = spans.trimmed(offsets[:, 0], offsets[:, 1], contexts)
    return Encoded(ids, bounds, base, starts, ends)


def _bounds(lengths: list[int] | Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _windows(rows: Ints, length: Ints, room: Ints, stride: int, left: bool) -> Windows:
    """Windows of each of `rows` over its context of `length` tokens, `room` at a time, sharing `stride`.

    `left` counts them from the context's end, as a tokenizer does that truncates on its left side.
    """
    length, room = length[rows], room[rows]
    step = np.maximum(room - stride, 1)
    count = np.where(length <= room, 1, 1 + -(-(length - room) // step))
    place = np.repeat(np.arange(len(rows)), count)
    advance = spans.ranges(np.zeros_like(count), count) * step[place]
    length, room = length[place], room[place]
    start = np.maximum(length - advance - room, 0) if left else advance
    stop = length - advance if left else np.minimum(start + room, length)
    return Windows(rows[place], start, stop - start)


def _answers(rows: pa.Table) -> tuple[Ints, Ints, Ints]:
    """Which rows have an answer, and the first and one past the last character of their first gold answer."""
    starts, texts = spans.whole(rows["answer_start"]), spans.whole(rows["answer_text"])
    has = np.flatnonzero(np.diff(texts.offsets.to_numpy()) > 0)
    first = starts.values.to_numpy()[starts.offsets.to_numpy()[has]].astype(np.int64)
    length = pc.utf8_length(texts.values.take(pa.array(texts.offsets.to_numpy()[has]))).to_numpy()
    return has, first, first + length


def _labels(rows: pa.Table, which: Ints, encoded: Encoded, contexts: pa.Array) -> NDArray[np.int64]:
    """Two by rows: the first and the last token (counted in the context) of each row's answer; -1 for none.

    The first token is the first that ends after the answer's start, the last the last that starts before its
    end: where they do not fit exactly they hold the answer and a little more.
    """
    label = np.full((2, rows.num_rows), -1, dtype=np.int64)
    has, starts, ends = _answers(rows)
    base = encoded.base[which[has]]
    starts, ends = spans.trimmed(base + starts, base + ends, contexts)
    first = np.searchsorted(encoded.ends, starts, side="right")
    last = np.searchsorted(encoded.starts, ends, side="left") - 1
    some = (starts < ends) & (first <= last)  # else the tokenizer dropped the answer's characters
    label[:, has[some]] = np.stack([first, last])[:, some] - encoded.bounds[which[has[some]]]
    return label


def _assemble(
    windows: Windows, which: Ints, encoded: Encoded, questions: Encoded, template: Template
) -> dict[str, pa.Array]:
    """Every column but the labels: specials, question and context of each window gathered into flat arrays."""
    asked, seen = questions.lengths[windows.row], windows.length
    parts = [len(part) for part in template.ids]
    bounds = _bounds(template.size + asked + seen)
    places = (bounds[:-1], bounds[:-1] + parts[0] + asked, bounds[1:] - parts[2])  # where the specials go
    context = places[1] + parts[1]
    ids, types = np.empty(bounds[-1], dtype=np.int32), np.empty(bounds[-1], dtype=np.int8)
    for place, special, kinds in zip(places, template.ids, template.types, strict=True):
        for i, (token, kind) in enumerate(zip(special, kinds, strict=True)):
            ids[place + i], types[place + i] = token, kind
    to = spans.ranges(places[0] + parts[0], asked)
    ids[to], types[to] = questions.ids[spans.ranges(questions.bounds[windows.row], asked)], template.question_type
    to = spans.ranges(context, seen)
    source = spans.ranges(encoded.bounds[which[windows.row]] + windows.start, seen)
    ids[to], types[to] = encoded.ids[source], template.context_type
    base = np.repeat(encoded.base[which[windows.row]], seen)
    part, index = template.null
    return {
        "row": _int32(windows.row),
        "input_ids": _lists(bounds, ids),
        "token_type_ids": _lists(bounds, types) if template.typed else _lists(np.zeros_like(bounds), types[:0]),
        "context_start": _int32(context - bounds[:-1]),
        "start_char": _lists(_bounds(seen), (encoded.starts[source] - base).astype(np.int32)),
        "end_char": _lists(_bounds(seen), (encoded.ends[source] - base).astype(np.int32)),
        "null_position": _int32(places[part] + index - bounds[:-1]),
    }


def _positions(windows: Windows, labels: NDArray[np.int64], table: dict[str, pa.Array]) -> dict[str, pa.Array]:
    """The labels of each window: where it holds the whole answer the answer's tokens, else the null position."""
    first, last = labels[:, windows.row] - windows.start
    whole = (labels[0, windows.row] >= 0) & (first >= 0) & (last < windows.length)
    context, null = table["context_start"].to_numpy(), table["null_position"].to_numpy()
    return {
        "start_position": _int32(np.where(whole, context + first, null)),
        "end_position": _int32(np.where(whole, context + last, null)),
    }


def _int32(values: Ints) -> pa.Array:
    return pa.array(values.astype(np.int32))


def _lists(bounds: Ints, values: NDArray[Any]) -> pa.Array:
    return pa.ListArray.from_arrays(_int32(bounds), pa.array(values))


def _fault(file: str, params: Tokenization, name: str, length: int, room: int) -> Fault:
    if length == 0:
        reason, remedy, field = "the tokenizer finds no token in the context", "Remove the row.", "context"
    else:
        field = "question"
        reason = f"the question leaves {max(room, 0)} of {params.max_length} tokens for the context, too few"
        remedy = f"Shorten it, raise tokenization.max_length or lower tokenization.stride ({params.stride})."
    return Fault(file, reason, remedy, row=f"id {name}", field=field, id=name)
