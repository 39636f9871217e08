"""What the report speaks of, read from what the stages before it wrote and had certified."""

import csv
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core.errors import InputError
from trainwright.core.layout import STAGES, Layout
from trainwright.core.process import Run
from trainwright.engine import base_model
from trainwright.report import examples
from trainwright.report.examples import Mistake, Torn
from trainwright.rows import tables
from trainwright.scoring import wording

EARLIER = STAGES[:-1]
PACKAGES = (
    "trainwright",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "datasets",
    "pandas",
    "pyarrow",
    "numpy",
    "great-expectations",
    "dvc",
    "prefect",
    "altair",
    "vl-convert-python",
)


@dataclass(frozen=True)
class Part:
    """Some of the rows at a step; `kind` is kept, lost, made or the name of a split."""

    name: str
    count: int
    kind: str


@dataclass(frozen=True)
class Step:
    """What a stage made of the rows (of tokenization: windows)."""

    stage: str
    unit: str
    parts: list[Part]

    @property
    def total(self) -> int:
        """How many go on to the next stage."""
        return sum(part.count for part in self.parts if part.kind != "lost")


@dataclass(frozen=True)
class Floor:
    """What the last gate wants of a score on test, in the score's unit: at least `limit`, or where it is a ceiling
    at most; `observed` is None where it was not computed."""

    metric: str
    limit: float
    observed: float | None
    ceiling: bool = False
    unit: str = wording.POINTS

    @property
    def reached(self) -> bool:
        if self.observed is None:
            return False
        return self.observed <= self.limit if self.ceiling else self.observed >= self.limit

    @property
    def promised(self) -> str:
        return f"{'at most' if self.ceiling else 'at least'} {self.limit:g}"

    @property
    def seen(self) -> str:
        return wording.number(self.observed, self.unit, self.observed)


@dataclass(frozen=True)
class Timing:
    """Seconds of a stage and of its gate; None where it was not timed."""

    stage: str
    work: float | None
    gate: float | None
    machine: str | None


@dataclass(frozen=True)
class Facts:
    """Everything that page and card say. Dictionaries are as their stage wrote them."""

    pipeline: str
    params: dict[str, Any]
    commit: str | None  # of the Git repository; None outside of one
    edited: bool  # whether tracked files differ from the commit
    source: dict[str, Any]
    base: dict[str, Any]
    base_datasets: list[str] | None  # that the base model's own card lists; None where it is not at hand or lists none
    steps: list[Step]
    misaligned: int
    gates: list[dict[str, Any]]
    floors: list[Floor]
    training: dict[str, Any]
    architecture: str
    curves: dict[str, list[tuple[int, float]]]  # (step, value) of each metric that training logged
    losses: dict[str, float]
    metrics: dict[str, Any]
    learned: dict[str, Any]
    tuned: dict[str, Any]
    mistakes: list[Mistake]
    wrong: int | None  # test rows that are not exactly right; None where rows have no scores of their own
    spans_answer: bool  # whether rows are answered by spans of their texts, of which any will do
    torn: list[Torn]
    timings: list[Timing]
    started: float | None
    rendered: float
    versions: dict[str, str | None]
    machine: dict[str, Any]


def gather(run: Run) -> Facts:
    """The facts of one pipeline's run. Raises RefusedError where a stage before the report is not certified."""
    folders = {stage: run.open(stage) for stage in EARLIER}
    layout, params = run.layout, run.params.model_dump(mode="json")
    source = _json(layout.source_pin)
    commit, edited = _commit(layout.root)
    metrics = _json(folders["postprocessing"] / "metrics.json")
    config = _json(folders["training"] / "model" / "config.json")
    base = {"revision": None, "licence": None, "files": {}, **_json(layout.base_model_pin)}
    mistakes, wrong, torn = examples.choose(folders, run.params)
    timings, started = _timings(layout)
    return Facts(
        pipeline=layout.pipeline,
        params=params,
        commit=commit,
        edited=edited,
        source=source,
        base=base,
        base_datasets=_datasets(str(base["uri"]), layout.root),
        steps=list(_steps(folders, int(source["rows"]))),
        misaligned=tables.count(folders["tokenization"] / "misaligned.parquet"),
        gates=[_json(layout.gate_result(stage)) for stage in EARLIER],
        floors=list(_floors(run.params.gates.report.model_dump(exclude_defaults=True), metrics)),
        training=_json(folders["training"] / "facts.json"),
        architecture=str((config.get("architectures") or [""])[0]),
        curves=dict(_curves(folders["training"] / "live" / "plots" / "metrics")),
        losses=_json(folders["evaluation"] / "losses.json"),
        metrics=metrics,
        learned=_json(folders["tokenization"] / "learned.json"),
        tuned=_json(folders["postprocessing"] / "tuned.json"),
        mistakes=mistakes,
        wrong=wrong,
        spans_answer=examples.spans_answer(folders, run.params),
        torn=torn,
        timings=timings,
        started=started,
        rendered=time.time(),
        versions={name: _version(name) for name in PACKAGES},
        machine={"system": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version()},
    )


