"""Many nights of many pipelines with one Git and one DVC remote: new data on some, a fault on others, and no person.

What each pipeline should come to is kept beside, in a few lines; at the end every version is read back whole.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ticks import GOOD, STAGES, WORSE, House, Tick

from flows import dvc_lock, git, ledger, publication, registry

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_api")]

MANY = pytest.mark.skipif("TRAINWRIGHT_MANY" not in os.environ, reason="long: set TRAINWRIGHT_MANY=1 to run it")
AT_ONCE = 3
KINDS = ("nothing", "nothing", "nothing", "nothing", "new data", "new data", "new data", "worse", "bad", "killed")
AWAY = ("remote.git", "store")
CODES = {"published": [0], "nothing to do": [0], "refused": [1], "unpublished": [3], "failed": [2, 3]}


@dataclass
class Known:
    """What is known of a pipeline: its source's rows and how good they are, the rows of each version, of the one that
    waits to be published, and what its ticks should have come to."""

    source: tuple[int, int] = (40, GOOD)
    versions: list[int] = field(default_factory=list)
    waiting: int | None = None
    outcomes: list[str] = field(default_factory=list)
    kills: int = 0

    def tick(self, bad: bool, away: str) -> str:
        """What a tick that is left alone comes to."""
        rows, wrong = self.source
        if self.waiting and not away:
            self.versions.append(self.waiting)
            self.waiting = None
        if bad:
            return "failed"
        if self.versions[-1:] == [rows]:
            return "nothing to do"
        if wrong == WORSE:
            return "refused"
        if away:
            self.waiting = rows
            return "unpublished"
        self.versions.append(rows)
        return "published"


@MANY
@pytest.mark.parametrize("nights, pipelines, seed", [(5, 3, 389), (30, 10, 30)])
def test_nights_with_faults_need_nobody_and_lose_no_version(
    nights: int, pipelines: int, seed: int, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(clone.parent / ".site"))
    names = [f"p{number}" for number in range(pipelines)]
    house, known = House(clone, names), {name: Known() for name in names}
    draw, seen = random.Random(seed), Counter[str]()
    away = dict(zip(draw.sample(range(1, nights - 1), nights // 10 * 2 or 2), AWAY * nights, strict=False))
    for night in range(nights):
        gone = away.get(night, "")
        quiet = night in (0, nights - 1)  # nothing goes wrong on the first and on the last
        kinds = {name: "nothing" if quiet else draw.choice(KINDS) for name in names}
        seen.update([*kinds.values(), gone])
        for name, kind in kinds.items():
            if kind in ("new data", "worse", "killed"):
                known[name].source = (40 + night, WORSE if kind == "worse" else GOOD)
            house.source(name, *known[name].source)
            if kind == "bad":
                (house.root.parent / f"{name}.jsonl").write_text("no JSON\n")
        _go(house.root.parent, gone)
        for some in (names[place : place + AT_ONCE] for place in range(0, pipelines, AT_ONCE)):
            _ticks(house, some, known, kinds, gone, draw)
        _come(house.root.parent, gone)
        for name, kind in kinds.items():
            if kind == "killed":
                _look(house, name, known[name])
            assert _rows(house, name) == len(known[name].versions), f"night {night}, {name}"
    assert set(KINDS) | set(AWAY) <= set(seen), f"of this draw some fault is missing: {seen}"
    for name in names:
        _accounts(house, name, known[name])
    assert not list((house.root / ".trainwright" / "workspaces").glob("*"))
    assert publication.waiting(house.root) == {} and git.git(house.root, "worktree", "list").count("\n") == 0
    outcomes = Counter(outcome for one in known.values() for outcome in one.outcomes)
    print(f"{dict(seen)}: {dict(outcomes)}, {sum(len(one.versions) for one in known.values())} versions")


def _ticks(
    house: House, names: Sequence[str], known: dict[str, Known], kinds: dict[str, str], gone: str, draw: random.Random
) -> None:
    """The ticks of some pipelines, at once; one that is to be killed is killed after a random while."""
    started = {name: Tick(house, name=name) for name in names}
    for name, tick in started.items():
        if kinds[name] == "killed":
            time.sleep(draw.uniform(0, 5))  # the moment is what is drawn, not what is waited for
            tick.kill()
            known[name].kills += 1
    for name, tick in started.items():
        code, words = tick.end()
        assert "Traceback" not in words, words
        if kinds[name] != "killed":
            expected = known[name].tick(kinds[name] == "bad", gone)
            known[name].outcomes.append(expected)
            said = f"night of {kinds[name]}, {expected} was expected\n{words}"
            assert f"\n{name}: {expected}\n" in words and code in CODES[expected], said


def _go(folder: Path, gone: str) -> None:
    if gone:
        (folder / gone).rename(folder / "away")
        (folder / gone).write_text("a file where the folder was")  # DVC would make a folder


def _come(folder: Path, gone: str) -> None:
    if gone:
        (folder / gone).unlink()
        (folder / "away").rename(folder / gone)


def _look(house: House, name: str, known: Known) -> None:
    """What a killed tick has come to: it may have published what waited, then its own, or have left that waiting."""
    published, ready = _rows(house, name), publication._kept(house.root, name)
    if known.waiting and published > len(known.versions):
        known.versions.append(known.waiting)
        known.waiting = None
    if published > len(known.versions):
        known.versions.append(known.source[0])
    if ready and known.versions[-1:] != [known.source[0]] and not known.waiting:
        known.waiting = known.source[0]


def _rows(house: House, name: str) -> int:
    return len(house.versions(name))


def _accounts(house: House, name: str, known: Known) -> None:
    """Every version is there once and whole, and in use; every tick that was left alone has its decision."""
    assert house.versions(name) == [f"v1.{minor}.0" for minor in range(len(known.versions))]
    for version, rows in zip(house.versions(name), known.versions, strict=True):
        house.whole(version, rows, name)
    newest = registry.versions(house.root, name)[-1]
    assert registry.in_use(house.root, name) == newest and len(registry.uses(house.root, name)) == len(known.versions)
    publication.fetch(house.root, "published")
    state = publication.state(house.root, "published")
    assert state is not None
    there, own = (
        dvc_lock.entries((git.read(house.root, commit, "dvc.lock") or b"").decode())
        for commit in (state.head, newest.commit)
    )
    assert all(there[f"{stage}@{name}"] == own[f"{stage}@{name}"] for stage in STAGES)
    ledger.sync(house.root)
    assert not ledger._waiting(house.root)
    decided = [entry["outcome"] for entry in house.decisions(name) if "tick" in entry]
    assert len(known.outcomes) <= len(decided) <= len(known.outcomes) + known.kills
    assert not Counter(known.outcomes) - Counter(decided)
    ended = Counter(told[2:4] for told in house.told() if told[:2] == ("end", name))
    assert sum(count - 1 for count in ended.values()) <= known.kills, f"stages that ran again: {ended}"
