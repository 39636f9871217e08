"""The promises of the gates between ingestion and tokenization, the same for every task with a row table.

`task` is the task's `rows` part (see trainwright/tasks/interface.py): its schema, what makes two rows
duplicates, and the kind of each row that splitting keeps in proportion.
"""

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainwright.gates.promises import (
    Check,
    Checked,
    Mask,
    Promise,
    breaking,
    columns,
    enough_rows,
    hashes,
    ids_unique,
    named,
    none_of,
    share,
    to_mask,
)
from trainwright.rows import tables
from trainwright.rows.components import components

if TYPE_CHECKING:
    from trainwright.tasks.interface import Rows

COMMON = pa.schema([pa.field(field.name, field.type) for field in tables.COMMON])
SHOWN = 40  # characters of a group's name in a message
HELD_OUT = pa.array(["validation", "test"])


def table(path: Path, task: "Rows", checks: Mapping[str, tuple[Check, str]]) -> Generator[Promise, None, bool]:
    """The promises of any row table, and the task's own `checks` of each row (a check and what it says).

    Returns whether the table has the columns that further promises need.
    """
    fits = columns(pq.read_schema(path), task.SCHEMA)
    yield fits
    if fits.rows:
        return False
    yield ids_unique(tables.read(path, ["id"])["id"])
    found = breaking(path, {name: check for name, (check, _) in checks.items()})
    for name, (_, says) in checks.items():
        yield none_of(name, says, found[name])
    return True


def ingested(checked: Checked, limits: Any) -> Iterator[Promise]:
    now = _common(checked.folder / "rows.parquet")
    yield enough_rows(now.num_rows, limits.min_rows, key="min_rows")
    known = pc.or_(now["split"].is_null(), pc.is_in(now["split"], value_set=pa.array(tables.SPLITS)))
    yield none_of("splits_known", f"a declared split is one of {', '.join(tables.SPLITS)}", _ids(now, pc.invert(known)))
    yield none_of("no_children", "no row of a source names a parent", _ids(now, now["parent"].is_valid()))


def cleaned(checked: Checked, limits: Any, task: "Rows") -> Iterator[Promise]:
    path = checked.folder / "rows.parquet"
    kept, dropped = tables.read(path, ["id"]), tables.read(checked.folder / "dropped.parquet")
    before = tables.read(checked.open("ingestion") / "rows.parquet", ["id"])["id"]
    yield enough_rows(kept.num_rows, 1)
    says = "every row that came in is kept or dropped, once, and no other row is there"
    yield none_of(
        "rows_accounted_for", says, _not_once(before, pa.chunked_array([*kept["id"].chunks, *dropped["id"].chunks]))
    )
    unexplained = pc.equal(pc.utf8_length(pc.fill_null(dropped["reason"], "")), 0)
    yield none_of("drops_explained", "every dropped row has its reason", _ids(dropped, unexplained))
    dropped_share = share(dropped.num_rows, len(before))
    says = "the share of dropped rows is small enough"
    most = limits.max_dropped_share
    gone = dropped["id"].to_pylist()
    yield Promise("dropped_share", says, dropped_share, maximum=most, rows=gone, keys=("max_dropped_share",))
    if checked.params.duplicates:
        says = f"no two rows have the same {' and '.join(task.IDENTITY)}"
        yield none_of(
            "no_duplicates",
            says,
            named(kept["id"], _repeated(hashes(path, list(task.IDENTITY)))),
            "cleaning.duplicates",
        )


def augmented(checked: Checked, limits: Any, task: "Rows") -> Iterator[Promise]:
    path, source = checked.folder / "rows.parquet", checked.open("cleaning") / "rows.parquet"
    now, before = _common(path), _common(source)
    known, child = pc.is_in(now["id"], value_set=before["id"]), now["parent"].is_valid()
    broken = _changed(before["id"], hashes(source, task.SCHEMA.names), now["id"], hashes(path, task.SCHEMA.names))
    yield none_of("originals_unchanged", "every row that came in is still there, once and unchanged", broken)
    nameless = pc.invert(pc.or_(known, child))
    yield none_of("children_name_parents", "every new row names the row that it was made from", _ids(now, nameless))
    at = pc.index_in(now["parent"], value_set=before["id"])
    orphans = pc.and_(child, at.is_null())
    yield none_of("parents_exist", "every parent is one of the rows that came in", _ids(now, orphans))
    declared = (pc.take(before["split"], at), now["split"].filter(child))
    held_out = to_mask(pc.is_in(declared[0], value_set=HELD_OUT))
    held_out[np.flatnonzero(to_mask(child))] |= to_mask(pc.is_in(declared[1], value_set=HELD_OUT))
    says = "no child is made from a row declared validation or test, or declared so itself"
    yield none_of("no_held_out_children", says, named(now["id"], held_out))
    strayed = pc.not_equal(now["group"], pc.take(before["group"], at))
    yield none_of("children_in_group", "a child is in its parent's group", _ids(now, strayed))
    children = share(int(to_mask(child).sum()), now.num_rows)
    says, most = "the share of children is small enough", limits.max_children_share
    yield Promise("children_share", says, children, maximum=most, keys=("max_children_share",))


