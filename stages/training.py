"""Fine-tune the base model on the train split's features: `python -m stages.training NAME`."""

import json

from trainwright.core import layout, process, tasks
from trainwright.core.process import Run


def main(run: Run) -> None:
    import os
    from functools import partial

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers import AutoTokenizer

    from trainwright.engine import base_model, checkpoints, ranks
    from trainwright.engine.batching import FeatureTable
    from trainwright.engine.training import Job, export, train, work, write_facts

    features = run.open("tokenization")
    base = base_model.resolve(run.layout, run.params)
    data = {split: FeatureTable.open(features / f"{split}.arrow") for split in ("train", "validation")}
    tokenizer = AutoTokenizer.from_pretrained(features / "tokenizer", local_files_only=True)
    identity = {
        "features": layout.digest(features),
        "base_model": base_model.identity(run.layout, run.params),
        "training": run.params.training.model_dump(mode="json"),
        "code": dict(run.code),
    }
    teacher = None
    if run.params.teacher_pipeline:
        teacher = base_model.trained(run.layout, run.params.teacher_pipeline)
        base_model.check_same_tokenizer(teacher, tokenizer)
        identity["teacher"] = layout.digest(teacher)
    checkpoint_folder = run.layout.checkpoints / checkpoints.key(identity)
    part = tasks.load(run.params.task, "model")
    settings = part.settings(json.loads((features / "learned.json").read_text(encoding="utf-8")))
    job = partial(
        Job,
        part,
        base,
        settings,
        tokenizer,
        data,
        run.params.training,
        run=checkpoint_folder,
        teacher=teacher,
        scratch=run.params.scratch is not None,
    )
    if process.rank() is not None:
        work(job(live=ranks.live()))
        return
    with layout.writing(run.layout.stage("training")) as folder:
        epochs = run.params.training.epochs
        most = f"up to {epochs} epochs" if epochs > 1 else "1 epoch"
        print(f"training: {len(data['train']):,} examples, {most}", flush=True)
        here = job(live=folder / "live")
        trained = train(here, command=["-m", "stages.training", run.layout.pipeline])
        model = folder / "model"
        model.mkdir()
        export(here, trained, model, run.params.base_uri)
        tokenizer.save_pretrained(model)
        write_facts(trained.facts, folder / "facts.json")
        facts = trained.facts
        threads = f"{facts['threads']} threads" if facts["threads"] > 1 else "1 thread"
        several = f" in each of {facts['processes']} processes" if facts["processes"] > 1 else ""
        print(
            f"training: best at step {facts['best_step']} of {facts['steps']} "
            f"(validation loss {facts['best_loss']:.3f}), in {facts['precision']} on {threads}{several}",
            flush=True,
        )
    run.check_unedited()  # while there still are checkpoints to go on from
    checkpoints.forget(run.layout.checkpoints)


if __name__ == "__main__":
    process.stage("training", main)
