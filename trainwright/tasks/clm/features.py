"""How texts become blocks: several documents in one, none of which sees another, or a stretch of a stream.

A document is begun by the tokenizer's BOS token and ended by its EOS, where it has them. The pieces of a stream that
follow one another are one text without either; a model that was trained on nothing else is given neither later on,
since it would never have seen them. A text longer than a block fills blocks of its own and leaves its rest
to be packed; nothing is dropped. The first token of a text's stretch in a block is given, all others are predicted.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.core.errors import Fault, InputError
from trainwright.rows import spans
from trainwright.tasks.clm.params import Tokenization
from trainwright.text import unigrams
from trainwright.text.words import tokens

Ints = NDArray[np.int64]

SCHEMA = pa.schema(
    [
        ("row", pa.int32()),  # the first row in the block
        ("input_ids", pa.list_(pa.int32())),
        ("position", pa.list_(pa.int32())),  # of each token, counted from 0 anew where another text begins
        ("owner", pa.list_(pa.int32())),  # its row, counted from the block's first
        ("characters", pa.list_(pa.int32())),  # how many of its text it brings
        ("bytes", pa.list_(pa.int32())),  # and how many bytes of UTF-8
        ("unigram", pa.list_(pa.float32())),  # its loss under the train split's unigrams, in nats
        ("beginner", pa.list_(pa.int32())),  # rows that begin in this block, counted likewise
        ("beginnings", pa.list_(pa.list_(pa.int32()))),  # and the tokens that each is gone on from
    ]
)


@dataclass(frozen=True)
class _Flat:
    """All texts as tokens, one after the other; `runs` (n + 1) bound the texts that belong together."""

    ids: Ints
    owner: Ints
    characters: Ints
    bytes: Ints
    runs: Ints
    starts: Ints  # (rows + 1): where each row's tokens begin


def check_tokenizer(tokenizer: Any, params: Tokenization) -> None:
    """Raises InputError for a tokenizer without offsets or whose model is shorter than a block."""
    if not tokenizer.is_fast:
        reason, remedy = "the tokenizer is a slow one, which knows no offsets", "Take one with a tokenizer.json."
        raise InputError(Fault(tokenizer.name_or_path or "base_model.scratch", reason, remedy))
    if params.block > tokenizer.model_max_length:
        reason = f"blocks of {params.block} tokens are longer than the model's {tokenizer.model_max_length}"
        raise InputError(Fault("params.yaml", reason, "Lower it.", field="tokenization.block"))


def learn(train: Iterable[pa.Table], tokenizer: Any, params: Tokenization) -> dict[str, Any]:
    """How often each token stands in the train split, the baseline that a model must beat; whether it is all stream.

    Raises InputError for a train split that is shorter than one block.
    """
    documents = 0

    def texts() -> Iterator[pa.ChunkedArray]:
        nonlocal documents
        for batch in train:
            documents += batch["position"].null_count
            yield batch["text"]

    counted = unigrams.counted(texts(), tokenizer)
    size = unigrams.tokens(counted)
    if size < params.block:
        reason = f"the train split has {size:,} tokens in all, fewer than one block of {params.block:,}"
        raise InputError(Fault("params.yaml", reason, "Lower it, or bring more text.", field="tokenization.block"))
    return {"unigrams": counted, "stream": documents == 0}


def features(
    rows: pa.Table, tokenizer: Any, params: Tokenization, file: str, learned: Mapping[str, Any]
) -> tuple[pa.Table, list[Fault]]:
    """The blocks of some texts (SCHEMA), and a Fault for each of which the tokenizer makes fewer than two tokens."""
    flat = _tokens(rows, tokenizer, bare=bool(learned["stream"]))
    beginning = rows["beginning"].to_numpy(zero_copy_only=False)
    least = 1 if beginning.all() else 2  # of a text that is to be gone on from nothing has to be predicted
    bare = np.flatnonzero((np.diff(flat.starts) < least) & pc.is_null(rows["position"]).to_numpy(zero_copy_only=False))
    reason, remedy = "the text has no token to be predicted", "Remove it, or join it with another."
    ids = rows["id"].take(pa.array(bare)).to_pylist()
    faults = [Fault(file, reason, remedy, row=f"id {id}", field="text", id=id) for id in ids]
    blocks = _packed(flat.runs, params.block, least)
    losses = unigrams.losses(learned["unigrams"])
    return pa.Table.from_pylist([_block(b, flat, losses, params, beginning) for b in blocks], schema=SCHEMA), faults


def longer(blocks: pa.Table, most: int) -> set[int]:
    """The rows of which blocks hold more than `most` tokens."""
    owner = spans.whole(blocks["owner"])
    first = np.repeat(blocks["row"].to_numpy().astype(np.int64), owner.value_lengths().to_numpy())
    return set(np.flatnonzero(np.bincount(first + owner.flatten().to_numpy()) > most).tolist())


def misaligned(rows: pa.Table, windows: pa.Table) -> pa.Array:
    """The ids of the texts whose tokens do not bring all characters but white space at the end."""
    count = np.zeros(rows.num_rows, dtype=np.int64)
    size = pc.list_value_length(spans.whole(windows["owner"])).to_numpy()
    owner = spans.whole(windows["owner"]).flatten().to_numpy() + np.repeat(windows["row"].to_numpy(), size)
    np.add.at(count, owner, spans.whole(windows["characters"]).flatten().to_numpy())
    wanted = pc.utf8_length(pc.utf8_rtrim_whitespace(rows["text"])).to_numpy()
    there = np.isin(np.arange(rows.num_rows), owner)
    return rows["id"].take(pa.array(np.flatnonzero((count < wanted) & there))).combine_chunks()


def _tokens(rows: pa.Table, tokenizer: Any, bare: bool) -> _Flat:
    """`bare` says that documents too are without BOS and EOS."""
    texts = spans.whole(rows["text"])
    encoded = tokens(texts, tokenizer)
    count = rows.num_rows
    size = np.diff(encoded.bounds)
    owner = np.repeat(np.arange(count), size)
    base = spans.bases(texts)
    # A token brings what stands between the end of what came before it and its own end.
    reached = np.maximum.accumulate(np.maximum(encoded.ends, 0) + base[owner]) if len(owner) else owner
    before = np.maximum(np.append(0, reached[:-1])[: len(reached)], base[owner])
    length = pc.binary_length(texts).to_numpy().astype(np.int64)
    codes = np.frombuffer("".join(texts.to_pylist()).encode("utf-32-le"), dtype=np.uint32)
    width = np.append(0, np.cumsum(1 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF)))
    if int(width[-1]) != int(length.sum()):
        raise ValueError("the bytes of some texts do not add up")
    position = rows["position"].to_numpy(zero_copy_only=False)
    piece = ~np.isnan(position)
    group, _ = spans.distinct(rows["group"])
    follows = np.append(False, piece[1:] & (np.diff(group) == 0) & (np.diff(position) == 1))[:count]
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    open_, asked = ~piece & (not bare), rows["beginning"].to_numpy(zero_copy_only=False)
    ahead = np.where(open_ & (begin is not None), 1, 0)
    behind = np.where(open_ & ~asked & (end is not None), 1, 0)
    starts = np.concatenate([[0], np.cumsum(size + ahead + behind)])
    to = spans.ranges(starts[:-1] + ahead, size)

    def filled(values: Any) -> Ints:
        column = np.zeros(int(starts[-1]), dtype=np.int64)
        column[to] = values
        return column

    ids = filled(encoded.ids)
    ids[starts[:-1][ahead > 0]] = begin or 0
    ids[starts[1:][behind > 0] - 1] = end or 0
    rowed = np.repeat(np.arange(count), np.diff(starts))
    runs = np.append(starts[:-1][~follows], starts[-1])
    return _Flat(ids, rowed, filled(reached - before), filled(width[reached] - width[before]), runs, starts)


def _packed(runs: Ints, room: int, least: int) -> list[list[tuple[int, int]]]:
    """Blocks as lists of stretches [begin, end) of tokens, in the texts' order: a stretch goes into the present block
    if it fits whole, else into the next. Stretches of fewer than `least` tokens, of which nothing could be predicted,
    are left out."""
    blocks: list[list[tuple[int, int]]] = []
    left = 0
    for first, last in pairwise(runs.tolist()):
        for begin in range(first, last, room):
            end = min(begin + room, last)
            if end - begin < least:
                continue
            if end - begin > left:
                blocks.append([])
                left = room
            blocks[-1].append((begin, end))
            left -= end - begin
    return blocks


def _block(
    stretches: list[tuple[int, int]],
    flat: _Flat,
    losses: NDArray[np.float32],
    params: Tokenization,
    beginning: NDArray[np.bool_],
) -> dict[str, Any]:
    where = np.concatenate([np.arange(begin, end) for begin, end in stretches])
    owner = flat.owner[where]
    first = int(owner[0])
    begun = np.unique(owner[np.isin(where, flat.starts[:-1])])
    ids = flat.ids[where]
    cuts = []
    for row in begun.tolist():
        begin, end = int(flat.starts[row]), int(flat.starts[row + 1])
        cuts.append(flat.ids[begin:end][-params.block :] if beginning[row] else flat.ids[begin:end][: params.beginning])
    return {
        "row": first,
        "input_ids": ids,
        "position": np.concatenate([np.arange(end - begin) for begin, end in stretches]),
        "owner": owner - first,
        "characters": flat.characters[where],
        "bytes": flat.bytes[where],
        "unigram": losses[np.minimum(ids, len(losses) - 1)],
        "beginner": begun - first,
        "beginnings": cuts,
    }
