"""What the gates of a classification pipeline must hold: one function a gate, named as the stage before it.

Each looks at what its stage wrote, and compares it with what stages before it wrote and had certified.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

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
from trainwright.tasks.classification import params, rows

if TYPE_CHECKING:
    from trainwright.tasks.interface import Rows

ROWS = cast("Rows", rows)
SHOWN = 5
HEADLINES = {"label": ("accuracy", "macro_f1", "ece"), "labels": ("micro_f1", "ece"), "value": ("mae",)}


def _not_one_kind(batch: pa.Table) -> Mask:
    """Rows that have not just one of label, labels and value, or whose number is none."""
    held = np.stack([to_mask(batch[name].is_valid()) for name in rows.GOLD])
    endless = to_mask(batch["value"].is_valid()) & ~finite(batch["value"])
    return np.asarray((held.sum(axis=0) != 1) | endless, dtype=np.bool_)


def _blank_label(batch: pa.Table) -> Mask:
    """Rows with a label of nothing but white space, or with one label twice."""
    found = to_mask(pc.equal(pc.utf8_trim_whitespace(batch["label"]), ""))
    lists = batch["labels"].combine_chunks()
    owner = pc.list_parent_indices(lists).to_numpy()
    values = lists.flatten()
    found[owner[to_mask(pc.equal(pc.utf8_trim_whitespace(values.fill_null("")), ""))]] = True
    code = values.fill_null("").dictionary_encode().indices.to_numpy()
    _, place, count = np.unique(np.stack([owner, code]), axis=1, return_inverse=True, return_counts=True)
    found[owner[count[place.ravel()] > 1]] = True
    return np.asarray(found, dtype=np.bool_)


CHECKS = {
    "no_nulls": (nulls_in("id", "group", "text", "text_b"), "there is no null in id, group, text, text_b"),
    "no_empty_texts": (blank("text"), "no text is empty"),
    "one_label_column": (_not_one_kind, "each row has one of label, labels and value, and a value is a finite number"),
    "labels_named": (_blank_label, "no label is empty, and no row has one twice"),
}


def ingestion(checked: Checked, limits: params.IngestionGate) -> Iterator[Promise]:
    path = checked.folder / "rows.parquet"
    if not (yield from shared.table(path, ROWS, CHECKS)):
        return
    yield from shared.ingested(checked, limits)
    most = {name: longer_than(limits.max_text_characters, name) for name in ("text", "text_b")}
    for name, found in breaking(path, most).items():
        yield none_of(
            f"{name}_length",
            f"no {name} has more than {limits.max_text_characters:,} characters",
            found,
            "max_text_characters",
        )
    table = tables.read(path, ["id", "text_b", *rows.GOLD])
    kinds = np.stack([to_mask(table[name].is_valid()) for name in rows.GOLD])
    rare = kinds[kinds.sum(axis=1).argmax()]
    yield none_of("one_kind", "all rows have the same kind of label", named(table["id"], ~rare))
    paired = to_mask(pc.not_equal(table["text_b"], ""))
    half = paired != (paired.sum() * 2 > len(paired))
    yield none_of("pairs_whole", "either all rows have a second text or none has", named(table["id"], half))
    yield from _labels(table, limits)


def _labels(table: pa.Table, limits: params.IngestionGate) -> Iterator[Promise]:
    """The promises of labels' names and shares, and of numbers' spread."""
    values = table["value"].drop_null().to_numpy()
    if len(values):
        spread = float(values.max() - values.min()) if np.isfinite(values).all() else None
        yield Promise("values_differ", "the numbers are not all the same", spread, minimum=np.finfo(float).tiny)
        return
    owner, names = _names(table)
    counts = Counter(names.to_pylist())
    yield Promise("label_count", "there are at least two labels", len(counts), minimum=2)
    most = share(max(counts.values(), default=0), table.num_rows)
    yield Promise(
        "label_share",
        "not nearly all rows have the same label",
        most,
        maximum=limits.max_label_share,
        keys=("max_label_share",),
    )
    if limits.labels:
        others = ~to_mask(pc.is_in(names, value_set=pa.array(limits.labels)))
        strange = owner[others]
        says = f"every label is one of {', '.join(limits.labels)}{_others(names.filter(pa.array(others)))}"
        mask = np.isin(np.arange(table.num_rows), strange)
        yield none_of("labels_allowed", says, named(table["id"], mask), "labels")


def _others(names: pa.Array) -> str:
    """Some of the labels that are not allowed, in words."""
    different = pc.unique(names).to_pylist()
    more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
    return f" (there is {', '.join(ascii(name)[:40] for name in different[:SHOWN])}{more})" if different else ""


def _names(table: pa.Table) -> tuple[np.ndarray, pa.Array]:
    """All labels of all rows: the row's place, and the name."""
    single, lists = table["label"].combine_chunks(), table["labels"].combine_chunks()
    known = single.is_valid()
    owner = np.concatenate([np.flatnonzero(to_mask(known)), pc.list_parent_indices(lists).to_numpy()])
    return owner, pa.concat_arrays([single.filter(known), lists.flatten()])


