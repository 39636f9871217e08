"""The command line: parse, call, exit code.

Exit codes: 0 done; 1 a gate or a comparison said no; 2 the input or the configuration is wrong; 3 the machinery
failed. No traceback for anything that a user can cause; one of our own making goes to a file.
"""

import argparse
import os
import select
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flows import full_disk
from trainwright.core.errors import Fault, InputError, MachineryError, TrainwrightError, printable
from trainwright.core.layout import Layout, find_root, write_file

if TYPE_CHECKING:
    from trainwright.core.params import Params
    from trainwright.operations import Running

Add = Callable[[str, object, str], argparse.ArgumentParser]  # a command's name, function and what it does
INTERRUPTED = 130
PIPE_CLOSED = 141  # 128 + SIGPIPE, as shells have it
SHOWN = 10
EXIT_CODES = """exit codes:
  0  done
  1  a gate or a comparison said no
  2  the input or the configuration is wrong
  3  the machinery failed (a worker, a server, a remote)"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        code = _command(argv)
        sys.stdout.flush()  # at the end of the process nobody could catch what this raises
    except BrokenPipeError as error:
        if not _reader_gone():
            return _unforeseen(error)
        code = PIPE_CLOSED
    if _reader_gone():
        for stream in (sys.stdout, sys.stderr):  # what they still hold has nowhere to go
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _command(argv: list[str] | None) -> int:
    """Run one command; what a user can cause becomes a message and an exit code."""
    try:
        arguments, more = _parser().parse_known_args(argv)
        if more:
            arguments.parser.error(f"unrecognized arguments: {' '.join(more)}")  # with the usage of its command
        return int(arguments.command(arguments))
    except SystemExit as end:  # argparse has shown the help or a mistake
        return end.code if isinstance(end.code, int) else 2
    except TrainwrightError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("Interrupted. Nothing is left running; the next run goes on from here.")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        return _unforeseen(error)


def _unforeseen(error: Exception) -> int:
    """The last resort: a person sees a sentence, and the whole story is kept in a file."""
    _complain(full_disk.words(error) or f"{type(error).__name__}: {error}. {_traceback()}")
    return MachineryError.exit_code


def _reader_gone() -> bool:
    """Whether stdout or stderr is a pipe whose reader has ended, as of `| head`."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a stream in memory has no descriptor
            poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _say(text: str = "") -> None:
    """Print text on stdout, with what comes from outside made printable."""
    print(printable(text, lines=True))


def _complain(words: str) -> None:
    with suppress(OSError):  # a log on a full disk, say: the exit code still tells
        print(printable(words, lines=True), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="trainwright",
        description="Fine-tune transformer models from versioned data, with a gate after every step.",
        epilog=EXIT_CODES,
        formatter_class=form,
    )

    def adding(parent: argparse.ArgumentParser, what: str) -> Add:
        group = parent.add_subparsers(required=True, metavar=what.upper(), title=f"{what}s")

        def add(name: str, function: object, says: str) -> argparse.ArgumentParser:
            sub = group.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.", formatter_class=form)
            sub.set_defaults(command=function, parser=sub)
            return sub

        return add

    command = adding(parser, "command")
    _for_work(command)
    _for_operation(command)
    models = command(
        "models", None, "list the published versions of models, get one, put one in use, or the one before"
    )
    _for_versions(adding(models, "act"), command)
    return parser


