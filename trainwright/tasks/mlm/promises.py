"""What the gates of a masked language modelling pipeline must hold: one function a gate, named as the stage before.

Each looks at what its stage wrote, and compares it with what stages before it wrote and had certified.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
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
from trainwright.tasks.mlm import params, rows

if TYPE_CHECKING:
    from trainwright.tasks.interface import Rows

Ints = NDArray[np.int64]
ROWS = cast("Rows", rows)
CHECKS = {
    "no_nulls": (nulls_in("id", "group", "text"), "there is no null in id, group, text"),
    "no_empty_texts": (blank("text"), "no text is empty"),
}
TOKENS = ("loss", "unigram", "right", "shown")  # of raw outputs, the lists with an entry a chosen token
BLANKS = ("start", "end", "pieces", "rank", "candidates", "probabilities")  # and those with one a blank
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
    folder, splits = checked.folder, checked.open("splitting")
    quarantined = {fault["id"] for fault in read_json_lines(folder / "quarantine.jsonl")}
    most = checked.params.max_length
    seen = [_look(folder / f"{s}.arrow", splits / f"{s}.parquet", most) for s in tables.SPLITS]

    def ids(kind: str) -> list[str]:
        return [id for part in seen for id in named(part.ids, getattr(part, kind))]

    says = "every document has windows, but for those in quarantine"
    yield none_of("features_for_all", says, [id for id in ids("bare") if id not in quarantined])
    yield none_of("features_of_rows", "every window is of a document", [id for part in seen for id in part.of_no_row])
    yield none_of("lengths", f"no window has more than {most} tokens", ids("too_long"), "tokenization.max_length")
    says = "in every window each token has its word, its place in the document and its unigram loss"
    yield none_of("lists_even", says, ids("uneven"))
    yield none_of("words_to_mask", "every window has a word that can be masked", ids("wordless"))
    says = "the windows of a document follow one another, and their tokens lie in it, in order"
    yield none_of("tokens_in_order", says, ids("disordered"))
    yield none_of("unigrams_finite", "every unigram loss is a finite number", ids("infinite"))
    lossy = ids("lossy")
    says = "tokens stand for every character but white space, in all but a small share of the documents"
    part = share(len(lossy), sum(len(part.ids) for part in seen))
    yield Promise(
        "misaligned_share", says, part, maximum=limits.max_misaligned_share, rows=lossy, keys=("max_misaligned_share",)
    )
    listed = set(tables.read(folder / "misaligned.parquet")["id"].to_pylist())
    says = "misaligned.parquet lists the documents that lose characters, and no others"
    yield none_of("misaligned_listed", says, sorted(listed ^ set(lossy)))


@dataclass(frozen=True)
class _Seen:
    """What the windows of one split show, for each of its documents (but `of_no_row`)."""

    ids: pa.ChunkedArray
    bare: Mask
    too_long: Mask
    uneven: Mask
    wordless: Mask
    disordered: Mask
    infinite: Mask
    lossy: Mask
    of_no_row: list[str]


def _look(features: Path, split: Path, most: int) -> _Seen:
    """Read the windows of a split batch by batch against its documents."""
    table = tables.read(split, ["id", "text"])
    kinds = ("bare", "too_long", "uneven", "wordless", "disordered", "infinite", "lossy")
    found = {kind: np.zeros(table.num_rows, dtype=np.bool_) for kind in kinds}
    found["bare"][:] = True
    strays: list[str] = []
    with pa.memory_map(str(features)) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:  # tokenization never puts the windows of one row into two batches
            row = batch.column("row").to_numpy().astype(np.int64)
            known = (row >= 0) & (row < table.num_rows)
            strays += [f"{features.name}: row {place}" for place in np.unique(row[~known])]
            row, windows = row[known], batch.filter(pa.array(known))
            found["bare"][row] = False
            for kind, mask in _kinds(windows, row, table["text"], most).items():
                found[kind][row[mask]] = True
            sound = ~np.isin(row, np.flatnonzero(found["uneven"] | found["disordered"]))
            lossy = _lossy(windows.filter(pa.array(sound)), row[sound], table["text"])
            found["lossy"][lossy] = True
    return _Seen(table["id"], of_no_row=strays, **found)


def _kinds(windows: pa.RecordBatch, row: Ints, texts: pa.ChunkedArray, most: int) -> dict[str, Mask]:
    """For each window what is wrong with it."""
    names = ("input_ids", "word", "start_char", "end_char", "unigram")
    sizes = {name: np.diff(windows.column(name).offsets.to_numpy()) for name in names}
    owner = np.repeat(np.arange(len(row)), sizes["word"])
    words = np.bincount(owner[windows.column("word").flatten().to_numpy() >= 0], minlength=len(row))
    infinite = np.zeros(len(row), dtype=np.bool_)
    infinite[np.repeat(np.arange(len(row)), sizes["unigram"])[~finite(windows.column("unigram").flatten())]] = True
    uneven = np.logical_or.reduce([sizes[name] != sizes["input_ids"] for name in names])
    number = windows.column("window").to_numpy()
    follows = np.append(False, (np.diff(row) == 0) & (np.diff(number) == 1))[: len(row)]
    disordered = ~(follows | ((number == 0) & np.append(True, np.diff(row) != 0)[: len(row)]))
    if not uneven.any():
        disordered |= _disordered(windows, row, owner, texts)
    return {
        "too_long": sizes["input_ids"] > most,
        "uneven": uneven,
        "wordless": words == 0,
        "disordered": disordered,
        "infinite": infinite,
    }


def _disordered(windows: pa.RecordBatch, row: Ints, owner: Ints, texts: pa.ChunkedArray) -> Mask:
    """Windows with a token outside of their document, or one that begins before the token before it does."""
    start, end = (windows.column(name).flatten().to_numpy().astype(np.int64) for name in ("start_char", "end_char"))
    wrong = np.zeros(len(row), dtype=np.bool_)
    length = pc.utf8_length(texts).to_numpy()[row]
    wrong[owner[(start < 0) | (start > end) | (end > length[owner])]] = True
    text = end > 0  # the tokens that a tokenizer puts around a text stand nowhere
    window, start = owner[text], start[text]
    back = (np.diff(start) < 0) & (np.diff(row[window]) == 0)
    wrong[window[1:][back]] = True
    return wrong


def _lossy(windows: pa.RecordBatch, row: Ints, texts: pa.ChunkedArray) -> Ints:
    """The documents with a character that is no white space and that none of their tokens stands for."""
    present = np.unique(row)
    chosen = texts.take(pa.array(present)).to_pylist()
    base = np.concatenate([[0], np.cumsum([len(text) for text in chosen])]).astype(np.int64)
    at = np.repeat(base[np.searchsorted(present, row)], np.diff(windows.column("start_char").offsets.to_numpy()))
    change = np.zeros(int(base[-1]) + 1, dtype=np.int64)
    np.add.at(change, windows.column("start_char").flatten().to_numpy() + at, 1)
    np.add.at(change, windows.column("end_char").flatten().to_numpy() + at, -1)
    characters = np.frombuffer("".join(chosen).encode("utf-32-le"), dtype="<U1")
    bare = np.flatnonzero((np.cumsum(change)[:-1] <= 0) & ~np.strings.isspace(characters))
    found: Ints = present[np.unique(np.searchsorted(base, bare, side="right") - 1)]
    return found


def training(checked: Checked, limits: TrainingGate) -> Iterator[Promise]:
    yield from models.trained(checked, limits)


def evaluation(checked: Checked, limits: EvaluationGate) -> Iterator[Promise]:
    splits, features = checked.open("splitting"), checked.open("tokenization")
    losses = read_json(checked.folder / "losses.json")
    for name in (*tables.SPLITS[1:], "untrained"):
        split = "test" if name == "untrained" else name
        table = tables.read(splits / f"{split}.parquet", ["id", "text"])
        with pa.memory_map(str(features / f"{split}.arrow")) as file, pa.ipc.open_stream(file) as stream:
            expected = np.concatenate([np.zeros(0, np.int32), *(batch.column("row").to_numpy() for batch in stream)])
        outputs = tables.read(checked.folder / f"{name}.parquet")
        row = outputs["row"].to_numpy().astype(np.int64)
        counts = [
            np.bincount(part[(part >= 0) & (part < len(table))], minlength=len(table)) for part in (expected, row)
        ]
        unknown = [f"row {place}" for place in np.unique(row[(row < 0) | (row >= len(table))])]
        uneven = named(table["id"], counts[0] != counts[1])
        yield none_of(f"{name}_outputs", f"{name} has one output for every window", uneven + unknown)
        yield Promise(f"{name}_output_count", f"{name} has outputs", len(row), minimum=1)
        found = _unsound(outputs, table, row) if not unknown else {}
        for kind, says in UNSOUND.items():
            yield none_of(f"{name}_{kind}", says.format(name), found.get(kind, unknown))
        yield from _losses(name, losses, outputs, limits)


UNSOUND = {
    "lists_even": "the lists of every output of {} run parallel",
    "tokens_scored": "every window of {} has a token that was to be predicted",
    "losses_finite": "every token's loss of {} is a finite number, not negative",
    "blanks_in_text": "every blank of {} lies in its document",
    "candidates": "every blank of {} has fillings, and their probabilities lie in [0, 1] and fall",
}


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


def _unsound(outputs: pa.Table, table: pa.Table, row: Ints) -> dict[str, list[str]]:
    """For each kind of unsound output, the ids of its documents."""
    count = np.arange(len(row))
    lists = {name: outputs[name].combine_chunks() for name in (*TOKENS, *BLANKS)}
    sizes = {name: np.diff(column.offsets.to_numpy()) for name, column in lists.items()}
    uneven = np.logical_or.reduce([sizes[name] != sizes["loss"] for name in TOKENS])
    uneven |= np.logical_or.reduce([sizes[name] != sizes["start"] for name in BLANKS])
    values = {name: lists[name].flatten() for name in ("loss", "start", "end", "candidates", "probabilities")}
    loss = values["loss"].to_numpy(zero_copy_only=False)
    bad = np.repeat(count, sizes["loss"])[~finite(values["loss"]) | ~(loss >= 0)]
    broken = {"lists_even": count[uneven], "tokens_scored": count[sizes["loss"] == 0], "losses_finite": bad}
    if not uneven.any():
        owner = np.repeat(count, sizes["start"])
        start, end = (values[name].to_numpy() for name in ("start", "end"))
        length = pc.utf8_length(table["text"]).to_numpy()[row][owner]
        broken["blanks_in_text"] = owner[(start < 0) | (start >= end) | (end > length)]
        broken["candidates"] = owner[_unlikely(values["candidates"], values["probabilities"])]
    return {kind: table["id"].take(pa.array(np.unique(row[places]))).to_pylist() for kind, places in broken.items()}


def _unlikely(candidates: pa.Array, probabilities: pa.Array) -> Mask:
    """Which blanks have no fillings, not as many probabilities, or some that are none or do not fall."""
    size = pc.list_value_length(probabilities).to_numpy()
    wrong = (size == 0) | (pc.list_value_length(candidates).to_numpy() != size)
    owner = np.repeat(np.arange(len(size)), size)
    value = probabilities.flatten().to_numpy(zero_copy_only=False)
    wrong[owner[~((value >= 0) & (value <= 1 + 1e-6))]] = True
    rises = (np.diff(value) > 1e-6) & (np.diff(owner) == 0)
    wrong[owner[1:][rises]] = True
    return np.asarray(wrong, dtype=np.bool_)


def postprocessing(checked: Checked, limits: params.PostprocessingGate) -> Iterator[Promise]:
    predictions = read_json(checked.folder / "predictions" / "predictions.json")
    test = tables.read(checked.open("splitting") / "test.parquet", ["id", "text"])
    ids = test["id"].to_pylist()
    strays = [*(id for id in ids if id not in predictions), *sorted(set(predictions) - set(ids))]
    yield none_of("predictions_for_all", "there is an entry for every test document, and for no other", strays)
    misplaced, unfilled, blanks = [], [], 0
    for id, text in zip(ids, test["text"].to_pylist(), strict=True):
        own = predictions.get(id, [])
        blanks += len(own)
        if not all(_stands(blank, text) for blank in own):
            misplaced.append(id)
        if not all(_filled(blank) for blank in own):
            unfilled.append(id)
    yield none_of("blanks_at_offsets", "what a blank hides is what stands in its document at its offset", misplaced)
    yield none_of("blanks_filled", "every blank has fillings, most likely first", unfilled)
    yield Promise(
        "blanks", "there are enough blanks to be filled", blanks, minimum=limits.min_blanks, keys=("min_blanks",)
    )
    metrics = read_json(checked.folder / "metrics.json")
    loss, perplexity = (number(metrics, "test", name, "value") for name in ("loss", "perplexity"))
    yield Promise("test_loss", "the loss on test is defined, in nats", loss, 0)
    yield Promise("test_perplexity", "the perplexity on test is defined", perplexity, 1)
    ratio = None if loss is None or perplexity is None else perplexity / math.exp(min(loss, 700))
    yield Promise("perplexity_of_loss", "the perplexity is e to the loss", ratio, 0.999, 1.001)
    accuracy = number(metrics, "test", "accuracy", "value")
    yield Promise("test_accuracy", "accuracy on test is defined, in points of 100", accuracy, 0, 100)
    yield Promise("test_count", "every test document is scored", number(metrics, "test", "count"), len(ids), len(ids))


def _stands(blank: dict[str, Any], text: str) -> bool:
    start, end = blank.get("start"), blank.get("end")
    whole = isinstance(start, int) and isinstance(end, int) and 0 <= start < end
    return whole and text[start:end] == blank.get("text")


def _filled(blank: dict[str, Any]) -> bool:
    """Whether a blank has candidates, their probabilities numbers in [0, 1] that fall."""
    values = [candidate.get("probability", math.nan) for candidate in blank.get("candidates") or []]
    ordered = all(before + 1e-6 >= after for before, after in pairwise(values))
    return bool(values) and ordered and all(0 <= value <= 1 + 1e-6 for value in values)


def report(checked: Checked, limits: params.ReportGate) -> Iterator[Promise]:
    metrics = read_json(checked.open("postprocessing") / "metrics.json")
    accuracy, perplexity = (number(metrics, "test", name, "value") for name in ("accuracy", "perplexity"))
    yield Promise(
        "test_accuracy", "accuracy on test reaches its floor", accuracy, limits.min_accuracy, keys=("min_accuracy",)
    )
    if limits.max_perplexity is not None:
        says = "perplexity on test is as low as it has to be"
        yield Promise("test_perplexity", says, perplexity, maximum=limits.max_perplexity, keys=("max_perplexity",))
    yield from models.published(checked)
