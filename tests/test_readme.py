"""What README.md claims is so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import ingestion
from trainwright import pins
from trainwright.core import certificate, params, process
from trainwright.core.layout import STAGES, Layout
from trainwright.gates import runner

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def cli(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "flows.cli", *arguments], cwd=cwd, capture_output=True, text=True)


def test_the_table_of_commands_is_that_of_the_command_line():
    listed = re.findall(r"^\| `trainwright (\w+)([^`]*)` \|", README, re.M)
    shown = cli("--help").stdout
    found = re.findall(r"^    (\w+)  ", shown, re.M)
    assert [name for name, _ in listed] == found
    for name, arguments in listed:
        usage = cli(name, "--help").stdout.splitlines()[0]
        assert re.sub(r" \[(-h|--name NAME)\]", "", usage) == f"usage: trainwright {name}{arguments}"


def test_the_exit_codes_are_those_of_the_command_line():
    shown = re.findall(r"^  (\d)  (.+?)(?: \(.*)?$", cli("--help").stdout.split("exit codes:")[1], re.M)
    assert "; ".join(f"{code} {says}" for code, says in shown) in README


def test_the_two_commands_are_targets_of_the_makefile():
    named = set(re.findall(r"^make (\w+)", README, re.M))
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert targets and named == {"run", "test"} <= set(targets[1].split())


def test_every_file_that_it_sends_to_is_there():
    links = re.findall(r"\]\(((?!http)[^)]+)\)", README)
    paths = [
        *links,
        *(p for p in re.findall(r"`([\w./-]+/|[\w.-]+\.(?:yaml|txt|md))`", README) if "sample-qa" not in p),
    ]
    for path in paths:
        assert (ROOT / path).exists() or path == ".venv", path


def test_the_excerpt_names_every_stage_and_gate_in_the_order_of_the_graph():
    excerpt = README.split("```")[3]
    named = re.findall(r"(\w+)@sample-qa", excerpt)
    assert list(dict.fromkeys(named)) == [name for stage in STAGES for name in (stage, f"{stage}_gate")]


def test_the_counts_of_the_corpus_are_those_of_its_files():
    done = subprocess.run([sys.executable, "data/sample/build.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    passages, answerable, unanswerable = re.findall(r"\d+", done.stdout)
    flat = " ".join(README.split())
    assert f"{passages} passages" in flat
    assert f"{answerable} answerable and {unanswerable} unanswerable questions" in flat


@pytest.mark.parametrize("header", [True, False])
def test_the_one_edit_brings_a_file_of_ones_own(header, tmp_path):
    """README's snippet, put into params.yaml as it stands, reads a CSV with those column names, and no other."""
    snippet = YAML(typ="safe").load(README.split("```yaml\n")[1].split("```")[0])
    settings = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    settings["pipelines"]["sample-qa"]["source"] = snippet["source"]
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(settings, file)
    table = tmp_path / snippet["source"]["uri"]
    table.parent.mkdir(parents=True)
    names = "passage,query,span" if header else "a,b,c"
    lines = [f"The river number {n} is in Africa.,Where is the river number {n}?,Africa" for n in range(120)]
    table.write_text("\n".join([names, *lines]) + "\n")
    layout = Layout(tmp_path, "sample-qa")
    pipeline = params.load(layout.params).pipeline("sample-qa")
    if header:
        assert pins.refresh(layout, pipeline)[1]["rows"] == 120
        run = process.Run(layout, pipeline)
        ingestion.main(run)
        assert runner.run(layout, pipeline, "ingestion").passed
        assert certificate.check(layout, pipeline, "ingestion")
    else:
        with pytest.raises(params.InputError, match="passage"):
            pins.refresh(layout, pipeline)
