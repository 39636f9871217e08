"""Git, as far as the flow needs it: reading commits, making commits aside from any checkout, pushing them.

The only module that starts Git. A commit is made with an index of its own, so that no checkout is touched; what makes
it visible is one push that names, for every ref it moves, the value that it expects to find.
"""

import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from shlex import quote
from typing import Any

import psutil

from trainwright.core.errors import Fault, InputError, MachineryError

NOTHING = "0" * 40  # what Git calls the commit of a ref that is not there
REMEDY = "Run `trainwright init`, which says what is missing."
# What Git says where a ref is not as expected, or another push holds it at this moment.
STALE = (
    "[rejected]",
    "stale info",
    "fetch first",
    "non-fast-forward",
    "reference already exists",
    "failed to lock",
    "cannot lock ref",
    "failed to update ref",
    "incorrect old value",
    "atomic transaction failed",
)
PROTECTED = ("protected branch", "hook declined", "denied", "prohibited", "not allowed")
BUSY = (
    "cannot lock ref",
    "unable to update local ref",
    ".lock': File exists",
    "shallow file has changed",
    "bad object worktrees/",  # one that is being made has no commit for a moment
)
TALKS = ("fetch", "push", "ls-remote")  # what talks to the remote
DEADLINE = 300.0  # seconds that it has for that; a line that went dead would keep it for ever
FOR_GOOD = "exists; cannot create"  # a branch that is gone is in the way of one below its name: Git says what to do
UNMADE = 5  # seconds after which nobody is making it any more
# Hooks of a clone are for the commits of a person: those of `dvc install` check out and push data.
NO_HOOKS = ("-c", f"core.hooksPath={os.devnull}")
NOBODY = ("-c", "user.name=Trainwright", "-c", "user.email=trainwright@localhost")  # who commits what no branch keeps
ABANDONED = 600  # seconds
PAUSE = 2.0  # seconds: the longest wait between two tries of a race
PATIENCE = 120.0  # seconds, after which it is no race: a killed git has left a lock at the remote, say


class GitError(MachineryError):
    """A git command failed; carries Git's own words, its exit code and what it has said all the same."""

    def __init__(self, words: str, code: int = 0, said: bytes = b"") -> None:
        super().__init__(words)
        self.code, self.said = code, said


class ProtectedError(GitError):
    """The remote lets nobody push to a branch: it is protected."""


class MovedTagError(InputError):
    """A tag of a version is not what it was here, or is gone at the remote."""


class OvertakenError(GitError):
    """A ref is not as expected, or another git holds it at this moment."""


@contextmanager
def hurrying(seconds: float) -> Iterator[None]:
    """Give the remote no more than so many seconds for each answer, and no more for a race, while the block runs."""
    global DEADLINE, PATIENCE
    before = DEADLINE, PATIENCE
    DEADLINE, PATIENCE = min(DEADLINE, seconds), min(PATIENCE, seconds)
    try:
        yield
    finally:
        DEADLINE, PATIENCE = before


def tries() -> Iterator[AbstractContextManager[None]]:
    """Blocks to try something in until one is left by `return`: an OvertakenError ends a block, and is raised once
    PATIENCE is over.

    There is a pause before each but the first, longer and longer and never the same, so that those who lost a race
    together do not meet again.
    """
    deadline = time.monotonic() + PATIENCE
    for number in count():
        if number:
            time.sleep(random.uniform(0, min(PAUSE, 0.05 * 2**number)))
        yield _try(deadline)


@contextmanager
def _try(deadline: float) -> Iterator[None]:
    try:
        yield
    except OvertakenError:
        if time.monotonic() > deadline:
            raise


def git(root: Path, *arguments: str, stdin: bytes | None = None, index: Path | None = None) -> str:
    """What a git command in `root` prints, without the last line end. Raises GitError where it fails."""
    return raw(root, *arguments, stdin=stdin, index=index).decode(errors="surrogateescape").rstrip("\n")


