"""Run the trained model over the held-out splits and keep compact raw outputs: `python -m stages.evaluation NAME`."""

import json
from pathlib import Path
from typing import Any

from trainwright.core import layout, process, tasks
from trainwright.core.process import Run
from trainwright.rows import tables


def evaluation(
    run: Run, features: Path, model_folder: Path, base: Path
) -> tuple[dict[str, Any], dict[str, float | None]]:
    """Raw outputs of validation and test, those of the untrained base model on test, and the mean losses."""
    import transformers

    from trainwright.engine import adapters
    from trainwright.engine.batching import FeatureTable
    from trainwright.engine.prediction import load_model, raw_outputs, resolve_precision

    part = tasks.load(run.params.task, "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(features / "tokenizer", local_files_only=True)
    precision = resolve_precision(run.params.training.precision)
    outputs: dict[str, Any] = {}
    losses: dict[str, float | None] = {}
    model = adapters.load_trained(part.AUTO_CLASS, model_folder, lambda: base)
    for name in ("validation", "test", "untrained"):
        if name == "untrained":  # the head it would have had at the first step of training
            transformers.set_seed(run.params.training.seed)
            learned = json.loads((features / "learned.json").read_text(encoding="utf-8"))
            scratch = run.params.scratch is not None
            model = load_model(part.AUTO_CLASS, base, part.settings(learned), scratch=scratch)
        rows = FeatureTable.open(features / f"{'test' if name == 'untrained' else name}.arrow")
        outputs[name], losses[name] = raw_outputs(model, part, rows, tokenizer, run.params.evaluation, precision)
        process.say(f"evaluation: {name}: {len(rows):,} examples, loss {losses[name]:.3f}")
    return outputs, losses


def main(run: Run) -> None:
    from trainwright.engine import base_model

    features, trained = run.open("tokenization"), run.open("training")
    base = base_model.resolve(run.layout, run.params)
    outputs, losses = evaluation(run, features, trained / "model", base)
    with layout.writing(run.layout.stage("evaluation")) as folder:
        for name, table in outputs.items():
            tables.write(table, folder / f"{name}.parquet")
        (folder / "losses.json").write_text(json.dumps(losses, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    process.stage("evaluation", main)
