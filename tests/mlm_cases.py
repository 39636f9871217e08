"""What the tests of masked language modelling share: tokenizers of three styles, documents and their windows."""

import functools
import json
from typing import Any

import numpy as np
import pyarrow as pa
from conftest import ROOT

from trainwright.engine.batching import FeatureTable
from trainwright.tasks.mlm import features, model, rows
from trainwright.tasks.mlm.params import Tokenization

PASSAGES = [json.loads(line)["text"] for line in (ROOT / "data/sample/passages.jsonl").read_text().splitlines()]
MIXED = "Don't stop: 3.5 naïve déjà-vu cafés! 故宫在北京。 東京タワー 🦊🦊 สวัสดี unaffordable"


@functools.cache
def word_piece() -> Any:
    """BERT's style, with the whole word `unaffordable` in four pieces."""
    import transformers

    letters = sorted({letter for text in [*PASSAGES, MIXED] for letter in text.lower() if not letter.isspace()})
    marks = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    pieces = ["un", "##af", "##ford", "##able", "the", "of", "and", "in", "stop", "cafes"]
    vocabulary = list(dict.fromkeys([*marks, *pieces, *letters, *(f"##{letter}" for letter in letters)]))
    return transformers.BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, model_max_length=512)


@functools.cache
def byte_level() -> Any:
    """RoBERTa's style: bytes, a leading space as part of a token."""
    import tokenizers
    import transformers

    backend = tokenizers.ByteLevelBPETokenizer(add_prefix_space=False)
    backend.train_from_iterator([*PASSAGES, MIXED], vocab_size=600, show_progress=False)
    return _with_marks(backend._tokenizer, transformers)


@functools.cache
def sentence_piece() -> Any:
    """XLM-R's style: unigrams over ▁."""
    import tokenizers
    import transformers

    backend = tokenizers.SentencePieceUnigramTokenizer()
    backend.train_from_iterator([*PASSAGES, MIXED], vocab_size=600, show_progress=False, unk_token="<unk>")
    return _with_marks(backend._tokenizer, transformers)


def _with_marks(backend: Any, transformers: Any) -> Any:
    from tokenizers.processors import TemplateProcessing

    names = {"bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>", "pad_token": "<pad>"}
    backend.add_special_tokens(list(names.values()))
    pairs = [(mark, backend.token_to_id(mark)) for mark in ("<s>", "</s>")]
    backend.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=pairs)
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **names)
    made.model_input_names = ["input_ids", "attention_mask"]
    return made


STYLES = {"word_piece": word_piece, "byte_level": byte_level, "sentence_piece": sentence_piece}


def documents(texts: list[str]) -> pa.Table:
    table = pa.table({"id": [f"d{n}" for n in range(len(texts))], "text": texts, "place": ["x"] * len(texts)})
    found, faults = rows.from_source(table, "x")
    assert not faults
    return found


def windows(texts: list[str], tokenizer: Any, **settings: Any) -> pa.Table:
    table, section = documents(texts), Tokenization(**settings)
    features.check_tokenizer(tokenizer, section)
    learned = features.learn([table], tokenizer, section)
    made, faults = features.features(table, tokenizer, section, "x", learned)
    assert not faults
    return made


def batch(table: FeatureTable, indices: list[int], tokenizer: Any) -> dict[str, np.ndarray]:
    made = model.collate(table.__getitems__(indices), tokenizer, True)
    return {name: tensor.numpy() for name, tensor in made.items()}
