"""A pin says which bytes a source is; ingestion refuses any others. The Hub's part runs real `datasets` code."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.hub import Hub, serving

from flows import pinning
from trainwright import pins
from trainwright.core import params
from trainwright.core.errors import Fault, InputError
from trainwright.core.layout import Layout, digest
from trainwright.core.params import Pipeline

ROOT = Path(__file__).parent.parent
CSV = "id,context,question,answer\n1,Ann met Bob.,Whom?,Bob\n2,Ann met Bob.,Who?,Ann\n"


def project(root: Path, source: str) -> tuple[Layout, Pipeline]:
    """A project at `root` whose pipeline reads `source` (lines of the section, without their indent)."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    start = text.index("      uri: data/sample")
    end = text.index("    ingestion:\n")
    section = "".join(f"      {line}\n" for line in source.splitlines())
    (root / "params.yaml").write_text(text[:start] + section + text[end:], encoding="utf-8")
    return Layout(root, "sample-qa"), params.load(root / "params.yaml").pipeline("sample-qa")


def refused(layout: Layout, pipeline: Pipeline) -> Fault:
    with pytest.raises(InputError) as caught:
        pins.verify(layout, pipeline)
    return caught.value.faults[0]


@pytest.fixture
def csv(tmp_path: Path) -> tuple[Layout, Pipeline]:
    (tmp_path / "a.csv").write_text(CSV)
    return project(tmp_path, "uri: a.csv\nformat: csv")


def test_the_repositorys_own_pin_is_current() -> None:
    layout = Layout(ROOT, "sample-qa")
    pipeline = params.load(layout.params).pipeline("sample-qa")
    pins.verify(layout, pipeline)
    assert pinning.source_unpinned(layout, pipeline) == pinning.base_unpinned(layout, pipeline) == ""
    pin = json.loads(layout.source_pin.read_text(encoding="utf-8"))
    questions = json.loads((ROOT / "data/sample/squad.json").read_text(encoding="utf-8"))["data"]
    assert pin["rows"] == sum(len(p["qas"]) for article in questions for p in article["paragraphs"])
    assert pin["licence"] == "Apache-2.0"


def test_a_pin_says_what_the_source_is(csv: tuple[Layout, Pipeline]) -> None:
    layout, _ = csv
    old, new = pins.refresh(*csv)
    assert old is None
    assert {key: new[key] for key in ("uri", "format", "rows", "bytes", "licence")} == {
        "uri": "a.csv",
        "format": "csv",
        "rows": 2,
        "bytes": len(CSV),
        "licence": "unknown",
    }
    assert new["sha256"] == digest(layout.root / "a.csv")
    assert pins.verify(*csv).uri == "a.csv"


def test_refreshing_unchanged_bytes_leaves_the_same_file(csv: tuple[Layout, Pipeline]) -> None:
    pins.refresh(*csv)
    before = csv[0].source_pin.read_bytes()
    old, new = pins.refresh(*csv)
    assert old == new
    assert csv[0].source_pin.read_bytes() == before


def test_a_pipe_in_place_of_a_pin_is_refused_without_waiting(csv: tuple[Layout, Pipeline]) -> None:
    layout, pipeline = csv
    layout.source_pin.unlink(missing_ok=True)
    layout.source_pin.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(layout.source_pin)
    assert refused(layout, pipeline).reason == "the pin cannot be read"


def test_without_a_pin_the_remedy_is_named(csv: tuple[Layout, Pipeline]) -> None:
    fault = refused(*csv)
    assert (fault.file, fault.reason) == ("data/sample-qa/source.json", "the source has no pin yet")
    assert "`trainwright refresh sample-qa`" in fault.remedy


