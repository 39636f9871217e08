"""Losses other than a model's own: of smoothed labels, and of a teacher's softer ones.

Both are over pairs of logits (n, classes) and classes (n) that a task's `targets` give; each pair weighs the same.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

Pairs = Sequence[tuple[Any, Any]]


def smoothed(pairs: Pairs, smoothing: float) -> torch.Tensor:
    """Cross entropy with label smoothing (Szegedy et al., 2016)."""
    losses = [cross_entropy(logits.float(), classes, label_smoothing=smoothing) for logits, classes in pairs]
    return torch.stack(losses).mean()


def distilled(pairs: Pairs, teachers: Pairs, temperature: float) -> torch.Tensor:
    """T² · KL(teacher ‖ student) of the softmax at temperature T (Hinton et al., 2015)."""
    losses = [
        kl_div(_soft(logits, temperature), _soft(wanted, temperature), reduction="batchmean", log_target=True)
        for (logits, _), (wanted, _) in zip(pairs, teachers, strict=True)
    ]
    return temperature**2 * torch.stack(losses).mean()


def _soft(logits: Any, temperature: float) -> Any:
    return log_softmax(logits.float() / temperature, dim=-1)
