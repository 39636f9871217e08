"""What the gates of a named entity pipeline must hold: one function a gate, named as the stage before it.

Each looks at what its stage wrote, and compares it with what stages before it wrote and had certified.
"""

from collections.abc import Iterator
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
from trainwright.tasks.ner import params, rows

if TYPE_CHECKING:
    from trainwright.tasks.interface import Rows

Ints = NDArray[np.int64]
ROWS = cast("Rows", rows)
SPANS = ("span_start", "span_text", "span_label")
TOKENS = ("token_start", "token_end")
REQUIRED = ("id", "group", "text", *SPANS, *TOKENS)


def _unlabelled(batch: pa.Table) -> Mask:
    """Rows with a span that has no label, or with a label that has no span."""
    starts, labels = (batch[name].combine_chunks() for name in ("span_start", "span_label"))
    wrong = to_mask(pc.not_equal(pc.list_value_length(starts), pc.list_value_length(labels)))
    empty = to_mask(pc.equal(pc.utf8_trim_whitespace(labels.flatten()), ""))
    wrong[pc.list_parent_indices(labels).to_numpy()[empty]] = True
    return wrong


def _overlapping(batch: pa.Table) -> Mask:
    """Rows with spans that are out of order or overlap."""
    starts, texts = (batch[name].combine_chunks() for name in ("span_start", "span_text"))
    wrong = to_mask(pc.not_equal(pc.list_value_length(starts), pc.list_value_length(texts)))
    if wrong.any():
        return wrong
    begin = starts.flatten().to_numpy().astype(np.int64)
    return wrong | _entangled(starts, begin, begin + pc.utf8_length(texts.flatten()).to_numpy())


def _loose(batch: pa.Table) -> Mask:
    """Rows with tokens that are empty, out of order, overlapping or outside their text."""
    starts, ends = (batch[name].combine_chunks() for name in TOKENS)
    wrong = to_mask(pc.not_equal(pc.list_value_length(starts), pc.list_value_length(ends)))
    if wrong.any():
        return wrong
    begin, end = (part.flatten().to_numpy().astype(np.int64) for part in (starts, ends))
    row = pc.list_parent_indices(starts).to_numpy()
    outside = (begin < 0) | (end <= begin) | (end > pc.utf8_length(batch["text"]).to_numpy()[row])
    wrong[row[outside]] = True
    return wrong | _entangled(starts, begin, end)


def _entangled(lists: pa.Array, begin: Ints, end: Ints) -> Mask:
    row = pc.list_parent_indices(lists).to_numpy()
    wrong = np.zeros(len(lists), dtype=np.bool_)
    wrong[row[1:][(row[1:] == row[:-1]) & (begin[1:] < end[:-1])]] = True
    return wrong


CHECKS = {
    "no_nulls": (nulls_in(*REQUIRED), f"there is no null in {', '.join(REQUIRED)}"),
    "no_empty_texts": (blank("text"), "no text is empty"),
    "spans_at_offsets": (
        misplaced("text", "span_start", "span_text"),
        "each span is what stands in its text at its offset",
    ),
    "spans_labelled": (_unlabelled, "each span has a label, and each label a span"),
    "spans_apart": (_overlapping, "spans are in order and do not overlap"),
    "tokens_in_text": (_loose, "tokens are in order, side by side, and lie in their text"),
}


def ingestion(checked: Checked, limits: params.IngestionGate) -> Iterator[Promise]:
    path = checked.folder / "rows.parquet"
    if not (yield from shared.table(path, ROWS, CHECKS)):
        return
    yield from shared.ingested(checked, limits)
    most = limits.max_text_characters
    long = breaking(path, {"text": longer_than(most, "text")})["text"]
    yield none_of("text_length", f"no text has more than {most:,} characters", long, "max_text_characters")
    labels = tables.read(path, ["span_label"])["span_label"].combine_chunks().flatten()
    yield Promise(
        "enough_entities", "there are enough entities", len(labels), limits.min_entities, keys=("min_entities",)
    )
    says = "there are not suspiciously many labels"
    yield Promise("label_count", says, pc.count_distinct(labels).as_py(), 1, limits.max_labels, keys=("max_labels",))


def cleaning(checked: Checked, limits: CleaningGate) -> Iterator[Promise]:
    if (yield from shared.table(checked.folder / "rows.parquet", ROWS, CHECKS)):
        yield from shared.cleaned(checked, limits, ROWS)