def test_other_bytes_than_the_pins_are_refused_with_both_digests(csv: tuple[Layout, Pipeline]) -> None:
    _, pin = pins.refresh(*csv)
    path = csv[0].root / "a.csv"
    path.write_text(CSV.replace("Bob", "Bab"))
    fault = refused(*csv)
    assert fault.file == "a.csv"
    assert f"expected {len(CSV)} bytes, SHA-256 {pin['sha256']}" in fault.reason
    assert f"found {len(CSV)} bytes, SHA-256 {digest(path)}" in fault.reason
    assert "trainwright refresh sample-qa" in fault.remedy


def test_refresh_takes_the_new_bytes_and_gives_the_old_pin_back(csv: tuple[Layout, Pipeline]) -> None:
    _, first = pins.refresh(*csv)
    (csv[0].root / "a.csv").write_text(CSV + "3,Cid sat.,Who?,Cid\n")
    old, new = pins.refresh(*csv)
    assert old == first
    assert (old["rows"], new["rows"]) == (2, 3)
    pins.verify(*csv)


def test_a_pin_that_is_yet_to_be_made_is_none_and_names_the_command(csv: tuple[Layout, Pipeline]) -> None:
    layout, pipeline = csv
    pins.begin(layout)
    assert not pins.is_pinned(layout) and pinning.source_unpinned(layout, pipeline) == "the source has no pin yet"
    fault = refused(layout, pipeline)
    assert fault.reason == "the source has no pin yet" and "`trainwright refresh sample-qa`" in fault.remedy
    assert pins.refresh(layout, pipeline)[0] is None
    made = layout.source_pin.read_bytes()
    pins.begin(layout)
    assert layout.source_pin.read_bytes() == made


def test_a_pin_keeps_its_test_rows_when_the_source_grows(csv: tuple[Layout, Pipeline]) -> None:
    pins.refresh(*csv)
    assert pins.test_rows(csv[0]) == frozenset()
    pins.keep_test_rows(csv[0], ["2", "1"])
    pins.verify(*csv)
    old, new = pins.refresh(*csv)
    assert old == new and new["test_rows"] == ["1", "2"]
    (csv[0].root / "a.csv").write_text(CSV + "3,Ann met Bob.,When?,met\n")
    assert pins.refresh(*csv)[1]["rows"] == 3 and pins.test_rows(csv[0]) == {"1", "2"}
    csv[0].source_pin.write_text(json.dumps({**new, "test_rows": [[]]}))
    with pytest.raises(InputError, match="the pin cannot be read"):
        pins.test_rows(csv[0])


def test_the_hash_of_a_source_under_dvc_add_is_part_of_the_pin(csv: tuple[Layout, Pipeline]) -> None:
    layout, pipeline = csv
    assert "dvc" not in pins.refresh(layout, pipeline)[1]
    source = layout.root / f"{pipeline.source.uri}.dvc"
    source.write_text(f"outs:\n- md5: {'a' * 32}\n  path: rows\n")
    with pytest.raises(InputError, match="the pin nothing"):
        pins.verify(layout, pipeline)
    assert pins.refresh(layout, pipeline)[1]["dvc"] == {pipeline.source.uri: "a" * 32}
    pins.verify(layout, pipeline)
    source.write_text(f"outs:\n- md5: {'b' * 32}\n  path: rows\n")
    with pytest.raises(InputError, match=r"b{32}.*`dvc checkout`"):
        pins.verify(layout, pipeline)
    source.write_text("outs: 3\n")
    with pytest.raises(InputError, match="names no MD5"):
        pins.verify(layout, pipeline)


