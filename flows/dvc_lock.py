"""The text of dvc.lock, which DVC writes in place, a stage's entry at a time."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainwright.core.errors import MachineryError

HEAD = "schema: '2.0'\nstages:\n"
OUTPUT = re.compile(r"^      md5: (\S+)\n      size: (\d+)$", re.M)


def entries(text: str) -> dict[str, str]:
    """The entries of a dvc.lock, by stage, each as the lines that DVC has written. {} of an empty file.

    As text, since reading the YAML of fifty pipelines takes seconds, and since what is merged should stay as it is.
    Raises MachineryError where it is not in the form that DVC writes.
    """
    if not text:
        return {}
    found: dict[str, str] = {}
    for line in text.removeprefix(HEAD).splitlines(keepends=True):
        if stage := re.fullmatch(r"  ([\w@./-]+):\n", line):
            found[stage[1]] = line
        elif found and line.startswith("    "):
            found[next(reversed(found))] += line
        else:
            raise MachineryError(f"dvc.lock is not as DVC writes it: {line.strip()!r}")
    if not text.startswith(HEAD) or not text.endswith("\n"):
        raise MachineryError("dvc.lock is not as DVC writes it")
    return found


def outputs(entries: Iterable[str]) -> dict[str, int]:
    """The MD5 of each output of entries, and how many bytes it has. An entry ends with its outputs."""
    outs = (entry.partition("    outs:\n")[2] for entry in entries)
    return {md5: int(size) for text in outs for md5, size in OUTPUT.findall(text)}


def text(entries: Mapping[str, str]) -> str:
    """The dvc.lock of entries."""
    return HEAD + "".join(entries.values()) if entries else ""


def of(entries: Mapping[str, Any]) -> str:
    """A dvc.lock that has these stages alone, of their entries' values."""
    from dvc.utils.serialize import dumps_yaml

    return str(dumps_yaml({"schema": "2.0", "stages": dict(entries)}))


def content_of(text: str) -> dict[str, Any] | None:
    """What a dvc.lock has, by DVC's own schema; None where it is no YAML or breaks that."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from ruamel.yaml.error import YAMLError
    from voluptuous import Invalid

    from trainwright.core.yaml_file import parse_yaml

    try:
        return dict(COMPILED_LOCKFILE_SCHEMA(parse_yaml(text)))
    except (YAMLError, Invalid, ValueError, RecursionError):
        return None


def is_whole(lock: Path, copies: Iterable[Path]) -> bool:
    """Whether dvc.lock reads as DVC's, and has every stage that it had before runs that were cut short."""
    stages = _stages(lock)
    return stages is not None and all((_stages(copy) or set()) <= stages for copy in copies)


def _stages(lock: Path) -> set[str] | None:
    try:
        text = lock.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    content = content_of(text)
    return set(content.get("stages", {})) if content is not None and text.endswith("\n") else None
