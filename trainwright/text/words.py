"""Texts as tokens that know which word they are pieces of, whatever the tokenizer's style.

A word is what stands between white space and punctuation; a mark of punctuation or a symbol is one by itself. In
scripts that write no spaces (Chinese, Japanese kana, Thai, Lao, Khmer, Burmese) a word is a character, or what the
tokenizer makes one token of: WordPiece gives such characters a word each, byte-level BPE and SentencePiece run them
together, and both come out the same here. Where a tokenizer itself sees two words, there are two.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainwright.rows import spans

Ints = NDArray[np.int64]
Truths = NDArray[np.bool_]

UNSPACED = (  # first and last code point of the blocks whose characters stand for words without spaces between
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF),  # Chinese characters, as BERT's tokenizer lists them
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


@dataclass(frozen=True)
class Tokens:
    """Texts as tokens, flat: text i has the tokens bounds[i] to bounds[i + 1].

    `starts` and `ends` are characters of the token's own text, without white space at their ends. `begins` says that
    a token does not go on with the word before it; `ordinary` that it stands for characters of a word, which special
    tokens and tokens for white space do not.
    """

    ids: NDArray[np.int32]
    bounds: Ints
    starts: Ints
    ends: Ints
    begins: Truths
    ordinary: Truths


def tokens(texts: pa.Array, tokenizer: Any) -> Tokens:
    """The tokens of some texts, without the special ones that go around them; `tokenizer` is a fast one."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # a tokenizer.json may carry both from its own training
    backend.no_padding()
    encodings = backend.encode_batch(texts.to_pylist(), add_special_tokens=False)
    counts = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
    bounds = np.concatenate([[0], np.cumsum(counts)])
    total = int(bounds[-1])
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32, total)
    words = np.fromiter(chain.from_iterable(encoding.word_ids for encoding in encodings), np.float64, total)
    pairs: Iterable[tuple[int, int]] = chain.from_iterable(encoding.offsets for encoding in encodings)
    offsets = np.fromiter(chain.from_iterable(pairs), np.int64, 2 * total).reshape(total, 2)
    base = np.repeat(spans.bases(texts), counts)
    starts, ends = spans.trimmed(offsets[:, 0] + base, offsets[:, 1] + base, texts)
    ordinary = (starts < ends) & ~np.isin(ids, tokenizer.all_special_ids)
    begins = np.ones(total, dtype=np.bool_)
    owner = np.repeat(np.arange(len(counts)), counts)
    begins[ordinary] = _begins(starts[ordinary], ends[ordinary], words[ordinary], owner[ordinary], texts)
    return Tokens(ids, bounds, starts - base, ends - base, begins, ordinary)


def _begins(starts: Ints, ends: Ints, words: NDArray[np.float64], owner: Ints, texts: pa.Array) -> Truths:
    """Which of the ordinary tokens begin a word. Offsets are into all texts joined."""
    codes = np.frombuffer("".join(texts.to_pylist()).encode("utf-32-le"), dtype=np.uint32)
    apart = _apart(codes)
    blank = np.concatenate([[0], np.cumsum(spans.SPACE[np.minimum(codes, len(spans.SPACE) - 1)])])
    first = np.ones(len(starts), dtype=np.bool_)
    begin, end = starts[1:], ends[:-1]
    other = (owner[1:] != owner[:-1]) | (words[1:] != words[:-1]) | (blank[begin] > blank[end])
    other |= apart[begin] | apart[end - 1]
    # The bytes of one character are several tokens to some tokenizers, and one word.
    first[1:] = other & ((begin >= end) | (owner[1:] != owner[:-1]))
    return first


def _apart(codes: NDArray[np.uint32]) -> Truths:
    """Which characters are a word by themselves: punctuation, symbols, and those of scripts without spaces."""
    alone = np.zeros(int(codes.max(initial=0)) + 1, dtype=np.bool_)
    used = np.zeros_like(alone)
    used[codes] = True
    seen = np.flatnonzero(used)
    alone[seen] = [unicodedata.category(chr(code))[0] in "PS" for code in seen]
    for begin, last in UNSPACED:
        alone[begin : last + 1] = True
    return alone[codes]
