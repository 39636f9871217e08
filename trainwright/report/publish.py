"""The folder to publish: training's model as it was certified, its card, and what it needs to answer."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainwright.gates.models import strange_files
from trainwright.report.card import card
from trainwright.report.facts import Facts

SETTINGS = "trainwright.json"
READING = (  # what of a source says how its files are read
    "format", "columns", "header", "delimiter", "quoted", "separator", "documents", "max_unpacked_gb", "token_column",
    "tag_column",
)  # fmt: skip
WORK = ("tokenization", "evaluation", "postprocessing")
PACKED = (".gz", ".zip")


def assemble(facts: Facts, model: Path, target: Path) -> None:
    """Make folder `target` from training's folder `model`: its files byte for byte, without any that may run code
    when loaded; README.md, the card; trainwright.json, which `trainwright predict` reads.
    """
    strange = set(strange_files(model))
    names = sorted(path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file())
    for name in names:
        if name not in strange:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model / name, target / name)
    settings = {
        **{key: facts.params[key] for key in ("task", "language", "cleaning", *WORK)},
        "reading": reading(facts.source),
        "base_model": {key: facts.base[key] for key in ("uri", "files")},
        "learned": facts.learned,
        "tuned": facts.tuned,
        "pipeline": facts.pipeline,
        "source": facts.source["sha256"],
    }
    (target / SETTINGS).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (target / "README.md").write_text(card(facts), encoding="utf-8")


def reading(pin: Mapping[str, Any]) -> dict[str, Any]:
    """How the files of a pinned source are read, and how their names end; nothing of where they are."""
    paths = [Path(part["path"]) for part in pin.get("files", [])]
    ends = {"".join(path.suffixes[-2:] if path.suffix.lower() in PACKED else path.suffixes[-1:]) for path in paths}
    options = {name: pin[name] for name in READING if name in pin}
    return {**options, "suffixes": sorted({end.lower() for end in ends if end})}
