"""The process of a stage: how it ends when it is interrupted."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BEAT, ROOT, Toy, wait
from ruamel.yaml import YAML

from trainwright.core import process

CODE = """
import time
from pathlib import Path
from trainwright.core import layout, process

def main(run):
    with layout.writing(run.layout.stage("cleaning")) as folder:
        (folder / "rows.parquet").write_text("half")
        Path("begun").touch()
        time.sleep(600)

process.stage("cleaning", main)
"""


def foreground() -> None:
    """Make this process as a terminal's: leader of a group of its own, and open to Ctrl-C."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("command", [["stage.py", "sample-qa"], ["-m", "dvc", "repro"]], ids=["alone", "under dvc"])
def test_ctrl_c_ends_a_stage_with_one_line_and_nothing_half_written(toy: Toy, command: list[str]) -> None:
    """In a terminal Ctrl-C reaches every process of the foreground: dvc, and the stage that it runs."""
    shutil.copy(ROOT / "params.yaml", toy.root)
    toy.write("stage.py", CODE)
    toy.stages(cleaning={"cmd": f"exec {sys.executable} stage.py sample-qa"})
    child = subprocess.Popen(
        [sys.executable, *command],
        cwd=toy.root,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=foreground,  # noqa: PLW1509
    )
    try:
        wait((toy.root / "begun").exists, 60, "the stage did not begin")
        os.killpg(child.pid, signal.SIGINT)
        _, said = child.communicate(timeout=60)
    finally:
        child.kill()
    assert "cleaning: interrupted; nothing half-written is left" in said
    assert "Traceback" not in said
    assert list((toy.root / "data/sample-qa").iterdir()) == []
    failure = json.loads((toy.root / ".trainwright/failures/sample-qa/cleaning.json").read_text())
    assert failure["exit_code"] == 130
    assert child.returncode == 130 if "stage.py" in command else child.returncode != 0


def test_ctrl_c_while_a_stage_still_imports_ends_it_without_a_traceback(toy: Toy) -> None:
    """An import that never ends stands in for the seconds that the libraries take."""
    toy.write("pyarrow/__init__.py", f"{BEAT.replace('sys.argv[1]', repr('pid'))}")
    child = subprocess.Popen(
        [sys.executable, "-m", "stages.ingestion", "toy"],
        cwd=toy.root,
        env={**os.environ, "PYTHONPATH": f"{toy.root}:{ROOT}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=foreground,  # noqa: PLW1509
    )
    toy.beating()
    os.killpg(child.pid, signal.SIGINT)
    assert child.communicate(timeout=60)[1] == ""
    assert child.returncode == -signal.SIGINT


EDITED = """
from pathlib import Path
from trainwright.core import layout, process

def main(run):
    with layout.writing(run.layout.stage("cleaning")) as folder:
        (folder / "rows.parquet").write_text(run.params.cleaning.unicode_form)
    path = Path("params.yaml")
    path.write_text(path.read_text().replace(*Path("edit").read_text().split(">")))

process.stage("cleaning", main)
"""


@pytest.mark.parametrize(
    ("edit", "kept"), [("typing_noise: 0.0>typing_noise: 0.1", True), ("unicode_form: NFC>unicode_form: NFKC", False)]
)
def test_parameters_edited_while_a_stage_runs_are_not_kept_as_those_that_it_used(
    toy: Toy, edit: str, kept: bool
) -> None:
    """DVC reads them after the run. What the stage does not read may be edited."""
    shutil.copy(ROOT / "params.yaml", toy.root)
    toy.write("stage.py", EDITED)
    toy.write("edit", edit)
    stage = {"params": ["pipelines.${key}.cleaning"], "outs": ["data/${key}/cleaning"]}
    command = {"cmd": f"exec {sys.executable} stage.py sample-qa"}
    graph = {"foreach": {"sample-qa": {}}, "do": {**command, **stage}}
    toy.write("dvc.yaml", json.dumps({"stages": {"cleaning": graph}}))

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=toy.root, capture_output=True, text=True)

    done = run()
    assert (done.returncode == 0) is kept, done.stderr
    if not kept:
        assert "params.yaml, field 'pipelines.sample-qa.cleaning': was edited while cleaning ran" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (toy.root / "dvc.lock").exists()
    assert run().returncode == 0
    now = "NFC" if kept else "NFKC"
    assert toy.read("data/sample-qa/cleaning/rows.parquet") == now
    assert f"unicode_form: {now}\n" in toy.read("dvc.lock")


