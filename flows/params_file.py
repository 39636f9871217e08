"""Edits of params.yaml that leave every other byte as it is: a pipeline more, and the sections that DVC needs by name.

A file in flow style (`pipelines: {a: {…}}`) has no lines to put others between: its YAML reader writes it anew, in
block style, and keeps comments.
"""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from trainwright.core import layout, params
from trainwright.core.errors import Fault, InputError
from trainwright.core.yaml_file import read_yaml

WIDTH = 120


def add(root: Path, pipelines: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
    """Put pipelines after the last one of params.yaml: of each its text, from its name on, and what that holds.

    Raises InputError when params.yaml would not be valid with them; then nothing is added.
    """
    path = root / "params.yaml"
    whole, expected = path.read_text(encoding="utf-8-sig"), read_yaml(path)
    for name, (text, content) in pipelines.items():
        expected["pipelines"] = {**(expected.get("pipelines") or {}), name: content}
        whole = _with_pipeline(whole, text)
    _replace(root, whole, expected)


def complete(root: Path) -> list[str]:
    """Write the sections that pipelines of params.yaml leave out, empty: DVC tracks sections by name.

    Returns what was added ("NAME.cleaning"). Raises InputError when the file is not valid.
    """
    path = root / "params.yaml"
    params.load(path)
    whole, expected = path.read_text(encoding="utf-8-sig"), read_yaml(path)
    added = []
    for name, pipeline in expected["pipelines"].items():
        for section, missing in (((), params.absent(pipeline)), (("gates",), params.absent_gates(pipeline))):
            if missing:
                whole = _with_keys(whole, ("pipelines", name, *section), missing)
                (pipeline[section[0]] if section else pipeline).update(missing)
                added += [".".join((name, *section, key)) for key in missing]
    if added:
        _replace(root, whole, expected)
    return added


def _replace(root: Path, text: str, expected: dict[str, Any]) -> None:
    """Write params.yaml anew, once its text is known to be valid and to say what is `expected`."""
    path, aside = root / "params.yaml", root / ".trainwright" / "adding" / "params.yaml"
    layout.write_file(aside, text)
    try:
        params.load(aside)
        if read_yaml(aside) != expected:
            raise InputError(Fault(path.name, "cannot be extended as it is written", "Write the lines in by hand."))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _with_pipeline(whole: str, text: str) -> str:
    """`whole` with `text`, indented, after the last pipeline, before the next section's comments."""
    tree = YAML(typ="rt").load(whole)
    pipelines = tree.get("pipelines")
    if not pipelines or pipelines.fa.flow_style():
        return _dumped(whole, ("pipelines",), YAML(typ="safe").load(text))  # comments have no place in a flow
    keys = list(tree)
    after = keys[keys.index("pipelines") + 1 :]
    lines = whole.splitlines(keepends=True)
    end = _above(lines, tree.lc.key(after[0])[0] if after else len(lines))
    return _inserted(lines, end, text.splitlines(), pipelines.lc.key(next(iter(pipelines)))[1])


def _with_keys(whole: str, place: tuple[str, ...], keys: Mapping[str, Any]) -> str:
    """`whole` with `keys` in the section at `place`, before its last key and that key's comments."""
    section = YAML(typ="rt").load(whole)
    for part in place:
        section = section[part]
    own = [key for key in section if key in (section.lc.data or {})]  # one merged in by `<<` has no line
    lines = whole.splitlines(keepends=True)
    line, column = section.lc.key(own[-1]) if own else (0, 0)
    if not own or section.fa.flow_style() or lines[line][:column].strip():
        return _dumped(whole, place, keys)
    return _inserted(lines, _above(lines, line), _lines(keys), column)


def _lines(keys: Mapping[str, Any]) -> Iterable[str]:
    for key, value in keys.items():
        yield f"{key}: {'{}' if value == {} else '' if isinstance(value, dict) else value}".rstrip()
        if isinstance(value, dict):
            yield from (f"  {line}" for line in _lines(value))


def _above(lines: list[str], end: int) -> int:
    """The number of the line that follows what stands above `end`, blank lines and comments left out."""
    while end and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return end


def _inserted(lines: list[str], at: int, more: Iterable[str], indent: int) -> str:
    head = "".join(lines[:at])
    block = "".join(f"{' ' * indent}{line}\n" if line.strip() else "\n" for line in more)
    return head + ("" if head.endswith("\n") or not head else "\n") + block + "".join(lines[at:])


def _dumped(whole: str, place: tuple[str, ...], keys: Mapping[str, Any]) -> str:
    """`whole` as its reader writes it, with `keys` in the section at `place`."""
    yaml = YAML(typ="rt")
    yaml.width, yaml.preserve_quotes = WIDTH, True
    tree = yaml.load(whole) or {}
    section = tree
    for part in place:
        if not isinstance(section.get(part), Mapping):
            section[part] = {}
        section = section[part]
    section.update(keys)
    _to_block_style(tree.get("pipelines"))
    out = io.StringIO()
    yaml.dump(tree, out)
    return out.getvalue()


def _to_block_style(node: Any) -> None:
    """A comment after a mapping in flow style would come to stand in its middle."""
    if isinstance(node, Mapping):
        if hasattr(node, "fa") and len(node):
            node.fa.set_block_style()
        for value in node.values():
            _to_block_style(value)
