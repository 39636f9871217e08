"""What the gates of a causal language modelling pipeline must hold: one function a gate, named as the stage before.

Each looks at what its stage wrote, and compares it with what stages before it wrote and had certified.
"""

import math
from collections.abc import Iterator
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
)
from trainwright.rows import tables
from trainwright.tasks.clm import params, rows

if TYPE_CHECKING:
    from trainwright.tasks.interface import Rows

Ints = NDArray[np.int64]
ROWS = cast("Rows", rows)
CHECKS = {
    "no_nulls": (nulls_in("id", "group", "text", "beginning"), "there is no null in id, group, text, beginning"),
    "no_empty_texts": (blank("text"), "no text is empty"),
}
PARALLEL = ("position", "owner", "characters", "bytes", "unigram")  # lists of features with an entry a token
SCORED = ("owner", "loss", "unigram", "right", "characters", "bytes")  # and of outputs, a predicted token
LOSS_DIFFERENCE = 0.01  # nats between the loss of the batches and that of the tokens, which rounding may make


def ingestion(checked: Checked, limits: params.IngestionGate) -> Iterator[Promise]:
    path = checked.folder / "rows.parquet"
    if not (yield from shared.table(path, ROWS, CHECKS)):
        return
    yield from shared.ingested(checked, limits)
    most = limits.max_text_characters
    long = breaking(path, {"text": longer_than(most, "text")})["text"]
    yield none_of("text_length", f"no text has more than {most:,} characters", long, "max_text_characters")


def cleaning(checked: Checked, limits: CleaningGate) -> Iterator[Promise]:
    if (yield from shared.table(checked.folder / "rows.parquet", ROWS, CHECKS)):
        yield from shared.cleaned(checked, limits, ROWS)


def augmentation(checked: Checked, limits: AugmentationGate) -> Iterator[Promise]:
    if (yield from shared.table(checked.folder / "rows.parquet", ROWS, CHECKS)):
        yield from shared.augmented(checked, limits, ROWS)


def splitting(checked: Checked, limits: SplittingGate) -> Iterator[Promise]:
    yield from shared.split_up(checked, limits, ROWS)


def tokenization(checked: Checked, limits: params.TokenizationGate) -> Iterator[Promise]:
    folder, splits, most = checked.folder, checked.open("splitting"), checked.params.block
    quarantined = {fault["id"] for fault in read_json_lines(folder / "quarantine.jsonl")}
    broken: dict[str, list[str]] = {kind: [] for kind in KINDS}
    total = 0
    for split in tables.SPLITS:
        table = tables.read(splits / f"{split}.parquet", ["id", "text"])
        total += table.num_rows
        for kind, ids in _look(_blocks(folder / f"{split}.arrow"), table, most).items():
            broken[kind] += ids
    broken["bare"] = [id for id in broken["bare"] if id not in quarantined]
    lossy = broken.pop("lossy")
    for kind, ids in broken.items():
        yield none_of(kind, KINDS[kind].format(most), ids)
    part = share(len(lossy), total)
    yield Promise(
        "misaligned_share",
        KINDS["lossy"],
        part,
        maximum=limits.max_misaligned_share,
        rows=lossy,
        keys=("max_misaligned_share",),
    )
    listed = set(tables.read(folder / "misaligned.parquet")["id"].to_pylist())
    says = "misaligned.parquet lists the texts that lose characters, and no others"
    yield none_of("misaligned_listed", says, sorted(listed ^ set(lossy)))


KINDS = {
    "bare": "every text is in a block, but for those in quarantine",
    "of_no_row": "every token is of a text",
    "too_long": "no block has more than {} tokens",
    "uneven": "in every block each token has its text, its place in it and its unigram loss",
    "disordered": "in every block places count up from 0, and begin anew wherever they do not",
    "unpredicted": "every block has a token to be predicted",
    "infinite": "every unigram loss is a finite number",
    "lossy": "tokens stand for every character but white space at the end, in all but a small share of the texts",
}


