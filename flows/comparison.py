"""`trainwright compare`: one pipeline from several base models, side by side.

Each base model is a DVC experiment, run in a workspace at the present commit (flows/workspace.py) with the present
params.yaml: nothing in the project changes, stages that do not depend on the base model come from the cache, and
`dvc exp show` and `dvc exp apply` know the experiments afterwards.

A base model is named as in params.yaml, or is `scratch`, where the pipeline describes a model from scratch. What a
pipeline needs of others (a teacher, `pipeline:NAME`) is trained there too, unless the cache has it.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from flows import dvc, git, pinning
from flows.dvc_process import Line
from flows.workspace import Workspace, bring_sources, workspace
from trainwright.core import layout, params
from trainwright.core.errors import Fault, InputError, TrainwrightError
from trainwright.core.layout import Layout
from trainwright.engine import base_model

LAST = ("training", "evaluation", "postprocessing", "report")
SCRATCH = "scratch"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """A base model and what became of it; None where a thing was not reached or not measured.

    `scores` are the headline scores on test; `training_seconds` is None where the training came from the cache.
    `failed` says in words why the pipeline did not end, "" where it did.
    """

    base_model: str
    experiment: str
    failed: str
    scores: dict[str, dict[str, Any]]
    training_seconds: float | None
    parameters: int | None
    model_bytes: int | None
    examples_per_second: float | None
    peak_bytes: int | None


def compare(root: Path, name: str, bases: list[str], say: Say, output: Callable[[Line], None]) -> list[Candidate]:
    """Run pipeline `name` from each of `bases`; one that fails does not stop the others.

    Raises InputError where the project is no Git repository with a commit, or a base model is wrong.
    """
    present, original = params.load(root / "params.yaml"), (root / "params.yaml").read_text(encoding="utf-8-sig")
    wanted = {base: _with_base(present, name, base) for base in bases}
    for base, everything in wanted.items():
        if not (everything.pipeline(name).scratch or everything.pipeline(name).base_pipeline):
            base_model.locate(base, root)
    found = []
    with workspace(root, name, git.head(root)) as space:
        _bring(space, name, list(wanted.values()))
        for base, everything in wanted.items():
            say(f"{name} from {base}")
            found.append(_candidate(Layout(space.root, name), base, original, everything, output))
    return found


def _with_base(present: params.Params, name: str, base: str) -> params.Params:
    """All parameters with `base` as the pipeline's base model. Raises InputError where it is none that they take."""
    pipeline = present.pipeline(name)
    if base == SCRATCH and not pipeline.scratch:
        remedy = "Describe one: `base_model: {scratch: …}`; recipes/sample-clm.yaml has an example."
        reason = f"{name} describes no model from scratch"
        raise InputError(Fault("--base", reason, remedy))
    after = base.removeprefix("pipeline:") if base.startswith("pipeline:") else pipeline.teacher_pipeline
    changed = {"base_model": pipeline.base_model if base == SCRATCH else base, "after": after or params.NOTHING}
    pipelines = {**present.model_dump()["pipelines"], name: {**pipeline.model_dump(), **changed}}
    try:
        return params.Params.model_validate({"pipelines": pipelines})
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise InputError(Fault("--base", f"{base!r} {reason}", "See `base_model` in params.yaml.")) from None


def _bring(space: Workspace, name: str, wanted: list[params.Params]) -> None:
    """Put the present params.yaml into the workspace, and what Git may not know of the pipelines: pins and sources."""
    shutil.copyfile(space.home / "params.yaml", space.root / "params.yaml")
    for everything in wanted:
        for needed in everything.chain(name):
            ours, theirs = Layout(space.home, needed), Layout(space.root, needed)
            for pin in ("source_pin", "base_model_pin"):
                if getattr(ours, pin).exists():
                    getattr(theirs, pin).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(getattr(ours, pin), getattr(theirs, pin))
            bring_sources(space, everything.pipeline(needed))