def _commit(root: Path) -> tuple[str | None, bool]:
    """The commit that is checked out in `root`, and whether tracked files other than DVC's lock differ from it."""

    def git(*arguments: str) -> str | None:
        ran = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        return ran.stdout if ran.returncode == 0 else None

    try:
        commit = git("rev-parse", "--verify", "HEAD")
        status = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock")
    except FileNotFoundError:  # no Git on this machine
        return None, False
    return (commit.strip(), bool(status)) if commit else (None, False)


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


def _steps(folders: dict[str, Path], in_source: int) -> Iterator[Step]:
    """The counts through the stages, from the tables themselves; `in_source` rows were there to be read."""
    rows = {stage: folders[stage] / "rows.parquet" for stage in ("ingestion", "cleaning", "augmentation")}
    read, broken = tables.count(rows["ingestion"]), _lines(folders["ingestion"] / "quarantine.jsonl")
    lost = [Part("in quarantine", broken, "lost")]
    if unread := max(in_source - read - broken, 0):
        lost.append(Part("left out by the limit", unread, "lost"))
    yield Step("ingestion", "rows", [Part("taken" if unread else "read", read, "kept"), *lost])
    dropped = pc.value_counts(tables.read(folders["cleaning"] / "dropped.parquet")["reason"])
    lost = [Part(pair["values"].as_py(), pair["counts"].as_py(), "lost") for pair in dropped]
    lost.sort(key=lambda part: -part.count)
    yield Step("cleaning", "rows", [Part("kept", tables.count(rows["cleaning"]), "kept"), *lost])
    parents = tables.read(rows["augmentation"], ["parent"])["parent"]
    originals = [Part("originals", parents.null_count, "kept")]
    yield Step("augmentation", "rows", [*originals, Part("children", len(parents) - parents.null_count, "made")])
    splits = [tables.count(folders["splitting"] / f"{split}.parquet") for split in tables.SPLITS]
    left = [Part("children left out", len(parents) - sum(splits), "lost")]
    named = [Part(split, count, split) for split, count in zip(tables.SPLITS, splits, strict=True)]
    yield Step("splitting", "rows", [*named, *left])
    windows = [Part(split, _features(folders["tokenization"] / f"{split}.arrow"), split) for split in tables.SPLITS]
    bad = [Part("rows in quarantine", _lines(folders["tokenization"] / "quarantine.jsonl"), "lost")]
    yield Step("tokenization", "windows", [*windows, *bad])


def _lines(path: Path) -> int:
    return sum(1 for line in path.read_text(encoding="utf-8").splitlines() if line)


def _features(path: Path) -> int:
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        return sum(batch.num_rows for batch in stream)


def _floors(limits: dict[str, Any], metrics: dict[str, Any]) -> Iterator[Floor]:
    """The limits that the last gate sets on scores of test: `min_f1` is a floor under `f1`, `max_loss` a ceiling over
    `loss`. One that is None sets none."""
    for name, limit in limits.items():
        bound, _, metric = name.partition("_")
        if bound in ("min", "max") and limit is not None:
            observed = wording.cell(metrics.get("test"), metric)["value"]
            yield Floor(metric, limit, observed, bound == "max", wording.kind(metrics, metric)["unit"])


def _curves(folder: Path) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """Each logged metric's name ("train/loss") and points, from dvclive's tables."""
    for path in sorted(folder.rglob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            points = [(int(row["step"]), float(row[path.stem])) for row in csv.DictReader(file, delimiter="\t")]
        yield path.relative_to(folder).with_suffix("").as_posix(), points


def _timings(layout: Layout) -> tuple[list[Timing], float | None]:
    """Seconds of each stage before the report, and when the earliest that was timed started."""
    timings, started = [], []
    for stage in EARLIER:
        work, gate = (_timing(layout.timing(name)) for name in (stage, f"{stage}_gate"))
        timings.append(Timing(stage, work.get("seconds"), gate.get("seconds"), work.get("machine")))
        started += [work["started"]] if "started" in work else []
    return timings, min(started, default=None)


def _timing(path: Path) -> dict[str, Any]:
    """What was noted of a stage's time; nothing where the stage ran elsewhere or came from a cache."""
    try:
        return _json(path)
    except (FileNotFoundError, ValueError):
        return {}


def _datasets(uri: str, root: Path) -> list[str] | None:
    """The data sets that a base model's own card lists in its metadata. Nothing is fetched for it."""
    card = _card(uri, root)
    listed = base_model.card_data(card).get("datasets") if card else None
    listed = listed if isinstance(listed, list) else [listed]
    return [name for name in listed if isinstance(name, str)] or None


def _card(uri: str, root: Path) -> Path | None:
    """Where a base model's own card lies; of a Hub model the one that was fetched with it."""
    kind, _, name = uri.partition(":")
    if kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        repository, _, revision = name.partition("@")
        found = try_to_load_from_cache(repository, base_model.CARD, revision=revision or None)
        return Path(found) if isinstance(found, str) else None
    if kind == "pipeline":
        return Layout(root, name).stage("report") / "model" / base_model.CARD
    if kind == "scratch":
        return None
    try:
        return base_model.locate(uri, root) / base_model.CARD
    except InputError:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
