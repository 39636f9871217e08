"""What the gates of a multiple choice pipeline must hold: one function a gate, named as the stage before it.

Each looks at what its stage wrote, and compares it with what stages before it wrote and had certified.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
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
from trainwright.rows import tables
from trainwright.tasks.multiple_choice import params, rows

if TYPE_CHECKING:
    from trainwright.tasks.interface import Rows

Ints = NDArray[np.int64]
ROWS = cast("Rows", rows)
REQUIRED = ("id", "group", "context", "question", "choices", "answer")
SHARES = 1e-3  # by which probabilities that are summed may miss 1


def _lists(batch: pa.Table) -> tuple[Ints, pa.Array, Ints]:
    """How many choices each row of a batch has, all of them, and the row of each."""
    lists = batch.column("choices").combine_chunks()
    counts = pc.list_value_length(lists).fill_null(0).to_numpy().astype(np.int64)
    return counts, lists.flatten().fill_null(""), np.repeat(np.arange(len(counts)), counts)


def _few_choices(batch: pa.Table) -> Mask:
    return np.asarray(_lists(batch)[0] < 2, dtype=np.bool_)


def _empty_choices(batch: pa.Table) -> Mask:
    counts, texts, owner = _lists(batch)
    empty = to_mask(pc.equal(pc.utf8_trim_whitespace(texts), ""))
    return np.bincount(owner[empty], minlength=len(counts)).astype(np.bool_)


def _alike_choices(batch: pa.Table) -> Mask:
    counts, texts, owner = _lists(batch)
    again = pd.DataFrame({"row": owner, "text": texts.to_pylist()}).duplicated().to_numpy()
    return np.bincount(owner[again], minlength=len(counts)).astype(np.bool_)


def _no_answer(batch: pa.Table) -> Mask:
    answer = batch.column("answer").combine_chunks().fill_null(-1).to_numpy()
    return np.asarray((answer < 0) | (answer >= _lists(batch)[0]), dtype=np.bool_)


CHECKS = {
    "no_nulls": (nulls_in(*REQUIRED), f"there is no null in {', '.join(REQUIRED)}"),
    "no_empty_questions": (blank("question"), "no question is empty"),
    "enough_choices": (_few_choices, "every question has two choices or more"),
    "no_empty_choices": (_empty_choices, "no choice is empty"),
    "choices_differ": (_alike_choices, "no two choices of a question are the same"),
    "answers_among_choices": (_no_answer, "the answer is the place of one of the choices"),
}


def ingestion(checked: Checked, limits: params.IngestionGate) -> Iterator[Promise]:
    path = checked.folder / "rows.parquet"
    if not (yield from shared.table(path, ROWS, CHECKS)):
        return
    yield from shared.ingested(checked, limits)
    says = f"no context has more than {limits.max_context_characters:,} characters"
    most = limits.max_choice_characters
    found = breaking(
        path, {"context": longer_than(limits.max_context_characters, "context"), "choice": _longer_choices(most)}
    )
    yield none_of("context_length", says, found["context"], "max_context_characters")
    yield none_of(
        "choice_length", f"no choice has more than {most:,} characters", found["choice"], "max_choice_characters"
    )
    answer = tables.read(path, ["answer"])["answer"].to_numpy()
    often = share(int(np.bincount(answer[answer >= 0]).max(initial=0)), len(answer))
    says = "no place among the choices is right nearly always"
    yield Promise("answer_share", says, often, maximum=limits.max_answer_share, keys=("max_answer_share",))


def _longer_choices(most: int) -> Any:
    def check(batch: pa.Table) -> Mask:
        counts, texts, owner = _lists(batch)
        long = to_mask(pc.greater(pc.utf8_length(texts), most))
        return np.bincount(owner[long], minlength=len(counts)).astype(np.bool_)

    return check


def cleaning(checked: Checked, limits: CleaningGate) -> Iterator[Promise]:
    if (yield from shared.table(checked.folder / "rows.parquet", ROWS, CHECKS)):
        yield from shared.cleaned(checked, limits, ROWS)


def augmentation(checked: Checked, limits: AugmentationGate) -> Iterator[Promise]:
    if not (yield from shared.table(checked.folder / "rows.parquet", ROWS, CHECKS)):
        return
    yield from shared.augmented(checked, limits, ROWS)
    now = tables.read(checked.folder / "rows.parquet", ["id", "parent", "choices", "answer"])
    at = pc.index_in(now["parent"], value_set=now["id"])
    whose = np.asarray(at.fill_null(0))
    own = tables.content_hash(now, ["choices", "answer"])
    changed = to_mask(at.is_valid()) & (own != own[whose])
    yield none_of("children_keep_choices", "a child has its parent's choices and answer", named(now["id"], changed))


def splitting(checked: Checked, limits: SplittingGate) -> Iterator[Promise]:
    yield from shared.split_up(checked, limits, ROWS)


@dataclass(frozen=True)
class _Looked:
    """What the features of one split show of each of its rows; `strays` are features of rows that are not."""

    ids: pa.ChunkedArray
    kinds: Mapping[str, Mask]
    strays: list[str]


def tokenization(checked: Checked, limits: params.TokenizationGate) -> Iterator[Promise]:
    splits, folder = checked.open("splitting"), checked.folder
    quarantined = pa.array([fault["id"] for fault in read_json_lines(folder / "quarantine.jsonl")], pa.string())
    seen = [_look(folder / f"{s}.arrow", splits / f"{s}.parquet", checked.params.max_length) for s in tables.SPLITS]

    def ids(kind: str) -> list[str]:
        return [row for part in seen for row in named(part.ids, part.kinds[kind])]

    excused = set(quarantined.to_pylist())
    yield none_of(
        "features_for_all",
        "every row has one feature, but for those in quarantine",
        [row for row in ids("none") if row not in excused] + ids("several"),
    )
    yield none_of("features_of_rows", "every feature is of a row", [name for part in seen for name in part.strays])
    yield none_of("inputs_for_choices", "every choice has an input of tokens of its own", ids("uneven"))
    says = f"no choice has more than {checked.params.max_length} tokens"
    yield none_of("lengths", says, ids("too_long"), "tokenization.max_length")
    yield none_of("labels_are_answers", "the label is the row's answer", ids("mislabelled"))
    total = sum(len(part.ids) for part in seen)
    for kind, limit, says in (
        ("truncated", limits.max_truncated_share, "the share of rows of which the context was cut is small enough"),
        ("indistinct", limits.max_indistinct_share, "the share of rows with two choices of the same tokens is small"),
    ):
        yield Promise(
            f"{kind}_share",
            says,
            share(len(ids(kind)), total),
            maximum=limit,
            rows=ids(kind),
            keys=(f"max_{kind}_share",),
        )
    listed = set(tables.read(folder / "misaligned.parquet")["id"].to_pylist())
    yield none_of("misaligned_listed", "misaligned.parquet lists no row", sorted(listed))


def _look(features: Path, split: Path, most: int) -> _Looked:
    """Read the features of a split batch by batch against its rows."""
    table = tables.read(split, ["id", "choices", "answer"])
    counts, answer = _lists(table)[0], table["answer"].to_numpy()
    often = np.zeros(table.num_rows, dtype=np.int64)
    names = ("uneven", "too_long", "mislabelled", "truncated", "indistinct")
    found = {kind: np.zeros(table.num_rows, dtype=np.bool_) for kind in names}
    strays: list[str] = []
    with pa.memory_map(str(features)) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            row = batch.column("row").to_numpy().astype(np.int64)
            known = (row >= 0) & (row < table.num_rows)
            strays += [f"{features.name}: row {place}" for place in np.unique(row[~known])]
            row = row[known]
            np.add.at(often, row, 1)
            for kind, mask in _kinds(batch.filter(pa.array(known)), counts[row], answer[row], most).items():
                found[kind][row[mask]] = True
    return _Looked(table["id"], {**found, "none": often == 0, "several": often > 1}, strays)


def _kinds(batch: pa.RecordBatch, counts: Ints, answer: Ints, most: int) -> dict[str, Mask]:
    """For each feature of a batch what is so of it; `counts` and `answer` are of its row."""
    sizes, tokens = batch.column("lengths"), batch.column("input_ids")
    owner, size = pc.list_parent_indices(sizes).to_numpy(), sizes.flatten().to_numpy().astype(np.int64)
    total = np.bincount(owner, size, minlength=len(counts)).astype(np.int64)
    types = pc.list_value_length(batch.column("token_type_ids")).to_numpy()
    inputs = pc.list_value_length(tokens).to_numpy()
    uneven = (pc.list_value_length(sizes).to_numpy() != counts) | (total != inputs) | ((types != 0) & (types != inputs))
    uneven |= np.bincount(owner[size < 2], minlength=len(counts)).astype(np.bool_)
    indistinct = np.zeros(len(counts), dtype=np.bool_)
    if not uneven.any():
        cuts = pa.array(np.append(0, np.cumsum(size)).astype(np.int32))
        texts = [str(one) for one in pa.ListArray.from_arrays(cuts, tokens.flatten()).to_pylist()]
        again = pd.DataFrame({"row": owner, "tokens": texts}).duplicated().to_numpy()
        indistinct = np.bincount(owner[again], minlength=len(counts)).astype(np.bool_)
    return {
        "uneven": uneven,
        "too_long": np.bincount(owner[size > most], minlength=len(counts)).astype(np.bool_),
        "mislabelled": batch.column("answer").to_numpy() != answer,
        "truncated": batch.column("truncated").to_numpy() != 0,
        "indistinct": indistinct,
    }


def training(checked: Checked, limits: TrainingGate) -> Iterator[Promise]:
    yield from models.trained(checked, limits)


def evaluation(checked: Checked, limits: EvaluationGate) -> Iterator[Promise]:
    splits, features = checked.open("splitting"), checked.open("tokenization")
    for name in (*tables.SPLITS[1:], "untrained"):
        split = "test" if name == "untrained" else name
        table = tables.read(splits / f"{split}.parquet", ["id", "choices"])
        with pa.memory_map(str(features / f"{split}.arrow")) as file, pa.ipc.open_stream(file) as stream:
            expected = np.concatenate([np.zeros(0, np.int32), *(batch.column("row").to_numpy() for batch in stream)])
        outputs = tables.read(checked.folder / f"{name}.parquet")
        row = outputs["row"].to_numpy()
        inside = (row >= 0) & (row < len(table))
        made, wanted = (np.bincount(part, minlength=len(table)) for part in (row[inside], expected))
        strays = named(table["id"], made != wanted) + [f"row {place}" for place in np.unique(row[~inside])]
        yield none_of(f"{name}_outputs", f"{name} has one output for every feature", strays)
        yield Promise(f"{name}_output_count", f"{name} has outputs", len(row), minimum=1)
        outputs = outputs.filter(pa.array(inside))
        lists, whose = outputs["score"].combine_chunks(), row[inside]
        uneven = pc.list_value_length(lists).to_numpy() != _lists(table)[0][whose]
        ids = table["id"].take(pa.array(np.unique(whose[uneven]))).to_pylist()
        yield none_of(f"{name}_score_for_choices", f"{name} has one score for every choice", ids)
        bad = whose[pc.list_parent_indices(lists).to_numpy()[~finite(lists.flatten())]]
        ids = table["id"].take(pa.array(np.unique(bad))).to_pylist()
        yield none_of(f"{name}_scores_finite", f"every score of {name} is a finite number", ids)
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


def postprocessing(checked: Checked, limits: params.PostprocessingGate) -> Iterator[Promise]:
    splits, folder = checked.open("splitting"), checked.folder / "predictions"
    given, nbest = (read_json(folder / f"{name}.json") for name in ("predictions", "nbest"))
    test = tables.read(splits / "test.parquet", ["id", "choices"])
    ids, choices = test["id"].to_pylist(), test["choices"].to_pylist()
    strays = [id for found in (given, nbest) for id in [*(set(ids) - set(found)), *(set(found) - set(ids))]]
    says = "there is a prediction for every test question, and for no other"
    yield none_of("predictions_for_all", says, sorted(set(strays)))
    row = tables.read(checked.open("evaluation") / "test.parquet", ["row"])["row"].to_numpy()
    seen = np.isin(np.arange(len(ids)), row)
    foreign = [_foreign(given.get(id), own, has) for id, own, has in zip(ids, choices, seen.tolist(), strict=True)]
    says = "every prediction is one of its question's choices, with its text"
    yield none_of("predictions_are_choices", says, named(test["id"], np.array(foreign, dtype=np.bool_)))
    uneven = [has and not _whole(nbest.get(id), own) for id, own, has in zip(ids, choices, seen.tolist(), strict=True)]
    says = "the probabilities of a question's choices are all there and add up to 1"
    yield none_of("probabilities_whole", says, named(test["id"], np.array(uneven, dtype=np.bool_)))
    places = [p["choice"] for p in given.values() if isinstance(p, dict) and isinstance(p.get("choice"), int)]
    often = share(max(map(places.count, set(places)), default=0), len(places))
    says = "predictions do not nearly all fall on one place among the choices"
    yield Promise("choice_share", says, often, maximum=limits.max_choice_share, keys=("max_choice_share",))
    metrics = read_json(checked.folder / "metrics.json")
    value = number(metrics, "test", "accuracy", "value")
    yield Promise("test_accuracy", "accuracy on test is defined, in points of 100", value, 0, 100)
    yield Promise("test_count", "every test question is scored", number(metrics, "test", "count"), len(ids), len(ids))


def _foreign(given: Any, choices: list[str], seen: bool) -> bool:
    """Whether a prediction is none of its row's choices; a row that the model did not see has none."""
    if not seen:
        return given is not None
    place = number(given, "choice")
    if place is None or place not in range(len(choices)):
        return True
    return bool(given["text"] != choices[int(place)])


def _whole(nbest: Any, choices: list[str]) -> bool:
    """Whether there is a probability for each choice, and they are a distribution."""
    if not isinstance(nbest, list) or sorted(str(one.get("text")) for one in nbest) != sorted(choices):
        return False
    values = [number(one, "probability") for one in nbest]
    known = [value for value in values if value is not None and 0 <= value <= 1]
    return len(known) == len(choices) and abs(sum(known) - 1) < SHARES


def report(checked: Checked, limits: params.ReportGate) -> Iterator[Promise]:
    metrics = read_json(checked.open("postprocessing") / "metrics.json")
    value = number(metrics, "test", "accuracy", "value")
    yield Promise(
        "test_accuracy", "accuracy on test reaches its floor", value, limits.min_accuracy, keys=("min_accuracy",)
    )
    yield from models.published(checked)
