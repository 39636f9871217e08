"""How entities are scored: exact matches as CoNLL and seqeval count them, and partial ones as MUC and nervaluate do.

Sources: Tjong Kim Sang and De Meulder 2003 (an entity is right where its span and its label are); seqeval 1.2
(default mode) for macro averages; SemEval 2013 task 9.1 and nervaluate 1.2 for the four partial schemes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SCHEMES = ("strict", "exact", "partial", "ent_type")
COUNTS = ("correct", "incorrect", "partial", "missed", "spurious")


@dataclass(frozen=True)
class Entities:
    """Entities as columns, in the order of rows and texts: row, first character, one past the last, number of label."""

    row: Ints
    start: Ints
    end: Ints
    kind: Ints


def matched(gold: Entities, found: Entities) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which gold entities were found with span and label, and which found ones are right."""
    keys = [np.stack([e.row, e.start, e.end, e.kind], axis=1) for e in (gold, found)]
    _, code = np.unique(np.concatenate(keys), axis=0, return_inverse=True)
    code = code.ravel()
    ours, theirs = code[: len(gold.row)], code[len(gold.row) :]
    return np.isin(ours, theirs), np.isin(theirs, ours)


def sums(gold: Entities, found: Entities, rows: int, kinds: int) -> Floats:
    """What each row adds to the scores: right, found and gold entities of each kind (rows, kinds * 3)."""
    _, right = matched(gold, found)
    parts = ((found.row[right], found.kind[right], 0), (found.row, found.kind, 1), (gold.row, gold.kind, 2))
    cells = np.concatenate([(row * kinds + kind) * 3 + part for row, kind, part in parts])
    return np.bincount(cells, minlength=rows * kinds * 3).astype(np.float64).reshape(rows, kinds * 3)


def precision(totals: Floats) -> Floats:
    """Of sums (…, kinds * 3), over all kinds, in points of 100. NaN where nothing was found."""
    return _share(_all(totals), 0, 1)


def recall(totals: Floats) -> Floats:
    """NaN where there is no gold entity."""
    return _share(_all(totals), 0, 2)


def f1(totals: Floats) -> Floats:
    """2 right / (found + gold). NaN where there is neither."""
    return _f1(_all(totals))


def macro_f1(totals: Floats) -> Floats:
    """The mean of the kinds' F1, of those kinds that are gold or were found."""
    each = _f1(totals.reshape(*totals.shape[:-1], -1, 3))
    with np.errstate(invalid="ignore"):
        known = np.isfinite(each)
        return np.asarray(np.where(known, each, 0).sum(axis=-1) / np.where(known.any(axis=-1), known.sum(-1), np.nan))


def _all(totals: Floats) -> Floats:
    return np.asarray(totals.reshape(*totals.shape[:-1], -1, 3).sum(axis=-2), dtype=np.float64)


def _share(counts: Floats, part: int, whole: int) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(100 * counts[..., part] / counts[..., whole])


def _f1(counts: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(200 * counts[..., 0] / (counts[..., 1] + counts[..., 2]))


def partial(gold: Entities, found: Entities) -> dict[str, dict[str, float | None]]:
    """Of each of SCHEMES its counts, precision, recall and F1 (points of 100), as nervaluate finds them.

    Rows whose entities are all right need no alignment, and are counted; the others are given to nervaluate.
    """
    got, right = matched(gold, found)
    wrong = np.union1d(gold.row[~got], found.row[~right])
    totals = {scheme: dict.fromkeys(COUNTS, 0) for scheme in SCHEMES}
    easy = int(np.count_nonzero(~np.isin(gold.row, wrong)))
    for counts in totals.values():
        counts["correct"] += easy
    for row in wrong.tolist():
        for scheme, counted in _aligned(_of_row(gold, row), _of_row(found, row)).items():
            for name in COUNTS:
                totals[scheme][name] += getattr(counted, name)
    return {scheme: _measured(counts, scheme in ("partial", "ent_type")) for scheme, counts in totals.items()}


def _of_row(entities: Entities, row: int) -> list[Any]:
    from nervaluate.entities import Entity

    first, last = np.searchsorted(entities.row, (row, row + 1))
    columns = (part[first:last].tolist() for part in (entities.kind, entities.start, entities.end))
    return [Entity(label=str(kind), start=start, end=end - 1) for kind, start, end in zip(*columns, strict=True)]


def _aligned(gold: list[Any], found: list[Any]) -> dict[str, Any]:
    from nervaluate import strategies

    kinds = (
        strategies.StrictEvaluation,
        strategies.ExactEvaluation,
        strategies.PartialEvaluation,
        strategies.EntityTypeEvaluation,
    )
    return {scheme: kind().evaluate(gold, found, [])[0] for scheme, kind in zip(SCHEMES, kinds, strict=True)}


def _measured(counts: dict[str, int], halves: bool) -> dict[str, float | None]:
    right = counts["correct"] + (0.5 * counts["partial"] if halves else 0)
    shared = counts["correct"] + counts["incorrect"] + counts["partial"]
    found, gold = shared + counts["spurious"], shared + counts["missed"]
    return {
        **counts,
        "count": gold,
        "precision": _points(right, found),
        "recall": _points(right, gold),
        "f1": _points(2 * right, found + gold),
    }


def _points(part: float, whole: float) -> float | None:
    return round(100 * part / whole, 4) if whole else None
