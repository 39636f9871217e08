"""The parts of a model by depth, embeddings and numbered layers: which of them train, and at what rate."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch

from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Training


def freeze(model: Any, params: Training) -> None:
    """Take embeddings and the first N layers out of training, as `params.freeze` says.

    Raises InputError where the model has no such part.
    """
    found = Training.FROZEN.match(params.freeze)
    embeddings, layers = (found[1], int(found[2] or 0)) if found else (None, 0)
    named = [(name, _layer(name), parameter) for name, parameter in model.named_parameters()]
    depth = max((layer for _, layer, _ in named), default=-1) + 1
    of_embeddings = _embeddings(model)
    embedding = [parameter for name, _, parameter in named if name in of_embeddings]
    if layers > depth:
        has = f"the model has {depth} layers" if depth else "the model has no numbered layers"
        raise _unfreezable(has, f"Name at most {depth}." if depth else "Leave `first N` out.")
    if embeddings and not embedding:
        raise _unfreezable("the model has no embeddings", "Leave `embeddings` out.")
    for parameter in [*(embedding if embeddings else []), *(p for _, layer, p in named if 0 <= layer < layers)]:
        parameter.requires_grad_(False)


def _unfreezable(reason: str, remedy: str) -> InputError:
    return InputError(Fault("params.yaml", reason, remedy, field="training.freeze"))


def parameter_groups(model: Any, params: Training, decayed: Iterable[str]) -> list[dict[str, Any]]:
    """AdamW's parameter groups: decay on all but bias and normalisation, rate falling with depth.

    With `layer_decay` d, layer i of n trains at rate · d^(n - i), embeddings at rate · d^(n + 1), the head at rate.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    depth = max((_layer(name) for name, _ in model.named_parameters()), default=-1) + 1
    decay_names, of_embeddings = set(decayed), _embeddings(model)
    groups: dict[tuple[bool, int], dict[str, Any]] = {}
    for name, parameter in trainable:
        layer = _layer(name)
        below = 0 if layer == -1 and name not in of_embeddings else depth - layer
        key = (name in decay_names, below)
        rate = params.learning_rate * params.layer_decay**below
        decay = params.weight_decay if name in decay_names else 0.0
        groups.setdefault(key, {"params": [], "weight_decay": decay, "lr": rate})["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def _embeddings(model: Any) -> set[str]:
    """The parameters outside the stack that belong to embeddings, by name (BERT) or by kind (T5's `shared`)."""
    tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)}
    named = [name for name, _ in model.named_parameters() if _layer(name) == -1]
    return {name for name in named if "embedding" in name or name in tables}


def _layer(name: str) -> int:
    """The number of the layer that a parameter belongs to, -1 for one outside the stack."""
    parts = name.split(".")
    return next((int(part) for before, part in pairwise(parts) if part.isdigit() and before.isalpha()), -1)
