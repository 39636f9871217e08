"""One pipeline from several base models, in one table and one picture; see flows/comparison.py for the records."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from trainwright.report import plots
from trainwright.report.page import environment, seconds
from trainwright.scoring import wording

Record = dict[str, Any]
HEAD = ("training", "parameters", "size", "speed", "memory")
UNKNOWN = "not measured"


def rows(records: Sequence[Record]) -> list[list[str]]:
    """The table as words: a heading, then a row a base model."""
    names = list(dict.fromkeys(name for record in records for name in record["scores"]))
    heading = ["base model", *(wording.label(name) for name in names), *HEAD]
    return [heading, *([record["base_model"], *_scores(record, names), *_costs(record)] for record in records)]


def _scores(record: Record, names: Sequence[str]) -> list[str]:
    found = [record["scores"].get(name) for name in names]
    return ["not computed" if score is None else wording.said(score, score.get("unit", "points")) for score in found]


def _costs(record: Record) -> list[str]:
    size, peak, speed = record["model_bytes"], record["peak_bytes"], record["examples_per_second"]
    reached = size is not None
    return [
        "from the cache" if reached and record["training_seconds"] is None else seconds(record["training_seconds"]),
        UNKNOWN if record["parameters"] is None else f"{record['parameters'] / 1e6:,.1f} M",
        UNKNOWN if size is None else f"{size / 1e6:,.1f} MB",
        UNKNOWN if speed is None else f"{speed:,.1f} examples/s",
        UNKNOWN if peak is None else f"{peak / 1e6:,.0f} MB",
    ]


def render(pipeline: str, records: Sequence[Record]) -> str:
    """The page as HTML: self-contained, without a script, everything from outside escaped."""
    heading, *lines = rows(records)
    return (
        environment()
        .get_template("comparison.html")
        .render(
            css=Markup(Path(__file__).with_name("page.css").read_text(encoding="utf-8")),
            pipeline=pipeline,
            heading=heading,
            rows=lines,
            failed=[(record["base_model"], record["failed"]) for record in records if record["failed"]],
            picture=_picture(records),
        )
    )


def _picture(records: Sequence[Record]) -> Markup | None:
    """The main score against speed; None where fewer than one base model has both."""
    name = next((name for record in records for name in record["scores"]), None)
    drawn = [
        {
            "name": record["base_model"],
            "speed": record["examples_per_second"],
            "size": (record["model_bytes"] or 0) / 1e6,
            **{end: record["scores"][name][end] for end in wording.BOUNDS},
        }
        for record in records
        if name in record["scores"]
        and record["scores"][name]["value"] is not None
        and record["examples_per_second"] is not None
    ]
    if not drawn or name is None:
        return None
    words = "; ".join(f"{r['name']}: {r['value']:.1f} at {r['speed']:.1f} examples/s" for r in drawn)
    return plots.comparison(drawn, f"{wording.label(name)} on test", f"{wording.label(name)} by speed. {words}")
