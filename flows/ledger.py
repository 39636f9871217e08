"""The ledger: what was decided of each pipeline and why, one JSON file a decision, on a branch that only grows.

Every tick of a schedule, every publication, promotion and rollback leaves an entry, whether it changed anything or not.
The branch `ledger` of the Git remote holds them, each in a commit on the one before:
decisions/<pipeline>/<UTC time>-<id>.json. An entry is kept in .trainwright/ledger/ until the remote has it, so that
none is lost while it is away; the next command that records or reads in earnest brings it there.
"""

import json
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows import git
from flows.workspace import held
from trainwright.core import layout
from trainwright.core.errors import InputError, MachineryError
from trainwright.operations import LEDGER

BRANCH = f"refs/heads/{LEDGER}"
FOLDER = "decisions"


def record(root: Path, name: str, decision: dict[str, Any]) -> None:
    """Keep a decision of pipeline `name` for good; JSON values. `time` (UTC) and `pipeline` are put in here.

    It does not fail where the remote is away: the entry waits here, and `sync` brings it there later.
    """
    now = datetime.now(UTC)
    entry = {"time": now.isoformat(timespec="seconds"), "pipeline": name, **decision}
    text = json.dumps(entry, indent=2, ensure_ascii=False) + "\n"
    layout.write_file(_pending(root) / name / f"{now:%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}.json", text)
    sync(root)


def sync(root: Path, wait: bool = True) -> bool:
    """Fetch the ledger, and bring there what waits here. False where the remote is away, or there is none, or, unless
    one is to `wait`, another process is doing so."""
    folder = _pending(root)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with held(folder.parent / "lock", wait):  # of one clone one process pushes, for all that wait
            _deliver(root)
    except (MachineryError, InputError, BlockingIOError):
        return False
    return True


def last(root: Path, name: str) -> dict[str, Any] | None:
    """The newest decision that this clone knows of; None where there is none."""
    return next(iter(entries(root, name, 1)), None)


def entries(root: Path, name: str, count: int = 20) -> list[dict[str, Any]]:
    """The newest `count` decisions of a pipeline, newest first: those fetched last, and those that wait here.

    Nothing is fetched: `sync` does that. Entries that cannot be read are left out; `unreadable` names them.
    """
    return [entry for _, entry in _newest(root, name, count) if entry is not None]


def unreadable(root: Path, name: str) -> list[str]:
    """Name the entries beside the newest decisions of a pipeline that are no JSON object."""
    return [
        f"ledger: {FOLDER}/{name}/{file} is no JSON object" for file, entry in _newest(root, name, 20) if entry is None
    ]


def _newest(root: Path, name: str, count: int) -> list[tuple[str, dict[str, Any] | None]]:
    """Return the newest entries by file name, as many as hold `count` that can be read; None for one that cannot."""
    waiting: dict[str, dict[str, Any] | None] = {}
    for entry in reversed(_waiting(root, name)):
        with suppress(FileNotFoundError):  # another process has just brought it to the remote
            waiting[entry.name] = git.parse_object(entry.read_bytes())
    most = count + len(waiting)  # a few may be there and still wait here
    while True:
        fetched = _fetched_entries(root, name, most)
        found = [*waiting.items(), *((file, entry) for file, entry in fetched.items() if file not in waiting)]
        readable = [place for place, (_, entry) in enumerate(found) if entry is not None]
        if len(readable) >= count:
            return found[: readable[count - 1] + 1]
        if len(fetched) < most:
            return found
        most *= 4


def _fetched_entries(root: Path, name: str, most: int) -> dict[str, dict[str, Any] | None]:
    """Return the entries of the newest `most` decisions that were fetched, by file name, newest first."""
    ref = _fetched(root)
    if ref is None or git.commit(root, ref) is None:
        return {}
    command = ("log", f"--max-count={most}", "-z", "--format=", "--name-only", "--diff-filter=A")
    paths = [path for path in git.git(root, *command, ref, "--", f"{FOLDER}/{name}/").split("\0") if path]
    contents = git.read_many(root, [f"{ref}:{path}" for path in paths])
    return {Path(path).name: git.parse_object(text) for path, text in zip(paths, contents, strict=True)}


def _deliver(root: Path) -> None:
    """Push what waits, each entry in a commit of its own, until no other clone gets in between."""
    ref = str(_fetched(root))
    for attempt in git.tries():
        with attempt:
            gone = git.fetch(root, f"+{BRANCH}:{ref}")
            head = known = git.commit(root, ref)
            old = None if gone else known  # a branch that somebody took away comes back with all that is known of it
            waiting = _waiting(root)
            for path in waiting:
                place = f"{FOLDER}/{path.parent.name}/{path.name}"
                if head and git.read(root, head, place) is not None:
                    continue  # pushed by a process that was killed before it could say so
                content = {place: path.read_bytes()}
                head = git.make_commit(root, head, content, [head] if head else [], f"Decide on {path.parent.name}")
            if head and head != old:
                git.push(root, {BRANCH: (head, old)})
                git.set_ref(root, ref, head)
            for path in waiting:
                path.unlink()
            return


def _fetched(root: Path) -> str | None:
    name = git.remote(root)
    return f"refs/remotes/{name}/{LEDGER}" if name else None


def _pending(root: Path) -> Path:
    return root / ".trainwright" / "ledger" / "pending"


def _waiting(root: Path, name: str = "*") -> list[Path]:
    """The entries that the remote has not, as far as we know; oldest first."""
    return sorted(_pending(root).glob(f"{name}/[!.]*.json"), key=lambda path: path.name)
