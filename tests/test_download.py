"""`trainwright models get`: the model of a version, whole and verified, from the remote into a new folder."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import Toy
from fixtures.repository import git, pipelines, repository, trainwright

from flows import dvc, registry

MODEL = "data/one/report/model"
STAGE = {
    "cmd": f"mkdir -p {MODEL}/sub; cp in.txt {MODEL}/config.json; cp in.txt {MODEL}/sub/x; cp in.txt {MODEL}/../p",
    "deps": ["in.txt"],
    "outs": ["data/one/report"],
}


def store(project: Toy) -> Path:
    return project.root.parent / f"{project.root.name}-store"


@pytest.fixture
def project(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """Two published versions of `one`, the first of them in use; what they are made of is on the remote alone."""
    pipelines(toy, "one")
    toy.stages(report__one=STAGE)
    toy.write("in.txt", "start")
    repository(toy, monkeypatch)
    bare = toy.root.parent / f"{toy.root.name}-bare.git"
    git(toy.root, "init", "-q", "--bare", str(bare))
    git(toy.root, "remote", "add", "origin", str(bare))
    git(toy.root, "config", "user.name", "T")
    git(toy.root, "config", "user.email", "t@example.org")
    dvc.Project(toy.root).set_remote(str(store(toy)))
    for number in (0, 1):
        toy.write("in.txt", f"version {number}")
        dvc.Project(toy.root).reproduce("report@one", lambda _: None, 600)
        toy.write("data/one/published/version.json", json.dumps({"version": f"v1.{number}.0"}))
        git(toy.root, "add", ".")
        git(toy.root, "commit", "-q", "-m", f"Version {number}")
        git(toy.root, "tag", "-a", f"one@v1.{number}.0", "-m", "published")
    ref, tag = registry.use_tag(toy.root, "one", git(toy.root, "rev-parse", "one@v1.0.0^{}"), "publish", "")
    git(toy.root, "update-ref", ref, tag)
    shutil.move(toy.root / ".dvc" / "cache" / "files", store(toy) / "files")
    git(toy.root, "push", "-q", "--tags", "origin", "HEAD:refs/heads/published")
    return toy


def spoil(place: Path) -> None:
    """Change what version 0 is made of in a cache or a remote."""
    for path in (place / "files" / "md5").rglob("*"):
        if path.is_file() and path.read_text() == "version 0":
            path.chmod(0o644)
            path.write_text("version X")


def test_a_model_comes_from_the_remote_into_a_new_folder_as_it_was_published_or_not_at_all(
    project: Toy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("out")
    before = project.read(f"{MODEL}/config.json")
    (out / "empty").mkdir()
    for wanted, folder, content in (("one", "new/one", "0"), ("one@v1.1.0", "empty", "1")):
        said = trainwright(project.root, "models", "get", wanted, str(out / folder))
        assert said.returncode == 0, said.stderr
        assert f"is in {out / folder}: 2 files" in said.stdout
        for name in ("config.json", "sub/x"):
            assert (out / folder / name).read_text() == f"version {content}"
        assert (out / folder).stat().st_mode & 0o777 == 0o755
    assert project.read(f"{MODEL}/config.json") == before
    assert len(git(project.root, "worktree", "list").splitlines()) == 1

    spoil(project.root / ".dvc" / "cache")
    said = trainwright(project.root, "models", "get", "one@1.0.0", str(out / "again"))
    assert (said.returncode, (out / "again" / "config.json").read_text()) == (0, "version 0"), said.stderr

    spoil(project.root / ".dvc" / "cache")
    spoil(store(project))
    for wanted, folder, code, words in (
        ("one", "none", 3, "not as they were made"),
        ("one", "again", 2, "the folder is not empty"),
        ("two", "none", 2, "no version of it is published"),
        ("one@v9.0.0", "none", 2, "there is no such version"),
        ("one@", "none", 2, "no version after @"),
    ):
        said = trainwright(project.root, "models", "get", wanted, str(out / folder))
        assert (said.returncode, words in said.stderr) == (code, True), said.stderr
    assert {path.name for path in out.iterdir()} == {"new", "empty", "again"}
