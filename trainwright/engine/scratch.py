"""A model that starts from nothing: a tokenizer trained on the pipeline's own train split, and a configuration.

The tokenizer is a fast one with its family's special tokens, and config.json lies beside it; weights there are
none, they are drawn from the seed when the model is made (`prediction.load_model`). Training gives the same bytes
each time, which takes some care: the library's trainers walk through hash tables whose order is another in every
process, so that pieces of equal worth are kept or not by chance. What that touches is decided here:

- WordPiece is the library's, told the alphabet and its continuations beforehand, which would else be numbered in
  the order in which words come out of a table;
- Unigram (Kudo, 2018) has pieces that BPE finds, whose training is deterministic, and their probabilities are those
  of the best segmentation of the train split, counted in whole numbers and found in a few rounds (Viterbi training).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Scratch
from trainwright.rows import tables

Texts = Callable[[], Iterator[list[str]]]  # goes through all texts anew at every call, batch by batch

SPECIALS: dict[str, dict[str, str]] = {
    "bert": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "gpt2": {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>"},
    "t5": {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"},
}
SENTINELS = [f"<extra_id_{number}>" for number in range(100)]
LONGEST_PIECE = 16
ROUNDS = 4
WORDS = 10_000  # encoded at a time
EVERY_CHARACTER = r"[\s\S]"


def texts_of(path: Path, columns: Iterable[str]) -> Texts:
    """The texts of a split's rows, each once within a batch, those of augmented rows left out."""
    names = list(columns)

    def texts() -> Iterator[list[str]]:
        for batch in tables.batches(path, [*names, "parent"]):
            originals = batch.filter(batch["parent"].is_null())
            for name in names:
                column = originals[name]
                flat = pc.list_flatten(column) if pa.types.is_list(column.type) else column
                yield pc.unique(flat.drop_null()).to_pylist()

    return texts


def train_tokenizer(texts: Texts, scratch: Scratch) -> Any:
    """A transformers tokenizer of `scratch.vocabulary` tokens at most, the same for the same texts.

    Raises InputError where the texts' characters alone need a larger vocabulary.
    """
    from transformers import PreTrainedTokenizerFast

    specials = SPECIALS[scratch.family]
    room = scratch.vocabulary - len(specials) - (len(SENTINELS) if scratch.family == "t5" else 0)
    if room <= 0:
        raise _too_small(scratch, scratch.vocabulary - room + 1)
    backend = TRAINERS[scratch.tokenizer](texts, scratch, list(specials.values()), room)
    names = {f"{name}_token": token for name, token in specials.items()}
    more: dict[str, Any] = {"extra_special_tokens": SENTINELS} if scratch.family == "t5" else {}
    if scratch.family == "bert":
        more["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    backend.add_special_tokens([*specials.values(), *(SENTINELS if scratch.family == "t5" else [])])
    backend.post_processor = _template(backend, scratch.family)
    make: Any = PreTrainedTokenizerFast
    return make(
        tokenizer_object=backend,
        model_max_length=scratch.positions,
        clean_up_tokenization_spaces=False,
        **names,
        **more,
    )


def configuration(scratch: Scratch, tokenizer: Any) -> Any:
    """The family's configuration in `scratch`'s sizes, with the tokenizer's vocabulary and special tokens."""
    import transformers

    inner = scratch.feed_forward or 4 * scratch.width
    shared = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    if scratch.family == "bert":
        return transformers.BertConfig(
            **shared,
            hidden_size=scratch.width,
            num_hidden_layers=scratch.layers,
            num_attention_heads=scratch.heads,
            intermediate_size=inner,
            max_position_embeddings=scratch.positions,
        )
    if scratch.family == "gpt2":
        return transformers.GPT2Config(
            **shared,
            **ends,
            n_embd=scratch.width,
            n_layer=scratch.layers,
            n_head=scratch.heads,
            n_inner=inner,
            n_positions=scratch.positions,
        )
    # As T5 was trained; without it nothing can be generated.
    start: dict[str, Any] = {"decoder_start_token_id": tokenizer.pad_token_id}
    return transformers.T5Config(
        **shared,
        **start,
        eos_token_id=tokenizer.eos_token_id,
        d_model=scratch.width,
        d_kv=scratch.width // scratch.heads,
        d_ff=inner,
        num_layers=scratch.layers,
        num_decoder_layers=scratch.layers,
        num_heads=scratch.heads,
    )


def _too_small(scratch: Scratch, least: int) -> InputError:
    reason = f"a vocabulary of {scratch.vocabulary} does not hold the special tokens and all characters of the texts"
    remedy = f"Set it to {least} at least, better to several times that."
    return InputError(Fault("params.yaml", reason, remedy, field="base_model.scratch.vocabulary"))


def _template(backend: Any, family: str) -> Any:
    """What stands around a text or a pair: [CLS] and [SEP] of BERT, the </s> of T5; nothing of GPT-2, whose begins
    and ends are for whoever makes its blocks."""
    from tokenizers.processors import TemplateProcessing

    single, pair = {
        "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
        "t5": ("$A </s>", "$A </s> $B </s>"),
        "gpt2": ("$A", "$A $B"),
    }[family]
    used = [token for token in SPECIALS[family].values() if token in single]
    return TemplateProcessing(single, pair, [(token, backend.token_to_id(token)) for token in used])


def _normalizer(scratch: Scratch) -> Any:
    from tokenizers import normalizers

    if scratch.tokenizer == "wordpiece":
        return normalizers.BertNormalizer(lowercase=scratch.lowercase)
    return normalizers.Lowercase() if scratch.lowercase else None


def _character(texts: Texts, scratch: Scratch, specials: list[str], room: int) -> Any:
    """A token a character, the most frequent ones; others are unknown."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    counts: Counter[str] = Counter()
    for batch in texts():
        for text in batch:
            counts.update(text.lower() if scratch.lowercase else text)
    kept = sorted(counts, key=lambda character: (-counts[character], character))[:room]
    vocabulary = {token: number for number, token in enumerate([*specials, *sorted(kept)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIALS[scratch.family]["unk"]))
    backend.normalizer = _normalizer(scratch)
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(EVERY_CHARACTER), "isolated")
    backend.decoder = decoders.Fuse()
    return backend


def _bpe(texts: Texts, scratch: Scratch, specials: list[str], room: int) -> Any:
    """Byte-level BPE, as GPT-2's: every text can be written, and is given back as it was."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if room < len(alphabet):
        raise _too_small(scratch, scratch.vocabulary - room + len(alphabet))
    backend = Tokenizer(models.BPE())
    backend.normalizer = _normalizer(scratch)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=room + len(specials),
        special_tokens=specials,
        initial_alphabet=alphabet,
        min_frequency=2,
        show_progress=False,
    )
    backend.train_from_iterator(texts(), trainer)
    return backend


