"""Rows become windows of token ids with labels, memory-mapped.

    python -m stages.tokenization sample-qa

Writes train, validation and test.arrow (Arrow streams of the task's features), learned.json (what the train
split tells, the labels for one), quarantine.jsonl (rows that no window can hold), misaligned.parquet (rows whose
labels do not say the same once they are features) and tokenizer/ (where the model is from scratch, the tokenizer
is trained on the train split here, and the model's config.json written beside it).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core import layout, process, tasks
from trainwright.core.errors import Fault, InputError
from trainwright.rows import tables

if TYPE_CHECKING:
    from trainwright.tasks.interface import Features

CHARACTERS = 4_000_000  # of text that are tokenized at a time, so that long contexts do not fill the memory


@dataclass(frozen=True)
class Tokenized:
    """Some of a split's rows: their features (`row` counts within the split), faults, ids of misaligned rows."""

    rows: int
    features: pa.Table
    faults: list[Fault]
    misaligned: pa.Array


def tokenization(
    batches: Iterable[pa.Table], task: "Features", tokenizer: Any, params: Any, file: str, learned: dict[str, Any]
) -> Iterator[Tokenized]:
    """Features of a split's rows, piece by piece; `params` is the tokenization section, `learned` the train split's."""
    first = 0
    for batch in batches:
        for rows in _pieces(batch):
            features, faults = task.features(rows, tokenizer, params, file, learned)
            misaligned = task.misaligned(rows, features)
            places = pc.add(features["row"], pa.scalar(first, pa.int32()))
            features = features.set_column(features.schema.get_field_index("row"), "row", places)
            yield Tokenized(rows.num_rows, features, faults, misaligned)
            first += rows.num_rows


def _pieces(rows: pa.Table) -> Iterator[pa.Table]:
    """The rows in slices of about CHARACTERS characters of text, at least one row each."""
    texts = [rows[name] for name in rows.column_names if pa.types.is_string(rows.schema.field(name).type)]
    sizes = np.sum([pc.fill_null(pc.utf8_length(text), 0).to_numpy() for text in texts], axis=0, dtype=np.int64)
    piece = (np.cumsum(sizes) - sizes) // CHARACTERS
    bounds = [*np.unique(piece, return_index=True)[1].tolist(), rows.num_rows]
    for begin, end in pairwise(bounds):
        yield rows.slice(begin, end - begin)


def write(
    source: Path, target: Path, task: "Features", tokenizer: Any, params: Any, learned: dict[str, Any]
) -> Iterator[Tokenized]:
    """Tokenize the rows of `source` into the Arrow stream `target`, handing on each piece once it is written."""
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_stream(file, task.SCHEMA) as stream:
        for piece in tokenization(
            tables.batches(source), task, tokenizer, params, f"{source.parent.name}/{source.name}", learned
        ):
            stream.write_table(piece.features)
            yield piece


def _tokenizer(run: process.Run, splits: Path) -> tuple[Any, Any]:
    """The base model's tokenizer and None; or, from scratch, one trained on the train split and a configuration."""
    from trainwright.engine import base_model, scratch

    if run.params.scratch:
        base_model.verify(run.layout, run.params)
        columns = [text.column for text in tasks.load(run.params.task, "rows").TEXTS]
        texts = scratch.texts_of(splits / "train.parquet", columns)
        tokenizer = scratch.train_tokenizer(texts, run.params.scratch)
        process.say(f"tokenization: a {run.params.scratch.tokenizer} tokenizer of {len(tokenizer):,} tokens")
        return tokenizer, scratch.configuration(run.params.scratch, tokenizer)
    base = base_model.resolve(run.layout, run.params)
    tokenizer = base_model.load_tokenizer(base, run.params.base_uri)
    tokenizer.model_max_length = min(tokenizer.model_max_length, base_model.longest_input(base))
    return tokenizer, None


def _at_source(run: process.Run, faults: list[Fault]) -> list[Fault]:
    """The faults with file and row of the source, as far as it is here; rows that augmentation made stand in none."""
    places = tables.places(run.layout.stage("ingestion") / "places.parquet", {fault.id for fault in faults})
    uri = run.params.source.uri
    return [replace(fault, file=uri, row=places[fault.id]) if fault.id in places else fault for fault in faults]


def main(run: process.Run) -> None:
    splits, task, params = run.open("splitting"), tasks.load(run.params.task, "features"), run.params.tokenization
    tokenizer, configuration = _tokenizer(run, splits)
    task.check_tokenizer(tokenizer, params)
    learned = task.learn(tables.batches(splits / "train.parquet"), tokenizer, params)
    rows, faults, misaligned = 0, [], [pa.array([], pa.string())]
    bare = []
    with layout.writing(run.layout.stage("tokenization")) as folder:
        text = json.dumps(learned, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "learned.json").write_text(text + "\n", encoding="utf-8")
        for split in tables.SPLITS:
            before, windows = rows, 0
            for piece in write(
                splits / f"{split}.parquet", folder / f"{split}.arrow", task, tokenizer, params, learned
            ):
                rows += piece.rows
                windows += piece.features.num_rows
                faults += piece.faults
                misaligned.append(piece.misaligned)
            process.say(f"tokenization: {split}: {rows - before:,} rows, {windows:,} windows")
            if not windows:
                bare.append(split)
        process.quarantine(run, "tokenization", faults, rows, folder, _at_source(run, faults))
        if bare:
            reason = f"no row of {' and '.join(bare)} has features"
            remedy = "Look at the quarantine, and at `tokenization` in params.yaml: max_length for one."
            raise InputError(Fault(run.layout.pipeline, reason, remedy))
        ids = pa.concat_arrays(misaligned)
        tables.write(pa.table({"id": ids}), folder / "misaligned.parquet")
        tokenizer.save_pretrained(folder / "tokenizer")
        if configuration:
            configuration.save_pretrained(folder / "tokenizer")
    process.say(f"tokenization: {len(faults):,} rows in quarantine, {len(ids):,} misaligned")


if __name__ == "__main__":
    process.stage("tokenization", main)