def test_a_source_that_cannot_be_read_leaves_the_pin(csv: tuple[Layout, Pipeline]) -> None:
    pins.refresh(*csv)
    before = csv[0].source_pin.read_bytes()
    (csv[0].root / "a.csv").write_text("context,question,answer\n")
    with pytest.raises(InputError, match="holds no rows"):
        pins.refresh(*csv)
    assert csv[0].source_pin.read_bytes() == before


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ("uri: b.csv\nformat: csv", "source.uri"),
        ("uri: a.csv\nformat: tsv", "source.format"),
        ("uri: a.csv\nformat: csv\ncolumns: {title: id}", "source.columns"),
        ("uri: a.csv\nformat: csv\nlicence: MIT", "source.licence"),
    ],
)
def test_a_pin_of_another_source_is_refused(csv: tuple[Layout, Pipeline], section: str, field: str) -> None:
    pins.refresh(*csv)
    (csv[0].root / "b.csv").write_text(CSV)
    assert refused(*project(csv[0].root, section)).field == field


@pytest.mark.parametrize("content", ["", "[]", '{"uri": "a.csv"}', "<<<<<<< HEAD", '{"files": [3]}'])
def test_a_broken_pin_is_refused_without_a_traceback(csv: tuple[Layout, Pipeline], content: str) -> None:
    csv[0].source_pin.parent.mkdir(parents=True)
    csv[0].source_pin.write_text(content)
    assert refused(*csv).reason == "the pin cannot be read"


def test_a_source_of_several_files_is_pinned_file_by_file(tmp_path: Path) -> None:
    for name in ("train", "dev"):
        (tmp_path / f"{name}.csv").write_text(CSV)
    paths = project(tmp_path, "uri: .\nformat: csv\nsplits: {train: train.csv, validation: dev.csv}")
    _, pin = pins.refresh(*paths)
    assert [(part["path"], part["split"], part["rows"]) for part in pin["files"]] == [
        ("train.csv", "train", 2),
        ("dev.csv", "validation", 2),
    ]
    assert (pin["rows"], pin["bytes"]) == (4, 2 * len(CSV))
    (tmp_path / "dev.csv").write_text(CSV + "\n")
    assert refused(*paths).file == "dev.csv"


def test_a_file_added_to_a_pinned_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.csv").write_text(CSV)
    paths = project(tmp_path, "uri: set\nformat: csv")
    pins.refresh(*paths)
    (tmp_path / "set/b.csv").write_text(CSV)
    assert refused(*paths).reason.endswith("b.csv")


# The Hub

NAME = "acme/questions"
STEPS = """
import json, sys
from pathlib import Path
from stages import ingestion
from trainwright import pins
from trainwright.core import params, process
from trainwright.core.errors import TrainwrightError
from trainwright.core.layout import Layout
for step in sys.argv[1:]:
    layout = Layout(Path.cwd() / Path(step).parent, "sample-qa")
    try:
        pipeline = params.load(layout.params).pipeline("sample-qa")
        if step.endswith("ingest"):
            done = ingestion.main(process.Run(layout, pipeline))
        else:
            done = getattr(pins, Path(step).name)(layout, pipeline)
        print(json.dumps({"done": done}))
    except TrainwrightError as error:
        print(json.dumps({"code": error.exit_code, "said": str(error)}))
"""


def parquet(rows: int, of: str) -> bytes:
    answers = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])
    columns = {
        "id": [f"{of}{n}" for n in range(rows)],
        "title": [f"{of} {n}" for n in range(rows)],
        "context": ["Ann met Bob."] * rows,
        "question": [f"Who, {n}?" for n in range(rows)],
        "answers": pa.array([{"text": ["Ann"], "answer_start": [0]}] * rows, answers),
    }
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def files(train: int, validation: int) -> dict[str, bytes]:
    return {
        "README.md": b"---\nlicense: mit\n---\n",
        "data/train-00000-of-00001.parquet": parquet(train, "train"),
        "data/validation-00000-of-00001.parquet": parquet(validation, "validation"),
    }


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        yield server


