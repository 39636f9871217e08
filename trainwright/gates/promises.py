"""What a promise is, and the promises that every task's tables share.

A promise is data: its name, its sentence, the range it must lie in, and what was observed. Violations are
found column-wise in Arrow here and in the tasks; Great Expectations states and judges (see runner.py), and
sees ids, booleans and aggregates alone, never a text.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Promise:
    """A promise and what was observed of it.

    `value` must lie in [minimum, maximum]; None means that it could not be computed, which fails.
    `rows` are the ids of every row that breaks it, whole, in table order.
    """

    name: str
    says: str
    value: float | None
    minimum: float | None = None
    maximum: float | None = None
    rows: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Checked:
    """What a gate looks at: `folder`, which its stage wrote, and certified folders of stages before it."""

    folder: Path
    open: Callable[[str], Path]
