"""Ready pipelines: each is valid, and is copied into params.yaml without touching anything else there."""

import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from flows import recipes
from trainwright.core import params
from trainwright.core.errors import InputError

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    return tmp_path


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_valid_and_pins_its_base_model(project: Path, recipe: str) -> None:
    added = params.load(project / "params.yaml").pipelines.keys() | {recipes.add(project, recipe)}
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
    ((_, squad),) = params.read_yaml(ROOT / "recipes" / "squad.yaml").items()
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
    assert recipes.add(project, "squad") == "squad"
    assert list(params.load(path).pipelines) == ["sample-qa", "squad"]


@pytest.mark.parametrize(
    ("recipe", "name", "says"),
    [
        ("squat", None, "Did you mean `squad`"),
        ("squad", "sample-qa", "--name NAME"),
        ("squad", "Not Good", "lower-case words"),
        ("../params", None, "there is no recipe"),
    ],
)
def test_what_cannot_be_added_is_said_and_changes_nothing(
    project: Path, recipe: str, name: str | None, says: str
) -> None:
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(InputError, match=says):
        recipes.add(project, recipe, name)
    assert (project / "params.yaml").read_bytes() == before


def test_a_file_that_is_not_valid_is_not_extended(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("epochs: 3", "epochs: many"))
    with pytest.raises(InputError, match="epochs"):
        recipes.add(project, "squad")
