"""Ready pipelines: each is valid, and is copied into params.yaml without touching anything else there."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from flows import recipes
from trainwright import sources
from trainwright.core import params, tasks
from trainwright.core.errors import InputError
from trainwright.core.yaml_file import read_yaml

CORPORA = Path(os.environ.get("TRAINWRIGHT_CORPORA", "no-corpora"))  # public sets that are not ours to carry
PLAIN = {  # a set's plain file: its recipe, the published number of rows, how many of them lack a text
    "cola-train.csv": ("cola", 8551, 0),
    "cola-dev.csv": ("cola", 1043, 0),
    "sst2-train.csv": ("sst2", 6920, 0),
    "sst2-dev.csv": ("sst2", 872, 0),
    "rte-train.csv": ("rte", 2490, 0),
    "rte-dev.csv": ("rte", 277, 0),
    "sms-spam.csv": ("sms-spam", 5574, 0),
    "agnews-test.csv": ("ag-news", 7600, 0),
    "chnsenticorp-hotel.csv": ("chnsenticorp", 7766, 1),
    "boolq-fewglue32.csv": ("boolq", 32, 0),
    "cb-fewglue32.csv": ("cb", 32, 0),
    "copa-fewglue32.csv": ("copa", 32, 0),
    "cmrc2018-trial.json": ("cmrc2018", 1002, 2),
    "drcd-dev.json": ("drcd", 3524, 0),
    "squad-train-v1.1.json.gz": ("squad", 87599, 0),
    "squad-v2-sample.json": ("squad-v2", 6307, 0),
    "wnut17-train.conll": ("wnut17", 3394, 0),
    "wnut17-dev.conll": ("wnut17", 1009, 0),
    "wikigold.conll": ("wikigold", 1696, 0),
    "weibo-ner-train.conll": ("weibo-ner", 1350, 0),
    "weibo-ner-dev.conll": ("weibo-ner", 270, 0),
}
FORMS = {".csv": "csv", ".json": "squad", ".gz": "squad", ".conll": "conll"}
RECIPES = sorted(path.stem for path in (ROOT / "recipes").rglob("*.yaml"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    return tmp_path


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_valid_and_pins_its_base_model(project: Path, recipe: str) -> None:
    added = params.load(project / "params.yaml").pipelines.keys() | set(recipes.add(project, recipe))
    loaded = params.load(project / "params.yaml")
    assert loaded.pipelines.keys() == added
    pipeline = loaded.pipeline(recipe)
    kind, _, name = pipeline.base_uri.partition(":")
    assert kind in {"package", "scratch"} or len(name.partition("@")[2]) == 40
    if pipeline.source.format == "hub":  # without a revision the first refresh pins the newest
        assert not pipeline.source.revision or re.match(r"[0-9a-f]{40}$|refs/", pipeline.source.revision)
    else:
        assert pipeline.source.revision is None


def test_squad_has_the_classic_values() -> None:
    ((_, squad),) = read_yaml(ROOT / "recipes" / "squad.yaml").items()
    assert squad["source"]["uri"] == "hub:rajpurkar/squad"
    assert squad["tokenization"] == {"max_length": 384, "stride": 128}
    training = squad["training"]
    assert (training["learning_rate"], training["batch_size"], training["epochs"]) == (2e-5, 16, 3)
    assert training["weight_decay"] == 0.01


def test_adding_leaves_every_line_of_params_yaml_where_it_was(project: Path) -> None:
    before = (project / "params.yaml").read_text().splitlines()
    recipes.add(project, "squad", "our-squad")
    after = (project / "params.yaml").read_text().splitlines()
    start = after.index("  our-squad:")
    added = len((project / "recipes" / "squad.yaml").read_text().splitlines()) - 2  # its two lines of comment
    assert after[:start] + after[start + added :] == before
    assert any("# for a try" in line for line in after[start : start + added])


def test_pipelines_at_the_end_of_the_file_can_be_extended_too(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text().split("\n# How stages are run")[0].rstrip())
    assert recipes.add(project, "squad") == ["squad"]
    assert list(params.load(path).pipelines) == ["sample-qa", "squad"]


@pytest.mark.parametrize(
    ("recipe", "name", "says"),
    [
        ("squat", None, "Did you mean `squad`"),
        ("squad", "sample-qa", "--name NAME"),
        ("squad", "Not Good", "lower-case words"),
        ("../params", None, "there is no recipe"),
        ("glue", "all", "Leave --name out"),
        ("gleu", None, "Did you mean `glue`"),
    ],
)
def test_what_cannot_be_added_is_said_and_changes_nothing(
    project: Path, recipe: str, name: str | None, says: str
) -> None:
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(InputError, match=says):
        recipes.add(project, recipe, name)
    assert (project / "params.yaml").read_bytes() == before


def test_a_clone_without_its_recipes_is_told_where_they_are(project: Path) -> None:
    shutil.rmtree(project / "recipes")
    with pytest.raises(InputError, match="restore it with Git"):
        recipes.add(project, "squad")


def test_a_file_that_is_not_valid_is_not_extended(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("epochs: 3", "epochs: many"))
    with pytest.raises(InputError, match="epochs"):
        recipes.add(project, "squad")


def test_a_group_is_added_at_once_without_what_is_there_already(project: Path) -> None:
    recipes.add(project, "cola")
    assert recipes.add(project, "glue") == ["mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"]
    pipelines = params.load(project / "params.yaml").pipelines
    assert list(pipelines) == ["sample-qa", "cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"]
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(InputError, match="already"):
        recipes.add(project, "glue")
    assert (project / "params.yaml").read_bytes() == before


def test_every_recipe_and_group_has_a_name_of_its_own() -> None:
    names = RECIPES + [path.name for path in (ROOT / "recipes").iterdir() if path.is_dir()]
    assert len(set(names)) == len(names)


def test_a_column_that_is_mapped_is_not_also_taken_under_its_own_name(project: Path, tmp_path: Path) -> None:
    recipes.add(project, "stsb")
    ours = params.load(project / "params.yaml").pipeline("stsb").source
    (tmp_path / "sts.csv").write_text("sentence1,sentence2,label\nA man sings.,Someone sings.,4.2\n")
    local = params.Source(uri="sts.csv", format="csv", columns=ours.columns)
    part = tasks.load("classification", "rows")
    rows, faults = part.from_source(sources.read(local, tmp_path, part.COLUMNS), "sts.csv")
    assert (rows["value"].to_pylist(), rows["label"].to_pylist(), faults) == ([4.2], [None], [])


@pytest.mark.parametrize("name", PLAIN)
def test_a_set_is_read_whole_by_its_recipe(name: str, project: Path, tmp_path: Path) -> None:
    recipe, published, lacking = PLAIN[name]
    if not (CORPORA / name).is_file():
        pytest.skip(f"TRAINWRIGHT_CORPORA names no folder with {name}")
    recipes.add(project, recipe)
    pipeline = params.load(project / "params.yaml").pipeline(recipe)
    form = FORMS[Path(name).suffix]
    shutil.copy(CORPORA / name, tmp_path / name)
    if form == "csv":
        rename(tmp_path / name, pipeline.task, pipeline.source.columns)
    columns = {} if form == "conll" else pipeline.source.columns  # a CoNLL file has no names to be mapped
    local = params.Source(uri=name, format=form, columns=columns, tags=pipeline.source.tags)  # type: ignore[arg-type]
    part = tasks.load(pipeline.task, "rows")
    rows, faults = part.from_source(sources.read(local, tmp_path, part.COLUMNS), name)
    assert (rows.num_rows, len(faults)) == (published - lacking, lacking)


OWN = {  # lines as they stand in a set's own files, and what is read of the last: its texts and its gold
    "cola": ("gj04\t1\t\tOur friends won't buy it.\ngj04\t0\t*\tThey said \"no.\n", ('They said "no.', "", "0")),
    "sst2": ('sentence\tlabel\nhide new\t0\n"a gorgeous film\t1\n', ('"a gorgeous film', "", "1")),
    "mrpc": (
        '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\t"A," he said\t"B\n',
        ('"A," he said', '"B', "1"),
    ),
    "qqp": (
        'id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tWhy?\tWhy "so?\t0\n',
        ("Why?", 'Why "so?', "0"),
    ),
    "stsb": (
        "index\tgenre\tsentence1\tsentence2\tscore\n0\tmain\tA plane.\tAn air plane.\t4.750\n",
        ("A plane.", "An air plane.", 4.75),
    ),
    "mnli": ("index\tsentence1\tsentence2\tgold_label\n0\ta\tb\tneutral\n", ("a", "b", "neutral")),
    "qnli": ("index\tquestion\tsentence\tlabel\n0\tWhen?\tIn 1066.\tentailment\n", ("When?", "In 1066.", "entailment")),
    "rte": ("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n", ("a", "b", "not_entailment")),
    "wnli": ("index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n", ("a", "b", "1")),
    "ag-news": ('"3","Bears","A ""band"""\n"4","Carlyle","x"\n', ("Carlyle: x", "", "4")),
    "sms-spam": ('ham\tGo until\nspam\t"Free entry\n', ('"Free entry', "", "spam")),
    "boolq": (json.dumps({"question": "is x", "passage": "y", "idx": 0, "label": True}), ("is x", "y", "true")),
}