def _blocks(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        return stream.read_all().combine_chunks()


def _flat(table: pa.Table, name: str) -> tuple[Ints, NDArray[Any]]:
    """The values of a list column one after the other, and the place in the table that each is of."""
    column = table[name].combine_chunks()
    column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    return np.repeat(np.arange(len(column)), column.value_lengths()), column.flatten().to_numpy(zero_copy_only=False)


def _look(blocks: pa.Table, table: pa.Table, most: int) -> dict[str, list[str]]:
    """What is wrong with the blocks of a split, by the ids of the rows that they begin with."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    count, length = table.num_rows, pc.list_value_length(blocks["input_ids"]).to_numpy()
    first = blocks["row"].to_numpy().astype(np.int64)
    uneven = np.logical_or.reduce([pc.list_value_length(blocks[name]).to_numpy() != length for name in PARALLEL])
    block, owner = _flat(blocks, "owner")
    owner = owner + first[block]
    known = (owner >= 0) & (owner < count)
    found["of_no_row"] = [f"row {row}" for row in np.unique(owner[~known])]
    names = table["id"].take(pa.array(first.clip(0, max(count - 1, 0)))) if count else pa.array([], pa.string())
    marks = {"too_long": length > most, "uneven": uneven}
    where, position = _flat(blocks, "position")
    steps = (np.diff(position) == 1) & (np.diff(where) == 0)
    wrong = (position != 0) & ~np.append(False, steps)[: len(position)]
    for kind, bad in (("disordered", np.unique(where[wrong])), ("infinite", _infinite(blocks))):
        marks[kind] = np.isin(np.arange(len(length)), bad)
    marks["unpredicted"] = np.bincount(where[position > 0], minlength=len(length)) == 0
    found |= {kind: named(names, mask) for kind, mask in marks.items()}
    there = np.isin(np.arange(count), owner)
    found["bare"] = named(table["id"], ~there)
    if not uneven.any():
        brought = np.bincount(owner[known], _flat(blocks, "characters")[1][known], minlength=count)
        wanted = pc.utf8_length(pc.utf8_rtrim_whitespace(table["text"])).to_numpy()
        found["lossy"] = named(table["id"], there & (brought < wanted))
    return found


def _infinite(blocks: pa.Table) -> Ints:
    where, values = _flat(blocks, "unigram")
    return np.unique(where[~np.isfinite(values)])


def training(checked: Checked, limits: TrainingGate) -> Iterator[Promise]:
    yield from models.trained(checked, limits)


def evaluation(checked: Checked, limits: EvaluationGate) -> Iterator[Promise]:
    splits, features = checked.open("splitting"), checked.open("tokenization")
    losses = read_json(checked.folder / "losses.json")
    for name in (*tables.SPLITS[1:], "untrained"):
        split = "test" if name == "untrained" else name
        table = tables.read(splits / f"{split}.parquet", ["id"])
        expected, outputs = _blocks(features / f"{split}.arrow"), tables.read(checked.folder / f"{name}.parquet")
        same = expected["row"].to_numpy().tolist() == outputs["row"].to_numpy().tolist()
        says = f"{name} has one output for every block, in their order"
        yield none_of(f"{name}_outputs", says, [] if same else [f"{len(outputs)} outputs, {len(expected)} blocks"])
        yield Promise(f"{name}_output_count", f"{name} has outputs", len(outputs), minimum=1)
        uneven, unsound = _unsound(outputs, expected, table) if same else ([], [])
        says = f"{name} has a loss for every token that is to be predicted"
        yield none_of(f"{name}_tokens", says, uneven)
        yield none_of(f"{name}_losses", f"every loss of {name} is a finite number, not negative", unsound)
        yield from _losses(name, losses, outputs, limits)


def _unsound(outputs: pa.Table, expected: pa.Table, table: pa.Table) -> tuple[list[str], list[str]]:
    """The ids of the first rows of blocks with another number of losses than of tokens, or with one that is none."""
    names = table["id"].take(outputs["row"].combine_chunks())
    where, position = _flat(expected, "position")
    wanted = np.bincount(where[position > 0], minlength=len(outputs))
    uneven: Mask = np.logical_or.reduce([pc.list_value_length(outputs[name]).to_numpy() != wanted for name in SCORED])
    beginners = pc.list_value_length(expected["beginner"]).to_numpy()
    uneven |= pc.list_value_length(outputs["continuation"]).to_numpy() != beginners
    block, loss = _flat(outputs, "loss")
    bad = np.isin(np.arange(len(outputs)), block[~finite(pa.array(loss)) | ~(loss >= 0)])
    return named(names, uneven), named(names, bad)


def _losses(name: str, losses: Any, outputs: pa.Table, limits: EvaluationGate) -> Iterator[Promise]:
    loss = number(losses, name)
    if name != "untrained":  # how bad a model is before it is trained is no fault
        yield Promise(
            f"{name}_loss",
            f"the loss on {name} is a number, and not too high",
            loss,
            0,
            limits.max_loss,
            keys=("max_loss",),
        )
    mean = pc.mean(pc.list_flatten(outputs["loss"])).as_py()
    difference = None if loss is None or mean is None else abs(mean - loss)
    says = f"the loss on {name} is the mean of its tokens' losses"
    yield Promise(f"{name}_loss_of_tokens", says, difference, maximum=LOSS_DIFFERENCE)


def postprocessing(checked: Checked, limits: params.PostprocessingGate) -> Iterator[Promise]:
    folder, test = checked.folder, tables.read(checked.open("splitting") / "test.parquet", ["id", "text"])
    predictions, ids = read_json(folder / "predictions" / "predictions.json"), test["id"].to_pylist()
    strays = [*(id for id in ids if id not in predictions), *sorted(set(predictions) - set(ids))]
    yield none_of("predictions_for_all", "there is a continuation of every test text, and of no other", strays)
    empty = sum(not isinstance(predictions.get(id), str) or not predictions[id] for id in ids)
    says = "not too many continuations are empty"
    yield Promise(
        "empty_share", says, share(empty, len(ids)), maximum=limits.max_empty_share, keys=("max_empty_share",)
    )
    metrics = read_json(folder / "metrics.json")
    for name, least in (("loss", 0), ("perplexity", 1), ("nats_per_character", 0), ("nats_per_byte", 0)):
        value = number(metrics, "test", name, "value")
        yield Promise(f"test_{name}", f"{name.replace('_', ' ')} on test is defined", value, least)
    loss, perplexity = (number(metrics, "test", name, "value") for name in ("loss", "perplexity"))
    ratio = None if loss is None or perplexity is None else perplexity / math.exp(min(loss, 700))
    yield Promise("perplexity_of_loss", "the perplexity is e to the loss", ratio, 0.999, 1.001)
    yield Promise("test_count", "every test text is scored", number(metrics, "test", "count"), len(ids), len(ids))


def report(checked: Checked, limits: params.ReportGate) -> Iterator[Promise]:
    metrics = read_json(checked.open("postprocessing") / "metrics.json")
    value = number(metrics, "test", "nats_per_character", "value")
    says = "nats per character on test are as few as they have to be"
    yield Promise(
        "test_nats_per_character", says, value, 0, limits.max_nats_per_character, keys=("max_nats_per_character",)
    )
    yield from models.published(checked)
