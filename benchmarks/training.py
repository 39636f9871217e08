"""Training speed: our engine against a bare loop over the same batches, and against the example scripts' way.

    dvc repro tokenization_gate@sample-qa                    # its features, in any project with such a pipeline
    python -m benchmarks.training --pipeline sample-qa [--project FOLDER] [--steps 20] [--without WAY …]

In one run, over the same features of that pipeline:
  engine   trainwright.engine.training.train: batches of similar length and of the size that params.yaml says, with the
           dropout that it says, in the precision this machine has, with logging, a validation of one batch and a
           checkpoint at the end
  bare     a plain torch loop over the very same batches, in the same precision and with the same dropout
  script   transformers' Trainer with its defaults over batches as its example script for the task makes them by
           default (examples/pytorch): 8 examples in random order, float32, the base model's dropout, padded to a fixed
           length (run_qa, run_glue), padded to the longest of the batch (run_ner, run_swag, run_translation), or all
           texts joined and cut into blocks, the last part left out (run_mlm, run_clm)
  unpacked for `clm` alone, the bare loop over every text by itself, in random order, padded to the longest of the batch
Each reads the model, trains and saves it; what is counted is the tokens of texts that went in, for padding is no work
done. They take turns, twice, so that a machine that slows down slows all of them, and what is counted is processor
seconds, so that other work on a shared machine does not count: give it one thread (OMP_NUM_THREADS=1).
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainwright.core import layout as layouts
from trainwright.core import params as parameters
from trainwright.core import tasks

Batch = dict[str, Any]
FIXED = {"qa": 384, "classification": 128}  # the lengths that run_qa and run_glue pad to by default
JOINED = {"mlm": 512, "clm": 1024}  # and run_mlm and run_clm cut to: 1024 at most, and the model's own length


@dataclass(frozen=True)
class Case:
    """A pipeline's model and `features`, a table; `rows` are those that are trained on, `batch` at a time."""

    task: str
    part: Any
    base: Path
    settings: dict[str, Any]
    tokenizer: Any
    features: pa.Table
    batch: int
    scratch: bool
    dropout: float | None

    @property
    def positions(self) -> int:
        """The longest text that the model reads, in tokens."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self.base, local_files_only=True)
        return int(config.max_position_embeddings)

    @property
    def tokens(self) -> int:
        return len(self.features["input_ids"].combine_chunks().flatten())


def case(project: Path, name: str, steps: int) -> Case:
    """The case of a pipeline that has been tokenized, with features for `steps` batches chosen evenly."""
    from transformers import AutoTokenizer

    from trainwright.engine import base_model

    layout = layouts.Layout(project, name)
    pipeline = parameters.load(layout.params).pipeline(name)
    made = layout.stage("tokenization")
    table = pa.ipc.open_stream(pa.memory_map(str(made / "train.arrow"))).read_all()
    batch = pipeline.training.batch_size
    chosen = np.unique(np.linspace(0, table.num_rows - 1, min(steps * batch, table.num_rows)).astype(int))
    part = tasks.load(pipeline.task, "model")
    settings = part.settings(json.loads((made / "learned.json").read_text(encoding="utf-8")))
    tokenizer = AutoTokenizer.from_pretrained(made / "tokenizer", local_files_only=True)
    base = base_model.resolve(layout, pipeline)
    features = table.take(pa.array(chosen)).combine_chunks()
    return Case(
        pipeline.task,
        part,
        base,
        settings,
        tokenizer,
        features,
        batch,
        pipeline.scratch is not None,
        pipeline.training.dropout,
    )


def engine(case: Case) -> float:
    """Processor seconds of our training of one epoch, all included."""
    from trainwright.core.params import Training
    from trainwright.engine.batching import FeatureTable
    from trainwright.engine.training import Job, train

    params = Training(epochs=1, batch_size=case.batch, dropout=case.dropout, checkpoint_every=10_000)
    data = {"train": FeatureTable(case.features), "validation": FeatureTable(case.features.slice(0, case.batch))}
    with tempfile.TemporaryDirectory() as folder:
        run, live = Path(folder) / "run", Path(folder) / "live"
        job = Job(case.part, case.base, case.settings, case.tokenizer, data, params, run, live, scratch=case.scratch)
        began = time.process_time()
        train(job)
        return time.process_time() - began


def loop(case: Case, batches: list[Batch], precision: str, dropout: float | None) -> float:
    """Processor seconds of a bare training loop over the batches, from reading the model to saving it."""
    import torch

    from trainwright.engine.prediction import autocast, load_base

    began = time.process_time()
    model, _ = load_base(case.part.AUTO_CLASS, case.base, case.base, case.settings, dropout, case.scratch)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(batches))
    for batch in batches:
        with autocast(precision, model.device.type):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return time.process_time() - began


def similar(case: Case) -> list[Batch]:
    """The batches that our engine makes."""
    from trainwright.engine.batching import FeatureTable, SimilarLengths

    features = FeatureTable(case.features)
    return collated(case, features, SimilarLengths(features.lengths, case.batch, 42).order())


def collated(case: Case, features: Any, order: NDArray[np.int64]) -> list[Batch]:
    parts = (order[start : start + case.batch] for start in range(0, len(order), case.batch))
    return [case.part.collate(features.__getitems__(rows.tolist()), case.tokenizer, True) for rows in parts]


def script(case: Case) -> float:
    """Processor seconds of transformers' Trainer over the features, set up as the example script sets it up by
    default."""
    import torch
    import transformers

    from trainwright.engine.batching import FeatureTable
    from trainwright.engine.prediction import load_model

    features: Any = FeatureTable(case.features)
    collate = partial(_collated, case)
    if case.task in JOINED:
        features = blocks(case)
        collate = transformers.default_data_collator
        if case.task == "mlm":
            collate = transformers.DataCollatorForLanguageModeling(case.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=not torch.cuda.is_available(),
        )
        model = load_model(case.part.AUTO_CLASS, case.base, case.settings, case.scratch)
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=features, data_collator=collate)
        trainer.train()
        trainer.save_model()
        return time.process_time() - began


def _collated(case: Case, rows: list[Batch]) -> Batch:
    batch: Batch = case.part.collate(rows, case.tokenizer, True)
    return _full(batch, FIXED[case.task]) if case.task in FIXED else batch


def blocks(case: Case) -> list[Batch]:
    """All texts joined and cut into blocks, the last part left out."""
    texts = case.features["input_ids"].combine_chunks().flatten().to_numpy().astype(np.int64)
    length = min(JOINED[case.task], case.tokenizer.model_max_length, case.positions)
    cut = texts[: len(texts) // length * length].reshape(-1, length)
    return [{"input_ids": block, "attention_mask": np.ones_like(block), "labels": block} for block in cut]


def unpacked(case: Case) -> list[Batch]:
    """Every text of the blocks by itself, in random order, padded to the longest of its batch."""
    import torch

    ids, position = (case.features[name].combine_chunks().flatten().to_numpy() for name in ("input_ids", "position"))
    texts = np.split(ids.astype(np.int64), np.flatnonzero(position == 0)[1:])
    order = np.random.default_rng(0).permutation(len(texts))
    batches = []
    for start in range(0, len(order), case.batch):
        some = [torch.from_numpy(texts[row]) for row in order[start : start + case.batch]]
        padded = torch.nn.utils.rnn.pad_sequence(some, batch_first=True, padding_value=-100)
        seen = padded >= 0
        batches.append({"input_ids": padded.clamp(min=0), "attention_mask": seen.long(), "labels": padded})
    return batches


def _full(batch: Batch, length: int) -> Batch:
    """The batch with its token columns padded to `length`."""
    import torch

    missing = max(length - batch["input_ids"].shape[1], 0)
    tokens = ("input_ids", "attention_mask", "token_type_ids")
    return {name: torch.nn.functional.pad(v, (0, missing)) if name in tokens else v for name, v in batch.items()}


def measure(case: Case, precision: str, without: Sequence[str]) -> dict[str, float]:
    """Tokens a processor second of each way that is not left out."""
    ways: dict[str, Callable[[], float]] = {
        "engine": lambda: engine(case),
        "bare": lambda: loop(case, similar(case), precision, case.dropout),
        "script": lambda: script(case),
    }
    if case.task == "clm":
        ways["unpacked"] = lambda: loop(case, unpacked(case), precision, case.dropout)
    joined = sum(len(block["input_ids"]) for block in blocks(case)) if case.task in JOINED else 0
    done = {"script": joined or case.tokens}
    return {name: done.get(name, case.tokens) / way() for name, way in ways.items() if name not in without}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="sample-qa")
    parser.add_argument("--project", type=Path, default=Path.cwd())
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--without", nargs="*", default=[], choices=["bare", "script", "unpacked"])
    arguments = parser.parse_args()
    import dvclive  # noqa: F401  (the first training of a process would read both within its seconds)

    import trainwright.engine.training  # noqa: F401
    from trainwright.engine.prediction import resolve_precision

    chosen = case(arguments.project.resolve(), arguments.pipeline, arguments.steps)
    precision = resolve_precision("auto")
    lengths = [len(ids) for ids in chosen.features["input_ids"].to_pylist()]
    print(
        f"{chosen.task}: {len(lengths):,} examples of {min(lengths)} to {max(lengths)} tokens, on average "
        f"{np.mean(lengths):.0f}; batches of {chosen.batch}, {precision}"
    )
    rounds = [measure(chosen, precision, arguments.without) for _ in range(2)]
    for name in rounds[0]:
        print(f"{name:8} " + "  ".join(f"{found[name]:9,.0f}" for found in rounds) + "  tokens/s")
    for name in list(rounds[0])[1:]:
        print(f"engine / {name}: " + ", ".join(f"{found['engine'] / found[name]:.2f}" for found in rounds))


if __name__ == "__main__":
    main()
