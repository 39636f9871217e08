"""Training over several devices: two processes on the processor take the steps that one takes, and end as one does."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_classification as classification
from conftest import ROOT, processes_in, wait
from hypothesis import given
from hypothesis import strategies as st

from stages import training as stage
from trainwright.core import params
from trainwright.core.errors import ChildError, InputError
from trainwright.core.layout import Layout, digest
from trainwright.core.params import Training
from trainwright.core.process import RANKS, Run
from trainwright.engine import ranks
from trainwright.engine.batching import MicroBatches, SimilarLengths
from trainwright.engine.training import divide

SETTINGS = {"learning_rate": 3e-3, "precision": "float32", "early_stopping": 0, "checkpoint_every": 4, "warmup": 0.0}


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of 45 training rows and a model of two layers, ready to train."""
    root = tmp_path_factory.mktemp("ranks").resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        classification.through(classification.project(root, classification.one_label, "en", "{}", 1), "tokenization")
    return root


class Project:
    """The project, trained with given settings by as many processes as are asked for."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.patch = root, patch
        self.checkpoints = Layout(root, "tiny").checkpoints
        self.output = Layout(root, "tiny").stage("training")
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        patch.chdir(root)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")

    def settings(self, **more: Any) -> None:
        text = (self.root / "params.yaml").read_text(encoding="utf-8")
        section = json.dumps({**SETTINGS, **more})
        lines = [f"    training: {section}" if x.startswith("    training:") else x for x in text.splitlines()]
        (self.root / "params.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def train(self, processes: int) -> dict[str, Any]:
        """The facts; in this process and those that it starts."""
        import torch

        torch.set_num_threads(1)
        self.patch.setenv(ranks.PROCESSES, str(processes))
        stage.main(Run(Layout(self.root, "tiny"), params.load(self.root / "params.yaml").pipeline("tiny")))
        facts: dict[str, Any] = json.loads((self.output / "facts.json").read_text())
        return facts

    def begin(self) -> "subprocess.Popen[str]":
        """The stage as DVC runs it, with two processes under it."""
        return subprocess.Popen(
            [sys.executable, "-m", "stages.training", "tiny"],
            env={**os.environ, ranks.PROCESSES: "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kept(self, step: int) -> None:
        """Wait for a whole checkpoint at or after a step."""
        wait(lambda: any(s >= step for s in self.steps()), 120, f"no checkpoint of step {step} was kept")

    def whole(self) -> list[Path]:
        """The whole checkpoints; none while a training that begins clears its folder."""
        with suppress(FileNotFoundError):
            return [path.parent for path in self.checkpoints.glob("*/checkpoint-*/manifest.json")]
        return []

    def has_more_than(self, before: set[Path]) -> bool:
        return bool(set(self.whole()) - before)

    def steps(self) -> list[int]:
        return [int(path.name.split("-")[1]) for path in self.whole()]

    def curve(self, name: str) -> list[tuple[int, float]]:
        lines = (self.output / "live/plots/metrics" / name).read_text().splitlines()[1:]
        return [(int(step), float(value)) for step, value in (line.split("\t") for line in lines)]

    def weights(self) -> dict[str, Any]:
        from safetensors.numpy import load_file

        return load_file(self.output / "model/model.safetensors")


@pytest.fixture
def project(tokenized: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    yield Project(tokenized, monkeypatch)


def in_ranks(project: Project, code: str) -> None:
    """Code that Python runs at the start of each process of a training, and of no other."""
    folder = project.root / "site"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(f"import os\nif {RANKS!r} in os.environ:\n    {code}\n")
    project.patch.setenv("PYTHONPATH", f"{folder}:{ROOT}")


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one_with_doubled_accumulation(project: Project) -> None:
    """45 rows in steps of 8: the last step of an epoch has 5, which two micro-batches cannot share evenly."""
    project.settings(epochs=8, batch_size=4, accumulation=2, dropout=0.0)
    one = project.train(1)
    losses, validation, weights = (
        project.curve("train/loss.tsv"),
        project.curve("validation/loss.tsv"),
        project.weights(),
    )
    two = project.train(2)
    assert (one["processes"], one["batch_size"], one["accumulation"], one["steps"]) == (1, 4, 2, 48)
    assert (two["processes"], two["batch_size"], two["accumulation"], two["steps"]) == (2, 4, 1, 48)
    assert losses[-1][1] < losses[0][1] / 2  # something is learnt, so that a wrong gradient would show
    for mine, theirs in ((losses, project.curve("train/loss.tsv")), (validation, project.curve("validation/loss.tsv"))):
        assert [step for step, _ in mine] == [step for step, _ in theirs]
        assert [loss for _, loss in mine] == pytest.approx([loss for _, loss in theirs], abs=1e-6)
    for name, values in project.weights().items():
        np.testing.assert_allclose(values, weights[name], atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_two_processes_told_to_end_and_then_killed_are_resumed_to_the_same_weights(project: Project) -> None:
    """With dropout, whose masks each process draws by itself. Nothing of a killed training goes on."""
    project.settings(epochs=12, batch_size=8)
    project.train(2)
    whole = digest(project.output / "model/model.safetensors"), project.curve("validation/loss.tsv")
    shutil.rmtree(project.output)

    child = project.begin()
    try:
        project.kept(4)
        child.terminate()
        _, said = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 143
    assert said.startswith("training: told to end, at step ")
    assert said.count("\n") == 1
    stopped = max(project.steps())
    assert f"at step {stopped} of 72" in said

    child = project.begin()
    try:
        project.kept(stopped + 8)
    finally:
        child.kill()
        child.wait()
    wait(
        lambda: not [c for c in processes_in(project.root) if "stages.training" in c], 60, "a process outlived the kill"
    )

    assert project.train(2)["processes"] == 2
    assert (digest(project.output / "model/model.safetensors"), project.curve("validation/loss.tsv")) == whole


@pytest.mark.slow
def test_only_the_code_that_a_checkpoint_was_made_with_goes_on_from_it(project: Project) -> None:
    """Otherwise weights of the older code would be recorded as those of the newer."""
    project.settings(epochs=12, batch_size=8)
    code = project.root / "stages" / "own.py"
    code.parent.mkdir(exist_ok=True)
    graph = {"foreach": {"tiny": {}}, "do": {"cmd": "true", "deps": ["stages/own.py"], "outs": ["none"]}}
    (project.root / "dvc.yaml").write_text(json.dumps({"stages": {"training": graph}}))
    said = []
    for text in ("one = 1", "one = 2", "one = 1"):
        code.write_text(text)
        before = set(project.whole())
        child = project.begin()
        try:
            wait(partial(project.has_more_than, before), 120, "no checkpoint was kept")
            child.terminate()
            said.append(child.communicate(timeout=60)[0])
        finally:
            child.kill()
    (project.root / "dvc.yaml").unlink()
    assert ["going on from checkpoint-" in each for each in said] == [False, False, True], said


@pytest.mark.slow
def test_where_memory_runs_out_in_a_process_all_of_them_take_smaller_batches(project: Project, capfd) -> None:
    """A real model on which no more than two rows fit."""
    in_ranks(project, "import scarce")
    (project.root / "site" / "scarce.py").write_text(SCARCE)
    project.settings(epochs=1, batch_size=8, dropout=0.0)
    facts = project.train(2)
    assert (facts["batch_size"], facts["accumulation"], facts["processes"], facts["steps"]) == (2, 2, 2, 6)
    said = capfd.readouterr()
    assert said.out.count("out of memory; trying a batch of 2, accumulated 2 times") == 1
    assert "Traceback" not in said.out + said.err


SCARCE = """
import torch, transformers
forward = transformers.BertForSequenceClassification.forward
def scarce(model, input_ids, **rest):
    if model.training and len(input_ids) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return forward(model, input_ids, **rest)
