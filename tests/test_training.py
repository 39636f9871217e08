"""Training on a tiny model: what it resumes from, what stops it, what it optimizes."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwright.core import process
from trainwright.core.errors import InputError, MachineryError
from trainwright.core.layout import digest
from trainwright.core.params import Training, TrainingGate
from trainwright.engine import checkpoints
from trainwright.engine.batching import FeatureTable, SimilarLengths, longest_first
from trainwright.engine.prediction import precision_on
from trainwright.gates import models
from trainwright.gates.promises import Checked
from trainwright.tasks.qa import model as part

ROOT = Path(__file__).parent.parent
VOCABULARY = 40


def features(path: Path, rows: int, seed: int, lengths: tuple[int, int] = (12, 60)) -> None:
    """Windows whose answer is the one token over 30: a tiny model can learn it."""
    draw = random.Random(seed)
    columns: dict[str, list] = {name: [] for name in (
        "row", "input_ids", "token_type_ids", "context_start", "start_char", "end_char",
        "null_position", "start_position", "end_position",
    )}  # fmt: skip
    for row in range(rows):
        length, first = draw.randint(*lengths), 5
        ids = [1, *[draw.randint(5, 30) for _ in range(length - 1)]]
        answer = draw.randint(first, length - 1)
        ids[answer] = draw.randint(31, VOCABULARY - 1)
        context = length - first
        values = (
            row, ids, [0] * first + [1] * context, first, list(range(0, 2 * context, 2)),
            list(range(1, 2 * context, 2)), 0, answer, answer,
        )  # fmt: skip
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    lists = {"input_ids": pa.int32(), "token_type_ids": pa.int8(), "start_char": pa.int32(), "end_char": pa.int32()}
    schema = pa.schema([(name, pa.list_(lists[name]) if name in lists else pa.int32()) for name in columns])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.table(columns, schema=schema), max_chunksize=37)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-layer BERT, its tokenizer and features of a task that it can learn."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder / "base")
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *[f"w{n}" for n in range(5, VOCABULARY)]]
    transformers.BertTokenizer(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder / "base")
    features(folder / "train.arrow", 200, 1)
    features(folder / "validation.arrow", 40, 2)
    return folder


def run_training(tiny: Path, out: Path, settings: Training | None = None, base: str = "base"):
    import torch
    import transformers

    from trainwright.engine.training import Job, train

    torch.set_num_threads(1)
    data = {name: FeatureTable.open(tiny / f"{name}.arrow") for name in ("train", "validation")}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "base")
    return train(Job(part, tiny / base, {}, tokenizer, data, settings or SETTINGS, out / "run", out / "live"))


SETTINGS = Training(epochs=3, batch_size=8, learning_rate=3e-3, checkpoint_every=7, early_stopping=0)

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import test_training
from trainwright.engine import checkpoints
seal = checkpoints.seal
def seal_and_die(folder, progress):
    seal(folder, progress)
    if folder.name == {die!r}:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoints.seal = seal_and_die
test_training.run_training(Path({tiny!r}), Path({out!r}), {settings})
"""


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory):
    """A training that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    return run_training(tiny, out), out


def killed_at(checkpoint: str, tiny: Path, out: Path) -> None:
    places = {"root": str(ROOT), "tests": str(ROOT / "tests"), "tiny": str(tiny), "out": str(out)}
    code = KILLED.format(die=checkpoint, settings=None, **places)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("checkpoint", ["checkpoint-7", "checkpoint-25", "checkpoint-42"])
def test_a_training_killed_and_resumed_ends_in_the_same_weights(checkpoint, tiny, whole, tmp_path, capsys):
    killed_at(checkpoint, tiny, tmp_path)
    resumed = run_training(tiny, tmp_path)
    assert f"going on from {checkpoint}" in capsys.readouterr().out
    assert digest(resumed.weights / "model.safetensors") == digest(whole[0].weights / "model.safetensors")
    assert resumed.facts == whole[0].facts


TOLD_TO_END = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import test_training
from trainwright.core.process import Terminated
from trainwright.engine import training
step = training._Trainer.training_step
def step_and_signal(self, *arguments, **named):
    if self.state.global_step == {step} - 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *arguments, **named)
training._Trainer.training_step = step_and_signal
try:
    test_training.run_training(Path({tiny!r}), Path({out!r}))
except Terminated as error:
    print(error)
"""