def augmentation(checked: Checked, limits: AugmentationGate) -> Iterator[Promise]:
    if not (yield from shared.table(checked.folder / "rows.parquet", ROWS, CHECKS)):
        return
    yield from shared.augmented(checked, limits, ROWS)
    now = tables.read(checked.folder / "rows.parquet", ["id", "parent", "span_text", "span_label"])
    contents = tables.content_hash(now, ["span_text", "span_label"])
    at = pc.index_in(now["parent"], value_set=now["id"])
    there = to_mask(at.is_valid())
    changed = there & (contents != contents[at.fill_null(0).to_numpy()]) if len(now) else there
    yield none_of("entities_untouched", "a child has its parent's entities, to the letter", named(now["id"], changed))


def splitting(checked: Checked, limits: SplittingGate) -> Iterator[Promise]:
    yield from shared.split_up(checked, limits, ROWS)


def tokenization(checked: Checked, limits: params.TokenizationGate) -> Iterator[Promise]:
    splits, folder = checked.open("splitting"), checked.folder
    labels = read_json(folder / "learned.json").get("labels", [])
    train = tables.read(splits / "train.parquet", ["span_label"])["span_label"].combine_chunks().flatten()
    expected = ["O", *(f"{prefix}-{name}" for name in sorted(set(train.to_pylist())) for prefix in "BI")]
    says = "the labels are O, and a B- and an I- for each label of a training row"
    strays = sorted(set(labels) ^ set(expected))
    yield none_of("labels_learned", says, strays if strays or labels == expected else labels)
    quarantined = pa.array([fault["id"] for fault in read_json_lines(folder / "quarantine.jsonl")], pa.string())
    limit = checked.params.max_length
    seen = [_look(folder / f"{s}.arrow", splits / f"{s}.parquet", limit, labels) for s in tables.SPLITS]

    def ids(kind: str) -> list[str]:
        return [row for part in seen for row in named(part.ids, part.found[kind])]

    missing = [
        row
        for part in seen
        for row in named(part.ids, ~part.found["there"] & ~to_mask(pc.is_in(part.ids, value_set=quarantined)))
    ]
    yield none_of("features_for_all", "every row has features, but for those in quarantine", missing)
    yield none_of("features_of_rows", "every feature is of a row", [name for part in seen for name in part.of_no_row])
    yield none_of("lengths", f"no feature has more than {limit} tokens", ids("too_long"), "tokenization.max_length")
    yield none_of(
        "labels_known",
        "every label is one of those learned, and every labelled place is one of the window's",
        ids("unknown"),
    )
    yield none_of("words_in_order", "the words of a window are in order and lie in their text", ids("disorder"))
    yield none_of(
        "entities_labelled", "every word that an entity touches is labelled, and no other", ids("mislabelled")
    )
    rows_there = sum(len(part.ids) for part in seen)
    misaligned = ids("misaligned")
    says = "entities read back from the labels are exactly the row's, but for a small share of rows"
    most = limits.max_misaligned_share
    yield Promise(
        "misaligned_share",
        says,
        share(len(misaligned), rows_there),
        maximum=most,
        rows=misaligned,
        keys=("max_misaligned_share",),
    )
    listed = set(tables.read(folder / "misaligned.parquet")["id"].to_pylist())
    says = "misaligned.parquet lists the rows whose labels do not read back to their entities, and no others"
    yield none_of("misaligned_listed", says, sorted(listed ^ set(misaligned)))


@dataclass(frozen=True)
class _Seen:
    """What the features of one split show: by kind, for each of its rows; and the features of rows that are not."""

    ids: pa.ChunkedArray
    found: dict[str, Mask]
    of_no_row: list[str]


@dataclass(frozen=True)
class _Gold:
    """The entities of a split by row: a key of row and place for the first character and one past the last."""

    row: Ints
    start: Ints
    end: Ints
    kind: Ints


def _look(features: Path, split: Path, max_length: int, labels: list[str]) -> _Seen:
    """Read the features of a split batch by batch against its rows' spans."""
    table = tables.read(split, ["id", "text", "span_start", "span_text", "span_label"])
    kinds = ("there", "too_long", "unknown", "disorder", "mislabelled", "misaligned")
    found = {kind: np.zeros(table.num_rows, dtype=np.bool_) for kind in kinds}
    gold, length = _gold(table, labels), pc.utf8_length(table["text"]).to_numpy().astype(np.int64)
    strays: list[str] = []
    read_back = np.zeros(len(gold.row), dtype=np.bool_)
    with pa.memory_map(str(features)) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:  # tokenization never puts the windows of one row into two batches
            row = batch.column("row").to_numpy().astype(np.int64)
            known = (row >= 0) & (row < table.num_rows)
            strays += [f"{features.name}: row {place}" for place in np.unique(row[~known])]
            part = batch.filter(pa.array(known))
            row = row[known]
            found["there"][row] = True
            sizes = pc.list_value_length(part.column("input_ids")).to_numpy()
            found["too_long"][row[sizes > max_length]] = True
            _judge(part, row, sizes, gold, length, len(labels), found, read_back)
    there = found["there"]
    found["misaligned"][gold.row[~read_back & there[gold.row]]] = True
    return _Seen(table["id"], found, strays)


