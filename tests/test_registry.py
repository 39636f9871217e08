"""Versions as tags: listed, promoted and rolled back in one push, read by GTO, by two people at once."""

import json
import logging.config
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flows import git, ledger, registry
from trainwright.core.errors import InputError, MachineryError, RefusedError

RECORD = "data/sample-qa/published/version.json"


def publish(root: Path, version: str, name: str = "sample-qa", **more: Any) -> str:
    """A version as a publication leaves it: a commit with its record, and two tags."""
    scores = {"test": {"f1": {"value": 70.0, "low": 68.0, "high": 72.0}}}
    content = json.dumps({"version": version, "commit": git.head(root), "scores": scores, **more}).encode()
    return release(root, version, content, name)


def release(root: Path, version: str, content: bytes, name: str = "sample-qa") -> str:
    """A version with this record, whatever it holds."""
    head = git.head(root)
    commit = git.make_commit(root, head, {RECORD.replace("sample-qa", name): content}, [head], version)
    named = registry.version_tag(root, name, version, commit, "{}")
    used = registry.use_tag(root, name, commit, "publish", "")
    git.push(root, {ref: (tag, None) for ref, tag in (named, used)})
    registry.fetch(root, name)
    return commit


def used(root: Path, name: str = "sample-qa") -> str | None:
    found = registry.in_use(root, name)
    return found and found.version


def test_versions_come_in_the_order_of_their_numbers_and_the_newest_tag_says_which_is_in_use(clone: Path) -> None:
    for version in ("v1.0.0", "v1.2.0", "v1.10.0"):
        publish(clone, version)
    publish(clone, "v1.0.0", "sample-qa-two")
    found = registry.versions(clone, "sample-qa")
    assert [version.version for version in found] == ["v1.0.0", "v1.2.0", "v1.10.0"]
    assert [version.in_use for version in found] == [False, False, True]
    assert found[2].uses == (3,)
    assert registry.known(clone) == ["sample-qa", "sample-qa-two"]


def test_gto_reads_what_is_in_use(clone: Path) -> None:
    publish(clone, "v1.0.0")
    publish(clone, "v1.1.0")
    registry.rollback(clone, "sample-qa")
    shown = subprocess.run(
        [sys.executable, "-m", "gto.cli", "show", "sample-qa#prod", "--json"], cwd=clone, capture_output=True, text=True
    )
    if shown.returncode:
        pytest.fail(shown.stderr)
    assert json.loads(shown.stdout)[0]["version"] == "v1.0.0"


def test_a_version_whose_data_are_removed_is_one_no_longer_for_gto_and_still_listed_here(clone: Path) -> None:
    for version in ("v1.0.0", "v1.1.0", "v1.2.0"):
        publish(clone, version)
    registry.remove(clone, registry.versions(clone, "sample-qa")[:2])
    registry.remove(clone, registry.versions(clone, "sample-qa")[:2])  # again, as a clean that was cut short does
    shown = subprocess.run(
        [sys.executable, "-m", "gto.cli", "show", "sample-qa", "--json"], cwd=clone, capture_output=True, text=True
    )
    if shown.returncode:
        pytest.fail(shown.stderr)
    assert [row["version"] for row in json.loads(shown.stdout)] == ["v1.2.0"]
    rows = registry.listing(clone, "sample-qa", {})
    assert [(row["version"], row["state"]) for row in rows] == [
        ("v1.2.0", "in use"), ("v1.1.0", "data removed"), ("v1.0.0", "data removed"),
    ]  # fmt: skip
    assert registry.known(clone) == ["sample-qa"]


def test_a_version_whose_data_are_removed_comes_in_use_on_no_clone(clone: Path, remote: Path, tmp_path: Path) -> None:
    for version in ("v1.0.0", "v1.1.0", "v1.2.0", "v1.3.0"):
        publish(clone, version)
    other = tmp_path / "other"
    git.git(tmp_path, "clone", "--quiet", str(remote), str(other))
    registry.remove(clone, registry.versions(clone, "sample-qa")[1:3])
    for refused in (
        lambda: registry.rollback(other, "sample-qa"),
        lambda: registry.promote(other, "sample-qa", "1.1.0"),
    ):
        with pytest.raises(InputError) as error:
            refused()
        assert "its data are removed" in str(error.value) and "`trainwright models promote sample-qa@…`" in str(
            error.value
        )
        assert str(error.value).rstrip(".").endswith("that has its data: v1.0.0")
    assert used(other) == "v1.3.0"
    registry.promote(other, "sample-qa", "v1.0.0")
    assert used(other) == "v1.0.0"


