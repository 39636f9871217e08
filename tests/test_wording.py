"""How scores are said: each in its own unit, with the digits that are worth saying, and never a number for None."""

import json
from pathlib import Path

import pytest

from flows import evidence
from stages import postprocessing
from trainwright.core.layout import Layout
from trainwright.scoring import wording

METRICS = {
    "test": {
        "count": 1200,
        "perplexity": {"value": 12.34, "low": 11.9, "high": 12.8, "unit": "perplexity", "better": "lower"},
        "loss": {"value": 2.5128, "low": 2.4766, "high": 2.5495, "unit": "nats", "better": "lower"},
        "accuracy": {"value": 41.26, "low": 40.0, "high": 42.5},
        "best_exact": 3.0,
    },
    "untrained": {
        "count": 1200,
        "perplexity": {"value": 30522.4, "low": 29011.0, "high": 31999.6, "unit": "perplexity", "better": "lower"},
        "loss": {"value": None, "low": None, "high": None, "unit": "nats", "better": "lower"},
        "accuracy": {"value": 0.0, "low": None, "high": None},
    },
}


def test_the_stage_says_every_score_in_its_unit() -> None:
    assert postprocessing.summary(METRICS) == [
        "test, 1,200 rows: perplexity 12.3 (11.9 to 12.8), "
        "loss 2.513 nats (2.477 to 2.550), accuracy 41.3 (40.0 to 42.5)",
        "the untrained base model on the same rows: perplexity 30,522 (29,011 to 32,000), loss undefined, accuracy 0.0",
    ]


def test_the_closing_lines_stand_below_one_another(tmp_path: Path) -> None:
    layout = Layout(tmp_path, "toy")
    layout.stage("postprocessing").mkdir(parents=True)
    (layout.stage("postprocessing") / "metrics.json").write_text(json.dumps(METRICS))
    lines = evidence.closing(layout).splitlines()
    assert lines[:3] == [
        "perplexity         12.3 (11.9 to 12.8)     test, 1,200 rows",
        "loss         2.513 nats (2.477 to 2.550)   test, 1,200 rows",
        "accuracy           41.3 (40.0 to 42.5)     test, 1,200 rows",
    ]
    assert lines[3].startswith("perplexity       30,522 (29,011 to 32,000) untrained, on test")
    assert [line.index("test") for line in lines[:3]] == [43] * 3


def test_a_score_in_points_has_one_digit_and_one_without_a_value_none() -> None:
    assert wording.said({"value": 7.0, "low": 6.04, "high": 8.0}) == "7.0 (6.0 to 8.0)"
    assert wording.said({"value": 7.0, "low": None, "high": None}) == "7.0"
    assert wording.said({"value": None, "low": None, "high": None}, "nats") == "undefined"


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [(0.00123, "nats", "0.001"), (1.884, "nats per character", "1.884"), (9.87, "perplexity", "9.87")],
)
def test_what_has_no_fixed_scale_has_three_digits_or_more(value: float, unit: str, words: str) -> None:
    assert wording.number(value, unit) == words


def test_bare_numbers_groups_and_tables_are_no_headline_scores() -> None:
    split = {"count": 3, "HasAns": {"count": 1, "f1": 2.0}, "classes": [{"label": "a", "count": 3, "f1": 1.0}]}
    assert wording.headline({"test": {**split, **METRICS["test"]}}) == ["perplexity", "loss", "accuracy"]
    assert list(wording.classes({**split, "slices": [{"by": "label", "label": "x"}]})) == ["classes"]
