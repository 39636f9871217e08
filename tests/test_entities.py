"""Entities: how they are scored, held against seqeval and nervaluate; how tags become well-formed entities."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright.rows import tags
from trainwright.scoring import entities
from trainwright.scoring.entities import Entities
from trainwright.tasks.ner import predictions as part
from trainwright.tasks.ner import rows, scores
from trainwright.tasks.ner.params import Postprocessing

KINDS = ("LOC", "ORG", "PER")
TAGS = ["O", *(f"{prefix}-{kind}" for kind in KINDS for prefix in "BI")]
sentences = st.lists(st.integers(1, 9), min_size=1, max_size=8).flatmap(
    lambda sizes: st.tuples(
        *(st.tuples(*(st.lists(st.sampled_from(TAGS), min_size=n, max_size=n) for _ in range(2))) for n in sizes)
    )
)


def read(tagged: list[list[str]]) -> Entities:
    """Entities of tag sequences, a word being a character."""
    row = np.repeat(np.arange(len(tagged)), [len(one) for one in tagged])
    place = np.concatenate([np.arange(len(one)) for one in tagged])
    label = np.array([TAGS.index(tag) for one in tagged for tag in one])
    kinds = np.where(label > 0, (label - 1) // 2, -1)
    first, last = tags.runs(row, kinds, label % 2 == 1)
    return Entities(row[first], place[first], place[last] + 1, kinds[first])


@settings(max_examples=200, deadline=None)
@given(sentences)
@pytest.mark.filterwarnings("ignore::Warning")
def test_scores_of_any_tags_are_those_of_seqeval(pairs):
    from seqeval.metrics import classification_report

    gold, found = ([list(pair[side]) for pair in pairs] for side in (0, 1))
    ours = [read(tagged) for tagged in (gold, found)]
    sums = entities.sums(*ours, len(gold), len(KINDS)).sum(axis=0)
    theirs = classification_report(gold, found, output_dict=True, zero_division=0)
    for name, statistic in (("precision", entities.precision), ("recall", entities.recall), ("f1-score", entities.f1)):
        assert np.nan_to_num(float(statistic(sums))) == pytest.approx(100 * theirs["micro avg"][name])
        for place, kind in enumerate(KINDS):
            if kind in theirs:
                one = np.nan_to_num(float(statistic(sums[3 * place : 3 * place + 3])))
                assert one == pytest.approx(100 * theirs[kind][name])
    assert np.nan_to_num(float(entities.macro_f1(sums))) == pytest.approx(
        100 * np.nan_to_num(theirs["macro avg"]["f1-score"])  # of no label at all it is no number
    )


@settings(max_examples=100, deadline=None)
@given(sentences)
def test_partial_matches_of_any_tags_are_those_of_nervaluate(pairs):
    from nervaluate.evaluator import Evaluator

    gold, found = (read([list(pair[side]) for pair in pairs]) for side in (0, 1))

    def listed(part: Entities) -> list[list[dict]]:
        each = [[] for _ in pairs]
        for row, start, end, kind in zip(part.row, part.start, part.end, part.kind, strict=True):
            each[row].append({"label": KINDS[kind], "start": int(start), "end": int(end) - 1})
        return each

    theirs = Evaluator(listed(gold), listed(found), tags=list(KINDS), loader="dict").evaluate()["overall"]
    ours = entities.partial(gold, found)
    for scheme in entities.SCHEMES:
        for name in entities.COUNTS:
            assert ours[scheme][name] == getattr(theirs[scheme], name), (scheme, name)
        for name in ("precision", "recall", "f1"):
            assert (ours[scheme][name] or 0) == pytest.approx(100 * getattr(theirs[scheme], name), abs=1e-3)


def best_by_trying(values: np.ndarray) -> float:
    """The best sum of any well-formed sequence of labels O, B-x, I-x, B-y, I-y."""

    def fits(sequence: tuple[int, ...]) -> bool:
        return all(
            now == 0 or now % 2 == 1 or before in (now, now - 1) for before, now in itertools.pairwise((0, *sequence))
        )

    every = filter(fits, itertools.product(range(values.shape[1]), repeat=len(values)))
    return max(sum(values[place, label] for place, label in enumerate(one)) for one in every)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_decoding_finds_the_likeliest_sequence_in_which_no_inside_tag_stands_alone(sizes, seed):
    values = np.random.default_rng(seed).normal(size=(len(sizes), max(sizes), 5))
    found = part._viterbi(values, np.array(sizes))
    for row, size in enumerate(sizes):
        chosen = found[row, :size]
        assert values[row, np.arange(size), chosen].sum() == pytest.approx(best_by_trying(values[row, :size]))


def outputs(*windows: tuple[int, list[tuple[int, int, int, int, str, float]]]) -> pa.Table:
    """Raw outputs from (row, [(word, start, end, context, label, probability)]); other labels share the rest."""
    labels = ["O", "B-PER", "I-PER"]
    made = []
    for row, words in windows:
        rest = [[label, *(other for other in labels if other != label)] for *_, label, _ in words]
        made.append(
            {
                "row": row,
                "labels": labels,
                "word": [word[0] for word in words],
                "start_char": [word[1] for word in words],
                "end_char": [word[2] for word in words],
                "context": [word[3] for word in words],
                "label": [labels.index(name) for names in rest for name in names],
                "log_probability": [float(np.log(p)) for *_, q in words for p in (q, (1 - q) / 2, (1 - q) / 2)],
            }
        )
    from trainwright.tasks.ner.model import OUTPUTS

    return pa.Table.from_pylist(made, OUTPUTS)


def table(*texts: str, spans: list[list[tuple[int, str, str]]] | None = None) -> pa.Table:
    made = [
        {
            "id": f"r{place}", "group": f"g{place}", "split": None, "parent": None, "text": text,
            "span_start": [s for s, _, _ in found], "span_text": [t for _, t, _ in found],
            "span_label": [k for _, _, k in found], "token_start": [], "token_end": [],
        }
        for place, (text, found) in enumerate(zip(texts, spans or [[]] * len(texts), strict=True))
    ]  # fmt: skip
    return pa.Table.from_pylist(made, rows.SCHEMA)


def test_of_a_word_in_two_windows_the_one_with_more_around_it_counts():
    raw = outputs(
        (0, [(0, 0, 4, 9, "O", 0.9), (1, 5, 8, 1, "O", 0.9)]),
        (0, [(1, 5, 8, 3, "B-PER", 0.8), (2, 9, 13, 2, "I-PER", 0.5)]),
    )
    (found,) = part.predict(table("seen Ada Berg"), raw, Postprocessing(), {})["prediction"].to_pylist()
    assert found == [
        {"start": 5, "end": 13, "label": "PER", "text": "Ada Berg", "probability": pytest.approx(0.8 * 0.5)}
    ]


def test_an_inside_tag_without_a_beginning_is_repaired_by_what_makes_the_sentence_likeliest():
    sure = outputs((0, [(0, 0, 4, 9, "O", 0.999), (1, 5, 8, 1, "I-PER", 0.5)]))
    (found,) = part.predict(table("seen Ada"), sure, Postprocessing(), {})["prediction"].to_pylist()
    assert found == []  # a beginning and nothing are equally likely, and nothing comes first
    doubtful = outputs((0, [(0, 0, 3, 9, "O", 0.5), (1, 4, 8, 1, "I-PER", 0.98)]))
    (found,) = part.predict(table("Ada Berg"), doubtful, Postprocessing(), {})["prediction"].to_pylist()
    assert [(e["start"], e["end"]) for e in found] == [(0, 8)]


def test_scores_of_a_hand_worked_case_say_what_is_undefined():
    gold = table("Ada met Bo", "Oslo", "so", spans=[[(0, "Ada", "PER"), (8, "Bo", "PER")], [(0, "Oslo", "LOC")], []])
    raw = outputs(
        (0, [(0, 0, 3, 9, "B-PER", 0.9), (1, 4, 7, 9, "O", 0.9), (2, 8, 10, 9, "O", 0.9)]),
        (1, [(0, 0, 4, 9, "B-PER", 0.6)]),
        (2, [(0, 0, 2, 9, "O", 0.9)]),
    )
    found = part.predict(gold, raw, Postprocessing(), {})
    measured = scores.scores(gold, found, Postprocessing(bootstrap=20), "en")
    assert (measured["count"], measured["entities"]) == (3, 3)
    assert measured["precision"]["value"] == 50.0  # Ada is right, Oslo is no person
    assert measured["recall"]["value"] == pytest.approx(100 / 3, abs=1e-3)
    assert measured["f1"]["value"] == pytest.approx(40.0)
    assert measured["macro_f1"]["value"] == pytest.approx((50 + 0) / 2)
    assert measured["token_accuracy"]["value"] == pytest.approx(60.0)
    by = {label["label"]: label for label in measured["labels"]}
    assert by["LOC"]["precision"] is None
    assert by["LOC"]["recall"] == 0.0
    assert measured["exact"]["f1"] == pytest.approx(80.0)  # without labels Oslo is right too
    each = scores.each(gold, found, "en").to_pylist()
    assert [row["exact"] for row in each] == [0.0, 0.0, 1.0]
    assert np.isnan(each[2]["f1"])
    assert each[1]["confidence"] == pytest.approx(0.6)
    assert np.isnan(each[2]["confidence"])  # it found nothing, and is not sure of that by anything
    assert each[0]["gold"][1] == {"start": 8, "end": 10, "label": "PER", "text": "Bo"}


def test_every_score_of_a_label_has_an_interval_unless_too_few_texts_have_it():
    sums = np.random.default_rng(5).integers(1, 9, (40, 3)).astype(np.float64)
    sums[:, 1:] += sums[:, :1]  # no more are right than were found, or are there
    found = scores._by_label(sums, np.arange(40), "PER", Postprocessing(bootstrap=100))
    for name in ("precision", "recall", "f1"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert found["count"] == sums[:, 2].sum()
    alone = scores._by_label(sums * (np.arange(40) == 3)[:, None], np.arange(40), "PER", Postprocessing(bootstrap=100))
    assert alone["recall"] is not None
    assert alone["recall_low"] is None  # in more than one draw in twenty there is none of it