@pytest.mark.parametrize("recipe", OWN)
def test_what_a_recipe_says_of_a_sets_own_files_reads_them(recipe: str, project: Path, tmp_path: Path) -> None:
    """The settings stand in the recipe's comment; a file has a set's own form here, not its rows."""
    (path,) = (project / "recipes").rglob(f"{recipe}.yaml")
    comment = " ".join(re.findall(r"^# +(.*)$", path.read_text(), re.M))
    said = re.search(r"own files?: source: (\{.*?\}+)", comment)
    assert said
    settings = YAML(typ="safe").load(re.match(r"(\{(?:[^{}]|\{[^{}]*\})*\})", comment[said.start(1) :])[1])  # type: ignore[index]
    content, expected = OWN[recipe]
    names = list(settings.get("splits", {"": settings["uri"]}).values())
    for number, name in enumerate(names):  # a row has another number in every file
        (tmp_path / name).write_text(content.replace("\n0\t", f"\n{number}\t"), encoding="utf-8")
    if "splits" in settings:
        settings["uri"] = str(tmp_path)
    part = tasks.load("classification", "rows")
    rows, faults = part.from_source(sources.read(params.Source(**settings), tmp_path, part.COLUMNS), recipe)
    assert faults == []
    last = rows.to_pylist()[-1]
    assert (last["text"], last["text_b"], last["value"] if recipe == "stsb" else last["label"]) == expected


def test_wikitext_is_read_to_the_last_word(project: Path) -> None:
    name = "lm-wikitext2-valid.txt"
    if not (CORPORA / name).is_file():
        pytest.skip(f"TRAINWRIGHT_CORPORA names no folder with {name}")
    recipes.add(project, "wikitext2")
    pipeline = params.load(project / "params.yaml").pipeline("wikitext2")
    part = tasks.load(pipeline.task, "rows")
    documents = sources.read(params.Source(uri=name, format="text"), CORPORA, part.COLUMNS)
    rows, faults = part.from_source(documents, name)
    assert faults == []
    assert sum(len(text.split()) for text in rows["text"].to_pylist()) == 213_886  # 217,646 less 3,760 ends of lines


def rename(path: Path, task: str, columns: dict[str, str]) -> None:
    """Give a plain file, whose header is text, text_b, label, the names that the set has on the Hub."""
    known = {"text": "context", "label": "answer"} if task == "multiple_choice" else {}
    with path.open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    named = [columns.get(known.get(name, name), name) for name in header]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([named, *lines])