def raw(root: Path, *arguments: str, stdin: bytes | None = None, index: Path | None = None) -> bytes:
    """The same as bytes."""
    own = {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"} | ({"GIT_INDEX_FILE": str(index)} if index else {})
    pipe = subprocess.PIPE
    try:
        child = subprocess.Popen(
            ["git", *NO_HOOKS, *arguments], cwd=root, env={**os.environ, **own}, stdin=pipe, stdout=pipe, stderr=pipe
        )
    except FileNotFoundError:
        raise MachineryError("There is no `git` here.") from None
    with child:
        try:
            said, complained = child.communicate(stdin, DEADLINE if arguments[0] in TALKS else None)
        except BaseException as error:
            _end(child)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            words = f"no end after {DEADLINE:.0f} s: the remote does not answer, or too slowly"
            raise GitError(f"git {arguments[0]}: {words}") from None
    if child.returncode:
        words = complained.decode(errors="replace").strip() or f"exit code {child.returncode}"
        raise GitError(f"git {arguments[0]}: {words}", child.returncode, said)
    return said


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill a git with what it has started to talk to the remote, which would keep its pipes open."""
    with suppress(psutil.NoSuchProcess):
        for process in [*psutil.Process(child.pid).children(recursive=True), child]:
            process.kill()


def commit(root: Path, name: str) -> str | None:
    """The commit that a ref, tag or other name stands for; None where there is none."""
    try:
        return git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    except GitError:
        return None


def head(root: Path) -> str:
    """The commit that is checked out. Raises InputError where the folder is no repository with a commit."""
    if found := commit(root, "HEAD"):
        return found
    raise InputError(Fault(str(root), "is not a Git repository with a commit", "Run `git init`, then commit."))


def contains(root: Path, newer: str, older: str) -> bool:
    """Whether a commit is, or comes after, another."""
    try:
        git(root, "merge-base", "--is-ancestor", older, newer)
    except GitError:
        return False
    return True


def differing(root: Path, one: str, other: str) -> list[str]:
    """The files that are not the same at two commits, from where their histories part to the second of them."""
    try:
        return [path for path in git(root, "diff", "--name-only", "-z", f"{one}...{other}").split("\0") if path]
    except GitError:  # they have no history in common
        return files(root, other, ".")


def merged(root: Path, one: str, other: str) -> tuple[str, list[str]]:
    """The tree of two commits merged, on no ref, and the files in which they cannot be."""
    try:
        return git(root, "merge-tree", "--write-tree", "--name-only", "--no-messages", one, other), []
    except GitError as error:
        if error.code != 1:
            raise
        tree, *torn = error.said.decode(errors="surrogateescape").splitlines()
        return tree, torn


def changed(root: Path) -> list[str]:
    """The files that differ from HEAD, or that Git does not know and does not ignore."""
    listed = git(root, "status", "--porcelain", "--untracked-files=normal", "-z")
    return sorted(entry[3:] for entry in listed.split("\0") if entry and entry[2:3] == " ")


def read(root: Path, revision: str, path: str) -> bytes | None:
    """A file's bytes at a commit; None where it is not there."""
    try:
        return raw(root, "cat-file", "blob", f"{revision}:{path}")
    except GitError:
        return None


def read_many(root: Path, names: Sequence[str]) -> list[bytes | None]:
    """Return the bytes of many files, each named `<revision>:<path>`; None for one that is not there or is no file."""
    if not names:
        return []
    said = raw(root, "cat-file", "--batch", stdin=b"".join(map(_line, names)))
    found: list[bytes | None] = []
    start = 0
    for _ in names:
        end = said.index(b"\n", start)
        words = said[start:end].rsplit(b" ", 2)
        start = end + 1
        if len(words) < 3 or not words[2].isdigit():  # "<name> missing"
            found.append(None)
            continue
        size = int(words[2])
        found.append(said[start : start + size] if words[1] == b"blob" else None)
        start += size + 1
    return found


def _line(name: str) -> bytes:
    """A name as a line for Git; an empty one when it would be several, which names nothing."""
    return b"\n" if "\n" in name else f"{name}\n".encode(errors="surrogateescape")


def parse_object(text: str | bytes | None) -> dict[str, Any] | None:
    """Return the JSON object that a file of the remote holds; None when it holds none that can be read."""
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def files(root: Path, revision: str, under: str) -> list[str]:
    """The paths of the files at or below `under` at a commit."""
    listed = git(root, "ls-tree", "-r", "-z", "--name-only", revision, "--", under)
    return [path for path in listed.split("\0") if path]


def make_commit(
    root: Path, onto: str | None, contents: Mapping[str, bytes | None], parents: Sequence[str], message: str
) -> str:
    """A new commit: the tree of `onto` (None: empty) with `contents` put in by path (None takes a path out).

    It is on no ref yet. Raises InputError where Git does not know who commits.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        git(root, "read-tree", *([onto] if onto else ["--empty"]), index=index)
        lines = []
        for path, content in contents.items():
            if content is None:
                lines.append(f"0 {NOTHING}\t{path}\0")
            else:
                blob = git(root, "hash-object", "-w", "--stdin", stdin=content)
                lines.append(f"100644 {blob}\t{path}\0")
        git(root, "update-index", "-z", "--index-info", stdin="".join(lines).encode(), index=index)
        tree = git(root, "write-tree", index=index)
    known = [part for parent in parents for part in ("-p", parent)]
    try:
        return git(root, "commit-tree", tree, *known, "-F", "-", stdin=message.encode())
    except GitError as error:
        if "identity" in str(error) or "user.email" in str(error):
            raise InputError(Fault(str(root), "Git does not know who commits here", REMEDY)) from None
        raise


def snapshot(root: Path, besides: Sequence[str], message: str) -> str:
    """A commit of the checkout as it is now: HEAD itself, or a child of it that is on no ref.

    What Git does not know stays out, but for the paths `besides` that it does not ignore: nobody's notes travel.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        known = root / git(root, "rev-parse", "--git-path", "index")
        if known.exists():
            shutil.copyfile(known, index)  # with it Git need not read every file again
        else:
            git(root, "read-tree", "HEAD", index=index)
        git(root, "add", "--update", index=index)
        listed = git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *besides) if besides else ""
        if new := [path for path in listed.split("\0") if path]:
            git(root, "add", "--pathspec-from-file=-", stdin="\n".join(new).encode(), index=index)
        tree = git(root, "write-tree", index=index)
    if tree == git(root, "rev-parse", "HEAD^{tree}"):
        return head(root)
    return git(root, *NOBODY, "commit-tree", tree, "-p", head(root), "-F", "-", stdin=message.encode())


