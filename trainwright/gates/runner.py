"""Runs a gate: has its promises observed, has Great Expectations judge them, and certifies or refuses the bytes.

What Great Expectations gets is small: one row with a column a promise, and id columns. Where it would pass
for want of evidence (an empty table, an empty suite, a column of nulls) the gate refuses.
"""

import json
import math
import os
import shutil
from dataclasses import dataclass, field, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow.lib import ArrowException

from trainwright.core import certificate, tasks
from trainwright.core.copies import copy_folder, private_folder
from trainwright.core.errors import RefusedError, printable
from trainwright.core.layout import STAGES, Layout, digest, write_file
from trainwright.core.params import Pipeline
from trainwright.gates.promises import Checked, Promise
from trainwright.rows import tables

SHOWN = 5
Question = tuple[
    str, str, dict[str, float | None]
]  # a column, what its values are expected to, and within which bounds


@dataclass(frozen=True)
class Judged:
    """A promise and whether it held; `settings` are the values in params.yaml that decide, by their keys."""

    promise: Promise
    held: bool
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What a gate says of the bytes of digest `digest` under the suite of digest `suite`."""

    pipeline: str
    gate: str
    digest: str
    suite: str
    judged: list[Judged]

    @property
    def failed(self) -> list[Judged]:
        return [judged for judged in self.judged if not judged.held]

    @property
    def passed(self) -> bool:
        return bool(self.judged) and not self.failed

    def result(self, rows: bool = False) -> dict[str, Any]:
        """What was promised and seen; with `rows`, also every id that breaks a promise. Never a text."""
        promises = [_stated(judged) | ({"rows": judged.promise.rows} if rows else {}) for judged in self.judged]
        failed = [judged.promise.name for judged in self.failed]
        head = {"pipeline": self.pipeline, "gate": self.gate, "digest": self.digest, "suite": self.suite}
        return {**head, "passed": self.passed, "failed": failed, "promises": promises}


def run(layout: Layout, params: Pipeline, gate: str) -> Verdict:
    """Judge the output of stage `gate` and certify it.

    Raises RefusedError where a promise did not hold, and leaves a tombstone and a full report.
    """
    verdict = judge(layout, params, gate)
    report = layout.refusal(gate)
    if verdict.passed:
        certificate.certify(layout, gate, verdict.digest, verdict.result())
        shutil.rmtree(report, ignore_errors=True)
        return verdict
    certificate.refuse(layout, gate, verdict.result())
    rows = {row for judged in verdict.failed for row in judged.promise.rows}
    places = tables.places(layout.stage("ingestion") / "places.parquet", rows)
    full = verdict.result(rows=True) | {"places": places}
    write_file(report / "report.json", json.dumps(full, indent=2) + "\n")
    write_file(report / "report.html", _page(full))
    raise RefusedError(_words(verdict, places, report.relative_to(layout.root) / "report.json"))


def again(layout: Layout, params: Pipeline) -> list[Verdict]:
    """What every gate says of the bytes that are there now, which must be those that it certified. Writes nothing.

    Raises RefusedError at the first that did not pass, or that would not pass today.
    """
    verdicts = []
    for gate in STAGES:
        checked = certificate.check(layout, params, gate)
        verdict = judge(layout, params, gate)
        if verdict.digest != checked:
            raise RefusedError(f"The output of {gate} changes while its gate looks at it. Run the publication again.")
        if not verdict.passed:
            failed = ", ".join(judged.promise.name for judged in verdict.failed) or "it has no promises"
            raise RefusedError(f"The {gate} gate passed these data before, and would refuse them now ({failed}).")
        verdicts.append(verdict)
    return verdicts


def judge(layout: Layout, params: Pipeline, gate: str) -> Verdict:
    """Return what the gate says of its stage's folder, of which it judges a private copy. Certifies nothing.

    Raises RefusedError when the folder is missing.
    """
    folder = layout.stage(gate)
    if not folder.is_dir():
        raise RefusedError(f"The output of {gate} is missing. Run `dvc repro {gate}@{layout.pipeline}`.")
    suite = certificate.suite_digest(params, gate)
    with private_folder(layout.inputs) as aside:
        judged = aside / layout.pipeline / gate
        copy_folder(folder, judged)
        promises = _observe(layout, params, gate, judged, aside)
        held = [replace(each, settings=_settings(each.promise, params, gate)) for each in _judge(promises)]
        return Verdict(layout.pipeline, gate, digest(judged), suite, held)


def _settings(promise: Promise, params: Pipeline, gate: str) -> dict[str, Any]:
    """The settings that decide a promise, by their keys in the pipeline's section of params.yaml."""
    keys = [key if "." in key else f"gates.{gate}.{key}" for key in promise.keys]
    return {key: attrgetter(key)(params) for key in keys}


def _observe(layout: Layout, params: Pipeline, gate: str, folder: Path, aside: Path) -> list[Promise]:
    """The task's promises for this gate, with what was observed of each in `folder`; copies go to folder `aside`."""

    @cache
    def certified(stage: str) -> Path:
        return certificate.take(layout, params, stage, aside)

    checked = Checked(folder, certified, getattr(params, gate), params.postprocessing)
    promises: list[Promise] = []
    try:
        for promise in getattr(tasks.load(params.task, "promises"), gate)(checked, getattr(params.gates, gate)):
            promises.append(promise)
    except RefusedError as error:
        promises.append(Promise("inputs_certified", f"what it is compared with is certified: {error}", None, maximum=0))
    except (OSError, ValueError, KeyError) as error:  # to the gate, a table that cannot be read is bad data
        cause = _cause(error).replace(f"{aside}/", "data/")
        promises.append(Promise("readable", f"the files can be read, as agreed ({cause})", None, maximum=0))
    return promises


