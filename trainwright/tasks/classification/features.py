"""How rows become a model's input, column-wise: one sequence a row, a pair joined as the tokenizer joins pairs.

Which kind of label rows have, the labels' names and the scale of numbers are learned from the train split. Numbers
are learned less their mean and in units of their standard deviation, so that one learning rate serves all scales.
"""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.core.errors import Fault, InputError
from trainwright.rows import spans
from trainwright.tasks.classification.params import Tokenization

GOLD = ("label", "labels", "value")
SCHEMA = pa.schema(
    [
        ("row", pa.int32()),  # index into the split's rows
        ("input_ids", pa.list_(pa.int32())),
        ("token_type_ids", pa.list_(pa.int8())),  # an empty list where the tokenizer has none
        ("truncated", pa.bool_()),  # whether the row has more tokens than these
        ("label", pa.int32()),  # the label's number; -1 where it is not known, or rows have no single label
        ("target", pa.list_(pa.float32())),  # of several labels 1 for each that applies, of a number itself, scaled
    ]
)


def check_tokenizer(tokenizer: Any, params: Tokenization) -> None:
    """Raises InputError for a tokenizer that is slow or cannot pad, and for a length that does not fit the model."""
    name = tokenizer.name_or_path or "base_model.scratch"
    if not tokenizer.is_fast:
        raise InputError(Fault(name, "the tokenizer is a slow one", "Use a base model with a tokenizer.json."))
    if tokenizer.pad_token_id is None:
        reason = "the tokenizer has no padding token, and texts of one batch differ in length"
        raise InputError(Fault(name, reason, "Name one in its tokenizer_config.json (pad_token)."))
    if params.max_length > tokenizer.model_max_length:
        reason = f"{params.max_length} tokens are longer than the model's {tokenizer.model_max_length}"
        raise InputError(Fault("params.yaml", reason, "Lower it.", field="tokenization.max_length"))
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if params.max_length < special + 2:
        reason = f"{params.max_length} tokens have no room for two texts beside {special} special tokens"
        raise InputError(Fault("params.yaml", reason, "Raise it.", field="tokenization.max_length"))


def learn(train: Iterable[pa.Table], tokenizer: Any, params: Tokenization) -> dict[str, Any]:  # noqa: ARG001
    """`gold`: which column holds the labels; `pair`: whether texts come in pairs; and `labels`, the names in order of
    their code points, or `mean` and `scale` of numbers.
    """
    gold, pair, names, numbers = "label", False, set[str](), [np.zeros(0)]
    for rows in train:
        if not rows.num_rows:
            continue
        gold = next((name for name in GOLD if rows[name].null_count < rows.num_rows), gold)
        pair |= bool(pc.any(pc.not_equal(rows["text_b"], "")).as_py())
        if gold == "value":
            numbers.append(rows["value"].to_numpy())
        else:
            held = rows[gold] if gold == "label" else pc.list_flatten(rows[gold])
            names |= set(pc.unique(held.drop_null()).to_pylist())
    if gold != "value":
        return {"gold": gold, "pair": pair, "labels": sorted(names)}
    values = np.concatenate(numbers)
    return {"gold": gold, "pair": pair, "mean": float(values.mean()), "scale": float(values.std()) or 1.0}


