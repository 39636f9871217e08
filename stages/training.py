"""Fine-tune the base model on the train split's features: `python -m stages.training NAME`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.core import layout, process, tasks
from trainwright.core.process import Run

if TYPE_CHECKING:
    from trainwright.engine.training import Job


def main(run: Run) -> None:
    import os

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from trainwright.engine import checkpoints, ranks
    from trainwright.engine.training import export, train, work, write_facts

    if process.rank() is not None:
        work(_job(run, ranks.live()))
        return
    with layout.writing(run.layout.stage("training")) as folder:
        job = _job(run, folder / "live")
        epochs = job.params.epochs
        most = f"up to {epochs} epochs" if epochs > 1 else "1 epoch"
        process.say(f"training: {len(job.data['train']):,} examples, {most}")
        trained = train(job, command=["-m", "stages.training", run.layout.pipeline])
        model = folder / "model"
        model.mkdir()
        export(job, trained, model, run.params.base_uri)
        job.tokenizer.save_pretrained(model)
        write_facts(trained.facts, folder / "facts.json")
        process.say(f"training: {_best_in_words(trained.facts)}")
    run.check_unedited()  # while there still are checkpoints to go on from
    checkpoints.forget(run.layout.checkpoints)


def _job(run: Run, live: Path) -> "Job":
    """The training of the pipeline, whose checkpoints belong to all that decides what comes of it."""
    from transformers import AutoTokenizer

    from trainwright.engine import base_model, checkpoints
    from trainwright.engine.batching import FeatureTable
    from trainwright.engine.training import Job

    features = run.open("tokenization")
    tokenizer = AutoTokenizer.from_pretrained(features / "tokenizer", local_files_only=True)
    part = tasks.load(run.params.task, "model")
    identity = {
        "features": layout.digest(features),
        "base_model": base_model.identity(run.layout, run.params),
        "training": run.params.training.model_dump(mode="json"),
        "code": dict(run.code),
    }
    teacher = None
    if run.params.teacher_pipeline:
        teacher = base_model.take_trained(run.layout, run.params.teacher_pipeline)
        base_model.check_same_tokenizer(teacher, tokenizer)
        identity["teacher"] = layout.digest(teacher)
    return Job(
        part,
        base_model.resolve(run.layout, run.params),
        part.settings(json.loads((features / "learned.json").read_text(encoding="utf-8"))),
        tokenizer,
        {split: FeatureTable.open(features / f"{split}.arrow") for split in ("train", "validation")},
        run.params.training,
        run=run.layout.checkpoints / checkpoints.key(identity),
        live=live,
        teacher=teacher,
        scratch=run.params.scratch is not None,
    )


def _best_in_words(facts: Mapping[str, Any]) -> str:
    threads = f"{facts['threads']} threads" if facts["threads"] > 1 else "1 thread"
    several = f" in each of {facts['processes']} processes" if facts["processes"] > 1 else ""
    best = f"best at step {facts['best_step']} of {facts['steps']} (validation loss {facts['best_loss']:.3f})"
    return f"{best}, in {facts['precision']} on {threads}{several}"


if __name__ == "__main__":
    process.stage("training", main)
