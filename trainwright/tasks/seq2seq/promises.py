"""What the gates of a text-to-text pipeline must hold: one function a gate, named as the stage before it.

Each looks at what its stage wrote, and compares it with what stages before it wrote and had certified.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.core.params import AugmentationGate, CleaningGate, EvaluationGate, SplittingGate, TrainingGate
from trainwright.gates import models
from trainwright.gates import rows as shared
from trainwright.gates.promises import (
    Checked,
    Mask,
    Promise,
    blank,
    breaking,
    finite,
    longer_than,
    named,
    none_of,
    nulls_in,
    number,
    read_json,
    read_json_lines,
    share,
    to_mask,
)
from trainwright.rows import corruption, tables
from trainwright.tasks.seq2seq import params, rows

if TYPE_CHECKING:
    from trainwright.tasks.interface import Rows

Ints = NDArray[np.int64]
ROWS = cast("Rows", rows)
SCORES = ("exact", "f1", "rouge_l", "chrf")


def _sentinels(batch: pa.Table) -> Mask:
    """Rows of a plain text that holds what stands for a dropped span."""
    held = pc.match_substring_regex(batch["source"], corruption.SENTINEL.pattern)
    return to_mask(pc.and_(held, batch["target"].is_null()))


CHECKS = {
    "no_nulls": (nulls_in("id", "group", "source"), "there is no null in id, group, source"),
    "no_empty_texts": (blank("source", "target"), "no source and no target is empty"),
    "no_sentinels": (_sentinels, "no plain text holds a sentinel (<extra_id_0>) of its own"),
}


def ingestion(checked: Checked, limits: params.IngestionGate) -> Iterator[Promise]:
    path = checked.folder / "rows.parquet"
    if not (yield from shared.table(path, ROWS, CHECKS)):
        return
    yield from shared.ingested(checked, limits)
    most = {"source": limits.max_source_characters, "target": limits.max_target_characters}
    found = breaking(path, {column: longer_than(limit, column) for column, limit in most.items()})
    for column, limit in most.items():
        yield none_of(
            f"{column}_length",
            f"no {column} has more than {limit:,} characters",
            found[column],
            f"max_{column}_characters",
        )
    table = tables.read(path, ["id", "target"])
    without = to_mask(table["target"].is_null())
    fewer = without if without.sum() * 2 <= len(without) else ~without
    yield none_of("one_kind", "either all rows have a target, or none has", named(table["id"], fewer))


def cleaning(checked: Checked, limits: CleaningGate) -> Iterator[Promise]:
    if (yield from shared.table(checked.folder / "rows.parquet", ROWS, CHECKS)):
        yield from shared.cleaned(checked, limits, ROWS)


def augmentation(checked: Checked, limits: AugmentationGate) -> Iterator[Promise]:
    if (yield from shared.table(checked.folder / "rows.parquet", ROWS, CHECKS)):
        yield from shared.augmented(checked, limits, ROWS)


def splitting(checked: Checked, limits: SplittingGate) -> Iterator[Promise]:
    yield from shared.split_up(checked, limits, ROWS)


def tokenization(checked: Checked, limits: params.TokenizationGate) -> Iterator[Promise]:
    splits, folder = checked.open("splitting"), checked.folder
    quarantined = pa.array([fault["id"] for fault in read_json_lines(folder / "quarantine.jsonl")], pa.string())
    seen = [_look(folder / f"{s}.arrow", splits / f"{s}.parquet", checked.params) for s in tables.SPLITS]

    def ids(kind: str) -> list[str]:
        return [row for part in seen for row in named(part.ids, part.rows[kind])]

    bare = [
        row
        for part in seen
        for row in named(part.ids, ~part.rows["there"] & ~to_mask(pc.is_in(part.ids, value_set=quarantined)))
    ]
    yield none_of("features_for_all", "every row has features, but for those in quarantine", bare)
    yield none_of("features_of_rows", "every feature is of a row", [name for part in seen for name in part.strays])
    says = f"no source has more than {checked.params.max_source_length} tokens, once spans are dropped"
    yield none_of("source_lengths", says, ids("long_source"))
    says = f"no target has more than {checked.params.max_target_length} tokens"
    yield none_of("target_lengths", says, ids("long_target"))
    yield none_of("targets_there", "every feature has a target, or spans to be dropped", ids("no_target"))
    says = (
        f"of each text {checked.params.noise_density:.0%} are dropped, in spans of {checked.params.mean_span:g} tokens"
    )
    yield none_of("noise_as_asked", says, ids("noise_differs"))
    known = ids("no_baseline")
    yield none_of("baselines_known", "the loss of the train split's frequencies is a number for every target", known)
    cut, total = ids("cut"), sum(len(part.ids) for part in seen)
    says = "the share of rows that the limits cut is small enough"
    yield Promise(
        "truncated_share",
        says,
        share(len(cut), total),
        maximum=limits.max_truncated_share,
        rows=cut,
        keys=("max_truncated_share",),
    )
    tokens, unknown = (sum(part.counts[name] for part in seen) for name in ("tokens", "unknown"))
    says = "the share of target tokens that the tokenizer does not know is small enough"
    strange = ids("unknown")
    yield Promise(
        "unknown_share",
        says,
        share(unknown, tokens),
        maximum=limits.max_unknown_share,
        rows=strange if unknown else [],
        keys=("max_unknown_share",),
    )
    listed = set(tables.read(folder / "misaligned.parquet")["id"].to_pylist())
    says = "misaligned.parquet lists the rows with a target that the tokenizer does not know whole, and no others"
    yield none_of("misaligned_listed", says, sorted(listed ^ set(strange)))


@dataclass(frozen=True)
class _Features:
    """What the features of one split show: by what may be wrong the rows of which it is so, counts, and `strays`."""

    ids: pa.ChunkedArray
    rows: dict[str, Mask]
    counts: dict[str, int]
    strays: list[str]


def _look(features: Path, split: Path, section: params.Tokenization) -> _Features:
    """Read the features of a split batch by batch."""
    ids = tables.read(split, ["id"])["id"]
    found: dict[str, Mask] = {}
    counts = {"tokens": 0, "unknown": 0}
    strays: list[str] = []
    with pa.memory_map(str(features)) as file, pa.ipc.open_stream(file) as stream:
        for batch in chain([stream.schema.empty_table()], (pa.Table.from_batches([batch]) for batch in stream)):
            row = batch["row"].to_numpy().astype(np.int64)
            known = (row >= 0) & (row < len(ids))
            strays += [f"{features.name}: row {place}" for place in np.unique(row[~known])]
            own = batch.filter(pa.array(known))
            for kind, mask in _kinds(own, section).items():
                found.setdefault(kind, np.zeros(len(ids), dtype=np.bool_))[row[known][mask]] = True
            counts["tokens"] += int(_labelled(own).sum())
            counts["unknown"] += int(own["unknown"].to_numpy().sum())
    return _Features(ids, found, counts, strays)


def _labelled(batch: pa.Table) -> Ints:
    """How many tokens of each feature may be a target: its labels, or its whole text."""
    sizes = [pc.list_value_length(batch[name]).to_numpy().astype(np.int64) for name in ("labels", "input_ids")]
    return np.asarray(np.where(batch["noise_spans"].to_numpy() > 0, sizes[1], sizes[0]), dtype=np.int64)


def _kinds(batch: pa.Table, section: params.Tokenization) -> dict[str, Mask]:
    """For each feature of a batch what is so of it."""
    source, target = (pc.list_value_length(batch[name]).to_numpy().astype(np.int64) for name in ("input_ids", "labels"))
    noise, spans = (batch[f"noise_{name}"].to_numpy().astype(np.int64) for name in ("tokens", "spans"))
    drops = spans > 0
    wanted = corruption.counts(np.maximum(source, 2), section.noise_density, section.mean_span)
    cut = (batch["source_cut"].to_numpy() > 0) | (batch["target_cut"].to_numpy() > 0)
    differs = drops & ((noise != wanted[0]) | (spans != wanted[1]))
    return {
        "there": np.ones(len(source), dtype=np.bool_),
        "long_source": source - noise + spans + drops > section.max_source_length,  # with the end of the sequence
        "long_target": np.where(drops, noise + spans + 2, target) > section.max_target_length,
        "no_target": ~drops & (target == 0),
        "noise_differs": differs | (drops & (target > 0)) | (~drops & (noise > 0)),
        "no_baseline": ~finite(batch["baseline"]) | (batch["baseline"].to_numpy() <= 0),
        "cut": cut,
        "unknown": batch["unknown"].to_numpy() > 0,
    }


def training(checked: Checked, limits: TrainingGate) -> Iterator[Promise]:
    yield from models.trained(checked, limits)


def evaluation(checked: Checked, limits: EvaluationGate) -> Iterator[Promise]:
    splits, features = checked.open("splitting"), checked.open("tokenization")
    for name in (*tables.SPLITS[1:], "untrained"):
        split = "test" if name == "untrained" else name
        ids = tables.read(splits / f"{split}.parquet", ["id"])["id"]
        with pa.memory_map(str(features / f"{split}.arrow")) as file, pa.ipc.open_stream(file) as stream:
            expected = np.concatenate([np.zeros(0, np.int32), *(batch.column("row").to_numpy() for batch in stream)])
        outputs = tables.read(checked.folder / f"{name}.parquet")
        row = outputs["row"].to_numpy()
        inside = (row >= 0) & (row < len(ids))
        uneven = np.bincount(expected, minlength=len(ids)) != np.bincount(row[inside], minlength=len(ids))
        strays = [f"row {place}" for place in np.unique(row[~inside])]
        says = f"{name} has one output for every feature"
        yield none_of(f"{name}_outputs", says, named(ids, uneven) + strays)
        yield Promise(f"{name}_output_count", f"{name} has outputs", len(row), minimum=1)
        outputs, row = outputs.filter(pa.array(inside)), row[inside]
        for kind, (says, wrong) in _unsound(outputs).items():
            yield none_of(f"{name}_{kind}", says.format(name), named(ids.take(pa.array(row)), wrong))
    losses = read_json(checked.folder / "losses.json")
    for split in tables.SPLITS[1:]:
        loss = number(losses, split)
        yield Promise(
            f"{split}_loss",
            f"the loss on {split} is a number, and not too high",
            loss,
            0,
            limits.max_loss,
            keys=("max_loss",),
        )


def _unsound(outputs: pa.Table) -> dict[str, tuple[str, Mask]]:
    """What is wrong with outputs, and with which."""
    sums = [outputs[name].to_numpy() for name in ("loss", "baseline")]
    finite_sums = np.logical_and.reduce([finite(outputs[name]) for name in ("loss", "baseline")])
    negative = (sums[0] < 0) | (sums[1] < 0)
    return {
        "losses": ("every loss of {} is a finite number, not below 0", ~finite_sums | negative),
        "tokens": ("every output of {} is of a target with a token", outputs["tokens"].to_numpy() < 1),
        "texts": (
            "a text was generated for every feature of {}, if an empty one",
            to_mask(outputs["generated"].is_null()),
        ),
    }


def postprocessing(checked: Checked, limits: params.PostprocessingGate) -> Iterator[Promise]:
    predictions = read_json(checked.folder / "predictions" / "predictions.json")
    ids = tables.read(checked.open("splitting") / "test.parquet", ["id"])["id"].to_pylist()
    strays = [*(id for id in ids if id not in predictions), *sorted(set(predictions) - set(ids))]
    yield none_of("predictions_for_all", "there is a prediction for every test row, and for no other", strays)
    other = [id for id in ids if id in predictions and not isinstance(predictions[id], str)]
    yield none_of("predictions_are_texts", "every prediction is a text", other)
    empty = sum(1 for id in ids if not str(predictions.get(id) or "").strip())
    says = "not nearly all predictions are empty"
    yield Promise(
        "empty_share", says, share(empty, len(ids)), maximum=limits.max_empty_share, keys=("max_empty_share",)
    )
    metrics: Any = read_json(checked.folder / "metrics.json")
    for name in SCORES:
        value = number(metrics, "test", name, "value")
        yield Promise(f"test_{name}", f"{name} on test is defined, in points of 100", value, 0, 100)
    for name, least in (("loss", 0), ("perplexity", 1), ("baseline_loss", 0)):
        yield Promise(f"test_{name}", f"{name} on test is defined", number(metrics, "test", name, "value"), least)
    yield Promise("test_count", "every test row is scored", number(metrics, "test", "count"), len(ids), len(ids))


def report(checked: Checked, limits: params.ReportGate) -> Iterator[Promise]:
    metrics = read_json(checked.open("postprocessing") / "metrics.json")
    for name in (*SCORES, "margin"):
        value, floor = number(metrics, "test", name, "value"), getattr(limits, f"min_{name}")
        yield Promise(f"test_{name}", f"{name} on test reaches its floor", value, floor, keys=(f"min_{name}",))
    yield from models.published(checked)
