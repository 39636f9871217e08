"""Pins: which bytes a pipeline's source is. `data/<pipeline>/source.json`, in Git, so that the history of that file
is the history of the data.

A pin repeats the `source` section of params.yaml and adds `commit` (of a Hub data set, else null), `rows`, `bytes`,
`sha256`, and `files` with the same of every file (of a Hub data set: of every split, as JSON Lines). Of a source under
`dvc add` it has the MD5 of each .dvc file too, as `dvc`. It holds no
time, so that reading the same bytes again gives the same pin. A missing licence is "unknown", and says so.

`test_rows` holds the ids of rows that ingestion takes whatever its limit: the frozen test rows of the version in use.
A retrain writes them when ingestion has to run again, so that new rows of the source do not push them out.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainwright import sources
from trainwright.core import tasks
from trainwright.core.errors import Fault, InputError
from trainwright.core.layout import Layout, digest, write_file
from trainwright.core.params import Pipeline, Source
from trainwright.core.yaml_file import read_yaml
from trainwright.sources import hub

Pin = dict[str, Any]
TRIES = 2
TEST_ROWS = "test_rows"
UNPINNED = b"{}"  # the content of a pin that is yet to be made
NAMED = ("uri", "format", "revision", "configuration", "splits")  # what of a source decides which bytes are read


def is_pinned(layout: Layout) -> bool:
    """Return whether the source has a pin, be it a damaged one."""
    path = layout.source_pin
    return path.exists() and not (path.is_file() and path.read_bytes().strip() == UNPINNED)


def begin(layout: Layout) -> None:
    """Write a file in the place of a pin that is yet to be made, unless there is one.

    Without the file a plain `dvc repro` ends before ingestion, which says how to make the pin.
    """
    if not layout.source_pin.exists():
        write_file(layout.source_pin, f"{UNPINNED.decode()}\n")


def refresh(layout: Layout, params: Pipeline) -> tuple[Pin | None, Pin]:
    """Read the source again, whole, and move its pin. Returns the old pin (None where there was none) and the new.

    Raises InputError where the source cannot be read, and then leaves the pin as it was.
    """
    old = _read(layout) if is_pinned(layout) else None
    commit = hub.resolve(params.source) if params.source.format == "hub" else None
    return old, _pin(layout, params, commit, old)


def follow(layout: Layout, params: Pipeline) -> Pin:
    """Make the pin anew after an edit of params.yaml, and return it.

    Where the edit left alone what decides the bytes (it named the licence, or mapped a column), they must be those of
    the old pin, a Hub data set's at the old commit: only `refresh` takes others. Raises InputError as `refresh` does.
    """
    old = _read(layout) if is_pinned(layout) else None
    section = _section(params.source)
    if old is None or any(old.get(name) != section[name] for name in NAMED):
        return refresh(layout, params)[1]
    source = _pinned(params.source, old["commit"])
    _compare(source, old, _parts(source, layout.root), _remedy(layout))
    return _pin(layout, params, old["commit"], old)


def test_rows(layout: Layout) -> frozenset[str]:
    """Return the ids of the rows that ingestion takes whatever its limit. Raises InputError for a damaged pin."""
    return frozenset(_read(layout).get(TEST_ROWS, ()))


def keep_test_rows(layout: Layout, ids: Iterable[str]) -> None:
    """Write into the pin which rows ingestion takes whatever its limit. Raises InputError for a damaged pin."""
    _write(layout, _read(layout) | {TEST_ROWS: sorted(ids)})


def _pin(layout: Layout, params: Pipeline, commit: str | None, old: Pin | None) -> Pin:
    source = _pinned(params.source, commit)
    rows, found = _read_still(source, layout.root, tasks.load(params.task, "rows").COLUMNS)
    if not sum(rows.values()):
        raise InputError(Fault(source.uri, "holds no rows", "Name a source with at least one row."))
    parts = [{**part, "rows": rows[part["path"]]} for part in found]
    new = {**_section(params.source), "commit": commit, **_totals(parts), "files": parts}
    if names := _tracked_parts(layout, params.source):
        new["dvc"] = names
    if old and TEST_ROWS in old:
        new[TEST_ROWS] = old[TEST_ROWS]
    _write(layout, new)
    return new


def _write(layout: Layout, pin: Pin) -> None:
    write_file(layout.source_pin, json.dumps(pin, indent=2, ensure_ascii=False) + "\n")


def _read_still(source: Source, root: Path, columns: Any) -> tuple[dict[str, int], list[Pin]]:
    """Rows by file and what `_parts` says, both of the same bytes: a source that changes while it is read is read
    again, once."""
    for _ in range(TRIES):
        before = _parts(source, root)
        rows = {name: table.num_rows for name, table in sources.read_files(source, root, columns)}
        if source.format == "hub" or _parts(source, root) == before:  # a commit of the Hub's stays what it is
            return rows, before
    raise InputError(Fault(source.uri, "it changes while it is read", "Read it when whoever writes it has finished."))


def verify(layout: Layout, params: Pipeline) -> Source:
    """The source to read, a Hub data set's at the pinned commit, only if its bytes are those of the pin.

    Raises InputError where there is no pin, where params.yaml names another source than the pin does, and where
    the bytes differ.
    """
    remedy = _remedy(layout)
    name = layout.source_pin.relative_to(layout.root).as_posix()
    if not is_pinned(layout):
        raise InputError(Fault(name, "the source has no pin yet", remedy))
    pin = _read(layout)
    for field in differing(pin, params.source):
        reason = f"params.yaml says {_section(params.source)[field]!r}, the pin {pin.get(field)!r}"
        raise InputError(Fault(name, reason, remedy, field=f"source.{field}"))
    source = _pinned(params.source, pin["commit"])
    if (now := _tracked_parts(layout, params.source)) != pin.get("dvc", {}):
        reason = f"DVC's files of the source name {now or 'nothing'}, the pin {pin.get('dvc') or 'nothing'}"
        raise InputError(Fault(name, reason, f"Run `dvc checkout` if the files here are older. {remedy}"))
    _compare(source, pin, _parts(source, layout.root), remedy)
    return source


def differing(pin: Pin, source: Source) -> list[str]:
    """Name the settings of a source that its pin has otherwise. One that is newer than the pin had its default then."""
    then = {**_section(Source(uri=source.uri, format=source.format)), **pin}
    return [field for field, value in _section(source).items() if then[field] != value]


def tracked(root: Path, path: str) -> str:
    """The MD5 that the .dvc file beside a relative path names; "" if the path is not under `dvc add`.

    Raises InputError if the .dvc file cannot be read.
    """
    file = root / f"{path}.dvc"
    if Path(path).is_absolute() or "://" in path or not file.is_file():
        return ""
    content = read_yaml(file)
    try:
        return str(content["outs"][0]["md5"])
    except (KeyError, IndexError, TypeError):
        raise InputError(Fault(f"{path}.dvc", "names no MD5", f"Run `dvc add {path}`.")) from None


def _tracked_parts(layout: Layout, source: Source) -> dict[str, str]:
    """The MD5 of each path of a source that is under `dvc add`."""
    paths = [source.uri, *source.splits.values()] if source.format != "hub" else []
    return {path: md5 for path in paths if (md5 := tracked(layout.root, path))}


def _pinned(source: Source, commit: str | None) -> Source:
    return source.model_copy(update={"revision": commit}) if commit else source


def _remedy(layout: Layout) -> str:
    return f"Run `trainwright refresh {layout.pipeline}` to take the source as it is now."


def _section(source: Source) -> Pin:
    return source.model_dump(mode="json")


def _parts(source: Source, root: Path) -> list[Pin]:
    """Name, declared split, bytes and SHA-256 of everything that the source is made of."""
    if source.format == "hub":
        return list(hub.digests(source))
    return [
        {"path": file.name, "split": file.split, "bytes": file.path.stat().st_size, "sha256": digest(file.path)}
        for file in sources.files(source, root)
    ]


def _totals(parts: list[Pin]) -> Pin:
    """Of one file its own SHA-256; of several that of their `<SHA-256>  <name>` lines."""
    lines = "".join(f"{part['sha256']}  {part['path']}\n" for part in parts)
    sha256 = parts[0]["sha256"] if len(parts) == 1 else hashlib.sha256(lines.encode()).hexdigest()
    return {"rows": sum(p["rows"] for p in parts), "bytes": sum(p["bytes"] for p in parts), "sha256": sha256}


def _compare(source: Source, pin: Pin, parts: list[Pin], remedy: str) -> None:
    expected = {part["path"]: part for part in pin["files"]}
    found = {part["path"]: part for part in parts}
    if missing := sorted(expected.keys() ^ found.keys()):
        reason = f"the pin and the source do not hold the same files: {', '.join(missing)}"
        raise InputError(Fault(source.uri, reason, remedy))
    faults = [
        Fault(
            name if len(found) == 1 or source.format != "hub" else f"{source.uri}, {name}",
            f"its bytes are not those of the pin: expected {_shown(expected[name])}, found {_shown(part)}",
            f"Restore the file, or: {remedy[0].lower()}{remedy[1:]}",
        )
        for name, part in found.items()
        if (part["bytes"], part["sha256"]) != (expected[name]["bytes"], expected[name]["sha256"])
    ]
    if faults:
        raise InputError(*faults)


def _shown(part: Pin) -> str:
    return f"{part['bytes']} bytes, SHA-256 {part['sha256']}"


def _read(layout: Layout) -> Pin:
    name = layout.source_pin.relative_to(layout.root).as_posix()
    remedy = f"Restore it with Git, or remove it and run `trainwright refresh {layout.pipeline}`."
    try:
        if not layout.source_pin.is_file():  # a pipe would be waited for
            raise ValueError("no plain file")
        pin = json.loads(layout.source_pin.read_text(encoding="utf-8"))
        whole = all(key in pin for key in ("uri", "commit", "rows", "bytes", "sha256"))
        whole = whole and all({"path", "bytes", "sha256"} <= part.keys() for part in pin["files"])
        whole = whole and all(isinstance(row, str) for row in pin.get(TEST_ROWS, []))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise InputError(Fault(name, "the pin cannot be read", remedy))
    return dict(pin)
