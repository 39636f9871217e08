"""The recipes on the sample corpus run whole, each with a small model of its kind over a part of the passages."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from flows import pinning, recipes
from trainwright.core import params
from trainwright.core.layout import STAGES, Layout
from trainwright.core.process import Run
from trainwright.gates import runner

pytestmark = pytest.mark.slow

SMALL = {"layers": 1, "heads": 2, "width": 32}
SCRATCH = {"family": "bert", "positions": 256, "tokenizer": "wordpiece", "vocabulary": 4000}


def small(path: Path, name: str) -> None:
    """Make an entry of params.yaml one of seconds: its model, its rows, its epochs and what its gates ask of both."""
    yaml = YAML()
    document = yaml.load(path)
    entry = document["pipelines"][name]
    if name == "sample-topics":  # 16 topics cannot be told apart by a model that has read 80 texts
        entry["training"]["epochs"] = 4
    else:
        wanted = entry["base_model"]
        scratch = SCRATCH if isinstance(wanted, str) else wanted["scratch"]
        entry["base_model"] = {"scratch": {**scratch, **SMALL}}
        entry["training"] |= {"epochs": 4, "learning_rate": 3e-3, "early_stopping": 0}
    entry["ingestion"]["limit"] = 80
    entry["postprocessing"]["bootstrap"] = 100
    gates = entry["gates"]
    gates["ingestion"] = {key: value for key, value in gates["ingestion"].items() if not key.startswith("min_")}
    gates["splitting"] |= dict.fromkeys(("min_train_rows", "min_validation_rows", "min_test_rows"), 5)
    # Floors are for the model that the recipe describes.
    gates["report"] = {"min_margin": -5.0} if name == "sample-t5" else {}
    yaml.dump(document, path)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "recipes").glob("sample-*.yaml")))
def test_a_sample_recipe_runs_from_the_corpus_to_a_report(name, tmp_path, monkeypatch):
    for folder in ("recipes", "data/sample"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    recipes.add(tmp_path, name)
    small(tmp_path / "params.yaml", name)
    monkeypatch.chdir(tmp_path)
    layout = Layout(tmp_path, name)
    section = params.load(layout.params).pipeline(name)
    pinning.ensure(layout, section)
    for stage in STAGES:
        importlib.import_module(f"stages.{stage}").main(Run(layout, section))
        runner.run(layout, section, stage)
    metrics = json.loads((layout.stage("postprocessing") / "metrics.json").read_text())
    predictions = json.loads((layout.stage("postprocessing") / "predictions" / "predictions.json").read_text())
    assert metrics["test"]["count"] == len(predictions) >= 5
    assert name in (layout.stage("report") / "index.html").read_text()
    assert list((layout.stage("report") / "model").glob("*.safetensors"))
