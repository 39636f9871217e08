"""Span corruption: some spans of a text are dropped, and are what the model must say.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (2020), section
3.1.4; spans are drawn as `random_spans_noise_mask` does in the code of T5: the lengths of what is dropped and of what
stays are random segmentations of their sums. That code always keeps the first token and drops the last, so that of a
short text the same end would go at every draw; here a text may as well begin with a dropped span or end with a kept
one, every placement being equally likely. In the source each dropped span is one sentinel, a new one each time; the
target is the sentinels, each with what it stands for, and a last one.

    source  Thank you <extra_id_0> me to your party <extra_id_1> week
    target  <extra_id_0> for inviting <extra_id_1> last <extra_id_2>

Which spans are dropped is drawn from the tokens themselves and the number of the draw, from nothing else.
"""

import re
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Tokens = NDArray[np.int32]

SENTINEL = re.compile(r"<extra_id_\d+>")


def sentinels(tokenizer: Any) -> Tokens:
    """The ids of `<extra_id_0>`, `<extra_id_1>`, … as far as the tokenizer has them (in T5's, they fall)."""
    known = tokenizer.get_added_vocab()
    found: list[int] = []
    while f"<extra_id_{len(found)}>" in known:
        found.append(known[f"<extra_id_{len(found)}>"])
    return np.array(found, dtype=np.int32)


def frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text: for T5 none, and the end of sequence."""
    special = [token for token in tokenizer.backend_tokenizer.encode("").ids if token != tokenizer.eos_token_id]
    return special, [tokenizer.eos_token_id]


def counts(lengths: Ints, density: float, mean_span: float) -> tuple[Ints, Ints]:
    """How many tokens of texts of these lengths (2 or more) are dropped, and in how many spans.

    At least one token is dropped and one stays; every span has a token, and tokens stay between spans.
    """
    noise = np.clip(np.round(lengths * density).astype(np.int64), 1, lengths - 1)
    spans = np.round(noise / mean_span).astype(np.int64)
    return noise, np.clip(spans, 1, np.minimum(noise, lengths - noise))


def longest(source: int, target: int, density: float, mean_span: float) -> int:
    """The most tokens of a text of which the corrupted source and the target keep within these lengths."""
    lengths = np.arange(2, source + target + 2)
    noise, spans = counts(lengths, density, mean_span)
    fits = (lengths - noise + spans <= source) & (noise + spans + 1 <= target)
    return int(lengths[np.argmin(fits) - 1]) if fits[0] else 0


def corrupt(tokens: Tokens, noise: int, spans: int, draw: int, marks: Tokens) -> tuple[Tokens, Tokens]:
    """The source and the target of a text, without what frames them; `marks` are more than `spans` sentinels."""
    kept, gone = _segments(tokens, noise, spans, draw)
    mask = _mask(kept, gone)
    source = np.insert(tokens[~mask], np.cumsum(kept)[:-1], marks[:spans])
    target = np.insert(tokens[mask], np.cumsum(gone) - gone, marks[:spans])
    return source, np.append(target, marks[spans])


def dropped(tokens: Tokens, noise: int, spans: int, draw: int) -> NDArray[np.bool_]:
    """Which tokens of a text `corrupt` drops."""
    return _mask(*_segments(tokens, noise, spans, draw))


def _segments(tokens: Tokens, noise: int, spans: int, draw: int) -> tuple[Ints, Ints]:
    """How many tokens stay before each dropped span and after the last, and how many each span has."""
    content = np.ascontiguousarray(tokens, dtype="<i4")
    random = np.random.default_rng([zlib.crc32(content.tobytes()), draw])
    gone = _segmentation(random, noise, spans)
    kept = _segmentation(random, len(tokens) - noise + 2, spans + 1)
    kept[[0, -1]] -= 1  # before the first span and after the last there may be nothing
    return kept, gone


def _segmentation(random: np.random.Generator, items: int, segments: int) -> Ints:
    """`items` cut into so many segments of one or more, every cut as likely as any other."""
    cuts = np.sort(random.choice(items - 1, segments - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [items]])).astype(np.int64)


def _mask(kept: Ints, gone: Ints) -> NDArray[np.bool_]:
    lengths = np.insert(kept, np.arange(1, len(kept)), gone)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
