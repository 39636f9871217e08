"""The three ways in which Trainwright says no, and their exit codes."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

LISTED = 50  # names that a remedy lists
COMPARED = 5_000  # names that a wrong word is compared with: a file may have very many
LONG = 100  # characters of a name
# Characters that a terminal or a log obeys instead of showing: controls (C0, C1), those that turn the direction of
# text, separators of lines, halves of surrogate pairs, and a byte order mark.
OBEYED = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def printable(text: str, lines: bool = False) -> str:
    """Return `text` with escapes, as JSON has them, for characters that a terminal obeys.

    With `lines` the text may have several lines: their ends stay.
    """

    def escaped(found: re.Match[str]) -> str:
        if found[0] == "\n":
            return "\n" if lines else "\\n"
        return f"\\u{ord(found[0]):04x}"

    return OBEYED.sub(escaped, text)


URL = re.compile(
    r"(?i)(?P<scheme>[a-z][a-z0-9+.-]{0,30}://)(?:(?P<who>[^\s/?#@\"']*)@)?(?P<where>[^\s?#\"']*)(?P<more>[?#][^\s\"']*)?"
)


def carries_secret(url: str) -> bool:
    """Whether a URL has a place where passwords and tokens stand: a query, a fragment, a password, a user of HTTP's."""
    found = URL.search(url)
    if not found:
        return False
    who = found["who"] or ""
    return bool(found["more"] or ":" in who or (who and found["scheme"].lower() in ("http://", "https://")))


def without_secrets(text: str) -> str:
    """Return `text` with no user, query or fragment in its URLs."""
    return URL.sub(lambda url: url["scheme"] + url["where"] + ("?…" if url["more"] else ""), text)


class TrainwrightError(Exception):
    """An end that is explained to the user instead of traced back."""

    exit_code = 3

    def __init__(self, words: str = "") -> None:
        super().__init__(printable(without_secrets(words), lines=True))


class RefusedError(TrainwrightError):
    """A gate or a comparison said no."""

    exit_code = 1


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with an input: where it is, what is wrong and what to do about it.

    `file` is as the user wrote it; `row` is the row's place in that file as a person would look for it
    ("row 17", "line 3", "data[0].paragraphs[2].qas[1]"), empty when the whole file is meant.
    """

    file: str
    reason: str
    remedy: str
    row: str = ""
    field: str = ""
    id: str = ""

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.file, self.row, self.field and f"field {self.field!r}") if part)
        return printable(without_secrets(f"{place}: {self.reason}. {self.remedy}"))


class InputError(TrainwrightError):
    """The input or the configuration is wrong; carries every fault found, at least one."""

    exit_code = 2

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))


class MachineryError(TrainwrightError):
    """A worker, a server, a remote or a child process failed."""

    exit_code = 3


class ChildError(MachineryError):
    """A process that a stage had started has ended badly: its words, and its exit code."""

    def __init__(self, words: str, exit_code: int) -> None:
        super().__init__(words)
        self.exit_code = exit_code


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy for a wrong word: the nearest right one, or those that there are, at most LISTED of them."""
    names = list(known)
    near = difflib.get_close_matches(word, [name for name in names[:COMPARED] if len(name) <= LONG], n=1)
    if near:
        return f"Did you mean `{near[0]}`?"
    shown = ", ".join(name if len(name) <= LONG else f"{name[:LONG]}…" for name in names[:LISTED])
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return f"Known here: {shown}{more}." if names else "Remove it."
