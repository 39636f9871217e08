"""The command line: what each command says, its exit codes, and that a killed run leaves nothing behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Toy, processes_in, wait
from fixtures.hub import serving
from fixtures.repository import repository
from fixtures.repository import trainwright as in_process
from ruamel.yaml import YAML

from flows import dvc, pinning, workspace
from trainwright.core import params
from trainwright.core.errors import InputError
from trainwright.core.layout import Layout

QUESTIONS = [
    {"id": f"q{n}", "question": f"Which city is number {n}?", "answers": [{"text": "Paris", "answer_start": 0}]}
    for n in range(3)
]
SOURCE = {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "Paris is here.", "qas": QUESTIONS}]}]}


def trainwright(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def project(toy: Toy) -> Toy:
    """A project with two pipelines, `one` and `two`, on a small source and an empty base model."""
    yaml = YAML(typ="safe", pure=True)
    pipeline = yaml.load(ROOT / "params.yaml")["pipelines"]["sample-qa"]
    pipeline |= {"base_model": "folder:base", "source": {"uri": "source.json", "format": "squad"}}
    pipeline["gates"]["ingestion"]["min_rows"] = 3
    pipeline["gates"]["splitting"] = {f"min_{split}_rows": 1 for split in ("train", "validation", "test")}
    with (toy.root / "params.yaml").open("w") as file:
        yaml.dump({"pipelines": {"one": pipeline, "two": pipeline}}, file)
    toy.write("source.json", json.dumps(SOURCE))
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        toy.write(f"base/{name}", "{}")
    return toy


def graph(project: Toy, one: str = "touch out.one", two: str = "touch out.two") -> None:
    item = {"one": {"cmd": one}, "two": {"cmd": two}}
    stage = {"foreach": item, "do": {"cmd": "${item.cmd}", "deps": ["data/${key}/source.json"], "outs": ["out.${key}"]}}
    project.write("dvc.yaml", json.dumps({"stages": {"ingestion": stage}}))


def test_help_names_every_command_and_exit_code(tmp_path: Path) -> None:
    said = trainwright(tmp_path, "--help")
    assert said.returncode == 0
    for word in (
        "check",
        "add",
        "refresh",
        "run",
        "predict",
        "0  done",
        "1  a gate",
        "2  the input",
        "3  the machinery",
    ):
        assert word in said.stdout


@pytest.mark.parametrize("command", [["check"], ["run"], ["add", "squad"], ["refresh", "one"]])
def test_outside_a_project_it_says_so(tmp_path: Path, command: list[str]) -> None:
    said = trainwright(tmp_path, *command)
    assert said.returncode == 2
    assert "not inside a Trainwright project" in said.stderr
    assert "Traceback" not in said.stderr


def test_an_unknown_pipeline_and_a_wrong_parameter_are_said_with_the_nearest_right_one(project: Toy) -> None:
    graph(project)
    said = trainwright(project.root, "run", "onne")
    assert (said.returncode, "Did you mean `one`?" in said.stderr) == (2, True)
    project.write("params.yaml", project.read("params.yaml").replace("epochs:", "epoch:", 1))
    said = trainwright(project.root, "check")
    assert (said.returncode, "`epochs`" in said.stderr) == (2, True)
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("name", ["../../../evil", "onne", "One", "none", "one\n", "*"])
@pytest.mark.parametrize("command", ["retrain", "accept --why x"])
def test_what_no_pipeline_is_called_is_refused_before_anything_is_made_or_decided(
    project: Toy, monkeypatch: pytest.MonkeyPatch, name: str, command: str
) -> None:
    graph(project)
    repository(project, monkeypatch)
    before = sorted(project.root.parent.rglob("*"))
    said = in_process(project.root, *command.split(), name)
    assert said.returncode == 2
    assert ("Did you mean `one`?" if name == "onne" else "pipeline") in said.stderr
    assert sorted(project.root.parent.rglob("*")) == before


def test_a_pipeline_is_known_by_the_commit_too_whatever_has_become_of_the_file_here(
    project: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph(project)
    repository(project, monkeypatch)
    project.write("params.yaml", project.read("params.yaml").replace("two:", "three:"))
    for name in ("two", "three"):
        workspace.require_known(project.root, name)
    project.write("params.yaml", "pipelines: [")
    workspace.require_known(project.root, "two")
    with pytest.raises(InputError, match="Did you mean `two`"):
        workspace.require_known(project.root, "twoo")


def test_a_word_too_many_is_said_with_the_usage_of_its_command(tmp_path: Path) -> None:
    said = trainwright(tmp_path, "models", "promote", "sample-qa", "v1.0.0")
    assert said.returncode == 2
    assert "models promote [-h] [--why WORDS] NAME@VERSION" in said.stderr and "v1.0.0" in said.stderr


def test_prediction_needs_no_project_and_no_prefect(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps(SOURCE))
    code = (
        "import sys; from flows.cli import main; code = main(['predict', 'model', 'in.json', 'out.json']);"
        "print('prefect' in sys.modules, 'dvc' in sys.modules); sys.exit(code)"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (2, "False False\n")
    assert said.stderr.startswith("model: ")


def test_check_says_what_would_run_and_why_and_that_models_cannot_be_published_yet(project: Toy) -> None:
    graph(project)
    said = trainwright(project.root, "check", "one")
    assert said.returncode == 0, said.stderr
    assert "source.json: the source has no pin yet; the next run pins it" in said.stdout
    assert "rows         3 read, 3 can be used, 0 go to quarantine" in said.stdout
    assert "would run    1 of 1 stages: none has run yet" in said.stdout
    assert "not publishable: no DVC remote; not a Git repository" in said.stdout
    assert not (project.root / "data").exists()
    assert trainwright(project.root, "refresh", "one").returncode == 0
    assert "source.json: as pinned" in trainwright(project.root, "check", "one").stdout
    dvc.Project(project.root).reproduce("ingestion@one", lambda _: None, 60)
    assert "would run    0 of 1 stages" in trainwright(project.root, "check", "one").stdout
    (project.root / "out.one").write_text("edited")
    said = trainwright(project.root, "check", "one").stdout
    assert "would run    1 of 1 stages\n    ingestion@one: out.one modified" in said


def test_check_fails_where_a_run_could_not_begin(project: Toy) -> None:
    graph(project)
    (project.root / "source.json").unlink()
    (project.root / "base" / "model.safetensors").rename(project.root / "base" / "pytorch_model.bin")
    said = trainwright(project.root, "check", "one")
    assert said.returncode == 2
    assert [line for line in said.stderr.splitlines() if "source.json" in line] == [said.stderr.splitlines()[0]]
    assert said.stderr.count("Pickles") == 1


def test_check_asks_the_hub_whether_what_it_would_pin_is_there_and_fetches_nothing(project: Toy) -> None:
    graph(project)
    own = project.read("params.yaml")

    def checked(uri: str, model: str, endpoint: str) -> subprocess.CompletedProcess[str]:
        content = YAML(typ="safe").load(own)
        pipeline = content["pipelines"]["one"]
        pipeline |= {"base_model": model, "source": {"uri": uri, "format": "hub", "revision": "main"}}
        project.write("params.yaml", json.dumps(content))
        home = str(project.root / "home")
        return trainwright(project.root, "check", "one", HF_ENDPOINT=endpoint, HF_HOME=home, HF_HUB_OFFLINE="0")

    with serving() as hub:
        hub.commit("acme/questions", {"data.csv": b"a"})
        good = f"hub:acme/model@{hub.commit('acme/model', {'config.json': b'{}', 'model.safetensors': b'-'})}"
        bare = f"hub:acme/bare@{hub.commit('acme/bare', {'config.json': b'{}', 'pytorch_model.bin': b'-'})}"
        said = checked("hub:acme/questions", good, hub.endpoint)
        assert said.returncode == 0, said.stderr
        assert said.stdout.count("the next run pins it") == 2
        assert not [asked for asked in hub.asked if "/resolve/" in asked]
        said = checked("hub:acme/question", f"hub:acme/nothing@{'0' * 40}", hub.endpoint)
        assert said.returncode == 2
        assert said.stderr.count("the Hub has no such data set") == 1
        assert said.stderr.count("the Hub has no model acme/nothing") == 1
        said = checked("hub:acme/questions", f"hub:acme/model@{'0' * 40}", hub.endpoint)
        assert (said.returncode, "has no commit 0000" in said.stderr) == (2, True)
        said = checked("hub:acme/questions", bare, hub.endpoint)
        assert (said.returncode, "no safetensors weights" in said.stderr) == (2, True)
    said = checked("hub:acme/questions", good, hub.endpoint)
    assert said.returncode == 3
    assert len(re.findall("the Hub (cannot|could not) be reached", said.stderr)) == 2
    assert "Traceback" not in said.stderr


def test_without_git_check_says_so(project: Toy) -> None:
    graph(project)
    said = trainwright(project.root, "check", "one", PATH=str(project.root / "base"))
    assert (said.returncode, "Git is not installed" in said.stdout) == (0, True)


def test_an_edit_that_leaves_the_bytes_alone_does_not_let_others_in(project: Toy) -> None:
    """`run` follows params.yaml; what it finds under an unchanged name must still be what was pinned."""
    layout = Layout(project.root, "one")
    pipeline = params.load(layout.params).pipeline("one")
    pinning.ensure(layout, pipeline)
    before = layout.source_pin.read_bytes()
    project.write("source.json", json.dumps(SOURCE).replace("here", "there"))
    for edit in ({"licence": "CC-BY-4.0"}, {"columns": {"title": "heading"}}):
        edited = pipeline.model_copy(update={"source": pipeline.source.model_copy(update=edit)})
        with pytest.raises(InputError, match="its bytes are not those of the pin"):
            pinning.ensure(layout, edited)
        assert layout.source_pin.read_bytes() == before
    pinning.refresh(layout, edited.model_copy(update={"source": pipeline.source}))
    licensed = pipeline.model_copy(update={"source": pipeline.source.model_copy(update={"licence": "CC-BY-4.0"})})
    assert pinning.ensure(layout, licensed)[0].startswith("params.yaml names another source (licence): pinned")
    assert json.loads(layout.source_pin.read_text())["licence"] == "CC-BY-4.0"


def test_refresh_moves_both_pins_and_says_from_what_to_what(project: Toy) -> None:
    graph(project)
    first = trainwright(project.root, "refresh", "one")
    assert (first.returncode, "source pinned: source.json, 3 rows" in first.stdout) == (0, True)
    assert "source unchanged" in trainwright(project.root, "refresh", "one").stdout
    project.write("source.json", json.dumps(SOURCE).replace("here", "there"))
    assert re.search(r"source pinned: .*, was source.json, 3 rows", trainwright(project.root, "refresh", "one").stdout)


@pytest.mark.usefixtures("prefect_api")
def test_a_run_makes_missing_pins_follows_params_yaml_and_refuses_other_bytes(project: Toy) -> None:
    graph(project)
    said = trainwright(project.root, "run", "one")
    assert said.returncode == 0, said.stderr
    assert "the source has no pin yet: pinned source.json, 3 rows" in said.stdout
    project.write("source.json", json.dumps(SOURCE).replace("here", "there"))
    said = trainwright(project.root, "run", "one")
    assert said.returncode == 2
    assert "its bytes are not those of the pin" in said.stderr
    (project.root / "source.json").rename(project.root / "new.json")
    project.write("params.yaml", project.read("params.yaml").replace("uri: source.json", "uri: new.json", 1))
    said = trainwright(project.root, "run", "one")
    assert said.returncode == 0, said.stderr
    assert "params.yaml names another source (uri): pinned new.json" in said.stdout


@pytest.mark.usefixtures("prefect_api")
def test_without_a_name_every_pipeline_runs_and_one_that_fails_stops_no_other(project: Toy) -> None:
    graph(project, one="exit 7")
    said = trainwright(project.root, "run")
    assert said.returncode == 3
    assert "one: Failed in " in said.stdout
    assert "two: Completed in " in said.stdout
    assert (project.root / "out.two").exists()
    assert "Traceback" not in said.stdout + said.stderr


@pytest.mark.usefixtures("prefect_api")
def test_what_nobody_foresaw_is_one_line_and_a_file(project: Toy) -> None:
    graph(project)
    project.write("data", "a file where a folder should be")
    said = trainwright(project.root, "refresh", "one")
    assert said.returncode == 3
    (line,) = said.stderr.splitlines()
    path = re.search(r"The traceback is in (.*)\.$", line)
    assert path and "Traceback" in Path(path[1]).read_text()


def test_a_full_disk_is_said_in_words_and_no_traceback_hides_it(project: Toy) -> None:
    """As a limit on the size of files makes it: not a byte can be written."""
    graph(project)
    (project.root / "recipes").symlink_to(ROOT / "recipes")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        command = [sys.executable, "-c", f"{code}from flows.cli import main; sys.exit(main())", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False)

    files = {"add squad": "params.yaml", "refresh one": "source.json", "check one": ".site"}
    for command, file in files.items():
        done = run(*command.split())
        assert done.returncode == 3, done.stderr
        assert (
            len(done.stderr.splitlines()) == 1
            and file in done.stderr
            and "Make room: `trainwright clean`" in done.stderr
        )
    shutil.rmtree(project.root / "data")
    project.write("data", "a file where a folder should be")
    done = run("refresh", "one")
    assert done.returncode == 3 and done.stderr.endswith("The traceback could not be written anywhere.\n")


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_leaves_no_process_and_the_next_one_succeeds(project: Toy, by: signal.Signals) -> None:
    """With the embedded server, which must go as well."""
    shutil.rmtree(project.root / "data", ignore_errors=True)
    graph(project, one="python beat.py pid; touch out.one")
    own = {"PREFECT_API_URL": "", "PREFECT_API_AUTH_STRING": "", "PREFECT_HOME": str(project.root / "prefect")}
    run = project.start("-m", "flows.cli", "run", "one", **own)
    project.beating(seconds=180)
    run.send_signal(by)
    said, errors = run.communicate(timeout=60)
    wait(lambda: not processes_in(project.root), 30, lambda: f"still running: {processes_in(project.root)}")
    assert run.returncode in ({130} if by == signal.SIGINT else {-by, 128 + by}), said + errors
    assert "Traceback" not in errors
    graph(project)
    said_again = trainwright(project.root, "run", "one", **own)
    assert said_again.returncode == 0, said_again.stderr
