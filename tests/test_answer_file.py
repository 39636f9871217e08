"""The file of predictions: its forms, and that it is written aside, in a place that nobody could have prepared."""

import csv
import json
import os
from pathlib import Path

import pytest

from trainwright.core.errors import InputError
from trainwright.engine import answer_file

ANSWERS = [
    {
        "id": "ä",
        "row": 1,
        "prediction": "yes, no",
        "probability": 0.5,
        "truncated": True,
        "whole": {"label": "yes"},
    },
    {"id": None, "row": 2, "prediction": [{"start": 0}], "probability": None, "truncated": False, "whole": []},
]


def written(target: Path, answers: list[answer_file.Answer]) -> str:
    with answer_file.writing(target) as file:
        writer = answer_file.Writer(file, answer_file.form(target), keyed=False)
        writer.write(answers)
        writer.end()
    assert writer.count == len(answers)
    return target.read_text(encoding="utf-8")


def test_each_form_holds_all_answers(tmp_path: Path) -> None:
    assert json.loads(written(tmp_path / "a.json", ANSWERS)) == {"1": {"label": "yes"}, "2": []}
    lines = [json.loads(line) for line in written(tmp_path / "a.jsonl", ANSWERS).splitlines()]
    assert lines == [{name: value for name, value in one.items() if name != "whole"} for one in ANSWERS]
    table = [*csv.reader(written(tmp_path / "a.csv", ANSWERS).splitlines())]
    assert table == [
        ["id", "row", "prediction", "probability", "truncated"],
        ["ä", "1", "yes, no", "0.5", "true"],
        ["", "2", '[{"start": 0}]', "", "false"],
    ]
    assert json.loads(written(tmp_path / "none.json", [])) == {}


def test_a_link_that_waits_where_a_file_could_be_written_aside_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    for name in (".out.json.partial", "out.json.partial", "out.json"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    written(tmp_path / "out.json", ANSWERS)
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "out.json").is_symlink()


def test_what_fails_leaves_nothing_and_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), answer_file.writing(tmp_path / "out.json"):
        raise ZeroDivisionError
    assert [*tmp_path.iterdir()] == []
    before = os.umask(0o027)
    try:
        written(tmp_path / "out.json", [])
    finally:
        os.umask(before)
    assert (tmp_path / "out.json").stat().st_mode & 0o777 == 0o640


def test_a_name_that_is_no_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.json, \.jsonl or \.csv"):
        answer_file.form(tmp_path / "out.txt")
