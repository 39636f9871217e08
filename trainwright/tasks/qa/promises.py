"""What the gates of a question answering pipeline must hold: one function a gate, named as the stage before it.

Each looks at what its stage wrote, and compares it with what stages before it wrote and had certified.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    misplaced,
    named,
    none_of,
    nulls_in,
    number,
    read_json,
    read_json_lines,
    share,
    to_mask,
)
from trainwright.rows import tables
from trainwright.tasks.qa import params, rows

if TYPE_CHECKING:
    from trainwright.tasks.interface import Rows

Ints = NDArray[np.int64]
ROWS = cast("Rows", rows)
REQUIRED = ("id", "group", "title", "context", "question", "answer_start", "answer_text")
CHECKS = {
    "no_nulls": (nulls_in(*REQUIRED), f"there is no null in {', '.join(REQUIRED)}"),
    "no_empty_texts": (blank("context", "question"), "no context and no question is empty"),
    "answers_at_offsets": (
        misplaced("context", "answer_start", "answer_text"),
        "each answer is the text that stands in its context at its offset",
    ),
}


def ingestion(checked: Checked, limits: params.IngestionGate) -> Iterator[Promise]:
    path = checked.folder / "rows.parquet"
    if not (yield from shared.table(path, ROWS, CHECKS)):
        return
    yield from shared.ingested(checked, limits)
    most = {"question": limits.max_question_characters, "context": limits.max_context_characters}
    found = breaking(path, {column: longer_than(limit, column) for column, limit in most.items()})
    for column, limit in most.items():
        yield none_of(
            f"{column}_length",
            f"no {column} has more than {limit:,} characters",
            found[column],
            f"max_{column}_characters",
        )
    answers = tables.read(path, ["answer_text"])["answer_text"]
    unanswerable = share(int(to_mask(pc.equal(pc.list_value_length(answers), 0)).sum()), len(answers))
    says = "the share of unanswerable questions is as expected"
    between = (limits.min_unanswerable_share, limits.max_unanswerable_share)
    yield Promise(
        "unanswerable_share", says, unanswerable, *between, keys=("min_unanswerable_share", "max_unanswerable_share")
    )


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
    seen = [_look(folder / f"{s}.arrow", splits / f"{s}.parquet", checked.params.max_length) for s in tables.SPLITS]

    def ids(kind: Callable[[_Windows], Mask]) -> list[str]:
        return [row for part in seen for row in named(part.ids, kind(part))]

    bare = ids(lambda part: ~part.there & ~to_mask(pc.is_in(part.ids, value_set=quarantined)))
    yield none_of("features_for_all", "every row has features, but for those in quarantine", bare)
    yield none_of("features_of_rows", "every feature is of a row", [name for part in seen for name in part.of_no_row])
    says = f"no feature has more than {checked.params.max_length} tokens"
    yield none_of("lengths", says, ids(lambda part: part.too_long), "tokenization.max_length")
    says = "labels are the null position, or a start and an end in the context"
    yield none_of("labels_in_context", says, ids(lambda part: part.outside))
    says = "a window that is labelled holds its whole answer between its labels"
    yield none_of("labels_cover_answers", says, ids(lambda part: part.uncovered))
    answerable = sum(int(part.answerable.sum()) for part in seen)
    misaligned = ids(lambda part: part.misaligned)
    says = "labels decode to their answer exactly, but for a small share"
    limit = limits.max_misaligned_share
    yield Promise(
        "misaligned_share",
        says,
        share(len(misaligned), answerable),
        maximum=limit,
        rows=misaligned,
        keys=("max_misaligned_share",),
    )
    listed = set(tables.read(folder / "misaligned.parquet")["id"].to_pylist())
    says = "misaligned.parquet lists the rows whose labels do not decode to their answer, and no others"
    yield none_of("misaligned_listed", says, sorted(listed ^ set(misaligned)))
    train = seen[0]
    truncated = named(train.ids, train.answerable & train.there & ~train.labelled)
    says = "the share of answerable training rows without a window that holds the answer is small enough"
    part = share(len(truncated), int(train.answerable.sum()))
    yield Promise(
        "truncated_share", says, part, maximum=limits.max_truncated_share, rows=truncated, keys=("max_truncated_share",)
    )
    yield _impossible(seen, checked.postprocessing.max_answer_length, limits.max_impossible_share)


def _impossible(seen: "list[_Windows]", longest: int, most: float) -> Promise:
    """The promise of the share of answers that have more tokens than a prediction may have."""
    lengths = np.concatenate([part.tokens[part.tokens > 0] for part in seen])
    long = [row for part in seen for row in named(part.ids, part.tokens > longest)]
    says = f"the share of answers with more than {longest} tokens, which no prediction may have, is small enough"
    value = share(len(long), len(lengths)) if len(lengths) else 0.0
    if value is not None and value > most:
        needed = int(np.sort(lengths)[int(np.ceil((1 - most) * len(lengths))) - 1 if most < 1 else 0])
        says += f" ({len(long):,} of {len(lengths):,} answers; postprocessing.max_answer_length: {needed} would do)"
    return Promise(
        "impossible_share", says, value, maximum=most, rows=long,
        keys=("max_impossible_share", "postprocessing.max_answer_length"),
    )  # fmt: skip


@dataclass(frozen=True)
class _Windows:
    """What the features of one split show, for each of its rows (but `of_no_row`: features of rows that are not)."""

    ids: pa.ChunkedArray
    answerable: Mask
    there: Mask
    labelled: Mask
    too_long: Mask
    outside: Mask
    uncovered: Mask
    misaligned: Mask
    tokens: Ints  # of the label, the most of any window; 0 without one
    of_no_row: list[str]


def _look(features: Path, split: Path, max_length: int) -> _Windows:
    """Read the features of a split batch by batch against the first gold answers of its rows."""
    table = tables.read(split, ["id", "answer_start", "answer_text"])
    begin, end = _gold(table)
    kinds = ("there", "labelled", "too_long", "outside", "uncovered", "misaligned")
    found = {kind: np.zeros(table.num_rows, dtype=np.bool_) for kind in kinds}
    tokens = np.zeros(table.num_rows, dtype=np.int64)
    strays: list[str] = []
    with pa.memory_map(str(features)) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:  # tokenization never puts the windows of one row into two batches
            row = batch.column("row").to_numpy().astype(np.int64)
            known = (row >= 0) & (row < table.num_rows)
            strays += [f"{features.name}: row {place}" for place in np.unique(row[~known])]
            row = row[known]
            for kind, mask in _kinds(batch.filter(pa.array(known)), begin[row], end[row], max_length).items():
                found[kind][row[mask]] = True
            begins, ends, null = (
                batch.filter(pa.array(known)).column(name).to_numpy().astype(np.int64)
                for name in ("start_position", "end_position", "null_position")
            )
            np.maximum.at(tokens, row, np.where(begins != null, ends - begins + 1, 0))
    return _Windows(table["id"], begin >= 0, of_no_row=strays, tokens=tokens, **found)


def _kinds(batch: pa.RecordBatch, begin: Ints, end: Ints, limit: int) -> dict[str, Mask]:
    """For each window of a batch what is so of it; `begin` and `end` are its answer's characters, -1 for none.

    A label that starts after its answer does, or ends before, is right only where the tokenizer made no token
    of the characters between: no token stands between, and the window is not cut there.
    """
    row = batch.column("row").to_numpy()
    changes = np.diff(row) != 0
    first, final = np.append(True, changes)[: len(row)], np.append(changes, True)[: len(row)]
    chars = {name: batch.column(name) for name in ("start_char", "end_char")}
    values = {name: np.append(column.values.to_numpy(), 0).astype(np.int64) for name, column in chars.items()}
    offset = chars["start_char"].offsets.to_numpy().astype(np.int64)
    size = np.diff(offset)
    null, context = (batch.column(name).to_numpy().astype(np.int64) for name in ("null_position", "context_start"))
    places = [batch.column(f"{name}_position").to_numpy().astype(np.int64) for name in ("start", "end")]
    labelled = (places[0] != null) | (places[1] != null)
    inside = (places[0] >= context) & (places[0] <= places[1]) & (places[1] < context + size)
    good = labelled & inside
    from_token, to_token = (np.where(good, offset[:-1] + place - context, 0) for place in places)
    starts, ends = values["start_char"], values["end_char"]
    label_begin, label_end = starts[from_token], ends[to_token]
    at_first, at_last = from_token == offset[:-1], to_token == offset[1:] - 1
    early = np.where(at_first, first, ends[from_token - 1] <= begin)  # no token of the answer before the label
    late = np.where(at_last, final, starts[np.minimum(to_token + 1, len(starts) - 1)] >= end)
    holds = ((label_begin <= begin) | early) & ((label_end >= end) | late)
    meets = (begin >= 0) & (label_begin < end) & (label_end > begin)
    lengths = np.diff(batch.column("input_ids").offsets.to_numpy())
    return {
        "there": np.ones(len(null), dtype=np.bool_),
        "labelled": labelled,
        "too_long": lengths > limit,
        "outside": (labelled & ~inside) | (null < 0) | (null >= lengths) | (context + size > lengths),
        "uncovered": good & ~(holds & meets),
        "misaligned": good & ((label_begin != begin) | (label_end != end)),
    }


def _gold(table: pa.Table) -> tuple[Ints, Ints]:
    """The first and one past the last character of each row's first answer, without white space at its ends; or -1."""
    starts, texts = (table[name].combine_chunks() for name in ("answer_start", "answer_text"))
    has = np.flatnonzero(np.diff(texts.offsets.to_numpy()))
    text = texts.values.take(pa.array(texts.offsets.to_numpy()[has])).fill_null("").to_pylist()
    at = starts.values.to_numpy()[starts.offsets.to_numpy()[has]].astype(np.int64)
    begin, end = (np.full(table.num_rows, -1, dtype=np.int64) for _ in range(2))
    begin[has] = at + np.array([len(t) - len(t.lstrip()) for t in text], dtype=np.int64)
    end[has] = at + np.array([len(t.rstrip()) for t in text], dtype=np.int64)
    return begin, end


