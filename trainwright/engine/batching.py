"""Features on disk, memory-mapped, and the order in which they make batches of similar length."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MEGABATCH = 50


class FeatureTable:
    """A table of features, read row by row as numpy views.

    `lengths` are the token counts of all rows (int32). Indexing gives a dict of one row's columns:
    numpy arrays for lists, numbers for numbers; and its `draw`, which says how often the table has been gone
    through before: an index past the end starts over with the next draw.
    """

    @classmethod
    def open(cls, path: Path) -> "FeatureTable":
        """Features of an Arrow stream file, memory-mapped: only the rows in use are in memory."""
        return cls(pa.ipc.open_stream(pa.memory_map(str(path))).read_all())

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._chunks = [
            {name: _Column(batch.column(name)) for name in batch.schema.names} for batch in self._table.to_batches()
        ]
        sizes = [batch.num_rows for batch in self._table.to_batches()]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        lengths = [chunk["input_ids"].lengths() for chunk in self._chunks]
        self.lengths: NDArray[np.int32] = np.concatenate([*lengths, np.zeros(0)]).astype(np.int32)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        draw, index = divmod(index, len(self))
        chunk = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = int(index - self._starts[chunk])
        return {**{name: column[row] for name, column in self._chunks[chunk].items()}, "draw": draw}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows at once: what torch's DataLoader asks for."""
        return [self[index] for index in indices]

    def take(self, indices: Sequence[int]) -> pa.Table:
        return self._table.take(pa.array(indices, pa.int64()))


class _Column:
    """One column of one record batch: a number a row, or a list a row as a view."""

    def __init__(self, array: pa.Array) -> None:
        self._list = pa.types.is_list(array.type)
        self._offsets = array.offsets.to_numpy() if self._list else None
        self._values = (array.values if self._list else array).to_numpy(zero_copy_only=False)

    def __getitem__(self, row: int) -> Any:
        if self._offsets is None:
            return self._values[row].item()
        return self._values[self._offsets[row] : self._offsets[row + 1]]

    def lengths(self) -> NDArray[np.int32]:
        return np.zeros(0, np.int32) if self._offsets is None else np.diff(self._offsets)


class SimilarLengths:
    """A sampler whose consecutive runs of `batch` indices have similar lengths, in an order set by seed and epoch.

    Rows are shuffled, cut into stretches of MEGABATCH batches, sorted by length within each, cut into
    batches, and the batches are shuffled; the longest comes first, so that memory runs out at once or
    never. The order depends on seed and epoch alone, so that a run resumed in mid-epoch sees the same batches.
    """

    def __init__(self, lengths: NDArray[np.int32], batch: int, seed: int) -> None:
        self._lengths, self._batch, self._seed, self._epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        return iter((self.order() + self._epoch * len(self._lengths)).tolist())

    def order(self) -> NDArray[np.int64]:
        """The indices of one epoch; the short last batch, if any, stays last."""
        random = np.random.default_rng([self._seed, self._epoch])
        shuffled = random.permutation(len(self._lengths))
        whole = len(shuffled) // self._batch * self._batch
        body, rest = shuffled[:whole], shuffled[whole:]
        stretch = MEGABATCH * self._batch
        parts = [body[start : start + stretch] for start in range(0, whole, stretch)]
        parts = [part[np.argsort(-self._lengths[part], kind="stable")] for part in parts]
        batches = np.concatenate([part.reshape(-1, self._batch) for part in parts]) if parts else body.reshape(0, 1)
        batches = batches[random.permutation(len(batches))]
        if len(batches):
            longest = int(np.argmax(self._lengths[batches].max(axis=1)))
            batches[[0, longest]] = batches[[longest, 0]]
        return np.concatenate([batches.ravel(), rest])


class MicroBatches:
    """The micro-batches of an epoch that one of `processes` computes, as lists of indices.

    A step is the next `rows` indices of `order`, whoever computes them. It is divided as evenly as can be into `parts`
    (a multiple of `processes`) micro-batches, of which process r takes r, r + processes, …. The epoch's last step may
    have fewer rows and is divided likewise, so that all processes have equally many; of few rows some are then empty.
    """

    def __init__(self, order: SimilarLengths, rows: int, parts: int, process: int = 0, processes: int = 1) -> None:
        self.order, self._rows, self._parts, self._process, self._processes = order, rows, parts, process, processes

    @property
    def steps(self) -> int:
        return -(-len(self.order) // self._rows)

    def rows_of(self, step: int) -> int:
        """How many rows all processes together see in a step of the epoch, counted from 0."""
        return min(self._rows, len(self.order) - step * self._rows)

    def __len__(self) -> int:
        return self.steps * self._parts // self._processes

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.order)
        for start in range(0, len(order), self._rows):
            step = order[start : start + self._rows]
            bounds = [len(step) * part // self._parts for part in range(self._parts + 1)]
            for part in range(self._process, self._parts, self._processes):
                yield step[bounds[part] : bounds[part + 1]]


def longest_first(lengths: NDArray[np.int32], batch: int) -> Iterator[NDArray[np.int64]]:
    """All row indices in batches of similar length, the longest first: the order for inference."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch):
        yield order[start : start + batch]
