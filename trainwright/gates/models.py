"""The promises about folders with a model: which files are in them, and whether their weights are numbers.

Safetensors are read by numpy alone (https://github.com/huggingface/safetensors, "Format"): eight bytes with
the header's length, the header as JSON, then the tensors. torch would cost seconds to import.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trainwright.core.layout import digest
from trainwright.gates.promises import Checked, Promise, none_of, number, read_json

HARMLESS = {".safetensors", ".json", ".txt", ".md", ".model", ".jinja"}  # kinds that hold no code to run on loading
EXPONENT = {"F64": (np.uint64, 0x7FF0 << 48), "F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00)}
EXPONENT["BF16"] = (np.uint16, 0x7F80)
WIDTHS = {"BOOL": 1, "I8": 1, "U8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8}
PIECE = 1 << 22


def trained(checked: Checked, limits: Any) -> Iterator[Promise]:
    """The promises of training's folder: a loss that fell, and whole weights in files that run no code."""
    facts, model = read_json(checked.folder / "facts.json"), checked.folder / "model"
    losses = {name: number(facts, f"{name}_loss") for name in ("first", "last", "best")}
    for name, loss in losses.items():
        of = ", of a later step than the first," if name == "last" else ""
        yield Promise(f"{name}_loss", f"the {name} loss{of} is a number", loss, 0)
    first, last = losses["first"], losses["last"]
    drop = None if first is None or last is None else first - last
    yield Promise(
        "loss_drop", "the loss has fallen from first to last", drop, limits.min_loss_drop, keys=("min_loss_drop",)
    )
    yield from _sound(model)
    yield none_of("weights_finite", "every weight is a finite number", not_finite(model))


def published(checked: Checked) -> Iterator[Promise]:
    """The promises of the folder to publish: training's own weights, with all that a reader needs."""
    model = checked.folder / "model"
    needed = ("README.md", "config.json", "tokenizer.json", "trainwright.json")
    missing = [name for name in needed if not (model / name).is_file() or not (model / name).stat().st_size]
    yield none_of("files_to_publish", f"{', '.join(needed)} are there", missing)
    yield from _sound(model)
    same = weights_digest(model) == weights_digest(checked.open("training") / "model")
    yield none_of("weights_as_trained", "the weights are those that were certified", [] if same else ["weights"])


def _sound(model: Path) -> Iterator[Promise]:
    yield Promise("weights_there", "there are weights, as safetensors", len(weight_files(model)), 1)
    yield none_of("no_code", "no file is a pickle or of another kind that may run code", strange_files(model))


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def weights_digest(folder: Path) -> str:
    """SHA-256 over names and contents of the folder's weights; of nothing where there are none."""
    lines = [f"{digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in weight_files(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def strange_files(folder: Path) -> list[str]:
    """Files of kinds that may run code when loaded (pickles above all), or that are not known to hold none."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path.relative_to(folder).as_posix() for path in files if path.suffix not in HARMLESS]


def not_finite(folder: Path) -> list[str]:
    """Every tensor that holds a NaN or an infinity, is of a kind not known here, or is not whole.

    Raises ValueError where a file is not safetensors.
    """
    return [f"{path.name}: {name}" for path in weight_files(folder) for name in _bad_tensors(path)]


def _bad_tensors(path: Path) -> Iterator[str]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise ValueError(f"{path.name} is shorter than its header says")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for name, tensor in header.items():
        begin, end = (8 + length + offset for offset in tensor["data_offsets"])
        count, kind = int(np.prod(tensor["shape"], dtype=np.int64)), tensor["dtype"]
        width = np.dtype(EXPONENT[kind][0]).itemsize if kind in EXPONENT else WIDTHS.get(kind, -1)
        if not 8 <= begin <= end <= size or end - begin != count * width or not _finite(path, begin, count, kind):
            yield name


def _finite(path: Path, begin: int, count: int, kind: str) -> bool:
    """A number is finite unless all bits of its exponent are set."""
    if kind not in EXPONENT or count == 0:
        return True
    word, exponent = EXPONENT[kind]
    bits = np.memmap(path, dtype=np.dtype(word).newbyteorder("<"), mode="r", offset=begin, shape=(count,))
    pieces = (bits[start : start + PIECE] for start in range(0, count, PIECE))
    return not any(((piece & word(exponent)) == word(exponent)).any() for piece in pieces)
