"""Raw outputs become predictions, and predictions scores.

    python -m stages.postprocessing sample-qa

Writes predictions/ (the test split's in the task's official form: predictions.json, …), headline.json (the scores of
the test split alone, for `dvc metrics`), metrics.json (test, validation, the untrained base model and the constant
baseline on test, with intervals, groups and slices), tuned.json (what was set on validation) and scores.parquet (each
test row's prediction and scores).
"""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from trainwright.core import layout, process, tasks
from trainwright.core.params import Pipeline
from trainwright.rows import tables
from trainwright.scoring import intervals, wording


@dataclass(frozen=True)
class Postprocessed:
    """The predictions of the test split, what was tuned on validation, all scores, those of each test row."""

    predictions: pa.Table
    tuned: dict[str, Any]
    metrics: dict[str, Any]
    each: pa.Table


def postprocessing(rows: dict[str, pa.Table], outputs: dict[str, pa.Table], params: Pipeline) -> Postprocessed:
    """`rows` by split, `outputs` by split (validation, test) and "untrained", which is over the test rows.

    What is tuned is tuned on validation and applied to test. The untrained model is not tuned.
    """
    predictions, scores = tasks.load(params.task, "predictions"), tasks.load(params.task, "scores")
    section, language = params.postprocessing, params.language
    tuned = predictions.tune(rows["validation"], outputs["validation"], section, language)
    kinds = {"test": tuned, "validation": tuned, "untrained": predictions.untuned(tuned, section)}
    rows = {**rows, "untrained": rows["test"]}
    found = {kind: predictions.predict(rows[kind], outputs[kind], section, kinds[kind]) for kind in kinds}
    metrics = {kind: scores.scores(rows[kind], found[kind], section, language) for kind in kinds}
    if constant := predictions.constant(rows["train"], found["test"]):
        headline = scores.headline(rows["test"], constant.predictions, section, language)
        drawn = intervals.measured(headline, scores.drawn(rows["test"]), section.bootstrap, section.seed)
        metrics[wording.CONSTANT] = {"count": rows["test"].num_rows, "answer": constant.answer, **drawn}
    return Postprocessed(found["test"], tuned, metrics, scores.each(rows["test"], found["test"], language))


def main(run: process.Run) -> None:
    splits, evaluated = run.open("splitting"), run.open("evaluation")
    rows = {name: tables.read(splits / f"{name}.parquet") for name in tables.SPLITS}
    outputs = {name: tables.read(evaluated / f"{name}.parquet") for name in ("validation", "test", "untrained")}
    done = postprocessing(rows, outputs, run.params)
    with layout.writing(run.layout.stage("postprocessing")) as folder:
        (folder / "predictions").mkdir()
        tasks.load(run.params.task, "predictions").write(done.predictions, folder / "predictions")
        tables.write(done.each, folder / "scores.parquet")
        test = done.metrics["test"]
        headline = {name: test[name]["value"] for name in wording.headline({"test": test})}
        for name, content in (("headline", headline), ("metrics", done.metrics), ("tuned", done.tuned)):
            text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
            (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    for line in summary(done.metrics):
        process.say(f"postprocessing: {line}")


def summary(metrics: dict[str, Any]) -> list[str]:
    """A line for the test split with every headline score, and one for each baseline on the same rows."""
    names = wording.headline({"test": metrics["test"]})
    subjects = {"test": f"test, {metrics['test']['count']:,} rows", "untrained": "the untrained base model"}
    subjects |= {part: words for part, words in wording.parts(metrics).items() if part == wording.CONSTANT}
    return [
        f"{subject}{'' if part == 'test' else ' on the same rows'}: "
        + ", ".join(
            f"{wording.label(name)} {wording.said(wording.cell(metrics[part], name), _unit(metrics, name))}"
            for name in names
        )
        for part, subject in subjects.items()
    ]


def _unit(metrics: dict[str, Any], name: str) -> str:
    return wording.kind(metrics, name)["unit"]


if __name__ == "__main__":
    process.stage("postprocessing", main)