def _for_work(command: Add) -> None:
    """What a person at work on a pipeline calls."""
    check = command("check", _check, "say whether a pipeline could run, what would run and why")
    check.add_argument("name", nargs="?", metavar="NAME", help="the pipeline; without it, all")
    add = command("add", _add, "add a pipeline to params.yaml: a recipe, or one for a file of yours")
    add.usage = "%(prog)s RECIPE, or --from FILE --task TASK"
    add.add_argument("recipe", nargs="?", metavar="RECIPE", help="a file of recipes/, without .yaml, or a folder there")
    add.add_argument("--from", dest="file", metavar="FILE", type=Path, help="propose a pipeline for this file")
    add.add_argument("--task", metavar="TASK", help="what to learn from FILE: classification, qa, ner, …")
    add.add_argument("--name", metavar="NAME", help="the pipeline's name; without it, the recipe's or the file's")
    _for_reading(add, "FILE")
    add.add_argument("--language", metavar="CODE", help="the language of FILE, such as en")
    refresh = command("refresh", _refresh, "read the source and the base model again and move their pins")
    refresh.add_argument("name", metavar="NAME", help="the pipeline")
    run = command("run", _run, "run the whole pipeline, here")
    run.add_argument("name", nargs="?", metavar="NAME", help="the pipeline; without it, all, each on its own")
    run.add_argument("--here", action="store_true", help="run every stage on this machine, whatever `dispatch` says")
    compare = command("compare", _compare, "run a pipeline from several base models and show them side by side")
    compare.usage = "%(prog)s NAME --base MODEL --base MODEL"
    compare.add_argument("name", metavar="NAME", help="the pipeline")
    compare.add_argument(
        "--base",
        action="append",
        required=True,
        metavar="MODEL",
        help="package:…, folder:…, hub:…, pipeline:… or scratch; twice or more",
    )
    predict = command("predict", _predict, "predict every row of a file with a model folder")
    predict.add_argument("model", metavar="MODEL", type=Path, help="the folder of a model, such as report/model")
    predict.add_argument(
        "input", metavar="INPUT", type=Path, help="a file in one of the task's forms, such as JSON Lines"
    )
    predict.add_argument(
        "output", metavar="OUTPUT", type=Path, help="the file to write: .json ({id: prediction}), .jsonl or .csv"
    )
    predict.usage = "%(prog)s MODEL INPUT OUTPUT"
    predict.epilog = "INPUT is read as the files were that MODEL was trained on, unless a flag says otherwise."
    _for_reading(predict, "INPUT")
    predict.add_argument("--quoted", choices=["true", "false"], help="whether cells of INPUT may stand in quotes")
    predict.add_argument(
        "--documents", choices=["blank-lines", "lines"], help="what ends a text of INPUT, where it is plain text"
    )


def _for_reading(command: argparse.ArgumentParser, file: str) -> None:
    """What says how a file is read."""
    command.add_argument(
        "--column", action="append", default=[], metavar="OURS=THEIRS", help=f"a column of {file}: text=review"
    )
    command.add_argument("--format", metavar="FORMAT", help=f"the format of {file}, where its name does not say it")
    command.add_argument(
        "--header", metavar="NAMES", help=f"names of {file}'s columns, by commas, if its first line has none"
    )
    command.add_argument("--delimiter", metavar="CHARACTER", help=f"what divides the cells of {file}")


def _for_operation(command: Add) -> None:
    """What an operator calls, and what schedules run."""
    init = command("init", _init, "set Git remote, DVC remote and identity; asks for what is missing")
    init.usage = "%(prog)s"
    init.add_argument("--git-remote", metavar="URL", help="where versions are published: a URL or a folder")
    init.add_argument("--dvc-remote", metavar="URL", help="where their data is kept: s3://…, ssh://…, a folder, …")
    init.add_argument("--name", metavar="NAME", help="the name that commits bear")
    init.add_argument("--email", metavar="E-MAIL", help="the e-mail address that commits bear")
    retrain = command("retrain", _retrain, "decide whether to retrain; run aside, compare and publish")
    retrain.usage = "%(prog)s NAME [--force] [--set KEY=VALUE]"
    retrain.add_argument("name", metavar="NAME", help="the pipeline")
    retrain.add_argument("--force", action="store_true", help="train even where nothing is new")
    retrain.add_argument("--why", default="", metavar="WORDS", help="the reason, for the ledger")
    retrain.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a parameter for this run alone: training.epochs=2",
    )
    deploy = command("deploy", _deploy, "bring a Prefect server's schedules, queues and doors to what params.yaml says")
    deploy.add_argument("--remove", action="store_true", help="take away all that deploy has made there")
    status = command(
        "status", _status, "say what is in use, running, waiting and why, on which workers, on how much disk"
    )
    status.add_argument("--json", action="store_true", help="as one JSON document")
    clean = command(
        "clean", _clean, "remove what crashes have left here; with --versions, data that no kept version needs"
    )
    clean.add_argument("--versions", action="store_true", help="apply `retention` of params.yaml to cache and remote")
    clean.add_argument("--yes", action="store_true", help="remove without asking")
    worker = command("worker", _worker, "serve labels on this machine: run the stages that params.yaml sends to them")
    worker.add_argument("labels", nargs="+", metavar="LABEL", help="a label of `dispatch`, or `retrain` for schedules")


