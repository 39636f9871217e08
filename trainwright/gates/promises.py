"""What a promise is, and the promises that every task's tables share.

A promise is data: its name, its sentence, the range it must lie in, and what was observed. Violations are
found column-wise in Arrow here and in the tasks; Great Expectations states and judges (see runner.py), and
sees ids, booleans and aggregates alone, never a text.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trainwright.rows import tables

Mask = npt.NDArray[np.bool_]
Check = Callable[[pa.Table], Mask]


@dataclass(frozen=True)
class Promise:
    """A promise and what was observed of it.

    `value` must lie in [minimum, maximum], of which at least one is given; None, NaN and infinity mean that
    it could not be computed, which fails. `rows` name all that breaks it, in table order: ids of rows, or
    columns, files or weights where the promise is about those. `ids` is an id column of which Great
    Expectations is to see for itself that it has no null and no id twice.
    `keys` name the settings of params.yaml that decide: of the gate's own section (`max_loss`), or, with a dot, of
    the pipeline (`tokenization.max_length`).
    """

    name: str
    says: str
    value: float | None
    minimum: float | None = None
    maximum: float | None = None
    rows: list[str] = field(default_factory=list)
    ids: pa.ChunkedArray | None = None
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """What a gate looks at: `folder`, which its stage wrote under the stage's own `params` (its section of
    params.yaml), and by `open` the certified folders of stages before it. The tokenization gate alone may read
    `postprocessing`, that section of params.yaml: it is in no other gate's suite."""

    folder: Path
    open: Callable[[str], Path]
    params: Any = None
    postprocessing: Any = None


def none_of(name: str, says: str, rows: Iterable[str], *keys: str) -> Promise:
    """The promise that nothing breaks; `rows` name all that does. For `keys` see Promise."""
    broken = list(rows)
    return Promise(name, says, len(broken), maximum=0, rows=broken, keys=keys)


def enough_rows(count: int, minimum: int, name: str = "enough_rows", what: str = "rows", key: str = "") -> Promise:
    return Promise(name, f"there are enough {what}", count, minimum=minimum, keys=(key,) if key else ())


def ids_unique(ids: pa.ChunkedArray, name: str = "ids_unique") -> Promise:
    """No id is missing and none stands twice. Every row of a repeated id is named."""
    seen = ids.value_counts()
    repeated = seen.field("values").filter(pc.greater(seen.field("counts"), 1))
    twice = pc.or_(pc.is_in(ids, value_set=repeated), ids.is_null()).to_numpy(zero_copy_only=False)
    broken = named(ids, twice)
    return Promise(name, "every row has an id and no id stands twice", len(broken), maximum=0, rows=broken, ids=ids)


def columns(schema: pa.Schema, expected: pa.Schema, name: str = "columns") -> Promise:
    """The columns are those expected, by name, order and type."""
    have, want = [(f.name, f.type) for f in schema], [(f.name, f.type) for f in expected]
    wrong = [
        column
        for column, kind in dict.fromkeys(want + have)
        if (column, kind) not in have or (column, kind) not in want
    ]
    if not wrong and have != want:
        wrong = [f.name for f in schema]
    return none_of(name, f"the columns are {', '.join(f.name for f in expected)}", dict.fromkeys(wrong))


def nulls_in(*names: str) -> Check:
    """A check of rows with a null in one of these columns, or among the elements of one that holds lists."""

    def check(batch: pa.Table) -> Mask:
        found = np.zeros(batch.num_rows, dtype=np.bool_)
        for name in names:
            column = batch.column(name).combine_chunks()
            found |= column.is_null().to_numpy(zero_copy_only=False)
            if pa.types.is_list(column.type) and column.flatten().null_count:
                parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
                found[parents[column.flatten().is_null().to_numpy(zero_copy_only=False)]] = True
        return found

    return check


def longer_than(limit: int, column: str) -> Check:
    """A check of rows whose text in `column` has more characters than `limit`, a run of white space being one.

    (A question of SQuAD 1.1 has 25,651 characters, nearly all of them spaces, which cleaning takes out.)
    """

    def check(batch: pa.Table) -> Mask:
        long = to_mask(pc.greater(pc.utf8_length(batch.column(column)), limit))
        texts = batch.column(column).filter(pa.array(long))
        long[long] = to_mask(pc.greater(pc.utf8_length(pc.replace_substring_regex(texts, r"\s+", " ")), limit))
        return long

    return check