transformers.BertForSequenceClassification.forward = scarce
"""

FAILS = """
import json, os, signal, sys, time
from pathlib import Path
if os.environ["RANK"] == "1":
    {how}
time.sleep(600)
"""
SAYS = (
    'Path(os.environ["TRAINWRIGHT_RANKS"], "1.json").write_text(json.dumps({"exit_code": 2, "message": "rows.jsonl"}))'
)


@pytest.mark.parametrize(
    ("how", "words", "code"),
    [
        (f"{SAYS}; sys.exit(2)", "rows.jsonl", 2),
        ("os.kill(os.getpid(), signal.SIGKILL)", "The training process of rank 1 was ended by SIGKILL.", 3),
    ],
)
def test_a_process_that_fails_ends_all_in_its_own_words(how: str, words: str, code: int, tmp_path: Path, capfd) -> None:
    """While the other waits for it, as in a sum over both."""
    with pytest.raises((ChildError, ranks.MachineryError)) as failed:
        ranks.launch(["-c", FAILS.replace("{how}", how)], 2, tmp_path / "ranks", {})
    assert str(failed.value).startswith(words)
    assert failed.value.exit_code == code
    assert capfd.readouterr().err == ""
    assert RANKS not in os.environ
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2))
def test_a_step_has_the_same_rows_however_it_is_divided(
    rows: int, batch: int, accumulation: int, processes: int, halvings: int
) -> None:
    settings = Training(batch_size=batch, accumulation=accumulation)
    order = SimilarLengths(np.arange(rows, dtype=np.int32), batch, seed=3)
    division = divide(settings, processes, halvings)
    shares = [list(MicroBatches(order, division.rows, division.parts, r, processes)) for r in range(processes)]
    loaders = [MicroBatches(order, division.rows, division.parts, r, processes) for r in range(processes)]
    assert [len(share) for share in shares] == [len(loader) for loader in loaders] == [len(loaders[0])] * processes
    micro = [part for together in zip(*shares, strict=True) for part in together]
    steps = [list(chain(*micro[at : at + division.parts])) for at in range(0, len(micro), division.parts)]
    whole = list(order)
    assert steps == [whole[at : at + batch * accumulation] for at in range(0, rows, batch * accumulation)]
    assert [len(step) for step in steps] == [loaders[0].rows_of(step) for step in range(loaders[0].steps)]
    assert max(map(len, micro)) <= division.batch
    for at in range(0, len(micro), division.parts):
        sizes = [len(part) for part in micro[at : at + division.parts]]
        assert max(sizes) - min(sizes) <= 1
    if not halvings and accumulation % processes == 0:  # then each is a batch that one process has too
        assert division.parts == accumulation


@pytest.mark.parametrize("said", ["0", "two", "-1", "²"])
def test_a_number_of_processes_that_is_none_is_said_to_be_none(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ranks.PROCESSES, said)
    with pytest.raises(InputError, match=f"'{said}' is no number of processes"):
        ranks.count()


def test_a_step_is_given_to_no_more_processes_than_it_has_rows(project: Project, monkeypatch, capsys) -> None:
    from trainwright.engine import training

    monkeypatch.setenv(ranks.PROCESSES, "5")
    assert training._processes(Training(batch_size=1, accumulation=3)) == 3
    assert capsys.readouterr().out == "training: on 3 of 5 devices, since a step has 3 rows\n"