def _cause(error: Exception) -> str:
    """Why a file could not be read. Words of what reads files alone: others may carry a text."""
    about_files = isinstance(error, OSError | ArrowException) and str(error)
    return str(error).splitlines()[0][:200] if about_files else type(error).__name__


def _judge(promises: list[Promise]) -> list[Judged]:
    """Great Expectations' word on each promise; one of which it did not speak has not held."""
    names = [promise.name for promise in promises]
    if len(set(names)) != len(names):
        raise ValueError(f"two promises of one name: {names}")
    if not promises:
        return []
    batches = [_aggregates(promises), *(_ids(p.name, p.ids) for p in promises if p.ids is not None)]
    answers = [_ask(frame, questions) for frame, questions in batches]
    return [Judged(p, all(answer[p.name] for answer in answers if p.name in answer)) for p in promises]


def _aggregates(promises: list[Promise]) -> tuple[pd.DataFrame, list[Question]]:
    """One row with a column a promise: each must be there and lie in its range."""
    frame = pd.DataFrame({p.name: [p.value if _known(p.value) else None] for p in promises}, dtype="float64")
    questions: list[Question] = []
    for promise in promises:
        limits = {"min_value": promise.minimum, "max_value": promise.maximum}
        questions += [(promise.name, "NotBeNull", {}), (promise.name, "BeBetween", limits)]
    return frame, questions


def _ids(name: str, ids: Any) -> tuple[pd.DataFrame, list[Question]]:
    return ids.to_pandas().to_frame(name), [(name, "NotBeNull", {}), (name, "BeUnique", {})]


def _ask(frame: pd.DataFrame, questions: list[Question]) -> dict[str, bool]:
    """For each column of the frame, whether Great Expectations said yes to every question asked of it."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    expectations = [getattr(gxe, f"ExpectColumnValuesTo{kind}")(column=name, **more) for name, kind, more in questions]
    batch = context.data_sources.pandas_default.read_dataframe(frame)
    answers = batch.validate(gx.ExpectationSuite(name="gate", expectations=expectations), result_format="BOOLEAN_ONLY")
    yes = [answer.expectation_config.kwargs["column"] for answer in answers.results if answer.success is True]
    asked = [name for name, _, _ in questions]
    return {name: not frame.empty and 0 < asked.count(name) == yes.count(name) for name in frame.columns}


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _stated(judged: Judged) -> dict[str, Any]:
    promise = judged.promise
    return {
        "name": promise.name,
        "says": promise.says,
        "observed": promise.value if _known(promise.value) else None,
        "minimum": promise.minimum,
        "maximum": promise.maximum,
        "success": judged.held,
        "settings": judged.settings,
    }


def bounds(promise: dict[str, Any]) -> str:
    """A promise's range in words."""
    low, high = promise["minimum"], promise["maximum"]
    if high is None:
        return f"at least {low:g}"
    if low is None:
        return "none" if high == 0 else f"at most {high:g}"
    return f"from {low:g} to {high:g}"


def settings(promise: dict[str, Any]) -> str:
    """The settings that decide a promise, as they stand in params.yaml or by default."""
    return ", ".join(f"{key}: {json.dumps(value)}" for key, value in promise["settings"].items())


def observed(promise: dict[str, Any]) -> str:
    value = promise["observed"]
    return (
        "nothing that could be computed" if value is None else f"{value:,}" if value == int(value) else f"{value:.4g}"
    )


def _words(verdict: Verdict, places: dict[str, str], report: Path) -> str:
    """The gate's own words: which promises, what was promised, what was seen, the first ids, where all are."""
    lines = [f"The {verdict.gate} gate of {verdict.pipeline} refused these data."]
    if not verdict.judged:
        lines.append("  It has no promises, so nothing vouches for them.")
    for judged in verdict.failed:
        promise, stated = judged.promise, _stated(judged)
        lines.append(f"  {promise.name}: {promise.says}. Promised: {bounds(stated)}; seen: {observed(stated)}.")
        if judged.settings:
            lines.append(f"    Set in params.yaml: {settings(stated)}")
        if promise.rows:
            first = ", ".join(
                _plain(f"{row} ({places[row]})" if row in places else row) for row in promise.rows[:SHOWN]
            )
            more = len(promise.rows) - SHOWN
            lines.append(f"    {first}{f', and {more:,} more' if more > 0 else ''}")
    lines.append(f"  All that breaks them is listed in {report} and, as a page, in {report.with_suffix('.html')}.")
    return "\n".join(map(printable, lines))


def _plain(name: str) -> str:
    """The first characters of a name from the data: ids may be long."""
    return printable(name)[:100]


def _page(result: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader

    pages = Environment(
        loader=PackageLoader("trainwright.gates", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    pages.filters |= {"bounds": bounds, "observed": observed, "settings": settings}
    return pages.get_template("refusal.html").render(result)
