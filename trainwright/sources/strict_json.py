"""JSON as its standard has it: no NaN, no infinity, no key twice, no depth that exhausts the reader."""

import json
import re
from dataclasses import dataclass
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any

from trainwright.core.errors import Fault, InputError
from trainwright.sources.records import repeated

WHITE = re.compile(r"[ \t\r\n]*")


class _RefusedError(ValueError):
    """JSON that Python would read and the standard forbids; `at` is where the innermost object begins."""

    at: int | None = None

    def __init__(self, reason: str, remedy: str) -> None:
        self.remedy = remedy
        super().__init__(reason)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = repeated(name for name, _ in pairs)
        raise _RefusedError(f"the key {twice!r} stands twice in one object", "Keep one of them.")
    return found


def _constant(word: str) -> Any:
    raise _RefusedError(f"{word} is not JSON", "Write null for a number that is not known.")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_constant)


@dataclass(frozen=True)
class Position:
    """A place in a text: the index of a character, and the number of its line, from 1."""

    text: str
    at: int = 0
    line: int = 1

    def moved(self, count: int) -> "Position":
        return Position(self.text, self.at + count, self.line + self.text.count("\n", self.at, self.at + count))

    def after_space(self) -> "Position":
        """The first character from here that is no white space, or the end."""
        found = WHITE.match(self.text, self.at)
        return self.moved(found.end() - self.at if found else 0)

    @property
    def location(self) -> str:
        return f"line {self.line}, column {self.at - self.text.rfind(chr(10), 0, self.at)}"


def parse(text: str, file: str, line: int = 1) -> Any:
    """The value of a JSON text whose first line is line `line` of `file`. Raises InputError with line and column."""
    value, end = parse_value(text, file, Position(text, line=line).after_space())
    rest = end.after_space()
    if rest.at < len(text):
        nul = "a NUL character" if text[rest.at] == "\0" else "Extra data"
        raise InputError(Fault(file, f"not JSON: {nul}", "Mend the file at that place.", row=rest.location))
    return value


def parse_value(text: str, file: str, begin: Position) -> tuple[Any, Position]:
    """The one JSON value that begins at `begin`, and its end. Raises InputError with line and column."""
    try:
        value, end = _DECODER.raw_decode(text, begin.at)
        return value, begin.moved(end - begin.at)
    except json.JSONDecodeError as error:
        nul = text.find("\0", begin.at)
        place = begin.moved((error.pos if nul < 0 else nul) - begin.at).location
        reason = f"not JSON: {error.msg}" if nul < 0 else "not JSON: a NUL character"
        raise InputError(Fault(file, reason, "Mend the file at that place.", row=place)) from None
    except _RefusedError as error:
        at = _object_of_error(text, begin.at)
        place = begin.moved((at if at is not None else begin.at) - begin.at).location
        reason = f"{error} (its object begins here)" if at is not None else str(error)
        raise InputError(Fault(file, reason, error.remedy, row=place)) from None
    except RecursionError:
        row = f"line {begin.line}"
        raise InputError(Fault(file, "nested too deeply to be read", "Flatten it.", row=row)) from None
    except ValueError as error:  # a number of thousands of digits
        row = f"line {begin.line}"
        raise InputError(Fault(file, f"not readable JSON: {error}", "Mend it.", row=row)) from None


def _object_of_error(text: str, begin: int) -> int | None:
    """Where the innermost refused object begins: a second, slower reading, since hooks are told no positions."""
    decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_constant)
    parse_object = decoder.parse_object  # type: ignore[attr-defined]

    def remembering(text_and_end: tuple[str, int], *rest: Any) -> Any:
        try:
            return parse_object(text_and_end, *rest)
        except _RefusedError as error:
            error.at = text_and_end[1] - 1 if error.at is None else error.at
            raise

    decoder.parse_object = remembering  # type: ignore[attr-defined]
    decoder.scan_once = py_make_scanner(decoder)  # type: ignore[attr-defined]
    try:
        decoder.raw_decode(text, begin)
    except _RefusedError as error:
        return error.at
    except RecursionError:  # this reading is in Python, and gives up at less depth than the first
        return None
    return None