def training(checked: Checked, limits: TrainingGate) -> Iterator[Promise]:
    yield from models.trained(checked, limits)


def evaluation(checked: Checked, limits: EvaluationGate) -> Iterator[Promise]:
    splits, features = checked.open("splitting"), checked.open("tokenization")
    for name in (*tables.SPLITS[1:], "untrained"):
        split = "test" if name == "untrained" else name
        table = tables.read(splits / f"{split}.parquet", ["id", "context"])
        with pa.memory_map(str(features / f"{split}.arrow")) as file, pa.ipc.open_stream(file) as stream:
            expected = np.concatenate([np.zeros(0, np.int32), *(batch.column("row").to_numpy() for batch in stream)])
        outputs = tables.read(checked.folder / f"{name}.parquet")
        row = outputs["row"].to_numpy()
        counts = [
            np.bincount(part[(part >= 0) & (part < len(table))], minlength=len(table)) for part in (expected, row)
        ]
        uneven = named(table["id"], counts[0] != counts[1])
        unknown = [f"row {place}" for place in np.unique(row[(row < 0) | (row >= len(table))])]
        yield none_of(f"{name}_outputs", f"{name} has one output for every feature", uneven + unknown)
        yield Promise(f"{name}_output_count", f"{name} has outputs", len(row), minimum=1)
        found = _unsound(outputs, table) if not unknown else {"scores": [], "spans": []}
        yield none_of(f"{name}_scores_finite", f"every score of {name} is a finite number", found["scores"])
        says = f"every candidate of {name} lies in its context"
        yield none_of(f"{name}_spans_in_context", says, found["spans"])
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


