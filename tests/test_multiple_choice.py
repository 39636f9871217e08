"""Multiple choice from a source's columns to published answers, choices differing in number; and what gates refuse."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy

from trainwright import sources
from trainwright.core.errors import InputError
from trainwright.core.params import Source
from trainwright.engine import losses
from trainwright.tasks.multiple_choice import features, model, predictions, rows, scores
from trainwright.tasks.multiple_choice.params import Postprocessing, Tokenization

COLOURS = ["red", "blue", "green", "grey", "pink"]
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *COLOURS, "good", "bad", "what", "is", "the", "it", "which", "?"]
WORDS += [str(digit) for digit in range(10)] + [f"##{digit}" for digit in range(10)]


def read(tmp_path: Path, name: str, text: str, answered: bool = True, **source: Any) -> tuple[pa.Table, list[Any]]:
    """Rows and faults of a source file."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    form = name.rpartition(".")[2]
    table = sources.read(Source(uri=name, format=form, **source), tmp_path, rows.COLUMNS)  # type: ignore[arg-type]
    return rows.from_source(table, name, answered)


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def tokenizer() -> Any:
    import transformers

    return transformers.BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=64)


def some_rows(*records: dict[str, Any]) -> pa.Table:
    base = {"split": None, "parent": None, "context": "", "question": "which is it ?"}
    made = [{"id": f"q{i}", "group": f"g{i}", **base, **record} for i, record in enumerate(records)]
    return pa.Table.from_pylist(made, rows.SCHEMA)


MIXED = some_rows(
    {"choices": ["good 1", "bad 2"], "answer": 0},
    {"choices": ["bad 1", "bad 2", "good 3", "bad"], "answer": 2, "context": "the red blue green"},
    {"choices": ["bad", "bad 7 7 7 7 7", "good"], "answer": 2, "context": "red"},
)


def batch_of(table: pa.Table, labels: bool = True) -> tuple[dict[str, Any], pa.Table]:
    from trainwright.engine.batching import FeatureTable

    made, faults = features.features(table, tokenizer(), Tokenization(max_length=32), "file", {})
    assert not faults
    return model.collate([FeatureTable(made)[i] for i in range(made.num_rows)], tokenizer(), labels), made


# Rows


def test_columns_in_the_form_of_copa_are_choices(tmp_path):
    text = "text,question,c1,c2,label\nThe glass fell.,effect,It broke.,It sang.,0\nHe ate.,cause,Sun.,Hunger.,1\n"
    columns = {"context": "text", "choice1": "c1", "choice2": "c2", "answer": "label"}
    table, faults = read(tmp_path, "a.csv", text, columns=columns)
    assert faults == []
    assert table["choices"].to_pylist() == [["It broke.", "It sang."], ["Sun.", "Hunger."]]
    assert table["answer"].to_pylist() == [0, 1]
    assert table["question"].to_pylist() == ["effect", "cause"]


