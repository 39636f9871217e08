"""Plain text as a source: documents apart by blank lines, or one contiguous stream cut by position."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright import sources
from trainwright.core import params
from trainwright.core.errors import InputError
from trainwright.core.params import Source, Stream
from trainwright.core.yaml_file import read_yaml
from trainwright.sources import text

COLUMNS = {name: (pa.string(),) for name in ("id", "group", "text", "split")} | {"position": (pa.int64(),)}


def read(root: Path, content: str | bytes, name: str = "a.txt", **more: object) -> pa.Table:
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return sources.read(Source(uri=name, format="text", **more), root, COLUMNS)  # type: ignore[arg-type]


def test_documents_are_apart_by_blank_lines_and_say_on_which_line_they_begin(tmp_path: Path) -> None:
    table = read(tmp_path, "\n\n  One.\nStill one.\n \t\n\nTwo.\r\n\r\n\r\n三\n")
    assert table["text"].to_pylist() == ["One.\nStill one.", "Two.", "三"]
    assert table["place"].to_pylist() == ["line 3", "line 7", "line 10"]
    assert "split" not in table.column_names


def test_packed_text_and_files_of_declared_splits_are_read(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        (tmp_path / f"{name}.txt.gz").write_bytes(gzip.compress(f"{name} one\n\n{name} two".encode()))
    splits = {"train": "train.txt.gz", "validation": "validation.txt.gz"}
    table = sources.read(Source(uri=".", format="text", splits=splits), tmp_path, COLUMNS)  # type: ignore[arg-type]
    assert table["text"].to_pylist() == ["train one", "train two", "validation one", "validation two"]
    assert table["split"].to_pylist() == ["train", "train", "validation", "validation"]


def test_a_stream_is_divided_to_the_character_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    whole = "".join(f"Line {n} of the play.\n" for n in range(1000))
    table = read(tmp_path, whole, stream=Stream(train=0.9, validation=0.05, test=0.05))
    parts = dict.fromkeys(("train", "validation", "test"), "")
    for row in table.to_pylist():
        assert row["group"] == f"a.txt:{row['split']}"
        parts[row["split"]] += row["text"]
    assert "".join(parts.values()) == whole
    assert len(parts["train"]) == int(len(whole) * 0.9)
    assert len(parts["train"] + parts["validation"]) == int(len(whole) * (0.9 + 0.05))
    rows = table.filter(pa.compute.equal(table["split"], "train"))
    assert rows["position"].to_pylist() == list(range(rows.num_rows))
    assert all(piece.endswith("\n") for piece in rows["text"].to_pylist()[:-1])
    assert max(map(len, rows["text"].to_pylist())) <= text.PIECE
    assert len(set(table["id"].to_pylist())) == table.num_rows


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab \n三"), max_size=4000), st.sampled_from([None, "train", "test"]))
def test_rows_of_a_stream_joined_are_the_stream(content: str, split: str | None) -> None:
    records = text._stream(content, "f", Stream(), split)
    texts = records.columns["text"].to_pylist()
    assert "".join(texts) == content
    assert "" not in texts


def test_files_of_declared_splits_are_streams_that_are_not_divided(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text("a\n\nb\n" * 400)
    source = Source(uri=".", format="text", splits={"train": "train.txt", "test": "test.txt"}, stream=Stream())
    table = sources.read(source, tmp_path, COLUMNS)
    assert set(zip(table["group"].to_pylist(), table["split"].to_pylist(), strict=True)) == {
        ("train.txt:train", "train"),
        ("test.txt:test", "test"),
    }
    assert "".join(table["text"].to_pylist()) == 2 * "a\n\nb\n" * 400


def test_what_is_not_utf8_is_named_by_its_byte(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not UTF-8 at byte 3"):
        read(tmp_path, b"caf\xc3\xff")


def test_a_file_without_a_word_holds_no_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no rows"):
        read(tmp_path, "\n \n\n")


def test_shares_of_a_stream_that_do_not_add_up_and_streams_of_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        Stream(train=0.9, validation=0.2)
    with pytest.raises(ValueError, match="each be more than 0"):
        Stream(train=1.0, validation=0.0, test=0.0)
    with pytest.raises(ValueError, match="is for format: text"):
        Source(uri="a.csv", format="csv", stream=Stream())


@pytest.mark.parametrize(
    ("section", "field", "remedy"),
    [
        ({"cleaning": {"duplicates": False}}, "cleaning.whitespace", "`cleaning: {whitespace: false}`"),
        ({"cleaning": {"whitespace": False}}, "cleaning.duplicates", "`cleaning: {duplicates: false}`"),
        ({"augmentation": {"typing_noise": 0.1}}, "augmentation.typing_noise", "`augmentation: {typing_noise: 0.0}`"),
    ],
)
def test_a_stream_that_a_stage_would_take_apart_is_refused_by_field(
    tmp_path: Path, section: dict[str, object], field: str, remedy: str
) -> None:
    ((_, recipe),) = read_yaml(ROOT / "recipes" / "sample-clm.yaml").items()
    recipe["source"] = {"uri": "a.txt", "format": "text", "stream": {}}
    recipe |= {"cleaning": {"whitespace": False, "duplicates": False}, **section}
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps({"pipelines": {"play": recipe}}, indent=1))
    with pytest.raises(InputError) as caught:
        params.load(path)
    assert [(fault.field, remedy in fault.remedy) for fault in caught.value.faults] == [
        (f"pipelines.play.{field}", True)
    ]
