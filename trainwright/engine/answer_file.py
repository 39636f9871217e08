"""The file of predictions: JSON, JSON Lines or CSV, as its name says, in the order of the rows that were asked.

    out.json     {id: prediction}, under the rows' numbers where not every row has an id that no other has
    out.jsonl    {"id", "row", "prediction", "probability", "truncated"} a line, and what else a task says
    out.csv      the same as columns; lists as JSON

`row` is the row's number in the file that was read, from 1; `id` its own, empty where it has none.
"""

import csv
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from trainwright.core import layout
from trainwright.core.errors import Fault, InputError

FORMS = (".json", ".jsonl", ".csv")
Answer = dict[str, Any]


def form(target: Path) -> str:
    """How the name of a file of predictions ends. Raises InputError where that is no form."""
    suffix = target.suffix.lower()
    if suffix not in FORMS:
        remedy = f"Let its name end in {', '.join(FORMS[:-1])} or {FORMS[-1]}."
        raise InputError(Fault(str(target), "its name does not say in what form predictions are written", remedy))
    return suffix


@contextmanager
def writing(target: Path) -> Iterator[TextIO]:
    """A new file, open for text, that becomes `target` only if the block ends well: written aside, flushed, renamed.

    Raises InputError where none can be written there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".partial")
    except OSError as error:
        remedy = "Name a file in a folder that may be written to."
        raise InputError(Fault(str(target), f"it cannot be written ({error.strerror})", remedy)) from None
    aside = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.umask(mask := os.umask(0o077))
        aside.chmod(0o666 & ~mask)
        aside.rename(target)
        layout.flush(target.parent)
    finally:
        aside.unlink(missing_ok=True)


class Writer:
    """Writes answers to an open file in one of FORMS; `keyed` says that ids are keys in JSON, else numbers are."""

    def __init__(self, file: TextIO, form: str, keyed: bool) -> None:
        self._file, self._form, self._keyed = file, form, keyed
        self._csv = csv.writer(file, lineterminator="\n")
        self.count = 0

    def write(self, answers: Sequence[Answer]) -> None:
        """Append answers: of each its `id`, `row`, `prediction`, further fields, and `whole`, what JSON holds."""
        for answer in answers:
            whole = answer["whole"]
            told = {name: value for name, value in answer.items() if name != "whole"}
            if self._form == ".json":
                key = json.dumps(answer["id"] if self._keyed else str(answer["row"]), ensure_ascii=False)
                self._file.write(f"{',' if self.count else '{'}\n {key}: {json.dumps(whole, ensure_ascii=False)}")
            elif self._form == ".jsonl":
                self._file.write(json.dumps(told, ensure_ascii=False) + "\n")
            else:
                if not self.count:
                    self._csv.writerow(told)
                self._csv.writerow(map(_cell, told.values()))
            self.count += 1

    def end(self) -> None:
        """Close what is open; a file without any answer is as whole as others."""
        if self._form == ".json":
            self._file.write("\n}\n" if self.count else "{}\n")
        elif self._form == ".csv" and not self.count:
            self._csv.writerow(("id", "row", "prediction", "probability", "truncated"))


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