def test_the_last_columns_may_be_empty_and_so_the_number_of_choices_differ(tmp_path):
    text = "question,choice1,choice2,choice3,answer\na?,x,y,,B\nb?,x,y,z,z\nc?,x,,z,0\n"
    table, faults = read(tmp_path, "a.csv", text)
    assert table["choices"].to_pylist() == [["x", "y"], ["x", "y", "z"]]
    assert table["answer"].to_pylist() == [1, 2]
    assert [(fault.row, fault.field, fault.reason) for fault in faults] == [
        ("line 4", "choices", "a choice before the last is empty")
    ]


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ({"choices": ["x", "y", "z"], "answer": 2}, 2),
        ({"choices": ["x", "y", "z"], "answer": "1"}, 1),
        ({"choices": ["x", "y", "z"], "answer": "c"}, 2),
        ({"choices": ["x", "y", "z"], "answer": " y "}, 1),
        ({"choices": ["x", "y", "z"], "answer_number": 1}, 0),
        ({"choices": ["1", "0", "z"], "answer_text": "0"}, 1),
        ({"choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answer": "2"}, 1),
        ({"choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answer": "A"}, 0),
    ],
    ids=str,
)
def test_an_answer_may_be_a_place_a_letter_a_label_or_a_text(tmp_path, record, place):
    table, faults = read(tmp_path, "a.jsonl", lines({"question": "which?", **record}))
    assert (faults, table["answer"].to_pylist()) == ([], [place])


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        ({"choices": ["x"], "answer": "x"}, "choices", "fewer than two choices"),
        ({"choices": None, "answer": "x"}, "choices", "fewer than two choices"),
        ({"choices": ["x", " "], "answer": "x"}, "choices", "a choice is empty"),
        ({"choices": ["x", None], "answer": "x"}, "choices", "a choice is empty"),
        ({"choices": ["a  b", "a b"], "answer": "A"}, "choices", "two choices are alike"),
        ({"choices": ["x", "y"], "answer": ""}, "answer", "there is no answer"),
        ({"choices": ["x", "y"], "answer": "2"}, "answer", "none of the 2 choices: not a number from 0 to 1, a letter"),
        ({"choices": ["x", "y"], "answer": "w"}, "answer", "letter from A to B, or the text of one"),
        ({"choices": ["1", "0"], "answer": "1"}, "answer", "one choice by its text and another by its place"),
        ({"choices": ["x", "y"], "answer": "x", "question": " "}, "question", "the question is empty"),
        ({"choices": ["x", "y"], "answer": "x", "context": "a\0"}, "context", "NUL character"),
        ({"choices": ["x", "y\0"], "answer": "x"}, "choices", "NUL character"),
        ({"choices": ["x", "y"], "answer": "x", "split": "dev"}, "split", "there is no such split"),
        ({"choices": "xy", "answer": "x"}, "choices", "is text, not"),
    ],
    ids=str,
)
def test_a_bad_row_is_left_out_with_its_line_field_and_reason(tmp_path, record, field, reason):
    good = {"id": "good", "question": "b?", "choices": ["x", "y"], "answer": "y", "split": "train"}
    table, (fault,) = read(tmp_path, "a.jsonl", lines(good, {"id": "q", "question": "a?", "split": "test", **record}))
    assert table["id"].to_pylist() == ["good"]
    assert (fault.row, fault.field, fault.id) == ("line 2", field, "q")
    assert reason in fault.reason


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("choice1,choice2,answer\nx,y,0\n", "question"),
        ("question,choice1,answer\na?,x,0\n", "choices"),
        ("question,choice1,choice2,label\na?,x,y,0\n", "answer"),
        ("question,choices,answer\na?,x|y,0\n", "choices"),
        ("question,choice1,choice2,answer,answer_text\na?,x,y,0,x\n", "answer_text"),
        ("question,choice0,choice1,choice2,answer\na?,x,y,z,0\n", "choice0"),
        ("question,choice1,choice2,choice4,answer\na?,x,y,z,0\n", "choice3"),
        ("question,choices,choice1,choice2,answer\na?,x|y,x,y,0\n", "choice1"),
    ],
)
def test_a_missing_column_is_named_and_how_to_map_one(tmp_path, text, field):
    with pytest.raises(InputError) as raised:
        read(tmp_path, "a.csv", text)
    assert raised.value.faults[0].field == field


def test_a_cell_of_a_csv_file_may_hold_all_choices(tmp_path):
    text = "question,choices,answer\na?,x | y | z,2\n"
    table, faults = read(tmp_path, "a.csv", text, separator="|")
    assert (table["choices"].to_pylist(), table["answer"].to_pylist(), faults) == ([["x", "y", "z"]], [2], [])


def test_an_empty_choice_within_a_cell_shifts_no_answer(tmp_path):
    text = "question,choices,answer\na?,x||z|,2\nb?,x|y|z|,2\nc?,|y,1\n"
    table, faults = read(tmp_path, "a.csv", text, separator="|")
    assert (table["choices"].to_pylist(), table["answer"].to_pylist()) == ([["x", "y", "z"]], [2])
    assert [(fault.row, fault.reason) for fault in faults] == [(f"line {n}", "a choice is empty") for n in (2, 4)]


def test_columns_that_count_from_nought_may_be_mapped(tmp_path):
    text = "question,choice0,choice1,answer\na?,x,y,1\n"
    table, faults = read(tmp_path, "a.csv", text, columns={"choice1": "choice0", "choice2": "choice1"})
    assert (faults, table["choices"].to_pylist(), table["answer"].to_pylist()) == ([], [["x", "y"]], [1])
    text, columns = (
        "question,choice1,choice2,choice3,answer\na?,w,x,y,1\n",
        {"choice1": "choice2", "choice2": "choice3"},
    )
    assert read(tmp_path, "a.csv", text, columns=columns)[0]["choices"].to_pylist() == [["x", "y"]]