def _for_versions(act: Add, command: Add) -> None:
    """The acts of `models`, and what else makes a version."""
    listing = act("list", _models_list, "list the versions, newest first, and which is in use")
    listing.add_argument("name", nargs="?", metavar="NAME", help="the pipeline; without it, all that have a version")
    listing.add_argument("--json", action="store_true", help="as JSON")
    promote = act("promote", _models_promote, "put a version in use")
    promote.add_argument("version", metavar="NAME@VERSION", help="such as sample-qa@v1.3.0")
    rollback = act("rollback", _models_rollback, "put in use again what was before the version in use")
    rollback.add_argument("name", metavar="NAME", help="the pipeline")
    for sub in (promote, rollback):
        sub.add_argument("--why", default="", metavar="WORDS", help="the reason, for the ledger")
    get = act("get", _models_get, "bring the files of a published model into a new folder, each verified")
    get.add_argument("version", metavar="NAME[@VERSION]", help="such as sample-qa@v1.3.0; of a name, the one in use")
    get.add_argument("folder", metavar="FOLDER", type=Path, help="the folder to make, for `trainwright predict` say")
    accept = command("accept", _accept, "take the results of the version in use for new code that changes none of them")
    accept.usage = "%(prog)s NAME --why WORDS [--new-line]"
    accept.add_argument("name", metavar="NAME", help="the pipeline")
    accept.add_argument("--why", required=True, metavar="WORDS", help="the reason, for the ledger")
    accept.add_argument("--new-line", action="store_true", help="freeze the test rows anew: a new line of comparison")


def _init(arguments: argparse.Namespace) -> int:
    from flows.init import Wishes, init, place

    remotes = place("git-remote", arguments.git_remote), place("dvc-remote", arguments.dvc_remote)
    wishes = Wishes(*remotes, arguments.name, arguments.email)
    init(_root(), wishes, _answer if sys.stdin.isatty() else None, _say)
    return 0


def _answer(question: str) -> str:
    try:
        return input(question)
    except EOFError:
        _say()
        return ""


def _check(arguments: argparse.Namespace) -> int:
    root, params, _, names = _project(arguments.name)
    from flows import checking, dvc

    project, code = dvc.Project(root), 0
    for name in names:
        _say(name)
        problems = checking.check(Layout(root, name), params.pipelines[name], project, lambda line: _say(f"  {line}"))
        for problem in problems:
            _complain(f"  {problem}")
        code = max([code, *(problem.exit_code for problem in problems)])
    _say(checking.publishable(project))
    return code


def _add(arguments: argparse.Namespace) -> int:
    file = arguments.file and arguments.file.expanduser().resolve()
    if bool(file) == bool(arguments.recipe) or (file and not arguments.task):
        reason = "it takes a recipe, or a file with its task"
        remedy = "`trainwright add squad`, or `trainwright add --from FILE --task classification`."
        raise InputError(Fault("trainwright add", reason, remedy))
    root = _root()
    if file:
        return _add_file(root, file, arguments)
    from flows import recipes
    from trainwright import pins

    added = recipes.add(root, arguments.recipe, arguments.name)
    for name in added:
        pins.begin(Layout(root, name))
    are = "a pipeline" if len(added) == 1 else "the pipelines"
    _say(
        f"params.yaml has {are} {', '.join(added)} now. Next: trainwright check {added[0]}, trainwright run {added[0]}"
    )
    return 0


def _add_file(root: Path, file: Path, arguments: argparse.Namespace) -> int:
    from flows import proposal
    from trainwright import pins

    wish = proposal.Wish(
        file, arguments.task, arguments.name, arguments.format, tuple(arguments.column), _header(arguments),
        arguments.delimiter, arguments.language,
    )  # fmt: skip
    name, lines = proposal.add(root, wish)
    pins.begin(Layout(root, name))
    for line in lines:
        _say(line)
    _say(f"Next: trainwright check {name}, then trainwright run {name}. To change what it does, edit params.yaml.")
    return 0


