"""LoRA on a tiny model: what trains, what is kept, that it loads with its base model and resumes to the bit."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_training import KILLED, ROOT, run_training, tiny  # noqa: F401

from trainwright.core.layout import digest
from trainwright.core.params import Lora, Training
from trainwright.engine.batching import FeatureTable
from trainwright.tasks.qa import model as part

LORA = Training(
    epochs=3, batch_size=8, learning_rate=3e-3, checkpoint_every=7, early_stopping=0, adapter="lora", lora=Lora(rank=4)
)


def exported(tiny: Path, out: Path, settings: Training) -> Path:  # noqa: F811
    """The folder of a model trained under `settings`, as the training stage leaves it."""
    import transformers

    from trainwright.engine.training import Job, export

    trained = run_training(tiny, out, settings)
    data = {name: FeatureTable.open(tiny / f"{name}.arrow") for name in ("train", "validation")}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "base")
    job = Job(part, tiny / "base", {}, tokenizer, data, settings, out / "run", out / "live")
    (out / "model").mkdir()
    export(job, trained, out / "model", "folder:elsewhere")
    (out / "facts.json").write_text(json.dumps(trained.facts))
    return out / "model"


@pytest.fixture(scope="module")
def merged(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A model's folder with an adapter and the merged weights."""
    settings = LORA.model_copy(update={"lora": Lora(rank=4, merge=True)})
    return exported(tiny, tmp_path_factory.mktemp("merged"), settings)


def logits(model, tiny: Path):  # noqa: F811
    import torch
    import transformers

    table = FeatureTable.open(tiny / "validation.arrow")
    batch = part.collate(
        table.__getitems__(range(8)), transformers.AutoTokenizer.from_pretrained(tiny / "base"), labels=True
    )
    with torch.no_grad():
        return model.eval()(**batch).start_logits


def test_only_the_adapter_and_the_new_head_train_and_they_learn(merged):
    facts = json.loads((merged.parent / "facts.json").read_text())
    assert facts["trained_parameters"] < 0.3 * facts["parameters"]
    assert facts["last_loss"] < 0.8 * facts["first_loss"]
    from safetensors.numpy import load_file

    names = load_file(merged / "adapter" / "adapter_model.safetensors")
    assert {name.rpartition(".")[0].split(".")[-1] for name in names} >= {"lora_A", "lora_B", "qa_outputs"}
    assert all("lora_" in name or "qa_outputs" in name for name in names)


def test_the_adapter_over_its_base_answers_as_the_merged_weights_do(merged, tiny, tmp_path):  # noqa: F811
    import torch

    from trainwright.engine import adapters
    from trainwright.engine.prediction import load_model

    bare = tmp_path / "bare"
    shutil.copytree(merged, bare)
    (bare / "model.safetensors").unlink()
    assert adapters.there(bare) and not adapters.there(merged)
    over_base = logits(adapters.load_trained(part.AUTO_CLASS, bare, lambda: tiny / "base"), tiny)
    torch.testing.assert_close(over_base, logits(load_model(part.AUTO_CLASS, merged), tiny), rtol=1e-5, atol=1e-5)


def test_an_adapter_names_its_base_model_and_no_path_of_the_machine(merged, tiny):  # noqa: F811
    assert json.loads((merged / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == (
        "folder:elsewhere"
    )
    for path in merged.rglob("*.json"):
        assert str(tiny) not in path.read_text(), path.name


def test_without_a_wish_to_merge_no_whole_weights_are_written(tiny, tmp_path):  # noqa: F811
    folder = exported(tiny, tmp_path, LORA.model_copy(update={"epochs": 1}))
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "config.json",
    ]


def test_a_killed_adapter_training_resumes_to_the_same_weights(tiny, tmp_path):  # noqa: F811
    whole = run_training(tiny, tmp_path / "whole", LORA)
    places = {"root": str(ROOT), "tests": str(ROOT / "tests"), "tiny": str(tiny), "out": str(tmp_path / "killed")}
    code = KILLED.format(die="checkpoint-35", settings="__import__('test_adapters').LORA", **places)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({places['tests']!r}); import test_adapters\n{code}"],
        cwd=ROOT,
    )
    assert done.returncode == -signal.SIGKILL
    resumed = run_training(tiny, tmp_path / "killed", LORA)
    assert digest(resumed.weights / "adapter_model.safetensors") == digest(whole.weights / "adapter_model.safetensors")
    assert resumed.facts == whole.facts


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
@pytest.mark.parametrize("auto_class", ["AutoModelForMaskedLM", "AutoModelForTokenClassification"])
def test_whole_weights_are_those_of_the_adapter_over_its_base_where_weights_are_tied(auto_class, family, tmp_path):
    """An encoder's new head for filling in words decodes with the embeddings."""
    import torch
    import transformers

    from trainwright.engine import adapters, prediction

    config = getattr(transformers, f"{family}Config")(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    base, folder, weights = (tmp_path / name for name in ("base", "model", "weights"))
    getattr(transformers, f"{family}Model")(config).save_pretrained(base)
    model, new = prediction.load_base(auto_class, base, base, {})
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    trained = adapters.add(model, new, Lora())
    for name, weight in trained.named_parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight)
            assert "decoder" not in name
            assert "lora_" in name or ".encoder." not in name
    trained.save_pretrained(weights)
    adapters.keep(weights, folder, "folder:elsewhere")
    over_base = adapters.load(auto_class, folder, base)
    over_base.save_pretrained(folder)
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        expected = trained.eval()(input_ids=ids).logits
        for found in (over_base, prediction.load_model(auto_class, folder)):
            torch.testing.assert_close(found.eval()(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