def test_rows_of_one_context_are_a_group_and_questions_without_answers_can_be_read(tmp_path):
    record = {"context": "c", "choices": ["x", "y"]}
    text = lines(
        {"question": "a?", **record}, {"question": "b?", **record}, {**record, "question": "b?", "context": ""}
    )
    table, faults = read(tmp_path, "a.jsonl", text, answered=False)
    assert faults == []
    assert table["answer"].to_pylist() == [-1, -1, -1]
    assert table["group"][0] == table["group"][1] != table["group"][2]
    assert len(set(table["id"].to_pylist())) == 3


# Features and batches


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(WORDS[5:-10]), max_size=40).map(" ".join),
            st.lists(
                st.lists(st.sampled_from(WORDS[5:-10]), min_size=1, max_size=9).map(" ".join), min_size=2, max_size=5
            ),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["left", "right"]),
)
def test_inputs_are_those_of_the_tokenizer_itself_token_for_token(records, side):
    own = tokenizer()
    own.truncation_side = side
    table = some_rows(*({"context": context, "choices": choices, "answer": 0} for context, choices in records))
    made, faults = features.features(table, own, Tokenization(max_length=24), "file", {})
    assert faults == []
    for row, feature in zip(table.to_pylist(), made.to_pylist(), strict=True):
        pairs = [
            (row["context"], f"{row['question']} {choice}") if row["context"] else (row["question"], choice)
            for choice in row["choices"]
        ]
        expected = [own(first, second, truncation="only_first", max_length=24) for first, second in pairs]
        assert feature["input_ids"] == [token for pair in expected for token in pair["input_ids"]]
        assert feature["token_type_ids"] == [kind for pair in expected for kind in pair["token_type_ids"]]
        assert feature["lengths"] == [len(pair["input_ids"]) for pair in expected]
        whole = [len(own(first, second)["input_ids"]) for first, second in pairs]
        assert feature["truncated"] == (max(whole) > 24)
    assert own.backend_tokenizer.truncation is None


def test_a_choice_that_leaves_no_room_is_a_fault_and_the_other_rows_have_their_features():
    table = some_rows({"choices": ["good", "bad " * 40], "answer": 0}, {"choices": ["good", "bad"], "answer": 1})
    made, (fault,) = features.features(table, tokenizer(), Tokenization(max_length=24), "file", {})
    assert made["row"].to_pylist() == [1]
    assert (fault.id, fault.field) == ("q0", "choices")


def test_a_feature_with_another_answer_than_its_row_is_misaligned():
    made, _ = features.features(MIXED, tokenizer(), Tokenization(max_length=32), "file", {})
    assert features.misaligned(MIXED, made).to_pylist() == []
    wrong = made.set_column(made.schema.get_field_index("answer"), "answer", pa.array([0, 1, 2], pa.int32()))
    assert features.misaligned(MIXED, wrong).to_pylist() == ["q1"]


def tiny(**more: Any) -> Any:
    import transformers

    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, **more,
    )  # fmt: skip
    torch.manual_seed(4)
    return transformers.BertForMultipleChoice(config)


def test_a_choice_that_a_question_does_not_have_neither_wins_nor_enters_loss_or_gradient():
    network = tiny(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    single = []
    for i in range(MIXED.num_rows):
        batch, _ = batch_of(MIXED.slice(i, 1))
        output = network(**batch)
        torch.testing.assert_close(model.loss(output, batch), output.loss)  # no padding: the model's own is right
        single.append(model.loss(output, batch))
    torch.stack(single).mean().backward()
    gradients = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    batch, _ = batch_of(MIXED)
    assert batch["input_ids"].shape[:2] == (3, 4)
    output = network(**batch)
    output.logits.data[0, 2:] = 1e4  # what padding scores must not matter
    loss = model.loss(network(**batch), batch)
    torch.testing.assert_close(loss, torch.stack(single).mean())
    torch.testing.assert_close(model.loss(output, batch), loss)
    assert (
        abs(float(network(**batch).loss.detach()) - float(loss.detach())) > 0.01
    )  # what the model itself would have said
    loss.backward()
    for p, expected in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, expected, atol=1e-6, rtol=1e-4)
    right, count = model.agreement(output, batch)
    best = [int(row[:k].argmax()) for row, k in zip(output.logits, [2, 4, 3], strict=True)]
    assert (right, count) == (sum(a == b for a, b in zip(best, [0, 2, 2], strict=True)), 3)


