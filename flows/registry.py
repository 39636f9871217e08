"""Versions of models as tags of Git, by the naming of GTO: which there are, which is in use, which was before.

`sample-qa@v1.3.0` is a version, the commit with its lock, pins, scores and run record; `sample-qa#prod#7` says that
from then on it is the one in use; `sample-qa@v1.3.0!` that it is one no longer, since `trainwright clean --versions`
has removed its data. Tags are only ever added, so that promoting and rolling back move no data: what a version was is
what it is. `gto show` and `gto history` read the same tags. GTO is not imported: that sets up the logging of the whole
process anew, for which a flow run would wait for ever while Prefect's threads wait for it.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from flows import git, ledger
from trainwright.core.errors import Fault, InputError, MachineryError, RefusedError, nearest, printable

STAGE = "prod"  # the stage, in GTO's sense, of the version in use
FIRST = "1.0.0"
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
        try:
            return f"{datetime.fromisoformat(self.put_in_use or self.made).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        except (ValueError, OverflowError):  # a tag that was made by hand may have no time
            return "an unknown time"

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


@dataclass(frozen=True)
class Known:
    """The versions of a pipeline (oldest first) and their uses; `unsound` are tags that are neither, with the reason.

    A tag is a version when its commit is a publication of it: data/<pipeline>/published/version.json names the version.
    """

    versions: list[Version]
    uses: list[Use]
    unsound: dict[str, str]
    newest_use: str  # the tag that put a version in use last, sound or not; empty when there is none


def read(root: Path, name: str) -> Known:
    """Return what this clone knows of a pipeline's versions."""
    import semver

    tags = git.tags(root, f"{name}@*")
    named = [(tag, version) for tag in tags if (version := _version_of(tag.name))]
    unsound = _unsound(root, [tag for tag, _ in named])
    published = {tag.commit for tag, _ in named if tag.name not in unsound}
    history, newest = [], (-1, "")
    for tag in git.tags(root, f"{name}#{STAGE}#*"):
        number = tag.name.removeprefix(f"{name}#{STAGE}#")
        if not number.isdecimal():
            continue
        newest = max(newest, (int(number), tag.name))
        if tag.commit in published:
            said = git.parse_object(tag.message) or {}  # {} for one that a person wrote
            act, why = str(said.get("act", "promote")), str(said.get("why", ""))
            history.append(Use(int(number), tag.commit, tag.made, act, why, said))
        else:
            unsound[tag.name] = "its commit is no published version"
    history.sort(key=lambda use: use.number)
    removed = {_removed_by(tag.name) for tag in tags}
    found = []
    for tag, version in named:
        if tag.name not in unsound:
            own = [use for use in history if use.commit == tag.commit]
            found.append(
                Version(
                    name,
                    version,
                    tag.commit,
                    tag.made,
                    tuple(use.number for use in own),
                    bool(own) and own[-1] is history[-1] and newest[1] not in unsound,
                    version in removed,
                    own[-1].made if own else "",
                )
            )
    found.sort(key=lambda version: semver.Version.parse(version.version.removeprefix("v")))
    return Known(found, history, unsound, newest[1])


def _unsound(root: Path, tags: Sequence[git.Tag]) -> dict[str, str]:
    """Return which of the tags of versions are none, each with the reason."""
    found = {}
    names = [tag.name.partition("@")[0] for tag in tags]
    paths = [f"{tag.commit}:{_record(name)}" if tag.commit else "" for tag, name in zip(tags, names, strict=True)]
    for tag, name, content in zip(tags, names, git.read_many(root, paths), strict=True):
        told = git.parse_object(content)
        if not tag.commit:
            found[tag.name] = "it is no tag of a commit"
        elif content is None:
            found[tag.name] = f"its commit is no publication: it has no {_record(name)}"
        elif told is None:
            found[tag.name] = f"its {_record(name)} is no JSON object"
        elif told.get("version") != _version_of(tag.name):
            found[tag.name] = f"its commit is a publication of {str(told.get('version'))[:40]!r}"
    return found


