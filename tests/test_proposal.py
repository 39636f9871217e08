"""`trainwright add --from FILE`: what it makes of files, what it asks, and that a run would take what it wrote."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from fixtures.repository import trainwright

from flows import source_check
from trainwright import pins
from trainwright.core import params
from trainwright.core.layout import Layout


def article(n: int) -> dict[str, object]:
    question = {"id": f"{n}", "question": f"What is large {n}?", "answers": [{"text": f"Paris{n}", "answer_start": 0}]}
    return {"title": f"t{n}", "paragraphs": [{"context": f"Paris{n} is large.", "qas": [question]}]}


SQUAD = {"version": "1.1", "data": [article(n) for n in range(12)]}


def lines(form: str, count: int = 12) -> str:
    return "".join(form.replace("#", str(n)).replace("@", "ab"[n % 2]) for n in range(count))


def objects(**fields: object) -> str:
    return lines(json.dumps(fields) + "\n")


# ruff: noqa: E501
CASES = [
    ("classification", "a.csv", "review,sentiment,stars\n" + lines("Text # is here,@,#\n"), {"text": "review", "label": "sentiment"}),
    ("classification", "a.tsv.gz", "text\tlabel\n" + lines("A quote \" in #\t@\n"), {}),
    ("classification", "a.txt", "Sentence\tClass\n" + lines("Text # is here\t@\n"), {"text": "Sentence", "label": "Class"}),
    ("classification", "a.csv", "text;score\n" + lines("Text # is here;#\n"), {"value": "score"}),
    ("classification", "a.jsonl", objects(body="Text #", category="@"), {"text": "body", "label": "category"}),
    ("qa", "a.json.gz", json.dumps(SQUAD), {}),
    ("qa", "a.csv", "passage,question,answer\n" + lines("Paris# is large,What is large #?,Paris#\n"), {"context": "passage"}),
    ("ner", "a.conll.gz", lines("Anna# B-PER\nlives O\n\n"), {}),
    ("ner", "a.txt", lines("Anna# B-PER\nlives O\n\n"), {}),
    ("ner", "a.jsonl", objects(words=["Anna#", "lives"], ner_tags=["B-PER", "O"]), {"tokens": "words", "tags": "ner_tags"}),
    ("ner", "a.jsonl", objects(text="Anna lives #", entities=[{"start": 0, "end": 4, "label": "P"}]), {"spans": "entities"}),
    ("multiple_choice", "a.csv", "question,Option B,Option A,answer\n" + lines("Which #?,b#,a#,@\n"),
     {"choice1": "Option A", "choice2": "Option B"}),
    ("multiple_choice", "a.jsonl", objects(question="Which #?", options=["a#", "b#"], answer="@"), {"choices": "options"}),
    ("seq2seq", "a.jsonl", objects(article="Long text #", summary="text #"), {"source": "article", "target": "summary"}),
    ("seq2seq", "a.txt", lines("A document of words #.\n\n"), {}),
    ("mlm", "a.txt.gz", lines("A document of words #.\n\n"), {}),
    ("mlm", "a.txt", lines("A document of words #.\n"), {}),
    ("clm", "a.jsonl.gz", objects(text="A document of words #."), {}),
]  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("task", "name", "content", "columns"),
    CASES,
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_a_file_becomes_a_pipeline_that_a_run_takes(
    project: Path, task: str, name: str, content: str, columns: dict[str, str]
) -> None:
    before = (project / "params.yaml").read_text()
    file = project / "data" / (name)
    file.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    said = trainwright(project, "add", "--from", str(file), "--task", task, "--name", "mine")
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-1].startswith("Next: trainwright check mine, then trainwright run mine.")
    after = (project / "params.yaml").read_text()
    rest = iter(after.splitlines())
    assert all(line in rest for line in before.splitlines())
    pipeline = params.load(project / "params.yaml").pipeline("mine")
    assert (pipeline.task, pipeline.source.columns) == (task, columns)
    layout = Layout(project, "mine")
    assert layout.source_pin.exists() and not pins.is_pinned(layout)  # so that `dvc repro` gets as far as ingestion
    for ours, theirs in columns.items():
        assert f"{theirs} is taken as {ours}" in said.stdout
    told: list[str] = []
    source_check.check_rows(pipeline, project, file.stat().st_size, told.append)
    assert " 12 can be used, 0 go to quarantine" in told[0]


@pytest.mark.parametrize(
    ("task", "name", "content", "flags", "words"),
    [
        ("classification", "a.csv", "review,comment,label\nx,y,z\n", (), "--column text=COLUMN"),
        ("classification", "a.csv", "category,score,text\nx,1,z\n", (), "in several ways"),
        ("classification", "a.csv", "a nice day,good\na bad one,bad\n", (), "--header NAME,NAME"),
        ("multiple_choice", "a.csv", "question,a1,a2,label\nq,x,y,1\n", (), "answer_number"),
        ("classification", "a.dat", "words", (), "--format"),
        ("qa", "a.txt", "words", (), "--format, one of squad"),
        ("mlm", "none.txt", None, (), "there is no such file"),
        ("mlmm", "a.txt", "words", (), "Did you mean `mlm`?"),
        ("classification", "a.csv", "text,label\na,b\n", (), "Give at least 3"),
        ("classification", "a.csv", "text,label\na,b\n", ("--column", "txt=text"), "Did you mean `text`?"),
        ("classification", "a.csv", "text,label\na,b\n", ("--column", "text=txt"), "Did you mean `text`?"),
        ("classification", "a.csv", "text,label\na,b\n", ("--name", "sample-qa"), "Give another: --name NAME"),
        ("classification", "a.csv", "text,label\na,b\n", ("--delimiter", "ab"), "one character"),
        ("classification", "a.csv", "text,label\na,b\n", ("--format", "cvs"), "csv"),
    ],
)
def test_what_is_not_plain_is_asked_and_nothing_is_written(
    project: Path, task: str, name: str, content: str | None, flags: tuple[str, ...], words: str
) -> None:
    before = (project / "params.yaml").read_bytes()
    if content is not None:
        (project / name).write_text(content)
    said = trainwright(project, "add", "--from", name, "--task", task, *flags)
    assert said.returncode == 2 and words in said.stderr, said.stderr
    assert (project / "params.yaml").read_bytes() == before


def test_flags_decide_what_is_not_plain(project: Path) -> None:
    (project / "Mine 2.csv").write_text(lines("Text # is here;@;#\n", 300))
    flags = ("--header", "a,b,c", "--column", "text=a", "--column", "label=b", "--language", "de")
    said = trainwright(project, "add", "--from", "Mine 2.csv", "--task", "classification", *flags)
    assert said.returncode == 0, said.stderr
    pipeline = params.load(project / "params.yaml").pipeline("mine-2")
    assert (pipeline.source.header, pipeline.language) == (["a", "b", "c"], "de")
    assert pipeline.gates.splitting == params.SplittingGate() and pipeline.gates.ingestion.min_rows == 150


def test_a_file_outside_of_the_repository_is_said(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("elsewhere") / "a.txt"
    file.write_text(lines("今天天气很好，我们去公园。#\n\n"))
    said = trainwright(project, "add", "--from", str(file), "--task", "mlm", "--name", "mine")
    assert (
        said.returncode == 0 and "is outside of the repository" in said.stdout and "dvc add data/a.txt" in said.stdout
    )
    pipeline = params.load(project / "params.yaml").pipeline("mine")
    assert (pipeline.source.uri, pipeline.language) == (str(file), "zh")


@pytest.mark.parametrize("arguments", [(), ("squad", "--from", "a.csv"), ("--from", "a.csv")])
def test_a_recipe_or_a_file_with_its_task_is_wanted(project: Path, arguments: tuple[str, ...]) -> None:
    said = trainwright(project, "add", *arguments)
    assert said.returncode == 2 and "trainwright add --from FILE --task classification" in said.stderr
