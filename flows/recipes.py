"""Ready pipelines: a file of recipes/ holds one, `{name: {…}}`, and is copied into params.yaml with its comments.

A folder of recipes/ is a group ("glue"): its recipes can be added one by one or all at once.
"""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from trainwright.core import layout, params
from trainwright.core.errors import Fault, InputError, nearest
from trainwright.core.yaml_file import read_yaml


def add(root: Path, recipe: str, name: str | None = None) -> list[str]:
    """Put a recipe, or those of a group, at the end of params.yaml's pipelines, and leave every other byte as it is.

    Returns the new pipelines' names; of a group only those that were not there. Raises InputError where there is no
    such recipe, where nothing would be new, and where params.yaml would not be valid with it; then nothing is added.
    """
    files = _files(root, recipe)
    if name and len(files) > 1:
        raise InputError(Fault(f"recipes/{recipe}", "a group cannot have one name", "Leave --name out."))
    path = root / "params.yaml"
    params.load(path)
    whole, expected = path.read_text(encoding="utf-8-sig"), read_yaml(path)
    there, added = set(expected["pipelines"]), []
    for file in files:
        text, own_name, content = _recipe(file)
        if (new := name or own_name) not in there:
            whole = _inserted(path, whole, text.replace(f"{own_name}:", f"{new}:", 1))
            expected["pipelines"][new] = content
            added.append(new)
    if not added:
        remedy = f"Take another name: `trainwright add {recipe} --name NAME`."
        raise InputError(Fault(path.name, f"there is a pipeline {name or files[0].stem!r} already", remedy))
    _replace(root, path, whole, expected)
    return added


def _replace(root: Path, path: Path, text: str, expected: dict[str, Any]) -> None:
    """Write params.yaml anew, once its text is known to be valid and to say what is `expected`."""
    aside = root / ".trainwright" / "adding" / "params.yaml"
    layout.write_file(aside, text)
    try:
        params.load(aside)
        if read_yaml(aside) != expected:
            raise InputError(Fault(path.name, "cannot be extended as it is written", "Copy the recipe in by hand."))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _files(root: Path, recipe: str) -> list[Path]:
    """The file of a recipe, or those of a group. Every name stands once in recipes/ and its folders."""
    folder = root / "recipes"
    known = {path.stem: [path] for path in sorted(folder.rglob("*.yaml"))}
    known |= {path.name: sorted(path.glob("*.yaml")) for path in sorted(folder.glob("*")) if path.is_dir()}
    if recipe not in known:
        remedy = nearest(recipe, known) if known else "The folder has none: restore it with Git."
        raise InputError(Fault("recipes/", f"there is no recipe {recipe!r}", remedy))
    return known[recipe]


def _recipe(path: Path) -> tuple[str, str, dict[str, Any]]:
    """A recipe's text from its pipeline's name on, that name, and what it holds."""
    ((name, content),) = read_yaml(path).items()
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{name}:"))
    return "\n".join(lines[start:]) + "\n", name, content


def _inserted(path: Path, whole: str, text: str) -> str:
    """`whole`, of params.yaml, with `text`, indented, after the last pipeline, before the next section's comments."""
    tree = YAML(typ="rt").load(whole)
    pipelines = tree.get("pipelines")
    if not pipelines or pipelines.fa.flow_style():
        raise InputError(Fault(path.name, "has no pipelines, one a line", "Write `pipelines:` with one below it."))
    keys = list(tree)
    after = keys[keys.index("pipelines") + 1 :]
    lines = whole.splitlines(keepends=True)
    end = tree.lc.key(after[0])[0] if after else len(lines)
    while end and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
        end -= 1
    indent = " " * pipelines.lc.key(next(iter(pipelines)))[1]
    block = "".join(f"{indent}{line}" if line.strip() else line for line in text.splitlines(keepends=True))
    head = "".join(lines[:end])
    return head + ("" if head.endswith("\n") else "\n") + block + "".join(lines[end:])
