"""How rows become what encoder and decoder are given, column-wise.

A row with a target is one feature: its source and its target, each with the tokenizer's special tokens and cut at
its limit. A plain text is cut into windows of about equal size, each as long at most as fits both limits once spans
are dropped; windows are stored whole, and what is dropped of them is drawn when a batch is made (see
`trainwright/rows/corruption.py`). A plain text that holds sentinels already is one feature, as it stands.

No padding is stored: that is for whoever collates a batch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.core.errors import Fault, InputError
from trainwright.rows import corruption, spans
from trainwright.tasks.seq2seq.params import Tokenization

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

PAIRS, SPANS = "pairs", "spans"
PIECE = 500  # texts that are tokenized at a time while tokens are counted
SCHEMA = pa.schema(
    [
        ("row", pa.int32()),  # index into the split's rows
        ("input_ids", pa.list_(pa.int32())),  # with special tokens; without, where spans are to be dropped
        ("labels", pa.list_(pa.int32())),  # the target; empty where spans are to be dropped, or nothing is known
        ("noise_tokens", pa.int32()),  # how many tokens are to be dropped; 0 where none are
        ("noise_spans", pa.int32()),  # and in how many spans
        ("source_cut", pa.int32()),  # tokens of the source and of the target that the limits cut off
        ("target_cut", pa.int32()),
        ("unknown", pa.int32()),  # tokens that stand for what the tokenizer does not know, of what may be a target
        ("baseline", pa.float64()),  # the loss of the train split's frequencies on the target of draw 0, in nats
    ]
)


@dataclass(frozen=True)
class Encoded:
    """Texts as tokens, flat: text i has the tokens bounds[i] to bounds[i + 1]."""

    ids: NDArray[np.int32]
    bounds: Ints

    @property
    def lengths(self) -> Ints:
        return np.diff(self.bounds)


def check_tokenizer(tokenizer: Any, params: Tokenization) -> None:
    """Raises InputError for a slow tokenizer, one without pad or end token, or limits beyond the model's."""
    name = tokenizer.name_or_path or "base_model.scratch"
    if not tokenizer.is_fast:
        raise InputError(Fault(name, "the tokenizer is a slow one", "Use a base model with a tokenizer.json."))
    for token in ("pad_token", "eos_token"):
        if getattr(tokenizer, f"{token}_id") is None:
            remedy = f"Choose a base model made for text to text (T5, …), or set {token} in tokenizer_config.json."
            raise InputError(Fault(name, f"the tokenizer has no {token}", remedy))
    for field in ("max_source_length", "max_target_length"):
        if getattr(params, field) > tokenizer.model_max_length:
            reason = f"{getattr(params, field)} tokens are more than the model's {tokenizer.model_max_length}"
            raise InputError(Fault("params.yaml", reason, "Lower it.", field=f"tokenization.{field}"))


def learn(train: Iterable[pa.Table], tokenizer: Any, params: Tokenization) -> dict[str, Any]:
    """{"kind": "pairs" or "spans", "unigrams": …}: what the rows bring, and how often each token may be a target.

    `unigrams` is the count of every token id from 0 on, as one string. Of pairs the targets are counted, as they are
    cut, with their end; of plain texts all tokens, since each may be dropped. Raises InputError where some rows have a
    target and others none, and where plain texts meet a tokenizer with too few sentinels.
    """
    backend, (prefix, suffix) = _backend(tokenizer), corruption.frame(tokenizer)
    found, kinds = np.zeros(len(tokenizer), dtype=np.int64), set()
    for batch in train:
        has = batch["target"].is_valid()
        kinds |= {PAIRS if some else SPANS for some in pc.unique(has).to_pylist()}
        texts = pc.coalesce(batch["target"], batch["source"])
        for start in range(0, batch.num_rows, PIECE):
            encoded = _encode(backend, texts.slice(start, PIECE))
            size = encoded.lengths
            if PAIRS in kinds:
                size = np.minimum(size, params.max_target_length - len(prefix) - len(suffix))
                found[prefix + suffix] += len(size)
            found += np.bincount(encoded.ids[spans.ranges(encoded.bounds[:-1], size)], minlength=len(found))
    if len(kinds) != 1:
        reason = "some rows of the train split have a target and others have none"
        raise InputError(Fault("params.yaml", reason, "Give all of them one, or none.", field="source"))
    (kind,) = kinds
    if kind == SPANS:
        _check_sentinels(tokenizer, params)
    return {"kind": kind, "unigrams": " ".join(map(str, found.tolist()))}


