"""Children say the same as their parents: no answer is touched, no held-out row is copied."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.augmentation import augmentation
from trainwright.core import tasks
from trainwright.core.params import Augmentation
from trainwright.text.noise import typing_noise
from trainwright.text.paraphrase import paraphrase, paraphrases

QA = tasks.load("qa", "rows")
BOTH = Augmentation(typing_noise=1.0, paraphrase=1.0)
CONTEXTS = (
    "The Angara carries water away from the lake towards the Yenisei, and more than 300 streams feed it.",
    "Olkhon, the largest island of the lake, has about 1,500 inhabitants; the nerpa lives nowhere else.",
)
QUESTIONS = ("In which year did the lake freeze?", "Who discovered the lake?", "Why did fishermen leave?", "Really?")


def qa_rows(count: int, splits: list[str | None] | None = None) -> pa.Table:
    """Rows over two contexts, four questions each."""
    rows = []
    for i in range(count):
        context = f"{CONTEXTS[i // 4 % 2]} Station {i // 8} was closed."
        answers = [context[4:10], str(i // 8)]
        row = {"id": f"r{i}", "group": f"g{i // 4}", "split": splits[i] if splits else None, "parent": None}
        row |= {"title": "t", "context": context, "question": QUESTIONS[i % 4]}
        rows.append(row | {"answer_start": [context.index(a) for a in answers], "answer_text": answers})
    return pa.Table.from_pylist(rows, schema=QA.SCHEMA)


def children_of(rows: pa.Table) -> list[dict[str, Any]]:
    return rows.filter(rows["parent"].is_valid()).to_pylist()


def test_every_child_holds_its_parents_answers_and_names_its_parent() -> None:
    rows = qa_rows(16)
    parents = {row["id"]: row for row in rows.to_pylist()}
    augmented = augmentation(rows, BOTH, QA, "en")
    children = children_of(augmented)
    assert {child["id"].partition("~")[2] for child in children} == {"noise", "paraphrase"}
    for child in children:
        parent = parents[child["parent"]]
        assert child["id"].startswith(parent["id"] + "~")
        assert child["group"] == parent["group"]
        assert child["answer_text"] == parent["answer_text"]
        assert (child["context"], child["question"]) != (parent["context"], parent["question"])
        for start, text in zip(child["answer_start"], child["answer_text"], strict=True):
            assert child["context"][start : start + len(text)] == text
    assert augmented.filter(augmented["parent"].is_null()).equals(rows)
    assert len(set(augmented["id"].to_pylist())) == augmented.num_rows


def test_only_rows_that_can_train_have_children() -> None:
    splits: list[str | None] = ["train", "validation", "test", None]
    augmented = augmentation(qa_rows(16, splits * 4), BOTH, QA, "en")
    assert {child["split"] for child in children_of(augmented)} == {"train", None}


def test_a_child_has_no_children() -> None:
    once = augmentation(qa_rows(8), BOTH, QA, "en")
    twice = augmentation(once, BOTH.model_copy(update={"seed": 3}), QA, "en")
    assert not [child for child in children_of(twice) if child["id"].count("~") > 1]


def test_rows_of_one_context_stay_together() -> None:
    augmented = augmentation(qa_rows(24), Augmentation(typing_noise=0.5, paraphrase=1.0), QA, "en")
    contexts = augmented["context"].to_pylist()
    runs = [c for i, c in enumerate(contexts) if i == 0 or c != contexts[i - 1]]
    assert len(runs) == len(set(contexts))
    for at, row in enumerate(augmented.to_pylist()):
        if row["id"].endswith("~paraphrase"):
            assert augmented["id"][at - 1].as_py() == row["parent"]


def test_the_same_rows_have_the_same_children_whoever_stands_beside_them() -> None:
    half = Augmentation(typing_noise=0.5, paraphrase=0.5)
    rows = qa_rows(80)
    whole = {child["id"]: child for child in children_of(augmentation(rows, half, QA, "en"))}
    part = {child["id"]: child for child in children_of(augmentation(rows.slice(40), half, QA, "en"))}
    assert part == {name: child for name, child in whole.items() if int(child["parent"][1:]) >= 40}
    assert part
    other = augmentation(rows, half.model_copy(update={"seed": 18}), QA, "en")
    assert {child["id"] for child in children_of(other)} != set(whole)


def test_the_rate_is_the_share_of_rows_that_get_a_child() -> None:
    augmented = augmentation(qa_rows(2000), Augmentation(typing_noise=0.25), QA, "en")
    assert augmented.num_rows - 2000 == pytest.approx(500, abs=60)
    assert augmentation(qa_rows(40), Augmentation(), QA, "en").equals(qa_rows(40))


def test_questions_in_another_language_are_not_paraphrased() -> None:
    augmented = augmentation(qa_rows(16), BOTH, QA, "de")
    assert {child["id"].partition("~")[2] for child in children_of(augmented)} == {"noise"}


def test_a_paraphrase_that_is_there_already_is_not_made_again() -> None:
    rows = qa_rows(2)
    questions = pa.array(["In which year did it freeze?", "In what year did it freeze?"])
    rows = rows.set_column(rows.schema.get_field_index("question"), QA.SCHEMA.field("question"), questions)
    asked = augmentation(rows, Augmentation(paraphrase=1.0), QA, "en")["question"].to_pylist()
    assert asked.count("In which year did it freeze?") == asked.count("In what year did it freeze?") == 1


def test_a_table_without_rows_stays_one() -> None:
    assert augmentation(qa_rows(0), BOTH, QA, "en").equals(qa_rows(0))


sentences = st.lists(st.text(alphabet="abcdeABé漢 ", min_size=1, max_size=9), max_size=8).map(" ".join)


@given(sentences, st.integers(0, 2**32), st.data())
def test_noise_never_touches_an_answer_nor_what_stands_beside_it(text: str, seed: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    edited = typing_noise(text, [start], [end], np.random.default_rng(seed))
    (new_start,), (new_end,) = edited.map([start], [end])
    assert edited.text[new_start:new_end] == text[start:end]
    assert edited.text[:new_start][-1:] == text[:start][-1:]
    assert edited.text[new_end:][:1] == text[end:][:1]


@given(st.integers(0, 2**32))
def test_noise_changes_few_letters_and_no_first_letter(seed: int) -> None:
    text = CONTEXTS[0]
    noisy = typing_noise(text, [], [], np.random.default_rng(seed)).text
    assert noisy != text
    assert abs(len(noisy) - len(text)) <= 1
    assert [w[0] for w in noisy.split()] == [w[0] for w in text.split()]


def test_a_text_without_a_free_word_comes_back_unchanged() -> None:
    assert typing_noise("an ox of tin", [], [], np.random.default_rng(1)).layers == ()
    assert typing_noise("Olkhon", [0], [6], np.random.default_rng(1)).layers == ()


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("In what year did it end?", "In which year did it end?"),
        ("In which city was he born?", "In what city was he born?"),
        ("Who wrote the book?", "Who was it that wrote the book?"),
        ("Who was it that wrote the book?", "Who wrote the book?"),
        ("Who designed the dome?", "Can you tell me who designed the dome?"),
        ("What is the width of the strait?", "How wide is the strait?"),
        ("What is the width of the strait?", "Can you tell me what the width of the strait is?"),
        ("What is the name of the lake?", "What is the lake called?"),
        ("What was the hole at the top called?", "What was the name of the hole at the top?"),
        ("Why did the dome collapse?", "For what reason did the dome collapse?"),
        ("What kind of wood was used?", "What type of wood was used?"),
        ("By whom was the dome designed?", "Who was the dome designed by?"),
        ("What is the capital?", "What's the capital?"),
        ("Which gas is not heavy?", "Which gas isn't heavy?"),
        ("How large was the hall?", "How big was the hall?"),
        ("Where is Orly airport located?", "Where is Orly airport?"),
    ],
)
def test_a_question_is_said_in_other_words(question: str, said: str) -> None:
    assert said in paraphrases(question)


@pytest.mark.parametrize(
    "question",
    [
        "How many rivers feed the lake?",
        "Which of the towers fell?",
        "In which of the two did he live?",
        "Who did he meet?",
        "What was the drug first called?",
        "To what extent is it true?",
    ],
)
def test_a_question_that_no_rule_fits_stays_as_it_is(question: str) -> None:
    assert paraphrase(question, 5) is None