def split_up(checked: Checked, limits: Any, task: "Rows") -> Iterator[Promise]:
    """The promises of train.parquet, validation.parquet and test.parquet."""
    paths = {split: checked.folder / f"{split}.parquet" for split in tables.SPLITS}
    fits = [columns(pq.read_schema(path), task.SCHEMA, f"{split}_columns") for split, path in paths.items()]
    yield from fits
    if any(promise.rows for promise in fits):
        return
    source = checked.open("augmentation") / "rows.parquet"
    parts = [_common(path) for path in paths.values()]
    now, before = pa.concat_tables(parts), _common(source)
    place = np.repeat(np.arange(len(parts)), [part.num_rows for part in parts])
    yield ids_unique(now["id"])
    for split, part in zip(tables.SPLITS, parts, strict=True):
        key = f"min_{split}_rows"
        what = f"{split} rows"
        if part.num_rows < getattr(limits, key):
            what += _largest(source, checked.params.by, task)
        yield enough_rows(part.num_rows, getattr(limits, key), f"{split}_rows", what, key)
    yield from _placed(paths, source, now, before, task)
    yield from _apart(checked, now, before, place, limits, task)
    value = _stratum_difference(paths, task)
    says = "each split has about the same share of each kind of row as the whole"
    most = limits.max_stratum_difference
    yield Promise("stratum_difference", says, value, maximum=most, keys=("max_stratum_difference",))


def _largest(source: Path, by: str, task: "Rows") -> str:
    """The set of rows that splitting may not part, if one holds more than half of all rows, and the remedy; else ""."""
    groups, texts, names = [], [], []
    for batch in tables.batches(source, ["group", *task.MAIN]):
        names.append(batch["group"])
        texts.append(tables.main_text_hash(batch, task.MAIN))
        groups.append(tables.content_hash(batch, ["group"]) if by == "group" else texts[-1])
    if not groups:
        return ""
    together = components(np.concatenate(groups), np.concatenate(texts))
    counts = np.bincount(together)
    count, total = int(counts.max()), len(together)
    if count * 2 <= total:
        return ""
    inside = pa.array(together == counts.argmax())
    most = pc.value_counts(pa.chunked_array([chunk for name in names for chunk in name.chunks]).filter(inside))
    found = max(most.to_pylist(), key=lambda pair: (pair["counts"], pair["values"]))
    said = f"{count:,} of {total:,} rows ({count / total:.1%}) belong together and stay in one split"
    main = " or ".join(task.MAIN)
    if by == "group" and len(np.unique(np.concatenate(texts)[together == counts.argmax()])) > 1:
        group = ascii(found["values"])[:SHOWN]
        remedy = f"set splitting.by: text to group rows by {main} alone, or map source.columns.{task.GROUP} otherwise"
        return f" ({said}: {found['counts']:,} of them are of group {group}; {remedy})"
    return f" ({said}: their {main} is the same; declare splits in source.splits or give rows with other texts)"


def _placed(paths: dict[str, Path], source: Path, now: pa.Table, before: pa.Table, task: "Rows") -> Iterator[Promise]:
    """Every row is placed, as it was; children may be left out."""
    originals = before["id"].filter(before["parent"].is_null())
    missing = named(originals, ~to_mask(pc.is_in(originals, value_set=now["id"])))
    yield none_of("all_rows_placed", "every row that is no child is in a split", missing)
    contents = [name for name in task.SCHEMA.names if name != "split"]  # the one column that splitting decides
    kept = np.concatenate([hashes(path, contents) for path in paths.values()])
    at = pc.index_in(now["id"], value_set=before["id"])
    as_it_was = np.append(hashes(source, contents), np.uint64(0))  # the last is for rows that did not come in
    broken = to_mask(at.is_null()) | (as_it_was[at.fill_null(-1).to_numpy()] != kept)
    yield none_of("rows_unchanged", "every row in a split is one that came in, unchanged", named(now["id"], broken))