def _wordpiece(texts: Texts, scratch: Scratch, specials: list[str], room: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    normalizer, splitter = _normalizer(scratch), pre_tokenizers.BertPreTokenizer()
    counts = _words(texts, normalizer, splitter)
    first, inner = {word[0] for word in counts}, {character for word in counts for character in word[1:]}
    alphabet = [*sorted(first | inner), *(f"##{character}" for character in sorted(inner))]
    if len(alphabet) > room:
        raise _too_small(scratch, scratch.vocabulary - room + len(alphabet))
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer, learner.pre_tokenizer = normalizer, splitter
    trainer = trainers.WordPieceTrainer(
        vocab_size=room + len(specials),
        special_tokens=[*specials, *alphabet],
        min_frequency=2,
        show_progress=False,
    )
    learner.train_from_iterator(texts(), trainer)
    # Made anew: to the learner the alphabet are special tokens.
    backend = Tokenizer(models.WordPiece(learner.get_vocab(with_added_tokens=True), unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer, backend.decoder = normalizer, splitter, decoders.WordPiece(cleanup=False)
    return backend


def _unigram(texts: Texts, scratch: Scratch, specials: list[str], room: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    normalizer, splitter = _normalizer(scratch), pre_tokenizers.Metaspace(prepend_scheme="first")
    counts = _words(texts, normalizer, splitter)
    alphabet = sorted({character for word in counts for character in word})
    if len(alphabet) > room:
        raise _too_small(scratch, scratch.vocabulary - room + len(alphabet))
    pieces = _pieces(texts, normalizer, splitter, alphabet, room)
    unknown = specials.index(SPECIALS[scratch.family]["unk"])

    def model(scores: dict[str, float]) -> Any:
        return models.Unigram([*((token, 0.0) for token in specials), *scores.items()], unknown, False)

    scores = dict.fromkeys(pieces, -math.log(len(pieces)))
    for _ in range(ROUNDS):
        scores = _scores(pieces, _used(Tokenizer(model(scores)), counts))
    backend = Tokenizer(model(scores))
    backend.normalizer, backend.pre_tokenizer = normalizer, splitter
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    return backend


def _pieces(texts: Texts, normalizer: Any, splitter: Any, alphabet: list[str], size: int) -> list[str]:
    """The characters and, up to `size` in all, the pieces that BPE makes of them."""
    from tokenizers import Tokenizer, models, trainers

    learner = Tokenizer(models.BPE())
    if normalizer is not None:
        learner.normalizer = normalizer
    learner.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=alphabet,
        max_token_length=LONGEST_PIECE,
        min_frequency=2,
        show_progress=False,
    )
    learner.train_from_iterator(texts(), trainer)
    return sorted({*learner.get_vocab(), *alphabet})


def _used(tokenizer: Any, counts: Counter[str]) -> Counter[str]:
    """How often the best segmentation of all words uses each piece."""
    used: Counter[str] = Counter()
    everything = list(counts)
    for begin in range(0, len(everything), WORDS):
        words = everything[begin : begin + WORDS]
        for word, encoding in zip(words, tokenizer.encode_batch_fast(words), strict=True):
            for piece in encoding.tokens:
                used[piece] += counts[word]
    return used


def _scores(pieces: list[str], used: Counter[str]) -> dict[str, float]:
    """Log probabilities, the most frequent first; a character that no segmentation uses counts as a half."""
    total = sum(max(used[piece], 0.5) for piece in pieces)
    order = sorted(pieces, key=lambda piece: (-used[piece], piece))
    return {piece: round(math.log(max(used[piece], 0.5) / total), 6) for piece in order}


def _words(texts: Texts, normalizer: Any, splitter: Any) -> Counter[str]:
    """What the texts are split into before a tokenizer's model sees them, counted."""
    counts: Counter[str] = Counter()
    for batch in texts():
        for text in batch:
            normal = normalizer.normalize_str(text) if normalizer is not None else text
            counts.update(word for word, _ in splitter.pre_tokenize_str(normal))
    return counts


TRAINERS: dict[str, Callable[[Texts, Scratch, list[str], int], Any]] = {
    "character": _character,
    "bpe": _bpe,
    "wordpiece": _wordpiece,
    "unigram": _unigram,
}
