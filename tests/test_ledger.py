"""The ledger: entries are kept, in order, from many at once, with the remote away, and after a kill."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from flows import git, ledger


def test_a_decision_is_read_back_newest_first_and_by_pipeline(remote: Path, clone: Path) -> None:
    for number in range(3):
        ledger.record(clone, "one", {"decision": "nothing to do", "number": number})
    ledger.record(clone, "two", {"decision": "published", "number": 9})
    assert [entry["number"] for entry in ledger.entries(clone, "one", 2)] == [2, 1]
    last = ledger.last(clone, "two")
    assert last is not None and last["decision"] == "published" and last["pipeline"] == "two" and last["time"]
    assert ledger.last(clone, "none") is None
    assert git.git(remote, "rev-list", "--count", "ledger") == "4"


def test_another_clone_reads_what_was_decided_here_and_still_does_when_the_remote_is_away(
    remote: Path, clone: Path, other: Path
) -> None:
    ledger.record(clone, "one", {"number": 1})
    assert ledger.sync(other)
    remote.rename(remote.with_name("away"))
    assert not ledger.sync(other)
    assert [entry["number"] for entry in ledger.entries(other, "one")] == [1]


def test_decisions_wait_here_while_the_remote_is_away_and_are_brought_there_in_order(
    remote: Path, clone: Path, other: Path
) -> None:
    ledger.record(clone, "one", {"number": 1})
    remote.rename(remote.with_name("away"))
    ledger.record(clone, "one", {"number": 2})
    ledger.record(clone, "one", {"number": 3})
    assert [entry["number"] for entry in ledger.entries(clone, "one")] == [3, 2, 1]
    remote.with_name("away").rename(remote)
    ledger.record(clone, "one", {"number": 4})
    assert ledger.sync(other)
    for place in (clone, other):
        assert [entry["number"] for entry in ledger.entries(place, "one")] == [4, 3, 2, 1]
    assert not list((clone / ".trainwright" / "ledger" / "pending").rglob("*.json"))


def test_an_entry_that_is_brought_there_while_it_is_read_is_read_from_there(
    remote: Path, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.rename(remote.with_name("away"))
    ledger.record(clone, "one", {"number": 1})
    remote.with_name("away").rename(remote)
    waiting = ledger._waiting

    def brought_meanwhile(root: Path, name: str) -> list[Path]:
        found = waiting(root, name)
        monkeypatch.undo()
        assert found and ledger.sync(root)
        return found

    monkeypatch.setattr(ledger, "_waiting", brought_meanwhile)
    assert [entry["number"] for entry in ledger.entries(clone, "one")] == [1]


def test_a_ledger_that_somebody_took_away_comes_back_with_all_that_is_known_of_it(
    remote: Path, clone: Path, other: Path
) -> None:
    for number in range(2):
        ledger.record(clone, "one", {"number": number})
    git.git(remote, "branch", "--delete", "--force", "ledger")
    ledger.record(clone, "one", {"number": 2})
    assert ledger.sync(other)
    assert [entry["number"] for entry in ledger.entries(other, "one")] == [2, 1, 0]


def test_a_lock_that_a_killed_git_left_at_the_remote_keeps_the_entry_here(
    remote: Path, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.record(clone, "one", {"number": 0})
    monkeypatch.setattr(git, "PATIENCE", 1.0)
    lock = remote / "refs/heads/ledger.lock"
    lock.touch()
    ledger.record(clone, "one", {"number": 1})
    assert [entry["number"] for entry in ledger.entries(clone, "one")] == [1, 0]
    lock.unlink()
    assert ledger.sync(clone)
    assert git.git(remote, "rev-list", "--count", "ledger") == "2"


def test_a_remote_that_never_answers_is_left_and_the_entry_waits_here(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git.git(clone, "config", "protocol.ext.allow", "always")
    git.git(clone, "remote", "set-url", "origin", "ext::sleep 612")
    monkeypatch.setattr(git, "DEADLINE", 1.0)
    ledger.record(clone, "one", {"number": 0})
    assert [entry["number"] for entry in ledger.entries(clone, "one")] == [0]
    started = [found for found in psutil.process_iter(["cmdline"]) if found.info["cmdline"] == ["sleep", "612"]]
    assert not psutil.wait_procs(started, timeout=10)[1]


def test_decisions_of_many_at_once_from_two_clones_are_all_kept(remote: Path, clone: Path, other: Path) -> None:
    def decide(place: Path, number: int) -> None:
        ledger.record(place, f"p{number % 4}", {"number": number})

    threads = [threading.Thread(target=decide, args=((clone, other)[n % 2], n)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.sync(clone)
    kept = [entry["number"] for name in range(4) for entry in ledger.entries(clone, f"p{name}")]
    assert sorted(kept) == list(range(20))
    assert git.git(remote, "rev-list", "--count", "ledger") == "20"  # each in a commit on the one before


def test_a_process_killed_between_the_push_and_its_tidying_up_doubles_nothing(remote: Path, clone: Path) -> None:
    code = """
import os, pathlib, signal
from flows import ledger
pathlib.Path.unlink = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
ledger.record(pathlib.Path.cwd(), "one", {"number": 1})
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, check=False)
    assert ended.returncode == -9
    assert len(ledger.entries(clone, "one")) == 1
    assert ledger.sync(clone)
    assert [entry["number"] for entry in ledger.entries(clone, "one")] == [1]
    assert git.git(remote, "rev-list", "--count", "ledger") == "1"


def test_without_a_remote_decisions_are_kept_here(tmp_path: Path, clone: Path) -> None:
    git.git(clone, "remote", "remove", "origin")
    ledger.record(clone, "one", {"number": 1})
    assert ledger.last(clone, "one") is not None
    assert not ledger.sync(clone)


def test_the_ledger_is_plain_json_on_a_branch_of_its_own(remote: Path, clone: Path) -> None:
    ledger.record(clone, "one", {"why": "¿qué? 你好"})
    (path,) = git.files(remote, "ledger", "decisions/one")
    assert json.loads(git.read(remote, "ledger", path) or b"")["why"] == "¿qué? 你好"
    assert git.changed(clone) == []


@pytest.fixture
def other(remote: Path, tmp_path: Path, clone: Path) -> Path:
    place = tmp_path / "other"
    git.git(tmp_path, "clone", "--quiet", str(remote), str(place))
    for key, value in (("user.name", "Other"), ("user.email", "other@example.org")):
        git.git(place, "config", key, value)
    return place


def test_an_entry_that_cannot_be_read_is_left_out_and_named(remote: Path, clone: Path) -> None:
    ledger.record(clone, "one", {"number": 1})
    for number, content in enumerate((b"{", b"[" * 100_000, b"3", b"\xff", b"[]")):
        head = git.git(clone, "rev-parse", "origin/ledger")
        path = (
            f"decisions/one/20991231T00000{number}.000000Z-by hand\n.json"
            if number == 4
            else f"decisions/one/{number}.json"
        )
        commit = git.make_commit(clone, head, {path: content}, [head], "By hand")
        git.push(clone, {ledger.BRANCH: (commit, head)})
        ledger.sync(clone)
    assert [entry["number"] for entry in ledger.entries(clone, "one")] == [1]
    last = ledger.last(clone, "one")
    assert last is not None and last["number"] == 1
    assert len(ledger.unreadable(clone, "one")) == 5 and ledger.unreadable(clone, "two") == []
    assert ledger.unreadable(clone, "one")[-1] == "ledger: decisions/one/0.json is no JSON object"
