"""The rows that the report shows in words: what the model got wrong with the most confidence, and where it was torn.

No task is named here: a task's `TEXTS` say which columns are text and which spans point into them, and
scores.parquet holds each row's own scores, from 0 to 1.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright import tables
from trainwright.core import tasks
from trainwright.core.params import Pipeline
from trainwright.tasks.interface import Rows

AROUND = 160  # characters of a text that are shown on either side of a span
LONGEST_WORD = 25
TORN = 4
CANDIDATES = 5


@dataclass(frozen=True)
class Piece:
    """Some of a text; `mark` is "", gold, predicted, both, or gap where text was left out."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Shown:
    """One text column of a row, the spans in it marked."""

    column: str
    pieces: list[Piece]


@dataclass(frozen=True)
class Mistake:
    """A row that was answered wrongly. `gold` is empty where the row has no span; `confidence` from 0 to 1."""

    id: str
    texts: list[Shown]
    gold: list[str]
    predicted: str
    confidence: float | None
    scores: dict[str, float | None]


@dataclass(frozen=True)
class Torn:
    """A row whose two best candidates lie close together, with its candidates, best first."""

    id: str
    texts: list[Shown]
    gold: list[str]
    candidates: list[dict[str, Any]]


def choose(folders: dict[str, Path], params: Pipeline) -> tuple[list[Mistake], int, list[Torn]]:
    """The worst mistakes on test, how many rows are wrong in all, and some rows with close candidates.

    Worst is the highest confidence times error (1 less the mean of the row's scores). With
    `report.mistakes: 0` no text of any row is read.
    """
    scores = tables.read(folders["postprocessing"] / "scores.parquet")
    names = [field.name for field in scores.schema if pa.types.is_floating(field.type)]
    if not names or not scores.num_rows:
        return [], 0, []
    matrix = np.stack([scores[name].to_numpy().astype(np.float64) for name in names])
    wrong = matrix[0] < 1
    if not params.report.mistakes:
        return [], int(wrong.sum()), []
    nbest = _nbest(folders["postprocessing"] / "predictions" / "nbest.json")
    ids, predictions = scores["id"].to_pylist(), scores["prediction"].to_pylist()
    confidence = np.array([_confidence(nbest.get(id, []), said) for id, said in zip(ids, predictions, strict=True)])
    error = 1 - np.nan_to_num(matrix, nan=1.0).mean(axis=0)  # a score that is undefined is no error
    badness = error * np.nan_to_num(confidence, nan=1.0)
    worst = np.lexsort((np.array(ids), -badness))
    worst = worst[wrong[worst]][: params.report.mistakes]
    close = _close(ids, nbest)
    rows = _Rows.read(folders["splitting"] / "test.parquet", tasks.load(params.task, "rows"), ids, [*worst, *close])
    mistakes = []
    for place in worst:
        texts, gold = rows.shown(ids[place], predictions[place])
        own = {name: _number(value) for name, value in zip(names, matrix[:, place], strict=True)}
        mistakes.append(Mistake(ids[place], texts, gold, predictions[place], _number(confidence[place]), own))
    torn = []
    for place in close:
        candidates = nbest[ids[place]][:CANDIDATES]
        torn.append(Torn(ids[place], *rows.shown(ids[place], candidates[0]["text"]), candidates))
    return mistakes, int(wrong.sum()), torn


def _nbest(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Each row's candidates, best first; empty for a task that keeps none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _confidence(candidates: list[dict[str, Any]], predicted: str) -> float:
    """The probability of the candidate that was chosen, which a threshold may have kept from being the first."""
    return next((c["probability"] for c in candidates if c["text"] == predicted), np.nan)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _close(ids: list[str], nbest: dict[str, list[dict[str, Any]]]) -> list[int]:
    """The places of the rows whose two best candidates differ least in probability."""
    gaps = []
    for place, id in enumerate(ids):
        best = [candidate["probability"] for candidate in nbest.get(id, [])[:2]]
        if len(best) == 2:
            gaps.append((best[0] - best[1], id, place))
    return [place for _, _, place in sorted(gaps)[:TORN]]


@dataclass(frozen=True)
class _Rows:
    """The few rows to be shown, by id."""

    task: Rows
    rows: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, path: Path, task: Rows, ids: list[str], places: list[Any]) -> "_Rows":
        wanted = pa.array([ids[place] for place in places], pa.string())
        parts = [batch.filter(pc.is_in(batch["id"], value_set=wanted)) for batch in tables.batches(path)]
        return cls(task, {row["id"]: row for part in parts for row in part.to_pylist()})

    def shown(self, id: str, predicted: str) -> tuple[list[Shown], list[str]]:
        """The row's texts, those without spans first, and its gold spans, each once."""
        row, texts, gold = self.rows[id], [], []
        for text in sorted(self.task.TEXTS, key=lambda text: text.texts is not None):
            spans: list[tuple[int, int]] = []
            if text.starts and text.texts:
                spans = [(s, s + len(t)) for s, t in zip(row[text.starts], row[text.texts], strict=True)]
                gold += row[text.texts]
            found = _found(row[text.column], predicted, spans) if text.texts else None
            held = row[text.column]
            texts += [
                Shown(text.column, excerpt(t, spans[:1], found)) for t in (held if isinstance(held, list) else [held])
            ]
        return texts, list(dict.fromkeys(gold))


def _found(text: str, predicted: str, gold: list[tuple[int, int]]) -> tuple[int, int] | None:
    """Where the predicted text stands, nearest to the first gold span where it stands more than once."""
    if not predicted:
        return None
    starts, at = [], text.find(predicted)
    while at >= 0:
        starts.append(at)
        at = text.find(predicted, at + 1)
    near = gold[0][0] if gold else 0
    best = min(starts, key=lambda start: abs(start - near), default=None)
    return None if best is None else (best, best + len(predicted))


def excerpt(text: str, gold: list[tuple[int, int]], predicted: tuple[int, int] | None) -> list[Piece]:
    """The text around its spans (its beginning where there are none), in pieces that say what they are.

    Spans are (first character, one past the last).
    """
    spans = [*gold, *([predicted] if predicted else [])] or [(0, AROUND)]
    near: NDArray[np.bool_] = np.zeros(len(text), dtype=np.bool_)
    code: NDArray[np.int8] = np.zeros(len(text), dtype=np.int8)
    for begin, end in spans:
        near[_word(text, begin - AROUND, -1) : _word(text, end + AROUND, 1)] = True
    for begin, end in gold:
        code[begin:end] |= 1
    if predicted:
        code[predicted[0] : predicted[1]] |= 2
    code[~near] = 4
    cuts = [0, *(np.flatnonzero(np.diff(code)) + 1).tolist(), len(text)]
    marks = {0: "", 1: "gold", 2: "predicted", 3: "both", 4: "gap"}
    pieces = [(text[a:b], marks[int(code[a])]) for a, b in pairwise(cuts) if a < b]
    return [Piece("…" if mark == "gap" else words, mark) for words, mark in pieces]


def _word(text: str, place: int, step: int) -> int:
    """The nearest end of a word at or beyond `place` in the direction of `step`, within the text; `place` itself
    where no space is near, as in scripts that write none."""
    place = min(max(place, 0), len(text))
    for near in range(place, place + step * LONGEST_WORD, step):
        if not 0 < near < len(text) or text[near - 1].isspace() != text[near].isspace():
            return min(max(near, 0), len(text))
    return place
