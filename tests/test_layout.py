"""Nothing half-written is ever visible, and a digest is of the bytes and of nothing else."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwright.core.layout import digest, find_root, write_file, writing

ROOT = Path(__file__).parent.parent


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "cleaning"
    with writing(target) as folder:
        (folder / "rows.parquet").write_text("new")
        assert not target.exists()
    assert (target / "rows.parquet").read_text() == "new"


def test_a_block_that_fails_leaves_the_old_folder_and_no_other(tmp_path):
    target = tmp_path / "cleaning"
    with writing(target) as folder:
        (folder / "rows").write_text("old")
    with pytest.raises(ZeroDivisionError), writing(target) as folder:
        (folder / "rows").write_text("half")
        raise ZeroDivisionError
    assert (target / "rows").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["cleaning"]


def test_what_a_killed_writer_left_is_invisible_and_swept_by_the_next(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from trainwright.core.layout import writing\n"
        "with writing(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'rows').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "cleaning")], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "cleaning").exists()
    assert len(list(tmp_path.glob(".cleaning.partial-*"))) == 1
    with writing(tmp_path / "cleaning") as folder:
        (folder / "rows").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["cleaning"]


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "pins" / "source.json"
    write_file(path, "one")
    with path.open() as reader:
        write_file(path, "two")
        assert reader.read() == "one"
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["source.json"]


CONTENT = st.dictionaries(st.sampled_from(["a", "b/c", "b/d", "é"]), st.binary(max_size=20), min_size=1)


def fill(folder: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@given(CONTENT, CONTENT)
def test_folders_have_one_digest_only_if_names_and_bytes_agree(tmp_path_factory, one, other):
    first, second = (fill(tmp_path_factory.mktemp("d"), content) for content in (one, other))
    assert (digest(first) == digest(second)) == (one == other)


def test_the_files_that_dvc_adds_for_git_change_no_digest(tmp_path):
    fill(tmp_path, {"model/x": b"1"})
    before = digest(tmp_path)
    (tmp_path / ".gitignore").write_text("/model\n")
    assert digest(tmp_path) == before


def test_a_digest_of_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        digest(tmp_path / "gone")


def test_the_root_is_found_from_inside_and_only_there(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="not inside a Trainwright project"):
        find_root(tmp_path / "a")
    fill(tmp_path, {"params.yaml": b"", "dvc.yaml": b""})
    assert find_root(tmp_path / "a" / "b") == tmp_path.resolve()
    assert find_root(tmp_path).samefile(tmp_path)


def test_a_file_that_there_is_no_room_for_is_named_and_leaves_nothing_behind(tmp_path):
    write_file(tmp_path / "source.json", "old")
    code = (
        "import pathlib, resource, sys; from trainwright.core.layout import write_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2, 2))\n"
        "try:\n    write_file(pathlib.Path(sys.argv[1]), 'newer')\n"
        "except OSError as error:\n    print(error.filename)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "source.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "source.json"), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["source.json"]
    assert (tmp_path / "source.json").read_text() == "old"
