"""Exact match and F1 of answers, as the official scripts count them, and the best no-answer threshold.

Sources: evaluate-v1.1.py and evaluate-v2.0.py of SQuAD; cmrc2018_evaluate.py for languages that put no spaces
between words.

Texts are normalised one by one: the scripts lean on Python's own notions of lower case and of a word's
boundary, which Arrow's and RE2's do not share outside ASCII. Every distinct text is normalised once.
"""

import re
import string
from collections import Counter
from collections.abc import Callable
from difflib import SequenceMatcher

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]

UNSEGMENTED = frozenset({"zh", "yue", "wuu", "lzh", "ja", "th", "lo", "km", "my", "bo", "dz"})
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
# What the CMRC 2018 script leaves out before it compares.
CMRC_PUNCTUATION = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
# Characters of scripts without spaces, for a regular expression: kana, Han, Thai, Lao, Tibetan, Myanmar, Khmer.
UNSPACED = (
    r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    r"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"
)
PARTS = re.compile(f"([{UNSPACED}])|([^{UNSPACED}]+)")


def normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, no English articles, single spaces: SQuAD's `normalize_answer`."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def normalise_unsegmented(text: str) -> str:
    """Lower case without CMRC's punctuation."""
    return text.lower().strip().translate(CMRC_PUNCTUATION)


def segments(text: str) -> list[str]:
    """Characters of scripts without spaces, and what stands between them as NLTK's Treebank tokenizer parts it
    ("3.5" is one): what the CMRC 2018 script calls a mixed segmentation."""
    from nltk.tokenize.destructive import NLTKWordTokenizer

    between = NLTKWordTokenizer()
    found = (match.groups("") for match in PARTS.finditer(text))
    return [part for character, others in found for part in ([character] if character else between.tokenize(others))]


def exact_and_f1(predictions: pa.ChunkedArray, golds: pa.ChunkedArray, language: str) -> tuple[Floats, Floats]:
    """Of each row the best exact match and F1 (0 to 1) over its gold answers; `golds` is a list<string> column.

    With a row without gold answers among them the rules are those of v2.0: such a row is right if its
    prediction normalises to nothing. Otherwise they are v1.1's, which differ only for an answer that
    normalises to nothing ("The"): its F1 is 0 there, even against itself.
    """
    guessed, wanted = predictions.to_pylist(), golds.to_pylist()
    second = not all(wanted)
    clean: Callable[[str], str] = normalise_unsegmented if language in UNSEGMENTED else normalise
    split: Callable[[str], list[str]] = segments if language in UNSEGMENTED else str.split
    shared = _longest if language in UNSEGMENTED else _common
    forms = {text: clean(text) for text in {*guessed, *(text for some in wanted for text in some)}}
    parts = {form: split(form) for form in {*forms.values(), ""}}
    exact, f1 = np.zeros(len(guessed)), np.zeros(len(guessed))
    for row, (guess, some) in enumerate(zip(guessed, wanted, strict=True)):
        form = forms[guess]
        targets = {forms[text] for text in some}
        if second:
            targets = targets - {""} or {""}
        exact[row] = form in targets
        f1[row] = max(_f1(parts[form], parts[target], shared, second) for target in targets)
    return exact, f1


def _f1(guess: list[str], gold: list[str], shared: Callable[[list[str], list[str]], int], second: bool) -> float:
    if second and not (guess and gold):
        return float(guess == gold)
    same = shared(guess, gold)
    return 2 * same / (len(guess) + len(gold)) if same else 0.0


def _common(guess: list[str], gold: list[str]) -> int:
    """How many words two answers share, in any order."""
    return sum((Counter(guess) & Counter(gold)).values())


def _longest(guess: list[str], gold: list[str]) -> int:
    """How many segments the longest run has that both answers share, as the CMRC 2018 script counts."""
    return SequenceMatcher(None, guess, gold, autojunk=False).find_longest_match().size


def best_threshold(scores: Floats, differences: Floats, answerable: NDArray[np.bool_]) -> tuple[float, float]:
    """The best mean score (0 to 1) that any no-answer threshold reaches, and that threshold.

    `scores` are those of the best answers that are not empty, `differences` the null score less theirs (NaN
    where there is no such answer: always empty). An answer becomes empty where its difference is over the
    threshold. The official `find_best_thresh`: from nothing answered (threshold 0 if that stays best), rows
    are let answer one by one from the smallest difference on.
    """
    order = np.argsort(differences, kind="stable")  # NaN comes last
    answered = ~np.isnan(differences[order])
    gain = np.where(answerable[order], scores[order], -1.0) * answered
    total = np.count_nonzero(~answerable) + np.cumsum(gain)
    best = int(np.argmax(total)) if len(total) else 0
    nothing = np.count_nonzero(~answerable)
    if not len(total) or total[best] <= nothing:
        return nothing / max(len(scores), 1), 0.0
    return float(total[best]) / len(scores), float(differences[order][best])
