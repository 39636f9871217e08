"""How generated texts are compared with what they should have been: ROUGE-L and chrF.

Sources: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), as `rouge_score` computes it, without
stemming; Popović, "chrF: character n-gram F-score for automatic MT evaluation" (2015), as sacreBLEU computes it
(n-grams of 1 to 6 characters, white space left out, beta 2).
"""

import re
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from trainwright.scoring.answers import UNSEGMENTED, UNSPACED

Floats = NDArray[np.float64]

WORD = re.compile(r"[^\W_]+")
CHARACTER_OR_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
ORDER = 6  # characters of the longest n-grams
BETA = 2  # how much more recall weighs than precision


def words(text: str, language: str) -> list[str]:
    """Lower-case words without punctuation; in languages that put no spaces between them, characters."""
    return (CHARACTER_OR_WORD if language in UNSEGMENTED else WORD).findall(text.lower())


def rouge_l(predictions: list[str], references: list[str], language: str) -> Floats:
    """Of each pair the F1 (0 to 1) of their longest common subsequence of words; 0 where one has no word."""
    return np.array(
        [_rouge_l(words(p, language), words(r, language)) for p, r in zip(predictions, references, strict=True)]
    )


def _rouge_l(guess: list[str], gold: list[str]) -> float:
    common = subsequence(guess, gold)
    return 2 * common / (len(guess) + len(gold)) if common else 0.0


def subsequence(first: list[str], second: list[str]) -> int:
    """The length of the longest common subsequence, all of a column at a time in the bits of one integer (Hyyrö, 2004,
    "Bit-parallel LCS-length computation revisited")."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    whole = (1 << len(first)) - 1
    row = whole
    for word in second:
        match = row & places.get(word, 0)
        row = (row + match | row - match) & whole
    return len(first) - row.bit_count()


def chrf_sums(predictions: list[str], references: list[str]) -> Floats:
    """What each pair adds to `chrf` (pairs, 3 · ORDER): n-grams of the prediction, of the reference, of both."""
    return np.array([_chrf_sums(*pair) for pair in zip(predictions, references, strict=True)]).reshape(-1, 3 * ORDER)


def _chrf_sums(guess: str, gold: str) -> list[float]:
    found = []
    guess, gold = ("".join(text.split()) for text in (guess, gold))
    for size in range(1, ORDER + 1):
        ours, theirs = (Counter(text[i : i + size] for i in range(len(text) - size + 1)) for text in (guess, gold))
        # n-grams that the reference is too short for count as no mistakes
        found += [float(ours.total() if theirs else 0), float(theirs.total()), float((ours & theirs).total())]
    return found


def chrf(sums: Floats) -> Floats:
    """chrF in points of 100 of sums (…, 3 · ORDER); 0 where nothing is shared."""
    guessed, wanted, same = (sums[..., part::3] for part in range(3))
    counted = (guessed > 0) & (wanted > 0)
    orders = np.maximum(counted.sum(axis=-1), 1)
    precision, recall = (
        np.divide(same, whole, out=np.zeros_like(same), where=counted).sum(axis=-1) / orders
        for whole in (guessed, wanted)
    )
    below = BETA**2 * precision + recall
    score = np.divide((1 + BETA**2) * precision * recall, below, out=np.zeros_like(below), where=below > 0)
    return np.asarray(100 * score)
