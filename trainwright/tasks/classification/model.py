"""Classification's model: batches for it, its loss, its quick validation score, its raw outputs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

AUTO_CLASS = "AutoModelForSequenceClassification"

# The table carries what its logits are of, as metadata: `classes`, {"gold": the column of the rows, "labels": names}.
OUTPUTS = pa.schema([("row", pa.int32()), ("logits", pa.list_(pa.float32()))])
PROBLEMS = {
    "label": "single_label_classification",
    "labels": "multi_label_classification",
    "value": "regression",
}


def settings(learned: Mapping[str, Any]) -> dict[str, Any]:
    """Names of labels and the kind of problem; of numbers the mean and the scale, by which the model's own output
    becomes the number meant (output · target_scale + target_mean).
    """
    gold = learned["gold"]
    names = ["value"] if gold == "value" else learned["labels"]
    found = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": PROBLEMS[gold],
    }
    if gold == "value":
        found |= {"target_mean": learned["mean"], "target_scale": learned["scale"]}
    return found


def collate(features: Sequence[Mapping[str, Any]], tokenizer: Any, labels: bool) -> dict[str, Any]:
    """Tensors (batch, longest), padded on the tokenizer's side; labels are class numbers (batch), or floats
    (batch, labels) where several may apply, (batch, 1) for numbers."""
    import torch

    length = max(len(feature["input_ids"]) for feature in features)
    left = tokenizer.padding_side == "left"

    def padded(name: str, value: int) -> Any:
        matrix = np.full((len(features), length), value, dtype=np.int64)
        for row, feature in enumerate(features):
            size = len(feature["input_ids"])
            first = length - size if left else 0
            matrix[row, first : first + size] = feature[name] if name else 1
        return torch.from_numpy(matrix)

    batch = {"input_ids": padded("input_ids", tokenizer.pad_token_id), "attention_mask": padded("", 0)}
    if len(features[0]["token_type_ids"]):
        batch["token_type_ids"] = padded("token_type_ids", tokenizer.pad_token_type_id)
    if labels and len(features[0]["target"]):
        batch["labels"] = torch.from_numpy(np.stack([feature["target"] for feature in features]))
    elif labels:
        batch["labels"] = torch.tensor([feature["label"] for feature in features], dtype=torch.int64)
    return batch


def forward(model: Any, batch: Mapping[str, Any]) -> Any:
    return model(**batch)


def loss(output: Any, batch: Mapping[str, Any]) -> Any:
    """Cross entropy of one label, of each of several labels by itself, or the squared error of a scaled number.

    In float32 whatever the model's precision; a model's own losses differ in how they take a batch of one.
    """
    from torch.nn import functional

    logits, labels = output.logits.float(), batch["labels"]
    if not labels.is_floating_point():
        return functional.cross_entropy(logits, labels)
    if logits.shape[1] == 1:
        return functional.mse_loss(logits, labels)
    return functional.binary_cross_entropy_with_logits(logits, labels)


def targets(output: Any, batch: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """The labels; none where several may apply, or where there is a number: these are no classes of which one is."""
    return [] if batch["labels"].is_floating_point() else [(output.logits, batch["labels"])]


def agreement(output: Any, batch: Mapping[str, Any]) -> tuple[float, int]:
    """How many rows are right, and how many there are: the most likely label is the row's, or just the row's labels
    are more likely than not, or the number is less than half a standard deviation from the row's."""
    logits, labels = output.logits, batch["labels"]
    if not labels.is_floating_point():
        right = logits.argmax(dim=-1) == labels
    elif logits.shape[1] == 1:
        right = (logits.float() - labels).abs()[:, 0] < 0.5
    else:
        right = ((logits > 0) == (labels > 0.5)).all(dim=-1)
    return float(right.sum()), len(labels)


def outputs(
    model: Any,
    output: Any,
    batch: Mapping[str, Any],  # noqa: ARG001
    features: pa.Table,
    tokenizer: Any,  # noqa: ARG001
    params: Any,  # noqa: ARG001
) -> pa.Table:
    """One row a feature, in OUTPUTS: the logits of all labels, or the number on the scale of the rows' own."""
    config = model.config
    logits = output.logits.float().cpu().numpy()
    gold = next(name for name, problem in PROBLEMS.items() if problem == config.problem_type)
    if gold == "value":
        logits = logits * np.float32(config.target_scale) + np.float32(config.target_mean)
    labels = [] if gold == "value" else [config.id2label[number] for number in range(logits.shape[1])]
    offsets = pa.array((np.arange(len(logits) + 1) * logits.shape[1]).astype(np.int32))
    lists = pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(logits).ravel()))
    classes = json.dumps({"gold": gold, "labels": labels}, ensure_ascii=False)
    columns = [features.column("row").cast(pa.int32()), lists]
    return pa.table(columns, schema=OUTPUTS.with_metadata({"classes": classes}))