@pytest.mark.parametrize("step", [10, 17, 25])
def test_a_training_told_to_end_keeps_a_checkpoint_of_that_step_and_is_resumed_to_the_same_weights(
    step, tiny, whole, tmp_path, capsys
):
    """In mid-epoch, where its loss is logged and where it is not, and at the last step of one, whose evaluation comes
    before the checkpoint."""
    code = TOLD_TO_END.format(step=step, root=str(ROOT), tests=str(ROOT / "tests"), tiny=str(tiny), out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert f"told to end, at step {step} of 75" in done.stdout, done.stderr
    assert ("validation loss" in done.stdout) == (step == 25)  # one of a part of an epoch would be of no use
    assert checkpoints.newest(tmp_path / "run")[0].name == f"checkpoint-{step}"
    resumed = run_training(tiny, tmp_path)
    assert f"going on from checkpoint-{step}" in capsys.readouterr().out
    assert digest(resumed.weights / "model.safetensors") == digest(whole[0].weights / "model.safetensors")
    assert resumed.facts == whole[0].facts
    assert curves(tmp_path) == curves(whole[1])


def curves(out: Path) -> dict[str, str]:
    folder = out / "live/plots/metrics"
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.tsv")}


def test_the_curves_of_a_resumed_training_are_those_of_a_whole_one(tiny, whole, tmp_path):
    killed_at("checkpoint-35", tiny, tmp_path)
    run_training(tiny, tmp_path)
    assert curves(tmp_path) == curves(whole[1])
    assert {"train/loss.tsv", "validation/loss.tsv"} <= curves(tmp_path).keys()


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_loss_has_fallen_only_where_there_are_two_steps_to_compare(epochs, tiny, tmp_path):
    one_batch = SETTINGS.model_copy(update={"epochs": epochs, "batch_size": 200})
    facts = run_training(tiny, tmp_path, one_batch).facts
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    promises = models.trained(Checked(tmp_path, Path), TrainingGate())
    (drop,) = [promise for promise in islice(promises, 4) if promise.name == "loss_drop"]
    assert facts["steps"] == epochs
    if epochs == 1:
        assert (facts["last_loss"], drop.value) == (None, None)
    else:
        assert drop.value == facts["first_loss"] - facts["last_loss"]


def test_training_learns_and_its_facts_say_so(whole):
    facts = whole[0].facts
    assert facts["last_loss"] < facts["first_loss"] / 2
    assert facts["validation"][-1]["eval_agreement"] > 90
    assert facts["steps"] == 75
    assert facts["precision"] in {"float32", "bfloat16"}


def damaged(tiny: Path, out: Path, damage) -> Path:
    killed_at("checkpoint-14", tiny, out)
    damage(out / "run" / "checkpoint-14")
    return out


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "optimizer.pt").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "rng_state.pth").write_bytes(b""),
        lambda folder: flip_a_bit(folder / "model.safetensors"),
    ],
    ids=["optimizer missing", "manifest missing", "random state empty", "a bit flipped in the weights"],
)
def test_a_checkpoint_that_is_not_whole_is_passed_over(damage, tiny, whole, tmp_path, capsys):
    run_training(tiny, damaged(tiny, tmp_path, damage))
    printed = capsys.readouterr().out
    assert "checkpoint-14 is not whole" in printed
    assert "going on from checkpoint-7" in printed
    weights = next((tmp_path / "run").glob("best-*/model.safetensors"))
    assert digest(weights) == digest(whole[0].weights / "model.safetensors")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