def cleaning(checked: Checked, limits: CleaningGate) -> Iterator[Promise]:
    if (yield from shared.table(checked.folder / "rows.parquet", ROWS, CHECKS)):
        yield from shared.cleaned(checked, limits, ROWS)


def augmentation(checked: Checked, limits: AugmentationGate) -> Iterator[Promise]:
    if (yield from shared.table(checked.folder / "rows.parquet", ROWS, CHECKS)):
        yield from shared.augmented(checked, limits, ROWS)


def splitting(checked: Checked, limits: SplittingGate) -> Iterator[Promise]:
    yield from shared.split_up(checked, limits, ROWS)
    paths = {split: checked.folder / f"{split}.parquet" for split in tables.SPLITS}
    if any(not set(rows.SCHEMA.names) <= set(pq.read_schema(path).names) for path in paths.values()):
        return  # a promise of the columns has failed, and says so
    parts = {split: tables.read(path, ["id", *rows.GOLD]) for split, path in paths.items()}
    if parts["train"]["value"].null_count < len(parts["train"]):
        return
    known = pc.unique(_names(parts["train"])[1])
    yield Promise("train_label_count", "train has at least two labels", len(known), minimum=2)
    for split in tables.SPLITS[1:]:
        owner, names = _names(parts[split])
        mask = np.isin(np.arange(len(parts[split])), owner[~to_mask(pc.is_in(names, value_set=known))])
        says = f"train has every label that is in {split}"
        yield none_of(f"{split}_labels_in_train", says, named(parts[split]["id"], mask))


def tokenization(checked: Checked, limits: params.TokenizationGate) -> Iterator[Promise]:
    splits, folder, longest = checked.open("splitting"), checked.folder, checked.params.max_length
    learned = read_json(folder / "learned.json")
    quarantined = {fault["id"] for fault in read_json_lines(folder / "quarantine.jsonl")}
    found: dict[str, list[str]] = {name: [] for name in ("bare", "strays", "long", "labels", "truncated")}
    seen = 0
    for split in tables.SPLITS:
        table = tables.read(splits / f"{split}.parquet", ["id", *rows.GOLD])
        with pa.memory_map(str(folder / f"{split}.arrow")) as file, pa.ipc.open_stream(file) as stream:
            features = stream.read_all()
            seen += features.num_rows
            for name, ids in _look(features, table, learned, longest).items():
                found[name] += ids
    bare = [id for id in found["bare"] if id not in quarantined]
    yield none_of("features_for_all", "every row has one feature, but for those in quarantine", bare)
    yield none_of("features_of_rows", "every feature is of a row", found["strays"])
    yield none_of("lengths", f"a feature has from 1 to {longest} tokens", found["long"], "tokenization.max_length")
    yield none_of("labels_read_back", "a feature's label, read back, is its row's", found["labels"])
    says = f"the share of texts cut to {longest} tokens is small enough"
    cut = share(len(found["truncated"]), seen)
    yield Promise(
        "truncated_share",
        says,
        cut,
        maximum=limits.max_truncated_share,
        rows=found["truncated"],
        keys=("max_truncated_share",),
    )


