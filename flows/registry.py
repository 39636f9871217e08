"""Versions of models as tags of Git, by the naming of GTO: which there are, which is in use, which was before.

`sample-qa@v1.3.0` is a version, the commit with its lock, pins, scores and run record; `sample-qa#prod#7` says that
from then on it is the one in use; `sample-qa@v1.3.0!` that it is one no longer, since `trainwright clean --versions`
has removed its data. Tags are only ever added, so that promoting and rolling back move no data: what a version was is
what it is. `gto show` and `gto history` read the same tags. GTO is not imported: that sets up the logging of the whole
process anew, for which a flow run would wait for ever while Prefect's threads wait for it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from flows import git, ledger
from trainwright.core.errors import Fault, InputError, RefusedError, nearest, printable

STAGE = "prod"  # the stage, in GTO's sense, of the version in use
FIRST = "v1.0.0"
Act = Literal["publish", "promote", "rollback", "accept"]
Bump = Literal["major", "minor", "patch"]


@dataclass(frozen=True)
class Version:
    """A published version of a pipeline's model. `uses` are the numbers of the tags that put it in use, the last of
    them at `put_in_use`; `removed` says that its data are."""

    name: str
    version: str
    commit: str
    made: str
    uses: tuple[int, ...] = ()
    in_use: bool = False
    removed: bool = False
    put_in_use: str = ""

    @property
    def since(self) -> str:
        """When it was put in use last, to the minute."""
        return f"{datetime.fromisoformat(self.put_in_use or self.made).astimezone(UTC):%Y-%m-%d %H:%M} UTC"

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Use:
    """One time that a version was put in use: the tag's number, when, by what act and why."""

    number: int
    commit: str
    made: str
    act: str
    why: str = ""
    said: dict[str, Any] = field(default_factory=dict)


def versions(root: Path, name: str) -> list[Version]:
    """The versions of a pipeline that this clone knows of, oldest first."""
    import semver

    history, tags = uses(root, name), git.tags(root, f"{name}@*")
    removed = {_removed_by(tag.name) for tag in tags}
    found = []
    for tag in tags:
        if version := _version_of(tag.name):
            own = [use for use in history if use.commit == tag.commit]
            found.append(
                Version(
                    name,
                    version,
                    tag.commit,
                    tag.made,
                    tuple(use.number for use in own),
                    bool(own) and own[-1] is history[-1],
                    version in removed,
                    own[-1].made if own else "",
                )
            )
    return sorted(found, key=lambda version: semver.Version.parse(version.version.removeprefix("v")))


def seen(root: Path, name: str) -> tuple[str, ...]:
    """The tags that this clone knows of a pipeline's versions and of what was put in use."""
    uses = [tag.name for tag in git.tags(root, f"{name}#{STAGE}#*")]
    return (*(tag.name for tag in git.tags(root, f"{name}@*") if _version_of(tag.name)), *uses)


def in_use(root: Path, name: str) -> Version | None:
    """The version that was put in use last; None where none is published."""
    return next((version for version in versions(root, name) if version.in_use), None)


def uses(root: Path, name: str) -> list[Use]:
    """Every time that a version was put in use, oldest first."""
    found = []
    for tag in git.tags(root, f"{name}#{STAGE}#*"):
        number = tag.name.removeprefix(f"{name}#{STAGE}#")
        if number.isdecimal():
            said = _said(tag.message)
            found.append(Use(int(number), tag.commit, tag.made, said.get("act", "promote"), said.get("why", ""), said))
    return sorted(found, key=lambda use: use.number)


def standing(root: Path, name: str) -> list[Use]:
    """What a rollback goes back through: the uses that no rollback has taken back, oldest first.

    A rollback takes the newest of them away, so that a second one goes on to what was in use before, not back to what
    the first one took out.
    """
    stack: list[Use] = []
    for use in uses(root, name):
        if use.act == "rollback" and use.commit in [before.commit for before in stack]:
            while stack[-1].commit != use.commit:
                stack.pop()
        elif not stack or stack[-1].commit != use.commit:
            stack.append(use)
    return stack


def record(root: Path, version: Version) -> dict[str, Any]:
    """The version's run record (data/<pipeline>/published/version.json); {} where it has none."""
    content = git.read(root, version.commit, f"data/{version.name}/published/version.json")
    return json.loads(content) if content else {}


