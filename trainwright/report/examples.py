"""The rows that the report shows in words: what the model got wrong with the most confidence, and where it was torn.

No task is named here: a task's `TEXTS` say which columns are text and which spans point into them, and
scores.parquet holds each row's prediction, what is right, and the row's own scores, from 0 to 1.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainwright.core import tasks
from trainwright.core.params import Pipeline
from trainwright.report import said as words
from trainwright.report.said import Said, Span
from trainwright.rows import tables

if TYPE_CHECKING:
    from trainwright.tasks.interface import Rows

AROUND = 160  # characters of a text that are shown on either side of a span
BEGINNING = 480  # of a text without spans
LONGEST_WORD = 25
MOST_MARKED = 12
TORN = 4
CANDIDATES = 5
NO_SCORE = ("confidence", "prediction", "gold")
MARKS = {0: "", 1: "gold", 2: "predicted", 3: "both", 4: "gap"}


@dataclass(frozen=True)
class Piece:
    """Some of a text; `mark` is "", gold, predicted, both, or gap where text was left out; `tag` is what was said
    of the span that ends here."""

    text: str
    mark: str = ""
    tag: str = ""


@dataclass(frozen=True)
class Shown:
    """One text of a row, the spans in it marked."""

    column: str
    pieces: list[Piece]


@dataclass(frozen=True)
class Mistake:
    """A row that was predicted wrongly. `gold` is empty where nothing is right, and None where it is not known;
    `confidence` from 0 to 1."""

    id: str
    texts: list[Shown]
    gold: list[Said] | None
    predicted: list[Said]
    confidence: float | None
    scores: dict[str, float | None]


@dataclass(frozen=True)
class Torn:
    """A row whose two best candidates lie close together, with its candidates and probabilities, best first."""

    id: str
    texts: list[Shown]
    gold: list[Said] | None
    candidates: list[tuple[Said, float]]


def choose(folders: dict[str, Path], params: Pipeline) -> tuple[list[Mistake], int | None, list[Torn]]:
    """The worst mistakes on test, how many rows are wrong in all, and some rows with close candidates.

    Worst is the highest confidence times error (1 less the mean of the row's scores). Where rows have no scores of
    their own, none is wrong (None): numbers come by their distance from what is right, others by confidence.
    With `report.mistakes: 0` no text of any row is read.
    """
    scores = tables.read(folders["postprocessing"] / "scores.parquet")
    floats = [field.name for field in scores.schema if pa.types.is_floating(field.type)]
    names = [name for name in floats if name not in NO_SCORE]
    matrix = np.stack([_floats(scores, name) for name in names]) if names else np.zeros((1, scores.num_rows))
    wrong = matrix[0] < 1
    count = int(wrong.sum()) if names else None
    if not params.report.mistakes or not scores.num_rows:
        return [], count, []
    predictions = scores["prediction"].to_pylist()
    ids, alternatives = scores["id"].to_pylist(), _alternatives(folders["postprocessing"], scores["id"], predictions)
    confidence = _confidence(scores, predictions, alternatives)
    error = 1 - np.nan_to_num(matrix, nan=1.0).mean(axis=0) if names else _distance(scores)  # no score is no error
    worst = np.lexsort((np.array(ids), -(error * np.nan_to_num(confidence, nan=1.0))))
    worst = worst[wrong[worst]][: params.report.mistakes]
    close = _close(ids, alternatives)
    rows = _Rows.read(folders["splitting"] / "test.parquet", tasks.load(params.task, "rows"), ids, [*worst, *close])
    gold = scores["gold"] if "gold" in scores.column_names else None
    mistakes = []
    for place in worst:
        right = gold[place].as_py() if gold is not None else None
        texts, right_words = rows.shown(ids[place], predictions[place], right, gold is not None)
        own = {name: _number(value) for name, value in zip(names, matrix[:, place], strict=False)}
        sure = _number(confidence[place])
        mistakes.append(Mistake(ids[place], texts, right_words, words.said(predictions[place]), sure, own))
    torn = []
    for place in close:
        right = gold[place].as_py() if gold is not None else None
        found = alternatives[place][:CANDIDATES]
        best = found[0][0].words if isinstance(predictions[place], str) else predictions[place]
        torn.append(Torn(ids[place], *rows.shown(ids[place], best, right, gold is not None), found))
    return mistakes, count, torn


def spans_answer(folders: dict[str, Path], params: Pipeline) -> bool:
    """Whether the rows' own spans are the right predictions, which are texts, and any of them will do."""
    schema = pq.read_schema(folders["postprocessing"] / "scores.parquet")
    spanned = any(text.texts for text in tasks.load(params.task, "rows").TEXTS)
    return spanned and "gold" not in schema.names and pa.types.is_string(schema.field("prediction").type)


def _distance(scores: pa.Table) -> NDArray[np.float64]:
    """How far each predicted number lies from the right one; 1 where predictions are no numbers."""
    pair = [scores[name] for name in ("prediction", "gold") if name in scores.column_names]
    if len(pair) < 2 or not all(pa.types.is_floating(column.type) for column in pair):
        return np.ones(scores.num_rows)
    return np.asarray(np.nan_to_num(np.abs(_floats(scores, "prediction") - _floats(scores, "gold")), nan=0.0))


def _floats(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)


def _alternatives(folder: Path, ids: pa.ChunkedArray, predictions: list[Any]) -> list[list[tuple[Said, float]]]:
    """Each row's candidates, best first: of nbest.json, or what its prediction holds; empty where none is kept."""
    path = folder / "predictions" / "nbest.json"
    if not path.is_file():
        return [words.candidates(value) if isinstance(value, dict) else [] for value in predictions]
    nbest = json.loads(path.read_text(encoding="utf-8"))
    return [words.candidates(nbest.get(id, [])) for id in ids.to_pylist()]


def _confidence(
    scores: pa.Table, predictions: list[Any], alternatives: list[list[tuple[Said, float]]]
) -> NDArray[np.float64]:
    """How sure the model was of each prediction, NaN where it does not say: as the task says, or the probability of
    the candidate that was chosen (which a threshold may have kept from being the first), or the prediction's own."""
    if "confidence" in scores.column_names:
        return _floats(scores, "confidence")
    found = []
    for value, options in zip(predictions, alternatives, strict=True):
        chosen = [part.words for part in words.said(value)] or [""]
        sure = next((p for option, p in options if option.words == chosen[0]), words.top(value))
        found.append(np.nan if sure is None else sure)
    return np.array(found)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _close(ids: list[str], alternatives: list[list[tuple[Said, float]]]) -> list[int]:
    """The places of the rows whose two best candidates differ least in probability."""
    gaps = [
        (best[0][1] - best[1][1], id, place)
        for place, (id, best) in enumerate(zip(ids, alternatives, strict=True))
        if len(best) > 1
    ]
    return [place for _, _, place in sorted(gaps)[:TORN]]


@dataclass(frozen=True)
class _Rows:
    """The few rows to be shown, by id."""

    task: "Rows"
    rows: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, path: Path, task: "Rows", ids: list[str], places: list[Any]) -> "_Rows":
        wanted = pa.array([ids[place] for place in places], pa.string())
        parts = [batch.filter(pc.is_in(batch["id"], value_set=wanted)) for batch in tables.batches(path)]
        return cls(task, {row["id"]: row for part in parts for row in part.to_pylist()})

    def shown(self, id: str, predicted: Any, right: Any, told: bool) -> tuple[list[Shown], list[Said] | None]:
        """The row's texts, those without spans first, and what is right: as the task has told, or the row's spans."""
        row, texts = self.rows[id], []
        gold: list[Said] | None = words.said(right) if told else None
        for text in sorted(self.task.TEXTS, key=lambda text: text.texts is not None):
            held = row[text.column]
            if isinstance(held, list):
                texts += [Shown(text.column, [Piece(each, _chosen(each, predicted, right))]) for each in held]
                continue
            if not held or (told and held == right and len(self.task.TEXTS) > 1):
                continue
            own = spans_of(row, text.starts, text.texts)
            if text.starts and text.texts and not told:
                gold = [*(gold or []), *dict.fromkeys(Said(each) for each in row[text.texts])]
            marked = words.spans(right, held) if told else []
            found = words.spans(predicted, held)
            if text.texts and isinstance(predicted, str):
                found, own = _found(held, predicted, own), own[:1]
            texts.append(Shown(text.column, excerpt(held, marked or own, found)))
        return texts, None if gold is None else list(dict.fromkeys(gold))