def features(
    rows: pa.Table, tokenizer: Any, params: Tokenization, file: str, learned: Mapping[str, Any]
) -> tuple[pa.Table, list[Fault]]:
    """One feature a row, in row order (SCHEMA), and a Fault for each row of which no token is left, or that has a
    second text where the train split's rows had none, or none where they had one.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(params.max_length, strategy="longest_first", direction=tokenizer.truncation_side)
    texts = rows["text"].to_pylist()
    paired = pc.not_equal(rows["text_b"], "").combine_chunks().to_numpy(zero_copy_only=False)
    inputs = list(zip(texts, rows["text_b"].to_pylist(), strict=True)) if learned["pair"] else texts
    encodings = backend.encode_batch_fast(inputs)
    backend.no_truncation()
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    special = tokenizer.num_special_tokens_to_add(pair=bool(learned["pair"]))
    empty, strange = lengths <= special, paired != learned["pair"]
    ids, types = _flat(encodings, "ids", lengths, np.int32), None
    if "token_type_ids" in tokenizer.model_input_names:
        types = _flat(encodings, "type_ids", lengths, np.int8)
    table = pa.table(
        {
            "row": pa.array(np.arange(rows.num_rows, dtype=np.int32)),
            "input_ids": ids,
            "token_type_ids": pa.array([[]] * rows.num_rows, SCHEMA.field("token_type_ids").type)
            if types is None
            else types,
            "truncated": pa.array([bool(encoding.overflowing) for encoding in encodings], pa.bool_()),
            **_labels(rows, learned),
        },
        schema=SCHEMA,
    )
    wrong = np.flatnonzero(empty | strange)
    faults = [_fault(file, i, bool(s), bool(learned["pair"])) for i, s in _named(rows, wrong, strange)]
    return table.filter(pa.array(~(empty | strange))), faults


def misaligned(rows: pa.Table, windows: pa.Table) -> pa.Array:  # noqa: ARG001
    """None: a row's label is that of its one feature, whatever its tokens. The gate reads the labels back."""
    return pa.array([], pa.string())


def _flat(encodings: list[Any], name: str, lengths: NDArray[np.int64], kind: Any) -> pa.ListArray:
    """One list of all encodings as a column of lists."""
    bounds = np.append(0, np.cumsum(lengths))
    values = np.fromiter(chain.from_iterable(getattr(encoding, name) for encoding in encodings), kind, bounds[-1])
    return pa.ListArray.from_arrays(pa.array(bounds.astype(np.int32)), pa.array(values))


def _labels(rows: pa.Table, learned: Mapping[str, Any]) -> dict[str, pa.Array]:
    """The columns `label` and `target`."""
    count, gold = rows.num_rows, learned["gold"]
    label, target = np.full(count, -1, dtype=np.int32), np.zeros((count, 0), dtype=np.float32)
    if gold == "value":
        values = rows["value"].fill_null(learned["mean"]).to_numpy()
        target = ((values - learned["mean"]) / learned["scale"]).astype(np.float32)[:, None]
    elif gold == "label":
        numbers = pc.index_in(rows["label"], value_set=pa.array(learned["labels"], pa.string()))
        label = numbers.fill_null(-1).to_numpy().astype(np.int32)
    else:
        target = np.zeros((count, len(learned["labels"])), dtype=np.float32)
        lists = spans.whole(rows["labels"])
        numbers = pc.index_in(lists.flatten(), value_set=pa.array(learned["labels"], pa.string()))
        owner = pc.list_parent_indices(lists)
        known = numbers.is_valid()
        target[owner.filter(known).to_numpy(), numbers.filter(known).to_numpy()] = 1
    offsets = pa.array((np.arange(count + 1) * target.shape[1]).astype(np.int32))
    return {"label": pa.array(label), "target": pa.ListArray.from_arrays(offsets, pa.array(target.ravel()))}


def _named(rows: pa.Table, places: NDArray[np.int64], mask: NDArray[np.bool_]) -> Iterable[tuple[str, bool]]:
    return zip(rows["id"].take(pa.array(places)).to_pylist(), mask[places].tolist(), strict=True)


def _fault(file: str, name: str, strange: bool, pair: bool) -> Fault:
    reason, remedy, field = "the tokenizer finds no token in the text", "Remove the row.", "text"
    if strange:
        field = "text_b"
        reason = "there is no second text, and the model takes pairs" if pair else "the model takes one text, not two"
        remedy = "Give it." if pair else "Leave it out."
    return Fault(file, reason, remedy, row=f"id {name}", field=field, id=name)
