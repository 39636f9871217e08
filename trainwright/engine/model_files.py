"""The files of a model's folder: which ones are loaded, and what their settings may ask for.

transformers loads more than the weights and settings that it finds by name: settings name further files, whole models
and code. Here is the list of what may be loaded; whatever names anything else is refused.
"""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainwright.core.errors import Fault, InputError

INDEX = "*.safetensors.index.json"  # of weights in several files
MODEL = ("*.safetensors", INDEX, "config.json", "generation_config.json")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.*",
    "merges.txt",
    "*.model",
)
LOADED = (*MODEL, *TOKENIZER)
ADAPTER = "adapter_config.json"  # beside weights it has transformers load the base model that it names
SETTINGS = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
LARGEST = 16_000_000  # bytes of a file of settings
DEEPEST = 30  # levels of nesting in one
CODE = {  # settings that load code, or a model from elsewhere
    "auto_map",
    "backbone",
    "compression_config",
    "configuration_files",
    "custom_generate",
    "custom_pipelines",
    "kernel_config",
    "kernels",
    "megatron_config",
    "quantization_config",
    "trust_remote_code",
    "use_kernels",
    "use_pretrained_backbone",
    "use_timm_backbone",
}
IMPLEMENTATIONS = {"eager", "sdpa", "grouped_mm", "batched_mm"}  # of attention and experts, that transformers brings


def names(folder: Path) -> list[str]:
    """Return the names of the files in `folder` that may be loaded, sorted.

    A link counts as the file that it names, as in the Hub's cache. Raises InputError for what is no plain file.
    """
    found = sorted(path.name for path in folder.iterdir() if any(path.match(pattern) for pattern in LOADED))
    for name in found:
        try:
            plain = stat.S_ISREG((folder / name).stat().st_mode)
        except OSError:
            plain = False
        if not plain:
            raise _refused(folder / name, "it is no plain file", "Copy the whole model folder again.")
    return found


def read_settings(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of settings. Raises InputError for any other content."""
    remedy = "Copy the model folder again."
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise _refused(path, f"{path.name} has {size:,} bytes, more than the allowed {LARGEST:,}", remedy)
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _refused(path, f"{path.name} is missing", "Copy the whole model folder.") from None
    except RecursionError:
        raise _refused(path, f"{path.name} is nested too deeply", remedy) from None
    except (OSError, ValueError):
        raise _refused(path, f"{path.name} is not valid JSON", remedy) from None
    if not isinstance(content, dict):
        raise _refused(path, f"{path.name} is no JSON object", remedy)
    return content


def check(folder: Path) -> None:
    """Raise InputError if the settings in a model's folder name other files, or load code or another model."""
    present = names(folder)
    if (folder / ADAPTER).exists():
        reason = f"{ADAPTER} makes transformers load another model"
        raise _refused(folder / ADAPTER, reason, "Remove it, or take the whole model that it names.")
    for name in present:
        if Path(name).match(INDEX):
            _check_index(folder / name, present)
        elif name in SETTINGS:
            check_settings(folder / name, present)


def check_settings(path: Path, present: list[str]) -> None:
    """Raise InputError if a file of settings loads code, or names a file that is not among `present`."""
    for key, value in _pairs(path, read_settings(path)):
        if key in CODE and value not in (None, False, "", [], {}):
            reason = f"{path.name} loads code or weights of its own ({key})"
            raise _refused(path, reason, "Choose a model that transformers loads as it is.")
        if "implementation" in key and isinstance(value, str) and value not in IMPLEMENTATIONS:
            reason = f"{path.name} has {key} {value!r}, which may load code"
            raise _refused(path, reason, f"Let it be one of {', '.join(sorted(IMPLEMENTATIONS))}, or remove it.")
        if key in ("transformers_weights", "fast_tokenizer_files"):
            for name in value if isinstance(value, list) else [value]:
                if name is not None and (name not in present or not _allowed(key, name)):
                    reason = f"{path.name} names {name!r} ({key}), which is not among the files that are pinned"
                    raise _refused(path, reason, "Keep all files in the model's folder, under their usual names.")


def _allowed(key: str, name: str) -> bool:
    if key == "fast_tokenizer_files":
        return name == "tokenizer.json"
    return name.endswith((".safetensors", ".safetensors.index.json"))


def _check_index(path: Path, present: list[str]) -> None:
    weights = read_settings(path).get("weight_map")
    if not isinstance(weights, dict):
        raise _refused(path, f"{path.name} has no weight_map", "Copy the model folder again.")
    for name in {str(name) for name in weights.values()}:
        if not name.endswith(".safetensors") or name not in present:
            reason = f"{path.name} names {name!r}, which is no file of safetensors in this folder"
            raise _refused(path, reason, "Pickles can run code and are never loaded: save the model as safetensors.")


def _pairs(path: Path, settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each key, at any depth, with its value; the values of a mapping also under the mapping's own key."""
    level: list[tuple[str, Any]] = [("", settings)]
    for _ in range(DEEPEST):
        inside: list[tuple[str, Any]] = []
        for outer, value in level:
            if isinstance(value, dict):
                inside += value.items()
                inside += [(outer, part) for part in value.values() if "implementation" in outer]
            elif isinstance(value, list):
                inside += [("", part) for part in value if isinstance(part, dict | list)]
        if not inside:
            return
        yield from inside
        level = inside
    raise _refused(path, f"{path.name} is nested too deeply", "Copy the model folder again.")


def _refused(path: Path, reason: str, remedy: str) -> InputError:
    return InputError(Fault(str(path.parent), reason, remedy))
