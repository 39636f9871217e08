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

from trainwright.core import layout, process, tasks
from trainwright.core.params import Pipeline
from trainwright.rows import tables
from trainwright.scoring import wording


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
    names = wording.headline({"test": metrics["test"]})
    scored, before = (
        ", ".join(
            f"{wording.label(name)} {wording.said(wording.cell(metrics[part], name), _unit(metrics, name))}"
            for name in names
        )
        for part in ("test", "untrained")
    )
    return [
        f"test, {metrics['test']['count']:,} rows: {scored}",
        f"the untrained base model on the same rows: {before}",
    ]


def _unit(metrics: dict[str, Any], name: str) -> str:
    return wording.kind(metrics, name)["unit"]


if __name__ == "__main__":
    process.stage("postprocessing", main)
