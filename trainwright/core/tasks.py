"""The kinds of task. Each is a folder here whose modules are the parts that stages ask for:

| part          | says                                                            | used by                    |
|---------------|-----------------------------------------------------------------|----------------------------|
| `params`      | the task's own sections of params.yaml                          | every stage                |
| `rows`        | the row table, how a source's records become rows, where text is | ingestion to splitting     |
| `features`    | how rows become model inputs                                    | tokenization               |
| `model`       | the model class, batches, compact raw outputs                   | training, evaluation       |
| `predictions` | how raw outputs become predictions                              | postprocessing, predict    |
| `scores`      | how predictions are scored, with intervals and slices           | postprocessing             |
| `promises`    | what each gate must hold                                        | the gates                  |

A part is a file of its own so that a stage depends on what it uses and on nothing else: a change of
scores retrains no model. The parts' signatures are the protocols in `trainwright/tasks/interface.py`.
"""

import importlib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "tasks"
PARTS = ("params", "rows", "features", "model", "predictions", "scores", "promises")


def names() -> list[str]:
    """The tasks there are: the folders beside this file."""
    return sorted(path.parent.name for path in FOLDER.glob("*/params.py"))


def load(task: str, part: str) -> Any:
    """The module of one part of a task. The name is checked by params.py before it gets here."""
    if task not in names() or part not in PARTS:
        raise ValueError(f"no part {part!r} of a task {task!r}")
    return importlib.import_module(f"trainwright.tasks.{task}.{part}")