def test_a_terminal_has_a_bar_with_the_loss_beside_it_and_epochs_in_words(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(process.TERMINAL, "1")
    run_training(tiny, tmp_path, SETTINGS.model_copy(update={"epochs": 2}))
    said = capsys.readouterr()
    assert re.search(r"50/50 .*loss \d\.\d{3}\]", said.err)
    told = said.out + said.err
    assert re.findall(r"training: epoch (\d) of 2: validation loss \d\.\d{3}, [\d.]+% right", told) == ["1", "2"]
    assert "{'" not in told


def test_a_checkpoint_of_another_number_of_threads_is_not_resumed(tiny, tmp_path, capsys):
    killed_at("checkpoint-7", tiny, tmp_path)
    folder = tmp_path / "run" / "checkpoint-7"
    progress = checkpoints.progress(folder)
    progress["machine"]["threads"] = 64
    checkpoints.seal(folder, progress)
    run_training(tiny, tmp_path)
    assert "not resumed here" in capsys.readouterr().out


def test_a_loss_that_is_no_number_stops_training_within_one_step(tiny, tmp_path):
    with pytest.raises(InputError, match=r"loss became nan at step 1\b.*Lower the learning rate"):
        run_training(tiny, tmp_path, base=str(poisoned(tiny, tmp_path)))


def poisoned(tiny: Path, tmp_path: Path) -> Path:
    """The base model with one weight that is no number."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "poisoned"
    shutil.copytree(tiny / "base", folder)
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if "LayerNorm.weight" in n)
    weights[name] = np.full_like(weights[name], np.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


class ScarceMemory:
    """A device on which a batch of more than `most` rows does not fit: real training code over a real model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        import torch
        import transformers

        forward = transformers.BertForQuestionAnswering.forward

        def scarce(model, input_ids, **rest):
            if model.training and len(input_ids) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(model, input_ids, **rest)

        monkeypatch.setattr(transformers.BertForQuestionAnswering, "forward", scarce)


def test_out_of_memory_halves_the_batch_and_doubles_the_accumulation(tiny, tmp_path, monkeypatch, capsys):
    ScarceMemory(monkeypatch, most=2)
    facts = run_training(tiny, tmp_path).facts
    assert (facts["batch_size"], facts["accumulation"], facts["steps"]) == (2, 4, 75)
    assert capsys.readouterr().out.count("out of memory; trying a batch of") == 2


def test_a_batch_is_halved_twice_at_most(tiny, tmp_path, monkeypatch):
    ScarceMemory(monkeypatch, most=1)
    with pytest.raises(MachineryError, match="ran out of memory at a batch of 2"):
        run_training(tiny, tmp_path)


def test_early_stopping_ends_training_and_keeps_the_best_weights(tiny, tmp_path):
    settings = Training(epochs=20, batch_size=8, learning_rate=0.5, early_stopping=2, warmup=0.0)
    facts = run_training(tiny, tmp_path, settings).facts
    assert facts["ended_early"]
    assert facts["best_loss"] == min(entry["eval_loss"] for entry in facts["validation"])
    assert facts["validation"][-1]["epoch"] == facts["validation"][-3]["epoch"] + 2


def test_the_best_weights_are_those_of_the_highest_agreement_where_that_is_asked_for(tiny, tmp_path):
    """At a rate that is too high the loss soon rises, and agreement with it."""
    settings = Training(epochs=6, batch_size=8, learning_rate=0.02, early_stopping=0, warmup=0.0, best_by="agreement")
    trained = run_training(tiny, tmp_path, settings)
    found = trained.facts["validation"]
    best = max(found, key=lambda entry: entry["eval_agreement"])  # the first of several
    assert best["eval_loss"] != min(entry["eval_loss"] for entry in found)
    assert (trained.facts["best_step"], trained.facts["best_loss"]) == (best["step"], best["eval_loss"])
    assert trained.weights.name == f"best-{best['step']}"


def test_adamw_decays_weights_apart_from_the_gradient():
    """One step by hand after Loshchilov and Hutter (2019): θ − η·(m̂/(√v̂ + ε) + λθ)."""
    import torch

    from trainwright.engine.layers import parameter_groups

    layer = torch.nn.Linear(3, 1).double()
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    settings = Training(learning_rate=0.1, weight_decay=0.5)
    optimizer = torch.optim.AdamW(parameter_groups(layer, settings, ["weight"]), lr=0.1, fused=True)
    layer(torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in layer.named_parameters()}
    optimizer.step()
    for name, parameter in layer.named_parameters():
        gradient, start = gradients[name], before[name]
        m_hat, v_hat = 0.1 * gradient / (1 - 0.9), 0.001 * gradient**2 / (1 - 0.999)
        decay = 0.5 if name == "weight" else 0.0
        expected = start - 0.1 * (m_hat / (v_hat.sqrt() + 1e-8) + decay * start)
        torch.testing.assert_close(parameter.detach(), expected)


def loaded(tiny: Path):
    from trainwright.engine.prediction import load_model

    return load_model(part.AUTO_CLASS, tiny / "base", {})


@pytest.mark.parametrize(
    ("device", "native", "wanted", "got"),
    [
        ("cuda", True, "auto", "bfloat16"),
        ("cuda", False, "auto", "float32"),
        ("cpu", True, "auto", "bfloat16"),
        ("cpu", False, "auto", "float32"),
        ("cpu", False, "bfloat16", "bfloat16"),
        ("cuda", False, "float32", "float32"),
    ],
)
def test_the_precision_is_what_the_machine_has_unless_it_is_said(device, native, wanted, got):
    assert precision_on(device, native, wanted) == got


def test_bfloat16_on_a_cuda_device_without_it_is_a_wrong_parameter():
    with pytest.raises(InputError, match=r"training\.precision.*has no bfloat16"):
        precision_on("cuda", False, "bfloat16")


def test_bias_and_normalisation_are_not_decayed(tiny, tmp_path):
    from transformers import Trainer, TrainingArguments

    from trainwright.engine.layers import parameter_groups

    model = loaded(tiny)
    trainer = Trainer(model, TrainingArguments(output_dir=str(tmp_path), report_to="none"))
    groups = parameter_groups(model, Training(weight_decay=0.1), trainer.get_decay_parameter_names(model))
    free = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in free) == (name.endswith("bias") or "LayerNorm" in name), name


