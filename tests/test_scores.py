"""Scores: those of the official scripts, intervals that know of contexts, nothing that is made up."""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright.scoring import answers
from trainwright.tasks.qa import predictions, scores
from trainwright.tasks.qa.params import Postprocessing

PARAMS = Postprocessing(bootstrap=200)


def rows_of(golds: list[list[str]], contexts: list[str] | None = None, question: str = "Who?") -> pa.Table:
    count = len(golds)
    return pa.table(
        {
            "id": pa.array([f"q{i}" for i in range(count)], pa.string()),
            "title": pa.array(["title"] * count, pa.string()),
            "context": pa.array(contexts or [f"context {i}" for i in range(count)], pa.string()),
            "question": pa.array([question] * count, pa.string()),
            "answer_text": pa.array(golds, pa.list_(pa.string())),
        }
    )


def predicted(
    rows: pa.Table, given: list[str], answers: list[str] | None = None, differences: list[float] | None = None
) -> pa.Table:
    columns: dict[str, Any] = {
        "id": rows["id"],
        "prediction": pa.array(given, pa.string()),
        "start": pa.nulls(len(given), pa.int32()),
        "answer": pa.array(answers or given, pa.string()),
        "score_difference": pa.array(differences or [0.0] * len(given)),
        "nbest": pa.array([[]] * len(given), pa.list_(predictions.NBEST)),
    }
    return pa.table(columns, schema=predictions.SCHEMA)


def measured(golds: list[list[str]], given: list[str], language: str = "en") -> tuple[list[float], list[float]]:
    exact, f1 = answers.exact_and_f1(pa.chunked_array([given]), rows_of(golds)["answer_text"], language)
    return exact.tolist(), f1.tolist()


WORDS = st.lists(
    st.sampled_from(["the", "a", "An", "cat", "Cat's", "hat,", "é", "aé", "İ", "ΣΑΣ", "-", "\u00a0", "（x）", "3.5"]),
    max_size=5,
).map(" ".join)
SOMETHING = WORDS.filter(answers.normalise)  # torchmetrics scores a gold answer of nothing by v2.0's rule


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.lists(SOMETHING, min_size=1, max_size=3), WORDS), min_size=1, max_size=5))
def test_v1_scores_are_those_of_torchmetrics(rows: list[tuple[list[str], str]]) -> None:
    from torchmetrics.functional.text import squad

    guesses = [{"prediction_text": guess, "id": str(i)} for i, (_, guess) in enumerate(rows)]
    targets = [
        {"answers": {"text": golds, "answer_start": [0] * len(golds)}, "id": str(i)}
        for i, (golds, _) in enumerate(rows)
    ]
    expected = squad(guesses, targets)
    exact, f1 = measured([golds for golds, _ in rows], [guess for _, guess in rows])
    assert np.isclose(100 * np.mean(exact), float(expected["exact_match"]))
    assert np.isclose(100 * np.mean(f1), float(expected["f1"]))


@pytest.mark.parametrize(
    ("golds", "guess", "exact", "f1"),
    [
        (["the Broncos"], "Broncos!", 1, 1),
        (["Denver Broncos"], "the Broncos", 0, 2 / 3),
        (["Santa Clara", "Levi's Stadium"], "levis stadium in Santa Clara", 0, 2 * 2 / (5 + 2)),
        (["cat cat hat"], "cat cat", 0, 2 * 2 / 5),
        (["The"], "a", 1, 0),  # v1.1 finds no word in common, though both normalise to nothing
        (["x"], "", 0, 0),
    ],
)
def test_v1_scores_are_as_worked_by_hand(golds: list[str], guess: str, exact: float, f1: float) -> None:
    assert measured([golds], [guess]) == ([exact], [pytest.approx(f1)])


@pytest.mark.parametrize(
    ("golds", "guess", "exact", "f1"),
    [
        ([], "", 1, 1),
        ([], "anything", 0, 0),
        ([], "the", 1, 1),  # normalises to nothing
        (["x"], "", 0, 0),
        (["the", "x y"], "x", 0, 2 / 3),  # a gold answer that normalises to nothing does not count
        (["The"], "a", 1, 1),
    ],
)
def test_v2_scores_are_as_worked_by_hand(golds: list[str], guess: str, exact: float, f1: float) -> None:
    found = measured([golds, []], [guess, "wrong"])
    assert found == ([exact, 0], [pytest.approx(f1), 0])


@pytest.mark.parametrize(
    ("golds", "guess", "exact", "f1"),
    [
        (["北京大学"], "北京大学。", 1, 1),
        (["北京大学"], "北京", 0, 2 * 2 / 6),
        (["北京大学"], "大北学", 0, 2 * 1 / 7),  # the longest run that both share, not a bag of characters
        (["1998年", "一九九八年"], "1998 年", 0, 1),
        (["使用Python语言"], "python", 0, 2 * 1 / 6),  # a Latin word is one segment
        (["东京"], "大阪", 0, 0),
    ],
)
def test_languages_without_spaces_count_characters(golds: list[str], guess: str, exact: float, f1: float) -> None:
    assert measured([golds], [guess], "zh") == ([exact], [pytest.approx(f1)])
    assert measured([["北京 大学"]], ["北京"], "en")[1] == [pytest.approx(2 / 3)]


