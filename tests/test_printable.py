"""Text from outside is shown, never obeyed: by errors, commands, stages and gates. Readers that leave early."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from flows import registry, status
from flows.dvc_process import Line
from flows.terminal import Terminal
from trainwright.core import process
from trainwright.core.errors import Fault, InputError, RefusedError, printable

EVIL = "a\x1b]0;title\x07b\x9b2Jc\u202ed\ne\rf\u2028g\x00h\ud800"
SAFE = r"a\u001b]0;title\u0007b\u009b2Jc\u202ed\ne\u000df\u2028g\u0000h\ud800"


def test_printable_writes_escapes_and_keeps_every_script() -> None:
    assert printable(EVIL) == SAFE
    assert printable("naïve 中文 हिन्दी 👩‍🔬\tx") == "naïve 中文 हिन्दी 👩‍🔬\tx"
    assert printable("one\ntwo\x1b", lines=True) == "one\ntwo\\u001b"
    assert json.loads(f'"{printable(EVIL[:-1])}"') == EVIL[:-1]  # escapes are those of JSON
    assert printable(SAFE) == SAFE


@pytest.mark.parametrize("part", ["file", "reason", "remedy", "row", "field"])
def test_a_fault_is_one_printable_line(part: str) -> None:
    fault = Fault(**({"file": "f", "reason": "r", "remedy": "m"} | {part: f"[{EVIL}]"}))
    shown = str(InputError(fault, fault)).split("\n")
    assert shown[0] == shown[1] and len(shown) == 2
    assert shown[0].isprintable() and "title" in shown[0]


def test_every_other_error_keeps_its_lines_and_nothing_else() -> None:
    assert str(RefusedError("one\n  two\x1b[2J")) == "one\n  two\\u001b[2J"


def test_the_terminal_and_the_stages_print_no_escape_of_others(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.heading(EVIL)
    terminal.output(Line(EVIL))
    process.say(EVIL)
    assert capsys.readouterr().out == f"{SAFE}\n    {SAFE}\n{SAFE}\n"
    terminal.say("one\ntwo\x1b[2J")
    terminal.note("one\u2028two\x1b[2J")
    assert capsys.readouterr().out == "one\ntwo\\u001b[2J\n    one\\u2028two\\u001b[2J\n"


def test_tables_of_versions_and_of_status_have_a_line_a_row() -> None:
    row = {"name": "n", "version": "v1.0.0", "published": EVIL, "state": EVIL, "scores": {}, "commit": EVIL}
    assert len(registry.lines([row])) == 2
    cells = list(status._table([("A", "B"), (EVIL, EVIL)], 80))
    assert all(line.isprintable() for line in (*cells, *registry.lines([row]), *status._wrapped("t", EVIL, 80)))


def test_stages_and_commands_print_by_say_alone() -> None:
    """`print` stands where the text is known; everything else goes by what makes it printable."""
    for path in [*(ROOT / "stages").glob("*.py"), ROOT / "trainwright" / "engine" / "training.py"]:
        assert "print(" not in path.read_text().replace('print(f"usage', "usage"), path
    assert (ROOT / "flows" / "cli.py").read_text().count("print(") == 2


@pytest.mark.parametrize(
    ("body", "closed", "code", "words"),
    [
        ("cli._say('row')", "stdout", 141, ""),
        ("cli._complain('fault')", "stderr", 0, ""),
        ("cli._parser().print_help()", "stdout", 141, ""),
        ("raise_(BrokenPipeError(32, 'of a server'))", "", 3, "BrokenPipeError"),
    ],
)
def test_a_reader_that_ends_early_is_answered_with_silence(
    tmp_path: Path, body: str, closed: str, code: int, words: str
) -> None:
    read, write = os.pipe()
    os.close(read)  # nobody reads from the start, so every write fails
    script = f"""
import sys
from flows import cli
def raise_(error):
    raise error
def command(arguments):
    {body}
    return 0
cli._check = command
sys.exit(cli.main(["check"]))
"""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | ({closed: write} if closed else {})
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, text=True, **streams)
    os.close(write)
    assert said.returncode == code
    assert (words in said.stderr) if words else not said.stderr