def features(
    rows: pa.Table, tokenizer: Any, params: Tokenization, file: str, learned: Mapping[str, Any]
) -> tuple[pa.Table, list[Fault]]:
    """Features of some rows, in row order (SCHEMA; `row` counts from 0), and a Fault for each row without any."""
    make = _pairs if learned["kind"] == PAIRS else _windows
    columns, without = make(rows, tokenizer, params, _nats(learned["unigrams"]))
    table = pa.table([_column(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)
    ids = rows["id"].take(pa.array(list(without), pa.int64())).to_pylist()
    remedy = "Give the row more text, or leave it out."
    return table, [Fault(file, reason, remedy, id=id_) for id_, reason in zip(ids, without.values(), strict=True)]


def misaligned(rows: pa.Table, windows: pa.Table) -> pa.Array:
    """The ids of the rows whose target, or text, holds something that the tokenizer does not know."""
    row = windows["row"].to_numpy()[windows["unknown"].to_numpy() > 0]
    return rows["id"].take(pa.array(np.unique(row), pa.int64())).combine_chunks()


def _check_sentinels(tokenizer: Any, params: Tokenization) -> None:
    """Raises InputError where the longest window has more spans than there are sentinels to stand for them."""
    prefix, suffix = corruption.frame(tokenizer)
    have, name = len(corruption.sentinels(tokenizer)), tokenizer.name_or_path or "base_model.scratch"
    if have < 2:
        remedy = "Choose a T5, or bring rows with a source and a target."
        raise InputError(Fault(name, "the tokenizer has no sentinels (<extra_id_0>, <extra_id_1>, …)", remedy))
    most = _longest(params, len(prefix) + len(suffix))
    if most < 2:
        reason = "the lengths leave no room for a text with a dropped span"
        raise InputError(Fault("params.yaml", reason, "Raise them.", field="tokenization.max_source_length"))
    _, needed = corruption.counts(np.arange(2, most + 1), params.noise_density, params.mean_span)
    if needed.max() + 1 > have:
        reason = f"texts of {most} tokens want {needed.max() + 1} sentinels, the tokenizer has {have}"
        remedy = "Lower it, or raise mean_span."
        raise InputError(Fault("params.yaml", reason, remedy, field="tokenization.max_source_length"))


def _longest(params: Tokenization, special: int) -> int:
    lengths = (params.max_source_length - special, params.max_target_length - special)
    return corruption.longest(*lengths, params.noise_density, params.mean_span)


def _backend(tokenizer: Any) -> Any:
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # a tokenizer.json may carry both from its own training
    backend.no_padding()
    return backend


def _encode(backend: Any, texts: pa.ChunkedArray) -> Encoded:
    """Texts as tokens without special ones; none for a null."""
    encodings = backend.encode_batch_fast(pc.fill_null(texts, "").to_pylist(), add_special_tokens=False)
    bounds = np.concatenate([[0], np.cumsum([len(encoding) for encoding in encodings], dtype=np.int64)])
    return Encoded(np.fromiter(chain.from_iterable(e.ids for e in encodings), np.int32, bounds[-1]), bounds)


def _nats(unigrams: str) -> Floats:
    """The loss of every token id under its frequency, one added to each count (Laplace)."""
    seen = np.array(unigrams.split(), dtype=np.float64) + 1
    return np.asarray(np.log(seen.sum()) - np.log(seen))


def _column(values: Any, type_: pa.DataType) -> pa.Array:
    """An array as it is, lists from (bounds, values)."""
    if not pa.types.is_list(type_):
        return pa.array(values, type_)
    bounds, flat = values
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), pa.array(flat, pa.int32()))


def _framed(
    encoded: Encoded, text: Ints, start: Ints, size: Ints, special: tuple[list[int], list[int]], framed: Any
) -> tuple[Ints, NDArray[np.int32]]:
    """Lists of `size` tokens of each `text` from `start` on, with the `special` tokens around those that are `framed`.

    Returns bounds and values.
    """
    prefix, suffix = special
    around = np.asarray(framed, dtype=np.int64)
    bounds = np.concatenate([[0], np.cumsum(size + around * (len(prefix) + len(suffix)))])
    values = np.empty(bounds[-1], dtype=np.int32)
    begin = bounds[:-1] + around * len(prefix)
    values[spans.ranges(begin, size)] = encoded.ids[spans.ranges(encoded.bounds[text] + start, size)]
    at = np.flatnonzero(around)
    for place, token in enumerate(prefix):
        values[bounds[:-1][at] + place] = token
    for place, token in enumerate(suffix):
        values[(begin + size)[at] + place] = token
    return bounds, values


