"""Running a model over features: precision, loading, forward passes, compact raw outputs."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainwright.core.errors import Fault, InputError
from trainwright.engine import attention
from trainwright.engine.batching import FeatureTable, longest_first


def resolve_precision(wanted: str) -> str:
    """`auto` as what this machine has: "bfloat16" where its processor multiplies it natively, else "float32".

    A processor without the instructions computes bfloat16 by emulation, hundreds of times slower. Raises InputError
    as `precision_on` does.
    """
    import torch

    if torch.cuda.is_available():
        return precision_on("cuda", torch.cuda.is_bf16_supported(including_emulation=False), wanted)
    return precision_on("cpu", torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(), wanted)


def precision_on(device: str, native: bool, wanted: str) -> str:
    """`wanted` as a machine has it whose device ("cuda", "cpu") multiplies bfloat16 natively or does not.

    Raises InputError for bfloat16 on a CUDA device without it; a processor computes it all the same.
    """
    if wanted == "auto":
        return "bfloat16" if native else "float32"
    if wanted == "bfloat16" and device == "cuda" and not native:
        reason, remedy = "this machine's CUDA device has no bfloat16", "Write `auto` or `float32`."
        raise InputError(Fault("params.yaml", reason, remedy, field="training.precision"))
    return wanted


def autocast(precision: str, device: str) -> AbstractContextManager[Any]:
    import torch

    return torch.autocast(device, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()


def load_model(auto_class: str, folder: Path, settings: Mapping[str, Any] | None = None, scratch: bool = False) -> Any:
    """A model in float32 from a local folder: safetensors alone, no code but transformers' own.

    `settings` replace values of a base model's configuration. A head that the folder has no weights for, or weights
    of another size, is then drawn from torch's random state: seed it first. Without them it is a whole model.

    Raises InputError for a folder that transformers cannot load as `auto_class`, or whose weights are not all there.
    """
    return load_base(auto_class, folder, folder, settings, scratch=scratch)[0]


def load_base(
    auto_class: str,
    folder: Path,
    config_folder: Path,
    settings: Mapping[str, Any] | None = None,
    dropout: float | None = None,
    scratch: bool = False,
) -> tuple[Any, list[str]]:
    """`load_model` under the configuration of `config_folder`, and the names of the parameters that are new.

    `dropout` replaces the rate of every dropout that the configuration names. With `scratch` all weights are drawn,
    and the folder must have none; without it a folder that has none is never loaded.
    """
    import torch
    import transformers

    if scratch and (weights := sorted(path.name for path in folder.glob("*.safetensors"))):
        reason = f"a model from scratch was to be made here, but there are weights ({', '.join(weights)})"
        raise InputError(Fault(str(folder), reason, "Run the tokenization stage again."))

    try:
        config = transformers.AutoConfig.from_pretrained(config_folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a hostile config.json has transformers raise anything
        if isinstance(error, MemoryError):
            raise
        raise _unloadable(config_folder, auto_class, error) from error
    for name, value in (settings or {}).items():
        setattr(config, name, value)
    if dropout is not None:
        for name in [n for n in config.to_dict() if n.endswith(("dropout", "dropout_prob", "dropout_rate", "pdrop"))]:
            setattr(config, name, dropout)
    attention.install()
    logging: Any = transformers.logging
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what it warns of is meant (a new head) or does not hold (a mask of blocks is none)
    try:
        if scratch:
            made = getattr(transformers, auto_class).from_config(config, dtype=torch.float32).eval()
            return made, sorted(name for name, _ in made.named_parameters())
        model, found = getattr(transformers, auto_class).from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=settings is not None or folder != config_folder,
            output_loading_info=True,
        )
    except Exception as error:  # of a hostile folder anything: KeyError for an activation that it does not know
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise
        raise _unloadable(folder, auto_class, error) from error
    new = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    begun = settings is not None or folder != config_folder  # else it is a whole model, with its head
    if lost := sorted(new & _body(model) if begun else new):
        reason = f"its weights do not have, or not in the shape of its config.json, {len(lost)} parameters: {lost[0]}"
        remedy = "Let weights and config.json be of one model, and of this task where it is no base model."
        raise InputError(Fault(str(folder), reason, remedy))
    return model, sorted(new)


def _body(model: Any) -> set[str]:
    """The names of the parameters that a base model must bring: all but those of the task's head, and of a pooler,
    which models that were trained on masked words alone do not have."""
    names = [name for name, _ in model.named_parameters()]
    body = [name for name in names if name.startswith(f"{model.base_model_prefix}.")]
    return {name for name in body or names if ".pooler." not in name}


def _unloadable(folder: Path, auto_class: str, error: Exception) -> InputError:
    reason = f"it cannot be loaded as {auto_class} ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    return InputError(Fault(str(folder), reason, "Copy the model folder again, or choose another base_model."))


def forward(
    model: Any,
    part: Any,
    features: FeatureTable,
    tokenizer: Any,
    batch_size: int,
    precision: str,
    labels: bool = True,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[list[int], Any, dict[str, Any]]]:
    """Run a model over all features, longest first: (row indices, output, batch) for each batch.

    `part` is the task's model part. The model is left in evaluation mode. With a `share` (r, n) only every nth batch is
    run, from the rth on, counted from 0.
    """
    import torch

    model.eval()
    device = next(model.parameters()).device
    for indices in islice(longest_first(features.lengths, batch_size), share[0], None, share[1]):
        chosen = indices.tolist()
        batch = part.collate(features.__getitems__(chosen), tokenizer, labels)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.inference_mode(), autocast(precision, device.type):
            yield chosen, part.forward(model, batch), batch


def raw_outputs(
    model: Any, part: Any, features: FeatureTable, tokenizer: Any, params: Any, precision: str, labels: bool = True
) -> tuple[pa.Table, float | None]:
    """The compact raw outputs of all features in the file's order, and their mean loss (None without labels).

    `params` is the evaluation section. The loss is the mean over what the model predicts (windows, tokens),
    computed without label smoothing.
    """
    import numpy as np

    tables, order, total, count = [], [], 0.0, 0
    for indices, output, batch in forward(model, part, features, tokenizer, params.batch_size, precision, labels):
        tables.append(part.outputs(model, output, batch, features.take(indices), tokenizer, params))
        order += indices
        if labels:
            _, weight = part.agreement(output, batch)
            total, count = total + float(part.loss(output, batch)) * weight, count + weight
    if not tables:
        return part.OUTPUTS.empty_table(), None
    inverse = np.argsort(np.array(order), kind="stable")
    table = pa.concat_tables(tables).take(pa.array(inverse))
    return table, total / count if count else None
