"""`trainwright init`: where versions and their data are published, and who publishes them.

Each of the three is looked at before it is set, so that what `init` has said is so. What is set already stays, unless
it is asked for anew.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows import dvc, git
from trainwright.core.errors import Fault, InputError, carries_secret, without_secrets

ORIGIN, UPSTREAM = "origin", "upstream"
URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.I)
SCP = re.compile(r"^[\w.-]+@[\w.-]+:|^[\w-]+(\.[\w-]+)+:")  # git@host:team/models.git
Ask = Callable[[str], str]


@dataclass(frozen=True)
class Wishes:
    """What `init` is asked to set; None leaves what is there."""

    git_remote: str | None = None
    dvc_remote: str | None = None
    name: str | None = None
    email: str | None = None


def init(root: Path, wishes: Wishes, ask: Ask | None, say: Callable[[str], None]) -> None:
    """Set Git remote, DVC remote and identity of the project at `root`, and say of each what it is.

    `ask` gets what is neither there nor wished for, from a person; without it that is an InputError, as is a URL with
    a password in it. Raises MachineryError where a remote cannot be reached or written.
    """
    git.head(root)
    project = dvc.Project(root)
    wishes = _complete(root, project, wishes, ask)
    say(_git_remote(root, wishes.git_remote))
    say(_dvc_remote(project, wishes.dvc_remote))
    say(_identity(root, wishes))


def _complete(root: Path, project: dvc.Project, wishes: Wishes, ask: Ask | None) -> Wishes:
    """The wishes, with what is missing asked for and every place made absolute."""
    known = git.identity(root) is not None
    wanted = {
        "git-remote": ("the Git remote (a URL or a folder)", wishes.git_remote, git.remote(root)),
        "dvc-remote": ("the DVC remote (s3://…, ssh://…, a folder, …)", wishes.dvc_remote, project.remote()),
        "name": ("the name that commits bear", wishes.name, known or git.setting(root, "user.name")),
        "email": ("the e-mail address that commits bear", wishes.email, known or git.setting(root, "user.email")),
    }
    answers: dict[str, str | None] = {}
    missing = []
    for flag, (what, wish, found) in wanted.items():
        answers[flag] = wish or (ask(f"{what[0].upper()}{what[1:]}: ").strip() if ask and not found else None)
        if not answers[flag] and not found:
            missing.append(Fault("trainwright init", f"{what} is not set", f"Give it: --{flag} …"))
    if missing:
        raise InputError(*missing)
    return Wishes(
        place("git-remote", answers["git-remote"]),
        place("dvc-remote", answers["dvc-remote"]),
        answers["name"],
        answers["email"],
    )


def place(flag: str, where: str | None) -> str | None:
    """A URL as it is, a path made absolute: relative, it would be another place in every workspace.

    Raises InputError for a URL with a user name, password, query or fragment in it, which would come to stand in files
    and messages.
    """
    if where == "":
        raise InputError(Fault("trainwright init", "is empty", f"Give it: --{flag} …", field=f"--{flag}"))
    if where is None or (SCP.match(where) and not Path(where).exists()):
        return where
    if not URL.match(where):
        return str(Path(where).expanduser().resolve())
    if carries_secret(where):
        keep = {
            "git-remote": "Leave it out, and let a credential helper of Git's or an SSH key give it.",
            "dvc-remote": "Leave it out, and keep it on this machine: `dvc remote modify --local storage password …`.",
        }
        raise InputError(
            Fault("trainwright init", "the URL has a user name, password or token in it", keep[flag], field=f"--{flag}")
        )
    return where


def _git_remote(root: Path, url: str | None) -> str:
    name = git.remote(root)
    found = git.git(root, "remote", "get-url", name) if name else None
    wanted = url or found or ""
    refs = len(git.git(root, "ls-remote", wanted).splitlines())
    moved = _keep_upstream(root) if wanted != found and name == ORIGIN else ""
    if wanted != found:
        there = git.remote(root)
        git.git(root, "remote", *(["set-url", there] if there == name and name else ["add", ORIGIN]), wanted)
    git.git(root, "push", "--quiet", "--dry-run", git.remote(root) or ORIGIN, "HEAD:refs/trainwright/init")
    state = "found" if wanted == found else "set"
    return f"Git remote   {state}: {without_secrets(wanted)}, {refs} refs there, may be pushed to{moved}"


def _keep_upstream(root: Path) -> str:
    """Rename `origin`, where this clone came from, to `upstream`, unless there is one. Returns what was done.

    Later versions of the code are merged from there: docs/upgrading.md. Branches are pushed to the new `origin`.
    """
    if UPSTREAM in git.git(root, "remote").split():
        return ""
    git.git(root, "remote", "rename", ORIGIN, UPSTREAM)
    for branch in git.git(root, "for-each-ref", "--format=%(refname:short)", "refs/heads").splitlines():
        if git.setting(root, f"branch.{branch}.remote") == UPSTREAM:
            git.git(root, "config", f"branch.{branch}.remote", ORIGIN)
    return f"; the one before is `{UPSTREAM}` now"


def _dvc_remote(project: dvc.Project, url: str | None) -> str:
    found = project.remote_url()
    if url is None or url == found:
        project.try_remote()
        return f"DVC remote   found: {without_secrets(found or '')}, can be written"
    try:
        project.set_remote(url)
    except InputError as error:
        raise InputError(
            Fault("trainwright init", str(error), "Give another: --dvc-remote …", "--dvc-remote")
        ) from None
    known = "other machines know it once .dvc/config is committed"
    return f"DVC remote   set: {without_secrets(url)}, can be written; {known}"


def _identity(root: Path, wishes: Wishes) -> str:
    before = git.identity(root)
    for key, value in (("user.name", wishes.name), ("user.email", wishes.email)):
        if value and value != git.setting(root, key):
            git.git(root, "config", "--local", key, value)
    now = git.identity(root)
    return f"identity     {'found' if now == before else 'set, for this clone alone'}: {now}"
