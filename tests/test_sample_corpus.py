"""The sample corpus is what its topic files say, and each offset, label and span of it is right."""

import importlib.util
import itertools
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

SAMPLE = Path(__file__).parent.parent / "data" / "sample"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_sample", SAMPLE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def articles() -> list[dict[str, Any]]:
    squad = json.loads((SAMPLE / "squad.json").read_text(encoding="utf-8"))
    assert squad["version"] == "v2.0"
    found: list[dict[str, Any]] = squad["data"]
    return found


@pytest.fixture(scope="module")
def passages() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLE / "passages.jsonl").read_text(encoding="utf-8").splitlines()]


def questions(articles: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Every question with its context."""
    return [(p["context"], qa) for a in articles for p in a["paragraphs"] for qa in p["qas"]]


def test_the_files_are_what_the_topic_files_build(build: ModuleType) -> None:
    squad, lines, problems = build.build()
    assert problems == []
    assert (SAMPLE / "squad.json").read_text(encoding="utf-8") == squad
    assert (SAMPLE / "passages.jsonl").read_text(encoding="utf-8") == lines


def test_it_is_as_large_as_it_claims(articles: list[dict[str, Any]], passages: list[dict[str, Any]]) -> None:
    impossible = [qa["is_impossible"] for _, qa in questions(articles)]
    assert len(passages) >= 120
    assert len({passage["topic"] for passage in passages}) >= 12
    assert impossible.count(False) >= 600
    assert impossible.count(True) >= 150
    assert all(60 <= len(passage["text"].split()) <= 140 for passage in passages)


def test_every_answer_stands_at_its_offset_between_word_boundaries(articles: list[dict[str, Any]]) -> None:
    for context, qa in questions(articles):
        for answer in qa["answers"] + qa.get("plausible_answers", []):
            start, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
            assert context[start:end] == answer["text"], qa["question"]
            assert not (context[start - 1 : start] + context[start]).isalnum() or start == 0, qa["question"]
            assert not context[end - 1 : end + 1].isalnum() or len(context[end - 1 : end + 1]) == 1, qa["question"]
            assert 1 <= len(answer["text"].split()) <= 12, qa["question"]


def test_questions_have_answers_unless_they_are_impossible(articles: list[dict[str, Any]]) -> None:
    for _, qa in questions(articles):
        assert bool(qa["answers"]) != qa["is_impossible"]
        assert qa["question"].endswith("?")
        texts = [answer["text"] for answer in qa["answers"]]
        assert len(texts) == len(set(texts)), qa["question"]
    assert sum(len(qa["answers"]) > 1 for _, qa in questions(articles)) >= 200


def test_question_words_are_varied(articles: list[dict[str, Any]]) -> None:
    asked = [" " + qa["question"].lower() for _, qa in questions(articles)]
    for word in ("who", "when", "where", "how many", "why", "which", "what"):
        assert sum(f" {word} " in question for question in asked) >= 20, word


def test_passages_and_articles_are_the_same_texts(
    articles: list[dict[str, Any]], passages: list[dict[str, Any]]
) -> None:
    assert [(a["title"], a["paragraphs"][0]["context"]) for a in articles] == [
        (p["title"], p["text"]) for p in passages
    ]
    assert len({p["title"] for p in passages}) == len({p["text"] for p in passages}) == len(passages)


def test_every_entity_is_a_whole_name_with_a_label(passages: list[dict[str, Any]]) -> None:
    for passage in passages:
        text, end = passage["text"], 0
        assert passage["entities"], passage["title"]
        for entity in passage["entities"]:
            name = text[entity["start"] : entity["end"]]
            assert entity["label"] in {"PER", "LOC", "ORG"}
            assert end <= entity["start"] < entity["end"] <= len(text)
            assert name == name.strip()
            assert not text[entity["start"] - 1 : entity["start"] + 1].isalnum() or entity["start"] == 0, name
            end = entity["end"]
    labels = Counter(entity["label"] for passage in passages for entity in passage["entities"])
    assert min(labels[label] for label in ("PER", "LOC", "ORG")) >= 100


def test_the_marks_of_the_topic_files_are_the_entities(passages: list[dict[str, Any]]) -> None:
    marked = {
        entry["title"]: " ".join(entry["text"].split())
        for path in SAMPLE.glob("topics/*.yaml")
        for entry in YAML(typ="safe").load(path)["passages"]
    }
    for passage in passages:
        text = passage["text"]
        for entity in reversed(passage["entities"]):
            name = text[entity["start"] : entity["end"]]
            text = f"{text[: entity['start']]}[{name}]({entity['label']}){text[entity['end'] :]}"
        assert text == marked[passage["title"]]


def shingles(text: str, size: int) -> set[tuple[str, ...]]:
    words = "".join(c.lower() if c.isalnum() else " " for c in text).split()
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def alike(texts: list[str]) -> list[tuple[float, str, str]]:
    """Pairs of texts that share runs of five words, with the share of the shorter one's runs (four at least)."""
    of_text = [shingles(text, 5) for text in texts]
    owners: dict[tuple[str, ...], list[int]] = {}
    for i, mine in enumerate(of_text):
        for shingle in mine:
            owners.setdefault(shingle, []).append(i)
    shared = Counter(pair for who in owners.values() for pair in itertools.combinations(who, 2))
    sizes = {pair: min(len(of_text[pair[0]]), len(of_text[pair[1]])) for pair in shared}
    return [(n / sizes[i, j], texts[i], texts[j]) for (i, j), n in shared.items() if sizes[i, j] >= 4]


def test_no_passage_is_made_from_a_template(passages: list[dict[str, Any]]) -> None:
    pairs = alike([passage["text"] for passage in passages])
    assert [pair for pair in pairs if pair[0] > 0.05] == []


def test_no_question_is_made_from_a_template(articles: list[dict[str, Any]]) -> None:
    asked = [qa["question"] for _, qa in questions(articles)]
    assert len({question.lower() for question in asked}) == len(asked)
    assert [pair for pair in alike(asked) if pair[0] > 0.5] == []