def blank(*names: str) -> Check:
    """A check of rows with nothing but white space in one of these text columns."""

    def check(batch: pa.Table) -> Mask:
        empty = [pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(batch.column(name))), 0) for name in names]
        return np.asarray(np.logical_or.reduce([to_mask(column) for column in empty]), dtype=np.bool_)

    return check


def misplaced(text: str, starts: str, texts: str) -> Check:
    """A check of rows where a span is not the text that stands at its offset.

    `text` is a string column; `starts` (list<int32>, in characters) and `texts` (list<string>) are parallel.
    Empty spans, negative offsets, nulls and lists of unequal length count as misplaced.
    """

    def check(batch: pa.Table) -> Mask:
        lengths = [pc.fill_null(pc.list_value_length(batch.column(name)), -1) for name in (starts, texts)]
        uneven = to_mask(pc.not_equal(*lengths))
        even = batch.filter(pa.array(~uneven))
        spans, begins = even.column(texts).combine_chunks(), even.column(starts).combine_chunks()
        at = pc.list_parent_indices(spans).to_numpy()
        whole = even.column(text).combine_chunks().dictionary_encode()  # rows of one text share one copy
        wholes, code = whole.dictionary.to_pylist() or [""], whole.indices.fill_null(0).to_numpy()[at].tolist()
        places = zip(code, begins.flatten().fill_null(-1).to_pylist(), spans.flatten().to_pylist(), strict=True)
        # Of all ways to cut so many spans of one long text Python's own slices alone do not copy the text for each.
        wrong = np.array([not span or b < 0 or wholes[c][b : b + len(span)] != span for c, b, span in places], np.bool_)
        wrong |= to_mask(even.column(text).is_null())[at]
        uneven[np.flatnonzero(~uneven)[at[wrong]]] = True
        return uneven

    return check


def to_mask(column: Any) -> Mask:
    """An Arrow boolean column as a numpy mask; null is false."""
    return np.asarray(pc.fill_null(column, False), dtype=np.bool_)


def named(ids: Any, mask: Mask) -> list[str]:
    """The ids where the mask is true; a row without an id is named by its place, counted from 0."""
    places = np.flatnonzero(mask)
    found = ids.take(pa.array(places)).to_pylist()
    return [f"row {place} (no id)" if id is None else id for place, id in zip(places.tolist(), found, strict=True)]


def breaking(path: Path, checks: Mapping[str, Check]) -> dict[str, list[str]]:
    """For each check, the ids of the rows that it finds; read in batches, so that memory stays flat as rows grow."""
    found: dict[str, list[str]] = {name: [] for name in checks}
    for batch in tables.batches(path):
        for name, check in checks.items():
            found[name] += named(batch.column("id"), check(batch))
    return found


def hashes(path: Path, names: list[str]) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each row's content in the columns `names`, in table order."""
    parts = [tables.content_hash(batch, names) for batch in tables.batches(path, names)]
    return np.concatenate([np.zeros(0, dtype=np.uint64), *parts])


def share(part: int, whole: int) -> float | None:
    """A share, or None (which fails) where there is nothing to have a share of."""
    return part / whole if whole else None


def number(evidence: Any, *path: str) -> float | None:
    """The number at `path` in nested JSON objects, or None (which fails) where there is none."""
    for key in path:
        evidence = evidence.get(key) if isinstance(evidence, Mapping) else None
    return evidence if isinstance(evidence, int | float) and not isinstance(evidence, bool) else None


def finite(column: Any) -> Mask:
    """Where a column of numbers holds a finite one; null is none."""
    return to_mask(pc.is_finite(column))


def read_json(path: Path) -> dict[str, Any]:
    """A file with one JSON object. Raises OSError or ValueError, by which the runner refuses."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """A file with one JSON object a line. Raises OSError or ValueError, by which the runner refuses."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
