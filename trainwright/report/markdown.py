"""Texts from outside in Markdown: model cards, Prefect's artifacts."""

import re

from trainwright.core.errors import printable

SPECIAL = re.compile(r"[\\`*_\[\]<>#|~&@$]")
ACTIVE = re.compile(r"[\\`\[\]<>|]|://|www\.", re.IGNORECASE)  # what a link, an image, HTML or code begins with
LINKED = re.compile(r"://|www(?=\.)", re.IGNORECASE)  # what renderers make a link of without being asked


def plain(text: str) -> str:
    """Return a text in one line that Markdown shows as it is: no link, image, HTML, table or heading comes of it."""
    return LINKED.sub(_part, SPECIAL.sub(r"\\\g<0>", one_line(text)))


def cell(text: str) -> str:
    """Return a text for a cell of Prefect's tables, which some of its pages show as Markdown and others as it is.

    It is escaped only if a link, an image, HTML or code could come of it, so that no page shows needless backslashes.
    """
    return plain(text) if ACTIVE.search(text) else one_line(text)


def code(text: str) -> str:
    """Return a text as a code span; as plain text if it has characters that some renderers obey even there."""
    line = one_line(text)
    return plain(line) if not line or re.search(r"[`<>|&]", line) else f"`{line}`"


def one_line(text: str) -> str:
    """Return a text with all white space as single spaces, and what cannot be printed as its escape."""
    return printable(" ".join(text.split()))


def _part(found: re.Match[str]) -> str:
    return ":\\//" if found[0] == "://" else f"{found[0]}\\"
