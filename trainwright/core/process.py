"""What every stage's process does around its work: parameters, errors, timing, dying with its parent."""

import ctypes
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

from trainwright.core import certificate, copies, layout, params
from trainwright.core.errors import Fault, InputError, TrainwrightError, printable
from trainwright.core.layout import Layout
from trainwright.core.params import Pipeline
from trainwright.core.yaml_file import read_yaml

PR_SET_PDEATHSIG = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
CODE = "TRAINWRIGHT_CODE"  # the folder whose code stages must run: an installed package is another checkout's
SOURCES = ("stages/", "trainwright/")  # where the code that stages run is
TERMINATED = 143  # 128 + SIGTERM
RANKS = "TRAINWRIGHT_RANKS"  # set for the processes among which a stage divides its work: the folder of their words
COPY = "TRAINWRIGHT_COPY "  # and a name: where the stage's own process has its private copy of an input
TERMINAL = "TRAINWRIGHT_TERMINAL"  # set where what a stage prints ends up in a terminal, though through a pipe


class Terminated(Exception):
    """SIGTERM came, and what the next run goes on from is kept; says what."""


@dataclass(frozen=True)
class Run:
    """One run of one stage of one pipeline."""

    layout: Layout
    params: Pipeline
    name: str = ""  # of the stage whose process this is, as dvc.yaml has it; "" where it is none
    code: Mapping[str, str] = field(default_factory=dict)  # digests of the files of code that the stage ran with

    def check_unedited(self) -> None:
        """Raises InputError where this stage's code, or its values in params.yaml, are now others than those that it
        ran with: DVC, which looks at the files after the run, would keep the new ones as those that were used.
        """
        code = _code(self.layout, self.params, self.name) if self.name else self.code
        edited = sorted(path for path in {*code, *self.code} if code.get(path) != self.code.get(path))
        if edited:
            reason = f"was edited while {self.name} ran, which ran the code from before"
            raise InputError(*(Fault(path, reason, "Run it again, with the code that you want.") for path in edited))
        now = params.load(self.layout.params).pipeline(self.layout.pipeline) if self.name else self.params
        if now == self.params:
            return
        read, prefix = _graph(self.layout.root, self.name).get("params", []), "pipelines.${key}."
        sections = [key.removeprefix(prefix) for key in read if key.startswith(prefix)]
        changed = [key for key in sections if attrgetter(key)(now) != attrgetter(key)(self.params)]
        if changed:
            reason = f"was edited while {self.name} ran, which had read the values before"
            fields = ", ".join(f"pipelines.{self.layout.pipeline}.{key}" for key in changed)
            raise InputError(Fault("params.yaml", reason, "Run it again, with the values that you want.", field=fields))

    def open(self, stage: str) -> Path:
        """Return a private copy of the folder that `stage` wrote, if its gate has passed exactly these bytes.

        Raises RefusedError when the certificate or the gate's result is missing, is for other bytes,
        or was given under another suite than the present one.
        """
        return share_copy(
            f"{self.layout.pipeline}/{stage}",
            lambda: certificate.take(self.layout, self.params, stage, copies.process_folder(self.layout.inputs)),
        )


def _graph(root: Path, stage: str) -> Mapping[str, Any]:
    """What dvc.yaml says of a stage; nothing of one that it lacks, of which DVC keeps nothing."""
    path = root / "dvc.yaml"
    stages = (read_yaml(path) or {}).get("stages", {}) if path.exists() else {}
    return dict(stages[stage]["do"]) if stage in stages else {}


def _code(place: Layout, settings: Pipeline, stage: str) -> dict[str, str]:
    """Digests, by path, of the files of code that dvc.yaml says a stage depends on; none of a stage that it lacks."""
    deps = _graph(place.root, stage).get("deps", [])
    named = [place.root / dep.replace("${item.task}", settings.task) for dep in deps if dep.startswith(SOURCES)]
    files = [file for path in named for file in (path.rglob("*.py") if path.is_dir() else [path]) if file.exists()]
    return {file.relative_to(place.root).as_posix(): layout.digest(file) for file in files}


def die_with_parent(by: signal.Signals = signal.SIGKILL, parent: int | None = None) -> None:
    """Have the kernel send this process `by` when its parent ends, so that no killed run leaves an orphan.

    `parent` is the process id that the parent must have now; without it a parent that died before this call
    goes unnoticed. "Parent" is the thread that started this process. Linux only (prctl); elsewhere a killed
    parent leaves this process to finish.
    """
    if platform.system() != "Linux":
        return
    parent = parent or os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:  # it died before the kernel knew of our wish
        os.kill(os.getpid(), by)


def rank() -> int | None:
    """This process's number among those that a stage divides its work among; None in the stage's own process."""
    return int(os.environ["RANK"]) if RANKS in os.environ else None


