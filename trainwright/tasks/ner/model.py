"""The model of named entity recognition: batches for it, its quick validation score, its compact raw outputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

AUTO_CLASS = "AutoModelForTokenClassification"
INTS = pa.list_(pa.int32())
OUTPUTS = pa.schema(
    [
        ("row", pa.int32()),
        ("labels", pa.list_(pa.string())),  # the names of all labels
        ("word", INTS),  # of each word that begins in the window: its number in the row,
        ("start_char", INTS),  # its first character in the text,
        ("end_char", INTS),  # one past its last,
        ("context", INTS),  # how many tokens the window shows on its shorter side
        ("label", INTS),  # the best labels of each word, best first, as many of every word (indices into `labels`)
        ("log_probability", pa.list_(pa.float32())),  # of each of these
    ]
)
COPIED = ("row", "word", "start_char", "end_char", "context")
IGNORED = -100


def settings(learned: Mapping[str, Any]) -> dict[str, Any]:
    """The names of the labels, by which the model's head also has its size."""
    names = learned["labels"]
    return {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}


def collate(features: Sequence[Mapping[str, Any]], tokenizer: Any, labels: bool) -> dict[str, Any]:
    """Tensors (batch, longest) of windows padded on the tokenizer's side; a label at each word's first sub-word."""
    import torch

    length = max(len(feature["input_ids"]) for feature in features)
    shape = (len(features), length)
    fills = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0}
    if len(features[0]["token_type_ids"]):
        fills["token_type_ids"] = tokenizer.pad_token_type_id
    matrices = {name: np.full(shape, fill, dtype=np.int64) for name, fill in fills.items()}
    targets = np.full(shape, IGNORED, dtype=np.int64)
    for row, feature in enumerate(features):
        size = len(feature["input_ids"])
        shift = length - size if tokenizer.padding_side == "left" else 0
        for name, matrix in matrices.items():
            matrix[row, shift : shift + size] = 1 if name == "attention_mask" else feature[name]
        targets[row, shift + feature["position"]] = feature["label"]
    if labels:
        matrices["labels"] = targets
    return {name: torch.from_numpy(matrix) for name, matrix in matrices.items()}


def forward(model: Any, batch: Mapping[str, Any]) -> Any:
    return model(**batch)


def loss(output: Any, batch: Mapping[str, Any]) -> Any:
    """The mean cross entropy of the words with a known label; 0 of a batch without any."""
    import torch

    ((logits, labels),) = targets(output, batch)
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum") / max(len(labels), 1)


def targets(output: Any, batch: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """The words, those whose label is unknown left out."""
    labelled = batch["labels"] != IGNORED
    return [(output.logits[labelled], batch["labels"][labelled])]


def agreement(output: Any, batch: Mapping[str, Any]) -> tuple[float, int]:
    """How many words have the right most likely label, and how many words have a label."""
    ((logits, labels),) = targets(output, batch)
    return float((logits.argmax(dim=-1) == labels).sum()), len(labels)


def outputs(
    model: Any,
    output: Any,
    batch: Mapping[str, Any],
    features: pa.Table,
    tokenizer: Any,  # noqa: ARG001
    params: Any,
) -> pa.Table:
    """One row a window, in OUTPUTS: the `params.top` best labels of each word that begins in it."""
    import torch

    position = features["position"].combine_chunks()
    counts = pc.list_value_length(position).to_numpy()
    window = np.repeat(np.arange(len(counts)), counts)
    lengths = pc.list_value_length(features["input_ids"]).to_numpy()
    padded_left = int(batch["attention_mask"][:, 0].min()) == 0
    shift = batch["input_ids"].shape[1] - lengths if padded_left else np.zeros_like(lengths)
    place = position.flatten().to_numpy() + shift[window]
    logits = output.logits[torch.from_numpy(window), torch.from_numpy(place.astype(np.int64))].float()
    best = torch.topk(torch.log_softmax(logits, dim=-1).cpu(), min(params.top, logits.shape[-1]), dim=-1)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts * best.indices.shape[1])]).astype(np.int32))
    names = [model.config.id2label[label] for label in range(model.config.num_labels)]
    columns: dict[str, Any] = {name: features[name].combine_chunks() for name in COPIED}
    columns["labels"] = pa.array([names] * len(counts), pa.list_(pa.string()))
    columns["label"] = pa.ListArray.from_arrays(offsets, pa.array(best.indices.numpy().ravel().astype(np.int32)))
    columns["log_probability"] = pa.ListArray.from_arrays(offsets, pa.array(best.values.numpy().ravel()))
    return pa.table(columns, schema=OUTPUTS)
