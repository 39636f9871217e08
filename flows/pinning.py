"""Before a pipeline runs: its pins are there, are of what params.yaml names, and of the bytes that are there now.

A pin that is missing, or that is of another source or base model than params.yaml names, is made anew: the
edit of params.yaml is the wish. Other bytes under the same name are nobody's wish, whatever else was edited: only
`refresh` takes them.
"""

import json
from pathlib import Path
from typing import Any

from flows import dvc
from trainwright import pins
from trainwright.core.layout import Layout
from trainwright.core.params import Pipeline
from trainwright.engine import base_model


def bring(layout: Layout, params: Pipeline) -> None:
    """Bring here the source that is under `dvc add` and not here. Raises MachineryError if DVC cannot."""
    dvc.bring_tracked(layout.root, [params.source.uri, *params.source.splits.values()])


def ensure(layout: Layout, params: Pipeline) -> list[str]:
    """Make the pins that are missing or of something else; verify the others. Returns what was done, in words.

    Raises InputError where a source or base model cannot be read, or has other bytes than its pin says.
    """
    bring(layout, params)
    told = []
    if reason := source_unpinned(layout, params):
        told.append(f"{reason}: pinned {source_words(pins.follow(layout, params))}")
    elif params.source.format != "hub":  # a commit of the Hub's stays what it is
        pins.verify(layout, params)
    if reason := base_unpinned(layout, params):
        base_model.pin(layout, params)
        told.append(f"{reason}: pinned {params.base_uri}")
    elif not params.base_uri.startswith("hub:"):
        base_model.verify(layout, params)
    return told


def refresh(layout: Layout, params: Pipeline) -> list[str]:
    """Read source and base model again and move both pins. Returns what changed, in words."""
    bring(layout, params)
    old_base = _read(layout.base_model_pin)
    old, new = pins.refresh(layout, params)
    base = base_model.pin(layout, params)
    before = f", was {source_words(old)}" if old else ""
    moved = "unchanged" if old == new else "pinned"
    return [
        f"source {moved}: {source_words(new)}{before if old != new else ''}",
        f"base model {'unchanged' if old_base == base else 'pinned'}: {params.base_uri}",
    ]


def source_unpinned(layout: Layout, params: Pipeline) -> str:
    """Why the source's pin does not speak of the source that params.yaml names; empty where it does."""
    pin = _read(layout.source_pin)
    if not pin:
        return "" if pins.is_pinned(layout) else "the source has no pin yet"
    changed = pins.differing(pin, params.source)
    return f"params.yaml names another source ({', '.join(changed)})" if changed else ""


def base_unpinned(layout: Layout, params: Pipeline) -> str:
    """Why the base model's pin does not speak of the one that params.yaml names; empty where it does."""
    pin = _read(layout.base_model_pin)
    if pin is None:
        return "" if layout.base_model_pin.exists() else "the base model has no pin yet"
    if pin.get("uri") != params.base_uri:
        return f"params.yaml names another base model than {pin.get('uri')}"
    wanted = params.scratch and params.scratch.model_dump(mode="json")
    return "" if pin.get("scratch") == wanted else "params.yaml describes another model from scratch"


def pinned(layout: Layout) -> dict[str, Any] | None:
    """The source's pin; None where there is none."""
    return _read(layout.source_pin)


def source_words(pin: dict[str, Any]) -> str:
    return f"{pin['uri']}, {pin['rows']:,} rows, {pin['bytes']:,} bytes, SHA-256 {str(pin['sha256'])[:12]}…"


def _read(path: Path) -> dict[str, Any] | None:
    """A pin, or None where there is none that can be read (which its own module explains)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
