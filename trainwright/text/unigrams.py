"""The baseline of every language model: how often each token stands in the train split, whatever stands beside it.

A token's loss under it, in nats, is -log((count + 1) / (all + vocabulary)): counts with one added to each (Laplace),
so that a token that training never saw has a finite one. A model that has learnt no more than this has learnt nothing
of the context.
"""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def counted(texts: Iterable[pa.ChunkedArray], tokenizer: Any) -> dict[str, Any]:
    """The counts of all tokens of some texts as a JSON value that stays on one line: {"size", "counts": "ID:COUNT …"}.

    Special tokens that a tokenizer puts around a text are not counted.
    """
    size = len(tokenizer)
    total = np.zeros(size, dtype=np.int64)
    for column in texts:
        encodings = tokenizer.backend_tokenizer.encode_batch_fast(column.to_pylist(), add_special_tokens=False)
        ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int64)
        total += np.bincount(ids, minlength=size)
    seen = np.flatnonzero(total)
    return {"size": size, "counts": " ".join(f"{id}:{count}" for id, count in zip(seen, total[seen], strict=True))}


def losses(counts: Mapping[str, Any]) -> NDArray[np.float32]:
    """The loss of each token of the vocabulary, in nats, from what `counted` gave."""
    pairs = _pairs(counts)
    total = np.ones(counts["size"], dtype=np.float64)
    total[pairs[:, 0]] += pairs[:, 1]
    return np.asarray(np.log(total.sum()) - np.log(total), dtype=np.float32)


def tokens(counts: Mapping[str, Any]) -> int:
    """How many tokens there are in all, of what `counted` gave."""
    return int(_pairs(counts)[:, 1].sum())


def _pairs(counts: Mapping[str, Any]) -> NDArray[np.int64]:
    """(id, count) of every token that was seen."""
    return np.array([pair.split(":") for pair in counts["counts"].split()], dtype=np.int64).reshape(-1, 2)
