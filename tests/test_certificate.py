"""A stage opens its input only on a certificate and a result that are for these bytes, under the present promises."""

import json
import os
from pathlib import Path

import pytest

from trainwright.core import certificate, copies, layout
from trainwright.core.errors import RefusedError
from trainwright.core.layout import Layout
from trainwright.core.params import Pipeline
from trainwright.core.process import Run
from trainwright.core.yaml_file import read_yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture
def where(tmp_path: Path) -> Layout:
    found = Layout(tmp_path, "sample-qa")
    found.stage("cleaning").mkdir(parents=True)
    (found.stage("cleaning") / "rows.parquet").write_bytes(b"rows")
    certify(found, section())
    return found


def section(**gates: object) -> Pipeline:
    """The repository's own pipeline, with some gates' sections replaced."""
    data = read_yaml(ROOT / "params.yaml")["pipelines"]["sample-qa"]
    return Pipeline.model_validate(data | {"gates": data["gates"] | gates})


def certify(where: Layout, pipeline: Pipeline) -> None:
    checked = layout.digest(where.stage("cleaning"))
    head = {"pipeline": where.pipeline, "gate": "cleaning", "digest": checked}
    suite = certificate.suite_digest(pipeline, "cleaning")
    certificate.certify(where, "cleaning", checked, head | {"suite": suite, "passed": True, "failed": []})


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_bytes_that_were_checked_open_the_door(where: Layout) -> None:
    certificate.check(where, section(), "cleaning")


def test_a_certificate_holds_pipeline_gate_and_digest_and_no_time(where: Layout) -> None:
    before = where.certificate("cleaning").read_bytes()
    assert set(json.loads(before)) == {"pipeline", "gate", "digest"}
    certify(where, section())
    assert where.certificate("cleaning").read_bytes() == before


def test_a_changed_byte_shuts_it(where: Layout) -> None:
    (where.stage("cleaning") / "rows.parquet").write_bytes(b"rowz")
    with pytest.raises(RefusedError, match="not the bytes that the cleaning gate checked"):
        certificate.check(where, section(), "cleaning")


def test_a_file_more_shuts_it(where: Layout) -> None:
    (where.stage("cleaning") / "more.parquet").write_bytes(b"")
    with pytest.raises(RefusedError, match="not the bytes"):
        certificate.check(where, section(), "cleaning")


def test_missing_data_shut_it_and_say_what_makes_them(where: Layout) -> None:
    (where.stage("cleaning") / "rows.parquet").unlink()
    where.stage("cleaning").rmdir()
    with pytest.raises(RefusedError, match="dvc repro cleaning@sample-qa"):
        certificate.check(where, section(), "cleaning")


def test_a_missing_certificate_shuts_it_and_names_the_gate_to_run(where: Layout) -> None:
    where.certificate("cleaning").unlink()
    with pytest.raises(RefusedError, match="dvc repro cleaning_gate@sample-qa"):
        certificate.check(where, section(), "cleaning")


def test_a_missing_result_shuts_it(where: Layout) -> None:
    where.gate_result("cleaning").unlink()
    with pytest.raises(RefusedError, match=r"no result\.json"):
        certificate.check(where, section(), "cleaning")


def test_a_tightened_promise_shuts_it_until_the_gate_has_run_again(where: Layout) -> None:
    tightened = section(cleaning={"max_dropped_share": 0.01})
    with pytest.raises(RefusedError, match="has not run since its promises changed"):
        certificate.check(where, tightened, "cleaning")
    certify(where, tightened)
    certificate.check(where, tightened, "cleaning")


def test_another_gates_promises_do_not_shut_it(where: Layout) -> None:
    certificate.check(where, section(training={"min_loss_drop": 1.0}), "cleaning")


def test_a_tombstone_shuts_it_and_names_the_broken_promises(where: Layout) -> None:
    result = json.loads(where.gate_result("cleaning").read_text()) | {"passed": False, "failed": ["ids_unique"]}
    certificate.refuse(where, "cleaning", result)
    with pytest.raises(RefusedError, match="ids_unique"):
        certificate.check(where, section(), "cleaning")