@pytest.mark.parametrize(
    ("edited", "kept"), [("stages/deeper/own.py", False), ("stages/deeper/own.pyc", True), ("stages/other.py", True)]
)
def test_code_edited_while_a_stage_runs_is_not_kept_as_that_which_it_ran(toy: Toy, edited: str, kept: bool) -> None:
    """Only that which the stage depends on; what imports leave beside it is no edit."""
    shutil.copy(ROOT / "params.yaml", toy.root)
    (toy.root / "stages" / "deeper").mkdir(parents=True)
    toy.write("edit", "no such text>none")
    toy.write(edited, "before")
    toy.write("stage.py", EDITED.replace("    path =", f"    Path({edited!r}).write_text('after')\n    path ="))
    stage = {"deps": ["stages/deeper"], "outs": ["data/${key}/cleaning"]}
    graph = {"foreach": {"sample-qa": {}}, "do": {"cmd": f"exec {sys.executable} stage.py sample-qa", **stage}}
    toy.write("dvc.yaml", json.dumps({"stages": {"cleaning": graph}}))
    command = [sys.executable, "-m", "dvc", "repro"]
    done = subprocess.run(command, cwd=toy.root, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is kept and "Traceback" not in done.stderr, done.stderr
    assert (toy.root / "dvc.lock").exists() is kept
    assert kept or f"{edited}: was edited while cleaning ran, which ran the code from before" in done.stderr


def test_a_stage_of_another_checkout_s_code_does_not_run(toy: Toy) -> None:
    """An installed package is found before a workspace's own code where that is missing."""
    shutil.copy(ROOT / "params.yaml", toy.root)
    toy.write("stage.py", "from trainwright.core import process\nprocess.stage('cleaning', lambda run: print('ran'))")
    for folder, code in ((ROOT, 0), (toy.root, 3)):
        child = toy.start("stage.py", "sample-qa", TRAINWRIGHT_CODE=str(folder))
        out, err = child.communicate()
        assert (child.returncode, out) == (code, "" if code else "ran\n")
        assert not code or str(toy.root) in err


HOSTILE = [
    "$(touch X)",
    "'$(touch X)'",
    "`touch X`",
    "a;touch X",
    "a\"b'c$(touch X)",
    "a\ntouch X\n",
    "x@one",
    "../one",
]


def test_no_name_of_params_reaches_a_shell_line(toy: Toy) -> None:
    """Under plain dvc, as under the flow, a stage gets its name in a variable, whatever characters it has."""
    graph = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    command = graph["ingestion"]["do"]["cmd"]
    show = 'import sys; open("names", "a").write(repr(sys.argv[-1]) + chr(10))'
    command = command.replace("-m stages.ingestion", f"-c '{show}'")
    stage = {"foreach": {key: {} for key in HOSTILE[:-2]}, "do": {"cmd": command}}
    toy.write("dvc.yaml", json.dumps({"stages": {"ingestion": stage}}))
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"], cwd=toy.root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names = [ast.literal_eval(line) for line in toy.read("names").splitlines()]
    assert sorted(names) == sorted(f"ingestion@{name}" for name in HOSTILE[:-2])
    assert not (toy.root / "X").exists()


def test_a_stage_refuses_a_name_before_it_makes_a_path_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "die_with_parent", lambda: None)
    for name in HOSTILE:
        monkeypatch.setattr(sys, "argv", ["stage", f"ingestion@{name}"])
        with pytest.raises(SystemExit) as ended:
            process.stage("ingestion", print)
        assert ended.value.code == 2
        assert "must be lower-case words joined by hyphens" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
