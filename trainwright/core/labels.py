"""Which characters a label may not hold: those that no terminal, file or picture can show for what they are."""

import re

# Controls, line breaks, marks that turn the direction of writing, invisible marks, and what is no character. The
# joiners U+200C and U+200D are left, since words of some scripts and emoji need them.
UNSHOWN = "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ufffe\uffff]"
EDGES = " \t\r\n"  # what stands around a label without being part of it
REMEDY = "Write the label in characters that can be seen."
_UNSHOWN = re.compile(UNSHOWN + "|[\ud800-\udfff]")


def unshown(label: str) -> str | None:
    """Return what is wrong with a label that holds a control or invisible character, else None."""
    found = _UNSHOWN.search(label.strip(EDGES))
    return f"the label {label!r} holds the character U+{ord(found[0]):04X}, which cannot be shown" if found else None