def _gold(table: pa.Table, labels: list[str]) -> _Gold:
    starts, texts, names = (table[name].combine_chunks() for name in SPANS)
    row = pc.list_parent_indices(starts).to_numpy().astype(np.int64)
    begin = (row << 32) + starts.flatten().to_numpy()
    kinds = pa.array([name[2:] for name in labels[1::2]], pa.string())
    kind = pc.index_in(names.flatten(), value_set=kinds).fill_null(-1).to_numpy().astype(np.int64)
    return _Gold(row, begin, begin + pc.utf8_length(texts.flatten()).to_numpy(), kind)


def _judge(
    part: pa.RecordBatch,
    row: Ints,
    sizes: Ints,
    gold: _Gold,
    length: Ints,
    labels: int,
    found: dict[str, Mask],
    read_back: Mask,
) -> None:
    """Note in `found` the rows of which a word's label is wrong, and in `read_back` the entities that are right."""
    count = pc.list_value_length(part.column("word")).to_numpy()
    window = np.repeat(np.arange(len(row)), count)
    names = ("word", "position", "start_char", "end_char", "label")
    word, position, start, end, label = (part.column(n).flatten().to_numpy().astype(np.int64) for n in names)
    owner = row[window]
    unknown = (label >= labels) | ((label < 0) & (label != -100)) | (position < 0) | (position >= sizes[window])
    found["unknown"][owner[unknown]] = True
    same = window[1:] == window[:-1]
    early = same & ((start[1:] < end[:-1]) | (position[1:] <= position[:-1]) | (word[1:] != word[:-1] + 1))
    disorder = (start < 0) | (end <= start) | (end > length[owner])
    found["disorder"][owner[disorder]] = True
    found["disorder"][owner[1:][early]] = True
    order = np.unique((owner << 32) + word, return_index=True)[1]  # a word that several windows hold, once
    owner, start, end, label = owner[order], start[order], end[order], label[order]
    begin, stop = (owner << 32) + start, (owner << 32) + end
    of = np.searchsorted(gold.end, begin, side="right")
    touched = of < len(gold.end)
    touched[touched] = gold.start[of[touched]] < stop[touched]
    first = np.ones(len(owner), dtype=np.bool_)
    first[1:] = ~touched[:-1] | (of[1:] != of[:-1])
    kind = np.full(len(owner), -1, dtype=np.int64)
    kind[touched] = gold.kind[of[touched]]
    expected = np.where(touched, np.where(kind < 0, -100, 2 + 2 * kind - first), 0)
    found["mislabelled"][owner[label != expected]] = True
    last = touched & np.append(first[1:] | ~touched[1:], np.ones(min(1, len(first)), dtype=np.bool_))
    opened, closed = np.flatnonzero(first & touched), np.flatnonzero(last)
    opened = of[opened[begin[opened] == gold.start[of[opened]]]]
    closed = of[closed[stop[closed] == gold.end[of[closed]]]]
    whole = np.intersect1d(opened, closed)
    read_back[whole[gold.kind[whole] >= 0]] = True


def training(checked: Checked, limits: TrainingGate) -> Iterator[Promise]:
    yield from models.trained(checked, limits)