def test_the_rate_falls_by_layer_from_the_head_down(tiny):
    from trainwright.engine.layers import parameter_groups

    model = loaded(tiny)
    groups = parameter_groups(model, Training(learning_rate=0.1, layer_decay=0.5), [])
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in model.named_parameters()}
    assert named["qa_outputs.weight"] == pytest.approx(0.1)
    assert named["bert.encoder.layer.1.output.dense.weight"] == pytest.approx(0.05)
    assert named["bert.encoder.layer.0.output.dense.weight"] == pytest.approx(0.025)
    assert named["bert.embeddings.word_embeddings.weight"] == pytest.approx(0.0125)


@pytest.mark.parametrize(
    ("wish", "frozen"),
    [
        ("", set()),
        ("embeddings", {"bert.embeddings."}),
        ("first 1", {"bert.encoder.layer.0."}),
        ("embeddings, first 1", {"bert.embeddings.", "bert.encoder.layer.0."}),
    ],
)
def test_frozen_parts_do_not_train(wish, frozen, tiny):
    from trainwright.engine.layers import freeze

    model = loaded(tiny)
    freeze(model, Training(freeze=wish))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != any(name.startswith(part) for part in frozen), name


@pytest.mark.parametrize(
    ("kind", "frozen"),
    [
        ("GPT2LMHeadModel", {"transformer.wte.", "transformer.wpe.", "transformer.h.0."}),
        ("T5ForConditionalGeneration", {"shared.", "encoder.block.0.", "decoder.block.0."}),
    ],
)
def test_embeddings_and_layers_are_known_under_the_names_of_other_architectures(kind, frozen):
    import transformers

    from trainwright.engine.layers import freeze

    small = {"n_layer": 2, "n_embd": 16, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    small |= {"num_layers": 2, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2}
    model = getattr(transformers, kind)(getattr(transformers, kind).config_class(vocab_size=50, **small))
    freeze(model, Training(freeze="embeddings, first 1"))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != any(name.startswith(part) for part in frozen), name


def test_what_a_model_does_not_have_cannot_be_frozen(tiny):
    import torch

    from trainwright.engine.layers import freeze

    with pytest.raises(InputError, match=r"training\.freeze.*has 2 layers. Name at most 2") as error:
        freeze(loaded(tiny), Training(freeze="embeddings, first 3"))
    assert error.value.faults[0].file == "params.yaml"
    with pytest.raises(InputError, match="no numbered layers"):
        freeze(torch.nn.Linear(2, 2), Training(freeze="first 1"))
    with pytest.raises(InputError, match="no embeddings"):
        freeze(torch.nn.Linear(2, 2), Training(freeze="embeddings"))


@given(st.lists(st.integers(1, 400), min_size=1, max_size=300), st.integers(1, 16), st.integers(0, 5))
def test_every_epoch_sees_every_row_once_in_an_order_of_its_own(lengths, batch, epoch):
    sampler = SimilarLengths(np.array(lengths, dtype=np.int32), batch, seed=3)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(epoch * len(lengths), (epoch + 1) * len(lengths)))  # the draw goes along
    assert order == list(sampler)


def test_batches_hold_rows_of_similar_length():
    lengths = np.random.default_rng(0).integers(10, 400, 5_000).astype(np.int32)
    order = SimilarLengths(lengths, 10, seed=0).order()[:5_000].reshape(-1, 10)
    padded = lengths[order].max(axis=1).sum() * 10
    assert padded < 1.03 * lengths.sum()
    assert lengths[order[0]].max() == lengths.max()


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 9))
def test_inference_sees_every_row_once_longest_first(lengths, batch):
    batches = list(longest_first(np.array(lengths, dtype=np.int32), batch))
    seen = [int(i) for chosen in batches for i in chosen]
    assert sorted(seen) == list(range(len(lengths)))
    assert [lengths[i] for i in seen] == sorted(lengths, reverse=True)


def test_a_feature_file_gives_back_what_was_written(tmp_path):
    features(tmp_path / "f.arrow", 100, 3)
    file = FeatureTable.open(tmp_path / "f.arrow")
    table = pa.ipc.open_stream(pa.memory_map(str(tmp_path / "f.arrow"))).read_all()
    assert len(file) == 100
    for index in (0, 36, 37, 99):
        expected = table.slice(index, 1).to_pylist()[0]
        row = file[index + 2 * len(file)]
        assert row.pop("draw") == 2
        assert {k: v if isinstance(v, int) else list(v) for k, v in row.items()} == expected
    assert list(file.lengths) == [len(ids) for ids in table["input_ids"].to_pylist()]