def _sums(values: Any, bounds: Ints) -> Any:
    """The sum of each stretch of `values`."""
    total = np.concatenate([[0], np.cumsum(values)])
    return total[bounds[1:]] - total[bounds[:-1]]


def _pairs(rows: pa.Table, tokenizer: Any, params: Tokenization, nats: Floats) -> tuple[dict[str, Any], dict[int, str]]:
    """A feature a row; rows to be predicted have no target, and empty labels."""
    backend, special = _backend(tokenizer), corruption.frame(tokenizer)
    source, target = (_encode(backend, rows[name]) for name in ("source", "target"))
    wanted = rows["target"].is_valid().to_numpy()
    says = "the tokenizer makes no token of its {}"
    without = dict.fromkeys(np.flatnonzero(wanted & (target.lengths == 0)).tolist(), says.format("target"))
    without |= dict.fromkeys(np.flatnonzero(source.lengths == 0).tolist(), says.format("source"))
    row = np.setdiff1d(np.arange(rows.num_rows), np.array(list(without), dtype=np.int64))
    zeros, room = np.zeros(len(row), dtype=np.int64), sum(map(len, special))
    sizes = [
        np.minimum(encoded.lengths[row], limit - room)
        for encoded, limit in ((source, params.max_source_length), (target, params.max_target_length))
    ]
    labels = _framed(target, row, zeros, sizes[1], special, wanted[row])
    bounds, flat = labels
    return {
        "row": row,
        "input_ids": _framed(source, row, zeros, sizes[0], special, np.ones(len(row))),
        "labels": labels,
        "noise_tokens": zeros,
        "noise_spans": zeros,
        "source_cut": source.lengths[row] - sizes[0],
        "target_cut": target.lengths[row] - sizes[1],
        "unknown": _sums(flat == _unknown(tokenizer), bounds),
        "baseline": _sums(nats[flat], bounds),
    }, without


def _windows(
    rows: pa.Table, tokenizer: Any, params: Tokenization, nats: Floats
) -> tuple[dict[str, Any], dict[int, str]]:
    """The windows of each text, of about equal size; a text with sentinels of its own is cut at the limit instead."""
    encoded, special = _encode(_backend(tokenizer), rows["source"]), corruption.frame(tokenizer)
    length, room = encoded.lengths, sum(map(len, special))
    filled = _sums(np.isin(encoded.ids, corruption.sentinels(tokenizer)), encoded.bounds) > 0
    short = (length < 2) & ~filled
    count = np.where(filled, 1, -(-length // _longest(params, room)))
    count[short] = 0
    row = np.repeat(np.arange(rows.num_rows), count)
    place = spans.ranges(np.zeros_like(count), count)
    each, more = length[row] // count[row], length[row] % count[row]
    size, start = each + (place < more), place * each + np.minimum(place, more)
    given = filled[row]
    size[given] = np.minimum(size[given], params.max_source_length - room)
    noise, parts = corruption.counts(size, params.noise_density, params.mean_span)
    noise[given] = parts[given] = 0
    bounds, flat = ids = _framed(encoded, row, start, size, special, given)
    lost = np.zeros(len(row))
    for at in np.flatnonzero(~given):
        window = flat[bounds[at] : bounds[at + 1]]
        lost[at] = nats[window[corruption.dropped(window, noise[at], parts[at], 0)]].sum()
    columns = {
        "row": row,
        "input_ids": ids,
        "labels": (np.zeros(len(row) + 1, dtype=np.int64), flat[:0]),
        "noise_tokens": noise,
        "noise_spans": parts,
        "source_cut": np.where(given, length[row] - size, 0),
        "target_cut": np.zeros_like(row),
        "unknown": _sums(flat == _unknown(tokenizer), bounds),
        "baseline": lost,
    }
    return columns, dict.fromkeys(np.flatnonzero(short).tolist(), "it has too few tokens to drop a span of")


def _unknown(tokenizer: Any) -> int:
    """The id of the unknown token, -1 where the tokenizer needs none."""
    return -1 if tokenizer.unk_token_id is None else int(tokenizer.unk_token_id)