def _apart(
    checked: Checked, now: pa.Table, before: pa.Table, place: npt.NDArray[np.int64], limits: Any, task: "Rows"
) -> Iterator[Promise]:
    """Nothing that belongs together is in two splits, and what a source declares is kept."""
    paths = {split: checked.folder / f"{split}.parquet" for split in tables.SPLITS}
    groups = pc.dictionary_encode(now["group"].combine_chunks()).indices.to_numpy()
    batches = [batch for path in paths.values() for batch in tables.batches(path, list(task.MAIN))]
    texts = np.concatenate([np.zeros(0, np.uint64), *(tables.main_text_hash(batch, task.MAIN) for batch in batches)])
    main = " or ".join(task.MAIN)
    together = {"texts_apart": (texts, main, f"no {main} stands in more than one of train, validation and test")}
    if checked.params.by == "group":
        together = {"groups_apart": (groups, "group", "no group is in two splits")} | together
    declared = now["split"].null_count < now.num_rows
    for name, (keys, kind, says) in together.items():
        shared = named(now["id"], _across(keys, place))
        if limits.max_shared_share and declared:  # what is split here has no excuse
            most = limits.max_shared_share
            few = f"the share of rows whose {kind} is in another declared split too is small enough"
            value = share(len(shared), now.num_rows)
            yield Promise(name, few, value, maximum=most, rows=shared, keys=("max_shared_share",))
        else:
            yield none_of(name, says, shared, *(("max_shared_share",) if declared else ()))
    contents = np.concatenate([hashes(path, list(task.IDENTITY)) for path in paths.values()])
    says = f"no two rows with the same {' and '.join(task.IDENTITY)} are in two splits"
    yield none_of("duplicates_apart", says, named(now["id"], _across(contents, place)))
    child = to_mask(now["parent"].is_valid())
    train = now["id"].filter(pa.array(place == 0))
    strays = child & ((place != 0) | ~to_mask(pc.is_in(now["parent"], value_set=train)))
    yield none_of("children_in_train", "children are in train alone, with their parents", named(now["id"], strays))
    source = pc.take(before["split"], pc.index_in(now["id"], value_set=before["id"]))
    given = pa.array(np.array(tables.SPLITS, dtype=object)[place], pa.string())
    made = pc.invert(pc.is_in(given, value_set=pc.unique(source).drop_null()))  # splits that are cut out of train
    moved = pc.and_(pc.not_equal(source, given), pc.invert(pc.and_(pc.equal(source, "train"), made)))
    says = "a row is in the split that the source says, or, declared train, in one that the source lacks"
    yield none_of("declared_splits_kept", says, _ids(now, moved))


def _stratum_difference(paths: dict[str, Path], task: "Rows") -> float | None:
    """The largest difference between a kind's share of a split and its share of all rows (children apart)."""
    counts = []
    for path in paths.values():
        kinds: dict[str, int] = {}
        for batch in tables.batches(path):
            for pair in pc.value_counts(task.stratum(batch.filter(batch["parent"].is_null()))):
                kinds[pair["values"].as_py()] = kinds.get(pair["values"].as_py(), 0) + pair["counts"].as_py()
        counts.append(kinds)
    names = sorted({name for kinds in counts for name in kinds})
    numbers = np.array([[kinds.get(name, 0) for name in names] for kinds in counts], dtype=np.float64)
    if not names or not numbers.sum(axis=1).all():
        return None
    shares = numbers / numbers.sum(axis=1, keepdims=True)
    return float(abs(shares - numbers.sum(axis=0) / numbers.sum()).max())


def _common(path: Path) -> pa.Table:
    """The columns that every row table has, whether the file says that they may hold nulls or not."""
    return tables.read(path, COMMON.names).cast(COMMON)


def _ids(rows: pa.Table, mask: Any) -> list[str]:
    return named(rows["id"], to_mask(mask))


def _not_once(before: pa.ChunkedArray, after: pa.ChunkedArray) -> list[str]:
    """The ids of `before` that are not in `after` exactly once, and then those of `after` that are new."""
    seen = after.value_counts()
    once = seen.field("values").filter(pc.equal(seen.field("counts"), 1))
    lost = named(before, ~to_mask(pc.is_in(before, value_set=once)))
    return lost + named(after, ~to_mask(pc.is_in(after, value_set=before)))


def _changed(
    before: pa.ChunkedArray, old: npt.NDArray[np.uint64], after: pa.ChunkedArray, new: npt.NDArray[np.uint64]
) -> list[str]:
    """The ids of `before` that are not in `after` once, with the same content hash."""
    at = pc.index_in(before, value_set=after)
    if not len(after):
        return named(before, to_mask(at.is_null()))
    broken = to_mask(at.is_null()) | (new[at.fill_null(0).to_numpy()] != old)
    kept = after.filter(pc.is_in(after, value_set=before)).value_counts()
    twice = kept.field("values").filter(pc.greater(kept.field("counts"), 1))
    return named(before, broken | to_mask(pc.is_in(before, value_set=twice)))


def _repeated(keys: npt.NDArray[np.uint64]) -> Mask:
    """Where a key stands that an earlier place has too."""
    again = np.ones(len(keys), dtype=np.bool_)
    again[np.unique(keys, return_index=True)[1]] = False
    return again


def _across(keys: npt.NDArray[Any], place: npt.NDArray[np.int64]) -> Mask:
    """Where a key stands that is in more than one place."""
    names, code = np.unique(keys, return_inverse=True)
    first, last = np.full(len(names), len(tables.SPLITS)), np.full(len(names), -1)
    np.minimum.at(first, code, place)
    np.maximum.at(last, code, place)
    return np.asarray((first != last)[code], dtype=np.bool_)