@pytest.mark.parametrize(
    "tag",
    [
        "a@v1.0.0",
        "a-b@v1.10.2-rc.1",
        "a@v1.0",
        "a@1.0.0",
        "a@v01.0.0",
        "a@v1.0.0!",
        "a@v1.0.0!#3",
        "a@v1.0!",
        "a@v1.0.0!#",
        "a@v1.0.0!!",
        "a@deprecated",
        "a#prod#3",
        "a",
        "@",
    ],
)
def test_a_tag_is_a_version_or_takes_one_out_where_gto_takes_it_for_that(tag: str) -> None:
    from gto.constants import Action
    from gto.tag import parse_name

    read = parse_name(tag, raise_on_fail=False)
    assert registry._version_of(tag) == (read["version"] if read.get("action") == Action.REGISTER else "")
    assert registry._removed_by(tag) == (read["version"] if read.get("action") == Action.DEREGISTER else "")


def test_a_flow_runs_logging_is_left_alone(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GTO's import sets up logging anew, for which a run waited for ever where it was about to give a sign of life."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "gto"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(logging.config, "dictConfig", lambda _: pytest.fail("logging is set up anew"))
    publish(clone, "v1.0.0")
    publish(clone, "v1.1.0")
    registry.rollback(clone, "sample-qa")
    registry.promote(clone, "sample-qa", "v1.1.0")
    assert used(clone) == "v1.1.0" and registry.known(clone) == ["sample-qa"]


def test_a_promotion_and_a_rollback_move_one_tag_and_no_byte(clone: Path, remote: Path) -> None:
    first = publish(clone, "v1.0.0")
    publish(clone, "v1.1.0")
    before = git.git(remote, "rev-list", "--all", "--count")
    words = registry.rollback(clone, "sample-qa", "wrong in the shop")
    assert words == "sample-qa@v1.0.0 is in use in place of v1.1.0"
    assert git.git(remote, "rev-parse", "sample-qa#prod#3^{commit}") == first
    assert git.git(remote, "rev-list", "--all", "--count", "--not", "ledger") in before
    assert registry.promote(clone, "sample-qa", "1.1.0") == "sample-qa@v1.1.0 is in use in place of v1.0.0"
    assert registry.promote(clone, "sample-qa", "v1.1.0") == "sample-qa@v1.1.0 is in use already"
    told = ledger.entries(clone, "sample-qa")
    assert [entry["decision"] for entry in told] == ["promoted", "rolled back"]
    assert told[1]["why"] == "wrong in the shop"


def test_a_second_rollback_goes_further_back_and_never_to_what_was_taken_out(clone: Path) -> None:
    for version in ("v1.0.0", "v1.1.0", "v1.2.0"):
        publish(clone, version)
    registry.rollback(clone, "sample-qa")
    assert used(clone) == "v1.1.0"
    registry.rollback(clone, "sample-qa")
    assert used(clone) == "v1.0.0"
    with pytest.raises(InputError, match=r"v1\.0\.0 is the first that was in use"):
        registry.rollback(clone, "sample-qa")


def test_a_rollback_takes_a_promotion_back(clone: Path) -> None:
    for version in ("v1.0.0", "v1.1.0", "v1.2.0"):
        publish(clone, version)
    registry.promote(clone, "sample-qa", "v1.0.0")
    registry.rollback(clone, "sample-qa")
    assert used(clone) == "v1.2.0"


@pytest.mark.parametrize(
    "name, version, says",
    [("sample-q", "v1.0.0", "Did you mean `sample-qa`"), ("sample-qa", "v1.0.1", "Did you mean `v1.0.0`")],
)
def test_a_wrong_name_or_version_is_named_with_the_nearest_right_one(
    clone: Path, name: str, version: str, says: str
) -> None:
    publish(clone, "v1.0.0")
    with pytest.raises(InputError, match=says):
        registry.promote(clone, name, version)


def test_a_pipeline_without_versions_says_how_to_publish_one(clone: Path) -> None:
    for act in (lambda: registry.rollback(clone, "sample-qa"), lambda: registry.listing(clone, "sample-qa", {})):
        with pytest.raises(InputError, match="no version of it is published"):
            act()


def test_of_two_promotions_at_once_both_are_kept_and_one_is_in_use(clone: Path) -> None:
    for version in ("v1.0.0", "v1.1.0", "v1.2.0"):
        publish(clone, version)
    said: list[str] = []
    threads = [
        threading.Thread(target=lambda v=version: said.append(registry.promote(clone, "sample-qa", v)))
        for version in ("v1.0.0", "v1.1.0")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    registry.fetch(clone)
    assert [use.number for use in registry.uses(clone, "sample-qa")] == [1, 2, 3, 4, 5]
    assert used(clone) in ("v1.0.0", "v1.1.0")
    assert any(words.startswith(f"sample-qa@{used(clone)} is in use in place of") for words in said)


def test_a_rollback_that_another_change_overtakes_changes_nothing_and_says_so(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("v1.0.0", "v1.1.0"):
        publish(clone, version)
    fetch = registry.fetch

    def overtaken(root: Path, name: str | None = None) -> None:
        fetch(root, name)
        monkeypatch.setattr(registry, "fetch", fetch)
        ref, tag = registry.use_tag(root, "sample-qa", registry.versions(root, "sample-qa")[0].commit, "promote", "")
        git.push(root, {ref: (tag, None)})

    monkeypatch.setattr(registry, "fetch", overtaken)
    with pytest.raises(RefusedError, match="at the same moment"):
        registry.rollback(clone, "sample-qa")
    registry.fetch(clone)
    assert used(clone) == "v1.0.0" and len(registry.uses(clone, "sample-qa")) == 3


def test_with_the_remote_away_nothing_is_promoted_and_the_listing_is_the_last_known(clone: Path, remote: Path) -> None:
    publish(clone, "v1.0.0")
    publish(clone, "v1.1.0")
    remote.rename(remote.with_name("away"))
    with pytest.raises(MachineryError):
        registry.promote(clone, "sample-qa", "v1.0.0")
    assert used(clone) == "v1.1.0"
    for name in ("params.yaml", "dvc.yaml"):
        (clone / name).write_text("{}")
    listed = cli(clone, "models", "list", "sample-qa", "--json")
    assert "As it was when the remote was last reached" in listed.stderr
    assert [row["state"] for row in json.loads(listed.stdout)] == ["in use", "was in use"]


def test_the_command_line_lists_promotes_and_rolls_back(clone: Path) -> None:
    publish(clone, "v1.0.0")
    publish(clone, "v1.1.0")
    for name in ("params.yaml", "dvc.yaml"):
        (clone / name).write_text("{}")
    begun = time.monotonic()
    assert cli(clone, "models", "rollback", "sample-qa", "--why", "slow").stdout.startswith("sample-qa@v1.0.0 is in")
    assert time.monotonic() - begun < 60  # a hang, not a speed
    heading, first, second = cli(clone, "models", "list").stdout.splitlines()
    assert heading.split() == ["model", "published", "score", "on", "test", "rows", "commit"]
    assert first.startswith("sample-qa@v1.1.0") and "was in use" in first and "F1 70.0 (68.0 to 72.0)" in first
    assert second.startswith("sample-qa@v1.0.0") and "  in use" in second
    wrong = cli(clone, "models", "promote", "sample-qa")
    assert wrong.returncode == 2 and "Known here: v1.0.0, v1.1.0" in wrong.stderr


def test_scores_are_listed_on_the_rows_that_they_were_compared_on(clone: Path) -> None:
    """A score on other test rows is no better for being higher, and says whose rows they are."""
    publish(clone, "v1.0.0", scores=shown(38.6), frozen={"line": 1, "values": {"f1": 38.6}})
    publish(clone, "v1.1.0", scores=shown(43.3), frozen={"line": 1, "values": {"f1": 36.4}})
    publish(clone, "v1.2.0", scores=shown(44.4), frozen={"line": 2, "values": {"f1": 44.4}})
    publish(clone, "v1.3.0", scores=shown(50.0))
    publish(
        clone, "v1.4.0", scores={"test": {"f1": {"value": [], "low": 1, "high": 2}}}, frozen={"line": [], "values": 3}
    )
    rows = registry.listing(clone, None, {})
    cells = [line.split("  ") for line in registry.lines(rows)[1:]]
    told = [
        " ".join(cell.strip() for cell in line if "F1" in cell or "frozen" in cell or "own" in cell) for line in cells
    ]
    assert told == [
        "none known",
        "F1 50.0 (49.0 to 51.0) its own",
        "F1 44.4 frozen, set 2",
        "F1 36.4 frozen, set 1",
        "F1 38.6 frozen, set 1",
    ]
    assert [row["frozen"]["test_set"] for row in rows] == [None, None, 2, 1, 1]
    assert rows[3]["scores"]["f1"]["value"] == 43.3 and rows[3]["frozen"]["scores"] == {"f1": 36.4}


def shown(value: float) -> dict[str, Any]:
    return {"test": {"f1": {"value": value, "low": value - 1, "high": value + 1}}}


BAD_RECORDS = {
    "no record": None,
    "no JSON": b"{",
    "nested too deeply": b"[" * 100_000,
    "a list": b"[]",
    "another version's": b'{"version": "v1.0.0"}',
    "no text": b"\xff\xfe\xfd",
}


@pytest.mark.parametrize("content", BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_a_tag_whose_commit_is_no_publication_of_it_is_no_version(
    clone: Path, remote: Path, content: bytes | None
) -> None:
    publish(clone, "v1.0.0")
    publish(clone, "v1.0.0", "other")
    if content is None:
        git.push(clone, {"refs/tags/sample-qa@v1.1.0": (git.head(clone), None)})
    else:
        release(clone, "v1.1.0", content)
        git.git(clone, "push", "-q", "origin", ":refs/tags/sample-qa#prod#2")
        git.git(clone, "tag", "-d", "sample-qa#prod#2")
    before = git.git(remote, "for-each-ref")
    with pytest.raises(InputError, match="it is no version: its"):
        registry.promote(clone, "sample-qa", "v1.1.0")
    assert git.git(remote, "for-each-ref") == before
    assert used(clone) == "v1.0.0" and registry.known(clone) == ["other", "sample-qa"]
    assert [row["version"] for row in registry.listing(clone, None, {})] == ["v1.0.0", "v1.0.0"]
    (words,) = registry.unsound(clone)
    assert words.startswith("sample-qa@v1.1.0 is left out: its")
    assert registry.following(clone, "sample-qa", "minor") == "v1.2.0"  # the tag's name is taken
    assert "sample-qa@v1.1.0" not in registry.seen(clone, "sample-qa")
    registry.require_sound_use(clone, "sample-qa")


@pytest.mark.parametrize("target", ["HEAD^{tree}", "HEAD:.gitignore"])
def test_tags_of_what_is_no_commit_are_named_and_stop_nothing(clone: Path, target: str) -> None:
    publish(clone, "v1.0.0")
    for number, how in enumerate(([], ["-a", "-m", "by hand"])):
        git.git(clone, "tag", *how, f"sample-qa@v2.{number}.0", target)
        git.git(clone, "tag", *how, f"sample-qa#prod#{number + 5}", target)
    assert [version.version for version in registry.versions(clone, "sample-qa")] == ["v1.0.0"]
    assert len(registry.unsound(clone)) == 4
    assert [row["state"] for row in registry.listing(clone, "sample-qa", {})] == ["was in use"]


def test_with_the_version_in_use_unknown_nothing_goes_on_until_one_is_promoted(clone: Path) -> None:
    publish(clone, "v1.0.0")
    release(clone, "v1.1.0", b"{")
    for act in (
        lambda: registry.require_sound_use(clone, "sample-qa"),
        lambda: registry.rollback(clone, "sample-qa"),
    ):
        with pytest.raises(MachineryError, match=r"unknown\. sample-qa#prod#2: .* promote sample-qa@v1\.0\.0"):
            act()
    registry.promote(clone, "sample-qa", "v1.0.0")
    registry.require_sound_use(clone, "sample-qa")
    assert used(clone) == "v1.0.0" and git.commit(clone, "sample-qa#prod#3")


def cli(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "flows.cli", *arguments], cwd=root, capture_output=True, text=True)
