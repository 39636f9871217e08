"""`trainwright compare`: one pipeline from several base models, side by side.

Each base model is a DVC experiment, run in a Git worktree of the present commit under .trainwright/, with the
project's own cache: nothing in the project changes, stages that do not depend on the base model come from the cache,
and `dvc exp show` and `dvc exp apply` know the experiments afterwards. A worktree that a killed comparison left is
removed by the next.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows import dvc, pinning
from trainwright.core import layout, params
from trainwright.core.errors import Fault, InputError, MachineryError, TrainwrightError
from trainwright.core.layout import Layout
from trainwright.engine import base_model

LAST = ("training", "evaluation", "postprocessing", "report")
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


def compare(root: Path, name: str, bases: list[str], say: Say, output: Callable[[dvc.Line], None]) -> list[Candidate]:
    """Run pipeline `name` from each of `bases`; one that fails does not stop the others.

    Raises InputError where the project is no Git repository with a commit, or a base model is wrong.
    """
    pipeline = params.load(root / "params.yaml").pipeline(name)
    for base in bases:
        _check(pipeline, base)
        base_model.locate(base, root)
    found = []
    with _workspace(root, name, pipeline, bases) as workspace:
        for base in bases:
            say(f"{name} from {base}")
            found.append(_candidate(Layout(workspace, name), base, output))
    return found


def _check(pipeline: params.Pipeline, base: str) -> None:
    """Raises InputError where `base` is not a base model as params.yaml would take it."""
    try:
        params.Pipeline.model_validate({**pipeline.model_dump(), "base_model": base})
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise InputError(Fault("--base", f"{base!r} {reason}", "See `base_model` in params.yaml.")) from None


@contextmanager
def _workspace(root: Path, name: str, pipeline: params.Pipeline, bases: list[str]) -> Iterator[Path]:
    """A worktree at the present commit, with the present params.yaml, pins, and sources that Git does not know."""
    path = root / ".trainwright" / "comparisons" / name / "workspace"
    _remove(root, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _git(root, "worktree", "add", "--detach", str(path), "HEAD")
    try:
        cache = dvc.Project(root).cache()
        layout.write_file(path / ".dvc" / "config.local", f"[cache]\n    dir = {cache}\n")
        shutil.copyfile(root / "params.yaml", path / "params.yaml")
        theirs, ours = Layout(path, name), Layout(root, name)
        for pin in ("source_pin", "base_model_pin"):
            if getattr(ours, pin).exists():
                getattr(theirs, pin).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(getattr(ours, pin), getattr(theirs, pin))
        for uri in (pipeline.source.uri, *(base.removeprefix("folder:") for base in bases)):
            place = Path(uri)  # one that Git does not know is not in the worktree
            if not place.is_absolute() and (root / place).exists() and not (path / place).exists():
                (path / place).parent.mkdir(parents=True, exist_ok=True)
                (path / place).symlink_to(root / place)
        yield path
    finally:
        _remove(root, path)


def _remove(root: Path, path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    _git(root, "worktree", "prune")


def _git(root: Path, *arguments: str) -> None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise MachineryError("There is no `git` here, which comparing base models needs.") from None
    if done.returncode:
        remedy = "A comparison needs the project to be a Git repository with at least one commit."
        raise InputError(Fault(str(root), f"git {arguments[0]}: {done.stderr.strip().splitlines()[-1]}", remedy))


def _candidate(place: Layout, base: str, output: Callable[[dvc.Line], None]) -> Candidate:
    for stage in LAST:  # what is there after the run is then of this base model
        shutil.rmtree(place.stage(stage), ignore_errors=True)
        shutil.rmtree(place.data / "gates" / stage, ignore_errors=True)
        place.timing(stage).unlink(missing_ok=True)
        place.failure(stage).unlink(missing_ok=True)
    pipeline = params.load(place.params).pipeline(place.pipeline).model_copy(update={"base_model": base})
    experiment = f"{place.pipeline}-{re.sub(r'[^a-z0-9]+', '-', base.lower()).strip('-')}"
    failed = ""
    try:
        pinning.ensure(place, pipeline)
        changes = {f"pipelines.{place.pipeline}.base_model": base}
        dvc.experiment(place.root, experiment, changes, f"report_gate@{place.pipeline}", output)
    except (TrainwrightError, dvc.StageError) as error:
        failed = _failure(place) or str(error)
    return _read(place, base, experiment, failed)


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
    """The lines of the table for a terminal."""
    from trainwright.report import comparison

    rows = comparison.rows([asdict(candidate) for candidate in candidates])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, *(f"{c.base_model}: {c.failed}" for c in candidates if c.failed)]
