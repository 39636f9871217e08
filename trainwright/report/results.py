"""The page's scores: cards, intervals, tables by split and class, the confusion of labels, slices.

All is read by the forms of `trainwright/scoring/wording.py`; a score is drawn on a scale of its own unit.
"""

import math
from typing import Any

from markupsafe import Markup

from trainwright.report import plots
from trainwright.scoring import wording
from trainwright.scoring.wording import CONSTANT, POINTS, cell, headline, label, parts

MOST_CARDS = 4
MOST_PLOTTED = 8
MOST_BESIDE = 3  # scores that a table beside the picture has room for
MOST_SLICES = 24
MOST_CLASSES = 60
MOST_LABELS = 20
MOST_CONFUSED = 10
LOGARITHMIC = 20  # from what ratio of largest to smallest value on
KINDS = {"classes": "class", "labels": "label", "types": "type"}
MOST_NARROW = 8  # labels that the picture beside a table has room for
OTHERS = "all others"
BASELINES = {"untrained": "lost", CONSTANT: "soft"}  # and their colours


def title(name: str) -> str:
    """A key of the metrics in words, as a heading begins."""
    words = label(name)
    return words[:1].upper() + words[1:]


def results(metrics: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of the metrics."""
    names, test = headline(metrics), metrics.get("test") or {}
    kinds = {name: wording.kind(metrics, name) for name in names}
    rows = score_rows(metrics, names)
    return {
        "headline": [_card(metrics, name) for name in names[:MOST_CARDS]],
        "constant": parts(metrics).get(CONSTANT),
        "baselines": {part: colour for part, colour in BASELINES.items() if part in parts(metrics)},
        "metric_names": names,
        "kinds": kinds,
        "test_count": test.get("count"),
        "intervals_plot": _intervals(metrics, names[:MOST_PLOTTED]),
        "score_rows": rows,
        "wide": len(names) > MOST_BESIDE,
        "has_groups": any(row["group"] for row in rows),
        "further": [(n, v) for n, v in test.items() if n != "count" and (v is None or isinstance(v, int | float))],
        "class_tables": [_class_table(name, table) for name, table in wording.classes(test).items()],
        "confusion": _confusion(test.get("confusion")),
        "sliced": bool(test.get("slices")),
        **_slices(metrics, names),
    }


def unit_words(kind: dict[str, str]) -> str:
    """What stands beside a score's name: nothing of plain points, else "nats, the lower the better"."""
    unit = "" if kind["unit"] in (POINTS, "perplexity") else kind["unit"]
    return ", ".join(part for part in (unit, "the lower the better" if kind["better"] == "lower" else "") if part)


def score_rows(metrics: dict[str, Any], names: list[str]) -> list[dict[str, Any]]:
    """A row a split and group of rows, each with one cell a score: its words and those of its interval."""
    rows = []
    kinds = {name: wording.kind(metrics, name)["unit"] for name in names}
    for split, words in parts(metrics).items():
        scores = metrics.get(split) or {}
        groups = {
            name: value
            for name, value in scores.items()
            if isinstance(value, dict) and "count" in value and not wording.is_score(value)
        }
        for group, value in {"": scores, **groups}.items():
            said = [{**cell(value, name), **_words(value, name, kinds[name])} for name in names]
            rows.append({"split": words, "group": group, "count": value.get("count"), "cells": said})
    return rows


def _words(scores: dict[str, Any], name: str, unit: str) -> dict[str, str]:
    """A score and its interval in words: one that was computed and is none, as the precision of nothing, is
    undefined."""
    score = cell(scores, name)
    undefined = score["value"] is None and name in scores
    words = wording.UNDEFINED if undefined else wording.number(score["value"], unit)
    return {"words": words, "interval": wording.bounds(score, unit)}


def _card(metrics: dict[str, Any], name: str) -> dict[str, Any]:
    kind = wording.kind(metrics, name)
    found = {split: cell(metrics.get(split), name) for split in parts(metrics)}
    words = {split: _words(metrics.get(split) or {}, name, kind["unit"])["words"] for split in found}
    interval = wording.bounds(found["test"], kind["unit"])
    drawn = {split: score for split, score in found.items() if split != "validation"}
    scale = scale_of([value for score in drawn.values() for value in score.values() if value is not None], kind["unit"])
    places = {split: {end: _place(value, scale) for end, value in score.items()} for split, score in drawn.items()}
    unit = {POINTS: "of 100", "perplexity": ""}.get(kind["unit"], kind["unit"])
    said = {"unit": unit, "lower": kind["better"] == "lower", "words": words, "interval": interval}
    return {"label": title(name), **said, "places": places}


def scale_of(values: list[float], unit: str) -> tuple[float, float, bool]:
    """Where an axis for these values begins and ends, and whether it is logarithmic.

    Points go from 0 (-100 where one is negative) to 100; other units from 0 to a little over the largest value, or
    by powers of ten where values lie far apart.
    """
    if unit == POINTS:
        return (-100.0 if min(values, default=0) < 0 else 0.0), max(100.0, *values, 0.0), False
    low, high = min(values, default=0), max(values, default=1)
    if low > 0 and high / low > LOGARITHMIC:
        return 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)), True
    return min(1.1 * low, 0.0), (1.1 * high if high > 0 else 1.0), False


def _place(value: float | None, scale: tuple[float, float, bool]) -> float | None:
    """How far along the scale a value lies, from 0 to 100."""
    if value is None:
        return None
    low, high, logarithmic = scale
    if logarithmic:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return round(min(max(100 * (value - low) / (high - low), 0), 100), 3)


