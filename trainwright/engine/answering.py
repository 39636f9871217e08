"""Predicting the rows of a file with a published model, on any machine that has the package installed."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainwright import sources
from trainwright.core import layout, tasks
from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Evaluation, Source
from trainwright.engine import adapters, base_model

SETTINGS = "trainwright.json"
CHUNK = 2_000
MAX_BAD_SHARE = 0.01


@dataclass(frozen=True)
class Published:
    """What a published folder says of its model: the task, and what the model needs to predict."""

    task: str
    base_model: dict[str, Any]
    learned: dict[str, Any]
    language: str
    tokenization: Any
    evaluation: Any
    postprocessing: Any
    tuned: dict[str, Any]


def read_settings(folder: Path) -> Published:
    """The settings of a published model. Raises InputError when the folder is not one."""
    path = folder / SETTINGS
    remedy = "Name a folder that the report stage published: data/<pipeline>/report/model."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sections = tasks.load(content["task"], "params").SECTIONS
        chosen = {k: sections[k].model_validate(content[k]) for k in ("tokenization", "postprocessing")}
        chosen["evaluation"] = sections.get("evaluation", Evaluation).model_validate(content.get("evaluation", {}))
        kept = {k: dict(content[k]) for k in ("base_model", "learned", "tuned")}
        if not isinstance(kept["base_model"]["uri"], str) or not isinstance(kept["base_model"]["files"], dict):
            raise ValueError("its base model has no uri, or no files")
        return Published(content["task"], language=content["language"], **kept, **chosen)
    except FileNotFoundError:
        raise InputError(Fault(str(folder), f"it holds no {SETTINGS}", remedy)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{SETTINGS} does not describe a model: {next(iter(str(error).splitlines()), type(error).__name__)}"
        raise InputError(Fault(str(folder), reason, remedy)) from None


def predict_file(folder: Path, source: Path, target: Path) -> tuple[int, list[Fault]]:
    """Write `{id: prediction}` for every row of `source` to `target`, chunk by chunk, visible only when whole.

    Returns how many rows were predicted, and the faults of those that were not, which are also listed in
    `<target>.quarantine.jsonl`. Raises InputError when the folder is no published model, the file cannot
    be read, the target cannot be written, or more than one row in a hundred is bad.
    """
    _require_place(source, target)
    settings = read_settings(folder)
    if not adapters.there(folder):
        base_model.check_loadable(f"folder:{folder}", folder)
    part = tasks.load(settings.task, "rows")
    rows, faults = read_rows(part, source)
    count = rows.num_rows + len(faults)
    _too_many(faults, count, source)
    answered = 0
    aside = _open_aside(target)
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write("{")
            for predictions, bad in _predict(folder, settings, rows, str(source)):
                faults += bad
                pairs = zip(predictions["id"].to_pylist(), predictions["prediction"].to_pylist(), strict=True)
                lines = [f"{json.dumps(i)}: {json.dumps(p, ensure_ascii=False)}" for i, p in pairs]
                if lines:
                    file.write(("," if answered else "") + "\n " + ",\n ".join(lines))
                answered += len(lines)
            file.write("\n}\n")
        _too_many(faults, count, source)
        layout.flush(aside)
        aside.rename(target)
    finally:
        aside.unlink(missing_ok=True)
    quarantine = _quarantine(target)
    quarantine.unlink(missing_ok=True)
    if faults:
        layout.write_file(quarantine, "".join(json.dumps(asdict(fault)) + "\n" for fault in faults))
    return answered, faults


def read_rows(part: Any, source: Path) -> tuple[pa.Table, list[Fault]]:
    """The rows of a file that is to be predicted, and a Fault for each that cannot be; `part` is the task's rows part.

    What the file may say of gold or of splits is not looked at.
    """
    suffixes = ((form, end) for form, ends in sources.SUFFIXES.items() for end in ends)
    form = next((form for form, end in suffixes if source.name.lower().endswith(end)), None)
    if form is None:
        ends = ", ".join(end for ends in sources.SUFFIXES.values() for end in ends)
        raise InputError(Fault(str(source), "its name does not say what form it has", f"Let it end in one of {ends}."))
    columns = {name: kinds for name, kinds in part.COLUMNS.items() if name not in (*part.GOLD, "split")}
    table = sources.read(Source(uri=str(source.resolve()), format=form), Path.cwd(), columns)  # type: ignore[arg-type]
    rows, faults = part.from_source(table, str(source), answered=False)
    return rows, faults


def _require_place(source: Path, target: Path) -> None:
    """Raises InputError where the answers would replace a folder or the questions."""
    if target.is_dir():
        raise InputError(Fault(str(target), "it is a folder", "Name the JSON file to write."))
    for written in (target, _quarantine(target)):
        if written.exists() and source.exists() and written.samefile(source):
            raise InputError(Fault(str(written), "it is the file of questions itself", "Name another file to write."))


def _quarantine(target: Path) -> Path:
    """Where the rows that have no answer in `target` are listed."""
    return target.with_name(f"{target.name}.quarantine.jsonl")


def _open_aside(target: Path) -> Path:
    """The empty file that is to become `target`. Raises InputError where none can be written there."""
    aside = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(b"")
    except OSError as error:
        remedy = "Name a file in a folder that may be written to."
        raise InputError(Fault(str(target), f"it cannot be written ({error.strerror})", remedy)) from None
    return aside


def _predict(folder: Path, settings: Published, rows: pa.Table, file: str) -> Iterator[tuple[pa.Table, list[Fault]]]:
    """Predictions and faults of the rows, CHUNK by CHUNK."""
    from trainwright.engine.batching import FeatureTable
    from trainwright.engine.prediction import raw_outputs, resolve_precision

    features, model_part, predictions = (
        tasks.load(settings.task, "features"),
        tasks.load(settings.task, "model"),
        tasks.load(settings.task, "predictions"),
    )
    tokenizer = base_model.load_tokenizer(folder)
    model = adapters.load_trained(model_part.AUTO_CLASS, folder, lambda: base_model.find(settings.base_model))
    precision = resolve_precision("auto")
    for start in range(0, rows.num_rows, CHUNK):
        chunk = rows.slice(start, CHUNK)
        table, faults = features.features(chunk, tokenizer, settings.tokenization, file, settings.learned)
        bad = {fault.id for fault in faults}
        outputs, _ = raw_outputs(
            model, model_part, FeatureTable(table), tokenizer, settings.evaluation, precision, False
        )
        answered = predictions.predict(chunk, outputs, settings.postprocessing, settings.tuned)
        keep = [i not in bad for i in answered["id"].to_pylist()]
        yield answered.filter(pa.array(keep, pa.bool_())), faults


def _too_many(faults: list[Fault], rows: int, source: Path) -> None:
    if len(faults) > MAX_BAD_SHARE * rows:
        reason = f"{len(faults)} of {rows} rows are bad, more than one in a hundred"
        raise InputError(*faults[:10], Fault(str(source), reason, "Mend the rows; nothing was written."))
