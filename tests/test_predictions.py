"""Predictions: the well-known loops' answers, answers that lie in their contexts, thresholds that were tuned."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright.rows import spans
from trainwright.tasks.qa import model, predictions
from trainwright.tasks.qa.params import Postprocessing

CONTEXT = "Zoë 😀 met 王小明 in Åre, twice; \u200dthen never again."
PARAMS = Postprocessing(n_best=4, max_answer_length=3)


def rows_of(contexts: list[str], golds: list[list[str]] | None = None) -> pa.Table:
    golds = golds or [["x"]] * len(contexts)
    return pa.table(
        {
            "id": pa.array([f"q{i}" for i in range(len(contexts))], pa.string()),
            "context": pa.array(contexts, pa.string()),
            "answer_text": pa.array(golds, pa.list_(pa.string())),
        }
    )


def window(
    row: int, starts: dict[int, float], ends: dict[int, float], null: float = 0.0, offsets: Any = None
) -> dict[str, Any]:
    """Raw outputs of one window: token number to logit. Token i has the characters i and i + 1 unless told."""
    offsets = offsets or [(i, i + 1) for i in range(100)]
    made: dict[str, Any] = {"row": row, "null_score": null}
    for side, (name, logits) in enumerate((("start", starts), ("end", ends))):
        best = sorted(logits, key=lambda token: -logits[token])
        made[f"{name}_token"] = best
        made[f"{name}_char"] = [offsets[token][side] for token in best]
        made[f"{name}_logit"] = [logits[token] for token in best]
    return made


def outputs_of(*windows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(windows), schema=model.OUTPUTS)


def loops(
    rows: pa.Table, windows: list[dict[str, Any]], params: Postprocessing, threshold: float | None
) -> dict[str, tuple[str, list[tuple[str, float]]]]:
    """The answer and the n-best (text, score) of each row, by the loops of the well-known script."""
    found: dict[str, tuple[str, list[tuple[str, float]]]] = {}
    for place, row in enumerate(rows.to_pylist()):
        spans_, null = [], math.inf
        for w in windows:
            if w["row"] != place:
                continue
            null = min(null, w["null_score"])
            for start, begin, a in zip(w["start_token"], w["start_char"], w["start_logit"], strict=True):
                for end, stop, b in zip(w["end_token"], w["end_char"], w["end_logit"], strict=True):
                    if start <= end and end - start + 1 <= params.max_answer_length and begin < stop:
                        spans_.append((row["context"][begin:stop], float(np.float32(a) + np.float32(b))))
        spans_.sort(key=lambda span: -span[1])
        best = spans_[0] if spans_ else None
        if threshold is not None and null < math.inf:
            spans_.append(("", null))
            spans_.sort(key=lambda span: -span[1])
            cut = spans_[: params.n_best]
            spans_ = cut if ("", null) in cut else [*cut, ("", null)]
        answer = best[0] if best else ""
        if threshold is not None and best and null - best[1] > threshold:
            answer = ""
        found[row["id"]] = answer, spans_[: params.n_best + 1 if threshold is not None else params.n_best]
    return found


LOGITS = st.dictionaries(
    st.integers(0, len(CONTEXT) - 1), st.sampled_from([-0.0, 0.0, -1.5, 2.0, 2.25, 7.0]), min_size=1, max_size=6
)
WINDOWS = st.lists(st.tuples(st.integers(0, 3), LOGITS, LOGITS, st.sampled_from([-8.0, 1.0, 4.0, 30.0])), max_size=8)


@settings(max_examples=200, deadline=None)
@given(made=WINDOWS, threshold=st.sampled_from([None, 0.0, -3.0, 2.0]))
def test_answers_and_n_best_are_those_of_the_well_known_loops(made: list[Any], threshold: float | None) -> None:
    rows = rows_of([CONTEXT, CONTEXT, "another context of the same kind, but longer than that", CONTEXT])
    windows = [window(row, starts, ends, null) for row, starts, ends, null in made]
    expected = loops(rows, windows, PARAMS, threshold)
    found = predictions.predict(rows, outputs_of(*windows), PARAMS, {"null_threshold": threshold})
    valid = {row for row, *_ in made if any(text for text, _ in expected[f"q{row}"][1])}
    for place, row in enumerate(found.to_pylist()):
        answer, nbest = expected[row["id"]]
        if place in valid:
            assert row["prediction"] == answer
            assert [entry["text"] for entry in row["nbest"]] == [text for text, _ in nbest]
            scores = np.array([score for _, score in nbest])
            weights = np.exp(scores - scores.max())
            assert np.allclose([entry["probability"] for entry in row["nbest"]], weights / weights.sum())
            assert np.allclose([entry["start_logit"] + entry["end_logit"] for entry in row["nbest"]], scores)
        else:
            assert (row["answer"] == "") == all(row != place for row, *_ in made)


@settings(max_examples=100, deadline=None)
@given(made=WINDOWS)
def test_without_unanswerable_questions_no_answer_is_empty_and_each_lies_in_its_context(made: list[Any]) -> None:
    rows = rows_of([CONTEXT] * 4)
    windows = [window(row, starts, ends, null=1e6) for row, starts, ends, _ in made]
    found = predictions.predict(rows, outputs_of(*windows), PARAMS, {"null_threshold": None})
    for row in {row for row, *_ in made}:
        answer = found["prediction"][row].as_py()
        assert answer
        assert answer in CONTEXT


def test_many_rows_are_answered_as_each_alone() -> None:
    rng = np.random.default_rng(3)
    contexts = [CONTEXT, "eins zwei drei vier fünf", "一二三四五六七八九十。"]
    rows = rows_of([contexts[i % 3] for i in range(1_300)])
    draw = [dict(zip(rng.permutation(9)[:5].tolist(), rng.normal(size=5).tolist(), strict=True)) for _ in range(4_000)]
    order = rng.permutation(np.concatenate([np.arange(1_300), rng.integers(0, 1_300, 700)])).tolist()
    windows = [window(row, draw[i], draw[-i - 1], null=rng.normal()) for i, row in enumerate(order)]
    found = predictions.predict(rows, outputs_of(*windows), PARAMS, {"null_threshold": 0.5})
    expected = loops(rows, windows, PARAMS, 0.5)
    with_pairs = [name for name, (_, nbest) in expected.items() if any(text for text, _ in nbest)]
    answers = dict(zip(found["id"].to_pylist(), found["prediction"].to_pylist(), strict=True))
    assert len(with_pairs) > 1_200
    assert {name: answers[name] for name in with_pairs} == {name: expected[name][0] for name in with_pairs}


def test_a_questions_null_score_is_the_minimum_over_its_windows() -> None:
    rows = rows_of([CONTEXT], [[]])
    sure, unsure = window(0, {0: 3.0}, {2: 3.0}, null=2.0), window(0, {5: 1.0}, {5: 1.0}, null=9.0)
    for windows in ([sure, unsure], [unsure, sure]):
        found = predictions.predict(rows, outputs_of(*windows), PARAMS, {"null_threshold": 0.0})
        assert found["score_difference"].to_pylist() == [2.0 - 6.0]
        assert found["prediction"].to_pylist() == ["Zoë"]


def test_an_answer_is_empty_only_over_the_threshold() -> None:
    rows, outputs = rows_of([CONTEXT]), outputs_of(window(0, {0: 1.0}, {2: 1.0}, null=5.0))
    for threshold, answer in ((2.9, ""), (3.0, "Zoë"), (None, "Zoë")):
        found = predictions.predict(rows, outputs, PARAMS, {"null_threshold": threshold})
        assert found["prediction"].to_pylist() == [answer]
        assert ("" in [entry["text"] for entry in found["nbest"][0].as_py()]) == (threshold is not None)


def test_answers_are_cut_from_the_original_context_by_character() -> None:
    offsets = [(0, 3), (4, 5), (6, 9), (10, 13), (14, 16), (17, 20)]
    outputs = outputs_of(window(0, {1: 5.0}, {3: 5.0}, offsets=offsets))
    found = predictions.predict(rows_of([CONTEXT]), outputs, PARAMS, {"null_threshold": None})
    assert found["prediction"].to_pylist() == ["😀 met 王小明"]


def test_a_row_without_any_valid_pair_is_answered_with_the_word_at_its_best_start() -> None:
    found = predictions.predict(
        rows_of([CONTEXT, CONTEXT]), outputs_of(window(0, {6: 2.0}, {1: 2.0})), PARAMS, {"null_threshold": None}
    )
    assert found["prediction"].to_pylist() == ["met", ""]  # the second row has no window at all


def test_the_threshold_is_the_one_of_the_best_f1_on_validation() -> None:
    rows = rows_of([CONTEXT] * 4, [["Zoë"], [], ["Zoë"], []])
    nulls = [1.0, 3.0, 2.0, 9.0]
    outputs = outputs_of(*(window(i, {0: 1.0}, {2: 1.0}, null=null) for i, null in enumerate(nulls)))
    tuned = predictions.tune(rows, outputs, Postprocessing(), "en")
    assert tuned == {"null_threshold": 0.0}  # the differences are -1, 1, 0 and 7: up to 0 all are right
    found = predictions.predict(rows, outputs, Postprocessing(), tuned)
    assert found["prediction"].to_pylist() == ["Zoë", "", "Zoë", ""]


def test_without_unanswerable_questions_there_is_no_threshold() -> None:
    outputs = outputs_of(window(0, {0: 1.0}, {2: 1.0}, null=50.0))
    assert predictions.tune(rows_of([CONTEXT]), outputs, PARAMS, "en") == {"null_threshold": None}
    fixed = Postprocessing(null_threshold=1.5)
    assert predictions.tune(rows_of([CONTEXT]), outputs, fixed, "en") == {"null_threshold": None}
    assert predictions.tune(rows_of([CONTEXT], [[]]), outputs, fixed, "en") == {"null_threshold": 1.5}


def test_an_untrained_model_has_a_threshold_of_nothing_unless_one_is_fixed() -> None:
    assert predictions.untuned({"null_threshold": None}, PARAMS) == {"null_threshold": None}
    assert predictions.untuned({"null_threshold": -3.0}, PARAMS) == {"null_threshold": 0.0}
    assert predictions.untuned({"null_threshold": 1.5}, Postprocessing(null_threshold=1.5)) == {"null_threshold": 1.5}


def test_the_official_files_are_json_in_utf_8_whatever_the_texts_hold(tmp_path: Path) -> None:
    context = 'a "quoted" \\ 王\u2028line\n</script>😀 end'
    rows = rows_of([context, context])
    outputs = outputs_of(window(0, {0: 1.0}, {len(context) - 1: 1.0}), window(1, {2: 1.0}, {9: 1.0}, null=9.0))
    params = Postprocessing(max_answer_length=100)
    found = predictions.predict(rows, outputs, params, {"null_threshold": 0.0})
    predictions.write(found, tmp_path)
    text = (tmp_path / "predictions.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"q0": context, "q1": ""}
    assert "王" in text
    nbest = json.loads((tmp_path / "nbest.json").read_text(encoding="utf-8"))
    assert [list(entry) for entry in nbest["q0"]] == [["text", "probability", "start_logit", "end_logit"]] * 2
    assert [entry["text"] for entry in nbest["q1"]] == ["", '"quoted"']
    assert math.isclose(sum(entry["probability"] for entry in nbest["q0"]), 1)


def test_no_rows_make_empty_files(tmp_path: Path) -> None:
    found = predictions.predict(rows_of([]), outputs_of(), PARAMS, {"null_threshold": None})
    predictions.write(found, tmp_path)
    assert json.loads((tmp_path / "predictions.json").read_text()) == {}


@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=4), data=st.data())
def test_spans_are_cut_as_python_cuts_them(texts: list[str], data: st.DataObject) -> None:
    picks = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=6))
    ends = [data.draw(st.integers(0, len(texts[i]))) for i in picks]
    starts = [data.draw(st.integers(0, end)) for end in ends]
    column = pa.array(["not seen", *texts], pa.string())[1:]
    cut = spans.cut(column, *(np.array(values, dtype=np.int64) for values in (picks, starts, ends)))
    cut.validate(full=True)
    assert cut.to_pylist() == [texts[i][a:b] for i, a, b in zip(picks, starts, ends, strict=True)]


@given(texts=st.lists(st.text(st.sampled_from("a \u3000\u00a0\n😀"), max_size=8), min_size=1, max_size=4))
def test_trimmed_spans_are_stripped_as_python_strips_them(texts: list[str]) -> None:
    column = pa.array(texts, pa.string())
    base = spans.bases(column)
    ends = base + np.array([len(text) for text in texts])
    starts, ends = spans.trimmed(base, ends, column)
    joined = "".join(texts)
    assert [joined[a:b] for a, b in zip(starts, ends, strict=True)] == [text.strip() for text in texts]