def _header(arguments: argparse.Namespace) -> tuple[str, ...]:
    return tuple(arguments.header.split(",")) if arguments.header else ()


def _refresh(arguments: argparse.Namespace) -> int:
    root, params, _, _ = _project(arguments.name)
    from flows import pinning

    _complete(root)
    for line in pinning.refresh(Layout(root, arguments.name), params.pipeline(arguments.name)):
        _say(line)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    """Run one pipeline, or all: one that fails does not stop another, and the gravest exit code is ours."""
    root, params, running, names = _project(arguments.name)
    from flows.server import Server, missing, required

    if arguments.here:
        running = running.here()
    if labels := {label for name in _with_needed(params, names) for label in running.sent(name)}:
        if not os.environ.get("PREFECT_API_URL"):
            by_name = f" {arguments.name}" if arguments.name else ""
            raise InputError(
                missing(labels, f", or run every stage on this machine: `trainwright run{by_name} --here`")
            )
        required()
    server = Server(root)  # it starts while this process imports and looks at the pins
    _complete(root)
    from flows import dvc, pinning
    from flows.pipeline import Pipeline
    from flows.terminal import Terminal
    from trainwright.engine import base_model

    terminal, project, codes = Terminal(), dvc.Project(root), []
    for name, goal in _with_needed(params, names).items():
        layout = Layout(root, name)
        try:
            for line in pinning.ensure(layout, params.pipelines[name]):
                terminal.say(f"{name}: {line}")
            if base := params.pipelines[name].base_pipeline:
                base_model.trained(layout, base)
            server.ready()
            codes.append(Pipeline(layout, project, running, terminal, goal).run())
        except TrainwrightError as error:
            _complain(f"{name}: {error}")
            codes.append(error.exit_code)
    return max(codes)


def _worker(arguments: argparse.Namespace) -> int:
    root = _root()
    from flows import worker
    from trainwright import operations

    return worker.serve(root, list(dict.fromkeys(arguments.labels)), operations.load(root / "params.yaml")[1])


def _with_needed(params: "Params", names: list[str]) -> dict[str, str | None]:
    """The pipelines to run, each after those that it needs, and how far: to the end those that are asked for, others
    until their model is certified."""
    ordered = dict.fromkeys(needed for name in names for needed in params.chain(name))
    return {name: None if name in names else "training_gate" for name in ordered}


def _retrain(arguments: argparse.Namespace) -> int:
    root = _root()
    from flows.workspace import require_known

    require_known(root, arguments.name)
    from flows.server import Server

    server = Server(root)
    from flows.retrain import chosen, decide
    from flows.terminal import Terminal

    changes = chosen(arguments.set)
    server.ready()
    terminal = Terminal()
    decision = decide(root, arguments.name, terminal, arguments.force, arguments.why, changes)
    terminal.say(f"\n{arguments.name}: {decision.outcome}")
    terminal.note(decision.words)
    return decision.exit_code


def _deploy(arguments: argparse.Namespace) -> int:
    root = _root()
    from flows import server

    server.required(root, server.STARTING)
    from flows import deploy

    if arguments.remove:
        deploy.remove(_say)
    else:
        deploy.deploy(root, _say)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    root, *_ = _project(None)
    import json
    import shutil

    from flows import status

    told = status.status(root)
    if arguments.json:
        _say(json.dumps(told, indent=2))
    else:
        for line in status.lines(told, shutil.get_terminal_size().columns):
            _say(line)
    return 0