def known(root: Path) -> list[str]:
    """The pipelines that have a version."""
    return sorted({tag.name.partition("@")[0] for tag in git.tags(root, "*@*") if _version_of(tag.name)})


def fetch(root: Path, name: str | None = None) -> None:
    """Bring the remote's versions of a pipeline, or of all, here. Raises MachineryError where it cannot be reached."""
    patterns = [f"{name}@*", f"{name}#{STAGE}#*"] if name else ["*"]
    git.fetch(root, *(f"+refs/tags/{pattern}:refs/tags/{pattern}" for pattern in patterns))


def following(newest: Version | None, bump: Bump) -> str:
    """The number of the version after `newest`."""
    import semver

    if newest is None:
        return FIRST
    return f"v{semver.Version.parse(newest.version.removeprefix('v')).next_version(bump)}"


def promote(root: Path, name: str, version: str, why: str = "") -> str:
    """Put a version in use: one tag, pushed. Returns what was done, in words.

    Where another was put in use at the same moment, this one comes after it. Raises InputError where there is no such
    version or its data are removed, MachineryError where the remote cannot be reached.
    """
    fetch(root, name)
    chosen = _version(root, name, version)
    before = in_use(root, name)
    if before == chosen:
        return f"{chosen} is in use already"
    for attempt in git.tries():
        with attempt:
            fetch(root, name)
            now = in_use(root, name)
            _require_data(root, _version(root, name, version))
            _use(root, chosen, "promote", why)
            meanwhile = f"; {now} was put in use a moment before" if now and now != before else ""
            return _told(root, "promoted", chosen, now, why, meanwhile)
    raise AssertionError


def rollback(root: Path, name: str, why: str = "") -> str:
    """Put in use again what was before the version in use. Returns what was done, in words.

    Raises InputError where there was none before or its data are removed, RefusedError where another is put in use at
    the same moment: what should be taken back is then for a person to say again.
    """
    fetch(root, name)
    if not versions(root, name):
        raise InputError(_unpublished(root, name))
    stack = standing(root, name)
    now = in_use(root, name)
    if len(stack) < 2:
        says = f"{now} is the first that was in use" if now else "no version is in use"
        raise InputError(Fault(name, f"there is nothing to go back to: {says}", "See `trainwright models list`."))
    chosen = next(version for version in versions(root, name) if version.commit == stack[-2].commit)
    _require_data(root, chosen)
    try:
        _use(root, chosen, "rollback", why)
    except git.OvertakenError:
        raise RefusedError(
            f"{name}: another version was put in use at the same moment. See `trainwright models list {name}`, "
            "then roll back again if it should still be."
        ) from None
    return _told(root, "rolled back", chosen, now, why)


def remove(root: Path, chosen: Sequence[Version]) -> None:
    """Tell every clone that the data of versions are removed, before they are: a tag each, in one push.

    Raises MachineryError where the remote cannot be reached.
    """
    for attempt in git.tries():
        with attempt:
            fetch(root)
            tags = {}
            for version in chosen:
                tag, ref = f"{version}!", f"refs/tags/{version}!"
                if not git.commit(root, ref):  # another machine may have said so
                    tags[ref] = git.make_tag(
                        root, tag, version.commit, "Its data are removed: `retention` in params.yaml"
                    )
            if tags:
                git.push(root, {ref: (tag, None) for ref, tag in tags.items()})
            for ref, tag in tags.items():
                git.set_ref(root, ref, tag)
            return