def _look(features: pa.Table, table: pa.Table, learned: dict[str, Any], longest: int) -> dict[str, list[str]]:
    """The ids of rows without just one feature, and of features of no row, too long or empty, mislabelled, cut."""
    row = features["row"].to_numpy()
    known = (row >= 0) & (row < len(table))
    strays = [f"row {place}" for place in np.unique(row[~known])]
    features, row = features.filter(pa.array(known)), row[known]
    ids = table["id"].take(pa.array(row))
    lengths = pc.list_value_length(features["input_ids"]).to_numpy()
    wrong = _mislabelled(features, table.take(pa.array(row)), learned)
    return {
        "bare": named(table["id"], np.bincount(row, minlength=len(table)) != 1),
        "strays": strays,
        "long": named(ids, (lengths > longest) | (lengths < 1)),
        "labels": named(ids, wrong),
        "truncated": named(ids, to_mask(features["truncated"])),
    }


def _mislabelled(features: pa.Table, table: pa.Table, learned: dict[str, Any]) -> Mask:
    """Features whose label, read back with the names and the scale that were learned, is not their row's."""
    lists = features["target"].combine_chunks()
    sizes = pc.list_value_length(lists).to_numpy()
    wanted = {"label": 0, "value": 1}.get(learned["gold"], len(learned.get("labels", [])))
    uneven = np.asarray(sizes != wanted, dtype=np.bool_)
    if uneven.any():
        return uneven
    target = lists.flatten().to_numpy().reshape(len(lists), wanted)
    if learned["gold"] == "value":
        value = table["value"].fill_null(np.nan).to_numpy()
        near = np.isclose(
            target[:, 0] * learned["scale"] + learned["mean"], value, rtol=1e-4, atol=1e-4 * learned["scale"]
        )
        return np.asarray(~near, dtype=np.bool_)
    names = pa.array(learned["labels"], pa.string())
    if learned["gold"] == "label":
        number = features["label"].to_numpy()
        outside = (number < 0) | (number >= len(names))
        read = names.take(pa.array(np.where(outside, 0, number)))
        return np.asarray(outside | ~to_mask(pc.equal(read, table["label"])), dtype=np.bool_)
    owner, held = _names(table)
    gold = np.zeros(target.shape, dtype=np.float32)
    place = pc.index_in(held, value_set=names).fill_null(-1).to_numpy()
    gold[owner[place >= 0], place[place >= 0]] = 1
    unknown = np.isin(np.arange(len(target)), owner[place < 0])
    return np.asarray((gold != target).any(axis=1) | unknown, dtype=np.bool_)


def training(checked: Checked, limits: TrainingGate) -> Iterator[Promise]:
    yield from models.trained(checked, limits)


def evaluation(checked: Checked, limits: EvaluationGate) -> Iterator[Promise]:
    splits, features = checked.open("splitting"), checked.open("tokenization")
    learned = read_json(features / "learned.json")
    for name in (*tables.SPLITS[1:], "untrained"):
        split = "test" if name == "untrained" else name
        ids = tables.read(splits / f"{split}.parquet", ["id"])["id"]
        with pa.memory_map(str(features / f"{split}.arrow")) as file, pa.ipc.open_stream(file) as stream:
            expected = np.concatenate([np.zeros(0, np.int32), *(batch.column("row").to_numpy() for batch in stream)])
        outputs = tables.read(checked.folder / f"{name}.parquet")
        row = outputs["row"].to_numpy()
        strays = [f"row {place}" for place in np.unique(row[~np.isin(row, expected)])]
        counts = [np.bincount(part[np.isin(part, expected)], minlength=len(ids)) for part in (expected, row)]
        uneven = named(ids, counts[0] != counts[1])
        yield none_of(f"{name}_outputs", f"{name} has one output for every feature", uneven + strays)
        yield Promise(f"{name}_output_count", f"{name} has outputs", len(row), minimum=1)
        wrong = named(
            ids.take(pa.array(row[np.isin(row, expected)])), _unsound(outputs, learned)[np.isin(row, expected)]
        )
        says = f"every output of {name} has a finite number for each label"
        yield none_of(f"{name}_scores_finite", says, wrong)
        yield none_of(f"{name}_labels", f"{name} names the labels as train does", _misnamed(outputs, learned))
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