def _clean(arguments: argparse.Namespace) -> int:
    root, _, running, names = _project(None)
    from flows import clean

    def sure(question: str) -> bool:
        if arguments.yes or not sys.stdin.isatty():
            return bool(arguments.yes)
        return _answer(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    clean.clean(root, _say)
    if arguments.versions:
        clean.retire(root, names, running, sure, _say)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    root, *_ = _project(arguments.name)
    from flows import comparison
    from flows.terminal import Terminal

    terminal = Terminal()
    _complete(root)
    found = comparison.compare(root, arguments.name, arguments.base, terminal.heading, terminal.output)
    page = comparison.write(root, arguments.name, found)
    for line in ("", *comparison.table(found), "", f"comparison   {page.relative_to(root)}"):
        terminal.say(line)
    return 1 if any(candidate.failed for candidate in found) else 0


def _models_list(arguments: argparse.Namespace) -> int:
    root = _root()
    import json

    from flows import publication, registry

    try:
        registry.fetch(root)
    except TrainwrightError as error:
        _complain(f"As it was when the remote was last reached: {error}")
    for words in registry.unsound(root, arguments.name):
        _complain(words)
    rows = registry.listing(root, arguments.name, publication.waiting(root))
    _say(json.dumps(rows, indent=2, ensure_ascii=False) if arguments.json else "\n".join(registry.lines(rows)))
    return 0


def _models_promote(arguments: argparse.Namespace) -> int:
    root = _root()
    from flows import registry

    name, _, version = arguments.version.partition("@")
    from flows.workspace import require_name

    require_name(name)
    _say(registry.promote(root, name, version, arguments.why))
    return 0


def _models_rollback(arguments: argparse.Namespace) -> int:
    root = _root()
    from flows.workspace import require_name

    require_name(arguments.name)
    from flows import registry

    _say(registry.rollback(root, arguments.name, arguments.why))
    return 0


def _models_get(arguments: argparse.Namespace) -> int:
    folder = arguments.folder.expanduser().absolute()  # before the project's root becomes the current folder
    root = _root()
    from flows.workspace import require_name

    name, at, version = arguments.version.partition("@")
    require_name(name)
    if at and not version:
        raise InputError(Fault(arguments.version, "there is no version after @", f"Write {name}@v1.0.0, or {name}."))
    from flows import download

    _say(download.get(root, name, version, folder))
    return 0


def _accept(arguments: argparse.Namespace) -> int:
    root = _root()
    from flows.workspace import require_known

    require_known(root, arguments.name)
    from flows import accepting

    _say(accepting.accept(root, arguments.name, arguments.why, _say, arguments.new_line))
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from trainwright.engine.answering import predict_file
    from trainwright.engine.asked import Wish

    quoted = None if arguments.quoted is None else arguments.quoted == "true"
    wish = Wish(
        arguments.format, tuple(arguments.column), _header(arguments), arguments.delimiter, quoted, arguments.documents
    )
    predicted, faults = predict_file(arguments.model, arguments.input, arguments.output, wish, _complain)
    for fault in faults[:SHOWN]:
        _complain(str(fault))
    left_out = f", {len(faults):,} rows left out: {arguments.output}.quarantine.jsonl" if faults else ""
    _say(f"{arguments.output}: {predicted:,} predictions{left_out}")
    return 0


def _root() -> Path:
    """The project's root, made the current folder. Raises InputError outside a project."""
    try:
        root = find_root()
    except FileNotFoundError as error:
        raise InputError(Fault(str(Path.cwd()), str(error), "Go into a clone of the repository.")) from None
    os.chdir(root)
    return root


def _project(name: str | None) -> tuple[Path, "Params", "Running", list[str]]:
    """Root, what pipelines do, how they are run, and the pipelines that are meant: `name`, or all."""
    root = _root()
    from trainwright import operations

    loaded, running = operations.load(root / "params.yaml")
    if name is not None:
        loaded.pipeline(name)
    if not loaded.pipelines:
        raise InputError(Fault("params.yaml", "it has no pipelines", "Add one: `trainwright add squad`."))
    return root, loaded, running, [name] if name is not None else list(loaded.pipelines)


def _complete(root: Path) -> None:
    """Write the sections that params.yaml leaves out and DVC needs, and say so."""
    from flows import params_file

    if added := params_file.complete(root):
        _say(f"params.yaml: sections that DVC needs by name were left out, and are written there: {', '.join(added)}")


def _traceback() -> str:
    """Keep the present exception's traceback, in the project where there is one, else among temporary files. Says
    where it is."""
    name = f"trainwright-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    places: list[Callable[[], Path]] = [
        lambda: find_root() / ".trainwright" / "tracebacks",
        lambda: Path(tempfile.gettempdir()),
    ]
    for place in places:
        with suppress(OSError):
            path = place() / name
            write_file(path, traceback.format_exc())
            return f"The traceback is in {path}."
    return "The traceback could not be written anywhere."


if __name__ == "__main__":
    sys.exit(main())