def test_padding_on_the_left_moves_the_labels(tmp_path):
    import transformers

    features(tmp_path / "f.arrow", 6, 3)
    rows = [FeatureTable.open(tmp_path / "f.arrow")[i] for i in range(6)]
    words = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "[MASK]": 4}
    for side in ("left", "right"):
        tokenizer = transformers.BertTokenizer(vocab=words, padding_side=side)
        batch = part.collate(rows, tokenizer, True)
        for i, row in enumerate(rows):
            assert batch["input_ids"][i, batch["start_positions"][i]] == row["input_ids"][row["start_position"]]
            assert batch["attention_mask"][i].sum() == len(row["input_ids"])
            real = batch["input_ids"][i][batch["attention_mask"][i].bool()]
            assert real.tolist() == list(row["input_ids"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_raw_outputs_keep_the_best_places_of_the_context_alone(side, tiny, tmp_path):
    import torch
    import transformers

    from trainwright.core.params import Evaluation
    from trainwright.engine.prediction import raw_outputs

    torch.manual_seed(1)
    model = loaded(tiny)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "base", padding_side=side)
    file = FeatureTable.open(tiny / "validation.arrow")
    table, loss = raw_outputs(model, part, file, tokenizer, Evaluation(batch_size=7, top=5), "float32")
    assert loss is not None
    for index, row in enumerate(table.to_pylist()):
        window = file[index]
        batch = part.collate([window], tokenizer, True)
        with torch.inference_mode():
            output = model(**batch)
        first, count = window["context_start"], len(window["start_char"])
        best = sorted(range(first, first + count), key=lambda t: -output.start_logits[0, t])[:5]
        assert row["row"] == index
        if side == "right":  # BERT's positions count from the left, so padding there changes the logits
            assert row["start_token"] == best
        assert row["start_char"] == [window["start_char"][t - first] for t in row["start_token"]]
        assert row["end_char"] == [window["end_char"][t - first] for t in row["end_token"]]
        assert all(first <= t < first + count for t in row["start_token"] + row["end_token"])
        assert row["start_logit"] == sorted(row["start_logit"], reverse=True)


def test_a_killed_training_leaves_nothing_that_looks_like_a_whole_checkpoint(tiny, tmp_path):
    """Killed at any moment, every checkpoint that has a manifest is one whose files all match it."""
    places = {"root": str(ROOT), "tests": str(ROOT / "tests"), "tiny": str(tiny), "out": str(tmp_path)}
    code = KILLED.format(die="never", settings=None, **places)
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    deadline, begun = time.monotonic() + 120, False
    while time.monotonic() < deadline and not begun:
        time.sleep(0.001)
        with suppress(FileNotFoundError):  # the folder may go while it is looked at: another takes its place
            begun = any((tmp_path / "run").glob("checkpoint-14*"))
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    sealed = [f for f in (tmp_path / "run").glob("checkpoint-*") if (f / "manifest.json").exists()]
    assert sealed
    assert all(json.loads((f / "manifest.json").read_text()) and checkpoints.progress(f) for f in sealed)


def test_the_loss_of_evaluation_is_weighted_by_example_and_not_by_batch(tiny, tmp_path):
    """Windows of one length, since padding adds positions to the softmax of a span model."""
    import transformers

    from trainwright.core.params import Evaluation
    from trainwright.engine.prediction import raw_outputs

    features(tmp_path / "even.arrow", 40, 4, lengths=(30, 30))
    model, file = loaded(tiny), FeatureTable.open(tmp_path / "even.arrow")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "base")
    losses = [
        raw_outputs(model, part, file, tokenizer, Evaluation(batch_size=size), "float32")[1] for size in (1, 7, 40)
    ]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)


def test_a_training_that_had_ended_early_when_it_was_killed_still_leaves_its_curves(tiny, tmp_path):
    settings = Training(epochs=20, batch_size=8, learning_rate=0.5, early_stopping=1, warmup=0.0)
    ended = run_training(tiny, tmp_path, settings)
    shutil.rmtree(tmp_path / "live")
    assert run_training(tiny, tmp_path, settings).facts == ended.facts
    assert (tmp_path / "live" / "metrics.json").is_file()
    assert (tmp_path / "live" / "plots" / "metrics" / "validation" / "loss.tsv").is_file()