def test_smoothing_gives_nothing_to_a_choice_that_there_is_not():
    batch, _ = batch_of(MIXED)
    output = tiny()(**batch)
    found = losses.smoothed(model.targets(output, batch), 0.2)
    expected = []
    for row, count, label in zip(output.logits, [2, 4, 3], [0, 2, 2], strict=True):
        surprise = -row[:count].log_softmax(-1)
        expected.append(0.8 * surprise[label] + 0.2 * surprise.mean())
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_padding_on_the_left_gives_the_same_scores_of_a_model_without_positions():
    own = tokenizer()
    own.padding_side = "left"
    from trainwright.engine.batching import FeatureTable

    made, _ = features.features(MIXED, own, Tokenization(max_length=32), "file", {})
    batch = model.collate([FeatureTable(made)[i] for i in range(3)], own, True)
    assert batch["attention_mask"][0, 0].tolist() == sorted(batch["attention_mask"][0, 0].tolist())
    assert model._present(batch).tolist() == [[True] * 2 + [False] * 2, [True] * 4, [True] * 3 + [False]]


# Predictions and scores


def outputs_of(*of_rows: tuple[int, list[float]]) -> pa.Table:
    return pa.table({"row": [r for r, _ in of_rows], "score": [s for _, s in of_rows]}, schema=model.OUTPUTS)


def test_the_best_choice_is_predicted_with_the_probability_of_all():
    found = predictions.predict(MIXED, outputs_of((2, [0.0, 0.0, 0.0]), (0, [0.0, 1.0])), Postprocessing(), {})
    first, second, third = found["prediction"].to_pylist()
    assert (first["choice"], first["text"]) == (1, "bad 2")
    assert first["probability"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert second is None
    assert (third["choice"], third["probability"]) == (0, pytest.approx(1 / 3))
    assert [one["choice"] for one in found["nbest"][0].as_py()] == [1, 0]
    assert found["nbest"][1].as_py() == []


def test_accuracy_agrees_with_scikit_learn_and_torchmetrics():
    random = np.random.default_rng(5)
    answer = random.integers(3, size=200)
    logits = random.normal(size=(200, 3)) + 1.5 * np.eye(3)[answer]
    table = some_rows(
        *({"choices": ["a", "b", "c"], "answer": int(a), "group": f"g{i // 4}"} for i, a in enumerate(answer))
    )
    found = predictions.predict(table, outputs_of(*enumerate(logits.tolist())), Postprocessing(), {})
    scored = scores.scores(table, found, Postprocessing(), "en")
    chosen = logits.argmax(axis=1)
    assert scored["accuracy"]["value"] == pytest.approx(100 * accuracy_score(answer, chosen))
    micro = multiclass_accuracy(torch.tensor(chosen), torch.tensor(answer), num_classes=3, average="micro")
    assert scored["accuracy"]["value"] == pytest.approx(100 * float(micro), abs=1e-4)
    assert scored["accuracy"]["low"] < scored["accuracy"]["value"] < scored["accuracy"]["high"]
    assert scored["chance"] == pytest.approx(100 / 3, abs=1e-3)
    softmax = torch.tensor(logits).softmax(-1).numpy()
    assert [p["probability"] for p in found["prediction"].to_pylist()] == pytest.approx(
        softmax.max(axis=1).tolist(), abs=1e-6
    )
    places = [s for s in scored["slices"] if s["by"] == "place of the right choice"]
    for place in range(3):
        expected = 100 * accuracy_score(answer[answer == place], chosen[answer == place])
        assert places[place]["accuracy"] == pytest.approx(expected, abs=1e-3)


def test_a_question_without_a_prediction_counts_as_wrong():
    found = predictions.predict(MIXED, outputs_of((0, [1.0, 0.0]), (2, [0.0, 0.0, 1.0])), Postprocessing(), {})
    scored = scores.scores(MIXED, found, Postprocessing(), "en")
    assert (scored["count"], scored["accuracy"]["value"]) == (3, pytest.approx(200 / 3, abs=1e-3))
    assert scored["chance"] == pytest.approx(100 * (1 / 2 + 1 / 4 + 1 / 3) / 3, abs=1e-3)
    each = scores.each(MIXED, found, "en")
    assert each["accuracy"].to_pylist() == [1, 0, 1]
    assert each["gold"].to_pylist()[1] == {"choice": 2, "text": "good 3"}


def test_a_choice_label_with_a_hidden_character_is_refused(tmp_path):
    record = {"question": "a?", "choices": {"text": ["x", "y"], "label": ["A\x1b", "B"]}, "answer": "B"}
    _, (fault,) = read(tmp_path, "a.jsonl", lines(record))
    assert (fault.row, fault.field) == ("line 1", "choices")
    assert fault.reason == "the label 'A\\x1b' holds the character U+001B, which cannot be shown"
