"""The retrains of a clone that run on this machine: a file each under .trainwright/ticks, which a kill leaves there."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from trainwright.core.layout import write_file


@dataclass(frozen=True)
class LocalRun:
    """A retrain that began here. `flow_run` is its id on the Prefect server."""

    path: Path
    pipeline: str
    process: int
    created: float  # when the process was, by the system's clock: its id alone may be another's by now
    started: str
    flow_run: str | None

    def lives(self) -> bool:
        """Whether its process still runs."""
        with suppress(psutil.NoSuchProcess):
            return bool(psutil.Process(self.process).create_time() == self.created)
        return False


def new(home: Path, pipeline: str) -> Path:
    """Return a path for the file of another retrain; its stem names the retrain in the ledger."""
    return _folder(home, pipeline) / f"{secrets.token_hex(8)}.json"


def begin(path: Path, started: datetime, flow_run: str | None) -> None:
    """Write the file of a retrain that this process begins; whoever ends it removes the file."""
    mine = {"process": os.getpid(), "since": psutil.Process().create_time(), "run": flow_run}
    write_file(path, json.dumps(mine | {"started": started.isoformat(timespec="seconds")}))


def begun(home: Path, pipeline: str) -> Iterator[LocalRun]:
    """Yield the retrains of a pipeline that have begun here and left no decision yet."""
    for path in sorted(_folder(home, pipeline).glob("[!.]*.json")):
        with suppress(FileNotFoundError):  # it has ended meanwhile
            known = json.loads(path.read_text(encoding="utf-8"))
            yield LocalRun(path, pipeline, known["process"], known["since"], known["started"], known.get("run"))


def _folder(home: Path, pipeline: str) -> Path:
    return home / ".trainwright" / "ticks" / pipeline
