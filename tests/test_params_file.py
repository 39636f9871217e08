"""params.yaml is extended where it can be, and every other byte of it stays."""

from pathlib import Path

import pytest

from flows import params_file
from trainwright.core import params
from trainwright.core.errors import InputError
from trainwright.core.layout import STAGES
from trainwright.core.yaml_file import read_yaml

SHORT = """\
# Ours.
pipelines:
  one: # the first
    task: qa
    language: en
    base_model: "package:x"   # quoted
    source: {uri: a.csv, format: csv}
    # why so few
    training:
      epochs: 1

  two:
    task: qa
    language: en
    base_model: pipeline:one
    source: {uri: a.csv, format: csv}
    gates:
      report: {min_f1: 3.0}
      # the last

# How it is run.
operations:
  one: {}
"""


def written(root: Path, text: str) -> Path:
    (root / "params.yaml").write_text(text)
    return root / "params.yaml"


def test_absent_sections_are_written_and_every_line_stays(tmp_path: Path) -> None:
    path = written(tmp_path, SHORT)
    before = params.load(path)
    added = params_file.complete(tmp_path)
    assert {"one.after", "one.cleaning", "one.gates", "two.after", "two.gates.cleaning"} <= set(added)
    after = path.read_text().splitlines()
    rest = iter(after)
    assert all(line in rest for line in SHORT.splitlines())  # in their order
    assert len(after) == len(SHORT.splitlines()) + (1 + 8 + 1 + 9) + (1 + 9 + 8)  # after, sections, gates
    found = read_yaml(path)["pipelines"]
    for name in ("one", "two"):
        assert {*STAGES, "gates", "after"} <= found[name].keys() and found[name]["gates"].keys() >= {*STAGES}
    assert found["two"]["after"] == "one" and params.load(path) == before
    assert params_file.complete(tmp_path) == [] and path.read_text().splitlines() == after


@pytest.mark.parametrize(
    "text",
    [
        "pipelines: {one: {task: qa, language: en, base_model: 'package:x', source: {uri: a, format: csv}}} # kept\n",
        "labels: &all # kept\n  language: en\npipelines:\n  one:\n    <<: *all\n    task: qa\n"
        "    base_model: package:x\n    source: {uri: a, format: csv}\n",
    ],
    ids=["flow", "merged"],
)
def test_a_file_in_flow_style_or_with_anchors_is_extended_too(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    before = params.load(path)
    assert "one.cleaning" in params_file.complete(tmp_path)
    assert params.load(path).pipelines == before.pipelines and "# kept" in path.read_text()
    block = "two:\n  task: qa # ours\n  language: en\n  base_model: package:x\n  source: {uri: b, format: csv}\n"
    content = {"task": "qa", "language": "en", "base_model": "package:x", "source": {"uri": "b", "format": "csv"}}
    params_file.add(tmp_path, {"two": (block, content)})
    assert list(params.load(path).pipelines) == ["one", "two"] and "# kept" in path.read_text()


def test_a_file_that_is_not_valid_is_left_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, SHORT.replace("task: qa", "task: qaa", 1))
    with pytest.raises(InputError, match="qaa"):
        params_file.complete(tmp_path)
    assert "qaa" in path.read_text() and sorted(p.name for p in tmp_path.iterdir()) == ["params.yaml"]
