"""The causal language model: packed batches without attention across texts, losses by token, continuations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

AUTO_CLASS = "AutoModelForCausalLM"
IGNORED = -100

OUTPUTS = pa.schema(
    [
        ("row", pa.int32()),  # the block's first
        # of each token that was predicted
        ("owner", pa.list_(pa.int32())),  # its row, counted from the block's first
        ("loss", pa.list_(pa.float32())),  # in nats
        ("unigram", pa.list_(pa.float32())),
        ("right", pa.list_(pa.bool_())),
        ("characters", pa.list_(pa.int32())),
        ("bytes", pa.list_(pa.int32())),
        # of each row that begins in the block
        ("beginner", pa.list_(pa.int32())),
        ("beginning", pa.list_(pa.string())),
        ("continuation", pa.list_(pa.string())),
    ]
)


def settings(learned: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    """A BERT reads what comes after a token unless its configuration says that it is a decoder."""
    return {"is_decoder": True}


def collate(features: Sequence[Mapping[str, Any]], tokenizer: Any, labels: bool) -> dict[str, Any]:
    """input_ids, position_ids and labels (batch, longest), padded on the right, and the mask (batch, 1, longest,
    longest) of what each token may see: itself and what stands before it in its own text."""
    import torch

    longest = max(len(feature["input_ids"]) for feature in features)
    shape = (len(features), longest)
    ids, positions = np.full(shape, tokenizer.pad_token_id or 0, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    texts, wanted = np.tile(-np.arange(1, longest + 1), (len(features), 1)), np.full(shape, IGNORED, dtype=np.int64)
    for at, feature in enumerate(features):
        size = len(feature["input_ids"])
        ids[at, :size], positions[at, :size] = feature["input_ids"], feature["position"]
        texts[at, :size] = np.cumsum(feature["position"] == 0)
        wanted[at, :size] = np.where(feature["position"] > 0, feature["input_ids"], IGNORED)
    own = torch.from_numpy(texts[:, :, None] == texts[:, None, :])  # a pad has a number of its own, and sees itself
    batch = {
        "input_ids": torch.from_numpy(ids),
        "position_ids": torch.from_numpy(positions),
        "attention_mask": (own & torch.ones(longest, longest, dtype=torch.bool).tril())[:, None],
    }
    return batch | ({"labels": torch.from_numpy(wanted)} if labels else {})


def forward(model: Any, batch: Mapping[str, Any]) -> Any:
    return model(**batch)


def loss(output: Any, batch: Mapping[str, Any]) -> Any:  # noqa: ARG001
    return output.loss


def targets(output: Any, batch: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """The logits before each token that is predicted, and that token."""
    wanted = batch["labels"][:, 1:]
    chosen = wanted != IGNORED
    return [(output.logits[:, :-1][chosen], wanted[chosen])]


def agreement(output: Any, batch: Mapping[str, Any]) -> tuple[float, int]:
    """How many tokens are the most likely one, and how many were predicted."""
    ((logits, wanted),) = targets(output, batch)
    return float((logits.argmax(dim=-1) == wanted).sum()), len(wanted)


def outputs(
    model: Any, output: Any, batch: Mapping[str, Any], features: pa.Table, tokenizer: Any, params: Any
) -> pa.Table:
    """One row a block, in OUTPUTS. Without labels, where texts are to be gone on from, no token is scored."""
    lists = {name: _whole(features[name]) for name in ("owner", "position", "unigram", "characters", "bytes")}
    size = lists["owner"].value_lengths().to_numpy()
    flat = {name: column.flatten().to_numpy() for name, column in lists.items()}
    scored = (flat["position"] > 0) & ("labels" in batch)
    count = np.bincount(np.repeat(np.arange(len(size)), size)[scored], minlength=len(size))
    offsets = pa.array(np.concatenate([[0], np.cumsum(count)]), pa.int32())
    values: dict[str, Any] = {name: flat[name][scored] for name in ("owner", "unigram", "characters", "bytes")}
    values |= _losses(output, batch) if "labels" in batch else {"loss": np.zeros(0), "right": np.zeros(0, np.bool_)}
    columns: dict[str, Any] = {"row": features["row"].cast(pa.int32())}
    for name, data in values.items():
        kind = OUTPUTS.field(name).type.value_type
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(data).cast(kind))
    beginner = _whole(features["beginner"])
    cuts = _whole(features["beginnings"]).flatten().to_pylist()
    columns |= {"beginner": beginner}
    said = _continued(model, cuts, tokenizer, params)
    for name, texts in (("beginning", tokenizer.batch_decode(cuts, skip_special_tokens=True)), ("continuation", said)):
        bounds = pa.array(np.concatenate([[0], np.cumsum(beginner.value_lengths().to_numpy())]), pa.int32())
        columns[name] = pa.ListArray.from_arrays(bounds, pa.array(texts, pa.string()))
    return pa.table([columns[name] for name in OUTPUTS.names], schema=OUTPUTS)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    joined = column.combine_chunks()
    return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined


def _losses(output: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    from torch.nn.functional import cross_entropy

    ((logits, wanted),) = targets(output, batch)
    lost = cross_entropy(logits.float(), wanted, reduction="none")
    return {"loss": lost.cpu().numpy(), "right": (logits.argmax(dim=-1) == wanted).cpu().numpy()}


def longest_beginning(model: Any, params: Any) -> int:
    """How many tokens of a beginning are read, so that new ones have room; `params` is the evaluation section."""
    return max(_positions(model) - int(params.new_tokens), 1)


def _positions(model: Any) -> int:
    return getattr(model.config, "max_position_embeddings", None) or 1 << 30


def _continued(model: Any, beginnings: list[list[int]], tokenizer: Any, params: Any) -> list[str]:
    """What the model writes after each beginning, padded on the left so that all end together. A beginning that
    leaves no room in the model's positions is cut at its front. Sampling is seeded for each beginning by itself."""
    import torch

    room, most = _positions(model), longest_beginning(model, params)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    sampling = {"do_sample": True, "temperature": params.temperature} if params.temperature else {"do_sample": False}
    step = 1 if params.temperature else params.batch_size
    said: list[str] = []
    for first in range(0, len(beginnings), step):
        some = [ids[-most:] for ids in beginnings[first : first + step]]
        longest = max(map(len, some))
        ids = torch.tensor([[pad] * (longest - len(one)) + one for one in some], device=model.device)
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in some], device=model.device)
        with torch.random.fork_rng(enabled=bool(params.temperature)):
            if params.temperature:
                torch.manual_seed(hash((params.seed, *some[0])) % (1 << 63))
            new = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=min(params.new_tokens, max(room - longest, 1)),
                pad_token_id=pad,
                **sampling,
            )
        said += tokenizer.batch_decode(new[:, longest:], skip_special_tokens=True)
    return said