def evaluation(checked: Checked, limits: EvaluationGate) -> Iterator[Promise]:
    splits, features = checked.open("splitting"), checked.open("tokenization")
    for name in (*tables.SPLITS[1:], "untrained"):
        split = "test" if name == "untrained" else name
        table = tables.read(splits / f"{split}.parquet", ["id", "text"])
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
        found = _unsound(outputs, table) if not unknown else {"scores": [], "words": []}
        says = f"every log-probability of {name} is a finite number and not over 0"
        yield none_of(f"{name}_scores_finite", says, found["scores"])
        says = f"every word of {name} lies in its text, with as many labels as the others"
        yield none_of(f"{name}_words_in_text", says, found["words"])
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
    """The ids of rows with a log-probability that is none, or with a word that is off the text or lacks labels."""
    row = outputs["row"].to_numpy().astype(np.int64)
    lists = {name: outputs[name].combine_chunks() for name in outputs.column_names if name != "row"}
    sizes = {name: pc.list_value_length(column).to_numpy() for name, column in lists.items()}
    owner = {name: np.repeat(row, size) for name, size in sizes.items()}
    values = lists["log_probability"].flatten()
    scores = owner["log_probability"][~finite(values) | ~to_mask(pc.less_equal(values, 1e-4))]
    length = pc.utf8_length(table["text"]).to_numpy().astype(np.int64)
    start, end = (lists[name].flatten().to_numpy() for name in ("start_char", "end_char"))
    kept = int((sizes["label"] // np.maximum(sizes["word"], 1)).max(initial=0))
    uneven = (sizes["label"] != kept * sizes["word"]) | (sizes["log_probability"] != sizes["label"])
    uneven |= (sizes["start_char"] != sizes["word"]) | (sizes["end_char"] != sizes["word"])
    wrong = [row[uneven]]
    if not uneven.any():
        wrong.append(owner["word"][(start < 0) | (end <= start) | (end > length[owner["word"]])])
        label = lists["label"].flatten().to_numpy()
        wrong.append(owner["label"][(label < 0) | (label >= np.repeat(sizes["labels"], sizes["label"]))])
    broken = {"scores": np.unique(scores), "words": np.unique(np.concatenate(wrong))}
    return {kind: table["id"].take(pa.array(places)).to_pylist() for kind, places in broken.items()}


def postprocessing(checked: Checked, limits: params.PostprocessingGate) -> Iterator[Promise]:
    splits, predictions = checked.open("splitting"), read_json(checked.folder / "predictions" / "predictions.json")
    test = tables.read(splits / "test.parquet", ["id", "text", "span_label"])
    ids = test["id"].to_pylist()
    says = "there is a prediction for every test row, and for no other"
    strays = [*(id for id in ids if id not in predictions), *sorted(set(predictions) - set(ids))]
    yield none_of("predictions_for_all", says, strays)
    given = [predictions.get(id) or [] for id in ids]
    foreign = [not _fits(found, text) for found, text in zip(given, test["text"].to_pylist(), strict=True)]
    says = "every entity has a label and is what stands in its text at its offsets, and no two overlap"
    yield none_of("entities_in_text", says, named(test["id"], np.array(foreign, dtype=np.bool_)))
    labels = tables.read(checked.open("evaluation") / "test.parquet", ["labels"])["labels"]
    known = {name[2:] for name in labels[0].as_py()} if len(labels) else set()
    new = [any(not isinstance(e, dict) or e.get("label") not in known for e in found) for found in given]
    says = "every label is one of those that the model has"
    yield none_of("labels_known", says, named(test["id"], np.array(new, dtype=np.bool_)))
    gold = int(pc.sum(pc.list_value_length(test["span_label"])).as_py() or 0)
    says = "there are not many times as many entities as there should be"
    ratio = share(sum(map(len, given)), gold)
    yield Promise("entities_ratio", says, ratio, maximum=limits.max_entities_ratio, keys=("max_entities_ratio",))
    metrics = read_json(checked.folder / "metrics.json")
    for name in ("f1", "macro_f1", "recall"):  # precision is undefined where nothing was found
        value = number(metrics, "test", name, "value")
        yield Promise(f"test_{name}", f"{name} on test is defined, in points of 100", value, 0, 100)
    yield Promise("test_count", "every test row is scored", number(metrics, "test", "count"), len(ids), len(ids))


def _fits(found: Any, text: str) -> bool:
    """Whether entities are in order, apart, and each what its offsets say."""
    end = 0
    for entity in found if isinstance(found, list) else [None]:
        if not isinstance(entity, dict) or not all(type(entity.get(name)) is int for name in ("start", "end")):
            return False
        if not end <= entity["start"] < entity["end"] or text[entity["start"] : entity["end"]] != entity.get("text"):
            return False
        if not entity.get("label"):
            return False
        end = entity["end"]
    return True


def report(checked: Checked, limits: params.ReportGate) -> Iterator[Promise]:
    metrics = read_json(checked.open("postprocessing") / "metrics.json")
    for name, floor in (("f1", limits.min_f1), ("macro_f1", limits.min_macro_f1)):
        value = number(metrics, "test", name, "value")
        yield Promise(f"test_{name}", f"{name} on test reaches its floor", value, floor, keys=(f"min_{name}",))
    yield from models.published(checked)