def remote(root: Path) -> str | None:
    """The name of the Git remote to publish to: `origin`, or the only one; None where there is none."""
    try:
        known = git(root, "remote").split()
    except GitError:
        return None
    return "origin" if "origin" in known else known[0] if len(known) == 1 else None


def identity(root: Path) -> str | None:
    """Who commits here, as "Name <address>"; None where nobody has told Git."""
    try:
        return git(root, "-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT").rpartition(">")[0] + ">"
    except GitError:
        return None


def setting(root: Path, key: str) -> str:
    """A setting of Git's; empty where there is none."""
    try:
        return git(root, "config", "--get", key)
    except GitError:
        return ""


def knows(root: Path, path: str) -> bool:
    """Whether a file, or every file of a folder, is in Git's index. False where there is no repository."""
    try:
        if not git(root, "ls-files", "-z", "--", path):
            return False
        return not git(root, "ls-files", "-z", "--others", "--", path)
    except GitError:  # a path outside the repository
        return False


def fetch(root: Path, *refspecs: str, prune: bool = False) -> set[str]:
    """Bring what `refspecs` name of the remote here. Returns the refs of this clone that would be of something which
    the remote does not have, or no longer: they are left as they are. With `prune` those that a `*` stands for go.

    A tag that is here never moves. Raises MovedTagError if a tag of a version (`NAME@…`, `NAME#…`) has moved at the
    remote, MachineryError where the remote cannot be reached.
    """
    name = remote(root)
    if name is None:
        raise InputError(Fault(str(root), "there is no Git remote", REMEDY))
    there = remote_refs(root, name)
    wanted = [spec for spec in refspecs if "*" in spec or spec.lstrip("+").partition(":")[0] in there]
    missing = {spec.partition(":")[2] for spec in refspecs if spec not in wanted}
    if any("refs/tags/" in spec for spec in refspecs):
        wanted += [f"^refs/tags/{tag}" for tag in _moved_tags(root, name, there, refspecs)]
    how = ("--quiet", "--no-tags", "--no-write-fetch-head", "--prune" if prune else "--no-prune")
    for attempt in tries() if wanted else ():
        with attempt:
            try:
                git(root, "fetch", *how, name, *wanted)
                break
            except GitError as error:  # another process of this clone is writing the same ref, or makes a worktree
                if FOR_GOOD in str(error) or not any(word in str(error) for word in BUSY):
                    raise
                _forget_unmade(root)
                raise OvertakenError(str(error)) from None
    return missing