def spans_of(row: dict[str, Any], starts: str | None, texts: str | None) -> list[Span]:
    """The row's own spans in a text."""
    if not starts or not texts:
        return []
    return [Span(s, s + len(t)) for s, t in zip(row[starts], row[texts], strict=True)]


def _chosen(text: str, predicted: Any, right: Any) -> str:
    """The mark of one of several texts: whether it is what was predicted, and what is right."""
    is_right, is_predicted = (any(part.words == text for part in words.said(value)) for value in (right, predicted))
    return MARKS[is_right + 2 * is_predicted]


def _found(text: str, predicted: str, gold: list[Span]) -> list[Span]:
    """Where the predicted text stands, nearest to the first gold span where it stands more than once."""
    if not predicted:
        return []
    starts, at = [], text.find(predicted)
    while at >= 0:
        starts.append(at)
        at = text.find(predicted, at + 1)
    near = gold[0].start if gold else 0
    best = min(starts, key=lambda start: abs(start - near), default=None)
    return [] if best is None else [Span(best, best + len(predicted))]


def excerpt(text: str, gold: list[Span], predicted: list[Span]) -> list[Piece]:
    """The text around its spans (its beginning where there are none), in pieces that say what they are.

    Of many spans those are shown first of which one side alone knows.
    """
    both = {(s.start, s.end, s.tag) for s in gold} & {(s.start, s.end, s.tag) for s in predicted}
    every = sorted([*gold, *predicted], key=lambda s: ((s.start, s.end, s.tag) in both, s.start))[:MOST_MARKED]
    gold, predicted = ([span for span in side if span in every] for side in (gold, predicted))
    near: NDArray[np.bool_] = np.zeros(len(text), dtype=np.bool_)
    code: NDArray[np.int8] = np.zeros(len(text), dtype=np.int8)
    for span in every:
        near[_word(text, span.start - AROUND, -1) : _word(text, span.end + AROUND, 1)] = True
    if not every:
        near[: _word(text, BEGINNING, 1)] = True
    for side, bit in ((gold, 1), (predicted, 2)):
        for span in side:
            code[span.start : span.end] |= bit
    code[~near] = 4
    edges = {edge for span in every for edge in (span.start, span.end)}
    cuts = sorted({0, *(np.flatnonzero(np.diff(code)) + 1).tolist(), *edges, len(text)})
    pieces = [(text[a:b], MARKS[int(code[a])], _tag(b, gold, predicted)) for a, b in pairwise(cuts)]
    return [Piece("…" if mark == "gap" else part, mark, tag) for part, mark, tag in pieces]


def _tag(end: int, gold: Iterable[Span], predicted: Iterable[Span]) -> str:
    """What is said of the spans that end here: once where both sides say the same."""
    right, other = (dict.fromkeys(s.tag for s in side if s.end == end and s.tag) for side in (gold, predicted))
    if list(right) == list(other):
        return ", ".join(right)
    told = [("right", right), ("predicted", other)]
    return "; ".join(f"{side} {', '.join(tags)}" for side, tags in told if tags)


def _word(text: str, place: int, step: int) -> int:
    """The nearest end of a word at or beyond `place` in the direction of `step`, within the text; `place` itself
    where no space is near, as in scripts that write none."""
    place = min(max(place, 0), len(text))
    for near in range(place, place + step * LONGEST_WORD, step):
        if not 0 < near < len(text) or text[near - 1].isspace() != text[near].isspace():
            return min(max(near, 0), len(text))
    return place
