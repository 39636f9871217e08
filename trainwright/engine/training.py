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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from trainwright.core import process
from trainwright.core.errors import ChildError, Fault, InputError, MachineryError
from trainwright.core.params import Training
from trainwright.core.process import TERMINAL, Terminated
from trainwright.engine import adapters, checkpoints, layers, losses, prediction, ranks
from trainwright.engine.batching import FeatureTable, MicroBatches, SimilarLengths

LOG_EVERY = 10
LAST_EVALUATION = 6.0  # seconds after SIGTERM in which an evaluation that is under way may end
SMALLER_BATCHES = 2
ROWS = "rows"  # beside a micro-batch's tensors
HALVINGS = "TRAINWRIGHT_HALVINGS"  # tells the processes of a training how often memory has run out
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


def train(job: Job, command: Sequence[str] = ()) -> Trained:
    """Fine-tune the base model on the train split, judged every epoch on validation.

    A later call with the same job resumes from the newest whole checkpoint; on CPU it ends in the same
    weights, bit for bit. When CUDA runs out of memory micro-batches are halved, twice at most: a step sees the rows it
    saw. At SIGTERM a checkpoint is kept after the step that is under way. Raises Terminated then, InputError
    when the loss is not finite, MachineryError when memory runs out all the same.

    On a machine with several devices Python runs `command` (as `-m module argument`) in a process for each, which is
    to call `work` with the same job.
    """
    processes = _processes(job.params) if command else 1
    for halvings in range(SMALLER_BATCHES + 1):
        division = divide(job.params, processes, halvings)
        if halvings:
            smaller = f"a batch of {division.batch}, accumulated {division.accumulation} times"
            process.say(f"training: out of memory; trying {smaller}")
        try:
            return _launched(job, command, division, halvings) if processes > 1 else _trained(job, division)
        except torch.OutOfMemoryError as error:
            if halvings == SMALLER_BATCHES or division.batch == 1:
                words = f"The device ran out of memory at a batch of {division.batch}: {error}"
                raise MachineryError(words) from error
        # Out here the exception no longer holds the frames, and with them the model, in memory.
        gc.collect()
        torch.cuda.empty_cache()
    raise AssertionError("unreachable")


def work(job: Job) -> None:
    """The share of one process in the training that `train` has divided among several; its curves go to `ranks.live()`.

    Raises as `train` does.
    """
    division = divide(job.params, ranks.join(), int(os.environ[HALVINGS]))
    try:
        trained = _trained(job, division)
    except torch.OutOfMemoryError as error:
        raise ChildError(str(error), ranks.OUT_OF_MEMORY) from error
    if ranks.number() == 0:
        ranks.leave({"weights": str(trained.weights), "facts": trained.facts})
    torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Division:
    """How a step's `rows` are divided: `parts` micro-batches of at most `batch` rows, equally many a process."""

    rows: int
    parts: int
    processes: int
    evaluated: int  # rows of a batch in evaluation, which does not depend on the processes

    @property
    def batch(self) -> int:
        return math.ceil(self.rows / self.parts)

    @property
    def accumulation(self) -> int:
        return self.parts // self.processes


def divide(params: Training, processes: int, halvings: int = 0) -> Division:
    """A step has `batch_size` · `accumulation` rows whatever computes it.

    Where the accumulation is a multiple of the processes the micro-batches are those that one process has; else they
    are smaller, and as many more as it takes.
    """
    rows = params.batch_size * params.accumulation
    parts = processes * math.ceil(params.accumulation / processes) * 2**halvings
    return Division(rows, parts, processes, evaluated=2 * math.ceil(params.batch_size / 2**halvings))


def _processes(params: Training) -> int:
    """As many as this machine has devices for, but no more than a step has rows."""
    found, rows = ranks.count(), params.batch_size * params.accumulation
    if found > rows:
        process.say(f"training: on {rows} of {found} devices, since a step has {rows} rows")
    return min(found, rows)


def _launched(job: Job, command: Sequence[str], division: Division, halvings: int) -> Trained:
    shared = job.live.with_name("ranks")
    found = ranks.launch(command, division.processes, shared, {HALVINGS: str(halvings)})
    shutil.rmtree(job.live, ignore_errors=True)
    (shared / ranks.LIVE).rename(job.live)
    shutil.rmtree(shared)
    return Trained(Path(found["weights"]), found["facts"])


def _trained(job: Job, division: Division) -> Trained:
    precision = prediction.resolve_precision(job.params.precision)
    machine = {
        "processes": division.processes,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "device": _device(),
        "batch_size": division.batch,
    }
    trainer = _trainer(job, machine, division)
    with _at_sigterm(trainer.end):
        trainer.resume_or_start()
    return Trained(trainer.best_weights(), {**trainer.machine, **trainer.facts()})


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