def listing(root: Path, name: str | None, waiting: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Every version of a pipeline, or of all: newest first, with its scores, and whether it is in use.

    `waiting` are, by pipeline, the run records of versions that are yet to be published; they come first. Raises
    InputError where there is neither.
    """
    names = [name] if name else sorted({*known(root), *waiting})
    rows = []
    for each in names:
        for unpublished in waiting.get(each, []):
            rows.append(_row(each, unpublished["version"], "", "unpublished", unpublished))
        found = versions(root, each)
        if name and not found and not rows:
            raise InputError(_unpublished(root, name))
        for version in reversed(found):
            was = "data removed" if version.removed else "was in use" if version.uses else ""
            state = "in use" if version.in_use else was
            rows.append(_row(each, version.version, version.made, state, record(root, version)))
    return rows


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """A listing as the lines of a table."""
    from trainwright.scoring import wording

    shown = [["model", "published", "", "score", "commit"]]
    for row in rows:
        scored = [(n, s) for n, s in row["scores"].items() if wording.is_score(s)][:1]
        said = [f"{wording.label(n)} {wording.said(s, s.get('unit') or wording.POINTS)}" for n, s in scored]
        made = row["published"][:16].replace("T", " ")
        cells = [f"{row['name']}@{row['version']}", made, row["state"], *(said or ["none known"]), row["commit"][:9]]
        shown.append([printable(cell) for cell in cells])
    widths = [max(len(row[place]) for row in shown) for place in range(len(shown[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def _row(name: str, version: str, made: str, state: str, told: Mapping[str, Any]) -> dict[str, Any]:
    scores = (told.get("scores") or {}).get("test") or {}
    headline = {key: entry for key, entry in scores.items() if isinstance(entry, dict) and "value" in entry}
    commit = str(told.get("commit") or "")
    return {"name": name, "version": version, "published": made, "state": state, "scores": headline, "commit": commit}


def use_tag(root: Path, name: str, commit: str, act: Act, why: str) -> tuple[str, str]:
    """The ref of the next tag that puts a version in use, by what this clone knows, and the tag, on no ref yet."""
    number = max((use.number for use in uses(root, name)), default=0) + 1
    tag = f"{name}#{STAGE}#{number}"
    return f"refs/tags/{tag}", git.make_tag(root, tag, commit, json.dumps({"act": act, "why": why}, ensure_ascii=False))


def version_tag(root: Path, name: str, version: str, commit: str, message: str) -> tuple[str, str]:
    """The ref of a version's tag, and the tag: made, on no ref yet."""
    tag = f"{name}@{version}"
    return f"refs/tags/{tag}", git.make_tag(root, tag, commit, message)


def _use(root: Path, chosen: Version, act: Act, why: str) -> None:
    """Push the tag that puts a version in use. Raises OvertakenError where one of that number is there already."""
    ref, tag = use_tag(root, chosen.name, chosen.commit, act, why)
    git.push(root, {ref: (tag, None)})
    git.set_ref(root, ref, tag)


def _told(root: Path, done: str, chosen: Version, before: Version | None, why: str, more: str = "") -> str:
    instead = f" in place of {before.version}" if before else ""
    decision = {"decision": done, "version": chosen.version, "before": before and before.version, "why": why}
    ledger.record(root, chosen.name, decision)
    return f"{chosen} is in use{instead}{more}"


def _version(root: Path, name: str, version: str) -> Version:
    found = {known.version: known for known in versions(root, name)}
    if not found:
        raise InputError(_unpublished(root, name))
    wanted = version if version.startswith("v") else f"v{version}"
    if wanted not in found:
        raise InputError(Fault(f"{name}@{version}", "there is no such version", nearest(wanted, found)))
    return found[wanted]


def _require_data(root: Path, version: Version) -> None:
    """Raise InputError where the data of a version are removed, naming those that still have theirs."""
    if version.removed:
        others = [other.version for other in versions(root, version.name) if not other.removed and not other.in_use]
        remedy = f"Retrain: `trainwright retrain {version.name}`."
        if others:
            remedy = f"`trainwright models promote {version.name}@…` takes one that has its data: {', '.join(others)}."
        raise InputError(Fault(str(version), "its data are removed, by `trainwright clean --versions`", remedy))


def _unpublished(root: Path, name: str) -> Fault:
    others = known(root)
    remedy = nearest(name, others) if others else "Publish one: `trainwright retrain`."
    return Fault(name, "no version of it is published", remedy)


def _version_of(tag: str) -> str:
    """The version that a tag's name is of, as GTO reads it; empty where it is none."""
    import semver

    version = tag.partition("@")[2]
    return version if version[:1] == "v" and semver.Version.is_valid(version[1:]) else ""


def _removed_by(tag: str) -> str:
    """The version that a tag's name takes out, as GTO reads it; empty where it takes out none."""
    version, taken, number = tag.partition("!")
    return _version_of(version) if taken and re.fullmatch(r"(#[0-9]+)?", number) else ""


def _said(message: str) -> dict[str, Any]:
    """What the text of a tag of ours says; {} for one that a person wrote."""
    try:
        found = json.loads(message)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
