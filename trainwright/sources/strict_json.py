"""JSON as its standard has it: no NaN, no infinity, no key twice, no depth that exhausts the reader."""

import json
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any

from trainwright.core.errors import Fault, InputError
from trainwright.sources.records import repeated


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


def parse(text: str, file: str, line: int = 1) -> Any:
    """The value of a JSON text whose first line is line `line` of `file`. Raises InputError with line and column."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        nul = text.find("\0")
        place = _place(text, error.pos if nul < 0 else nul, line)
        reason = f"not JSON: {error.msg}" if nul < 0 else "not JSON: a NUL character"
        raise InputError(Fault(file, reason, "Mend the file at that place.", row=place)) from None
    except _RefusedError as error:
        at = _object_of_error(text)
        place = _place(text, at or 0, line)
        reason = f"{error} (its object begins here)" if at is not None else str(error)
        raise InputError(Fault(file, reason, error.remedy, row=place)) from None
    except RecursionError:
        raise InputError(Fault(file, "nested too deeply to be read", "Flatten it.", row=f"line {line}")) from None
    except ValueError as error:  # a number of thousands of digits
        raise InputError(Fault(file, f"not readable JSON: {error}", "Mend it.", row=f"line {line}")) from None


def _place(text: str, at: int, line: int) -> str:
    return f"line {line + text.count(chr(10), 0, at)}, column {at - text.rfind(chr(10), 0, at)}"


def _object_of_error(text: str) -> int | None:
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
        decoder.decode(text)
    except _RefusedError as error:
        return error.at
    except RecursionError:  # this reading is in Python, and gives up at less depth than the first
        return None
    return None
