"""Scores of generated texts: as rouge_score, sacreBLEU and torchmetrics compute them, by character in Chinese."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright.scoring import answers, generation
from trainwright.tasks.seq2seq import predictions, rows, scores
from trainwright.tasks.seq2seq.params import Postprocessing

PAIRS = [
    ("The cat sat on the mat.", "A cat is sitting on the mat, quietly."),
    ("seven years", "seven years"),
    ("", "something"),
    ("something", ""),
    ("Stone-built, in 1842!", "It was built of stone in 1842"),
    ("aaa aaa aaa", "aaa"),
    ("b", "b"),
    ("it's the state_of the art", "the state of its art"),
]
ASCII = st.text(alphabet="abc XYZ.,-_1\n", max_size=40)
ANY = st.text(alphabet="ab Ω中文é.。 \n", max_size=30)


@given(st.lists(st.tuples(ASCII, ASCII), max_size=8))
@settings(max_examples=60, deadline=None)
def test_rouge_l_is_that_of_rouge_score(pairs):
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    said, gold = ([pair[side] for pair in [*PAIRS, *pairs]] for side in (0, 1))
    wanted = [scorer.score(theirs, ours)["rougeL"].fmeasure for ours, theirs in zip(said, gold, strict=True)]
    assert generation.rouge_l(said, gold, "en").tolist() == pytest.approx(wanted)


@given(st.lists(st.tuples(ANY, ANY), min_size=1, max_size=6))
@settings(max_examples=150, deadline=None)
def test_chrf_of_a_corpus_and_of_each_text_is_that_of_sacrebleu(pairs):
    from sacrebleu.metrics import CHRF

    said, gold = ([pair[side] for pair in pairs] for side in (0, 1))
    sums = generation.chrf_sums(said, gold)
    assert float(generation.chrf(sums.sum(axis=0))) == pytest.approx(CHRF().corpus_score(said, [gold]).score)
    alone = [CHRF().sentence_score(*pair[:1], [pair[1]]).score for pair in pairs]
    assert generation.chrf(sums).tolist() == pytest.approx(alone)


def test_rouge_l_is_that_of_torchmetrics():
    from torchmetrics.functional.text.rouge import rouge_score

    said, gold = (list(side) for side in zip(*[pair for pair in PAIRS if all(pair)], strict=True))
    one = [float(rouge_score(*pair, rouge_keys="rougeL")["rougeL_fmeasure"]) for pair in zip(said, gold, strict=True)]
    assert generation.rouge_l(said, gold, "en").tolist() == pytest.approx(one, abs=1e-6)


def longest(first, second):
    """The longest common subsequence by the table of every textbook."""
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return table[-1, -1]


@given(st.lists(st.sampled_from("abcd"), max_size=80), st.lists(st.sampled_from("abcd"), max_size=80))
@settings(deadline=None)
def test_the_longest_common_subsequence_is_that_of_the_textbook(first, second):
    assert generation.subsequence(first, second) == longest(first, second)


def test_chinese_is_compared_by_character():
    # 5 of 6 and of 7 characters in common, the full stop left out: 2 · 5 / 13
    assert generation.rouge_l(["船在黎明出港。"], ["船在黎明时离港"], "zh").tolist() == pytest.approx([10 / 13])
    assert generation.words("GPT 写于2020年", "zh") == ["gpt", "写", "于", "2020", "年"]
    assert generation.rouge_l(["船在黎明出港。"], ["船在黎明时离港"], "en").tolist() == [0.0]


def table(*pairs, targets=True, groups=None):
    made = [
        {
            "id": str(i),
            "group": str(groups[i] if groups else i),
            "source": "x" * (10 + 90 * i),
            "target": gold if targets else None,
        }
        for i, (_, gold) in enumerate(pairs)
    ]
    return pa.Table.from_pylist(made, rows.SCHEMA)


def predicted(*pairs, loss=(2.0,), tokens=(1,), baseline=(3.0,)):
    made = [
        {
            "id": str(i),
            "prediction": said,
            "reference": gold,
            "loss": loss[i % len(loss)],
            "tokens": tokens[i % len(tokens)],
            "baseline": baseline[i % len(baseline)],
        }
        for i, (said, gold) in enumerate(pairs)
    ]
    return pa.Table.from_pylist(made, predictions.SCHEMA)


SECTION = Postprocessing(bootstrap=200)


def test_loss_is_weighed_by_token_and_the_baseline_stands_beside_it():
    pairs = [("a", "a"), ("b", "c"), ("d", "e")]
    given = predicted(*pairs, loss=(2.0, 30.0, 1.0), tokens=(2, 10, 1), baseline=(6.0, 40.0, 3.0))
    found = scores.scores(table(*pairs), given, SECTION, "en")
    assert found["count"] == 3
    assert found["target_tokens"] == 13
    assert found["loss"] | {"low": 0, "high": 0} == {
        "value": 2.5385,
        "low": 0,
        "high": 0,
        "unit": "nats",
        "better": "lower",
    }
    assert found["perplexity"]["value"] == pytest.approx(math.exp(33 / 13), abs=1e-3)
    assert found["baseline_loss"]["value"] == pytest.approx(49 / 13, abs=1e-4)
    assert found["margin"]["value"] == pytest.approx(16 / 13, abs=1e-4)
    assert found["loss"]["low"] <= 2.5385 <= found["loss"]["high"]
    assert found["exact"]["value"] == pytest.approx(100 / 3, abs=1e-3)


def test_scores_of_texts_are_means_over_rows_and_chrf_that_of_the_corpus():
    from sacrebleu.metrics import CHRF

    found = scores.scores(table(*PAIRS), predicted(*PAIRS), SECTION, "en")
    said, gold = ([pair[side] for pair in PAIRS] for side in (0, 1))
    lists = pa.chunked_array([pa.array([[text] for text in gold])])
    exact, f1 = answers.exact_and_f1(pa.chunked_array([said]), lists, "en")
    assert found["exact"]["value"] == pytest.approx(100 * exact.mean(), abs=1e-3)
    assert found["f1"]["value"] == pytest.approx(100 * f1.mean(), abs=1e-3)
    assert found["rouge_l"]["value"] == pytest.approx(100 * generation.rouge_l(said, gold, "en").mean(), abs=1e-3)
    assert found["chrf"]["value"] == pytest.approx(CHRF().corpus_score(said, [gold]).score, abs=1e-3)
    own = scores.each(table(*PAIRS), predicted(*PAIRS), "en")
    assert own["exact"].to_pylist() == exact.tolist()
    assert own["gold"].to_pylist() == gold
    assert all(0 <= value <= 1 for name in scores.TEXT_SCORES for value in own[name].to_pylist())


def test_sentinels_are_left_out_where_spans_were_dropped():
    pairs = [
        (
            "<extra_id_0> for inviting <extra_id_1> last<extra_id_2>",
            "<extra_id_0> for inviting<extra_id_1> last <extra_id_2>",
        )
    ]
    found = scores.scores(table(*pairs, targets=False), predicted(*pairs), SECTION, "en")
    assert [found[name]["value"] for name in scores.TEXT_SCORES] == [100.0] * 4
    other = [("<extra_id_0> <extra_id_1> <extra_id_2>", "<extra_id_0> for inviting <extra_id_1> last <extra_id_2>")]
    found = scores.scores(table(*other, targets=False), predicted(*other), SECTION, "en")
    assert [found[name]["value"] for name in scores.TEXT_SCORES] == [0.0] * 4


def test_the_first_score_is_the_loss_where_spans_are_dropped_and_exact_match_else():
    found = scores.scores(table(*PAIRS, targets=False), predicted(*PAIRS), SECTION, "en")
    assert list(found)[:3] == ["count", "loss", "perplexity"]
    assert list(scores.scores(table(*PAIRS), predicted(*PAIRS), SECTION, "en"))[:3] == ["count", "exact", "f1"]


def test_slices_by_length_of_the_source_add_up():
    found = scores.scores(table(*PAIRS), predicted(*PAIRS), SECTION, "en")
    assert [(part["value"], part["count"]) for part in found["slices"]] == [
        ("under 100", 1),
        ("100 to 499", 5),
        ("500 to 1999", 2),
    ]
    for name in ("exact", "f1", "rouge_l", "loss"):
        total = sum(part["count"] * part[name] for part in found["slices"]) / len(PAIRS)
        assert found[name]["value"] == pytest.approx(total, abs=1e-2)


def test_what_is_undefined_is_none():
    found = scores.scores(table(), predicted(), SECTION, "en")
    assert found["count"] == 0
    assert [found[name]["value"] for name in ("exact", "f1", "rouge_l", "loss", "perplexity", "margin")] == [None] * 6
    pair = [("a", "b")]
    found = scores.scores(table(*pair), predicted(*pair, loss=(0.0,), tokens=(0,), baseline=(0.0,)), SECTION, "en")
    assert (found["loss"]["value"], found["exact"]["value"], found["exact"]["low"]) == (None, 0.0, None)


def test_rows_of_one_group_are_drawn_together():
    pairs = [("a", "a"), ("a", "a"), ("b", "c"), ("b", "c")] * 5
    together = scores.scores(table(*pairs, groups=[i // 2 for i in range(20)]), predicted(*pairs), SECTION, "en")
    alone = scores.scores(table(*pairs), predicted(*pairs), SECTION, "en")
    width = [found["exact"]["high"] - found["exact"]["low"] for found in (together, alone)]
    assert width[0] > 1.2 * width[1]


def test_scores_refuse_predictions_of_other_rows():
    with pytest.raises(ValueError, match="not for these rows"):
        scores.each(table(*PAIRS), predicted(*PAIRS).slice(1), "en")
