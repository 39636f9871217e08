"""Raw outputs become predictions, and predictions scores.

    python -m stages.postprocessing sample-qa

Writes predictions/ (the test split's in the task's official form: predictions.json, …), metrics.json (test,
validation and the untrained base model on test), tuned.json (what was set on validation) and scores.parquet
(each test row's prediction and scores).
"""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from trainwright import tables
from trainwright.core import layout, process, tasks
from trainwright.core.params import Pipeline


@dataclass(frozen=True)
class Postprocessed:
    """The predictions of the test split, what was tuned on validation, all scores, those of each test row."""

    predictions: pa.Table
    tuned: dict[str, Any]
    metrics: dict[str, Any]
    each: pa.Table


def postprocessing(rows: dict[str, pa.Table], outputs: dict[str, pa.Table], params: Pipeline) -> Postprocessed:
    """`rows` by split (validation, test), `outputs` by split and "untrained", which is over the test rows.

    What is tuned is tuned on validation and applied to test. The untrained model is not tuned.
    """
    predictions, scores = tasks.load(params.task, "predictions"), tasks.load(params.task, "scores")
    section, language = params.postprocessing, params.language
    tuned = predictions.tune(rows["validation"], outputs["validation"], section, language)
    kinds = {"test": tuned, "validation": tuned, "untrained": predictions.untuned(tuned, section)}
    rows = {**rows, "untrained": rows["test"]}
    found = {kind: predictions.predict(rows[kind], outputs[kind], section, kinds[kind]) for kind in kinds}
    metrics = {kind: scores.scores(rows[kind], found[kind], section, language) for kind in kinds}
    return Postprocessed(found["test"], tuned, metrics, scores.each(rows["test"], found["test"], language))


def main(run: process.Run) -> None:
    splits, evaluated = run.open("splitting"), run.open("evaluation")
    rows = {name: tables.read(splits / f"{name}.parquet") for name in ("validation", "test")}
    outputs = {name: tables.read(evaluated / f"{name}.parquet") for name in ("validation", "test", "untrained")}
    done = postprocessing(rows, outputs, run.params)
    with layout.writing(run.layout.stage("postprocessing")) as folder:
        (folder / "predictions").mkdir()
        tasks.load(run.params.task, "predictions").write(done.predictions, folder / "predictions")
        tables.write(done.each, folder / "scores.parquet")
        for name, content in (("metrics", done.metrics), ("tuned", done.tuned)):
            text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
            (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    for line in summary(done.metrics):
        print(f"postprocessing: {line}", flush=True)


def summary(metrics: dict[str, Any]) -> list[str]:
    """Two lines: every headline score of the test split, and the untrained model's beside it."""
    test, untrained = metrics["test"], metrics["untrained"]
    heads = [name for name, score in test.items() if isinstance(score, dict) and "low" in score]
    scored = ", ".join(f"{name} {_points(test[name])}" for name in heads)
    before = ", ".join(f"{name} {_points(untrained[name])}" for name in heads)
    return [f"test, {test['count']:,} rows: {scored}", f"the untrained base model on the same rows: {before}"]


def _points(score: dict[str, float | None]) -> str:
    if score["value"] is None:
        return "undefined"
    interval = "" if score["low"] is None else f" ({score['low']:.1f} to {score['high']:.1f})"
    return f"{score['value']:.1f}{interval}"


if __name__ == "__main__":
    process.stage("postprocessing", main)
