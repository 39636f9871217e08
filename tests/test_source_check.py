"""`trainwright check` reads the source, and says and ends as the next run would."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from flows import source_check
from trainwright.core.errors import InputError, RefusedError
from trainwright.core.params import Pipeline

LABELS = ("good", "bad")
TSV = "text\tlabel\n" + "".join(f"This is text {n}.\t{LABELS[n % 2]}\n" for n in range(40))


def pipeline(**source: Any) -> Pipeline:
    return Pipeline.model_validate(
        {
            "task": "classification", "language": "en", "base_model": "package:some-model", "after": "none",
            "source": source, "ingestion": {}, "cleaning": {}, "augmentation": {}, "splitting": {}, "tokenization": {},
            "training": {}, "evaluation": {}, "postprocessing": {}, "report": {},
            "gates": {name: {} for name in ("ingestion", "cleaning", "augmentation", "splitting", "tokenization",
                                            "training", "evaluation", "postprocessing", "report")},
        }
    )  # fmt: skip


def checked(params: Pipeline, root: Path) -> list[str]:
    told: list[str] = []
    size = sum(path.stat().st_size for path in root.iterdir())
    source_check.check_rows(params, root, size, told.append)
    return told


def test_rows_are_counted_and_the_first_bad_ones_named(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(TSV + "\tgood\n")
    params = pipeline(uri="a.tsv", format="tsv").model_copy(
        update={"ingestion": pipeline(uri="a", format="tsv").ingestion}
    )
    lenient = params.model_copy(update={"ingestion": params.ingestion.model_copy(update={"max_bad_share": 0.1})})
    told = checked(lenient, tmp_path)
    assert told[0] == "rows         41 read, 40 can be used, 1 go to quarantine"
    assert "a.tsv, line 42" in told[1] and "text" in told[1]
    with pytest.raises(InputError, match="1 of 41 rows are bad, more than the allowed share"):
        checked(params, tmp_path)


@pytest.mark.parametrize(
    ("name", "form", "content", "words"),
    [
        ("a.jsonl", "jsonl", '{"text": "a", "label": "b"}\n{"text": \n', "line 2"),
        ("a.tsv", "tsv", "body\tlabel\nx\ty\n", "there is no column 'text'"),
        ("a.csv", "csv", b"text,label\n\xe9,x\n", "UTF-8"),
        ("a.json", "squad", '{"data": [{}]}', "paragraphs"),
        ("a.tsv", "tsv", "text\tlabel\na\tb\n", "only 1 row of it can be used"),
    ],
)
def test_what_ingestion_refuses_is_refused(tmp_path: Path, name: str, form: str, content: Any, words: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=words):
        checked(pipeline(uri=name, format=form), tmp_path)


def test_what_the_gates_refuse_for_want_of_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("".join(TSV.splitlines(keepends=True)[:16]))
    with pytest.raises(RefusedError, match="15 of them are fewer"):
        checked(pipeline(uri="a.tsv", format="tsv"), tmp_path)
    (tmp_path / "a.tsv").write_text(TSV)
    params = pipeline(uri="a.tsv", format="tsv")
    limits = params.gates.ingestion.model_copy(update={"min_rows": 50, "labels": ["good"]})
    gates = params.gates.model_copy(update={"ingestion": limits})
    with pytest.raises(RefusedError, match=r"(?s)wanted at least 50, seen 40.*ingestion gate") as caught:
        checked(params.model_copy(update={"gates": gates}), tmp_path)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_of_a_large_source_the_first_whole_records_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, packed: bool
) -> None:
    monkeypatch.setattr(source_check, "WHOLE", 10)
    monkeypatch.setattr(source_check, "HEAD", 600)
    rows = [(f"One {n}, first line\nsecond line" if form == "csv" else f"One {n}", LABELS[n % 2]) for n in range(200)]
    quoted = [f'"{text}",{label}\n' for text, label in rows]
    content = {
        "csv": "text,label\n" + "".join(quoted),
        "tsv": "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows),
        "jsonl": "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows),
    }[form]
    name = f"a.{form}.gz" if packed else f"a.{form}"
    (tmp_path / name).write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    (line,) = checked(pipeline(uri=name, format=form), tmp_path)
    assert line.startswith("rows         of the first 0 MB ") and " 0 go to quarantine" in line
    assert 5 < int(line.split("MB ")[1].split()[0]) < 60


def test_a_large_source_that_cannot_be_read_in_part_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_check, "WHOLE", 10)
    (tmp_path / "a.json").write_text("{" + " " * 100)
    assert "cannot be read in part" in checked(pipeline(uri="a.json", format="squad"), tmp_path)[0]