def _intervals(metrics: dict[str, Any], names: list[str]) -> Markup | None:
    panels: list[dict[str, Any]] = []
    for name in names:
        kind = wording.kind(metrics, name)
        scores = [(words, cell(metrics.get(split), name)) for split, words in parts(metrics).items()]
        values = [value for _, score in scores for value in score.values() if value is not None]
        records = [{"split": s, "words": wording.number(c["value"], kind["unit"]), **c} for s, c in scores]
        unit = unit_words(kind)
        heading = f"{title(name)} ({unit})" if unit else title(name)
        panels.append({"title": heading, "records": records, "scale": scale_of(values, kind["unit"])})
    words = "; ".join(f"{p['title']} on {r['split']}: {r['words']}" for p in panels for r in p["records"])
    return plots.intervals(panels, words) if any(r["value"] is not None for p in panels for r in p["records"]) else None


def _slices(metrics: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """A picture for each way of slicing, of the last headline score that it has (the gradual one where it has two)."""
    test = metrics.get("test") or {}
    by: dict[str, list[dict[str, Any]]] = {}
    for part in test.get("slices") or []:
        by.setdefault(part["by"], []).append(part)
    drawn = []
    for number, (what, those) in enumerate(by.items()):
        metric = next((name for name in reversed(names) if any(name in part for part in those)), None)
        if len(those) == 1 or metric is None:  # one slice says what the whole says
            continue
        unit, shown = wording.kind(metrics, metric)["unit"], those[:MOST_SLICES]
        overall = cell(test, metric)["value"]
        records = [
            {"name": str(part["value"]), "value": value, "words": f"{wording.number(value, unit)} ({part['count']:,})"}
            for part in shown
            for value in [cell(part, metric)["value"]]
        ]
        words = f"{title(metric)} by {what}. " + "; ".join(f"{r['name']}: {r['words']}" for r in records)
        values = [value for value in (overall, *(r["value"] for r in records)) if value is not None]
        svg = plots.slices(records, overall, words, f"slice{number}", scale_of(values, unit)[:2])
        more = f", the first {MOST_SLICES} of {len(those)}" if len(those) > MOST_SLICES else ""
        drawn.append((f"{title(metric)} by {what}{more}", svg))
    return {"slice_plots": drawn}


def _class_table(name: str, table: list[dict[str, Any]]) -> dict[str, Any]:
    """A table by class as words: counts whole, scores in points of 100, `f1_low` and `f1_high` beside `f1`."""
    keys = list(dict.fromkeys(key for row in table for key in row if key != "label"))
    columns = [key for key in keys if key.rpartition("_")[0] not in keys or not key.endswith(("_low", "_high"))]
    rows = [(str(row["label"]), [_figure(row, key) for key in columns]) for row in table[:MOST_CLASSES]]
    kind = KINDS.get(name, "class")
    heading = f"By {kind}" if name in KINDS else f"By class: {label(name)}"
    return {"title": heading, "kind": kind, "columns": columns, "rows": rows, "more": max(len(table) - MOST_CLASSES, 0)}


def _figure(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if isinstance(value, dict) and wording.is_score(value):
        return wording.said(value)
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return wording.said({"value": value, "low": row.get(f"{key}_low"), "high": row.get(f"{key}_high")})


def _confusion(found: Any) -> dict[str, Any] | None:
    """The confusion of labels as a picture, as a table, and its largest errors in words."""
    if not isinstance(found, dict) or not found.get("labels"):
        return None
    names, counts = [str(name) for name in found["labels"]], found["counts"]
    errors = sorted(
        ((counts[g][p], names[g], names[p]) for g in range(len(names)) for p in range(len(names)) if g != p),
        key=lambda error: -error[0],
    )
    errors = [error for error in errors[:MOST_CONFUSED] if error[0]]
    left = len(names) - MOST_LABELS + 1 if len(names) > MOST_LABELS else 0
    if left:
        names, counts = _folded(names, counts)
    records = [
        {"gold": g, "predicted": p, "count": counts[g][p], "share": counts[g][p] / max(sum(counts[g]), 1)}
        for g in range(len(names))
        for p in range(len(names))
    ]
    said = [f"{count:,} times {gold} was taken for {predicted}" for count, gold, predicted in errors]
    words = "Confusion of labels. " + ("; ".join(said) or "No label was taken for another")
    return {
        "svg": plots.confusion(names, records, words),
        "labels": names,
        "rows": [(name, row, sum(row)) for name, row in zip(names, counts, strict=True)],
        "errors": errors,
        "left": left,
        "wide": len(names) > MOST_NARROW,
    }


def _folded(names: list[str], counts: list[list[int]]) -> tuple[list[str], list[list[int]]]:
    """The labels with the most rows, gold and predicted, and all others as one, so that every sum stays true."""
    weight = [sum(counts[n]) + sum(row[n] for row in counts) for n in range(len(names))]
    kept = sorted(sorted(range(len(names)), key=lambda n: -weight[n])[: MOST_LABELS - 1])
    rest = [n for n in range(len(names)) if n not in set(kept)]
    parts = [*([n] for n in kept), rest]
    folded = [[sum(counts[g][p] for g in gold for p in predicted) for predicted in parts] for gold in parts]
    return [*(names[n] for n in kept), f"{OTHERS} ({len(rest)})"], folded