@pytest.mark.parametrize(
    "change_of",
    [{"passed": False}, {"passed": "yes"}, {"passed": 1}, {"digest": "0"}, {"gate": "ingestion"}, {"suite": ""}],
)
def test_a_certificate_whose_result_says_otherwise_shuts_it(where: Layout, change_of: dict[str, object]) -> None:
    change(where.gate_result("cleaning"), **change_of)
    with pytest.raises(RefusedError):
        certificate.check(where, section(), "cleaning")


@pytest.mark.parametrize(
    "change_of", [{"digest": "0"}, {"gate": "ingestion"}, {"pipeline": "other"}, {"passed": True}, {"REFUSED": None}]
)
def test_a_certificate_that_says_more_less_or_otherwise_shuts_it(where: Layout, change_of: dict[str, object]) -> None:
    change(where.certificate("cleaning"), **change_of)
    with pytest.raises(RefusedError):
        certificate.check(where, section(), "cleaning")


@pytest.mark.parametrize("content", ["", "{", "[]", '"passed"', "\ufeff{}", "[" * 100_000])
def test_a_certificate_that_no_gate_wrote_shuts_it_without_a_traceback(where: Layout, content: str) -> None:
    where.certificate("cleaning").write_text(content)
    with pytest.raises(RefusedError):
        certificate.check(where, section(), "cleaning")


def test_a_pipe_in_place_of_a_result_is_refused_without_waiting(where: Layout) -> None:
    where.gate_result("cleaning").unlink()
    os.mkfifo(where.gate_result("cleaning"))
    with pytest.raises(RefusedError, match=r"result\.json cannot be read"):
        certificate.check(where, section(), "cleaning")


def test_a_stage_reads_the_bytes_that_were_checked(where: Layout) -> None:
    rows = where.stage("cleaning") / "rows.parquet"
    folder = Run(where, section()).open("cleaning")
    rows.write_bytes(b"evil")  # in place: a hard link would show it
    assert (folder / "rows.parquet").read_bytes() == b"rows"
    with pytest.raises(RefusedError, match="not the bytes that the cleaning gate checked"):
        Run(where, section()).open("cleaning")


def test_bytes_swapped_before_they_are_copied_are_refused(where: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has other bytes there while they are copied, and the right ones back before they are digested."""
    rows, copy = where.stage("cleaning") / "rows.parquet", copies.copy_folder

    def swapped(source: Path, target: Path) -> None:
        rows.write_bytes(b"evil")
        copy(source, target)
        rows.write_bytes(b"rows")

    monkeypatch.setattr(certificate, "copy_folder", swapped)
    with pytest.raises(RefusedError, match="not the bytes that the cleaning gate checked"):
        Run(where, section()).open("cleaning")


@pytest.mark.parametrize("kind", ["link", "dangling link", "link to a folder", "pipe", "the folder itself"])
def test_what_is_no_plain_file_is_refused(where: Layout, tmp_path: Path, kind: str) -> None:
    folder, elsewhere = where.stage("cleaning"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "more").write_text("bytes")
    if kind == "pipe":
        os.mkfifo(folder / "more")
    elif kind == "the folder itself":
        folder.rename(tmp_path / "moved")
        folder.symlink_to(tmp_path / "moved")
    else:
        target = {"link": elsewhere / "more", "dangling link": "gone", "link to a folder": elsewhere}[kind]
        (folder / "more").symlink_to(target)
    with pytest.raises(RefusedError, match=r"is (a link|no plain file)\. The outputs of stages must be plain files"):
        certificate.check(where, section(), "cleaning")
    with pytest.raises(RefusedError, match="must be plain files"):
        Run(where, section()).open("cleaning")


def test_a_private_folder_goes_with_its_owner_and_stays_while_that_lives(tmp_path: Path) -> None:
    (tmp_path / "left by a killed process").mkdir()
    with copies.private_folder(tmp_path) as first, copies.private_folder(tmp_path) as second:
        assert sorted(p for p in tmp_path.iterdir() if p.is_dir()) == sorted([first, second])
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []
