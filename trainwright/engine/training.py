"""Fine-tuning under transformers' Trainer: resumable to the bit, stopped at the first loss that is no number."""

import gc
import json
import math
import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from trainwright.core.errors import Fault, InputError, MachineryError
from trainwright.core.params import Training
from trainwright.core.process import TERMINAL, Terminated
from trainwright.engine import adapters, checkpoints, layers, losses, prediction
from trainwright.engine.batching import FeatureTable, SimilarLengths

LOG_EVERY = 10
LAST_EVALUATION = 6.0  # seconds after SIGTERM in which an evaluation that is under way may end
SMALLER_BATCHES = 2
GOES_ON = "the next run goes on from the newest checkpoint"


@dataclass(frozen=True)
class Job:
    """One training. `part` is the task's model part, `base` the base model's folder, `settings` what the data decide
    of its configuration, `data` has the features of "train" and "validation". Checkpoints and best weights lie in
    `run`, curves go to `live`. `teacher` is the folder of a model of the same task and tokenizer to learn from. With
    `scratch` the base has no weights: they are drawn from the seed.
    """

    part: Any
    base: Path
    settings: Mapping[str, Any]
    tokenizer: Any
    data: dict[str, FeatureTable]
    params: Training
    run: Path
    live: Path
    teacher: Path | None = None
    scratch: bool = False


@dataclass(frozen=True)
class Trained:
    """What a training leaves: the folder of the best weights, and the facts of the run as JSON values."""

    weights: Path
    facts: dict[str, Any]


def train(job: Job) -> Trained:
    """Fine-tune the base model on the train split, judged every epoch on validation.

    A later call with the same job resumes from the newest whole checkpoint; on CPU it ends in the same
    weights, bit for bit. When CUDA runs out of memory the batch is halved and the accumulation doubled,
    twice at most. At SIGTERM a checkpoint is kept after the step that is under way. Raises Terminated then, InputError
    when the loss is not finite, MachineryError when memory runs out all the same.
    """
    precision = prediction.resolve_precision(job.params.precision)
    machine = {"threads": torch.get_num_threads(), "precision": precision, "device": _device()}
    batch, accumulation = job.params.batch_size, job.params.accumulation
    for attempt in range(SMALLER_BATCHES + 1):
        trainer = _trainer(job, {**machine, "batch_size": batch}, batch, accumulation)
        try:
            with _at_sigterm(trainer.end):
                trainer.resume_or_start()
            return Trained(trainer.best_weights(), {**trainer.machine, **trainer.facts()})
        except torch.OutOfMemoryError as error:
            if attempt == SMALLER_BATCHES or batch == 1:
                raise MachineryError(f"The device ran out of memory at a batch of {batch}: {error}") from error
        # Out here the exception no longer holds the frames, and with them the model, in memory.
        del trainer
        gc.collect()
        torch.cuda.empty_cache()
        batch, accumulation = batch // 2, accumulation * 2
        print(f"training: out of memory; trying a batch of {batch}, accumulated {accumulation} times", flush=True)
    raise AssertionError("unreachable")


def export(job: Job, trained: Trained, folder: Path, base_model: str) -> None:
    """Copy the best weights and their configuration into a model's folder; an adapter calls its base `base_model`."""
    if job.params.adapter == "none":
        for pattern in ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"):
            for path in trained.weights.glob(pattern):
                shutil.copyfile(path, folder / path.name)
        return
    adapters.keep(trained.weights, folder, base_model)
    model = prediction.load_model(job.part.AUTO_CLASS, job.base, job.settings, job.scratch)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if job.params.lora.merge:
        adapters.load(job.part.AUTO_CLASS, folder, job.base).save_pretrained(folder)


@contextmanager
def _at_sigterm(then: Callable[[], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: then())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()


def _trainer(job: Job, machine: dict[str, Any], batch: int, accumulation: int) -> "_Trainer":
    params = job.params
    transformers.set_seed(params.seed)
    model, new = prediction.load_base(
        job.part.AUTO_CLASS, job.base, job.base, job.settings, params.dropout, job.scratch
    )
    layers.freeze(model, params)
    if params.adapter == "lora":
        model = adapters.add(model, new, params.lora)
    arguments = TrainingArguments(
        output_dir=str(job.run),
        seed=params.seed,
        num_train_epochs=params.epochs,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=params.learning_rate,
        lr_scheduler_type=params.schedule,
        warmup_steps=params.warmup,
        max_grad_norm=params.max_grad_norm,
        bf16=machine["precision"] == "bfloat16",
        eval_strategy="epoch",
        save_strategy="no",  # _Progress says when: the stock strategies save before an epoch's evaluation
        logging_steps=LOG_EVERY,
        logging_first_step=True,  # so that however short a training is, its first loss is one before it learnt
        logging_nan_inf_filter=False,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=not (sys.stderr.isatty() or os.environ.get(TERMINAL)),
        use_cpu=not torch.cuda.is_available(),
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # the stock trainer would multiply the batch by the devices it sees
    return _Trainer(job, model, arguments, machine)


def _teacher(job: Job, model: Any) -> Any:
    """The model to learn from, on this machine's device; None where there is none.

    Raises InputError where it names other classes than `model` does.
    """
    if job.teacher is None:
        return None
    teacher = prediction.load_model(job.part.AUTO_CLASS, job.teacher)
    if teacher.config.id2label != model.config.id2label:
        reason = f"the teacher's labels are {_labels(teacher)}, the student's {_labels(model)}"
        remedy = "Train the teacher on the same labels."
        raise InputError(Fault("params.yaml", reason, remedy, field="training.teacher"))
    return teacher.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _labels(model: Any) -> str:
    return ", ".join(map(str, model.config.id2label.values()))


class _Trainer(Trainer):  # type: ignore[misc,unused-ignore]
    """The stock loop with our order of batches, evaluation, checkpoints and refusal of losses that are no numbers."""

    def __init__(self, job: Job, model: Any, arguments: TrainingArguments, machine: dict[str, Any]) -> None:
        self.job, self.params, self.run_folder, self.machine = job, job.params, job.run, machine
        self.best: str | None = None
        self.best_measure = float("inf")  # the lower the better
        self.stale = 0
        self.told_to_end: float | None = None  # when, in monotonic seconds
        self.teacher = _teacher(job, model)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=job.data["train"],
            eval_dataset=job.data["validation"],
            data_collator=lambda features: job.part.collate(features, job.tokenizer, True),
        )
        # Some models divide their loss by the examples of all accumulated batches and others do not: none is asked to.
        self.model_accepts_loss_kwargs = False
        self.remove_callback(transformers.PrinterCallback)
        if not arguments.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(_Bar)
        self.progress = _Progress(self)
        self.add_callback(self.progress)

    def resume_or_start(self) -> None:
        """Train to the end, from the newest whole checkpoint made on this kind of machine if there is one."""
        found = checkpoints.newest(self.run_folder)
        if found and found[1]["machine"] != self.machine:
            print(f"training: {found[0].name} was made with {found[1]['machine']}, not resumed here", flush=True)
            shutil.rmtree(self.run_folder)
            found = None
        if not found:
            shutil.rmtree(self.run_folder, ignore_errors=True)
            self._train()
            return
        folder, progress = found
        self.best, self.best_measure, self.stale = progress["best"], progress["best_measure"], progress["stale"]
        print(f"training: going on from {folder.name}", flush=True)
        if self.ended_early():
            self.state = transformers.TrainerState.load_from_json(str(folder / "trainer_state.json"))
            self.progress.on_train_begin(self.args, self.state, self.control)
            self.progress.on_train_end(self.args, self.state, self.control)
            return
        self._train(resume_from_checkpoint=str(folder))

    def end(self) -> None:
        """Keep a checkpoint after this step, and stop."""
        self.told_to_end = self.told_to_end or time.monotonic()

    def _train(self, **settings: Any) -> None:
        self.train(**settings)
        if self.told_to_end and self.state.global_step < self.state.max_steps and not self.ended_early():
            raise Terminated(f"told to end, at step {self.state.global_step} of {self.state.max_steps}; {GOES_ON}")

    def ended_early(self) -> bool:
        return 0 < self.params.early_stopping <= self.stale

    def best_weights(self) -> Path:
        if self.best is None or checkpoints.progress(self.run_folder / self.best) is None:
            raise MachineryError(f"The best weights are gone from {self.run_folder}. Run the stage again.")
        return self.run_folder / self.best

    def facts(self) -> dict[str, Any]:
        """What the run came to: steps, epochs, losses, the best step, parameter counts."""
        history = self.state.log_history
        losses = [entry["loss"] for entry in history if "loss" in entry]
        validation = [entry for entry in history if "eval_loss" in entry]
        best = int(self.best.rpartition("-")[2]) if self.best else None
        network: Any = self.model
        sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
        return {
            "steps": self.state.global_step,
            "epochs": self.state.epoch,
            "first_loss": losses[0] if losses else None,
            "last_loss": losses[-1] if len(losses) > 1 else None,  # one loss says nothing of what was learnt
            "validation": [{k: e[k] for k in ("step", "epoch", "eval_loss", "eval_agreement")} for e in validation],
            "best_loss": next((entry["eval_loss"] for entry in validation if entry["step"] == best), None),
            "best_step": best,
            "parameters": sum(count for count, _ in sizes),
            "trained_parameters": sum(count for count, trained in sizes if trained),
            "accumulation": self.args.gradient_accumulation_steps,
            "ended_early": self.ended_early(),
        }

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:  # noqa: ARG002
        return SimilarLengths(self.job.data["train"].lengths, self.args.train_batch_size, self.params.seed)

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW with decoupled decay (Loshchilov and Hutter, 2019)."""
        chosen: Any = self.model if model is None else model
        if self.optimizer is None:
            beta2 = self.params.beta2
            groups = layers.parameter_groups(chosen, self.params, self.get_decay_parameter_names(chosen))
            self.optimizer = torch.optim.AdamW(groups, lr=self.params.learning_rate, betas=(0.9, beta2), fused=True)
        return self.optimizer

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise _diverged(f"the loss became {float(loss)} at step {self.state.global_step + 1}")
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ARG002
    ) -> Any:
        """The task's loss, or that of smoothed labels; a teacher's softer ones besides."""
        params, part = self.params, self.job.part
        output = part.forward(model, inputs)
        pairs: Any = part.targets(output, inputs) if params.label_smoothing or self.teacher else None
        if pairs == []:
            field = "training.teacher" if self.teacher else "training.label_smoothing"
            reason = "the model of this task names no classes"
            raise InputError(Fault("params.yaml", reason, f"Take {field} out.", field=field))
        loss = losses.smoothed(pairs, params.label_smoothing) if params.label_smoothing else part.loss(output, inputs)
        if self.teacher is not None:
            with torch.no_grad():
                wanted = part.targets(part.forward(self.teacher, inputs), inputs)
            soft = losses.distilled(pairs, wanted, params.temperature)
            loss = (1 - params.teacher_weight) * loss + params.teacher_weight * soft
        return (loss, output) if return_outputs else loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss and agreement on validation; new best weights are kept at once."""
        total, right, count = 0.0, 0.0, 0
        batch_size, precision = 2 * self.args.train_batch_size, self.machine["precision"]
        outputs = prediction.forward(
            self.model, self.job.part, self.job.data["validation"], self.job.tokenizer, batch_size, precision
        )
        for _indices, output, batch in outputs:
            if self.told_to_end and time.monotonic() - self.told_to_end > LAST_EVALUATION:
                raise Terminated(f"told to end during the evaluation of step {self.state.global_step}; {GOES_ON}")
            agreed, rows = self.job.part.agreement(output, batch)
            total, right, count = total + float(self.job.part.loss(output, batch)) * rows, right + agreed, count + rows
        if not math.isfinite(total):
            raise _diverged(f"the validation loss became {total} at step {self.state.global_step}")
        metrics = {"eval_loss": total / max(count, 1), "eval_agreement": 100 * right / max(count, 1)}
        self.log(metrics)
        self._keep_if_best(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _keep_if_best(self, metrics: dict[str, float]) -> None:
        self.stale += 1
        measure = metrics["eval_loss"] if self.params.best_by == "loss" else -metrics["eval_agreement"]
        if measure < self.best_measure:
            name = f"best-{self.state.global_step}"
            shutil.rmtree(self.run_folder / name, ignore_errors=True)
            self.save_model(str(self.run_folder / name), _internal_call=True)
            checkpoints.seal(self.run_folder / name, {"loss": metrics["eval_loss"]})
            self.best, self.best_measure, self.stale = name, measure, 0

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = self.run_folder / f"checkpoint-{self.state.global_step}"
        progress = {"best": self.best, "best_measure": self.best_measure, "stale": self.stale, "machine": self.machine}
        checkpoints.seal(folder, progress)
        checkpoints.prune(self.run_folder)


def _diverged(reason: str) -> InputError:
    remedy = "Lower the learning rate, or lengthen the warm-up, or train in float32."
    return InputError(Fault("params.yaml", reason, remedy, field="training.learning_rate"))


class _Progress(TrainerCallback):
    """When to log, evaluate and save; plain lines where there is no terminal; curves for DVC."""

    def __init__(self, trainer: _Trainer) -> None:
        self.trainer, self.folder = trainer, trainer.job.live
        self.cut_short = False  # whether training stops within an epoch, which then has no evaluation

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        from dvclive import Live

        shutil.rmtree(self.folder, ignore_errors=True)
        self.live = Live(dir=str(self.folder), dvcyaml=None, save_dvc_exp=False, monitor_system=False)
        for entry in state.log_history:  # a resumed run writes the whole curve again
            self._write(entry)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        ends_epoch = state.global_step % self._steps_per_epoch() == 0
        # The evaluation of an epoch's last step is still to come, and a resume would leave it out.
        due = state.global_step % self.trainer.params.checkpoint_every == 0
        self.cut_short = self.trainer.told_to_end is not None and not ends_epoch
        if (due or self.cut_short) and not ends_epoch:
            control.should_save = control.should_log = True
        control.should_training_stop |= self.cut_short

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if not self.cut_short:
            control.should_log = control.should_evaluate = control.should_save = True
        control.should_training_stop |= self.trainer.told_to_end is not None

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if self.trainer.ended_early():
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        entry = state.log_history[-1]
        self._write(entry)
        if not self.trainer.args.disable_tqdm:
            return
        if "eval_loss" in entry:
            print(_epoch_in_words(entry, self.trainer.params.epochs), flush=True)
        elif "loss" in entry:
            print(f"training: step {state.global_step} of {state.max_steps}, loss {entry['loss']:.3f}", flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.live.end()

    def _steps_per_epoch(self) -> int:
        batches = math.ceil(len(self.trainer.job.data["train"]) / self.trainer.args.train_batch_size)
        return math.ceil(batches / self.trainer.args.gradient_accumulation_steps)

    def _write(self, entry: dict[str, float]) -> None:
        names = {
            "loss": "train/loss",
            "learning_rate": "train/learning_rate",
            "grad_norm": "train/gradient_norm",
            "eval_loss": "validation/loss",
            "eval_agreement": "validation/agreement",
        }
        self.live.step = int(entry["step"])
        for key, name in names.items():
            if key in entry:
                self.live.log_metric(name, float(entry[key]))
        if any(key in names for key in entry):
            self.live.make_summary()


class _Bar(ProgressCallback):  # type: ignore[misc,unused-ignore]
    """The stock progress bar, with the loss beside it and the lines of epochs above it, instead of dictionaries."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        entry = state.log_history[-1]
        if self.training_bar is None:
            return
        if "eval_loss" in entry:
            self.training_bar.write(_epoch_in_words(entry, int(args.num_train_epochs)))
        elif "loss" in entry:
            self.training_bar.set_postfix_str(f"loss {entry['loss']:.3f}")


def _epoch_in_words(entry: Mapping[str, float], epochs: int) -> str:
    found = f"validation loss {entry['eval_loss']:.3f}, {entry['eval_agreement']:.1f}% right"
    return f"training: epoch {entry['epoch']:.0f} of {epochs}: {found}"


def write_facts(facts: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
