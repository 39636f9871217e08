"""Checkpoints that are whole or do not count.

A checkpoint is a folder with a `manifest.json`, written last, that names every other file by SHA-256 and
carries what training must know to go on. Resuming trusts a checkpoint only after it has hashed the files
again: a missing optimizer file would resume silently and diverge, a flipped bit would load without a word.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainwright.core.layout import digest, write_file

MANIFEST = "manifest.json"


def key(content: Mapping[str, Any]) -> str:
    """The name of a run's checkpoint folder: a digest of all that its weights depend on."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def seal(folder: Path, progress: Mapping[str, Any]) -> None:
    """Write the manifest of a checkpoint whose other files are all there."""
    files = {path.name: digest(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    write_file(folder / MANIFEST, json.dumps({"files": files, "progress": progress}, indent=2) + "\n")


def progress(folder: Path) -> dict[str, Any] | None:
    """What a whole checkpoint says of the training's progress; None for one that is not whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files, found = manifest["files"], manifest["progress"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(files, dict) or not isinstance(found, dict):
        return None
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    whole = present == set(files) and all(digest(folder / name) == expected for name, expected in files.items())
    return found if whole else None


def newest(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of a run with its progress; broken ones are removed on the way.

    A checkpoint whose best weights (`progress["best"]`) are gone or broken is not whole either.
    """
    for folder in sorted(run.glob("checkpoint-*"), key=_step, reverse=True):
        found = progress(folder)
        if found is not None and (found["best"] is None or progress(run / found["best"]) is not None):
            return folder, found
        print(f"training: {folder.name} is not whole and is left out", flush=True)
        shutil.rmtree(folder)
    return None


def prune(run: Path, keep: int = 2) -> None:
    """Remove all but the newest `keep` checkpoints, and best weights that none of them needs."""
    folders = sorted(run.glob("checkpoint-*"), key=_step, reverse=True)
    for folder in folders[keep:]:
        shutil.rmtree(folder)
    needed = {(progress_of or {}).get("best") for progress_of in map(_progress_unchecked, folders[:keep])}
    for folder in run.glob("best-*"):
        if folder.name not in needed and _step(folder) < _step(folders[0]):
            shutil.rmtree(folder)


def _progress_unchecked(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["progress"])


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def forget(runs: Path) -> None:
    """Remove the checkpoints of all runs of a pipeline: its training has ended well."""
    shutil.rmtree(runs, ignore_errors=True)