SIGNS = [*"-:_*^/\\~`+=，。：？！“”；’《》", "……", *"·、「」（）－～『』"]  # the CMRC 2018 script's sp_char


def official(gold: str, guess: str) -> tuple[float, float]:
    """Exact match and F1 as in cmrc2018_evaluate.py, but for NLTK's sentence splitter, whose model is not here."""
    from nltk.tokenize.destructive import NLTKWordTokenizer

    def segmented(text: str) -> list[str]:
        found, between = [], ""
        for character in text.lower().strip():
            if character in SIGNS:
                continue
            if re.search("[\u4e00-\u9fa5]", character):
                found += [*NLTKWordTokenizer().tokenize(between), character]
                between = ""
            else:
                between += character
        return found + NLTKWordTokenizer().tokenize(between)

    wanted, said = segmented(gold), segmented(guess)
    table, same = np.zeros((len(wanted) + 1, len(said) + 1), int), 0
    for i, one in enumerate(wanted):
        for j, other in enumerate(said):
            table[i + 1, j + 1] = table[i, j] + 1 if one == other else 0
            same = max(same, table[i + 1, j + 1])
    bare = ["".join(c for c in text.lower().strip() if c not in SIGNS) for text in (gold, guess)]
    return float(bare[0] == bare[1]), 2 * same / (len(wanted) + len(said)) if same else 0.0


CHINESE = st.lists(
    st.sampled_from(
        ["北京", "大学", "，。", "3.5", "6,476", "％", "%", " ", "Python", "W. M", "it's", "（C+）", "—", "年."]
    ),
    min_size=1,
    max_size=6,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(gold=CHINESE.filter(str.strip), guess=CHINESE)
def test_scores_of_chinese_are_those_of_the_cmrc_script(gold: str, guess: str) -> None:
    exact, f1 = official(gold, guess)
    assert measured([[gold]], [guess], "zh") == ([exact], [pytest.approx(f1)])


def test_japanese_and_thai_count_characters_too() -> None:
    assert measured([["ひらがな"]], ["ひら"], "ja")[1] == [pytest.approx(2 * 2 / 6)]
    assert measured([["กขค"]], ["กข"], "th")[1] == [pytest.approx(2 * 2 / 5)]


def test_has_ans_and_no_ans_are_scored_apart() -> None:
    rows = rows_of([["x"], ["x y"], [], []])
    found = scores.scores(rows, predicted(rows, ["x", "x", "", "x"]), PARAMS, "en")
    assert found["HasAns"] == {"count": 2, "exact": 50, "f1": pytest.approx(100 * (1 + 2 / 3) / 2, abs=1e-4)}
    assert found["NoAns"] == {"count": 2, "exact": 50, "f1": 50}
    assert found["exact"]["value"] == 50


def official_best(scores_: list[float], differences: list[float], answerable: list[bool]) -> tuple[float, float]:
    """`find_best_thresh` of the official v2.0 script, in our own words, over answers that are not empty."""
    current = best = sum(not some for some in answerable)
    threshold = 0.0
    for i in sorted(range(len(scores_)), key=lambda i: differences[i]):
        current += scores_[i] if answerable[i] else -1
        if current > best:
            best, threshold = current, differences[i]
    return best / len(scores_), threshold


@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from([-2.0, -1.0, 0.5, 3.0]), st.booleans()), min_size=1
    )
)
def test_best_thresholds_are_those_of_the_official_script(rows: list[tuple[float, float, bool]]) -> None:
    values, differences, answerable = (list(column) for column in zip(*rows, strict=True))
    values = [value if some else 0.0 for value, some in zip(values, answerable, strict=True)]
    found = answers.best_threshold(np.array(values), np.array(differences), np.array(answerable))
    assert found == official_best(values, differences, answerable)


def test_best_thresholds_are_as_worked_by_hand_and_reported_apart() -> None:
    rows = rows_of([["x"], ["x y"], [], ["x"]])
    table = predicted(rows, ["", "x", "z", ""], ["x", "x", "z", "q"], [-2.0, -1.0, 1.0, 3.0])
    found = scores.scores(rows, table, PARAMS, "en")
    assert found["exact"]["value"] == 0
    assert (found["best_exact"], found["best_exact_threshold"]) == (50, -2)
    assert found["best_f1"] == pytest.approx(100 * (1 + 2 / 3 + 1) / 4, abs=1e-4)
    assert found["best_f1_threshold"] == -1


def test_answerable_questions_alone_have_no_best_threshold() -> None:
    rows = rows_of([["x"]])
    found = scores.scores(rows, predicted(rows, ["x"]), PARAMS, "en")
    assert not [name for name in found if name.startswith("best")]
    assert found["NoAns"] == {"count": 0, "exact": None, "f1": None}


