"""How metrics are read and scores are said, whatever the task: by the report, the card, the terminal and Prefect.

A split's metrics are a dictionary. Of its entries

- `count` is the number of rows;
- `{"value", "low", "high"}` is a headline score, in points of 100 unless it carries a `"unit"` ("nats",
  "perplexity", …), and better the higher unless it carries `"better": "lower"`; the first is the main one;
- a bare number is a figure that stands beside them;
- a dictionary with a `count` is a group of rows with scores of its own, as bare numbers under the headline's names;
- `answer` is what the constant baseline answers every row with, in words;
- a list of dictionaries with a `label`, `[{"label", "count", "precision", …}]`, is a table by class, in points of 100;
- `confusion` is `{"labels", "counts"}`: rows are what is right, columns what was predicted;
- `slices` is a list of `{"by", "value", "count", <score>: number}`.

What is undefined is None, and no other entry is shown.
"""

from collections.abc import Iterable, Mapping
from typing import Any

PARTS = ("test", "validation", "untrained")
CONSTANT = "constant"  # a fourth part, of the tasks that have one answer to give to every row
POINTS = "points"
BOUNDS = ("value", "low", "high")
LONGEST = 30  # characters of the constant baseline's answer that are shown
UNDEFINED = "undefined"
NOT_CLASSES = ("slices", "confusion")
LABELS = {
    "exact": "exact match",
    "f1": "F1",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "weighted_f1": "weighted F1",
    "token_f1": "token F1",
    "matthews": "Matthews correlation",
    "mcc": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "ece": "expected calibration error",
    "ece_uncalibrated": "calibration error before temperature",
    "auc": "AUC",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "chrf": "chrF",
    "baseline_loss": "loss of token frequencies",
    "margin": "margin over token frequencies",
    "HasAns": "with an answer",
    "NoAns": "without an answer",
    "best_exact": "best exact match (threshold found on test)",
    "best_f1": "best F1 (threshold found on test)",
    "best_exact_threshold": "at the threshold",
    "best_f1_threshold": "at the threshold",
    "null_threshold": "no-answer threshold",
}


def label(name: str) -> str:
    """A key of the metrics in words."""
    return LABELS.get(name) or name.replace("_", " ")


def parts(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return the name of each part of the metrics, in order, with its words: "untrained", "always negative"."""
    found = {name: name for name in PARTS}
    if constant := metrics.get(CONSTANT):
        answer = str(constant.get("answer"))
        found[CONSTANT] = f"always {answer if len(answer) <= LONGEST else answer[: LONGEST - 1] + '…'}"
    return found


def is_score(entry: Any) -> bool:
    """Whether an entry of a split's metrics is a headline score."""
    return isinstance(entry, dict) and entry.keys() >= set(BOUNDS)


def headline(metrics: Mapping[str, Any]) -> list[str]:
    """The names of the headline scores of any split, in the metrics' order."""
    found = (n for name in parts(metrics) for n, entry in (metrics.get(name) or {}).items() if is_score(entry))
    return list(dict.fromkeys(found))


def kind(metrics: Mapping[str, Any], name: str) -> dict[str, str]:
    """The `unit` of a score and which way it is `better`, as any split says it."""
    found = ((metrics.get(part) or {}).get(name) for part in parts(metrics))
    score: dict[str, Any] = next((entry for entry in found if isinstance(entry, dict) and is_score(entry)), {})
    return {"unit": str(score.get("unit") or POINTS), "better": str(score.get("better") or "higher")}


def cell(scores: Any, name: str) -> dict[str, Any]:
    """A score as value, low and high; None where it was not computed. In groups a score is a bare number."""
    score = (scores or {}).get(name)
    given = score if isinstance(score, dict) else {"value": score}
    return {key: given.get(key) for key in BOUNDS}


def decimals(value: float, unit: str = POINTS) -> int:
    """How many digits of a score are worth saying: one of points, three or more in all of what has no fixed scale."""
    size = abs(value)
    return 1 if unit == POINTS or 10 <= size < 1000 else 0 if size >= 1000 else 3 if unit != "perplexity" else 2


def number(value: float | None, unit: str = POINTS, like: float | None = None) -> str:
    """A score's value without its unit, with as many digits as `like` has."""
    if value is None:
        return "not computed"
    return f"{value:,.{decimals(value if like is None else like, unit)}f}"


def bounds(score: Mapping[str, Any], unit: str = POINTS) -> str:
    """ "11.9 to 12.8", or nothing where a score has no interval."""
    if score["value"] is None or score["low"] is None or score["high"] is None:
        return ""
    return " to ".join(number(score[end], unit, score["value"]) for end in ("low", "high"))


def said(score: Mapping[str, Any], unit: str = POINTS) -> str:
    """ "12.3 (11.9 to 12.8)", "1.884 nats (1.860 to 1.911)", "undefined"."""
    if score["value"] is None:
        return UNDEFINED
    interval = bounds(score, unit)
    name = "" if unit in (POINTS, "perplexity") else f" {unit}"
    return number(score["value"], unit) + name + (f" ({interval})" if interval else "")


def classes(scores: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables by class of a split's metrics: their rows, each with a `label`, by the tables' names."""
    return {
        name: entry
        for name, entry in scores.items()
        if name not in NOT_CLASSES and isinstance(entry, list) and entry and _labelled(entry)
    }


def _labelled(entry: Iterable[Any]) -> bool:
    return all(isinstance(row, dict) and "label" in row for row in entry)