def steps(root: Path, endpoint: str, *names: str, cache: str = "cache", offline: bool = False) -> list[dict[str, Any]]:
    """What each step says, in a process of its own (the Hub's libraries read their settings when imported)."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(root / cache), "PYTHONPATH": str(ROOT)}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    run = subprocess.run(
        [sys.executable, "-c", STEPS, *names], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in run.stderr, run.stderr
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


def ingested(root: Path) -> dict[str, int]:
    table = pq.read_table(root / "data/sample-qa/ingestion/rows.parquet")
    return {value["values"]: value["counts"] for value in table.column("split").value_counts().to_pylist()}


@pytest.mark.slow
def test_a_hub_data_set_is_pinned_at_its_commit_until_it_is_refreshed(tmp_path: Path, hub: Hub) -> None:
    first = hub.commit(NAME, files(5, 2))
    layout, _ = project(tmp_path, f"uri: hub:{NAME}\nformat: hub\nrevision: main")
    steps(tmp_path, hub.endpoint, "refresh", "ingest")
    pin = json.loads(layout.source_pin.read_text())
    assert (pin["revision"], pin["commit"], pin["rows"]) == ("main", first, 7)
    assert [(part["path"], part["split"], part["rows"]) for part in pin["files"]] == [
        ("train", "train", 5),
        ("validation", "validation", 2),
    ]
    assert ingested(tmp_path) == {"train": 5, "validation": 2}

    second = hub.commit(NAME, files(9, 2))
    _, refreshed, _ = steps(tmp_path, hub.endpoint, "ingest", "refresh", "ingest", cache="other")
    old, new = refreshed["done"]
    assert old == pin
    assert (new["commit"], new["rows"]) == (second, 11)
    assert ingested(tmp_path) == {"train": 9, "validation": 2}


@pytest.mark.slow
def test_an_edit_that_leaves_the_bytes_alone_keeps_the_pinned_commit(tmp_path: Path, hub: Hub) -> None:
    first = hub.commit(NAME, files(5, 2))
    section = f"uri: hub:{NAME}\nformat: hub\nrevision: main"
    layout, _ = project(tmp_path, section)
    steps(tmp_path, hub.endpoint, "refresh")
    hub.commit(NAME, files(9, 2))
    project(tmp_path, f"{section}\nlicence: MIT")
    steps(tmp_path, hub.endpoint, "follow", "ingest")
    pin = json.loads(layout.source_pin.read_text())
    assert (pin["licence"], pin["commit"]) == ("MIT", first)
    assert ingested(tmp_path) == {"train": 5, "validation": 2}


@pytest.mark.slow
def test_rows_that_moved_under_a_pinned_commit_are_refused(tmp_path: Path, hub: Hub) -> None:
    commit = hub.commit(NAME, files(5, 2))
    project(tmp_path, f"uri: hub:{NAME}\nformat: hub\nrevision: {commit}")
    steps(tmp_path, hub.endpoint, "refresh")
    hub.commits[NAME][commit] = files(6, 2)
    (said,) = steps(tmp_path, hub.endpoint, "ingest", cache="other")
    assert said["code"] == 2
    assert f"hub:{NAME}, train: its bytes are not those of the pin" in said["said"]
    assert not (tmp_path / "data/sample-qa/ingestion").exists()

    del hub.commits[NAME][commit]
    (said,) = steps(tmp_path, hub.endpoint, "ingest", cache="third")
    assert said["code"] == 2
    assert f"the Hub has no such data set at revision {commit}" in said["said"]


@pytest.mark.slow
def test_without_the_hub_the_cache_serves_the_pinned_commit_and_no_other(tmp_path: Path, hub: Hub) -> None:
    hub.commit(NAME, files(5, 2))
    layout, _ = project(tmp_path, f"uri: hub:{NAME}\nformat: hub\nrevision: main")
    steps(tmp_path, hub.endpoint, "refresh")
    steps(tmp_path, hub.endpoint, "ingest", offline=True)
    assert ingested(tmp_path) == {"train": 5, "validation": 2}

    pin = json.loads(layout.source_pin.read_text())
    other = "f" * 40
    layout.source_pin.write_text(json.dumps({**pin, "commit": other}))
    (said,) = steps(tmp_path, hub.endpoint, "ingest", offline=True)
    assert said["code"] == 3
    assert f"the cache of this machine does not hold revision {other}" in said["said"]


MISSING = {
    f"uri: hub:{NAME}\nformat: hub\nrevision: v9": "the Hub has no revision 'v9' of it",
    "uri: hub:acme/nothing\nformat: hub": "the Hub has no such data set",
    "uri: hub:acme/program\nformat: hub": "Dataset scripts are no longer supported",
    f"uri: hub:{NAME}\nformat: hub\nconfiguration: larger": "BuilderConfig 'larger' not found",
    f"uri: hub:{NAME}\nformat: hub\nsplits: {{test: dev}}": "there is no split 'dev'",
    "uri: acme/questions\nformat: hub": "'acme/questions' is not hub:owner/name",
}


def test_what_the_hub_does_not_have_is_said_without_a_traceback(tmp_path: Path, hub: Hub) -> None:
    hub.commit(NAME, files(5, 2))
    hub.commit("acme/program", {"program.py": b"raise SystemExit('it ran')"})
    layouts = []
    for n, section in enumerate(MISSING):
        (tmp_path / str(n)).mkdir()
        layouts.append(project(tmp_path / str(n), section)[0])
    said = steps(tmp_path, hub.endpoint, *(f"{n}/refresh" for n in range(len(MISSING))))
    assert [answer["code"] for answer in said] == [2] * len(MISSING)
    for answer, reason in zip(said, MISSING.values(), strict=True):
        assert reason in answer["said"]
    assert not any(layout.source_pin.exists() for layout in layouts)


def test_a_hub_that_is_down_is_a_failure_of_machinery(tmp_path: Path) -> None:
    with serving() as gone:
        endpoint = gone.endpoint
    project(tmp_path, f"uri: hub:{NAME}\nformat: hub")
    (said,) = steps(tmp_path, endpoint, "refresh")
    assert said["code"] == 3
    assert "the Hub cannot be reached" in said["said"]


def test_text_of_a_csv_file_on_the_hub_stays_text(tmp_path: Path, hub: Hub) -> None:
    rows = b"NA it was.,null,NA\nNone came.,NA,None\nnull.,None,null\n"
    hub.commit(NAME, {"train.csv": b"context,question,answer\n" + rows})
    project(tmp_path, f"uri: hub:{NAME}\nformat: hub")
    steps(tmp_path, hub.endpoint, "refresh", "ingest")
    table = pq.read_table(tmp_path / "data/sample-qa/ingestion/rows.parquet")
    assert table.column("question").to_pylist() == ["null", "NA", "None"]
    assert table.column("answer_text").to_pylist() == [["NA"], ["None"], ["null"]]
    assert table.column("split").to_pylist() == [None] * 3  # a single split is not a declared one


@pytest.mark.parametrize("writes", [1, 99])
def test_a_source_that_changes_while_it_is_read_is_read_again_then_refused(
    csv: tuple[Layout, Pipeline], monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Somebody appends a row each time that the file has been read, once or for good."""
    layout, pipeline = csv
    read, left = pins.sources.read_files, iter(range(writes))

    def read_then_written(*arguments: Any) -> Any:
        yield from read(*arguments)
        if (n := next(left, None)) is not None:
            with (layout.root / "a.csv").open("a") as file:
                file.write(f"{n + 3},Ann met Bob.,Who?,Ann\n")

    monkeypatch.setattr(pins.sources, "read_files", read_then_written)
    if writes == 1:
        _, new = pins.refresh(layout, pipeline)
        assert (new["rows"], new["sha256"]) == (3, digest(layout.root / "a.csv"))
    else:
        with pytest.raises(InputError, match="changes while it is read"):
            pins.refresh(layout, pipeline)
        assert not layout.source_pin.exists()
