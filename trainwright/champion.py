"""Whether a challenger may take the place of the version in use: both on the same frozen test rows, drawn together.

The test set is frozen at the first publication: the ids of its rows and what they say. Rows that come in later never
enter it, unless a person starts a new line of comparison. Scores are the task's own, corpus-level ones too, computed
anew from certified rows and raw outputs: no model runs. The difference is drawn by paired bootstrap over groups of rows
(Efron and Tibshirani, 1993; Koehn, 2004): both models on the same draws, a group with all its rows.

docs/decisions/0011-when-a-model-is-not-worse.md gives the reasons for the rules and their limits.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.core import params, tasks
from trainwright.core.errors import Fault, InputError, RefusedError, nearest
from trainwright.operations import Publication
from trainwright.rows import tables
from trainwright.scoring import wording
from trainwright.scoring.intervals import Score, together

Floats = NDArray[np.float64]

POWER = 0.9  # how often a loss must be caught for the set to be called able to show it
FALSE_ALARMS = 0.03  # how often, at most, a model that is as good is refused: 5%, less what estimated errors cost
MARGIN = 2.0  # points; percent of the score in use where it is not in points
TELLING = 3.0  # a gain, likewise, that a test set must be able to show, or it is too small to tell
SEED = 0
SHOWN = 10
PLACING = ("split", "group", "parent")  # where a row stands, not what it says


@dataclass(frozen=True)
class TestSet:
    """The frozen rows of one line of comparison: their ids, the SHA-256 of what each says, since which version."""

    __test__ = False  # pytest takes the name for its own

    line: int
    ids: tuple[str, ...]
    digests: tuple[str, ...]
    frozen_at: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "TestSet":
        read = json.loads(text)
        return cls(read["line"], tuple(read["ids"]), tuple(read["digests"]), read["frozen_at"])


@dataclass(frozen=True)
class Side:
    """One model's test split: certified rows, raw outputs over them, what was tuned, and the pipeline's parameters."""

    name: str
    rows: pa.Table
    outputs: pa.Table
    tuned: Mapping[str, Any]
    params: params.Pipeline


@dataclass(frozen=True)
class Comparison:
    """A challenger against one version on the frozen rows. A positive difference is an improvement, whatever the score.

    `low` and `high` are the ends of its interval, `error` its standard error. `margin` is the one asked for, or the
    least at which this set does not refuse a model that is as good; `widens` says that the latter may pass. `smallest`
    is the least loss (for the rule `better`, gain) that this set shows nine times of ten at `margin`; None where the
    predictions do not differ.
    """

    against: str
    score: str
    unit: str
    challenger: float
    other: float
    difference: float
    low: float
    high: float
    error: float
    rows: int
    groups: int
    rule: str
    asked: float
    margin: float
    smallest: float | None
    telling: float
    passed: bool
    widens: bool = False

    @property
    def widened(self) -> bool:
        """Whether a wider margin than the one asked for was taken, since the set is too small for that."""
        return self.rule == "non_inferior" and self.widens and self.too_small

    @property
    def too_small(self) -> bool:
        """Whether the set cannot show a loss of the margin asked for; for `better`, a gain of 3 points (or 3%)."""
        return self.smallest is not None and self.smallest > (self.telling if self.rule == "better" else self.asked)


@dataclass(frozen=True)
class Verdict:
    """Whether to publish, and why, in words. `values` are all headline scores on the frozen rows.

    `known` are the tags of versions and uses when this was judged: of a newer one nothing is known here. `unmeasured`
    are the reasons why something could not be measured, each with the ids of the rows.
    """

    publish: bool
    words: str
    frozen: TestSet
    score: str
    values: dict[str, float]
    comparisons: tuple[Comparison, ...] = ()
    unmeasured: tuple[tuple[str, tuple[str, ...]], ...] = ()
    known: tuple[str, ...] = ()

    @property
    def too_small(self) -> bool:
        return any(comparison.too_small for comparison in self.comparisons)

    def as_dict(self) -> dict[str, Any]:
        """JSON values, without the rows of the test set."""
        told = asdict(self)
        told["frozen"] = {"line": self.frozen.line, "rows": len(self.frozen.ids), "frozen_at": self.frozen.frozen_at}
        return told


def freeze(rows: pa.Table, line: int = 1) -> TestSet:
    """The test set of all these rows, in their order."""
    return TestSet(line, tuple(rows["id"].to_pylist()), tuple(digests(rows)))


def digests(rows: pa.Table) -> list[str]:
    """The SHA-256 of what each row says: its id and the task's own columns, as JSON."""
    told = rows.drop_columns([name for name in PLACING if name in rows.column_names])
    return [
        hashlib.sha256(json.dumps(row, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
        for batch in told.to_batches(max_chunksize=tables.BATCH)
        for row in batch.to_pylist()
    ]


def judge(
    settings: Publication,
    challenger: Side,
    rivals: Sequence[Side],
    frozen: TestSet | None,
    learnt: Iterable[pa.Table],
    metrics: Mapping[str, Any],
    versions: Sequence[str] = (),
) -> Verdict:
    """Compare `challenger` with `rivals`: the version in use and, where it is another one, the best so far.

    Without rivals it is the first of its line, and is judged by floors alone. `learnt` are the rows that the challenger
    was trained and tuned on, piece by piece; `metrics` those of its postprocessing; `versions` all of the line, the
    best being the best of them. Raises InputError where params.yaml names a score or a slice that is not there.
    """
    first = frozen is None or not rivals
    if frozen is None or not rivals:
        frozen = freeze(challenger.rows, frozen.line + 1 if frozen else 1)
    unmeasured = [] if first else _unmeasured(frozen, challenger, rivals, learnt)
    comparisons: list[Comparison] = []
    values: dict[str, float] = {}
    name = settings.score or ""
    if not unmeasured:
        own = _scores(frozen, challenger, challenger)
        name = _chosen(settings, own)
        values = {key: value for key, score in own.items() if np.isfinite(value := _value(score))}
        others = [(side, _scores(frozen, side, challenger)) for side in rivals if not first]
        for side, theirs in others:
            unmeasured += _uncounted(frozen, name, own, theirs, side.name)
        if not unmeasured:
            which = tasks.load(challenger.params.task, "scores").drawn(_frozen_rows(frozen, challenger.rows))
            count = max(len(versions), len(rivals))
            for side, theirs in others[:1] if settings.rule == "better" else others:
                found = _compare(settings, side.name, name, own[name], theirs[name], which, count)
                if isinstance(found, str):
                    unmeasured.append((found, ()))
                else:
                    comparisons.append(found)
    low = _slices(settings, name, metrics)
    publish = not unmeasured and not low and all(comparison.passed for comparison in comparisons)
    words = _words(publish, first, name, comparisons, unmeasured, low, challenger, metrics)
    if publish and settings.approval == "required":
        words = words.removesuffix(".") + " if a person approves."
    return Verdict(publish, words, frozen, name, values, tuple(comparisons), tuple(unmeasured), tuple(versions))


def accepted(side: Side, frozen: TestSet, words: str, known: Sequence[str]) -> Verdict:
    """The verdict of a person who takes a version's results for other code: measured, and compared with nothing.

    Raises RefusedError where the frozen rows are not among its test rows.
    """
    if found := _unmeasured(frozen, side, [], []):
        raise RefusedError(f"{found[0][0]}: {', '.join(found[0][1][:SHOWN])}")
    scores = _scores(frozen, side, side)
    values = {key: value for key, score in scores.items() if np.isfinite(value := _value(score))}
    return Verdict(True, words, frozen, next(iter(scores)), values, known=tuple(known))


def compare(
    values: tuple[float, float],
    drawn: Floats,
    groups: int,
    settings: Publication,
    versions: int = 1,
    points: bool = True,
) -> tuple[float, float, float, float, float, float | None, float, bool]:
    """The rule alone, on numbers of which more is better: what the challenger and the other score, and both on each
    draw (draws, 2). Returns low, high, standard error, margin asked for, margin taken, smallest loss or gain shown,
    what a set should be able to show, and whether the challenger passes.
    """
    from scipy.stats import t

    difference = values[0] - values[1]
    draws = drawn[:, 0] - drawn[:, 1]
    tail = 50 * (1 - settings.confidence)
    low, high = (float(end) for end in np.percentile(draws, [tail, 100 - tail]))
    error = float(draws.std() * np.sqrt(groups / (groups - 1)))
    scale = 1.0 if points else abs(values[1]) / 100
    asked = MARGIN * scale if settings.margin is None else settings.margin
    telling = TELLING * scale
    if not draws.any() and difference == 0:  # the same predictions, or none that changes the score
        return low, high, 0.0, asked, asked, None, telling, settings.rule == "non_inferior"
    below = difference - low
    more = NormalDist().inv_cdf(POWER) * error
    if settings.rule == "better":
        return low, high, error, 0.0, 0.0, below + more, telling, low > 0
    margin = max(asked, below + float(t.ppf(1 - FALSE_ALARMS / versions, groups - 1)) * error)
    smallest = margin - below + more
    if smallest > asked and not _widens(settings):
        return low, high, error, asked, margin, smallest, telling, low > 0  # a gain it can show all the same
    return low, high, error, asked, margin, smallest, telling, low > -margin


def _widens(settings: Publication) -> bool:
    """Whether a set that cannot show the margin may take a wider one: on request, or if a person decides."""
    return settings.small_test_set == "widen" or settings.approval == "required"


def _compare(
    settings: Publication, against: str, name: str, own: Score, other: Score, which: NDArray[np.int64], versions: int
) -> Comparison | str:
    """The comparison by one score, or why there is none."""
    groups = int(which.max(initial=-1)) + 1
    if groups < 2:
        return f"the frozen rows are one group, of which no interval can be drawn ({wording.label(name)})"
    sign = -1.0 if own.better == "lower" else 1.0
    values, drawn = together([own, other], which, settings.draws, SEED)
    if not np.isfinite(values).all():
        return f"{wording.label(name)} is undefined on the frozen rows"
    defined = np.isfinite(drawn).all(axis=1)
    if defined.mean() < 0.95:
        return f"{wording.label(name)} is undefined in more than one draw of twenty of the frozen rows"
    pair = (sign * float(values[0]), sign * float(values[1]))
    low, high, error, asked, margin, smallest, telling, passed = compare(
        pair, sign * drawn[defined], groups, settings, versions, not own.unit
    )
    return Comparison(
        against, name, own.unit or wording.POINTS, float(values[0]), float(values[1]), pair[0] - pair[1], low, high,
        error, len(which), groups, settings.rule, asked, margin, smallest, telling, passed, _widens(settings),
    )  # fmt: skip


def _unmeasured(
    frozen: TestSet, challenger: Side, rivals: Sequence[Side], learnt: Iterable[pa.Table]
) -> list[tuple[str, tuple[str, ...]]]:
    """Why both sides cannot be compared on the frozen rows, with the ids of the rows that are in the way."""
    found: list[tuple[str, tuple[str, ...]]] = []
    rows, model = (tasks.load(challenger.params.task, part) for part in ("rows", "model"))
    for side in (challenger, *rivals):
        if not side.rows.schema.equals(rows.SCHEMA) or not side.outputs.schema.equals(model.OUTPUTS):
            found.append((f"the rows or outputs of {side.name} are in a form that this code does not read", ()))
            continue
        place = _places(frozen, side.rows)
        gone = [name for name, at in zip(frozen.ids, place, strict=True) if at is None]
        if gone:
            found.append((f"frozen rows are not among the test rows of {side.name}", tuple(gone)))
        here = [at for at in place if at is not None]
        now = dict(
            zip(side.rows["id"].take(pa.array(here, pa.int64())).to_pylist(), _said(side.rows, here), strict=True)
        )
        other = [n for n, said in zip(frozen.ids, frozen.digests, strict=True) if n in now and now[n] != said]
        if other:
            found.append((f"frozen rows say something else in the test rows of {side.name}", tuple(other)))
    if not found and (seen := _seen(frozen, challenger.rows, rows.IDENTITY, learnt)):
        found.append(
            (f"frozen rows, or the same under another id, are among those {challenger.name} learnt from", seen)
        )
    return found


def _said(rows: pa.Table, places: list[int]) -> list[str]:
    return digests(rows.take(pa.array(places, pa.int64())))


def _places(frozen: TestSet, rows: pa.Table) -> list[int | None]:
    found: list[int | None] = pc.index_in(pa.array(frozen.ids, pa.string()), rows["id"].combine_chunks()).to_pylist()
    return found


def _frozen_rows(frozen: TestSet, table: pa.Table) -> pa.Table:
    return table.take(pa.array(_places(frozen, table), pa.int64()))


def _seen(frozen: TestSet, test: pa.Table, identity: Sequence[str], learnt: Iterable[pa.Table]) -> tuple[str, ...]:
    """The ids of the frozen rows that are in `learnt`, by id, as a parent, or by what makes two rows the same."""
    kept = _frozen_rows(frozen, test)
    hashes = tables.content_hash(kept, list(identity))
    ids, found = kept["id"].combine_chunks(), np.zeros(kept.num_rows, dtype=np.bool_)
    for batch in learnt:
        found |= np.isin(hashes, tables.content_hash(batch, list(identity)))
        for name in ("id", "parent"):
            found |= pc.is_in(ids, value_set=batch[name].combine_chunks()).to_numpy(zero_copy_only=False)
    return tuple(ids.filter(pa.array(found)).to_pylist())


def _scores(frozen: TestSet, side: Side, challenger: Side) -> dict[str, Score]:
    """The headline scores of a side's frozen rows: its own predictions, scored as the challenger's are."""
    task = challenger.params.task
    predictions, scores = tasks.load(task, "predictions"), tasks.load(task, "scores")
    predicted = predictions.predict(side.rows, side.outputs, side.params.postprocessing, dict(side.tuned))
    section, language = challenger.params.postprocessing, challenger.params.language
    rows, chosen = _frozen_rows(frozen, side.rows), _frozen_rows(frozen, predicted)
    found: dict[str, Score] = scores.headline(rows, chosen, section, language)
    return found


def _value(score: Score) -> float:
    rows = score.sums if score.counted is None else score.sums[score.counted]
    return float(score.statistic(rows.sum(axis=0))) if len(rows) else float("nan")


def _chosen(settings: Publication, scores: Mapping[str, Score]) -> str:
    if settings.score is None:
        return next(iter(scores))
    if settings.score not in scores:
        remedy = nearest(settings.score, scores)
        raise InputError(
            Fault("params.yaml", f"there is no score {settings.score!r}", remedy, field="publication.score")
        )
    return settings.score


def _uncounted(
    frozen: TestSet, name: str, own: Mapping[str, Score], other: Mapping[str, Score], who: str
) -> list[tuple[str, tuple[str, ...]]]:
    """Rows of which one side has nothing to count: a model that leaves out what is hard is no better for it."""
    if name not in other:
        return [(f"{who} has no {wording.label(name)}", ())]
    found = []
    for side, score in (("the challenger", own[name]), (who, other[name])):
        if score.counted is not None and not score.counted.all():
            left_out = tuple(np.array(frozen.ids, dtype=object)[~score.counted].tolist())
            found.append((f"{side} has no prediction that {wording.label(name)} could count", left_out))
    return found


def _slices(settings: Publication, name: str, metrics: Mapping[str, Any]) -> list[str]:
    """What is wrong with the slices that have a floor, in words."""
    found, test = [], metrics.get("test") or {}
    slices = {f"{part['by']}: {part['value']}": part for part in test.get("slices") or ()}
    sign = -1.0 if wording.kind(metrics, name)["better"] == "lower" else 1.0
    for place, floor in settings.slice_floors.items():
        value = slices.get(place, {}).get(name)
        if place not in slices:
            found.append(f"slice {place!r} has no rows, and a floor. {nearest(place, slices)}")
        elif value is None:
            found.append(f"slice {place!r} has no {wording.label(name)}, and a floor")
        elif sign * value < sign * floor:
            found.append(f"{wording.label(name)} {wording.number(value)} in {place!r} is past its floor of {floor:g}")
    return found


def _words(
    publish: bool,
    first: bool,
    name: str,
    comparisons: Sequence[Comparison],
    unmeasured: Sequence[tuple[str, tuple[str, ...]]],
    low: Sequence[str],
    challenger: Side,
    metrics: Mapping[str, Any],
) -> str:
    lines = []
    if first and not unmeasured:
        score = wording.said(wording.cell(metrics.get("test"), name), wording.kind(metrics, name)["unit"])
        lines.append(
            f"The first of its line: judged by its floors alone. {wording.label(name)} {score} on the "
            f"{challenger.rows.num_rows:,} test rows, which are frozen for all that follow."
        )
    for comparison in comparisons:
        lines += _sentences(comparison)
    lines += _about_size(comparisons)
    for reason, ids in unmeasured:
        listed = ", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else "")
        lines.append(f"It cannot be measured, which is a no: {reason}{f' ({len(ids):,}: {listed})' if ids else ''}.")
    lines += [f"{line[0].upper()}{line[1:]}." for line in low]
    return "\n".join([*lines, "It may be published." if publish else "It is not published."])


def _sentences(found: Comparison) -> list[str]:
    """A comparison in words: the scores, the rule, what the set can show."""

    def said(value: float) -> str:
        return wording.number(value, found.unit, found.other)

    unit = "" if found.unit == wording.POINTS else f" ({found.unit}; + is better)"
    ends = f"{said(found.low)} to {said(found.high)}"
    lines = [
        f"{wording.label(found.score)} {said(found.challenger)} against {said(found.other)} of {found.against} on "
        f"{found.rows:,} rows in {found.groups:,} groups: {'+' if found.difference >= 0 else ''}"
        f"{said(found.difference)} ({ends}){unit}."
    ]
    if found.smallest is None:
        no = "" if found.passed else ", which is not better"
        return [*lines, f"No prediction differs from {found.against}'s in its score{no}."]
    if found.rule == "better":
        is_it = "It is better" if found.passed else "It is not shown to be better"
        lines.append(f"{is_it}: the lower end is {'above' if found.passed else 'not above'} 0.")
        lines.append(f"The smallest gain that this set shows nine times of ten is {said(found.smallest)}.")
    else:
        bound = -found.margin if found.widens or not found.too_small else 0.0
        if found.passed or found.low <= -found.margin:
            is_it, above = ("It is not inferior", "above") if found.passed else ("It may be inferior", "not above")
            lines.append(f"{is_it}: the lower end is {above} {said(bound if found.passed else -found.margin)}.")
        if not found.too_small:
            lines.append(f"The smallest loss that this set shows nine times of ten is {said(found.smallest)}.")
    return lines


def _about_size(comparisons: Sequence[Comparison]) -> list[str]:
    """One paragraph on a test set that is too small, by the comparison in which it shows least."""
    small = [found for found in comparisons if found.too_small and not (found.passed and not found.widened)]
    if not small:
        return []
    found = max(small, key=lambda comparison: comparison.smallest or 0.0)
    aim, shown = found.telling if found.rule == "better" else found.asked, found.smallest or 0.0
    asked, least, taken = (wording.number(value, found.unit, found.other) for value in (aim, shown, found.margin))
    need = f" Some {_round(found.rows * (shown / aim) ** 2):,} rows would show that." if aim else ""
    if found.rule == "better":
        return [f"The test set is too small to tell: it shows gains of {least} or more, and {asked} is wanted.{need}"]
    if found.widened:
        return [
            f"The margin asked for is {asked}. The test set shows losses of {least} or more, so {taken} is taken.{need}"
        ]
    return [
        f"The test set is too small to tell: it shows losses of {least} or more, and the margin is {asked}.{need} "
        f"To publish from it, set `publication.small_test_set: widen`, which takes a margin of {taken} here, or have a "
        "person decide (`publication.approval: required`)."
    ]


def _round(count: float) -> int:
    """Two digits of a count, upwards."""
    step = 10 ** max(0, len(str(int(count))) - 2)
    return int(-(-count // step) * step)
