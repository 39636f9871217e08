"""Question answering's model: batches for it, its quick validation score, its compact raw outputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

AUTO_CLASS = "AutoModelForQuestionAnswering"

OUTPUTS = pa.schema(
    [
        ("row", pa.int32()),
        ("null_score", pa.float32()),
        ("start_token", pa.list_(pa.int32())),
        ("start_char", pa.list_(pa.int32())),
        ("start_logit", pa.list_(pa.float32())),
        ("end_token", pa.list_(pa.int32())),
        ("end_char", pa.list_(pa.int32())),
        ("end_logit", pa.list_(pa.float32())),
    ]
)


def collate(features: Sequence[Mapping[str, Any]], tokenizer: Any, labels: bool) -> dict[str, Any]:
    """Tensors (batch, longest) of windows padded on the tokenizer's side; positions move with the padding."""
    import torch

    length = max(len(feature["input_ids"]) for feature in features)
    shifts = np.array([length - len(f["input_ids"]) if tokenizer.padding_side == "left" else 0 for f in features])

    def padded(name: str, value: int) -> Any:
        matrix = np.full((len(features), length), value, dtype=np.int64)
        for row, (feature, shift) in enumerate(zip(features, shifts, strict=True)):
            matrix[row, shift : shift + len(feature["input_ids"])] = feature[name] if name else 1
        return torch.from_numpy(matrix)

    batch = {"input_ids": padded("input_ids", tokenizer.pad_token_id or 0), "attention_mask": padded("", 0)}
    if len(features[0]["token_type_ids"]):
        batch["token_type_ids"] = padded("token_type_ids", tokenizer.pad_token_type_id)
    if labels:
        for name in ("start", "end"):
            positions = np.array([feature[f"{name}_position"] for feature in features]) + shifts
            batch[f"{name}_positions"] = torch.from_numpy(positions.astype(np.int64))
    return batch


def settings(learned: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    return {}


def forward(model: Any, batch: Mapping[str, Any]) -> Any:
    return model(**batch)


def loss(output: Any, batch: Mapping[str, Any]) -> Any:  # noqa: ARG001
    """The mean cross entropy of start and end."""
    return output.loss


def targets(output: Any, batch: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """The starts and the ends. A position that padding moved past the end cannot be: windows are whole."""
    return [(output.start_logits, batch["start_positions"]), (output.end_logits, batch["end_positions"])]


def agreement(output: Any, batch: Mapping[str, Any]) -> tuple[float, int]:
    """How many windows have their most likely start and end both at the label, and how many there are."""
    starts = output.start_logits.argmax(dim=-1) == batch["start_positions"]
    ends = output.end_logits.argmax(dim=-1) == batch["end_positions"]
    return float((starts & ends).sum()), len(starts)


def outputs(
    model: Any,  # noqa: ARG001
    output: Any,
    batch: Mapping[str, Any],
    features: pa.Table,
    tokenizer: Any,  # noqa: ARG001
    params: Any,
) -> pa.Table:
    """One row a window, in OUTPUTS: the `params.top` best starts and ends that lie in the context, best first.

    Tokens are indices into the window's own input_ids (padding taken off), characters count in the context.
    """
    import torch

    lengths = np.diff(features.column("input_ids").combine_chunks().offsets.to_numpy())
    width = batch["input_ids"].shape[1]
    shifts = width - lengths if int(batch["attention_mask"][:, 0].min()) == 0 else np.zeros_like(lengths)
    starts = features.column("start_char").combine_chunks()
    counts = np.diff(starts.offsets.to_numpy())
    first = features.column("context_start").to_numpy() + shifts
    places = np.arange(width)
    inside = (places >= first[:, None]) & (places < (first + counts)[:, None])
    null = features.column("null_position").to_numpy() + shifts
    columns: dict[str, Any] = {"row": features.column("row").cast(pa.int32())}
    null_score = np.zeros(len(lengths), np.float32)
    kept = np.minimum(counts, params.top)
    offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int32)
    mask = np.arange(min(params.top, width)) < kept[:, None]
    for name in ("start", "end"):
        logits = getattr(output, f"{name}_logits").float().cpu()
        null_score += logits.numpy()[np.arange(len(lengths)), null]
        masked = logits.masked_fill(~torch.from_numpy(inside), -torch.inf)
        best = torch.topk(masked, min(params.top, width), dim=-1)
        indices = best.indices.numpy()
        chars = features.column(f"{name}_char").combine_chunks()
        flat = chars.offsets.to_numpy()[:-1, None] + np.clip(indices - first[:, None], 0, counts[:, None] - 1)
        values = chars.values.to_numpy()[flat[mask]]
        for column, data, dtype in (
            (f"{name}_token", (indices - shifts[:, None])[mask], np.int32),
            (f"{name}_char", values, np.int32),
            (f"{name}_logit", best.values.numpy()[mask], np.float32),
        ):
            columns[column] = pa.ListArray.from_arrays(offsets, pa.array(data.astype(dtype)))
    columns["null_score"] = null_score
    return pa.table([columns[name] for name in OUTPUTS.names], schema=OUTPUTS)