def _record(name: str) -> str:
    return f"data/{name}/published/version.json"


def versions(root: Path, name: str) -> list[Version]:
    """The versions of a pipeline that this clone knows of, oldest first."""
    return read(root, name).versions


def unsound(root: Path, name: str | None = None) -> list[str]:
    """Name the tags of a pipeline, or of all, that look like versions or uses of one and are none, with the reason."""
    tags = [] if name else [tag.name for tag in git.tags(root, "*@*", f"*#{STAGE}#*")]
    names = [name] if name else sorted({re.split("[@#]", tag)[0] for tag in tags})
    return [f"{tag} is left out: {reason}" for each in names for tag, reason in read(root, each).unsound.items()]


def require_sound_use(root: Path, name: str) -> None:
    """Raise MachineryError when the newest tag that puts a version in use stands for no version.

    Which version is in use is then unknown, and none may take its place without a comparison.
    """
    known = read(root, name)
    if reason := known.unsound.get(known.newest_use):
        others = [version.version for version in known.versions if not version.removed]
        remedy = f"Put a version in use: `trainwright models promote {name}@{others[-1] if others else '…'}`."
        if not others:
            remedy = f"Remove the tag: `git push {git.remote(root)} :refs/tags/{known.newest_use}`, and here."
        raise MachineryError(f"{name}: which version is in use is unknown. {known.newest_use}: {reason}. {remedy}")


def seen(root: Path, name: str) -> tuple[str, ...]:
    """The tags that this clone knows of a pipeline's versions and of what was put in use."""
    known = read(root, name)
    uses = [f"{name}#{STAGE}#{use.number}" for use in known.uses]
    return (*(str(version) for version in known.versions), *uses)


def in_use(root: Path, name: str) -> Version | None:
    """The version that was put in use last; None where none is published."""
    return next((version for version in versions(root, name) if version.in_use), None)


def uses(root: Path, name: str) -> list[Use]:
    """Every time that a version was put in use, oldest first."""
    return read(root, name).uses


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
    return git.parse_object(git.read(root, version.commit, _record(version.name))) or {}


def measured(told: Mapping[str, Any]) -> tuple[int | None, dict[str, float]]:
    """Return of a run record the test set version that its model was compared on, and its scores there.

    None and {} when it was compared on none.
    """
    frozen = told.get("frozen")
    if not isinstance(frozen, dict) or not isinstance(line := frozen.get("line"), int):
        return None, {}
    values = frozen.get("values")
    pairs = values.items() if isinstance(values, dict) else ()
    return line, {score: value for score, value in pairs if _is_number(value)}


def known(root: Path) -> list[str]:
    """The pipelines that have a version."""
    tags = [tag for tag in git.tags(root, "*@*") if _version_of(tag.name)]
    unsound = _unsound(root, tags)
    return sorted({tag.name.partition("@")[0] for tag in tags if tag.name not in unsound})


def fetch(root: Path, name: str | None = None) -> None:
    """Bring the remote's versions of a pipeline, or of all, here. Raises MachineryError where it cannot be reached."""
    patterns = [f"{name}@*", f"{name}#{STAGE}#*"] if name else ["*"]
    git.fetch(root, *(f"refs/tags/{pattern}:refs/tags/{pattern}" for pattern in patterns))


def following(root: Path, name: str, bump: Bump) -> str:
    """The number of a pipeline's next version, which no tag has."""
    import semver

    newest = versions(root, name)[-1:]
    number = (
        semver.Version.parse(newest[0].version.removeprefix("v")).next_version(bump)
        if newest
        else semver.Version.parse(FIRST)
    )
    while git.tags(root, f"{name}@v{number}"):  # of a tag that is no version
        number = number.next_version(bump)
    return f"v{number}"