def remote_refs(root: Path, name: str) -> dict[str, str]:
    """The refs of a remote, each with the name of its object. Raises MachineryError if it cannot be reached."""
    lines = git(root, "ls-remote", name).splitlines()
    return {ref: value for value, _, ref in (line.partition("\t") for line in lines)}


def _moved_tags(root: Path, name: str, there: Mapping[str, str], refspecs: Sequence[str]) -> list[str]:
    """The tags that are another object at the remote than here. Raises MovedTagError if one is of a version that
    `refspecs` name."""
    listed = git(root, "for-each-ref", "--format=%(objectname) %(refname:strip=2)", "refs/tags")
    here = [line.partition(" ") for line in listed.splitlines()]
    moved = [tag for value, _, tag in here if there.get(f"refs/tags/{tag}", value) != value]
    wanted = [spec.lstrip("+").partition(":")[0].removeprefix("refs/tags/") for spec in refspecs]
    ours = [tag for tag in moved if ("@" in tag or "#" in tag) and any(fnmatchcase(tag, each) for each in wanted)]
    if ours:
        tag = f"{name} {quote(f'refs/tags/{ours[0]}')}"
        remedy = (
            "Find out who moved it and which one is right. To put this clone's back: "
            f"git push --force {tag}. To take the remote's: git tag -d {quote(ours[0])}."
        )
        raise MovedTagError(*(Fault(each, f"this tag has moved at the remote {name}", remedy) for each in ours[:1]))
    return moved


def require_tags(root: Path, tags: Sequence[str]) -> None:
    """Raise MovedTagError if one of these tags of this clone is gone at its remote."""
    name = remote(root)
    there = remote_refs(root, name) if name and tags else {}
    for tag in (tag for tag in tags if name and f"refs/tags/{tag}" not in there):
        remedy = (
            f"To put it back: git push {name} refs/tags/{quote(tag)}. If it is gone for good: git tag -d {quote(tag)}."
        )
        raise MovedTagError(Fault(tag, f"this tag is gone at the remote {name}", remedy))


def _forget_unmade(root: Path) -> None:
    """Take away the worktrees that a killed `git worktree add` has begun and not made: without a commit they stop every
    fetch, and Git's own `prune` passes them by, for it takes them for locked."""
    for head in (common_folder(root) / "worktrees").glob("*/HEAD"):
        with suppress(FileNotFoundError):
            if head.read_text().strip() == NOTHING and time.time() - head.stat().st_mtime > UNMADE:
                shutil.rmtree(head.parent, ignore_errors=True)


