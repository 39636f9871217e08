"""When a challenger may take the place of the version in use: the rule, what it misses, what cannot be measured."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from ruamel.yaml import YAML

from trainwright import champion
from trainwright.champion import Side, TestSet
from trainwright.core.errors import InputError, RefusedError
from trainwright.core.params import Pipeline
from trainwright.operations import Publication
from trainwright.scoring.intervals import Score, intervals, mean, means, together
from trainwright.tasks.multiple_choice import model, rows

PER = 5  # rows in a group
WIDEN = Publication(small_test_set="widen")
SIZES = [(12, 600), (240, 600), (1500, 200)]  # groups, repetitions


def outcomes(groups: int, count: int, models: int, loss: float = 0.0, same: float = 0.0) -> np.ndarray:
    """Whether each of some models is right (models, rows, repetitions).

    Rows are hard or easy for all models alike, groups too, and a model is at home in some groups more than in others:
    errors are independent given that. The first model loses `loss`; the others repeat its answer with chance `same`.
    """
    rng = np.random.default_rng(1)
    easy = 1.1 + rng.normal(0, 0.8, (groups, count)).repeat(PER, 0) + rng.normal(0, 1.2, (groups * PER, count))
    found: list[np.ndarray] = []
    for number in range(models):
        chance = 1 / (1 + np.exp(-easy - rng.normal(0, 0.4, (groups, count)).repeat(PER, 0)))
        right = rng.random(chance.shape) < np.maximum(chance - (0 if number else loss), 0)
        found.append(np.where(rng.random(chance.shape) < same, found[0], right) if number else right)
    return np.stack(found).astype(np.float64)


def drawn(made: np.ndarray, draws: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """The values of all models and repetitions, and what they are on the same draws, as `champion.judge` draws them."""
    one = np.ones((made.shape[1], 1))
    scores = [Score(np.concatenate([each, one], axis=1), lambda s: 100 * s[..., :-1] / s[..., -1:]) for each in made]
    return together(scores, np.arange(made.shape[1]) // PER, draws, 0)


def decided(made: np.ndarray, settings: Publication, rivals: tuple[int, ...] = (1,), versions: int = 1) -> np.ndarray:
    """Of each repetition whether the first model passes against all `rivals`, and whether the set was too small."""
    values, draws = drawn(made)
    groups = made.shape[1] // PER
    found = []
    for place in range(made.shape[2]):
        ends = [
            champion.compare(
                (values[0, place], values[rival, place]), draws[:, place, [0, rival]], groups, settings, versions
            )
            for rival in rivals
        ]
        small = any(smallest is not None and smallest > asked for *_, asked, _, smallest, _, _ in ends)
        found.append((all(end[-1] for end in ends), small))
    return np.array(found).T


@pytest.mark.parametrize("groups, count", SIZES)
@pytest.mark.parametrize("same", [0.0, 0.7])
@pytest.mark.parametrize("margin", [0.5, 2.0])
def test_the_same_model_twice_is_refused_at_most_once_in_twenty_times(
    groups: int, count: int, same: float, margin: float
) -> None:
    passed, _ = decided(outcomes(groups, count, 2, same=same), Publication(margin=margin, small_test_set="widen"))
    assert passed.mean() >= 0.95


@pytest.mark.parametrize("groups, count", SIZES)
@pytest.mark.parametrize("same", [0.0, 0.7])
def test_a_loss_of_three_points_is_caught_nine_times_of_ten_or_the_set_is_called_too_small(
    groups: int, count: int, same: float
) -> None:
    made = outcomes(groups, count, 2, loss=0.03 / (1 - same), same=same)
    passed, small = decided(made, WIDEN.model_copy(update={"margin": 3.0}))
    assert decided(made, Publication(margin=3.0))[0].mean() <= 0.1  # by default, whatever the size
    assert np.mean(~passed | small) >= 0.9
    if small.mean() < 0.1:  # it says that it can tell, so it must
        assert 1 - passed.mean() >= 0.9
    assert small.mean() > 0.95 or groups > 12
    assert not small.any() or groups < 1500


def test_the_best_of_many_equal_models_is_no_bar_for_one_as_good() -> None:
    """The best of ten was lucky: a rule that took it for better than it is would refuse most of what comes after."""
    made = outcomes(120, 400, 11)
    values, _ = drawn(made, draws=2)
    best = 1 + values[1:].argmax(axis=0)
    moved = made.copy()
    for place, number in enumerate(best):  # the best stands second, the champion last
        moved[[1, number], :, place] = moved[[number, 1], :, place]
    passed, _ = decided(moved, WIDEN, rivals=(1, 10), versions=10)
    assert passed.mean() >= 0.95
    naive, _ = decided(moved, WIDEN, rivals=(1, 10), versions=1)
    assert 1 - naive.mean() > 0.05


def test_small_losses_do_not_add_up() -> None:
    """Each model is a point worse than the one before: against that alone all would pass."""
    rng = np.random.default_rng(3)
    chance = rng.beta(5, 2, (3000, 1))
    made = np.stack([rng.random(chance.shape) < chance - 0.012 * step for step in range(6)]).astype(float)
    values, draws = drawn(made)

    def passes(ours: int, other: int) -> bool:
        pair = draws[:, 0, [ours, other]]
        return champion.compare(
            (values[ours, 0], values[other, 0]), pair, 600, WIDEN.model_copy(update={"margin": 4.0}), 5
        )[-1]

    assert all(passes(step, step - 1) for step in range(1, 6))
    assert not passes(5, 0)


@pytest.mark.parametrize("groups", [2, 24])
@pytest.mark.parametrize("margin", [0.0, 2.0])
def test_identical_predictions_pass_at_any_size_and_margin_and_are_not_better(groups: int, margin: float) -> None:
    one = outcomes(groups, 1, 1)
    both = np.concatenate([one, one])
    assert decided(both, Publication(margin=margin))[0].all()
    assert not decided(both, Publication(rule="better"))[0].any()


@pytest.mark.parametrize("gain, passes", [(0.0, 0.05), (0.08, 0.9)])
def test_better_lets_through_what_is_better_and_seldom_what_is_as_good(gain: float, passes: float) -> None:
    passed, _ = decided(outcomes(240, 400, 2, loss=-gain), Publication(rule="better"))
    assert passed.mean() >= passes if gain else passed.mean() <= passes


def test_the_interval_of_one_score_is_that_of_the_report() -> None:
    values = np.random.default_rng(0).random(60)
    which = np.arange(60) // PER
    (reported,) = intervals(means(values), which, lambda sums: mean(sums)[..., None], 400, 0)
    _, draws = together([Score(means(values), mean)], which, 400, 0)
    low, high = np.percentile(draws[:, 0], [2.5, 97.5])
    assert (reported["low"], reported["high"]) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


RECIPE = Path(__file__).parent.parent / "recipes" / "superglue" / "copa.yaml"
PIPELINE = Pipeline.model_validate(YAML(typ="safe").load(RECIPE.read_text())["copa"])


def table(count: int, first: int = 0) -> pa.Table:
    """Questions with two choices, of which the first is right; five in a group."""
    columns: dict[str, list[Any]] = {
        "id": [f"q{n}" for n in range(first, first + count)],
        "group": [f"g{n // PER}" for n in range(first, first + count)],
        "split": [None] * count,
        "parent": [None] * count,
        "context": [f"context {n}" for n in range(first, first + count)],
        "question": ["which?"] * count,
        "choices": [[f"yes {n}", f"no {n}"] for n in range(first, first + count)],
        "answer": [0] * count,
    }
    return pa.table(columns, schema=rows.SCHEMA)


def side(name: str, of: pa.Table, wrong: set[int]) -> Side:
    """A model that is wrong on the rows with these places."""
    scores = [[0.0, 1.0] if n in wrong else [1.0, 0.0] for n in range(of.num_rows)]
    outputs = pa.table({"row": list(range(of.num_rows)), "score": scores}, schema=model.OUTPUTS)
    return Side(name, of, outputs, {}, PIPELINE)


ROWS = table(400)
LEARNT = table(50, first=1000)
METRICS: dict[str, Any] = {
    "test": {
        "count": 400,
        "accuracy": {"value": 80.0, "low": 76.0, "high": 84.0},
        "slices": [{"by": "number of choices", "value": "2", "count": 400, "accuracy": 80.0}],
    }
}
CHAMPION = side("v1.2.0", ROWS, set(range(0, 400, 5)))
FROZEN = champion.freeze(ROWS)


def judge(challenger: Side, *rivals: Side, frozen: TestSet | None = FROZEN, learnt: Any = (), **settings: Any) -> Any:
    settings = {"small_test_set": "widen", **settings}
    return champion.judge(Publication(**settings), challenger, rivals, frozen, learnt or [LEARNT], METRICS, ["v1.2.0"])


def test_the_first_of_a_line_is_judged_by_floors_alone_and_freezes_its_test_rows() -> None:
    verdict = judge(side("the challenger", ROWS, {1}), frozen=None)
    assert verdict.publish and verdict.frozen == FROZEN and verdict.values == {"accuracy": 99.75}
    assert "The first of its line" in verdict.words and "accuracy 80.0 (76.0 to 84.0)" in verdict.words
    assert len(set(FROZEN.digests)) == 400 and TestSet.from_json(FROZEN.to_json()) == FROZEN


def test_a_comparison_is_told_in_words_with_what_the_set_can_show() -> None:
    verdict = judge(side("the challenger", ROWS, set(range(0, 390, 5)) | {3}), CHAMPION)
    assert verdict.publish
    (found,) = verdict.comparisons
    assert (found.rows, found.groups, found.challenger, found.other) == (400, 80, 80.25, 80.0)
    assert re.search(
        r"accuracy 80\.2 against 80\.0 of v1\.2\.0 on 400 rows in 80 groups: \+0\.2 \(-0\.\d to ", verdict.words
    )
    assert f"The smallest loss that this set shows nine times of ten is {found.smallest:.1f}." in verdict.words


def test_a_set_that_cannot_show_the_margin_publishes_on_request_or_by_a_person_only() -> None:
    as_good = side("the challenger", ROWS, set(range(80)))
    best = side("v1.1.0", ROWS, set(range(0, 395, 5)))
    verdict = judge(as_good, CHAMPION, best, small_test_set="refuse")
    assert not verdict.publish and verdict.too_small
    assert verdict.words.count("too small to tell") == 1 and verdict.words.count("small_test_set: widen") == 1
    assert "may be published" not in verdict.words and "not inferior" not in verdict.words
    person = judge(as_good, CHAMPION, best, small_test_set="refuse", approval="required")
    assert person.publish and person.words.endswith("It may be published if a person approves.")
    assert "too small to tell" not in person.words and person.words.count(" is taken.") == 1
    asked = judge(as_good, CHAMPION, best)
    assert asked.publish and asked.words.endswith("It may be published.") and "too small" not in asked.words
    assert judge(as_good, CHAMPION, small_test_set="refuse", margin=40.0).publish  # it shows that much
    assert judge(CHAMPION, CHAMPION, small_test_set="refuse").publish  # nothing is different
    better = judge(side("the challenger", ROWS, set(range(20))), CHAMPION, small_test_set="refuse")
    assert better.publish and better.too_small and "the lower end is above 0.0." in better.words
    assert "too small" not in better.words
    assert judge(as_good, frozen=None, small_test_set="refuse").publish  # nothing to compare with


def test_a_clear_loss_is_refused_and_a_small_set_says_that_it_cannot_tell() -> None:
    verdict = judge(side("the challenger", ROWS, set(range(0, 400, 2))), CHAMPION, small_test_set="refuse")
    assert not verdict.publish and "It may be inferior" in verdict.words
    assert verdict.too_small and re.search(r"too small to tell: .* Some [\d,]+ rows would", verdict.words)


def test_the_best_so_far_is_a_bar_beside_the_version_in_use() -> None:
    best = side("v1.1.0", ROWS, set())
    verdict = judge(side("the challenger", ROWS, set(range(0, 400, 5)) - {0}), CHAMPION, best)
    assert [found.passed for found in verdict.comparisons] == [True, False] and not verdict.publish
    assert judge(side("the challenger", ROWS, {1}), CHAMPION, best, rule="better").publish


def test_rows_that_come_in_later_do_not_enter_the_frozen_set() -> None:
    more = table(600)
    verdict = judge(side("the challenger", more, set(range(400, 600))), CHAMPION)
    assert verdict.values == {"accuracy": 100.0} and verdict.comparisons[0].rows == 400


def test_a_frozen_row_that_is_gone_changed_or_learnt_cannot_be_measured_which_is_a_no() -> None:
    gone = judge(side("the challenger", ROWS.slice(2), set()), CHAMPION)
    assert not gone.publish and gone.unmeasured[0][1] == ("q0", "q1") and "(2: q0, q1)" in gone.words
    said = ROWS.set_column(7, rows.SCHEMA.field("answer"), pa.array([1, *[0] * 399], pa.int32()))
    changed = judge(side("the challenger", said, set()), CHAMPION)
    assert not changed.publish and changed.unmeasured[0][1] == ("q0",) and "say something else" in changed.words
    again = ROWS.slice(7, 1).set_column(0, rows.SCHEMA.field("id"), pa.array(["another"]))
    for learnt in (again, LEARNT.set_column(3, "parent", pa.array(["q7", *[None] * 49], pa.string())).slice(0, 1)):
        leaked = judge(side("the challenger", ROWS, set()), CHAMPION, learnt=[LEARNT, learnt])
        assert not leaked.publish and leaked.unmeasured[0][1] == ("q7",) and "learnt from" in leaked.words


def test_the_place_of_a_row_may_change_but_not_what_it_says() -> None:
    moved = ROWS.set_column(1, rows.SCHEMA.field("group"), pa.array([f"h{n // 7}" for n in range(400)]))
    assert judge(side("the challenger", moved.take(list(range(399, -1, -1))), set()), CHAMPION).publish


def test_other_forms_of_outputs_and_one_group_alone_are_a_no() -> None:
    old = replace(CHAMPION, outputs=CHAMPION.outputs.rename_columns(["row", "logit"]))
    assert "a form that this code does not read" in judge(side("the challenger", ROWS, set()), old).words
    few = ROWS.slice(0, PER)
    verdict = judge(side("the challenger", few, {1}), side("v1.2.0", few, set()), frozen=champion.freeze(few))
    assert not verdict.publish and "one group" in verdict.words


def test_a_slice_under_its_floor_is_refused_and_one_that_is_not_there_too() -> None:
    place = "number of choices: 2"
    challenger = side("the challenger", ROWS, {1})
    assert judge(challenger, CHAMPION, slice_floors={place: 80.0}).publish
    low = judge(challenger, CHAMPION, slice_floors={place: 80.1})
    assert not low.publish and "past its floor of 80.1" in low.words
    absent = judge(challenger, CHAMPION, slice_floors={"number of choices: 3": 10.0})
    assert not absent.publish and f"Did you mean `{place}`" in absent.words


def test_a_score_that_the_task_has_not_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean `accuracy`"):
        judge(side("the challenger", ROWS, {1}), CHAMPION, score="accurac")


def test_a_score_that_is_better_the_lower_is_compared_the_right_way_round() -> None:
    """Losses of 2 nats against 1: the first is worse, and by more than 2% of it."""
    rng = np.random.default_rng(0)
    losses = [np.stack([rng.gamma(9, scale, 300), np.ones(300)], axis=1) for scale in (2 / 9, 1 / 9)]
    worse, good = (Score(own, lambda s: s[..., 0] / s[..., 1], "nats", "lower") for own in losses)
    which = np.arange(300) // PER
    found = champion._compare(Publication(), "v1.0.0", "loss", worse, good, which, 1)
    assert isinstance(found, champion.Comparison) and not found.passed and found.difference < -0.8
    assert found.asked == pytest.approx(0.02 * found.other) and found.telling == pytest.approx(0.03 * found.other)
    back = champion._compare(Publication(), "v1.0.0", "loss", good, worse, which, 1)
    assert isinstance(back, champion.Comparison) and back.passed and back.difference > 0.8
    assert "(nats; + is better)" in champion._sentences(back)[0]


def test_what_a_person_accepts_is_measured_on_the_frozen_rows() -> None:
    verdict = champion.accepted(CHAMPION, FROZEN, "Accepted: a comment", ["v1.2.0"])
    assert verdict.publish and verdict.values == {"accuracy": 80.0} and verdict.words == "Accepted: a comment"
    with pytest.raises(RefusedError, match="q400"):
        champion.accepted(CHAMPION, champion.freeze(table(401)), "", [])