def share_copy(name: str, make: Callable[[], Path]) -> Path:
    """Return what `make` returns; in a process among which a stage divides its work, what the stage's own made."""
    variable = f"{COPY}{name}"
    if rank() is None:
        os.environ[variable] = str(make())
    return Path(os.environ[variable])


def words_of(rank: int) -> Path:
    """Why that process failed, and with what exit code: left for the stage's own, which alone tells the user."""
    return Path(os.environ[RANKS]) / f"{rank}.json"


def say(line: str) -> None:
    """Print one line of a stage's output at once, whatever text from outside stands in it."""
    print(printable(line), flush=True)


def stage(name: str, main: Callable[[Run], None]) -> None:
    """Run `main` as the process of stage `name`: `python -m stages.<name> PIPELINE`, from the project's root.

    DVC passes its own name of the stage instead, `<name>@PIPELINE`.
    A TrainwrightError ends it with its exit code and its words alone, which are also left for the
    flow in the layout's `failure` file.
    """
    die_with_parent()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as stages/__init__.py leaves it; not where it is ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if len(sys.argv) < 2:
        print(f"usage: python -m stages.{name} PIPELINE", file=sys.stderr)
        sys.exit(2)
    code = os.environ.get(CODE)
    if code and not Path(__file__).resolve().is_relative_to(Path(code).resolve()):
        print(f"{name}: runs {Path(__file__).parent}, not the code of {code}", file=sys.stderr)
        sys.exit(3)
    pipeline = sys.argv[-1].partition(f"{name}@")[2] or sys.argv[-1]
    try:
        params.check_name(pipeline)
    except ValueError as error:  # before a path is made of it
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
    run_layout = Layout(Path.cwd(), pipeline)
    this = rank()
    failure = run_layout.failure(name) if this is None else words_of(this)
    failure.unlink(missing_ok=True)
    started, start = time.time(), time.monotonic()  # a clock may be set back meanwhile

    def end(exit_code: int, words: str, said: str) -> NoReturn:
        _fail(failure, exit_code, words)
        if this is None:
            print(printable(said, lines=True), file=sys.stderr, flush=True)
        sys.exit(exit_code)

    try:
        settings = params.load(run_layout.params).pipeline(pipeline)
        run = Run(run_layout, settings, name, _code(run_layout, settings, name))
        main(run)
        run.check_unedited()
    except TrainwrightError as error:
        end(error.exit_code, str(error), str(error))
    except OSError as error:  # a full disk, a missing right: the user's to mend, so no traceback
        end(3, str(error), f"{name}: {error}")
    except Terminated as error:
        end(TERMINATED, str(error), f"{name}: {error}")
    except KeyboardInterrupt:  # plain `dvc repro` shares a terminal, and its Ctrl-C, with the stage
        words = "interrupted; nothing half-written is left, and the next run does this stage again"
        end(INTERRUPTED, words, f"{name}: {words}")
    except BaseException:
        _fail(failure, 3, traceback.format_exc())
        if this is not None:  # the stage's own process shows it
            sys.exit(3)
        raise
    if this is None:
        timing = {"started": started, "seconds": time.monotonic() - start, "machine": platform.node()}
        layout.write_file(run_layout.timing(name), json.dumps(timing) + "\n")


def _fail(path: Path, exit_code: int, message: str) -> None:
    layout.write_file(path, json.dumps({"exit_code": exit_code, "message": message}) + "\n")


def quarantine(
    run: Run, stage_name: str, faults: list[Fault], rows: int, folder: Path, said: list[Fault] | None = None
) -> None:
    """Keep row errors as `quarantine.jsonl` in a stage's output `folder`, or stop when they are too many.

    `rows` counts all rows read, bad ones too. `said` are the faults as a person is to see them, where the output keeps
    them in other words, so that it is the same wherever the stage runs. Raises InputError, with the first faults and
    the file that lists them all, when their share is over `ingestion.max_bad_share`.
    """
    if len(faults) > run.params.ingestion.max_bad_share * rows:
        path, shown = run.layout.quarantine(stage_name), said or faults
        layout.write_file(path, _lines(shown))
        summary = Fault(
            run.params.source.uri,
            f"{len(faults)} of {rows} rows are bad, more than the allowed share {run.params.ingestion.max_bad_share:g}",
            f"All are listed in {path.relative_to(run.layout.root)}. Mend the rows or raise ingestion.max_bad_share.",
        )
        raise InputError(*shown[:10], summary)
    layout.write_file(folder / "quarantine.jsonl", _lines(faults))


def _lines(faults: list[Fault]) -> str:
    return "".join(json.dumps(asdict(fault), ensure_ascii=True) + "\n" for fault in faults)