def _unsound(outputs: pa.Table, table: pa.Table) -> dict[str, list[str]]:
    """The ids of rows with an output whose scores are not all finite numbers, or with a candidate off the context."""
    row = outputs["row"].to_numpy()
    lists = {name: outputs[name].combine_chunks() for name in outputs.column_names if outputs[name].type.num_fields}
    sizes = {name: np.diff(column.offsets.to_numpy()) for name, column in lists.items()}
    scores = ~finite(outputs["null_score"])
    for name in ("start_logit", "end_logit"):
        flat = ~finite(lists[name].flatten())
        scores[np.repeat(np.arange(len(row)), sizes[name])[flat]] = True
        scores |= sizes[name] == 0
    length = pc.utf8_length(table["context"]).to_numpy()[row]
    spans = np.zeros(len(row), dtype=np.bool_)
    for side in ("start", "end"):
        name = f"{side}_char"
        place = np.repeat(np.arange(len(row)), sizes[name])
        flat = lists[name].flatten().to_numpy()
        spans[place[(flat < 0) | (flat > length[place])]] = True
        spans |= (sizes[name] != sizes[f"{side}_logit"]) | (sizes[name] != sizes[f"{side}_token"])
    broken = {"scores": np.unique(row[scores]), "spans": np.unique(row[spans])}
    return {kind: table["id"].take(pa.array(places)).to_pylist() for kind, places in broken.items()}


