"""How documents become windows of a model's input, column-wise.

A document no longer than a window is one by itself; a longer one is cut into consecutive windows, at the last word
that begins in time, so that a word is cut only where it is longer than a window. What is masked is not decided here:
a window carries its words and a key, from which every epoch draws anew (see model.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainwright.core.errors import Fault, InputError
from trainwright.rows import spans, tables
from trainwright.tasks.mlm.params import Tokenization
from trainwright.text import unigrams
from trainwright.text.words import Tokens, Truths, tokens

Ints = NDArray[np.int64]

SCHEMA = pa.schema(
    [
        ("row", pa.int32()),  # index into the split's rows
        ("window", pa.int32()),  # which of the row's windows it is, from 0
        ("key", pa.int64()),  # what the window's masks are drawn from, with the epoch
        ("share", pa.float32()),  # of its words that are chosen
        ("input_ids", pa.list_(pa.int32())),
        ("token_type_ids", pa.list_(pa.int8())),  # an empty list where the tokenizer has none
        ("word", pa.list_(pa.int32())),  # of each token the number of its word in the window; -1: never masked
        ("start_char", pa.list_(pa.int32())),  # of each token its first character in the document
        ("end_char", pa.list_(pa.int32())),  # and one past its last; 0 and 0 for the tokens around a text
        ("unigram", pa.list_(pa.float32())),  # its loss under the train split's unigrams, in nats
    ]
)


@dataclass(frozen=True)
class _Windows:
    """Windows as columns: the document of each, its number there, its first token and one past its last (flat)."""

    row: Ints
    window: Ints
    begin: Ints
    end: Ints


def check_tokenizer(tokenizer: Any, params: Tokenization) -> None:
    """Raises InputError for a tokenizer without offsets, mask or pad token, or whose model is shorter than a window."""
    name = tokenizer.name_or_path or "base_model.scratch"
    if not tokenizer.is_fast:
        remedy = "Use a base model with a tokenizer.json."
        raise InputError(Fault(name, "the tokenizer is a slow one, which knows no character offsets", remedy))
    for kind in ("mask", "pad"):
        if getattr(tokenizer, f"{kind}_token_id") is None:
            remedy = "Choose a base model made for filling in words (BERT, RoBERTa, …)."
            raise InputError(Fault(name, f"the tokenizer has no {kind} token", remedy))
    if params.max_length > tokenizer.model_max_length:
        reason = f"windows of {params.max_length} tokens are longer than the model's {tokenizer.model_max_length}"
        raise InputError(Fault("params.yaml", reason, "Lower it.", field="tokenization.max_length"))
    around = sum(map(len, _around(tokenizer)))
    if params.max_length <= around:
        reason = f"windows of {params.max_length} tokens have no room beside the {around} special ones"
        raise InputError(Fault("params.yaml", reason, "Raise it.", field="tokenization.max_length"))


def learn(train: Iterable[pa.Table], tokenizer: Any, params: Tokenization) -> dict[str, Any]:  # noqa: ARG001
    """How often each token stands in the train split: the baseline that a model must beat."""
    return {"unigrams": unigrams.counted((batch["text"] for batch in train), tokenizer)}


def features(
    rows: pa.Table, tokenizer: Any, params: Tokenization, file: str, learned: Mapping[str, Any]
) -> tuple[pa.Table, list[Fault]]:
    """The windows of some documents, in row order (SCHEMA; `row` counts from 0), and a Fault for each without any.

    A document has none where it holds no word to be masked and no mask token: the tokenizer drops what it says.
    """
    before, after = _around(tokenizer)
    encoded = tokens(spans.whole(rows["text"]), tokenizer)
    windows = _windows(encoded, params.max_length - len(before) - len(after))
    useful = encoded.ordinary | (encoded.ids == tokenizer.mask_token_id)
    count = np.concatenate([[0], np.cumsum(useful)])
    kept = count[windows.end] > count[windows.begin]
    windows = _Windows(*(getattr(windows, name)[kept] for name in windows.__dataclass_fields__))
    bare = np.setdiff1d(np.arange(rows.num_rows), windows.row)
    faults = [_fault(file, id) for id in rows["id"].take(pa.array(bare)).to_pylist()]
    columns = _assemble(windows, encoded, before, after, unigrams.losses(learned["unigrams"]))
    if "token_type_ids" not in tokenizer.model_input_names:
        nothing = pa.array(np.zeros(len(windows.row) + 1, dtype=np.int32))
        columns["token_type_ids"] = pa.ListArray.from_arrays(nothing, pa.array([], pa.int8()))
    columns["key"] = pa.array(_keys(rows, windows, params.seed).view(np.int64))
    columns["share"] = pa.repeat(pa.scalar(params.mask_share, pa.float32()), len(windows.row))
    return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA), faults


def misaligned(rows: pa.Table, windows: pa.Table) -> pa.Array:
    """The ids of the documents with a character, white space apart, that no token of their windows stands for."""
    texts = spans.whole(rows["text"])
    base = spans.bases(texts)
    size = np.array([len(text) for text in texts.to_pylist()], dtype=np.int64)
    starts, ends = (spans.whole(windows[name]) for name in ("start_char", "end_char"))
    row = windows["row"].to_numpy().astype(np.int64)
    at = np.repeat(base[row], np.diff(starts.offsets.to_numpy()))
    change = np.zeros(int(size.sum()) + 1, dtype=np.int64)
    np.add.at(change, starts.values.to_numpy() + at, 1)
    np.add.at(change, ends.values.to_numpy() + at, -1)
    codes = np.frombuffer("".join(texts.to_pylist()).encode("utf-32-le"), dtype=np.uint32)
    lost = (np.cumsum(change)[:-1] <= 0) & ~spans.SPACE[np.minimum(codes, len(spans.SPACE) - 1)]
    owner = np.unique(np.repeat(np.arange(len(size)), size)[lost])
    return rows["id"].take(pa.array(np.intersect1d(owner, row))).combine_chunks()


def _fault(file: str, id: str) -> Fault:
    reason = "the tokenizer makes no word of the text"
    remedy = "Remove the document, or choose a base model that knows its script."
    return Fault(file, reason, remedy, row=f"id {id}", field="text", id=id)


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text, seen by encoding one token."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    probe = backend.encode(tokenizer.mask_token)
    place = probe.sequence_ids.index(0)
    return probe.ids[:place], probe.ids[place + 1 :]


def _windows(encoded: Tokens, room: int) -> _Windows:
    """Consecutive windows of at most `room` tokens over each document, all documents a window at a time."""
    count = len(encoded.ids)
    word = np.maximum.accumulate(np.where(encoded.begins, np.arange(count), 0)) if count else np.zeros(1, np.int64)
    row, at, stop = np.arange(len(encoded.bounds) - 1), encoded.bounds[:-1], encoded.bounds[1:]
    found: list[tuple[Ints, ...]] = []
    while len(row := row[live := at < stop]):
        at, stop = at[live], stop[live]
        end = np.minimum(at + room, stop)
        whole = word[np.minimum(end, count - 1)]  # where the word begins that would be cut
        end = np.where((end < stop) & (whole > at), whole, end)
        found.append((row, np.full(len(row), len(found)), at, end))
        at = end
    parts = [np.concatenate(column) for column in zip(*found, strict=True)] or [np.zeros(0, dtype=np.int64)] * 4
    order = np.lexsort((parts[1], parts[0]))
    return _Windows(*(part[order] for part in parts))


def _assemble(
    windows: _Windows, encoded: Tokens, before: list[int], after: list[int], losses: NDArray[np.float32]
) -> dict[str, pa.Array]:
    """Every column but key and share: the tokens around a text and those of each window gathered into flat arrays."""
    size = windows.end - windows.begin
    bounds = np.concatenate([[0], np.cumsum(size + len(before) + len(after))])
    source = spans.ranges(windows.begin, size)
    to = spans.ranges(bounds[:-1] + len(before), size)
    total = int(bounds[-1])

    def filled(values: NDArray[Any], otherwise: int, kind: Any) -> NDArray[Any]:
        flat = np.full(total, otherwise, dtype=kind)
        flat[to] = values
        return flat

    ids = filled(encoded.ids[source], 0, np.int32)
    for place, special in ((bounds[:-1], before), (bounds[1:] - len(after), after)):
        for i, token in enumerate(special):
            ids[place + i] = token
    offsets = pa.array(bounds.astype(np.int32))
    flat = {
        "input_ids": ids,
        "token_type_ids": np.zeros(total, dtype=np.int8),
        "word": filled(_numbered(encoded, source, size), -1, np.int32),
        "start_char": filled(encoded.starts[source], 0, np.int32),
        "end_char": filled(encoded.ends[source], 0, np.int32),
        "unigram": losses[np.minimum(ids, len(losses) - 1)],
    }
    columns = {name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in flat.items()}
    columns |= {name: pa.array(getattr(windows, name).astype(np.int32)) for name in ("row", "window")}
    return columns


def _numbered(encoded: Tokens, source: Ints, size: Ints) -> Ints:
    """Of each token of each window the number of its word there, from 0; -1 for one that is no piece of a word."""
    ordinary: Truths = encoded.ordinary[source]
    begins = encoded.begins[source] & ordinary
    first = np.cumsum(size) - size
    counted = np.concatenate([[0], np.cumsum(ordinary)])
    owner = np.repeat(np.arange(len(size)), size)
    # The first word of a window begins there, though it may be the rest of one that was cut.
    begins |= ordinary & (counted[:-1] == counted[first][owner])
    number = np.concatenate([[0], np.cumsum(begins)])
    return np.where(ordinary, number[1:] - number[first][owner] - 1, -1)


def _keys(rows: pa.Table, windows: _Windows, seed: int) -> NDArray[np.uint64]:
    """A 64-bit key for each window, of the seed, its document's id and its number: whatever else there is."""
    ids = tables.content_hash(rows, ["id"])[windows.row]
    with np.errstate(over="ignore"):
        step = np.uint64(0xD1342543DE82EF95)
        return (ids + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)) * step + windows.window.astype(np.uint64)
