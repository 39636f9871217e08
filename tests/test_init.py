"""`trainwright init`: what it sets, what it finds, what it refuses, and what `check` says before and after."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Toy
from fixtures.repository import git, repository, trainwright

ARE = ("--name", "Ada", "--email", "ada@example.org")


@pytest.fixture
def project(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Toy:
    return repository(toy, monkeypatch)


@pytest.fixture
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remotes") / "bare.git"
    git(folder.parent, "init", "-q", "--bare", str(folder))
    return folder


def test_one_command_makes_a_clone_publishable_and_a_second_changes_nothing(project: Toy, bare: Path) -> None:
    storage = bare.parent / "new" / "storage"
    flags = ("--git-remote", str(bare), "--dvc-remote", str(storage), *ARE)
    before = trainwright(project.root, "check").stdout.splitlines()[-1]
    missing = ("no DVC remote", "no Git remote", "Git does not know who commits here", "trainwright init")
    assert before.startswith("not publishable: ") and all(words in before for words in missing)

    said = trainwright(project.root, "init", *flags)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines() == [
        f"Git remote   set: {bare}, 0 refs there, may be pushed to",
        f"DVC remote   set: {storage}, can be written; other machines know it once .dvc/config is committed",
        "identity     set, for this clone alone: Ada <ada@example.org>",
    ]
    assert storage.is_dir() and not list(storage.iterdir())
    assert trainwright(project.root, "check").stdout.splitlines()[-1].startswith("publishable: ")

    settings = [project.read(".git/config"), project.read(".dvc/config")]
    for again in (flags, ()):
        said = trainwright(project.root, "init", *again)
        assert [line.split(":")[0].split()[-1] for line in said.stdout.splitlines()] == ["found"] * 3
        assert settings == [project.read(".git/config"), project.read(".dvc/config")]


def test_without_a_terminal_every_missing_flag_is_named_and_nothing_is_set(project: Toy, bare: Path) -> None:
    said = trainwright(project.root, "init", "--git-remote", str(bare), "--name", "Ada")
    assert said.returncode == 2
    assert [line.split("--")[1].split()[0] for line in said.stderr.splitlines()] == ["dvc-remote", "email"]
    assert git(project.root, "remote") == ""


def test_on_a_terminal_it_asks_for_what_is_missing_and_for_that_alone(project: Toy, bare: Path) -> None:
    """A pseudo-terminal stands for the person's; of the four, the name is given."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "init", "--name", "Ada"],
        cwd=project.root, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    os.write(ours, f"{bare}\n{bare.parent / 'storage'}\nada@example.org\n".encode())
    said, _ = child.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert child.returncode == 0, said
    assert "The Git remote" in said and "The DVC remote" in said and "The e-mail address" in said
    assert "The name" not in said
    assert said.endswith("identity     set, for this clone alone: Ada <ada@example.org>\n")


@pytest.mark.parametrize("flag", ["--git-remote", "--dvc-remote"])
@pytest.mark.parametrize(
    "url",
    [
        "https://ada:s3cret-canary@example.org/models",
        "https://s3cret-canary@example.org/models",
        "https://example.org/models?access_token=s3cret-canary",
        "gs://bucket/models?token=s3cret-canary",
        "https://example.org/models#s3cret-canary",
    ],
)
def test_a_url_with_a_password_in_it_is_refused_and_written_nowhere(
    project: Toy, bare: Path, flag: str, url: str
) -> None:
    wishes = {"--git-remote": str(bare), "--dvc-remote": str(bare.parent / "storage")}
    wishes[flag] = url
    said = trainwright(project.root, "init", *(part for pair in wishes.items() for part in pair), *ARE)
    assert said.returncode == 2
    assert flag in said.stderr and "has a user name, password or token in it" in said.stderr
    told = subprocess.run(["grep", "-r", "s3cret-canary", str(project.root)], capture_output=True, text=True)
    assert told.stdout == "" and "s3cret-canary" not in said.stdout + said.stderr


def test_a_remote_that_is_not_there_or_cannot_be_written_is_not_set(project: Toy, bare: Path) -> None:
    storage = bare.parent / "storage"
    kept = ("--dvc-remote", str(storage), *ARE)
    said = trainwright(project.root, "init", "--git-remote", str(bare.parent / "none.git"), *kept)
    assert said.returncode == 3 and "none.git" in said.stderr
    assert git(project.root, "remote") == ""
    storage.write_text("a file where the folder should be")
    said = trainwright(project.root, "init", "--git-remote", str(bare), *kept)
    assert said.returncode == 3 and "cannot be written" in said.stderr and "Traceback" not in said.stderr
    assert "storage" not in project.read(".dvc/config")


def test_a_relative_folder_is_meant_from_where_one_stands(project: Toy, bare: Path) -> None:
    below = project.root / "notes"
    below.mkdir()
    said = trainwright(below, "init", "--git-remote", os.path.relpath(bare, below), "--dvc-remote", "kept", *ARE)
    assert said.returncode == 0, said.stderr
    assert git(project.root, "remote", "get-url", "origin") == str(bare)
    assert (below / "kept").is_dir()


def test_check_names_a_source_and_a_base_model_that_are_on_this_machine_alone(project: Toy) -> None:
    project.write("source.json", "{}")
    project.write("base/config.json", "{}")
    said = trainwright(project.root, "check").stdout
    assert "warning      a source on this machine alone: source.json is not in Git" in said
    assert "warning      a base model on this machine alone: base is not in Git" in said
    git(project.root, "add", "source.json", "base")
    assert "on this machine alone" not in trainwright(project.root, "check").stdout


def test_the_remote_of_a_clone_stays_as_upstream_and_is_merged_as_documented(
    project: Toy, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = bare.parent / "clone"
    git(bare.parent, "clone", "-q", str(project.root), str(clone))
    said = trainwright(clone, "init", "--git-remote", str(bare), "--dvc-remote", str(bare.parent / "storage"), *ARE)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[0].endswith("; the one before is `upstream` now")
    assert git(clone, "remote", "get-url", "upstream") == str(project.root)
    assert git(clone, "remote", "get-url", "origin") == str(bare)
    assert git(clone, "config", "branch.main.remote") == "origin"
    again = trainwright(clone, "init", "--git-remote", f"{bare}/")
    assert again.returncode == 0 and git(clone, "remote", "get-url", "upstream") == str(project.root)

    (clone / "params.yaml").write_text(project.read("params.yaml") + "# ours\n")
    git(clone, "commit", "-qam", "Our pipeline")
    project.write("trainwright/new.py", "")
    git(project.root, "add", ".")
    git(project.root, "commit", "-qm", "A later version")
    block = (ROOT / "docs" / "upgrading.md").read_text().split("```")[1]
    for line in [line for line in block.splitlines() if line.startswith("git ")]:
        git(clone, *line.split()[1:])
    assert (clone / "trainwright" / "new.py").exists() and "# ours" in (clone / "params.yaml").read_text()
    assert git(bare, "rev-parse", "main") == git(clone, "rev-parse", "HEAD")
