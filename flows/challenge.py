"""The comparison of what a workspace has made with what is published: their rows and outputs, restored, judged."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows import dvc, git, registry
from flows.registry import Version
from flows.workspace import Workspace, workspace
from trainwright import champion
from trainwright.champion import Side, TestSet, Verdict
from trainwright.core import layout, params, tasks
from trainwright.core.errors import Fault, InputError, MachineryError
from trainwright.core.layout import Layout
from trainwright.core.params import Pipeline
from trainwright.operations import Publication
from trainwright.rows import tables

COMPARED = ("splitting", "evaluation", "postprocessing")  # what of a version a comparison reads


def compare(space: Workspace, name: str, pipeline: Pipeline, settings: Publication) -> Verdict:
    """Whether what the workspace's pipeline has made may be published: against the version in use and the best so far.

    Their rows and outputs are restored from cache or remote; no model runs. Raises MachineryError where they cannot be.
    """
    here = Layout(space.root, name)
    challenger = side(here, "the challenger", pipeline)
    metrics = json.loads((here.stage("postprocessing") / "metrics.json").read_text(encoding="utf-8"))
    registry.require_sound_use(space.home, name)
    known = registry.seen(space.home, name)
    now = champion_of(space.home, name)
    if now is None:
        return replace(champion.judge(settings, challenger, [], None, [], metrics), known=known)
    test_set = frozen(space.home, now)
    line = _line(space.home, name, test_set)
    score = settings.score or next(iter(registry.measured(registry.record(space.home, now))[1]), "")
    best = _best(space.home, line, score, metrics) or now
    with ExitStack() as stack:
        rivals = [_restored(stack, space.home, version) for version in dict.fromkeys((now, best))]
        versions = [version.version for version in line]
        learnt = _learnt(here, pipeline)
        verdict = champion.judge(settings, challenger, rivals, test_set, learnt, metrics, versions)
    return replace(verdict, known=known)


def champion_of(home: Path, name: str) -> Version | None:
    """The version in use, as this clone knows it; None if there has never been one.

    Raises InputError if there are versions, or tags that put some in use, and none is in use: its tag is gone or wrong.
    """
    now = registry.in_use(home, name)
    if now is None and (known := registry.seen(home, name)):
        versions = registry.versions(home, name)
        newest = versions[-1] if versions else f"{name}@VERSION"
        remedy = f"Put one in use: trainwright models promote {newest}. `git tag --list` shows what is there."
        raise InputError(Fault(name, f"no version is in use, though there are tags of some ({known[-1]})", remedy))
    return now


def side(here: Layout, name: str, pipeline: Pipeline) -> Side:
    tuned = json.loads((here.stage("postprocessing") / "tuned.json").read_text(encoding="utf-8"))
    rows, outputs = (tables.read(here.stage(stage) / "test.parquet") for stage in ("splitting", "evaluation"))
    return Side(name, rows, outputs, tuned, pipeline)


def _restored(stack: ExitStack, home: Path, version: Version) -> Side:
    """A published version's side of a comparison, its bytes those that were certified when it was published."""
    space = stack.enter_context(workspace(home, version.name, version.commit))
    here = Layout(space.root, version.name)
    pipeline = params.load(here.params).pipeline(version.name)
    project = dvc.Project(space.root)
    project.restore([f"{stage}@{version.name}" for stage in COMPARED])
    certified = _certified(home, version)
    for stage in COMPARED:
        if layout.digest(here.stage(stage)) != certified[stage]:
            with suppress(MachineryError):  # what is damaged in the cache comes from the remote again
                project.verify(f"{stage}@{version.name}")
            project.restore([f"{stage}@{version.name}"])
        if layout.digest(here.stage(stage)) != certified[stage]:
            raise MachineryError(f"The {stage} of {version} is not what was published: its objects are damaged.")
    return side(here, version.version, pipeline)


def _certified(home: Path, version: Version) -> dict[str, Any]:
    """The SHA-256 of each compared stage's output, by the version's record."""
    try:
        told = registry.record(home, version)["went_through"]
        return {stage: told[stage]["sha256"] for stage in COMPARED}
    except (KeyError, TypeError):
        raise MachineryError(f"The record of {version} does not say which outputs it was published with.") from None


def _learnt(here: Layout, pipeline: Pipeline) -> Iterator[Any]:
    columns = ["id", "parent", *tasks.load(pipeline.task, "rows").IDENTITY]
    for split in ("train", "validation"):
        yield from tables.batches(here.stage("splitting") / f"{split}.parquet", columns)


def frozen(home: Path, version: Version) -> TestSet:
    content = git.read(home, version.commit, f"data/{version.name}/published/test_set.json")
    if content is None:
        raise MachineryError(f"{version} has no frozen test set")
    try:
        return TestSet.from_json(content)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MachineryError(f"The frozen test set of {version} cannot be read.") from None


def _line(home: Path, name: str, frozen: TestSet) -> list[Version]:
    """The versions that were measured on this line, without those that a rollback has taken out or that have no data
    any more."""
    standing = {use.commit for use in registry.standing(home, name)}
    versions = [version for version in registry.versions(home, name) if not version.removed]
    found = [version for version in versions if version.commit in standing]
    return [v for v in found if registry.measured(registry.record(home, v))[0] == frozen.line]


def _best(home: Path, line: Sequence[Version], score: str, metrics: Mapping[str, Any]) -> Version | None:
    from trainwright.scoring import wording

    sign = -1 if wording.kind(metrics, score)["better"] == "lower" else 1
    values = [(registry.measured(registry.record(home, version))[1].get(score), version) for version in line]
    measured = [(sign * value, version) for value, version in values if value is not None]
    return max(measured, key=lambda pair: pair[0])[1] if measured else None