def _trainer(job: Job, machine: dict[str, Any], division: Division) -> "_Trainer":
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
        per_device_train_batch_size=division.batch,
        gradient_accumulation_steps=division.accumulation,
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
        ddp_backend="gloo" if division.processes > 1 and not torch.cuda.is_available() else None,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # the stock trainer would multiply the batch by the devices it sees
    return _Trainer(job, model, arguments, machine, division)


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

    # Each micro-batch weighs as many rows as it has, in compute_loss: an epoch's last step divides unevenly.
    loss_is_scaled_for_ga = True

    def __init__(
        self, job: Job, model: Any, arguments: TrainingArguments, machine: dict[str, Any], division: Division
    ) -> None:
        self.division = division
        order = SimilarLengths(job.data["train"].lengths, job.params.batch_size, job.params.seed)
        self.batches = MicroBatches(order, division.rows, division.parts, ranks.number(), division.processes)
        self.job, self.params, self.run_folder, self.machine = job, job.params, job.run, machine
        self.best: str | None = None
        self.best_measure = float("inf")  # the lower the better
        self.stale = 0
        self.told_to_end: float | None = None  # when, in monotonic seconds
        self.unlogged: tuple[float, int] | None = None  # the losses since the last logged step, summed, and that step
        self.teacher = _teacher(job, model)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=job.data["train"],
            eval_dataset=job.data["validation"],
            data_collator=self._collate,
        )
        if (
            ranks.number()
        ):  # other dropout than rank 0, which has that of a training alone; the weights are drawn already
            transformers.set_seed(job.params.seed + ranks.number())
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
        found = ranks.of_the_first(self._newest() if ranks.number() == 0 else None)
        if not found:
            self._train()
            return
        folder, progress = found
        self.best, self.best_measure, self.stale = progress["best"], progress["best_measure"], progress["stale"]
        if self.ended_early():
            self.state = transformers.TrainerState.load_from_json(str(folder / "trainer_state.json"))
            self.progress.on_train_begin(self.args, self.state, self.control)
            self.progress.on_train_end(self.args, self.state, self.control)
            return
        self.unlogged = progress["unlogged"]
        self._train(resume_from_checkpoint=str(folder))

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        found = checkpoints.newest(self.run_folder)
        if found and found[1]["machine"] != self.machine:
            process.say(f"training: {found[0].name} was made with {found[1]['machine']}, not resumed here")
            found = None
        if found:
            process.say(f"training: going on from {found[0].name}")
        else:
            shutil.rmtree(self.run_folder, ignore_errors=True)
        return found

    def end(self) -> None:
        """Keep a checkpoint after this step, and stop."""
        self.told_to_end = self.told_to_end or time.monotonic()

    def agree_to_end(self) -> bool:
        """Whether any process has been told to end: asked by all after the same step, answered alike."""
        (told,) = ranks.added([self.told_to_end is not None], self.args.device)
        if told:
            self.end()
        return bool(told)

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

    def get_train_dataloader(self) -> Any:
        """Batches of this process alone, which accelerate would deal out its own way."""
        rows: Any = self.job.data["train"]
        return torch.utils.data.DataLoader(
            rows,
            batch_sampler=self.batches,
            collate_fn=self._collate,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _collate(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """A micro-batch, and how many rows it has. One without any is computed on some row, which then weighs nothing:
        all processes go the same way through a step."""
        chosen = features or [self.job.data["train"][0]]
        return {**self.job.part.collate(chosen, self.job.tokenizer, True), ROWS: len(features)}

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], int]:
        """The micro-batches of a step, and the rows that all processes see in it."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, self.batches.rows_of(self.state.global_step % self.batches.steps)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """For several processes, the model with the task's way through it: DDP must see the whole."""
        if self.division.processes == 1:
            return super()._wrap_model(model, training, dataloader)
        return self.accelerator.prepare_model(_Forward(self.job.part, model))

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
        num_items_in_batch: Any = None,
    ) -> Any:
        """The task's loss, or that of smoothed labels; a teacher's softer ones besides. Weighed so that the sum over a
        step's micro-batches, of which DDP takes the mean over the processes, has every row of it once."""
        params, part = self.params, self.job.part
        rows = inputs.pop(ROWS)
        output = part.forward(model, inputs) if self.division.processes == 1 else model(inputs)
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
        loss = loss * (rows * self.division.processes / num_items_in_batch)
        return (loss, output) if return_outputs else loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss and agreement on validation; new best weights are kept at once."""
        total, right, count, late = 0.0, 0.0, 0, False
        outputs = prediction.forward(
            self.model,
            self.job.part,
            self.job.data["validation"],
            self.job.tokenizer,
            self.division.evaluated,
            self.machine["precision"],
            share=(ranks.number(), self.division.processes),
        )
        for _indices, output, batch in outputs:
            if late := self.told_to_end is not None and time.monotonic() - self.told_to_end > LAST_EVALUATION:
                break
            agreed, rows = self.job.part.agreement(output, batch)
            total, right, count = total + float(self.job.part.loss(output, batch)) * rows, right + agreed, count + rows
        total, right, of, gave_up = ranks.added([total, right, count, late], self.args.device)
        if gave_up:
            raise Terminated(f"told to end during the evaluation of step {self.state.global_step}; {GOES_ON}")
        if not math.isfinite(total):
            raise _diverged(f"the validation loss became {total} at step {self.state.global_step}")
        metrics = {"eval_loss": total / max(of, 1), "eval_agreement": 100 * right / max(of, 1)}
        self.log(metrics)
        self._keep_if_best(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _keep_if_best(self, metrics: dict[str, float]) -> None:
        self.stale += 1
        measure = metrics["eval_loss"] if self.params.best_by == "loss" else -metrics["eval_agreement"]
        if measure < self.best_measure:
            name = f"best-{self.state.global_step}"
            if ranks.number() == 0:
                with _keeping(self.run_folder):
                    shutil.rmtree(self.run_folder / name, ignore_errors=True)
                    self.save_model(str(self.run_folder / name), _internal_call=True)
                    checkpoints.seal(self.run_folder / name, {"loss": metrics["eval_loss"]})
            self.best, self.best_measure, self.stale = name, measure, 0

    def go_on_logging(self) -> None:
        """After a resume, log the losses that were not logged before it, too: the stock loop forgets them."""
        if self.unlogged:
            losses, self._globalstep_last_logged = self.unlogged
            self._tr_loss += losses

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with _keeping(self.run_folder):
            super()._save_checkpoint(model, trial)
        (losses,) = ranks.added([float(self._tr_loss)], self.args.device)
        self.accelerator.wait_for_everyone()  # each process has put its random state there
        if ranks.number():
            return
        folder = self.run_folder / f"checkpoint-{self.state.global_step}"
        progress = {
            "best": self.best,
            "best_measure": self.best_measure,
            "stale": self.stale,
            "machine": self.machine,
            "unlogged": (losses / self.division.processes, self._globalstep_last_logged),
        }
        with _keeping(self.run_folder):
            checkpoints.seal(folder, progress)
            checkpoints.prune(self.run_folder)


@contextmanager
def _keeping(folder: Path) -> Iterator[None]:
    """Say it in words where a checkpoint cannot be written: of a full disk, torch speaks of a position in its file.

    Raises MachineryError.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(folder).free / 2**20
        words = f"a checkpoint cannot be written to {folder}, where {free:.1f} MB are free"
        raise MachineryError(f"{words}: {error}. The next run goes on from the one before.") from error


