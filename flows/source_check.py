"""What the next run would say of a source: it is read as ingestion reads it, and held against the gates' minima."""

import gzip
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from trainwright import sources
from trainwright.core import tasks
from trainwright.core.errors import Fault, InputError, RefusedError
from trainwright.core.params import Pipeline, Source
from trainwright.gates.promises import Checked, Promise
from trainwright.rows import tables
from trainwright.sources import opening
from trainwright.sources.records import Columns

WHOLE = 200_000_000  # bytes of a source that are read whole
HEAD = 20_000_000  # bytes that are read of a larger one
BY_LINE = ("csv", "tsv", "jsonl", "conll", "text")  # formats whose files can be cut at the end of a line
SHOWN = 3
Say = Callable[[str], None]


def check_rows(params: Pipeline, root: Path, size: int, say: Say) -> None:
    """Read the source of `size` bytes and say how many rows can be used.

    Raises InputError where ingestion would refuse it, and RefusedError where the ingestion or splitting gate would for
    want of rows. Of a source of more than WHOLE bytes the first rows are read, and no minimum is checked.
    """
    if params.source.format == "hub":
        say("rows         on the Hub: the next run reads them")
        return
    if size > WHOLE and not _can_be_cut(params.source):
        say(f"rows         not read: {size / 1e9:.1f} GB of format {params.source.format} cannot be read in part")
        return
    task = tasks.load(params.task, "rows")
    table, whole = read(params.source, root, size, task.COLUMNS)
    rows, faults = task.from_source(table, params.source.uri)
    part = "" if whole else f"of the first {HEAD / 1e6:.0f} MB "
    say(f"rows         {part}{table.num_rows:,} read, {len(rows):,} can be used, {len(faults):,} go to quarantine")
    for fault in faults[:SHOWN]:
        say(f"  {fault}")
    share = params.ingestion.max_bad_share
    if len(faults) > share * table.num_rows:
        reason = f"{len(faults):,} of {table.num_rows:,} rows are bad, more than the allowed share {share:g}"
        remedy = "Mend the rows, or raise ingestion.max_bad_share."
        raise InputError(Fault(params.source.uri, reason, remedy, field="ingestion.max_bad_share"))
    if not whole:
        return
    taken = min(len(rows), params.ingestion.limit or len(rows))
    tables.require_rows(len(rows), taken, params.source)
    failed = [*_ingestion_gate(params, rows, len(faults)), *_splitting_gate(params, taken)]
    if failed:
        raise RefusedError("\n  ".join(failed))


def read(source: Source, root: Path, size: int, columns: Columns) -> tuple[pa.Table, bool]:
    """The rows of a source of `size` bytes, and whether they are all: of a large one the first are read.

    Raises InputError as `sources.read` does.
    """
    with _readable(source, root, size) as (readable, folder, whole):
        return sources.read(readable, folder, columns), whole


def _can_be_cut(source: Source) -> bool:
    return source.format in BY_LINE and not source.stream


@contextmanager
def _readable(source: Source, root: Path, size: int) -> Iterator[tuple[Source, Path, bool]]:
    """The source to read, the folder it is read from, and whether that is all of it."""
    if size <= WHOLE or not _can_be_cut(source):
        yield source, root, True
        return
    with tempfile.TemporaryDirectory() as folder:
        file = sources.files(source, root)[0]
        name = Path(file.name).name.removesuffix(".gz").removesuffix(".zip")
        (Path(folder) / name).write_bytes(_head(file.path, source))
        yield source.model_copy(update={"uri": name, "splits": {}}), Path(folder), False


def _head(path: Path, source: Source) -> bytes:
    """The first HEAD bytes of a file up to the end of a record; of a CSV file, one outside of quotes."""
    with path.open("rb") as raw:
        first = raw.read(len(opening.ZIP))
        if first == opening.ZIP:
            raise InputError(Fault(path.name, "a zip file so large cannot be read in part", "Unpack it."))
        raw.seek(0)
        with gzip.open(raw) if first.startswith(opening.GZIP) else raw as text:
            data = text.read(HEAD)
    cut = data.rfind(b"\n") + 1
    if source.format in ("csv", "tsv") and source.quoted:
        odd = data.count(b'"', 0, cut) % 2
        while odd and cut:
            before = data.rfind(b"\n", 0, cut - 1) + 1
            odd = (odd + data.count(b'"', before, cut)) % 2
            cut = before
    if source.format == "conll":
        cut = max(data.rfind(b"\n\n"), data.rfind(b"\n\r\n")) + 1 or cut
    return data[:cut]


def _ingestion_gate(params: Pipeline, rows: pa.Table, bad: int) -> Iterator[str]:
    """What the ingestion gate would refuse. A limit, under which other rows are taken, is left to the gate itself."""
    if params.ingestion.limit is not None:
        return
    with tempfile.TemporaryDirectory() as folder:
        tables.write(rows.drop_columns("place"), Path(folder) / "rows.parquet")
        tables.write(rows.select(["id", "place"]), Path(folder) / "places.parquet")
        (Path(folder) / "quarantine.jsonl").write_text("{}\n" * bad)
        checked = Checked(Path(folder), _none_before, params.ingestion)
        for promise in tasks.load(params.task, "promises").ingestion(checked, params.gates.ingestion):
            if not _holds(promise):
                yield f"The ingestion gate would refuse these rows: {promise.name}: {promise.says}; {_seen(promise)}."


def _splitting_gate(params: Pipeline, taken: int) -> Iterator[str]:
    """What the splitting gate would refuse: fewer rows than the minima of all splits together."""
    limits = params.gates.splitting
    least = {name: getattr(limits, f"min_{name}_rows") for name in tables.SPLITS}
    more = params.augmentation.typing_noise or params.augmentation.paraphrase
    if not more and sum(least.values()) > taken:
        wanted = ", ".join(f"{count:,} {name}" for name, count in least.items())
        yield (
            f"The splitting gate would refuse these rows: {taken:,} of them are fewer than gates.splitting wants of "
            f"all splits together ({wanted}). Give more rows, or lower its minima."
        )


def _holds(promise: Promise) -> bool:
    low, high, value = promise.minimum, promise.maximum, promise.value
    return value is not None and (low is None or value >= low) and (high is None or value <= high)


def _seen(promise: Promise) -> str:
    bounds = [f"at least {promise.minimum:g}"] if promise.minimum is not None else []
    bounds += [f"at most {promise.maximum:g}"] if promise.maximum is not None else []
    return f"wanted {' and '.join(bounds)}, seen {'nothing' if promise.value is None else f'{promise.value:g}'}"


def _none_before(stage: str) -> Path:
    raise RefusedError(f"nothing of {stage} is there yet")
