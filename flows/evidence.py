"""What a run leaves for people: tables, a bar and a picture in Prefect, and the closing words on the terminal."""

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.core.layout import Layout
from trainwright.report import markdown
from trainwright.scoring import wording

if TYPE_CHECKING:
    from trainwright.champion import Verdict  # which imports pandas, and a worker's stage would wait for it

Rows = list[dict[str, Any]]


def publish_gate(layout: Layout, gate: str) -> None:
    """What a gate promised and saw, as an artifact of the present flow run: nothing where it has left no result."""
    result = _json(layout.gate_result(gate))
    if promises := result.get("promises"):
        words = "passed" if result.get("passed") is True else "REFUSED"
        title = f"The {gate} gate of {layout.pipeline}: **{words}**"
        _table(f"{layout.pipeline}-{gate}-gate", [_promise(promise) for promise in promises], title)


def publish_scores(layout: Layout) -> None:
    """The scores with their intervals, as an artifact of the present flow run."""
    if rows := _scores(layout):
        title = f"The scores of {layout.pipeline}, in points of 100 where no other unit stands"
        _table(f"{layout.pipeline}-scores", rows, title)


def publish_picture(layout: Layout) -> None:
    """The report's picture of the scores, as an artifact of the present flow run, which holds it whole."""
    from prefect.artifacts import create_image_artifact

    path = layout.stage("report") / "scores.svg"
    if path.is_file():
        whole = f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
        create_image_artifact(whole, key=f"{layout.pipeline}-picture", description=f"The scores of {layout.pipeline}")


class Progress:
    """How many of a run's stages are done, as a bar that the present flow run shows."""

    def __init__(self, pipeline: str, stages: int) -> None:
        from prefect.artifacts import create_progress_artifact

        self.stages = stages
        words = f"0 of {stages} stages"
        self._artifact: Any = create_progress_artifact(0.0, key=f"{pipeline}-progress", description=words)

    def tell(self, done: int, ended: str) -> None:
        """`ended` is the stage that has come to its end as the `done`th."""
        from prefect.artifacts import update_progress_artifact

        words = f"{done} of {self.stages} stages, the last of them {ended}"
        update_progress_artifact(self._artifact, 100 * done / self.stages, description=words)


def publish_comparison(pipeline: str, verdict: "Verdict") -> None:
    """How a new version compares with those before, as an artifact of the present flow run."""
    rows = [
        {
            "against": comparison.against,
            "score": wording.label(comparison.score),
            "new": round(comparison.challenger, 4),
            "theirs": round(comparison.other, 4),
            "difference": f"{comparison.difference:+.4g} ({comparison.low:+.4g} to {comparison.high:+.4g})",
            "margin": round(comparison.margin, 4),
            "smallest shown": "none" if comparison.smallest is None else round(comparison.smallest, 4),
            "verdict": "passed" if comparison.passed else "REFUSED",
        }
        for comparison in verdict.comparisons
    ]
    if rows:
        _table(f"{pipeline}-comparison", rows, f"The new version of {pipeline} on the frozen test rows")


def publish_decision(pipeline: str, outcome: str, words: str) -> None:
    """What a tick decided, in words, as an artifact of the present flow run."""
    from prefect.artifacts import create_markdown_artifact

    paragraphs = "\n\n".join(markdown.plain(line) for line in words.splitlines())
    create_markdown_artifact(f"# {pipeline}: {outcome}\n\n{paragraphs}", key=f"{pipeline}-decision")


def failure(layout: Layout, stage: str) -> tuple[int, str] | None:
    """The exit code and the words that a stage has left of its failure; None where it has not come to say anything."""
    said = _json(layout.failure(stage))
    return (int(said["exit_code"]), str(said["message"]).strip()) if {"exit_code", "message"} <= set(said) else None


def timing(layout: Layout, stage: str) -> dict[str, Any]:
    """When a stage's last run began, how long it took and where; empty where it has not said."""
    return _json(layout.timing(stage))


def _table(key: str, rows: Rows, description: str) -> None:
    from prefect.artifacts import create_table_artifact

    shown = [{name: markdown.cell(v) if isinstance(v, str) else v for name, v in row.items()} for row in rows]
    create_table_artifact(shown, key=key, description=description)


def closing(layout: Layout) -> str:
    """The scores, and where the model, its predictions, the scores and the report are."""
    lines = _sentences([row for row in _scores(layout) if row["set"] != "validation"])
    published, trained = layout.stage("report") / "model", layout.stage("training") / "model"
    places = {
        "model": published if published.is_dir() else trained,
        "predictions": layout.stage("postprocessing") / "predictions" / "predictions.json",
        "scores": layout.stage("postprocessing") / "metrics.json",
        "report": layout.stage("report") / "index.html",
    }
    found = {name: path for name, path in places.items() if path.exists()}
    lines += [""] if lines and found else []
    lines += [f"{name:<12} {path.relative_to(layout.root)}" for name, path in found.items()]
    return "\n".join(lines)


def _scores(layout: Layout) -> Rows:
    """A row for each headline score, of each set of rows, best known first."""
    metrics = _json(layout.stage("postprocessing") / "metrics.json")
    rows = []
    for part, words in wording.parts(metrics).items():
        scores = metrics.get(part) or {}
        label = words if part in ("test", "validation") else f"{words}, on test"
        for name in wording.headline({part: scores}):
            kind = wording.kind(metrics, name)
            own = {} if kind["unit"] == wording.POINTS else {"unit": kind["unit"]}
            own |= {"better": "lower"} if kind["better"] == "lower" else {}
            score = {"score": wording.label(name), **wording.cell(scores, name), **own}
            rows.append({"set": label, **score, "rows": scores.get("count")})
    return rows


def _sentences(rows: Rows) -> list[str]:
    """A line for each score, its columns below one another."""
    said = [wording.said(row, row.get("unit", wording.POINTS)).partition(" (") for row in rows]
    name, value, interval = (max((len(part) for part in column), default=0) for column in _columns(rows, said))
    return [
        f"{row['score']:<{max(12, name)}} {score:>{max(5, value)}}{opening + rest:<{max(17, interval)}} {row['set']}"
        + (f", {row['rows']:,} rows" if row["rows"] else "")
        for row, (score, opening, rest) in zip(rows, said, strict=True)
    ]


def _columns(rows: Rows, said: list[tuple[str, str, str]]) -> tuple[list[str], list[str], list[str]]:
    return [row["score"] for row in rows], [part[0] for part in said], [part[1] + part[2] for part in said]


def _promise(promise: dict[str, Any]) -> dict[str, Any]:
    from trainwright.gates.runner import bounds, observed

    return {
        "promise": f"{promise['name']}: {promise['says']}",
        "promised": bounds(promise),
        "observed": observed(promise),
        "verdict": "held" if promise["success"] is True else "BROKEN",
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
