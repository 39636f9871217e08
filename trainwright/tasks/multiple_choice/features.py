"""How rows become a model's inputs: for each choice the pair (context; question and choice), cut to fit.

Where there is no context the pair is (question; choice). A row is one feature: the tokens of all its choices one after
the other, so that batches of similar length have questions of similar cost. Every distinct text is encoded once, and
pairs are put together by the tokenizer's own post-processor; a test holds them to
`tokenizer(first, second, truncation="only_first", max_length=…)`, token for token.
"""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.core.errors import Fault, InputError
from trainwright.tasks.multiple_choice.params import Tokenization

Ints = NDArray[np.int64]

SCHEMA = pa.schema(
    [
        ("row", pa.int32()),  # index into the split's rows
        ("input_ids", pa.list_(pa.int32())),  # of all choices, one after the other
        ("token_type_ids", pa.list_(pa.int8())),  # an empty list where the tokenizer has none
        ("lengths", pa.list_(pa.int32())),  # how many tokens are each choice's
        ("truncated", pa.int8()),  # 1 where the context was cut
        ("answer", pa.int32()),  # the place of the right choice
    ]
)


def check_tokenizer(tokenizer: Any, params: Tokenization) -> None:
    """Raises InputError for a slow tokenizer, one without a padding token, or a model shorter than `max_length`."""
    name = tokenizer.name_or_path or "base_model.scratch"
    if not tokenizer.is_fast:
        raise InputError(Fault(name, "the tokenizer is a slow one", "Use a base model with a tokenizer.json."))
    if tokenizer.pad_token_id is None:
        raise InputError(Fault(name, "the tokenizer has no padding token", "Choose a model of the BERT family."))
    if params.max_length > tokenizer.model_max_length:
        reason = f"{params.max_length} tokens are more than the model's {tokenizer.model_max_length}"
        raise InputError(Fault("params.yaml", reason, "Lower it.", field="tokenization.max_length"))


def learn(train: Iterable[pa.Table], tokenizer: Any, params: Tokenization) -> dict[str, Any]:  # noqa: ARG001
    return {}


def features(
    rows: pa.Table,
    tokenizer: Any,
    params: Tokenization,
    file: str,
    learned: Mapping[str, Any],  # noqa: ARG001
) -> tuple[pa.Table, list[Fault]]:
    """One feature a row (SCHEMA; `row` counts from 0), and a Fault for each row that cannot have one.

    That is one with a text of which the tokenizer makes no token, or a choice that leaves no room for anything else.
    """
    first, second, owner = _pairs(rows)
    backend = tokenizer.backend_tokenizer
    backend.no_padding()  # a tokenizer.json may carry both from its own training
    backend.no_truncation()
    encoded = [_encoded(backend, texts) for texts in (first, second)]
    sizes = [np.array([len(encoding) for encoding in side], dtype=np.int64) for side in encoded]
    room = params.max_length - backend.num_special_tokens_to_add(True)
    fits = (sizes[0] > 0) & (sizes[1] > 0) & (sizes[1] < room)
    bad = np.unique(owner[~fits])
    kept = np.flatnonzero(~np.isin(owner, bad))
    pairs = ((encoded[0][at], encoded[1][at]) for at in kept)
    joined = _joined(backend, pairs, params.max_length, tokenizer.truncation_side)
    cut = np.zeros(rows.num_rows, dtype=np.int8)
    cut[owner[sizes[0] + sizes[1] > room]] = 1
    row = np.setdiff1d(np.arange(rows.num_rows), bad)
    return _assembled(rows, row, owner[kept], joined, cut, tokenizer), [_fault(rows, at, file, params) for at in bad]


def misaligned(rows: pa.Table, windows: pa.Table) -> pa.Array:
    """The ids of the rows whose feature names another choice than the row, or has other than one input a choice."""
    own = rows.take(windows["row"])
    sizes = (pc.list_value_length(table[name]) for table, name in ((own, "choices"), (windows, "lengths")))
    wrong = pc.or_(pc.not_equal(own["answer"], windows["answer"]), pc.not_equal(*sizes))
    return own["id"].filter(wrong).combine_chunks()


def _pairs(rows: pa.Table) -> tuple[list[str], list[str], Ints]:
    """For every choice of every row what comes first and second in its input, and the row."""
    owner = pc.list_parent_indices(rows["choices"].combine_chunks())
    choices = rows["choices"].combine_chunks().flatten()
    bare = pc.equal(pc.utf8_trim_whitespace(rows["context"]), "")
    first = pc.if_else(bare, rows["question"], rows["context"]).take(owner)
    asked = pc.binary_join_element_wise(rows["question"].take(owner), choices, " ")
    second = pc.if_else(bare.take(owner), choices, asked)
    return first.to_pylist(), second.to_pylist(), owner.to_numpy().astype(np.int64)


def _joined(backend: Any, pairs: Iterable[tuple[Any, Any]], length: int, side: str) -> list[Any]:
    """Pairs of encodings with the tokenizer's special tokens, the first of each cut to fit."""
    backend.enable_truncation(length, strategy="only_first", direction=side)
    try:
        return [backend.post_process(first, second) for first, second in pairs]
    finally:
        backend.no_truncation()  # it would be saved with the tokenizer


def _encoded(backend: Any, texts: list[str]) -> list[Any]:
    """The encoding of each text, those that stand more than once encoded once."""
    column = pa.array(texts, pa.string()).dictionary_encode()
    distinct = backend.encode_batch_fast(column.dictionary.to_pylist(), add_special_tokens=False)
    return [distinct[code] for code in column.indices.to_pylist()]


def _assembled(rows: pa.Table, row: Ints, owner: Ints, joined: list[Any], cut: Any, tokenizer: Any) -> pa.Table:
    lengths = np.array([len(encoding) for encoding in joined], dtype=np.int64)
    choices = np.bincount(owner, minlength=rows.num_rows)[row]
    tokens = np.bincount(owner, lengths, minlength=rows.num_rows).astype(np.int64)[row]
    total = int(tokens.sum())
    typed = "token_type_ids" in tokenizer.model_input_names
    types = np.fromiter(chain.from_iterable(e.type_ids for e in joined) if typed else (), np.int8, total * typed)
    ids = np.fromiter(chain.from_iterable(e.ids for e in joined), np.int32, total)
    columns = {
        "row": row.astype(np.int32),
        "input_ids": _lists(tokens, ids),
        "token_type_ids": _lists(tokens * typed, types),
        "lengths": _lists(choices, lengths.astype(np.int32)),
        "truncated": cut[row],
        "answer": rows["answer"].take(pa.array(row)),
    }
    return pa.table(columns, schema=SCHEMA)


def _lists(sizes: Ints, values: NDArray[Any]) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(sizes)).astype(np.int32)), pa.array(values))


def _fault(rows: pa.Table, at: int, file: str, params: Tokenization) -> Fault:
    name = rows["id"][int(at)].as_py()
    reason = f"a choice leaves no room in {params.max_length} tokens, or the tokenizer makes no token of a text"
    remedy = "Shorten question and choices, or raise tokenization.max_length."
    return Fault(file, reason, remedy, row=f"id {name}", field="choices", id=name)
