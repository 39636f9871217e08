"""Multiple choice's model: batches of questions, its loss over those choices that there are, its raw outputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

AUTO_CLASS = "AutoModelForMultipleChoice"

OUTPUTS = pa.schema([("row", pa.int32()), ("score", pa.list_(pa.float32()))])  # one score a choice


def collate(features: Sequence[Mapping[str, Any]], tokenizer: Any, labels: bool) -> dict[str, Any]:
    """Tensors (batch, most choices, longest), padded on the tokenizer's side.

    A choice that a question does not have is one padding token that is attended to: a softmax over nothing would be
    no number. No choice that there is has fewer than two tokens, so that `_present` tells them apart.
    """
    import torch

    choices, length = (max(measure(f["lengths"]) for f in features) for measure in (len, max))
    shape = (len(features), choices, int(length))
    ids = np.full(shape, tokenizer.pad_token_id, dtype=np.int64)
    types = np.full(shape, tokenizer.pad_token_type_id, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    left = tokenizer.padding_side == "left"
    edge = -1 if left else 0
    for row, feature in enumerate(features):
        ends = np.cumsum(feature["lengths"])
        mask[row, len(ends) :, edge] = 1
        for choice, (size, end) in enumerate(zip(feature["lengths"], ends, strict=True)):
            place = slice(length - size, length) if left else slice(0, size)
            ids[row, choice, place] = feature["input_ids"][end - size : end]
            mask[row, choice, place] = 1
            if len(feature["token_type_ids"]):
                types[row, choice, place] = feature["token_type_ids"][end - size : end]
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if len(features[0]["token_type_ids"]):
        batch["token_type_ids"] = torch.from_numpy(types)
    if labels:
        batch["labels"] = torch.tensor([feature["answer"] for feature in features], dtype=torch.int64)
    return batch


def _present(batch: Mapping[str, Any]) -> Any:
    """Which choices there are: bool (batch, choices)."""
    return batch["attention_mask"].sum(dim=-1) > 1


def _scores(output: Any, batch: Mapping[str, Any]) -> Any:
    """Logits (batch, choices) in float32, those of choices that there are not -inf: of probability 0."""
    return output.logits.float().masked_fill(~_present(batch), float("-inf"))


def settings(learned: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    return {}


def forward(model: Any, batch: Mapping[str, Any]) -> Any:
    return model(**batch)


def loss(output: Any, batch: Mapping[str, Any]) -> Any:
    """Mean cross entropy over the choices that each question has; the model's own would count padding among them."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(_scores(output, batch), batch["labels"])


def targets(output: Any, batch: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """One pair for the batch where all questions have as many choices, else one a question, of its own choices.

    So that smoothing gives nothing to a choice that there is not.
    """
    logits, labels = output.logits.float(), batch["labels"]
    present = _present(batch)
    if bool(present.all()):
        return [(logits, labels)]
    counts = present.sum(dim=-1).tolist()
    return [(logits[row : row + 1, :count], labels[row : row + 1]) for row, count in enumerate(counts)]


def agreement(output: Any, batch: Mapping[str, Any]) -> tuple[float, int]:
    """How many questions have their best choice at the label, and how many there are."""
    best = _scores(output, batch).argmax(dim=-1)
    return float((best == batch["labels"]).sum()), len(best)


def outputs(
    model: Any,  # noqa: ARG001
    output: Any,
    batch: Mapping[str, Any],  # noqa: ARG001
    features: pa.Table,
    tokenizer: Any,  # noqa: ARG001
    params: Any,  # noqa: ARG001
) -> pa.Table:
    """One row a question, in OUTPUTS: the logit of each of its choices, in their order."""
    counts = np.diff(features.column("lengths").combine_chunks().offsets.to_numpy())
    logits = output.logits.float().cpu().numpy()
    flat = logits[np.arange(logits.shape[1]) < counts[:, None]]
    offsets = pa.array(np.append(0, np.cumsum(counts)).astype(np.int32))
    scores = pa.ListArray.from_arrays(offsets, pa.array(flat, pa.float32()))
    return pa.table([features.column("row").cast(pa.int32()), scores], schema=OUTPUTS)
