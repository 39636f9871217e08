"""What a prediction of any task says, in words: a text, a number, a label, entities, fillings, or lists of these.

No task is named here: a value is read by its own form (see `Scores.each` in `trainwright/tasks/interface.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_SAID = 12
LONGEST_SAID = 600
NAMING = ("text", "label", "prediction", "answer", "value")
SURE = ("probability", "confidence", "score")


@dataclass(frozen=True)
class Said:
    """A few words of a prediction, and what stands softly beside them: a label, a probability."""

    words: str
    note: str = ""


@dataclass(frozen=True)
class Span:
    """Characters of a text, from `start` to `end` (one past the last), and what is said of them."""

    start: int
    end: int
    tag: str = ""


def said(value: Any) -> list[Said]:
    """A prediction, or what is right, in words; nothing where nothing was predicted."""
    if value is None or value in ("", [], {}):
        return []
    if isinstance(value, Mapping):
        return [_of(value)]
    if isinstance(value, list | tuple):
        parts = [part for each in value[:MOST_SAID] for part in said(each)]
        more = len(value) - MOST_SAID
        return [*parts, Said(f"and {more} more")] if more > 0 else parts
    return [Said(_words(value))]


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return words if len(words) <= LONGEST_SAID else words[:LONGEST_SAID] + "…"


def _of(value: Mapping[str, Any]) -> Said:
    """A dictionary that names something ({text, label, probability}); any other as its JSON."""
    if isinstance(value.get("labels"), list):
        return Said(", ".join(_words(name) for name in value["labels"]) or "none of the labels")
    naming = [name for name in NAMING if value.get(name) is not None]
    if not naming:
        return Said(_words(dict(value)))
    notes = [_words(value["label"])] if naming[0] == "text" and value.get("label") is not None else []
    sure = next((value[name] for name in SURE if isinstance(value.get(name), float)), None)
    notes += [] if sure is None or not 0 <= sure <= 1 else [f"{100 * sure:.0f}%"]
    return Said(_words(value[naming[0]]), ", ".join(notes))


def spans(value: Any, text: str) -> list[Span]:
    """The spans that a prediction has in a text: every {start, end} in it that lies there."""
    found = []
    for part in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(part, Mapping):
            continue
        start, end = part.get("start"), part.get("end")
        if isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(text):
            names = [part.get("label"), part.get("text")]
            tag = next((_words(name) for name in names if name is not None and name != text[start:end]), "")
            found.append(Span(start, end, tag))
    return found


def candidates(value: Any) -> list[tuple[Said, float]]:
    """The alternatives of a row with their probabilities, best first.

    They are a list of {text or label, probability}, or {label: probability}; of a prediction they stand under
    `probabilities`, `candidates` or `alternatives`. [] where it keeps none.
    """
    if isinstance(value, Mapping):
        inner = next((value[k] for k in ("probabilities", "candidates", "alternatives") if value.get(k)), None)
        if inner is not None:
            return candidates(inner)
        pairs = [(Said(str(name)), p) for name, p in value.items() if isinstance(p, float) and 0 <= p <= 1]
        found = pairs if len(pairs) == len(value) else []
    elif isinstance(value, list):
        found = [
            (Said("" if (words := _named(part)) is None else _words(words)), part["probability"])
            for part in value
            if isinstance(part, Mapping) and isinstance(part.get("probability"), float) and "start" not in part
        ]
    else:
        found = []
    return sorted(found, key=lambda pair: -pair[1])


def _named(part: Mapping[str, Any]) -> Any:
    return next((part[name] for name in NAMING if part.get(name) is not None), None)


def top(value: Any) -> float | None:
    """How sure a prediction itself says that it is: its probability, or the mean of its parts'."""
    parts = value if isinstance(value, list | tuple) else [value]
    sure = [
        part["probability"]
        for part in parts
        if isinstance(part, Mapping) and isinstance(part.get("probability"), float)
    ]
    return sum(sure) / len(sure) if sure and len(sure) == len(parts) else None
