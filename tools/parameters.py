"""Write docs/parameters.md, the reference of params.yaml, from the types that check it: `make parameters`.

The meaning of a key is the comment on its line or above it, or else the sentences of its class's docstring that name
it. A key with neither ends this with an error.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticUndefined

from trainwright import operations
from trainwright.core import params, tasks

PAGE = Path(__file__).parent.parent / "docs" / "parameters.md"
HEAD = """# Parameters

Every key of `params.yaml`. What is left out has its default. `make parameters` writes this page.

## The file

| key | holds |
|---|---|
| `pipelines.NAME` | a pipeline, see below |
| `operations.NAME` | how it is run, see [operations](#operations) |
| `dispatch` | `{STAGE: LABEL}`: stages that go to workers of a label |
| `labels.LABEL` | what a worker must have, see [labels](#labels) |
| `notifications` | a list of who hears of what, see [notifications](#notifications) |
"""
SECTIONS = {
    "pipelines.NAME": params.Pipeline,
    "source": params.Source,
    "source.stream": params.Stream,
    "base_model.scratch": params.Scratch,
    "ingestion": params.Ingestion,
    "cleaning": params.Cleaning,
    "augmentation": params.Augmentation,
    "splitting": params.Splitting,
    "training": params.Training,
    "training.lora": params.Lora,
    "evaluation": params.Evaluation,
    "report": params.Report,
    "gates.cleaning": params.CleaningGate,
    "gates.augmentation": params.AugmentationGate,
    "gates.splitting": params.SplittingGate,
    "gates.training": params.TrainingGate,
    "gates.evaluation": params.EvaluationGate,
    "operations": operations.Operations,
    "operations: a stage": operations.Operation,
    "schedule": operations.Schedule,
    "publication": operations.Publication,
    "retention": operations.Retention,
    "labels": operations.Label,
    "notifications": operations.Notification,
}
SENTENCE = re.compile(r"(?<=[.])\s+(?=[A-Z`])")


def page() -> str:
    """The text of the reference. Raises ValueError naming every key without a meaning."""
    missing: list[str] = []
    parts = [HEAD]
    for title, section in SECTIONS.items():
        parts += [f"\n## {title}\n", *_table(section, missing)]
    for task in tasks.names():
        parts.append(f"\n## Task {task}\n")
        for name, section in tasks.load(task, "params").SECTIONS.items():
            inner = section.model_fields if name == "gates" else {"": None}
            for gate, field in inner.items():
                held = field.annotation if field else section
                if held not in SECTIONS.values():
                    parts += [f"\n### {task}: {f'gates.{gate}' if gate else name}\n", *_table(held, missing)]
    if missing:
        raise ValueError(f"no meaning is written of: {', '.join(dict.fromkeys(missing))}")
    return "\n".join(parts) + "\n"


def _table(section: type[BaseModel], missing: list[str]) -> Iterator[str]:
    schema = TypeAdapter(section).json_schema()
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    for name, field in section.model_fields.items():
        meaning = _meaning(section, name)
        if not meaning:
            missing.append(f"{section.__module__}.{section.__name__}.{name}")
        default = "required" if field.is_required() and not _filled(name) else _default(field)
        kind = _kind(schema["properties"][name], schema.get("$defs", {}))
        yield f"| `{name}` | {kind} | {default} | {meaning} |".replace("\n", " ")


def _filled(name: str) -> bool:
    """Whether a task fills in a section that has no default of its own."""
    return name in ("tokenization", "postprocessing", "gates")


def _meaning(section: type[BaseModel], name: str) -> str:
    """The comment of a key, or the sentences of the docstring that name it, of the first class that has either."""
    for cls in section.__mro__:
        if cls is params.Section or not issubclass(cls, BaseModel) or name not in cls.model_fields:
            continue
        comment = re.search(rf"(?:^    # (.*)\n)?^    {name}: .*?(?:  # (.*))?$", inspect.getsource(cls), re.M)
        if comment and (words := comment[2] or comment[1]):
            named = ":" in words.split()[0]  # a form of a value is no beginning of a sentence
            return f"{words if named else words[0].upper() + words[1:]}."
        parts = SENTENCE.split(" ".join((cls.__doc__ or "").split()))
        said = [part for part in parts if part.startswith(f"`{name}")] or [part for part in parts if f"`{name}" in part]
        if said:
            return " ".join(said).replace("|", "\\|")
    return ""


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel) or value in ({}, PydanticUndefined):
        return "empty"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def _kind(schema: dict[str, Any], defs: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in schema:
        return _kind(defs[schema["$ref"].rpartition("/")[2]], defs)
    if "anyOf" in schema or "oneOf" in schema:
        kinds = [_kind(part, defs) for part in schema.get("anyOf") or schema["oneOf"]]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_kind(schema['items'], defs)}"
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    limits = [f"{words} {schema[key]:g}" for key, words in bounds.items() if key in schema]
    names = {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "true or false",
        "null": "null",
    }
    return " ".join([names.get(str(kind), "section"), ", ".join(limits)]).strip()


if __name__ == "__main__":
    try:
        text = page()
    except ValueError as error:
        sys.exit(str(error))
    PAGE.write_text(text, encoding="utf-8")
