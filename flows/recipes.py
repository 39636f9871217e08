"""Ready pipelines: a file of recipes/ holds one, `{name: {…}}`, and is copied into params.yaml with its comments."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from trainwright.core import layout, params
from trainwright.core.errors import Fault, InputError, nearest


def add(root: Path, recipe: str, name: str | None = None) -> str:
    """Put a recipe at the end of params.yaml's pipelines, and leave every other byte as it is.

    Returns the new pipeline's name. Raises InputError where there is no such recipe, where a pipeline of that
    name is there already, and where params.yaml would not be valid with it.
    """
    text, own_name, content = _recipe(root, recipe)
    name = name or own_name
    path = root / "params.yaml"
    params.load(path)
    before = params.read_yaml(path)
    if name in before["pipelines"]:
        remedy = f"Take another name: `trainwright add {recipe} --name NAME`."
        raise InputError(Fault(path.name, f"there is a pipeline {name!r} already", remedy))
    new = _inserted(path, text.replace(f"{own_name}:", f"{name}:", 1))
    aside = root / ".trainwright" / "adding" / "params.yaml"
    layout.write_file(aside, new)
    try:
        params.load(aside)
        expected = {**before, "pipelines": {**before["pipelines"], name: content}}
        if params.read_yaml(aside) != expected:
            raise InputError(Fault(path.name, "cannot be extended as it is written", f"Copy recipes/{recipe}.yaml in."))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return name


def _recipe(root: Path, recipe: str) -> tuple[str, str, dict[str, Any]]:
    """A recipe's text from its pipeline's name on, that name, and what it holds."""
    known = sorted(path.stem for path in (root / "recipes").glob("*.yaml"))
    if recipe not in known:
        raise InputError(Fault("recipes/", f"there is no recipe {recipe!r}", nearest(recipe, known)))
    path = root / "recipes" / f"{recipe}.yaml"
    ((name, content),) = params.read_yaml(path).items()
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{name}:"))
    return "\n".join(lines[start:]) + "\n", name, content


def _inserted(path: Path, text: str) -> str:
    """params.yaml with `text`, indented, after the last pipeline, before what is said of the next section."""
    whole = path.read_text(encoding="utf-8-sig")
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
