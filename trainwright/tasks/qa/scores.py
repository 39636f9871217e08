"""How answers are scored: exact match and F1 in points of 100, with 95% intervals and slices.

What is undefined is None, never 0 or 1: the F1 of no rows, the interval of a single context.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.rows import spans
from trainwright.scoring import answers
from trainwright.scoring.intervals import Score, mean, means, measured
from trainwright.tasks.qa.params import Postprocessing

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

QUESTION_WORDS = {
    "en": (
        ("how many", r"(?i)\bhow (many|much)\b"),
        ("who", r"(?i)\bwho(m|se)?\b"),
        ("when", r"(?i)\bwhen\b"),
        ("where", r"(?i)\bwhere\b"),
        ("which", r"(?i)\bwhich\b"),
        ("why", r"(?i)\bwhy\b"),
        ("how", r"(?i)\bhow\b"),
        ("what", r"(?i)\bwhat\b"),
    ),
    "zh": (
        ("多少", "多少|几|幾"),
        ("谁", "谁|誰"),
        ("何时", "何时|何時|什么时候|甚麼時候|哪一?年|哪天"),
        ("为什么", "为什么|為什麼|为何|為何"),
        ("如何", "如何|怎么|怎麼|怎样|怎樣"),
        ("哪", "哪|何处|何處"),
        ("什么", "什么|什麼|甚麼|何"),
    ),
}
ANSWER_LENGTHS = ((0, "none"), (1, "1"), (3, "2 to 3"), (6, "4 to 6"), (None, "7 or more"))
CONTEXT_LENGTHS = ((499, "under 500"), (999, "500 to 999"), (1999, "1000 to 1999"), (None, "2000 or more"))
TITLES = 10  # at most so many of the worst and of the best
TITLE_ROWS = 5  # a title with fewer rows says nothing


def each(rows: pa.Table, predictions: pa.Table, language: str) -> pa.Table:
    """Of every row its id, exact match and F1 (0 to 1) and prediction; `predictions` run parallel to `rows`."""
    if not rows["id"].equals(predictions["id"]):
        raise ValueError("predictions are not for these rows in this order")
    exact, f1 = answers.exact_and_f1(predictions["prediction"], rows["answer_text"], language)
    return pa.table({"id": rows["id"], "exact": exact, "f1": f1, "prediction": predictions["prediction"]})


def headline(rows: pa.Table, predictions: pa.Table, params: Postprocessing, language: str) -> dict[str, Score]:  # noqa: ARG001
    """Exact match and F1: means over the rows."""
    return _headline(each(rows, predictions, language))


def _headline(table: pa.Table) -> dict[str, Score]:
    return {name: Score(means(table[name].to_numpy()), mean) for name in ("exact", "f1")}


def drawn(rows: pa.Table) -> Ints:
    """Contexts are drawn, each with all its questions."""
    return spans.distinct(rows["context"])[0]


def scores(rows: pa.Table, predictions: pa.Table, params: Postprocessing, language: str) -> dict[str, Any]:
    """count, exact and f1 with intervals, HasAns and NoAns, slices; the best thresholds where some are unanswerable.

    The best scores (`best_exact`, `best_f1`) are what the best threshold for these very rows would give:
    never a result, only a bound for the tuned one.
    """
    table = each(rows, predictions, language)
    exact, f1 = table["exact"].to_numpy(), table["f1"].to_numpy()
    answerable = pc.greater(pc.list_value_length(rows["answer_text"]), 0).to_numpy()
    found: dict[str, Any] = {
        "count": rows.num_rows,
        **measured(_headline(table), drawn(rows), params.bootstrap, params.seed),
        "HasAns": _mean(exact, f1, answerable),
        "NoAns": _mean(exact, f1, ~answerable),
    }
    if not answerable.all():
        found |= _best(rows, predictions, answerable, language)
    found["slices"] = _slices(rows, exact, f1, language)
    return found


def _best(rows: pa.Table, predictions: pa.Table, answerable: NDArray[np.bool_], language: str) -> dict[str, float]:
    """The best exact match and F1 that any threshold gives, and the thresholds, as the official script finds them."""
    differences = predictions["score_difference"].to_numpy()
    pair = answers.exact_and_f1(predictions["answer"], rows["answer_text"], language)
    found: dict[str, float] = {}
    for name, values in zip(("exact", "f1"), pair, strict=True):
        best, threshold = answers.best_threshold(values, differences, answerable)
        found |= {f"best_{name}": _points(best), f"best_{name}_threshold": round(threshold, 6)}
    return found


def _points(share: float) -> float:
    return round(100 * float(share), 4)


def _mean(exact: Floats, f1: Floats, chosen: NDArray[Any]) -> dict[str, Any]:
    count = int(np.count_nonzero(chosen))
    if not count:
        return {"count": 0, "exact": None, "f1": None}
    return {"count": count, "exact": _points(exact[chosen].mean()), "f1": _points(f1[chosen].mean())}


def _slices(rows: pa.Table, exact: Floats, f1: Floats, language: str) -> list[dict[str, Any]]:
    found = []
    for by, values, order in (
        _question_words(rows, language),
        _answer_lengths(rows, language),
        _context_lengths(rows),
        _titles(rows, f1),
    ):
        for value in order:
            measured = _mean(exact, f1, values == value)
            if measured["count"]:
                found.append({"by": by, "value": value, **measured})
    return found


Slice = tuple[str, NDArray[Any], list[str]]  # by what, the value of each row, the values in order


def _question_words(rows: pa.Table, language: str) -> Slice:
    """The first kind of question that fits, most telling first; none for a language without a list."""
    words = QUESTION_WORDS.get(language, ())
    if not words:
        return "question word", np.empty(0, dtype=object), []
    fits = [pc.match_substring_regex(rows["question"], pattern).to_numpy() for _, pattern in words]
    names = [name for name, _ in words]
    return "question word", np.select(fits, np.array(names)[:, None], "other"), [*names, "other"]


def _answer_lengths(rows: pa.Table, language: str) -> Slice:
    """Words (characters where a language has no spaces) of the first gold answer."""
    has = pc.greater(pc.list_value_length(rows["answer_text"]), 0)
    first = pc.list_element(pc.if_else(has, rows["answer_text"], pa.scalar([""])), 0)
    if language in answers.UNSEGMENTED:
        length, unit = pc.utf8_length(first).to_numpy(), "characters"
    else:
        length, unit = (
            pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(first))).to_numpy(),
            "words",
        )
    length = np.where(has.to_numpy(), np.maximum(length, 1), 0)
    return f"answer length in {unit}", *_buckets(length, ANSWER_LENGTHS)


def _context_lengths(rows: pa.Table) -> Slice:
    return "context length in characters", *_buckets(pc.utf8_length(rows["context"]).to_numpy(), CONTEXT_LENGTHS)


def _buckets(length: NDArray[Any], limits: tuple[tuple[int | None, str], ...]) -> tuple[NDArray[Any], list[str]]:
    """Each length as the name of the first bucket whose limit it does not pass."""
    names = [name for _, name in limits]
    upper = np.array([limit for limit, _ in limits if limit is not None])
    return np.array(names)[np.searchsorted(upper, length)], names


def _titles(rows: pa.Table, f1: Floats) -> Slice:
    """The titles of the worst and of the best mean F1, worst first, of those with enough rows."""
    which, titles = spans.distinct(rows["title"])
    counts = np.bincount(which, minlength=len(titles))
    mean = np.bincount(which, f1, minlength=len(titles)) / np.maximum(counts, 1)
    enough = np.flatnonzero(counts >= TITLE_ROWS)
    order = enough[np.argsort(mean[enough], kind="stable")]
    shown = order if len(order) <= 2 * TITLES else np.concatenate([order[:TITLES], order[-TITLES:]])
    names = np.array(titles.to_pylist(), dtype=object)
    return "title", names[which], names[shown].tolist()
