"""Every defect that a gate is there for is planted in a small good pipeline, and the gate refuses it and names it."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from trainwright.core import certificate, layout
from trainwright.core.layout import STAGES, Layout
from trainwright.core.params import Pipeline
from trainwright.core.yaml_file import read_yaml
from trainwright.gates import runner
from trainwright.rows import tables
from trainwright.tasks.qa import features, model, rows

GROUPS = 12
MAX_LENGTH = 16
STRIDE = 4
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Project:
    layout: Layout
    params: Pipeline

    def folder(self, stage: str) -> Path:
        return self.layout.stage(stage)

    def verdict(self, gate: str) -> runner.Verdict:
        """What the gate says, its stage's forerunners being certified as they are."""
        for stage in STAGES[: STAGES.index(gate)]:
            vouch(self.layout, self.params, stage)
        return runner.judge(self.layout, self.params, gate)


def vouch(where: Layout, section: Pipeline, gate: str) -> None:
    checked = layout.digest(where.stage(gate))
    paper = {"pipeline": where.pipeline, "gate": gate, "digest": checked}
    certificate.certify(
        where, gate, checked, paper | {"suite": certificate.suite_digest(section, gate), "passed": True}
    )


def good_rows() -> pa.Table:
    """Three questions about each of twelve contexts; the third of each has no answer."""
    made = []
    for i in range(GROUPS):
        way = f"walked from Łódź to Zürich in {20 + i} long days 🦊 and slept under old trees"
        context = f"  Émile {i} {way} near the cold river {i} ."
        for j, (question, answer) in enumerate(
            [("Who walked?", f"Émile {i}"), ("How long?", f"{20 + i} long days"), ("Why?", None)]
        ):
            made.append(
                {
                    "id": f"q{i:02}-{j}",
                    "group": f"g{i}",
                    "split": None,
                    "parent": None,
                    "title": f"title {i}",
                    "context": context,
                    "question": question,
                    "answer_start": [] if answer is None else [context.index(answer)],
                    "answer_text": [] if answer is None else [answer],
                }
            )
    return pa.Table.from_pylist(made, rows.SCHEMA)


def child(table: pa.Table, parent: str) -> pa.Table:
    row = table.filter(pc.equal(table["id"], parent)).to_pylist()[0]
    made = row | {"id": f"{parent}+1", "parent": parent, "question": f"{row['question']} Say."}
    return pa.Table.from_pylist([made], rows.SCHEMA)


def windows(table: pa.Table) -> pa.Table:
    """Features with a token a word, by plain loops."""
    made = []
    for row, record in enumerate(table.to_pylist()):
        words = [word.span() for word in re.finditer(r"\S+", record["context"])]
        asked = len(record["question"].split())
        room = MAX_LENGTH - asked - 3
        for first in range(0, max(len(words) - STRIDE, 1), room - STRIDE):
            seen = words[first : first + room]
            start = end = 0
            if record["answer_text"]:
                begin = record["answer_start"][0]
                stop = begin + len(record["answer_text"][0])
                inside = [k for k, (a, b) in enumerate(seen) if a < stop and b > begin]
                if seen[0][0] <= begin and stop <= seen[-1][1]:
                    start, end = asked + 2 + inside[0], asked + 2 + inside[-1]
            made.append(
                {
                    "row": row,
                    "input_ids": [1] * (asked + len(seen) + 3),
                    "token_type_ids": [],
                    "context_start": asked + 2,
                    "start_char": [a for a, _ in seen],
                    "end_char": [b for _, b in seen],
                    "null_position": 0,
                    "start_position": start,
                    "end_position": end,
                }
            )
    return pa.Table.from_pylist(made, features.SCHEMA)


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)


def read_stream(path: Path) -> pa.Table:
    with pa.ipc.open_stream(path.read_bytes()) as stream:
        return stream.read_all()


