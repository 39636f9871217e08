"""Features are what the tokenizer itself makes of texts and pairs, and batches give the losses of the model's own."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright.core.errors import InputError
from trainwright.engine.batching import FeatureTable
from trainwright.tasks.classification import features, model
from trainwright.tasks.classification.params import Tokenization
from trainwright.tasks.classification.rows import SCHEMA

LETTERS = "abcdefg ,.房间很好é🦊"
ONE = {"gold": "label", "pair": False, "labels": ["a", "b"]}


def bert(**options: Any) -> Any:
    import transformers

    letters = [letter for letter in LETTERS if not letter.isspace() and letter != "🦊"]
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    return transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=64, **options)


def table(texts: list[str], second: list[str] | None = None, **gold: list[Any]) -> pa.Table:
    made = [
        {"id": f"r{i}", "group": "g", "text": text, "text_b": second[i] if second else ""}
        | {name: values[i] for name, values in gold.items()}
        for i, text in enumerate(texts)
    ]
    return pa.Table.from_pylist(made, schema=SCHEMA)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.text(LETTERS, min_size=1, max_size=40)] * 2), min_size=1, max_size=6),
    st.booleans(),
    st.integers(5, 30),
    st.sampled_from(["left", "right"]),
)
def test_features_are_those_of_the_tokenizer_token_for_token(
    pairs: list[tuple[str, str]], pair: bool, longest: int, side: str
) -> None:
    tokenizer = bert(truncation_side=side)
    first, second = (list(texts) for texts in zip(*[(f"a{a}", f"b{b}") for a, b in pairs], strict=True))
    rows = table(first, second if pair else None, label=["a"] * len(pairs))
    section = Tokenization(max_length=longest)
    found, faults = features.features(rows, tokenizer, section, "f", {**ONE, "pair": pair})
    assert faults == []
    expected = tokenizer(first, second if pair else None, truncation=True, max_length=longest)
    whole = tokenizer(first, second if pair else None)
    assert found["input_ids"].to_pylist() == expected["input_ids"]
    assert found["token_type_ids"].to_pylist() == expected["token_type_ids"]
    assert found["truncated"].to_pylist() == [len(ids) > longest for ids in whole["input_ids"]]
    assert tokenizer.backend_tokenizer.truncation is None


def test_a_row_of_which_no_token_is_left_or_that_is_half_a_pair_is_named() -> None:
    rows = table(["a", "\u0301", "b"], label=["a", "b", "a"])
    found, (fault,) = features.features(rows, bert(), Tokenization(), "f.csv", ONE)
    assert (found["row"].to_pylist(), fault.id, fault.field) == ([0, 2], "r1", "text")
    _, faults = features.features(rows, bert(), Tokenization(), "f.csv", {**ONE, "pair": True})
    assert [fault.field for fault in faults] == ["text_b"] * 3
    _, faults = features.features(table(["a"], ["b"], label=["a"]), bert(), Tokenization(), "f.csv", ONE)
    assert "one text, not two" in faults[0].reason


def test_labels_and_the_scale_of_numbers_are_learned_from_every_piece_of_train() -> None:
    pieces = [table(["a"], label=["é"]), table(["b"], label=["a"]), table([])]
    assert features.learn(pieces, None, Tokenization()) == {"gold": "label", "pair": False, "labels": ["a", "é"]}
    several = [table(["a", "b"], ["c", "d"], labels=[["z", "b"], []])]
    assert features.learn(several, None, Tokenization()) == {"gold": "labels", "pair": True, "labels": ["b", "z"]}
    numbers = features.learn([table(["a"], value=[1.0]), table(["b"], value=[3.0])], None, Tokenization())
    assert (numbers["mean"], numbers["scale"]) == (2, 1)
    made, _ = features.features(table(["a"], value=[3.5]), bert(), Tokenization(), "f", numbers)
    assert made["target"].to_pylist() == [[1.5]]


def test_rows_to_be_predicted_have_features_without_labels() -> None:
    for learned in (ONE, {**ONE, "gold": "labels"}, {"gold": "value", "pair": False, "mean": 2.0, "scale": 1.0}):
        found, faults = features.features(table(["a", "b"]), bert(), Tokenization(), "f", learned)
        assert (found.num_rows, faults) == (2, [])


@pytest.mark.parametrize(
    ("pad", "longest", "says"),
    [
        ("[PAD]", 65, "longer than the model's 64"),
        ("[PAD]", 4, "no room for two texts"),
        (None, 16, "no padding token"),
    ],
)
def test_a_tokenizer_that_cannot_serve_is_refused(pad: str | None, longest: int, says: str) -> None:
    tokenizer = bert()
    tokenizer.pad_token = pad
    with pytest.raises(InputError, match=says):
        features.check_tokenizer(tokenizer, Tokenization(max_length=longest))


LEARNED = {
    "label": (ONE, {"label": ["a", "b", "a"]}),
    "labels": ({**ONE, "gold": "labels"}, {"labels": [["a"], [], ["a", "b"]]}),
    "value": ({"gold": "value", "pair": False, "mean": 2.0, "scale": 0.5}, {"value": [1.0, 2.0, 9.0]}),
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("gold", LEARNED)
def test_the_loss_is_the_models_own_and_padding_on_either_side_changes_nothing(gold: str, side: str) -> None:
    import torch
    import transformers

    learned, labels = LEARNED[gold]
    tokenizer = bert(padding_side=side)
    rows = table(["a", "bcd efg", "很好, a"], **labels)
    made, _ = features.features(rows, tokenizer, Tokenization(), "f", learned)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    for name, value in model.settings(learned).items():
        setattr(config, name, value)
    torch.manual_seed(0)
    network = transformers.BertForSequenceClassification(config).eval()
    batch = model.collate(FeatureTable(made).__getitems__([0, 1, 2]), tokenizer, True)
    expected = tokenizer.pad({"input_ids": made["input_ids"].to_pylist()}, return_tensors="pt")
    assert batch["input_ids"].tolist() == expected["input_ids"].tolist()
    assert batch["attention_mask"].tolist() == expected["attention_mask"].tolist()
    with torch.inference_mode():
        output = network(**batch)
    assert float(model.loss(output, batch)) == pytest.approx(float(output.loss), rel=1e-5)
    assert model.agreement(output, batch)[1] == 3
    assert [len(pair[1]) for pair in model.targets(output, batch)] == ([3] if gold == "label" else [])
    raw = model.outputs(network, output, batch, made, tokenizer, None)
    logits = np.array(raw["logits"].to_pylist())
    scaled = output.logits.numpy() * (0.5 if gold == "value" else 1) + (2 if gold == "value" else 0)
    assert logits == pytest.approx(scaled, abs=1e-5)