def test_the_f1_of_nothing_is_undefined() -> None:
    rows = rows_of([])
    found = scores.scores(rows, predicted(rows, []), PARAMS, "en")
    assert found["f1"] == {"value": None, "low": None, "high": None}
    assert found["exact"]["value"] is None
    assert found["slices"] == []


def test_an_interval_of_one_context_is_undefined() -> None:
    rows = rows_of([["x"]] * 50, ["one"] * 50)
    found = scores.scores(rows, predicted(rows, ["x", "y"] * 25), PARAMS, "en")
    assert found["exact"] == {"value": 50, "low": None, "high": None}


def test_contexts_that_fail_together_make_a_wider_interval() -> None:
    given = [str(i // 100 % 2) for i in range(1000)]
    wide = rows_of([["1"]] * 1000, [str(i // 100) for i in range(1000)])
    narrow = rows_of([["1"]] * 1000, [str(i) for i in range(1000)])
    widths = []
    for rows in (wide, narrow):
        f1 = scores.scores(rows, predicted(rows, given), PARAMS, "en")["f1"]
        assert f1["low"] <= f1["value"] == 50 <= f1["high"]
        widths.append(f1["high"] - f1["low"])
    assert widths[0] > 5 * widths[1]


def test_intervals_hold_the_theory_and_repeat_with_their_seed() -> None:
    rng = np.random.default_rng(0)
    rows = rows_of([["1"]] * 2000)
    table = predicted(rows, [str(value) for value in rng.integers(0, 2, 2000)])
    first = scores.scores(rows, table, Postprocessing(bootstrap=1000), "en")["exact"]
    half = 100 * 1.96 * np.sqrt(0.25 / 2000)
    assert first["high"] - first["value"] == pytest.approx(half, rel=0.15)
    assert first["value"] - first["low"] == pytest.approx(half, rel=0.15)
    assert scores.scores(rows, table, Postprocessing(bootstrap=1000), "en")["exact"] == first
    assert scores.scores(rows, table, Postprocessing(bootstrap=1000, seed=8), "en")["exact"] != first


def sliced(found: dict[str, Any], by: str) -> dict[str, tuple[int, float]]:
    return {entry["value"]: (entry["count"], entry["exact"]) for entry in found["slices"] if entry["by"] == by}


def test_slices_are_by_question_word_answer_length_and_context_length() -> None:
    golds = [["x"], ["a b c d"], [], ["x y"], ["x"]]
    rows = rows_of(golds, ["c" * 499, "c" * 500, "c" * 1500, "c" * 2500, "c"])
    questions = ["In which year?", "How many were there?", "Who's whose?", "Whoever did it, why?", "Name it."]
    rows = rows.set_column(rows.schema.get_field_index("question"), "question", pa.array(questions))
    found = scores.scores(rows, predicted(rows, ["x", "a b c d", "x", "x y", ""]), PARAMS, "en")
    words = {"how many": (1, 100), "who": (1, 0), "which": (1, 100), "why": (1, 100), "other": (1, 0)}
    assert sliced(found, "question word") == words
    lengths = {"none": (1, 0), "1": (2, 50), "2 to 3": (1, 100), "4 to 6": (1, 100)}
    assert sliced(found, "answer length in words") == lengths
    contexts = {"under 500": (2, 50), "500 to 999": (1, 100), "1000 to 1999": (1, 0), "2000 or more": (1, 100)}
    assert sliced(found, "context length in characters") == contexts


def test_slices_of_chinese_know_its_question_words_and_count_characters() -> None:
    rows = rows_of([["北京大学"]], question="他是在哪所大学读书的？")
    found = scores.scores(rows, predicted(rows, ["北京大学"]), PARAMS, "zh")
    assert sliced(found, "question word") == {"哪": (1, 100)}
    assert sliced(found, "answer length in characters") == {"4 to 6": (1, 100)}


def test_title_slices_are_the_ten_worst_and_ten_best_with_enough_rows() -> None:
    titles = [f"t{i:02}" for i in range(30) for _ in range(6)] + ["rare"]
    rows = rows_of([["x"]] * len(titles))
    rows = rows.set_column(rows.schema.get_field_index("title"), "title", pa.array(titles))
    given = ["x" if int(title[1:]) > 15 else "y" for title in titles[:-1]] + ["y"]
    found = sliced(scores.scores(rows, predicted(rows, given), PARAMS, "en"), "title")
    assert list(found) == [f"t{i:02}" for i in [*range(10), *range(20, 30)]]


def test_each_row_keeps_its_own_scores() -> None:
    rows = rows_of([["x"], ["x y"]])
    table = scores.each(rows, predicted(rows, ["x", "x"]), "en")
    assert table.column_names == ["id", "exact", "f1", "prediction"]
    assert table["exact"].to_pylist() == [1, 0]
    with pytest.raises(ValueError, match="not for these rows"):
        scores.each(rows, predicted(rows.slice(0, 1), ["x"]), "en")