def _unsound(outputs: pa.Table, learned: dict[str, Any]) -> Mask:
    lists = outputs["logits"].combine_chunks()
    wrong = to_mask(pc.not_equal(pc.list_value_length(lists), len(learned.get("labels", ["value"]))))
    wrong |= to_mask(lists.is_null())
    wrong[pc.list_parent_indices(lists).to_numpy()[~finite(lists.flatten())]] = True
    return wrong


def _misnamed(outputs: pa.Table, learned: dict[str, Any]) -> list[str]:
    """The labels that the outputs and the train split do not have at the same number."""
    found = json.loads((outputs.schema.metadata or {}).get(b"classes", b"{}"))
    names, wanted = found.get("labels", []), learned.get("labels", [])
    if found.get("gold") != learned["gold"] or len(names) != len(wanted):
        return ["labels"]
    return [name for name, want in zip(names, wanted, strict=True) if name != want]


def postprocessing(checked: Checked, limits: params.PostprocessingGate) -> Iterator[Promise]:
    splits, predictions = checked.open("splitting"), read_json(checked.folder / "predictions" / "predictions.json")
    test = tables.read(splits / "test.parquet", ["id", *rows.GOLD])
    tuned, ids = read_json(checked.folder / "tuned.json"), test["id"].to_pylist()
    says = "there is a prediction for every test row, and for no other"
    strays = [*(id for id in ids if id not in predictions), *sorted(set(predictions) - set(ids))]
    yield none_of("predictions_for_all", says, strays)
    given = {id: predictions[id] for id in ids if id in predictions}
    # A row of which the tokenizer left no token is in quarantine, and has no output to predict from.
    seen = set(np.array(ids, dtype=object)[tables.read(checked.open("evaluation") / "test.parquet", ["row"])["row"]])
    unsound = [id for id, said in given.items() if not (_sound(said, tuned) or (said is None and id not in seen))]
    says = "every prediction is a label that train has with its probability, a list of these, or a finite number"
    yield none_of("predictions_sound", says, unsound)
    most = Counter(_key(said) for said in given.values()).most_common(1)
    says = "not nearly all rows have the same prediction"
    same = share(most[0][1] if most else 0, len(ids))
    yield Promise("predicted_share", says, same, maximum=limits.max_predicted_share, keys=("max_predicted_share",))
    metrics = read_json(checked.folder / "metrics.json")
    for name in HEADLINES[tuned["gold"]]:
        value, most_points = number(metrics, "test", name, "value"), None if name == "mae" else 100
        yield Promise(f"test_{name}", f"{name} on test is defined", value, 0, most_points)
    yield Promise("test_count", "every test row is scored", number(metrics, "test", "count"), len(ids), len(ids))


def _sound(said: Any, tuned: dict[str, Any]) -> bool:
    if tuned["gold"] == "value":
        return isinstance(said, int | float) and not isinstance(said, bool) and bool(np.isfinite(said))
    choices = said if tuned["gold"] == "labels" else [said]
    return isinstance(choices, list) and all(
        isinstance(choice, dict)
        and choice.get("label") in tuned["labels"]
        and isinstance(choice.get("probability"), int | float)
        and 0 <= choice["probability"] <= 1
        for choice in choices
    )


def _key(said: Any) -> str:
    """A prediction without its probabilities."""
    choices = said if isinstance(said, list) else [said]
    return json.dumps([choice.get("label") if isinstance(choice, dict) else choice for choice in choices])


def report(checked: Checked, limits: params.ReportGate) -> Iterator[Promise]:
    metrics = read_json(checked.open("postprocessing") / "metrics.json")
    floors = {name.removeprefix("min_"): floor for name, floor in limits.model_dump().items() if floor is not None}
    for name, floor in floors.items():
        value = number(metrics, "test", name, "value")
        yield Promise(f"test_{name}", f"{name} on test reaches its floor", value, floor, keys=(f"min_{name}",))
    yield from models.published(checked)