def find(root: Path, name: str, version: str) -> Version:
    """The version of a pipeline by its number, or with "" the one in use, as the remote has it now.

    Raises InputError where there is none or its data are removed, MachineryError where the remote cannot be reached.
    """
    fetch(root, name)
    chosen = _version(root, name, version) if version else in_use(root, name)
    if chosen is None:
        if not versions(root, name):
            raise InputError(_unpublished(root, name))
        remedy = f"Name one: {name}@vX.Y.Z, of those that `trainwright models list {name}` shows."
        raise InputError(Fault(name, "no version of it is in use", remedy))
    _require_data(root, chosen)
    return chosen


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
    require_sound_use(root, name)
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

    `scores` are those on the test rows of the version's own run, `frozen` those on the rows that it was compared on.

    `waiting` are, by pipeline, the run records of versions that are yet to be published; they come first. Raises
    InputError where there is neither.
    """
    names = [name] if name else sorted({*known(root), *waiting})
    rows = []
    for each in names:
        for unpublished in waiting.get(each, []):
            rows.append(_row(each, str(unpublished["version"]), "", "unpublished", unpublished))
        found = versions(root, each)
        if name and not found and not rows:
            raise InputError(_unpublished(root, name))
        for version in reversed(found):
            was = "data removed" if version.removed else "was in use" if version.uses else ""
            state = "in use" if version.in_use else was
            rows.append(_row(each, version.version, version.made, state, record(root, version)))
    return rows


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """A listing as the lines of a table. Scores in it can be compared when their test rows are the same."""
    from trainwright.scoring import wording

    shown = [["model", "published", "", "score", "on test rows", "commit"]]
    for row in rows:
        made, said, rows_of = row["published"][:16].replace("T", " "), "none known", ""
        for name, score in list(row["scores"].items())[:1]:
            unit, frozen = str(score.get("unit") or wording.POINTS), row["frozen"]["scores"].get(name)
            told = score if frozen is None else dict.fromkeys(wording.BOUNDS) | {"value": frozen}
            said = f"{wording.label(name)} {wording.said(told, unit)}"
            rows_of = "its own" if frozen is None else f"frozen, set {row['frozen']['test_set']}"
        cells = [f"{row['name']}@{row['version']}", made, row["state"], said, rows_of, row["commit"][:9]]
        shown.append([printable(cell) for cell in cells])
    widths = [max(len(row[place]) for row in shown) for place in range(len(shown[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def _row(name: str, version: str, made: str, state: str, told: Mapping[str, Any]) -> dict[str, Any]:
    from trainwright.scoring import wording

    parts = told.get("scores")
    scores = parts.get("test") if isinstance(parts, dict) else None
    entries = scores.items() if isinstance(scores, dict) else ()
    whole = {key: entry for key, entry in entries if wording.is_score(entry)}
    headline = {
        key: entry
        for key, entry in whole.items()
        if all(entry[bound] is None or _is_number(entry[bound]) for bound in wording.BOUNDS)
    }
    test_set, values = measured(told)
    return {
        "name": name,
        "version": version,
        "published": made,
        "state": state,
        "scores": headline,  # on the test rows of its own run
        "frozen": {"test_set": test_set, "scores": values},  # comparable among versions of one test set version
        "commit": str(told.get("commit") or ""),
    }


def use_tag(root: Path, name: str, commit: str, act: Act, why: str) -> tuple[str, str]:
    """The ref of the next tag that puts a version in use, by what this clone knows, and the tag, on no ref yet."""
    newest = read(root, name).newest_use
    tag = f"{name}#{STAGE}#{int(newest.rpartition('#')[2] or 0) + 1}"
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
    if reason := read(root, name).unsound.get(f"{name}@{wanted}"):
        raise InputError(Fault(f"{name}@{wanted}", f"it is no version: {reason}", nearest(wanted, found)))
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
