"""Files of YAML, and what is wrong with them in a user's words: line, field, reason, the nearest right key."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from trainwright.core import tasks
from trainwright.core.errors import Fault, InputError, nearest

VARIANT = re.compile(r"^(literal\[.*\]|float|int|str|bool|none|mapping)$")  # how pydantic names the types of a union


DEEPEST = 50  # levels of nesting
LARGEST = 4_000_000  # characters, with what aliases repeat
EACH = 16  # characters that a value counts beside its own
TOO_LARGE = f"larger than {LARGEST:,} characters, what aliases repeat counted each time"


def read_yaml(path: Path) -> Any:
    """Return a YAML 1.2 file as plain values (`5e-5` is a number, as DVC reads it). Raises InputError."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(Fault(path.name, "there is no such file", "Run from inside the project.")) from None
    except UnicodeDecodeError as error:
        raise InputError(Fault(path.name, f"not UTF-8 at byte {error.start}", "Save the file as UTF-8.")) from None
    except RecursionError:
        raise InputError(Fault(path.name, "nested too deeply to be read", "Flatten it.")) from None
    except (YAMLError, ValueError) as error:  # ValueError: a day that no month has
        mark = getattr(error, "problem_mark", None)
        reason = str(getattr(error, "problem", None) or error).splitlines()[0]
        row = f"line {mark.line + 1}" if mark else ""
        raise InputError(Fault(path.name, f"not valid YAML: {reason}", "Mend the line.", row=row)) from None


def parse_yaml(text: str) -> Any:
    """Return a text of YAML 1.2 as plain values, if it is neither too deep nor too large, aliases written out.

    Raises YAMLError or ValueError for what is no YAML or too large, RecursionError for what is nested too deeply.
    """
    if len(text) > LARGEST:
        raise ValueError(TOO_LARGE)
    _measure(text)
    return YAML(typ="safe").load(text)


def _measure(text: str) -> None:
    """Raise RecursionError or ValueError for a text whose values are too deep or too many.

    The parser's events come one by one, so this ends where a limit is passed. The loader of libyaml is recursive
    (100,000 brackets end the process), and whoever walks values that aliases repeat meets each of them again.
    """
    known: dict[str, tuple[int, int] | None] = {}  # the size and depth of what an anchor names, None while it is open
    inside = [("", 0, 0)]  # the anchor, size and depth so far of each open collection
    for event in YAML(typ="safe").parse(text):
        anchor = getattr(event, "anchor", None) or ""
        if isinstance(event, CollectionStartEvent):
            inside.append((anchor, EACH, 0))
            known[anchor] = None
            size: tuple[int, int] | None = (0, 0)
        elif isinstance(event, CollectionEndEvent):
            anchor, count, depth = inside.pop()
            known[anchor] = size = (count, depth + 1)
        elif isinstance(event, AliasEvent):
            size = known.get(anchor, (0, 0))  # of an anchor that is not there the loader names the line
        elif isinstance(event, ScalarEvent):
            known[anchor] = size = (EACH + len(event.value), 0)
        else:
            continue
        if size is None:  # a collection that is part of itself
            raise RecursionError("nested too deeply")
        outer, count, depth = inside[-1]
        inside[-1] = (outer, count + size[0], max(depth, size[1]))
        if len(inside) + inside[-1][2] > DEEPEST:
            raise RecursionError("nested too deeply")
        if inside[-1][1] > LARGEST:
            raise ValueError(TOO_LARGE)


def faults(path: Path, error: ValidationError, data: Any, model: type[BaseModel]) -> list[Fault]:
    """A Fault for every problem that `model` found in `data`, which is what the file at `path` holds."""
    lines = _lines(path)
    return list(dict.fromkeys(_fault(path, problem, lines, data, model) for problem in _flatten(error)))


def _flatten(error: ValidationError) -> Iterator[dict[str, Any]]:
    """Every problem; those of one value that may be of several types become one."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for problem in error.errors(include_url=False):
        where = tuple(part for part in problem["loc"] if not VARIANT.match(str(part)))
        if where != problem["loc"] and where in found:
            found[where]["msg"] += " or " + problem["msg"].removeprefix("Input should be ")
        else:
            found[where] = {**problem, "loc": where}
    yield from found.values()


def _fault(path: Path, problem: dict[str, Any], lines: dict[tuple[Any, ...], int], data: Any, model: Any) -> Fault:
    where = tuple(part for part in problem["loc"] if part != "[key]")
    field = ".".join(str(part) for part in where)
    line = next((lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in lines), None)
    kind, value, reason = problem["type"], problem.get("input"), problem["msg"]
    allowed = re.findall(r"'([^']*)'", str(problem.get("ctx", {}).get("expected", "")))
    remedy = "See the comments in params.yaml and recipes/ for what is allowed."
    if kind == "extra_forbidden" or (kind == "literal_error" and "[key]" in problem["loc"]):
        reason, remedy = "unknown key", nearest(str(where[-1]), allowed or _known(where, data, model))
    elif kind == "missing":
        reason, remedy = "missing", f"Add `{where[-1]}:`."
    elif kind == "value_error":
        reason = str(problem["ctx"]["error"])
    elif kind == "stream":
        remedy = f"Write `{where[-2]}: {{{where[-1]}: {problem['ctx']['wanted']}}}`."
    elif kind in {"model_type", "dict_type"}:
        reason, remedy = "must be a section, of lines `key: value`", "Indent its lines below it."
    elif not isinstance(value, dict | list):
        reason = f"{reason[0].lower()}{reason[1:]}, not {value!r}"
        remedy = nearest(value, allowed) if allowed and isinstance(value, str) else "Change the value."
    return Fault(path.name, reason, remedy, row=f"line {line}" if line else "", field=field)


def _known(where: tuple[Any, ...], data: Any, model: Any) -> list[str]:
    """The keys that would have been right beside the unknown one at `where` in `data`."""
    kind: Any = model
    task = data["pipelines"][where[1]].get("task") if where[0] == "pipelines" and len(where) > 2 else None
    for part in where[:-1]:
        if _is_model(kind):
            field = kind.model_fields.get(part)
            kind = field and (_task_section(task, str(part)) or _section(field.annotation))
        else:  # dict[key, kind of its values]
            kind = (get_args(kind) or (None,))[-1]
    return list(kind.model_fields) if _is_model(kind) else []


def _section(kind: Any) -> Any:
    """The section among the types of a union; another kind as it is."""
    if isinstance(kind, UnionType) or get_origin(kind) in (Union, Annotated):
        return next((found for part in get_args(kind) if _is_model(found := _section(part))), kind)
    return kind


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _task_section(task: Any, name: str) -> Any:
    """The class of a task's own section; None where there is no such task."""
    return tasks.load(task, "params").SECTIONS.get(name) if task in tasks.names() else None


def _lines(path: Path) -> dict[tuple[Any, ...], int]:
    """The line (from 1) on which each key of the file stands."""
    found: dict[tuple[Any, ...], int] = {}

    def walk(node: Any, where: tuple[Any, ...]) -> None:
        if isinstance(node, Mapping) and hasattr(node, "lc"):
            for key, value in node.items():
                if key in (node.lc.data or {}):  # a key merged in by `<<` has no line of its own
                    found[(*where, key)] = node.lc.key(key)[0] + 1
                walk(value, (*where, key))

    walk(YAML(typ="rt").load(path.read_text(encoding="utf-8-sig")), ())
    return found
