"""docs/parameters.md is what the types of params.yaml say, and a key without a meaning is noticed."""

import importlib.util
import re
import sys
from types import ModuleType

import pytest
from conftest import ROOT

from trainwright import operations
from trainwright.core.params import Section


@pytest.fixture(scope="module")
def parameters() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parameters", ROOT / "tools" / "parameters.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["parameters"] = module
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_the_generated_one(parameters: ModuleType) -> None:
    assert (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8") == parameters.page(), "run `make parameters`"


def test_every_key_of_every_section_stands_there(parameters: ModuleType) -> None:
    text = parameters.page()
    for key in ("wait_minutes", "accumulation", "publication", "retention", "notifications", "labels", "scratch"):
        assert re.search(rf"`{key}`|{key}", text), key
    for section in (operations.Operations, operations.Publication, operations.Label, operations.Retention):
        for key in section.model_fields:
            assert f"| `{key}` |" in text, key


def test_a_key_without_a_meaning_ends_the_generator(parameters: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parameters._meaning(Nameless, "told") == "What it is."
    assert parameters._meaning(Nameless, "above") == "What it is, too."
    assert parameters._meaning(Nameless, "said") == "`said` is in the docstring."
    monkeypatch.setitem(parameters.SECTIONS, "nameless", Nameless)
    with pytest.raises(ValueError, match=r"^no meaning is written of: test_parameters\.Nameless\.bare$"):
        parameters.page()


class Nameless(Section):
    """A section. `said` is in the docstring. Nothing is of the other."""

    told: int = 1  # what it is
    # what it is, too
    above: int = 1
    said: int = 1
    bare: int = 1