def forget_worktree(root: Path, folder: Path) -> None:
    """Take away what Git knows of a worktree whose folder is gone."""
    shutil.rmtree(common_folder(root) / "worktrees" / folder.name, ignore_errors=True)


def common_folder(root: Path) -> Path:
    """The folder in which Git keeps what is its own, for all worktrees."""
    return root / git(root, "rev-parse", "--git-common-dir")


def push(root: Path, moves: Mapping[str, tuple[str, str | None]]) -> None:
    """Move refs of the remote in one step: full names, each with its new commit and the one expected there (None: no
    such ref).

    Raises OvertakenError where one was not as expected, ProtectedError where the remote lets nobody move one of them,
    MachineryError where it cannot be reached; then none has moved.
    """
    name = remote(root)
    if name is None:
        raise InputError(Fault(str(root), "there is no Git remote", REMEDY))
    leases = [f"--force-with-lease={ref}:{old or ''}" for ref, (_, old) in moves.items()]
    updates = [f"{new}:{ref}" for ref, (new, _) in moves.items()]
    try:
        git(root, "push", "--quiet", "--atomic", *leases, name, *updates)
    except GitError as error:
        words = str(error)
        if any(word in words for word in PROTECTED):
            raise ProtectedError(words) from None
        if any(word in words for word in STALE):
            raise OvertakenError(words) from None
        raise


def make_tag(root: Path, name: str, commit: str, message: str) -> str:
    """A new annotated tag of a commit, on no ref yet. Returns its object's name.

    Raises InputError where Git does not know who tags.
    """
    try:
        tagger = git(root, "var", "GIT_COMMITTER_IDENT")
    except GitError:
        raise InputError(Fault(str(root), "Git does not know who tags here", REMEDY)) from None
    content = f"object {commit}\ntype commit\ntag {name}\ntagger {tagger}\n\n{message}\n"
    return git(root, "mktag", stdin=content.encode())


@dataclass(frozen=True)
class Tag:
    """A tag, the commit that it stands for (empty when it is of something else), when it was made (seconds since 1970,
    and as Git says it) and its text."""

    name: str
    commit: str
    seconds: int
    made: str
    message: str


def tags(root: Path, *patterns: str) -> list[Tag]:
    """The tags of this clone that fit one of `patterns` (`sample-qa@*`), by name."""
    fields = (
        "refname:strip=2", "objecttype", "objectname", "*objecttype", "*objectname", "creatordate:unix",
        "creatordate:iso-strict", "contents",
    )  # fmt: skip
    shape = "%00".join(f"%({field})" for field in fields) + "%00%01"
    listed = git(root, "for-each-ref", f"--format={shape}", *(f"refs/tags/{pattern}" for pattern in patterns))
    found = []
    for entry in listed.split("\0\x01"):
        if len(parts := entry.lstrip("\n").split("\0")) == len(fields):
            name, kind, own, target_kind, target, seconds, made, message = parts
            commit = (target or own) if (target_kind or kind) == "commit" else ""
            found.append(Tag(name, commit, int(seconds or 0), made, message.strip()))
    return found


def sweep(root: Path) -> list[str]:
    """Remove the locks of refs that a killed git has left, which would stop every fetch. Returns their paths.

    Git holds one for a moment; those that are ABANDONED seconds old, by this machine's clock, nobody holds. The lock of
    the index is a person's, whose editor may hold it for long, and stops nothing here.
    """
    folder = common_folder(root)
    found = [*(folder / "refs").rglob("*.lock"), *(folder / f"{name}.lock" for name in ("packed-refs", "shallow"))]
    gone = []
    for lock in found:
        with suppress(FileNotFoundError):
            if time.time() - lock.stat().st_mtime > ABANDONED:
                lock.unlink()
                gone.append(str(lock.relative_to(folder)))
    return gone


def set_ref(root: Path, ref: str, new: str | None) -> None:
    """Move a ref of this clone (None: take it away); its remote knows nothing of it."""
    git(root, "update-ref", *(["-d", ref] if new is None else [ref, new]))