def raw_outputs(seen: pa.Table) -> pa.Table:
    made = [
        {
            "row": feature["row"],
            "null_score": 0.5,
            "start_token": [feature["context_start"]],
            "start_char": feature["start_char"][:1],
            "start_logit": [1.0],
            "end_token": [feature["context_start"]],
            "end_char": feature["end_char"][:1],
            "end_logit": [2.0],
        }
        for feature in seen.to_pylist()
    ]
    return pa.Table.from_pylist(made, model.OUTPUTS)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A pipeline with sound output of every stage."""
    root = tmp_path_factory.mktemp("good")
    section = read_yaml(ROOT / "params.yaml")["pipelines"]["sample-qa"]
    section["tokenization"] = {"max_length": MAX_LENGTH, "stride": STRIDE}
    section["gates"] |= {
        "ingestion": {
            "min_rows": 20,
            "max_question_characters": 40,
            "max_context_characters": 200,
            "min_unanswerable_share": 0.1,
        },
        "splitting": {"min_train_rows": 10, "min_validation_rows": 5, "min_test_rows": 5},
    }
    project = Project(Layout(root, "tiny"), Pipeline.model_validate(section))
    for stage in STAGES:
        project.folder(stage).mkdir(parents=True)
    ingested = good_rows()
    tables.write(ingested, project.folder("ingestion") / "rows.parquet")
    cleaned = ingested.slice(1)
    tables.write(cleaned, project.folder("cleaning") / "rows.parquet")
    tables.write(
        pa.table({"id": ["q00-0"], "reason": ["empty"]}, tables.DROPPED), project.folder("cleaning") / "dropped.parquet"
    )
    augmented = pa.concat_tables([cleaned, child(cleaned, "q00-1")])
    tables.write(augmented, project.folder("augmentation") / "rows.parquet")
    later_stages(project, augmented)
    return project


def later_stages(project: Project, augmented: pa.Table) -> None:
    groups = {"train": range(8), "validation": range(8, 10), "test": range(10, 12)}
    (project.folder("tokenization") / "quarantine.jsonl").write_text("")
    tables.write(pa.table({"id": pa.array([], pa.string())}), project.folder("tokenization") / "misaligned.parquet")
    for split, numbers in groups.items():
        part = augmented.filter(pc.is_in(augmented["group"], value_set=pa.array([f"g{i}" for i in numbers])))
        tables.write(part, project.folder("splitting") / f"{split}.parquet")
        write_stream(windows(part), project.folder("tokenization") / f"{split}.arrow")
        if split != "train":
            tables.write(raw_outputs(windows(part)), project.folder("evaluation") / f"{split}.parquet")
    tables.write(raw_outputs(windows(part)), project.folder("evaluation") / "untrained.parquet")
    write_json(project.folder("evaluation") / "losses.json", {"validation": 1.5, "test": 1.6})
    trained = project.folder("training") / "model"
    trained.mkdir()
    save_file({"layer": np.ones((3, 2), np.float32), "steps": np.arange(4)}, trained / "model.safetensors")
    write_json(trained / "config.json", {"model_type": "bert"})
    write_json(trained / "tokenizer.json", {"version": "1.0"})
    write_json(project.folder("training") / "facts.json", {"first_loss": 5.0, "last_loss": 1.0, "best_loss": 1.5})
    answers = {row["id"]: row["context"].split()[0] if row["answer_text"] else "" for row in part.to_pylist()}
    write_json(project.folder("postprocessing") / "predictions" / "predictions.json", answers)
    score = {"value": 50.0, "low": 40.0, "high": 60.0}
    write_json(project.folder("postprocessing") / "metrics.json", {"test": {"count": 6, "exact": score, "f1": score}})
    shutil.copytree(trained, project.folder("report") / "model")
    (project.folder("report") / "model" / "README.md").write_text("# A model\n")
    write_json(project.folder("report") / "model" / "trainwright.json", {"task": "qa"})


@pytest.fixture
def project(good: Project, tmp_path: Path) -> Project:
    shutil.copytree(good.layout.root, tmp_path, dirs_exist_ok=True)
    return Project(Layout(tmp_path, "tiny"), good.params)


@pytest.mark.parametrize("gate", STAGES)
def test_each_gate_passes_what_is_sound(good: Project, gate: str) -> None:
    verdict = good.verdict(gate)
    assert [judged.promise.name for judged in verdict.failed] == []
    assert verdict.passed


Change = Callable[[Project], None]


def edit(name: str, change: Callable[[list[dict]], list[dict] | None], *stages: str) -> Change:
    """Change the rows of a Parquet file by plain Python, in the folders of some stages."""

    def plant(project: Project) -> None:
        for stage in stages:
            path = project.folder(stage) / name
            table = pq.read_table(path)
            records = table.to_pylist()
            records = change(records) or records
            there = records[0] if records else table.schema.names
            lax = pa.schema([pa.field(f.name, f.type) for f in table.schema if f.name in there])
            tables.write(pa.Table.from_pylist(records, lax), path)

    return plant


def put(id: str, /, **values: object) -> Callable[[list[dict]], None]:
    """Change one row."""
    return lambda records: next(record for record in records if record["id"] == id).update(values)


def at(place: int, **values: object) -> Callable[[list[dict]], None]:
    return lambda records: records[place].update(values)


def add(**values: object) -> Callable[[list[dict]], list[dict]]:
    """One more row, like the last but for these values."""
    return lambda records: [*records, records[-1] | values]


def features_edit(change: Callable[[list[dict]], list[dict] | None], split: str = "train") -> Change:
    def plant(project: Project) -> None:
        path = project.folder("tokenization") / f"{split}.arrow"
        records = read_stream(path).to_pylist()
        write_stream(pa.Table.from_pylist(change(records) or records, features.SCHEMA), path)

    return plant


def json_edit(stage: str, name: str, change: Callable[[dict], object]) -> Change:
    def plant(project: Project) -> None:
        path = project.folder(stage) / name
        content = json.loads(path.read_text())
        change(content)
        write_json(path, content)

    return plant


def file(stage: str, name: str, content: bytes | None) -> Change:
    def plant(project: Project) -> None:
        path = project.folder(stage) / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)

    return plant


def weights(stage: str, **tensors: np.ndarray) -> Change:
    return lambda project: save_file(tensors, project.folder(stage) / "model" / "model.safetensors")


def labelled(records: list[dict], number: int = 0) -> dict:
    """A window that has a label."""
    return [record for record in records if record["start_position"]][number]


def without(*ids: str) -> Callable[[list[dict]], list[dict]]:
    return lambda records: [record for record in records if record["id"] not in ids]


def cut_in_answer(records: list[dict]) -> list[dict]:
    """A row's window that ends within its answer, labelled as far as it goes: the well-known tutorial's fault."""
    window = labelled(records, 1)
    keep = window["end_position"] - window["context_start"]
    first = {**window, "end_position": window["end_position"] - 1}
    for name in ("start_char", "end_char"):
        first[name] = window[name][:keep]
    rest = {**window, "start_position": 0, "end_position": 0}
    place = records.index(window)
    return [*records[:place], first, rest, *records[place + 1 :]]


def swap_split(project: Project) -> None:
    """One row of a test group goes to train."""
    test, train = (project.folder("splitting") / f"{split}.parquet" for split in ("test", "train"))
    moved = pq.read_table(test)
    tables.write(pa.concat_tables([pq.read_table(train), moved.slice(0, 1)]), train)
    tables.write(moved.slice(1), test)


def move_child(project: Project) -> None:
    validation, train = (project.folder("splitting") / f"{split}.parquet" for split in ("validation", "train"))
    table = pq.read_table(train)
    tables.write(pa.concat_tables([pq.read_table(validation), table.slice(table.num_rows - 1)]), validation)
    tables.write(table.slice(0, table.num_rows - 1), train)


def same_question_in_test(project: Project) -> None:
    """A train row and a test row come to have the same text, under their own ids and groups."""
    for path in (project.folder("augmentation") / "rows.parquet", project.folder("splitting") / "test.parquet"):
        records = pq.read_table(path).to_pylist()
        first = good_rows().to_pylist()[1]
        for record in records:
            if record["id"] == "q11-1":
                record |= {name: first[name] for name in ("context", "question", "answer_start", "answer_text")}
        tables.write(pa.Table.from_pylist(records, rows.SCHEMA), path)


def declare_split(project: Project) -> None:
    edit("rows.parquet", at(0, split="test"), "augmentation")(project)
    edit("train.parquet", at(0, split="test"), "splitting")(project)


def two(a: Change, b: Change) -> Change:
    def plant(project: Project) -> None:
        a(project)
        b(project)

    return plant


ROWS = "rows.parquet"
LONG = "a" * 41
SHORT_CONTEXT = good_rows().to_pylist()[3]["context"]
OF_ANY_ROW_TABLE = [
    ("an id twice", put("q01-0", id="q02-0"), "ids_unique", ["q02-0"]),
    ("an id missing", put("q01-0", id=None), "ids_unique", ["(no id)"]),
    ("an offset one off", put("q01-0", answer_start=[3]), "answers_at_offsets", ["q01-0"]),
    ("a negative offset", put("q01-1", answer_start=[-5]), "answers_at_offsets", ["q01-1"]),
    ("an offset past the end", put("q01-1", answer_start=[5000]), "answers_at_offsets", ["q01-1"]),
    (
        "a second answer that is elsewhere",
        put("q01-0", answer_start=[2, 9], answer_text=["Émile 1", "Émile 1"]),
        "answers_at_offsets",
        ["q01-0"],
    ),
    ("an offset without a text", put("q01-0", answer_start=[2, 2]), "answers_at_offsets", ["q01-0"]),
    ("an offset without an answer", put("q01-2", answer_start=[2]), "answers_at_offsets", ["q01-2"]),
    ("an empty answer", put("q01-0", answer_text=[""]), "answers_at_offsets", ["q01-0"]),
    ("a null question", put("q01-0", question=None), "no_nulls", ["q01-0"]),
    ("a null list", put("q01-0", answer_text=None), "no_nulls", ["q01-0"]),
    ("a null in a list", put("q01-0", answer_text=[None]), "no_nulls", ["q01-0"]),
    ("a blank context", put("q01-2", context=" \t"), "no_empty_texts", ["q01-2"]),
    (
        "a column too few",
        lambda records: [{k: v for k, v in r.items() if k != "title"} for r in records],
        "columns",
        ["title"],
    ),
    ("no rows", lambda records: records.clear(), None, []),
]
ALSO_LATER = [defect for defect in OF_ANY_ROW_TABLE if defect[0] in ("an id twice", "an offset one off", "no rows")]
SPLITS = "splitting"
DEFECTS = [
    *(
        (f"{stage}: {what}", stage, edit(ROWS, change, stage), promise, broken)
        for stage, defects in (("ingestion", OF_ANY_ROW_TABLE), ("cleaning", ALSO_LATER), ("augmentation", ALSO_LATER))
        for what, change, promise, broken in defects
    ),
    ("too few rows", "ingestion", edit(ROWS, lambda r: r[:19], "ingestion"), "enough_rows", []),
    (
        "a long question",
        "ingestion",
        edit(ROWS, put("q01-0", question=LONG), "ingestion"),
        "question_length",
        ["q01-0"],
    ),
    (
        "a long context",
        "ingestion",
        edit(ROWS, put("q01-2", context=LONG * 5), "ingestion"),
        "context_length",
        ["q01-2"],
    ),
    ("an unknown split", "ingestion", edit(ROWS, put("q01-2", split="dev"), "ingestion"), "splits_known", ["q01-2"]),
    (
        "a source's row with a parent",
        "ingestion",
        edit(ROWS, put("q01-2", parent="q01-1"), "ingestion"),
        "no_children",
        ["q01-2"],
    ),
    (
        "nothing unanswerable where some was promised",
        "ingestion",
        edit(ROWS, lambda r: [row for row in r if row["answer_text"]], "ingestion"),
        "unanswerable_share",
        [],
    ),
    ("a file that is no Parquet", "ingestion", file("ingestion", ROWS, b"PAR1 but not really"), "readable", []),
    ("a file that is not there", "ingestion", file("ingestion", ROWS, None), "readable", []),
    ("a row lost", "cleaning", edit(ROWS, without("q03-1"), "cleaning"), "rows_accounted_for", ["q03-1"]),
    (
        "a row kept and dropped",
        "cleaning",
        edit("dropped.parquet", add(id="q03-1"), "cleaning"),
        "rows_accounted_for",
        ["q03-1"],
    ),
    (
        "a row from nowhere",
        "cleaning",
        edit(ROWS, put("q03-1", id="new"), "cleaning"),
        "rows_accounted_for",
        ["q03-1", "new"],
    ),
    (
        "a drop without a reason",
        "cleaning",
        edit("dropped.parquet", put("q00-0", reason=""), "cleaning"),
        "drops_explained",
        ["q00-0"],
    ),
    (
        "too much dropped",
        "cleaning",
        two(
            edit(ROWS, lambda r: r[8:], "cleaning"),
            edit(
                "dropped.parquet",
                lambda _: [{"id": f"q{i // 3:02}-{i % 3}", "reason": "x"} for i in range(9)],
                "cleaning",
            ),
        ),
        "dropped_share",
        [f"q{i // 3:02}-{i % 3}" for i in range(9)],
    ),
    (
        "a question asked twice of one context",
        "cleaning",
        edit(ROWS, put("q01-1", question="Who walked?"), "cleaning"),
        "no_duplicates",
        ["q01-1"],
    ),
    (
        "an original changed",
        "augmentation",
        edit(ROWS, put("q03-1", question="Who?"), "augmentation"),
        "originals_unchanged",
        ["q03-1"],
    ),
    (
        "an original gone",
        "augmentation",
        edit(ROWS, without("q03-1"), "augmentation"),
        "originals_unchanged",
        ["q03-1"],
    ),
    (
        "a new row of no parent",
        "augmentation",
        edit(ROWS, put("q00-1+1", parent=None), "augmentation"),
        "children_name_parents",
        ["q00-1+1"],
    ),
    (
        "a parent that is not there",
        "augmentation",
        edit(ROWS, put("q00-1+1", parent="q99"), "augmentation"),
        "parents_exist",
        ["q00-1+1"],
    ),
    (
        "a child in another group",
        "augmentation",
        edit(ROWS, put("q00-1+1", group="g5"), "augmentation"),
        "children_in_group",
        ["q00-1+1"],
    ),
    (
        "a child declared test",
        "augmentation",
        edit(ROWS, put("q00-1+1", split="test"), "augmentation"),
        "no_held_out_children",
        ["q00-1+1"],
    ),
    (
        "a child of a row declared validation",
        "augmentation",
        edit(ROWS, put("q00-1", split="validation"), "cleaning", "augmentation"),
        "no_held_out_children",
        ["q00-1+1"],
    ),
    (
        "too many children",
        "augmentation",
        edit(ROWS, lambda r: [*r, *(r[-1] | {"id": f"c{i}"} for i in range(80))], "augmentation"),
        "children_share",
        [],
    ),
    ("a row placed nowhere", SPLITS, edit("test.parquet", without("q11-1"), SPLITS), "all_rows_placed", ["q11-1"]),
    (
        "a row placed twice",
        SPLITS,
        edit("test.parquet", lambda r: [*r, r[0]], SPLITS),
        "ids_unique",
        ["q10-0", "q10-0"],
    ),
    ("a row from nowhere in train", SPLITS, edit("train.parquet", add(id="new"), SPLITS), "rows_unchanged", ["new"]),
    (
        "a row changed on its way",
        SPLITS,
        edit("train.parquet", put("q03-1", title="x"), SPLITS),
        "rows_unchanged",
        ["q03-1"],
    ),
    ("a group in two splits", SPLITS, swap_split, "groups_apart", ["q10-0", "q10-1", "q10-2"]),
    ("the same question in train and test", SPLITS, same_question_in_test, "duplicates_apart", ["q00-1", "q11-1"]),
    ("one context in train and test", SPLITS, same_question_in_test, "texts_apart", ["q00-1", "q00-2", "q11-1"]),
    ("a child in validation", SPLITS, move_child, "children_in_train", ["q00-1+1"]),
    ("a declared split not kept", SPLITS, declare_split, "declared_splits_kept", ["q00-1"]),
    ("a small test split", SPLITS, edit("test.parquet", lambda r: r[:4], SPLITS), "test_rows", []),
    ("an empty split", SPLITS, edit("validation.parquet", lambda r: r.clear(), SPLITS), "validation_rows", []),
    (
        "a split of one kind",
        SPLITS,
        edit("test.parquet", lambda r: [x for x in r if x["answer_text"]], SPLITS),
        "stratum_difference",
        [],
    ),
    (
        "a split with other columns",
        SPLITS,
        edit("test.parquet", lambda r: [{"id": x["id"]} for x in r], SPLITS),
        "test_columns",
        ["group"],
    ),
    (
        "a row without features",
        "tokenization",
        features_edit(lambda r: [f for f in r if f["row"] != 3]),
        "features_for_all",
        ["q01-1"],
    ),
    ("features of no row", "tokenization", features_edit(add(row=400)), "features_of_rows", ["train.arrow: row 400"]),
    ("a window too long", "tokenization", features_edit(at(0, input_ids=[1] * 17)), "lengths", ["q00-1"]),
    ("a label in the question", "tokenization", features_edit(at(0, start_position=2)), "labels_in_context", ["q00-1"]),
    ("a label past the end", "tokenization", features_edit(at(0, end_position=99)), "labels_in_context", ["q00-1"]),
    ("a partial answer labelled", "tokenization", features_edit(cut_in_answer), "labels_cover_answers", ["q00-1"]),
    (
        "an unanswerable question labelled",
        "tokenization",
        features_edit(lambda r: next(f for f in r if f["row"] == 1).update(start_position=4, end_position=4)),
        "labels_cover_answers",
        ["q00-2"],
    ),
    (
        "labels a word too wide",
        "tokenization",
        features_edit(lambda r: labelled(r, 1).update(end_position=labelled(r, 1)["end_position"] + 1)),
        "misaligned_share",
        ["q00-1"],
    ),
    (
        "a misaligned row that the list does not name",
        "tokenization",
        features_edit(lambda r: labelled(r, 1).update(end_position=labelled(r, 1)["end_position"] + 1)),
        "misaligned_listed",
        ["q00-1"],
    ),
    (
        "answers that no window holds",
        "tokenization",
        features_edit(lambda r: [f | {"start_position": 0, "end_position": 0} for f in r]),
        "truncated_share",
        ["q00-1"],
    ),
    (
        "a loss that is no number",
        "training",
        json_edit("training", "facts.json", lambda f: f.update(last_loss=float("nan"))),
        "last_loss",
        [],
    ),
    (
        "a loss that is infinite",
        "training",
        json_edit("training", "facts.json", lambda f: f.update(first_loss=float("inf"))),
        "loss_drop",
        [],
    ),
    (
        "a loss that was not computed",
        "training",
        json_edit("training", "facts.json", lambda f: f.pop("best_loss")),
        "best_loss",
        [],
    ),
    (
        "a loss that rose",
        "training",
        json_edit("training", "facts.json", lambda f: f.update(last_loss=6.0)),
        "loss_drop",
        [],
    ),
    ("no weights", "training", file("training", "model/model.safetensors", None), "weights_there", []),
    (
        "a pickle beside the weights",
        "training",
        file("training", "model/pytorch_model.bin", b"\x80\x04"),
        "no_code",
        ["pytorch_model.bin"],
    ),
    (
        "Python in the model's folder",
        "training",
        file("training", "model/modeling.py", b"print()"),
        "no_code",
        ["modeling.py"],
    ),
    (
        "a weight that is no number",
        "training",
        weights("training", a=np.ones(3, np.float32), b=np.array([1, np.nan], np.float32)),
        "weights_finite",
        ["model.safetensors: b"],
    ),
    (
        "an infinite weight in half precision",
        "training",
        weights("training", a=np.array([1, np.inf], np.float16)),
        "weights_finite",
        ["model.safetensors: a"],
    ),
    ("weights that are cut off", "training", file("training", "model/model.safetensors", b"\xff" * 20), "readable", []),
    ("an output missing", "evaluation", edit("test.parquet", lambda r: r[1:], "evaluation"), "test_outputs", ["q10-0"]),
    (
        "an output twice",
        "evaluation",
        edit("validation.parquet", lambda r: [*r, r[0]], "evaluation"),
        "validation_outputs",
        ["q08-0"],
    ),
    (
        "no outputs of the untrained model",
        "evaluation",
        edit("untrained.parquet", lambda r: r.clear(), "evaluation"),
        "untrained_output_count",
        [],
    ),
    ("an output of no row", "evaluation", edit("test.parquet", add(row=99), "evaluation"), "test_outputs", ["row 99"]),
    (
        "a score that is no number",
        "evaluation",
        edit("test.parquet", at(0, null_score=float("nan")), "evaluation"),
        "test_scores_finite",
        ["q10-0"],
    ),
    (
        "an infinite logit",
        "evaluation",
        edit("test.parquet", at(0, end_logit=[float("inf")]), "evaluation"),
        "test_scores_finite",
        ["q10-0"],
    ),
    (
        "no candidates",
        "evaluation",
        edit("test.parquet", at(0, end_logit=[], end_char=[], end_token=[]), "evaluation"),
        "test_scores_finite",
        ["q10-0"],
    ),
    (
        "a candidate past the context",
        "evaluation",
        edit("test.parquet", at(0, end_char=[999]), "evaluation"),
        "test_spans_in_context",
        ["q10-0"],
    ),
    (
        "a loss too high",
        "evaluation",
        json_edit("evaluation", "losses.json", lambda f: f.update(test=21.0)),
        "test_loss",
        [],
    ),
    (
        "a loss not computed on validation",
        "evaluation",
        json_edit("evaluation", "losses.json", lambda f: f.pop("validation")),
        "validation_loss",
        [],
    ),
    (
        "a prediction missing",
        "postprocessing",
        json_edit("postprocessing", "predictions/predictions.json", lambda p: p.pop("q10-0")),
        "predictions_for_all",
        ["q10-0"],
    ),
    (
        "a prediction for no question",
        "postprocessing",
        json_edit("postprocessing", "predictions/predictions.json", lambda p: p.update(x="")),
        "predictions_for_all",
        ["x"],
    ),
    (
        "an answer that its context does not hold",
        "postprocessing",
        json_edit("postprocessing", "predictions/predictions.json", lambda p: p.update({"q10-0": "Who walked"})),
        "answers_in_context",
        ["q10-0"],
    ),
    (
        "all answers empty",
        "postprocessing",
        json_edit("postprocessing", "predictions/predictions.json", lambda p: p.update(dict.fromkeys(p, ""))),
        "empty_share",
        [],
    ),
    (
        "a score not defined",
        "postprocessing",
        json_edit("postprocessing", "metrics.json", lambda m: m["test"]["f1"].update(value=None)),
        "test_f1",
        [],
    ),
    (
        "a score over 100",
        "postprocessing",
        json_edit("postprocessing", "metrics.json", lambda m: m["test"]["exact"].update(value=150.0)),
        "test_exact",
        [],
    ),
    (
        "questions not scored",
        "postprocessing",
        json_edit("postprocessing", "metrics.json", lambda m: m["test"].update(count=5)),
        "test_count",
        [],
    ),
    (
        "scores under their floor",
        "report",
        json_edit("postprocessing", "metrics.json", lambda m: m["test"]["f1"].update(value=14.9)),
        "test_f1",
        [],
    ),
    ("no model card", "report", file("report", "model/README.md", None), "files_to_publish", ["README.md"]),
    ("an empty model card", "report", file("report", "model/README.md", b""), "files_to_publish", ["README.md"]),
    ("a pickle to publish", "report", file("report", "model/training_args.bin", b""), "no_code", ["training_args.bin"]),
    ("other weights than those trained", "report", weights("report", a=np.ones(2)), "weights_as_trained", ["weights"]),
    ("no weights to publish", "report", file("report", "model/model.safetensors", None), "weights_there", []),
]


@pytest.mark.slow
@pytest.mark.parametrize(("gate", "plant", "promise", "broken"), [d[1:] for d in DEFECTS], ids=[d[0] for d in DEFECTS])
def test_a_planted_defect_is_refused_and_named(
    project: Project, gate: str, plant: Change, promise: str | None, broken: list[str]
) -> None:
    plant(project)
    verdict = project.verdict(gate)
    failed = {judged.promise.name: judged.promise for judged in verdict.failed}
    assert not verdict.passed
    if promise:
        assert promise in failed
        assert set(broken) <= {re.sub(r"^row \d+ ", "", row) for row in failed[promise].rows}


def test_unanswerable_questions_alone_allow_an_empty_answer(project: Project) -> None:
    for split in tables.SPLITS:
        edit(f"{split}.parquet", lambda r: [x for x in r if x["answer_text"]], "splitting")(project)
    path = project.folder("postprocessing") / "predictions" / "predictions.json"
    answers = {id: text for id, text in json.loads(path.read_text()).items() if text}
    write_json(path, answers | {"q10-0": ""})
    failed = {judged.promise.name: judged.promise.rows for judged in project.verdict("postprocessing").failed}
    assert failed["no_empty_answers"] == ["q10-0"]


def test_repeated_questions_pass_where_the_pipeline_says_to_keep_them(project: Project) -> None:
    edit(ROWS, put("q01-1", question="Who walked?"), "cleaning")(project)
    kept = project.params.model_copy(
        update={"cleaning": project.params.cleaning.model_copy(update={"duplicates": False})}
    )
    assert Project(project.layout, kept).verdict("cleaning").passed


def test_a_split_that_the_source_lacks_may_be_cut_out_of_train_and_one_that_it_has_may_not(project: Project) -> None:
    def declare(records: list[dict]) -> None:
        for record in records:
            record["split"] = "train"

    edit(ROWS, declare, "augmentation")(project)
    for split in tables.SPLITS:
        edit(f"{split}.parquet", declare, SPLITS)(project)
    assert project.verdict("splitting").passed
    held_out = pq.read_table(project.folder(SPLITS) / "test.parquet")["id"].to_pylist()
    edit(ROWS, put(held_out[0], split="test"), "augmentation")(project)
    failed = {judged.promise.name: judged.promise.rows for judged in project.verdict("splitting").failed}
    assert sorted(failed["declared_splits_kept"]) == sorted(held_out[1:])


def test_rows_of_one_group_may_be_in_two_declared_splits_up_to_an_allowed_share(
    project: Project,
) -> None:
    swap_split(project)
    section = project.params.gates.splitting

    def verdict(share: float) -> runner.Verdict:
        gates = project.params.gates.model_copy(
            update={"splitting": section.model_copy(update={"max_shared_share": share})}
        )
        return Project(project.layout, project.params.model_copy(update={"gates": gates})).verdict("splitting")

    def declare(records: list[dict]) -> None:
        for record in records:
            record["split"] = "train"

    assert "groups_apart" in {judged.promise.name for judged in verdict(0.5).failed}  # nobody declared these splits
    for split in tables.SPLITS:
        edit(f"{split}.parquet", declare, SPLITS)(project)
    assert "groups_apart" not in {judged.promise.name for judged in verdict(0.5).failed}
    failed = {judged.promise.name: judged.promise.rows for judged in verdict(0.01).failed}
    assert sorted(failed["groups_apart"]) == ["q10-0", "q10-1", "q10-2"]


def test_an_empty_split_is_refused_with_the_group_that_holds_the_rows(project: Project) -> None:
    def one_group(records: list[dict]) -> None:
        for record in records:
            record["group"] = "Not available"

    edit(ROWS, one_group, "augmentation")(project)
    edit("validation.parquet", lambda r: r.clear(), SPLITS)(project)
    failed = {judged.promise.name: judged.promise.says for judged in project.verdict("splitting").failed}
    total = pq.read_table(project.folder("augmentation") / ROWS).num_rows
    says = f"{total} of {total} rows (100.0%) belong together and stay in one split: {total} of them are of group"
    assert f"{says} 'Not available'; set splitting.by: text" in failed["validation_rows"]


def test_an_empty_split_is_refused_with_the_text_that_all_rows_have(project: Project) -> None:
    def one_text(records: list[dict]) -> None:
        for record in records:
            record["context"] = "One text."

    edit(ROWS, one_text, "augmentation")(project)
    edit("validation.parquet", lambda r: r.clear(), SPLITS)(project)
    failed = {judged.promise.name: judged.promise.says for judged in project.verdict("splitting").failed}
    assert "their context is the same; declare splits in source.splits" in failed["validation_rows"]


def test_groups_may_be_parted_where_splitting_is_by_text(project: Project) -> None:
    swap_split(project)
    splitting = project.params.splitting.model_copy(update={"by": "text"})
    found = Project(project.layout, project.params.model_copy(update={"splitting": splitting})).verdict("splitting")
    assert "groups_apart" not in {judged.promise.name for judged in found.judged}


def test_answers_longer_than_a_prediction_are_refused_with_the_value_that_fits(project: Project) -> None:
    assert project.verdict("tokenization").passed
    short = project.params.postprocessing.model_copy(update={"max_answer_length": 1})
    changed = project.params.model_copy(update={"postprocessing": short})
    (failed,) = Project(project.layout, changed).verdict("tokenization").failed
    assert failed.promise.name == "impossible_share"
    assert set(failed.settings) == {"gates.tokenization.max_impossible_share", "postprocessing.max_answer_length"}
    needed = int(re.search(r"postprocessing.max_answer_length: (\d+) would do", failed.promise.says)[1])
    enough = project.params.postprocessing.model_copy(update={"max_answer_length": needed})
    changed = project.params.model_copy(update={"postprocessing": enough})
    assert Project(project.layout, changed).verdict("tokenization").passed


def test_a_long_run_of_white_space_is_for_cleaning_to_take_out(project: Project) -> None:
    edit(ROWS, put("q01-0", question="Who" + " " * 90 + "walked?"), "ingestion")(project)
    assert project.verdict("ingestion").passed


def test_a_quarantined_row_needs_no_features(project: Project) -> None:
    features_edit(lambda r: [f for f in r if f["row"] != 3])(project)
    (project.folder("tokenization") / "quarantine.jsonl").write_text('{"id": "q01-1"}\n')
    assert project.verdict("tokenization").passed


def test_characters_that_the_tokenizer_drops_do_not_make_a_label_partial(project: Project) -> None:
    """An answer that ends in a zero-width space has no token there: misaligned, but whole."""

    def widen(records: list[dict]) -> None:
        for record in records:
            if record["id"] == "q01-0":
                text = record["answer_text"][0] + "\u200b"
                record["context"] = record["context"].replace(record["answer_text"][0], text)
                record["answer_text"] = [text]

    edit("train.parquet", widen, "splitting")(project)
    failed = {judged.promise.name: judged.promise.rows for judged in project.verdict("tokenization").failed}
    assert "labels_cover_answers" not in failed
    assert failed["misaligned_share"] == ["q01-0"]


def test_bfloat16_weights_are_looked_at(tmp_path: Path) -> None:
    from trainwright.gates.models import not_finite

    bits = np.array([0x3F80, 0x7FC0], np.uint16).tobytes()  # 1.0 and NaN
    header = json.dumps(
        {
            "fine": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]},
            "nan": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        }
    )
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode() + bits)
    assert not_finite(tmp_path) == ["model.safetensors: nan"]
