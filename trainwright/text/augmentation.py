"""Children of training rows: copies that say the same in other letters or other words, and whose answers still hold.

A child has its parent's group, its parent's id as `parent`, and that id with the kind as its own ("q17~noise").
Which rows get one depends on their content and the seed alone, so that it stays when other rows come or go.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.rows import tables
from trainwright.rows.columns import Text
from trainwright.text.noise import typing_noise
from trainwright.text.paraphrase import paraphrase

if TYPE_CHECKING:
    from trainwright.tasks.interface import Rows


def eligible(rows: pa.Table) -> NDArray[np.bool_]:
    """Rows that may have children: those that can be training rows and are nobody's child."""
    training = pc.fill_null(pc.equal(rows["split"], "train"), True)
    can: NDArray[np.bool_] = pc.and_(training, pc.is_null(rows["parent"])).to_numpy()
    return can


def children(rows: pa.Table, task: "Rows", kind: str, rate: float, seed: int) -> tuple[pa.Table, NDArray[np.int64]]:
    """Children of one kind for a share `rate` of the eligible rows, and the place of each one's parent.

    A chosen row in which nothing can be changed has no child (a question that no rule fits), nor has one whose
    child would repeat a row that is there.
    """
    hashes = tables.content_hash(rows, list(task.IDENTITY))
    places = np.flatnonzero(eligible(rows) & (tables.draw(hashes, f"{kind} {seed}") < rate))
    made, parents = [], []
    for place, row in zip(places, rows.take(places).to_pylist(), strict=True):
        if KINDS[kind](row, task, np.random.default_rng([seed, int(hashes[place])])):
            made.append(row | {"id": f"{row['id']}~{kind}", "parent": row["id"]})
            parents.append(place)
    table = pa.Table.from_pylist(made, schema=task.SCHEMA)
    identities = tables.content_hash(table, list(task.IDENTITY))
    new = ~np.isin(identities, hashes)
    return table.filter(pa.array(new)), np.array(parents, dtype=np.int64)[new]


def passages(task: "Rows") -> list[Text]:
    """The texts that are not questions, nor lists: what a row may be answered with stays as it is."""
    texts = (text for text in task.TEXTS if text.augment and text.column not in task.QUESTIONS)
    return [text for text in texts if not _several(task, text)]


def _several(task: "Rows", text: Text) -> bool:
    return bool(pa.types.is_list(task.SCHEMA.field(text.column).type))


def _noise(row: dict[str, Any], task: "Rows", random: np.random.Generator) -> bool:
    """Put typing errors into every passage of a row, in place; whether there are any."""
    changed = False
    for text in passages(task):
        starts = row[text.starts] if text.starts else []
        ends = [start + len(span) for start, span in zip(starts, row[text.texts] if text.texts else [], strict=True)]
        edited = typing_noise(row[text.column], starts, ends, random)
        row[text.column] = edited.text
        if text.starts:
            row[text.starts] = edited.map(starts, ends)[0].tolist()
        if text.pieces:
            moved = edited.map(*(row[name] for name in text.pieces))
            row.update({name: part.tolist() for name, part in zip(text.pieces, moved, strict=True)})
        changed |= bool(edited.layers)
    return changed


def _paraphrase(row: dict[str, Any], task: "Rows", random: np.random.Generator) -> bool:
    """Say every question of a row in other words, in place; whether a rule fits."""
    said = {name: paraphrase(row[name], int(random.integers(2**31))) for name in task.QUESTIONS}
    row.update({name: question for name, question in said.items() if question})
    return any(said.values())


KINDS: dict[str, Callable[[dict[str, Any], "Rows", np.random.Generator], bool]] = {
    "noise": _noise,
    "paraphrase": _paraphrase,
}