def _candidate(
    place: Layout, base: str, original: str, everything: params.Params, output: Callable[[Line], None]
) -> Candidate:
    for stage in LAST:  # what is there after the run is then of this base model
        shutil.rmtree(place.stage(stage), ignore_errors=True)
        shutil.rmtree(place.data / "gates" / stage, ignore_errors=True)
        place.timing(stage).unlink(missing_ok=True)
        place.failure(stage).unlink(missing_ok=True)
    needed = {name: Layout(place.root, name) for name in everything.chain(place.pipeline)}
    experiment = f"{place.pipeline}-{re.sub(r'[^a-z0-9]+', '-', base.lower()).strip('-')}"
    failed = ""
    try:
        _write_base(place, original, base, everything.pipeline(place.pipeline).after)
        for name, layout in needed.items():
            pinning.ensure(layout, everything.pipeline(name))
        dvc.experiment(place.root, experiment, f"report_gate@{place.pipeline}", output)
    except (TrainwrightError, dvc.StageError) as error:
        failed = next(filter(None, map(_failure, needed.values())), str(error))
    return _read(place, base, experiment, failed)


def _write_base(place: Layout, original: str, base: str, after: str) -> None:
    """The `original` params.yaml in the worktree, but for the pipeline's base model and what it waits for."""
    yaml = YAML()
    document = yaml.load(original)
    document["pipelines"][place.pipeline] |= {"after": after} | ({} if base == SCRATCH else {"base_model": base})
    yaml.dump(document, place.params)


def _failure(place: Layout) -> str:
    """The words of the stage that failed, which DVC does not hand on."""
    for stage in layout.STAGES:
        for name in (stage, f"{stage}_gate"):
            if place.failure(name).exists():
                return str(json.loads(place.failure(name).read_text(encoding="utf-8"))["message"])
    return ""


def _read(place: Layout, base: str, experiment: str, failed: str) -> Candidate:
    metrics = _json(place.stage("postprocessing") / "metrics.json").get("test", {})
    facts = _json(place.stage("training") / "facts.json")
    weights = list((place.stage("training") / "model").rglob("*.safetensors"))
    speed = _speed(place) if weights else {}
    return Candidate(
        base_model=base,
        experiment=experiment,
        failed=failed,
        scores={k: v for k, v in metrics.items() if isinstance(v, dict) and v.keys() >= {"value", "low", "high"}},
        training_seconds=_json(place.timing("training")).get("seconds"),
        parameters=facts.get("parameters"),
        model_bytes=sum(path.stat().st_size for path in weights) or None,
        examples_per_second=speed["examples"] / speed["seconds"] if speed else None,
        peak_bytes=speed.get("peak_bytes"),
    )


def _speed(place: Layout) -> dict[str, Any]:
    """What `trainwright.engine.speed` measures, in a process of its own; empty where it could not."""
    command = [sys.executable, "-m", "trainwright.engine.speed", place.pipeline]
    done = subprocess.run(command, cwd=place.root, capture_output=True, text=True, check=False)
    return dict(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 and done.stdout else {}


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def write(root: Path, name: str, candidates: list[Candidate]) -> Path:
    """The comparison as comparison.json and, in one table and one picture, as comparison.html. Returns the page."""
    from trainwright.report import comparison

    folder = root / ".trainwright" / "comparisons" / name
    records = [asdict(candidate) for candidate in candidates]
    layout.write_file(folder / "comparison.json", json.dumps(records, indent=2) + "\n")
    layout.write_file(folder / "comparison.html", comparison.render(name, records))
    return folder / "comparison.html"


def table(candidates: list[Candidate]) -> list[str]:
    """The lines of the table for a terminal: a column a base model, since there are more measures than models."""
    from trainwright.report import comparison

    columns = comparison.rows([asdict(candidate) for candidate in candidates])
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, *(f"{c.base_model}: {c.failed}" for c in candidates if c.failed)]
