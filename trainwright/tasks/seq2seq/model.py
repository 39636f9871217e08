"""Text to text's model: batches for it, spans dropped as they are made, and the texts that it generates."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from trainwright.rows import corruption

AUTO_CLASS = "AutoModelForSeq2SeqLM"
IGNORED = -100  # the label of padding, which no loss counts

OUTPUTS = pa.schema(
    [
        ("row", pa.int32()),
        ("generated", pa.string()),  # sentinels kept where spans were dropped, no other special token
        ("reference", pa.string()),  # the target where spans were dropped, else null
        ("loss", pa.float64()),  # the sum over the target's tokens, in nats; of dropped spans without sentinels and end
        ("tokens", pa.int32()),  # how many tokens that are; 0 where there is no target
        ("baseline", pa.float64()),  # the same sum for the frequencies of the train split's target tokens
    ]
)


def settings(learned: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    return {}


def collate(features: Sequence[Mapping[str, Any]], tokenizer: Any, labels: bool) -> dict[str, Any]:
    """Tensors (batch, longest) of sources and targets, both padded on the right: labels with -100.

    Without labels the decoder is given one token, so that the model runs at all.
    """
    import torch

    marks, (prefix, suffix) = corruption.sentinels(tokenizer), corruption.frame(tokenizer)
    pairs = []
    for feature in features:
        source, target = feature["input_ids"], feature["labels"]
        if feature["noise_spans"]:
            counts = feature["noise_tokens"], feature["noise_spans"]
            parts = corruption.corrupt(feature["input_ids"], *counts, feature["draw"], marks)
            source, target = (np.concatenate([prefix, part, suffix]) for part in parts)
        pairs.append((source, target))
    sources, targets = zip(*pairs, strict=True)
    batch = {
        "input_ids": _padded(sources, tokenizer.pad_token_id),
        "attention_mask": _padded([np.ones(len(source)) for source in sources], 0),
    }
    batch |= {"labels": _padded(targets, IGNORED)} if labels else {}
    if not labels:
        batch["decoder_input_ids"] = np.full((len(sources), 1), tokenizer.pad_token_id)
    return {name: torch.from_numpy(matrix) for name, matrix in batch.items()}


def _padded(parts: Sequence[Any], value: int) -> Any:
    """Rows of unequal length as a matrix of integers, `value` after their ends."""
    matrix = np.full((len(parts), max(map(len, parts))), value, dtype=np.int64)
    for row, part in enumerate(parts):
        matrix[row, : len(part)] = part
    return matrix


def forward(model: Any, batch: Mapping[str, Any]) -> Any:
    return model(**batch)


def loss(output: Any, batch: Mapping[str, Any]) -> Any:  # noqa: ARG001
    """The model's own: the mean over all target tokens."""
    return output.loss


def targets(output: Any, batch: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """All target tokens of a batch."""
    there = batch["labels"] != IGNORED
    return [(output.logits[there], batch["labels"][there])]


def agreement(output: Any, batch: Mapping[str, Any]) -> tuple[float, int]:
    """How many target tokens are the most likely one, given those before, and how many there are."""
    there = batch["labels"] != IGNORED
    right = (output.logits.argmax(dim=-1) == batch["labels"]) & there
    return float(right.sum()), int(there.sum())


def outputs(
    model: Any, output: Any, batch: Mapping[str, Any], features: pa.Table, tokenizer: Any, params: Any
) -> pa.Table:
    """One row a feature, in OUTPUTS: the text that the model generates, and its loss where there are labels."""
    corrupted = features.column("noise_spans").to_numpy() > 0
    marks = corruption.sentinels(tokenizer)
    said = _generate(model, output, batch, params)
    columns = {
        "row": features.column("row").cast(pa.int32()),
        "generated": _decoded(said, tokenizer, marks),
        "reference": [None] * len(corrupted),
        "loss": np.zeros(len(corrupted)),
        "tokens": np.zeros(len(corrupted), dtype=np.int32),
        "baseline": features.column("baseline"),
    }
    if "labels" in batch:
        labels = batch["labels"].cpu().numpy()
        unscored = np.append(marks, tokenizer.eos_token_id)
        scored = (labels != IGNORED) & ~(corrupted[:, None] & np.isin(labels, unscored))
        columns["loss"] = _losses(output, batch["labels"], scored)
        columns["tokens"] = scored.sum(axis=1).astype(np.int32)
        references = _decoded(np.where(labels == IGNORED, tokenizer.pad_token_id, labels), tokenizer, marks)
        columns["reference"] = [text if own else None for text, own in zip(references, corrupted, strict=True)]
    return pa.table([columns[name] for name in OUTPUTS.names], schema=OUTPUTS)


def _generate(model: Any, output: Any, batch: Mapping[str, Any], params: Any) -> Any:
    """Token ids (batch, up to max_new_tokens + 1), from what the encoder has made of the sources already."""
    from transformers.modeling_outputs import BaseModelOutput

    encoded = BaseModelOutput(last_hidden_state=output.encoder_last_hidden_state)
    said = model.generate(
        encoder_outputs=encoded,
        attention_mask=batch["attention_mask"],
        num_beams=params.beams,
        max_new_tokens=params.max_new_tokens,
        do_sample=False,
    )
    return said.cpu().numpy()


def _decoded(ids: Any, tokenizer: Any, marks: Any) -> list[str]:
    """Texts of rows of token ids, without special tokens other than sentinels."""
    special = np.setdiff1d(tokenizer.all_special_ids, marks)
    rows = [row[~np.isin(row, special)].tolist() for row in ids]
    return [text.strip() for text in tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False)]


def _losses(output: Any, labels: Any, scored: Any) -> Any:
    """The summed cross entropy of each row over its `scored` labels; row by row, for the logits are wide."""
    import torch
    from torch.nn.functional import cross_entropy

    chosen = torch.from_numpy(scored).to(labels.device)
    rows = zip(output.logits, labels, chosen, strict=True)
    return np.array(
        [float(cross_entropy(row[some].float(), wanted[some], reduction="sum")) for row, wanted, some in rows]
    )
