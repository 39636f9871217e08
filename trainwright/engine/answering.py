"""Predicting the rows of a file with a published model, on any machine that has the package installed."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trainwright.core import layout, tasks
from trainwright.core.errors import Fault, InputError
from trainwright.core.params import Cleaning, Evaluation, Source
from trainwright.engine import adapters, answer_file, asked, base_model
from trainwright.text.cleaning import clean_text

SETTINGS = "trainwright.json"
CHUNK = 2_000
MAX_BAD_SHARE = 0.01
CUT = ("truncated", "source_cut")  # columns of features that say what a limit cut


@dataclass(frozen=True)
class Published:
    """What a published folder says of its model: the task, and what the model needs to predict."""

    task: str
    base_model: dict[str, Any]
    learned: dict[str, Any]
    language: str
    reading: dict[str, Any]  # how the source's files were read; {} of a model that was made before this was stored
    cleaning: Cleaning
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
        cleaning = Cleaning.model_validate(content.get("cleaning", {}))
        reading = dict(content.get("reading", {}))
        if reading:
            Source.model_validate({"uri": "file", **{k: v for k, v in reading.items() if k != "suffixes"}})
        kept = {k: dict(content[k]) for k in ("base_model", "learned", "tuned")}
        if not isinstance(kept["base_model"]["uri"], str) or not isinstance(kept["base_model"]["files"], dict):
            raise ValueError("its base model has no uri, or no files")
        language: str = content["language"]
        return Published(content["task"], language=language, reading=reading, cleaning=cleaning, **kept, **chosen)
    except FileNotFoundError:
        raise InputError(Fault(str(folder), f"it holds no {SETTINGS}", remedy)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{SETTINGS} does not describe a model: {next(iter(str(error).splitlines()), type(error).__name__)}"
        raise InputError(Fault(str(folder), reason, remedy)) from None


def predict_file(
    folder: Path,
    source: Path,
    target: Path,
    wish: asked.Wish = asked.Wish(),  # noqa: B008 (it never changes)
    say: Callable[[str], None] = lambda _: None,
) -> tuple[int, list[Fault]]:
    """Write the prediction of every row of `source` to `target`, in the file's order, visible only when whole.

    `target` has one of the forms of `answer_file`. Rows are read and cleaned as the pipeline did; `wish` is what a
    person says otherwise. Returns how many rows were predicted, and the faults of those that were not, which are also
    listed in `<target>.quarantine.jsonl`. `say` hears how many texts were cut, and under which keys JSON is written.
    Raises InputError when the folder is no published model, the file cannot be read, the target cannot be written, or
    more than one row in a hundred is bad.
    """
    _require_place(source, target)
    form = answer_file.form(target)
    settings = read_settings(folder)
    if not adapters.there(folder):
        base_model.check_loadable(f"folder:{folder}", folder)
    part = tasks.load(settings.task, "rows")
    file = asked.read(part, source, settings.reading, wish, settings.cleaning)
    faults, count = dict(file.faults), len(file.places)
    _too_many(list(faults.values()), count, source)
    keyed = None not in file.ids and len({*file.ids}) == count
    truncated = 0
    with answer_file.writing(target) as opened:
        writer = answer_file.Writer(opened, form, keyed)
        for answers, bad in _predict(folder, settings, file, str(source)):
            faults |= bad
            truncated += sum(answer["truncated"] for answer in answers)
            writer.write(answers)
        writer.end()
        _too_many(list(faults.values()), count, source)
    listed = [faults[number] for number in sorted(faults)]
    quarantine = _quarantine(target)
    quarantine.unlink(missing_ok=True)
    if listed:
        layout.write_file(quarantine, "".join(json.dumps(asdict(fault)) + "\n" for fault in listed))
    if truncated:
        say(f"{source}: {truncated:,} of {count:,} rows have more text than the model reads, and were cut")
    if form == ".json" and not keyed and any(file.ids):
        say(f"{target}: not every row has an id that no other has, so the keys are the rows' numbers")
    return writer.count, listed


def _require_place(source: Path, target: Path) -> None:
    """Raises InputError where the answers would replace a folder or the questions."""
    if target.is_dir():
        raise InputError(Fault(str(target), "it is a folder", "Name the file to write."))
    for written in (target, _quarantine(target)):
        if written.exists() and source.exists() and written.samefile(source):
            raise InputError(Fault(str(written), "it is the file of questions itself", "Name another file to write."))


def _quarantine(target: Path) -> Path:
    """Where the rows that have no answer in `target` are listed."""
    return target.with_name(f"{target.name}.quarantine.jsonl")


def _predict(
    folder: Path, settings: Published, file: asked.Asked, name: str
) -> Iterator[tuple[list[answer_file.Answer], dict[int, Fault]]]:
    """Answers, and faults by the numbers of their rows, CHUNK by CHUNK."""
    from trainwright.engine.batching import FeatureTable
    from trainwright.engine.prediction import raw_outputs, resolve_precision

    features, model_part, predictions = (
        tasks.load(settings.task, "features"),
        tasks.load(settings.task, "model"),
        tasks.load(settings.task, "predictions"),
    )
    column = tasks.load(settings.task, "rows").TEXTS[0].column
    tokenizer = base_model.load_tokenizer(folder)
    model = adapters.load_trained(model_part.AUTO_CLASS, folder, lambda: base_model.find(settings.base_model))
    precision = resolve_precision("auto")
    for start in range(0, file.rows.num_rows, CHUNK):
        chunk = file.rows.slice(start, CHUNK)
        table, faults = features.features(chunk, tokenizer, settings.tokenization, name, settings.learned)
        bad = {int(fault.id): file.fault(fault.id, fault) for fault in faults}
        outputs, _ = raw_outputs(
            model, model_part, FeatureTable(table), tokenizer, settings.evaluation, precision, False
        )
        answered = predictions.predict(chunk, outputs, settings.postprocessing, settings.tuned)
        own, clean = file.texts.slice(start, CHUNK).to_pylist(), chunk[column].to_pylist()
        cut = _cut(table)
        if hasattr(model_part, "longest_beginning"):  # a text that is gone on from is cut at its front
            most = min(model_part.longest_beginning(model, settings.evaluation), settings.tokenization.block)
            cut = features.longer(table, most)
        answers = []
        for place, found in enumerate(answered.to_pylist()):
            number = int(found["id"])
            if number not in bad:
                answer = _answer(file.ids[number - 1], number, found)
                if own[place] != clean[place]:
                    answer |= _of_own_text(answer, own[place], settings.cleaning)
                answers.append({**answer, "truncated": place in cut})
        yield answers, bad


def _cut(features: pa.Table) -> set[int]:
    """The rows of which features leave text out."""
    held = [name for name in CUT if name in features.column_names]
    masks = [pc.not_equal(features[name].cast(pa.int32()), 0) for name in held]
    return {row for mask in masks for row in features["row"].filter(mask).to_pylist()}


def _answer(name: str | None, number: int, found: dict[str, Any]) -> answer_file.Answer:
    """What is told of a row: a choice among labels or texts by its name, with its probability beside it."""
    said, more = found["prediction"], {}
    probability: float | None = None
    if isinstance(said, dict):
        more = {key: value for key, value in said.items() if key not in ("label", "text", "probability")}
        probability = said["probability"]
        said = said.get("label", said.get("text"))
    elif "start" in found:
        probability = next((other["probability"] for other in found["nbest"] if other["text"] == said), None)
        more = {"start": found["start"], "end": None if found["start"] is None else found["start"] + len(said)}
    whole = {"whole": found["prediction"]}
    return {"id": name, "row": number, "prediction": said, "probability": probability, **more, **whole}


def _of_own_text(answer: answer_file.Answer, own: str, cleaning: Cleaning) -> answer_file.Answer:
    """What of an answer changes where its spans are those of the text that the file has, not of the clean one."""
    edited = clean_text(own, cleaning)

    def back(span: dict[str, Any]) -> dict[str, Any]:
        begin, end = (int(place[0]) for place in edited.map_back([span["start"]], [span["end"]]))
        return {**span, "start": begin, "end": end, "text": own[begin:end]}

    said = answer["prediction"]
    if isinstance(said, list):
        spans = [back(one) if "start" in one else one for one in said]
        return {"prediction": spans, "whole": spans}
    if answer.get("start") is None:
        return {}
    span = back({"start": answer["start"], "end": answer["end"]})
    return {"prediction": span["text"], "start": span["start"], "end": span["end"], "whole": span["text"]}


def _too_many(faults: list[Fault], rows: int, source: Path) -> None:
    if len(faults) > MAX_BAD_SHARE * rows:
        reason = f"{len(faults)} of {rows} rows are bad, more than one in a hundred"
        raise InputError(*faults[:10], Fault(str(source), reason, "Mend the rows; nothing was written."))
