"""LoRA by peft: a few weights of low rank are trained beside a frozen base model (Hu et al., 2021).

A trained adapter lies in the model's folder as `adapter/`, next to config.json and tokenizer; with `lora.merge` the
folder also holds whole weights with the adapter multiplied in, and then loads like any other model. peft would write
the base model's path on this machine into the adapter: what is kept names the base model as params.yaml does.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainwright.core.params import Lora
from trainwright.engine import model_files
from trainwright.engine.prediction import load_base, load_model

FOLDER = "adapter"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def add(model: Any, new: list[str], params: Lora) -> Any:
    """The model with an adapter on every linear layer, and with its new modules (`new`: names of the parameters that
    the base model had no weights for) to be trained whole. A new parameter beside one that is tied to another (the
    bias beside a decoder that is the embeddings) stays as it is: a copy trained apart would be lost in whole weights,
    which are tied again.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules="all-linear",
        modules_to_save=_modules(model, new) or None,
    )
    return get_peft_model(model, config)


def _modules(model: Any, new: list[str]) -> list[str]:
    """The outermost modules that hold nothing but new parameters; by their whole names, of which peft takes every
    module whose own name ends so: "dense" would be any of them."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    fresh, found = set(new), set()
    for name in fresh:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            prefix = ".".join(parts[:depth]) + "."
            if {other for other in names if other.startswith(prefix)} <= fresh:
                found.add(prefix.removesuffix("."))
                break
    return sorted(found)


def keep(weights: Path, target: Path, base_model: str) -> None:
    """Copy a trained adapter from the folder that peft saved into a model's folder, naming its base model."""
    folder = target / FOLDER
    folder.mkdir()
    config = json.loads((weights / CONFIG).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_model
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    shutil.copyfile(weights / WEIGHTS, folder / WEIGHTS)


def there(folder: Path) -> bool:
    """Whether a model's folder needs its base model: it holds an adapter and no whole weights."""
    return not any(folder.glob("*.safetensors")) and (folder / FOLDER / WEIGHTS).is_file()


def load_trained(auto_class: str, folder: Path, base: Callable[[], Path]) -> Any:
    """The model that training left in `folder`. `base` finds the base model's folder, where an adapter needs it."""
    return load(auto_class, folder, base()) if there(folder) else load_model(auto_class, folder)


def load(auto_class: str, folder: Path, base: Path) -> Any:
    """The base model in folder `base` with the adapter of `folder` multiplied into its weights.

    Raises InputError where either cannot be loaded.
    """
    from peft import PeftModel

    model_files.check_settings(folder / FOLDER / CONFIG, [])
    model, _ = load_base(auto_class, base, folder)
    return PeftModel.from_pretrained(model, str(folder / FOLDER)).merge_and_unload()