def _diverged(reason: str) -> InputError:
    remedy = "Lower the learning rate, or lengthen the warm-up, or train in float32; at step 1 look at the base model."
    return InputError(Fault("params.yaml", reason, remedy, field="training.learning_rate"))


class _Forward(torch.nn.Module):
    """A task's forward pass as a module: what of a model a task calls is the task's affair."""

    def __init__(self, part: Any, model: Any) -> None:
        super().__init__()
        self.part, self.model = part, model

    def forward(self, batch: dict[str, Any]) -> Any:
        """The model's output for a batch on its device."""
        return self.part.forward(self.model, batch)


class _Progress(TrainerCallback):
    """When to log, evaluate and save; plain lines where there is no terminal; curves for DVC."""

    def __init__(self, trainer: _Trainer) -> None:
        self.trainer, self.folder = trainer, trainer.job.live
        self.cut_short = False  # whether training stops within an epoch, which then has no evaluation

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.trainer.go_on_logging()
        if ranks.number():
            return
        from dvclive import Live

        shutil.rmtree(self.folder, ignore_errors=True)
        self.live = Live(dir=str(self.folder), dvcyaml=None, save_dvc_exp=False, monitor_system=False)
        for entry in state.log_history:  # a resumed run writes the whole curve again
            self._write(entry)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        batches = self.trainer.batches
        batches.order.set_epoch(state.global_step // batches.steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        ends_epoch = state.global_step % self.trainer.batches.steps == 0
        # The evaluation of an epoch's last step is still to come, and a resume would leave it out.
        due = state.global_step % self.trainer.params.checkpoint_every == 0
        self.cut_short = self.trainer.agree_to_end() and not ends_epoch
        if due and not ends_epoch:
            control.should_save = control.should_log = True
        control.should_save |= self.cut_short
        control.should_training_stop |= self.cut_short

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        # The stock callback, which is asked first, would have an epoch that is cut short evaluated.
        control.should_log = control.should_evaluate = control.should_save = not self.cut_short
        control.should_training_stop |= self.cut_short or self.trainer.agree_to_end()

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if self.trainer.ended_early():
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if ranks.number():
            return
        entry = state.log_history[-1]
        self._write(entry)
        if not self.trainer.args.disable_tqdm:
            return
        if "eval_loss" in entry:
            process.say(_epoch_in_words(entry, self.trainer.params.epochs))
        elif "loss" in entry:
            process.say(f"training: step {state.global_step} of {state.max_steps}, loss {entry['loss']:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if ranks.number() == 0:
            self.live.end()

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
