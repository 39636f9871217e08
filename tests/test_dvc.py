"""DVC as the flow uses it: the graph, what has changed, one stage in a process that leaves nothing behind."""

import signal
import sys
from pathlib import Path

import pytest
from conftest import Toy, processes_in, wait

from flows import dvc
from flows.dvc_process import Line
from trainwright.core.errors import InputError

COPY = {"cmd": "cat in.txt && cp in.txt out.txt", "deps": ["in.txt"], "outs": ["out.txt"]}
DRIVER = """
import sys
from pathlib import Path
from flows import dvc
print(dvc.Project(Path.cwd()).reproduce(sys.argv[1], lambda line: print(line.text, flush=True), 600))
"""


def lines_of(project: dvc.Project, stage: str, seconds: float = 60) -> tuple[str, list[Line]]:
    lines: list[Line] = []
    return project.reproduce(stage, lines.append, seconds), lines


def gone(root: Path) -> None:
    wait(lambda: not processes_in(root), 20, lambda: f"still running: {processes_in(root)}")


def test_the_graph_has_the_stages_of_one_pipeline_each_after_those_it_waits_for(toy: Toy) -> None:
    last = {"cmd": "touch c", "deps": ["a", "b"], "outs": ["c"]}
    second, first = {"cmd": "touch b", "deps": ["a"], "outs": ["b"]}, {"cmd": "touch a", "outs": ["a"]}
    toy.stages(last=last, second=second, first=first, other__another={"cmd": "touch d", "outs": ["d"]})
    nodes = dvc.Project(toy.root).graph("toy")
    assert [node.name for node in nodes] == ["first@toy", "second@toy", "last@toy"]
    assert sorted(nodes[2].upstream) == ["first@toy", "second@toy"]
    assert dvc.Project(toy.root).graph("another") == [dvc.Node("other@another", ())]


def test_a_stage_is_completed_then_skipped_and_cached_when_old_input_comes_back(toy: Toy) -> None:
    toy.stages(copy=COPY)
    toy.write("in.txt", "one\n")
    project = dvc.Project(toy.root)
    assert project.changes("copy@toy") == ["it has not run yet"]
    assert lines_of(project, "copy@toy") == ("Completed", [Line("one")])
    assert project.changes("copy@toy") == []
    assert lines_of(project, "copy@toy") == ("Skipped", [])
    toy.write("in.txt", "two\n")
    assert project.changes("copy@toy") == ["in.txt modified"]
    assert lines_of(project, "copy@toy")[0] == "Completed"
    toy.write("in.txt", "one\n")
    assert lines_of(project, "copy@toy") == ("Cached", [])
    assert toy.read("out.txt") == "one\n"


def test_a_failing_stage_raises_with_the_words_of_dvc(toy: Toy) -> None:
    toy.stages(fails={"cmd": "echo no; exit 4"}, copy=COPY)
    project = dvc.Project(toy.root)
    with pytest.raises(dvc.StageError, match="exited with 4"):
        lines_of(project, "fails@toy")
    with pytest.raises(dvc.StageError, match=r"in\.txt"):
        lines_of(project, "copy@toy")


def test_progress_is_told_from_lines_and_control_characters_do_not_come_through(toy: Toy) -> None:
    toy.stages(bar={"cmd": r"printf '10%%\r50%%\r100%%\n100%%|##| 3/3\n\033[31mred\033[0m\a\nend'"})
    state, lines = lines_of(dvc.Project(toy.root), "bar@toy")
    assert state == "Completed"
    assert lines[:4] == [Line("10%", True), Line("50%", True), Line("100%"), Line("100%|##| 3/3", True)]
    assert [line.text for line in lines[4:]] == ["red", "end"]


def test_python_in_a_stage_is_the_python_that_runs_the_flow(toy: Toy) -> None:
    toy.stages(which={"cmd": "python -c 'import sys; print(sys.prefix)'"})
    assert lines_of(dvc.Project(toy.root), "which@toy")[1] == [Line(sys.prefix)]


def test_a_stage_over_its_time_is_ended_with_all_that_it_started(toy: Toy) -> None:
    toy.stages(beat={"cmd": "python beat.py pid & sleep 600"})
    with pytest.raises(TimeoutError):
        lines_of(dvc.Project(toy.root), "beat@toy", seconds=6)
    assert toy.beating() > 0
    gone(toy.root)


def test_an_error_while_output_is_read_ends_the_stage(toy: Toy) -> None:
    toy.stages(beat={"cmd": "python beat.py pid"})

    def say(line: Line) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dvc.Project(toy.root).reproduce("beat@toy", say, 60)
    gone(toy.root)


def test_a_process_left_in_the_background_neither_hangs_the_stage_nor_outlives_it(toy: Toy) -> None:
    toy.stages(leaves={"cmd": "sleep 600 & echo done"})
    assert lines_of(dvc.Project(toy.root), "leaves@toy") == ("Completed", [Line("done")])
    gone(toy.root)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_when_the_flow_is_killed_nothing_of_the_stage_goes_on(toy: Toy, by: signal.Signals) -> None:
    """The stage is one that knows nothing of us: its end comes through dvc."""
    toy.stages(beat={"cmd": "python beat.py pid"})
    driver = toy.start("-c", DRIVER, "beat@toy")
    toy.beating()
    driver.send_signal(by)
    driver.communicate(timeout=20)
    gone(toy.root)
    toy.stages(beat={"cmd": "echo fine"})
    assert lines_of(dvc.Project(toy.root), "beat@toy") == ("Completed", [Line("fine")])


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.97])
def test_a_dvc_lock_that_a_kill_has_cut_short_comes_back(toy: Toy, part: float) -> None:
    toy.stages(copy=COPY, beat={"cmd": "python beat.py pid"})
    toy.write("in.txt", "one\n")
    assert lines_of(dvc.Project(toy.root), "copy@toy")[0] == "Completed"
    whole = toy.read("dvc.lock")
    driver = toy.start("-c", DRIVER, "beat@toy")
    toy.beating()
    driver.kill()
    driver.communicate()
    gone(toy.root)
    toy.write("dvc.lock", whole[: int(part * len(whole))])
    project = dvc.Project(toy.root)
    assert toy.read("dvc.lock") == whole
    assert project.changes("copy@toy") == []


def test_a_dvc_lock_that_was_never_whole_goes_and_one_that_somebody_else_broke_is_said(toy: Toy) -> None:
    toy.stages(beat={"cmd": "python beat.py pid"})
    driver = toy.start("-c", DRIVER, "beat@toy")
    toy.beating()
    driver.kill()
    driver.communicate()
    gone(toy.root)
    toy.write("dvc.lock", "schema: '2.0'\nstages:\n  be")
    dvc.Project(toy.root)
    assert not (toy.root / "dvc.lock").exists()
    toy.write("dvc.lock", "schema: '2.0'\nstages:\n  be")
    with pytest.raises(InputError, match="Restore it with Git"):
        dvc.Project(toy.root)


def test_what_a_kill_left_of_dvcs_list_of_readers_does_not_stop_the_next_run(toy: Toy) -> None:
    toy.stages(copy=COPY)
    toy.write("in.txt", "one\n")
    toy.write(".dvc/tmp/rwlock", '{"read": {')
    assert lines_of(dvc.Project(toy.root), "copy@toy")[0] == "Completed"


def test_a_graph_that_cannot_be_read_is_the_users_to_mend(toy: Toy) -> None:
    toy.write("dvc.yaml", "stages: [")
    with pytest.raises(InputError, match=r"dvc\.yaml"):
        dvc.Project(toy.root).graph("toy")