def postprocessing(checked: Checked, limits: params.PostprocessingGate) -> Iterator[Promise]:
    splits, predictions = checked.open("splitting"), read_json(checked.folder / "predictions" / "predictions.json")
    test = tables.read(splits / "test.parquet", ["id", "context"])
    ids = test["id"].to_pylist()
    says = "there is a prediction for every test question, and for no other"
    strays = [*(id for id in ids if id not in predictions), *sorted(set(predictions) - set(ids))]
    yield none_of("predictions_for_all", says, strays)
    given = [predictions.get(id) for id in ids]
    foreign = [not isinstance(a, str) or a not in c for a, c in zip(given, test["context"].to_pylist(), strict=True)]
    says = "every answer is a part of its context, or empty"
    yield none_of("answers_in_context", says, named(test["id"], np.array(foreign, dtype=np.bool_)))
    empty = np.array([answer == "" for answer in given], dtype=np.bool_)
    if not any(_unanswerable(splits / f"{split}.parquet") for split in tables.SPLITS):
        # A question that was too long for any window is in quarantine, and empty for want of a place to look.
        seen = np.isin(np.arange(len(ids)), tables.read(checked.open("evaluation") / "test.parquet", ["row"])["row"])
        says = "no question that has a window is left without an answer, since every question has one"
        yield none_of("no_empty_answers", says, named(test["id"], empty & seen))
    says = "not nearly all answers are empty"
    yield Promise(
        "empty_share",
        says,
        share(int(empty.sum()), len(ids)),
        maximum=limits.max_empty_share,
        keys=("max_empty_share",),
    )
    metrics = read_json(checked.folder / "metrics.json")
    for name in ("exact", "f1"):
        value = number(metrics, "test", name, "value")
        yield Promise(f"test_{name}", f"{name} on test is defined, in points of 100", value, 0, 100)
    yield Promise("test_count", "every test question is scored", number(metrics, "test", "count"), len(ids), len(ids))


def _unanswerable(path: Path) -> bool:
    answers: Any = tables.read(path, ["answer_text"])["answer_text"]
    return bool(to_mask(pc.equal(pc.list_value_length(answers), 0)).any())


def report(checked: Checked, limits: params.ReportGate) -> Iterator[Promise]:
    metrics = read_json(checked.open("postprocessing") / "metrics.json")
    for name, floor in (("exact", limits.min_exact), ("f1", limits.min_f1)):
        value = number(metrics, "test", name, "value")
        yield Promise(f"test_{name}", f"{name} on test reaches its floor", value, floor, keys=(f"min_{name}",))
    yield from models.published(checked)
