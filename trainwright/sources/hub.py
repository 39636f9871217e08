"""Data sets of the Hugging Face Hub, read by `datasets` itself; nothing that a data set brings is ever run."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core.errors import Fault, InputError, MachineryError, nearest
from trainwright.core.params import Source
from trainwright.rows.tables import BATCH, SPLITS
from trainwright.sources.parquet import numbered
from trainwright.sources.records import Columns, Records, conformed, repeated

COMMIT = re.compile(r"^[0-9a-f]{40}$")


def resolve(source: Source) -> str:
    """The full commit that the source's revision names now.

    Raises InputError where the Hub has no such data set or revision, MachineryError where it cannot be reached.
    """
    from huggingface_hub import HfApi

    with _explained(source.uri, source.revision):
        return str(HfApi().dataset_info(_name(source), revision=source.revision, timeout=30).sha)


def read(source: Source, columns: Columns) -> Iterator[tuple[str, str | None, Records]]:
    """(Hub split, declared split, rows) of every split that is used; the revision must be a full commit.

    `splits` says which Hub splits are our train, validation and test. Without it, several splits of those names
    are taken as declared, and a single split as not declared, so that splitting divides it.
    """
    loaded = _load(_name(source), source.configuration, source.revision)
    for name, split in _declared(source, list(loaded)).items():
        table = loaded[name].with_format("arrow")[:]
        held = {n: named(table.column(n), loaded[name].features[n]) for n in table.column_names if n in columns}
        data = {n: conformed(column, columns[n], source.uri, n) for n, column in held.items()}
        yield name, split, Records(data, numbered(table.num_rows), table.column_names)


def named(column: Any, feature: Any) -> Any:
    """A column of lists of class numbers as lists of the classes' names (tags of tokens); any other as it is."""
    import datasets

    label = getattr(feature, "feature", None)
    if not isinstance(label, datasets.ClassLabel):
        return column
    names = pa.array(label.names, pa.string())
    chunks = []
    for chunk in column.chunks:
        numbers = pc.if_else(pc.less(chunk.flatten(), 0), None, chunk.flatten())  # -1 is a class that is not known
        sizes = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy()
        ends = pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
        chunks.append(pa.ListArray.from_arrays(ends, names.take(numbers)))
    return pa.chunked_array(chunks, pa.list_(pa.string()))


def digests(source: Source) -> Iterator[dict[str, Any]]:
    """Of every split that is used: rows, and bytes and SHA-256 of the rows as JSON Lines with sorted keys."""
    loaded = _load(_name(source), source.configuration, source.revision)
    for name, split in _declared(source, list(loaded)).items():
        digest, size = hashlib.sha256(), 0
        for batch in loaded[name].with_format("arrow").iter(BATCH):
            lines = [json.dumps(row, sort_keys=True, default=str) + "\n" for row in batch.to_pylist()]
            encoded = "".join(lines).encode()
            digest.update(encoded)
            size += len(encoded)
        yield {
            "path": name,
            "split": split,
            "rows": loaded[name].num_rows,
            "bytes": size,
            "sha256": digest.hexdigest(),
        }


def _name(source: Source) -> str:
    if not re.match(r"^hub:[\w.-]+(/[\w.-]+)?$", source.uri):
        raise InputError(
            Fault("params.yaml", f"{source.uri!r} is not hub:owner/name", "Name it so.", field="source.uri")
        )
    return source.uri.removeprefix("hub:")


@lru_cache(maxsize=1)  # a commit does not change; the Hub is asked once a process
def _load(name: str, configuration: str | None, commit: str | None) -> Any:
    """A DatasetDict of exactly one commit."""
    import datasets

    uri = f"hub:{name}"
    if not COMMIT.match(commit or ""):
        remedy = "Run `trainwright refresh`, which resolves it."
        raise InputError(Fault(uri, f"revision {commit!r} is not a full commit", remedy, field="source.revision"))
    datasets.disable_progress_bars()
    with _explained(uri, commit):
        loaded = datasets.load_dataset(name, configuration, revision=commit, **_options(name, configuration, commit))
    for split in loaded.values():
        # When the Hub is away, `datasets` takes the newest version of its cache, whatever its commit.
        if not all(str(commit) in file["filename"] for file in split.cache_files):
            reason = f"the Hub cannot be reached, and the cache of this machine does not hold revision {commit}"
            raise MachineryError(f"{uri}: {reason}. Try again with the network up and HF_HUB_OFFLINE unset.")
    return loaded


def _options(name: str, configuration: str | None, commit: str | None) -> dict[str, bool]:
    """What keeps "NA" and "null" in a CSV file text, which pandas would read as nothing; other formats know no such
    option. Without the Hub a CSV data set is known by it alone, since `datasets` caches it under its options.
    """
    import datasets

    try:
        config = datasets.load_dataset_builder(name, configuration, revision=commit).config
    except ValueError:
        return {"keep_default_na": False}
    return {"keep_default_na": False} if hasattr(config, "keep_default_na") else {}


def _declared(source: Source, names: list[str]) -> dict[str, str | None]:
    """Hub splits that are used, each with the split that it is declared to be."""
    if source.splits:
        for name in source.splits.values():
            if name not in names:
                raise InputError(
                    Fault(source.uri, f"there is no split {name!r}", nearest(name, names), field="source.splits")
                )
        if twice := repeated(source.splits.values()):
            reason, remedy = f"two splits are {twice!r}", "Name another for one of them."
            raise InputError(Fault(source.uri, reason, remedy, field="source.splits"))
        return {name: ours for ours, name in source.splits.items()}
    if len(names) == 1:
        return {names[0]: None}
    known: dict[str, str | None] = {name: name for name in names if name in SPLITS}
    if known:
        return known
    remedy = "Say in source.splits which is train, validation and test."
    raise InputError(Fault(source.uri, f"the splits are {', '.join(names)}", remedy, field="source.splits"))


@contextmanager
def _explained(uri: str, revision: str | None) -> Iterator[None]:
    """What the Hub's libraries raise, in our words."""
    import datasets
    from huggingface_hub import errors

    at = f" at revision {revision}" if revision else ""
    try:
        yield
    except errors.RevisionNotFoundError:
        remedy = "Give a commit, branch or tag that it has, then run `trainwright refresh`."
        reason = f"the Hub has no revision {revision!r} of it"
        raise InputError(Fault(uri, reason, remedy, field="source.revision")) from None
    except errors.GatedRepoError:
        raise InputError(Fault(uri, "access is restricted", "Ask for it, then `hf auth login`.")) from None
    except (errors.RepositoryNotFoundError, datasets.exceptions.DatasetNotFoundError, errors.HFValidationError):
        remedy = "Mend the id or the revision; a private data set needs `hf auth login`."
        raise InputError(Fault(uri, f"the Hub has no such data set{at}", remedy)) from None
    except (OSError, errors.HTTPError) as error:  # type: ignore[attr-defined]  # the HTTP library's own base class
        said = f"{type(error).__name__}: {_first_line(error)}"
        raise MachineryError(
            f"{uri}{at}: the Hub cannot be reached ({said}). Try again later, with HF_HUB_OFFLINE unset."
        ) from None
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        remedy = "See its page on the Hub for its configurations; data sets that are programs are not run."
        raise InputError(Fault(uri, f"cannot be loaded: {_first_line(error)}", remedy)) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
