"""Ready pipelines: a file of recipes/ holds one, `{name: {…}}`, and is copied into params.yaml with its comments.

A folder of recipes/ is a group ("glue"): its recipes can be added one by one or all at once.
"""

from pathlib import Path
from typing import Any

from flows import params_file
from trainwright.core import params
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
    there, added = set(params.load(path).pipelines), {}
    for file in files:
        text, own_name, content = _recipe(file)
        if (new := name or own_name) not in there:
            added[new] = (text.replace(f"{own_name}:", f"{new}:", 1), content)
    if not added:
        remedy = f"Take another name: `trainwright add {recipe} --name NAME`."
        raise InputError(Fault(path.name, f"there is a pipeline {name or files[0].stem!r} already", remedy))
    params_file.add(root, added)
    return list(added)


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
