"""What a schedule runs: decide whether to retrain, run aside, compare, publish, and leave a decision either way.

A tick works in a workspace (flows/workspace.py) at the commit that is checked out: nothing outside reaches it, and
nothing of it is seen before one push moves the published branch. Import this module only when Prefect's API is
ready (flows/server.py), since Prefect reads its settings on import.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State, StateType
from prefect.runtime import flow_run

from flows import (
    approval,
    challenge,
    dvc,
    evidence,
    full_disk,
    git,
    ledger,
    local_runs,
    notify,
    pinning,
    publication,
    registry,
    server,
    worker,
)
from flows.dvc_process import environment
from flows.pipeline import BY_HAND, Pipeline
from flows.remote_stage import Name
from flows.terminal import Terminal
from flows.workspace import Workspace, bring_sources, override, require_changeable, require_known, turn, workspace
from trainwright import champion, operations, pins
from trainwright.core import params
from trainwright.core.errors import Fault, InputError, MachineryError, RefusedError, TrainwrightError, printable
from trainwright.core.layout import Layout, find_root
from trainwright.operations import Event

SHOWN = 5
PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "tokenizers",
    "pyarrow",
    "numpy",
    "great-expectations",
    "dvc",
    "prefect",
)
NOTHING, PUBLISHED, UNPUBLISHED, REFUSED, FAILED = "nothing to do", "published", "unpublished", "refused", "failed"
KILLED = "killed"
EVENTS: dict[str, Event] = {PUBLISHED: "published", UNPUBLISHED: "waiting", REFUSED: "refused", FAILED: "failed"}


@dataclass(frozen=True)
class Decision:
    """What a tick came to: `outcome` in a word, `reasons` to run (none where there was nothing to do), and `words`.

    `not_committed` are files that differ here from the commit that was used.
    """

    pipeline: str
    outcome: str
    reasons: list[str]
    words: str
    commit: str
    not_committed: list[str]
    in_use: str | None
    published: str | None
    exit_code: int
    started: str
    seconds: float


class Retrain:
    """One tick of one pipeline of the checkout at `home`."""

    def __init__(
        self,
        home: Path,
        name: str,
        terminal: Terminal,
        force: bool,
        why: str,
        changes: Mapping[str, str],
        attended: bool = True,
    ):
        self.attended = attended  # whether a person waits for it
        self.home, self.name, self.terminal = home, name, terminal
        self.force, self.why, self.changes = force, why, changes
        self.began, self._start = datetime.now(UTC), time.monotonic()  # a clock may be set back meanwhile
        self.commit, self.reasons, self.differs = "", list[str](), list[str]()
        self.in_use: registry.Version | None = None
        self.running = operations.Running(pipelines={})

    def run(self) -> Decision:
        """Decide, and do what was decided. The decision, whatever it is, is in the ledger then, or says why not."""
        begun = local_runs.new(self.home, self.name)
        try:
            with suppress(TrainwrightError):  # whom to tell of what comes before the commit's own is read
                _, self.running = operations.load(self.home / "params.yaml")
            with server.answering(), turn(self.home, self.name, self.terminal.say):
                _account_for_killed(self.home, self.name)
                local_runs.begin(begun, self.began, flow_run.id)
                outcome, words, code, made = self._decide()
        except TrainwrightError as error:
            outcome, words, code, made = (
                REFUSED if error.exit_code == RefusedError.exit_code else FAILED, str(error), error.exit_code, None,
            )  # fmt: skip
        except Exception as error:  # of our own making, or a disk's: the decision is on record all the same
            outcome, code, made = FAILED, MachineryError.exit_code, None
            if not (words := full_disk.words(error)):
                get_run_logger().exception("%s", error)
                words = f"{type(error).__name__}: {error}"
        words = printable(words, lines=True)
        decision = Decision(
            pipeline=self.name,
            outcome=outcome,
            reasons=self.reasons,
            words=words,
            commit=self.commit,
            not_committed=self.differs,
            in_use=str(self.in_use) if self.in_use else None,
            published=str(made) if made else None,
            exit_code=code,
            started=self.began.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._start, 1),
        )
        more = {"forced": self.force, "why": self.why, "tick": begun.stem}
        try:
            ledger.record(self.home, self.name, asdict(decision) | more)
        except OSError as error:  # whoever is told of the run is told of this, and the next tick puts it on record
            words = f"{words}\nThe ledger has no entry of this tick: {full_disk.words(error) or error}"
            return replace(decision, words=words)
        begun.unlink(missing_ok=True)
        return decision

    def _decide(self) -> tuple[str, str, int, registry.Version | None]:
        if locks := git.sweep(self.home):
            self.terminal.say(f"{self.name}: a git that was killed had left {', '.join(locks)}; removed")
        self.commit = git.head(self.home)
        self._name_what_differs()
        with workspace(self.home, self.name, self.commit) as space:
            what, self.running = self._parameters(space)
            if done := publication.finish(self.home, self.name, self.terminal.say):
                notify.notify(self.running, "published", self.name, done)
            head = self._fetched()
            for words in (*registry.unsound(self.home, self.name), *ledger.unreadable(self.home, self.name)):
                self.terminal.say(f"{self.name}: {words}")
            registry.require_sound_use(self.home, self.name)
            self.in_use = challenge.champion_of(self.home, self.name)
            publication.restore(space, self.name, what, head)
            for pipeline in what.chain(self.name):
                bring_sources(space, what.pipelines[pipeline])
            told = override(space, self.name, self.changes) if self.changes else {}
            what, running = operations.load(space.root / "params.yaml")
            self.running = running if self.attended else running.unattended()
            project = dvc.Project(space.root)
            self.reasons = self._reasons(space, what, project)
            if not self.reasons:
                return NOTHING, self._nothing(), 0, None
            self._require(what, project)
            self.terminal.say(f"{self.name}: retrain at {self.commit[:10]}, since {'; '.join(self.reasons[:SHOWN])}")
            code = self._run(space, what, project)
            if code:
                words = self._failures(code)
                return (REFUSED if code == RefusedError.exit_code else FAILED), words, code, None
            if self.in_use and publication.is_same(space, self.in_use):
                return NOTHING, self._same(), 0, None
            return self._publish(space, what, project, told)

    def _parameters(self, space: Workspace) -> tuple[params.Params, operations.Running]:
        what, how = operations.load(space.root / "params.yaml")
        if self.name not in what.pipelines and "params.yaml" in self.differs:
            reason = f"pipeline {self.name!r} is not in commit {self.commit[:10]}, which a retrain works at"
            raise InputError(Fault("params.yaml", reason, "Commit params.yaml."))
        what.pipeline(self.name)
        return what, how

    def _require(self, what: params.Params, project: dvc.Project) -> None:
        """Raise InputError where the work could only be in vain."""
        publication.require(self.home, project)
        if self.running.of(self.name).publication.approval == "required":
            approval.require_somebody()
        labels = {label for name in what.chain(self.name) for label in self.running.sent(name)}
        if labels and server.embedded():
            raise InputError(server.missing(labels))

    def _fetched(self) -> str | None:
        """The head of the published branch, brought here; where the remote is away, as it was brought here last."""
        branch = self.running.of(self.name).publication.branch
        try:
            known = registry.seen(self.home, self.name)  # before, since another retrain may publish meanwhile
            head = publication.fetch(self.home, branch)
            git.require_tags(self.home, known)
            return head
        except MachineryError as error:
            self.terminal.say(f"{self.name}: going on with what was fetched last: {error}")
            state = publication.state(self.home, branch)
            return state.head if state else None

    def _name_what_differs(self) -> None:
        self.differs = git.changed(self.home)
        if self.differs:
            more = f" and {len(self.differs) - SHOWN} more" if len(self.differs) > SHOWN else ""
            self.terminal.say(
                f"{self.name}: the run uses commit {self.commit[:10]}; not in it as they are here: "
                f"{', '.join(self.differs[:SHOWN])}{more}"
            )

    def _reasons(self, space: Workspace, what: params.Params, project: dvc.Project) -> list[str]:
        """Why to train: each in words; none where the version in use is of this data, code and these parameters."""
        found = [f"forced{f': {self.why}' if self.why else ''}"] if self.force else []
        if self.in_use is None:
            found.append("no version is published yet")
        for name in what.chain(self.name):
            layout, pipeline = Layout(space.root, name), what.pipelines[name]
            old = pinning.pinned(layout)
            pinning.refresh(layout, pipeline)
            if old and old != pinning.pinned(layout):
                found.append(f"new data: {pinning.source_words(pinning.pinned(layout) or {})}")
            goal = None if name == self.name else "training_gate"
            for node in project.graph(name, goal):
                if changes := project.changes(node.name, missing=False):
                    found.append(f"{node.name}: {changes[0]}{f' and {len(changes) - 1} more' if changes[1:] else ''}")
                    if node.name == f"ingestion@{name}" and pipeline.ingestion.limit:
                        self._keep_test_rows(layout)
        return found

    def _keep_test_rows(self, layout: Layout) -> None:
        """Let ingestion, which runs anew, take the frozen test rows of the version in use whatever its limit."""
        if now := registry.in_use(self.home, layout.pipeline):
            pins.keep_test_rows(layout, challenge.frozen(self.home, now).ids)

    def _nothing(self) -> str:
        schedule = self.running.of(self.name).schedule
        after = f" Next tick: {schedule.following(datetime.now(UTC)):%Y-%m-%d %H:%M %Z}." if schedule else ""
        newest = registry.versions(self.home, self.name)[-1]
        since = f"{newest}, in use since {newest.since}"
        if self.in_use and newest != self.in_use:
            since = f"{newest}, which was taken out of use; in use is {self.in_use}, since {self.in_use.since}"
        return (
            f"Nothing to do: no new data, code or parameters since {since}.{after} "
            f"To train all the same: trainwright retrain {self.name} --force --why REASON."
        )

    def _same(self) -> str:
        return (
            f"Nothing to do: the outputs are the same bytes as those of {self.in_use}, so no version is published "
            f"(the run was since {'; '.join(self.reasons[:SHOWN])}). If its code changed: "
            f"trainwright accept {self.name} --why REASON."
        )

    def _run(self, space: Workspace, what: params.Params, project: dvc.Project) -> int:
        """Run what has changed, of the pipelines that this one needs too, then every gate once more."""
        for name in what.chain(self.name):
            goal = None if name == self.name else "training_gate"
            nodes = [node.name for node in project.graph(name, goal)]
            project.restore([node for node in nodes if not project.changes(node, missing=False)])
            forced = "training" if self.force and name == self.name else None
            self.pipeline = Pipeline(
                Layout(space.root, name), project, self.running, self.terminal, goal, forced, "retrain"
            )
            if code := self.pipeline.run():
                return code
        command = [sys.executable, "-m", "stages.gate", "every", self.name]
        again = subprocess.run(
            command, cwd=space.root, env=environment(space.root), capture_output=True, text=True, check=False
        )
        if again.returncode == RefusedError.exit_code:
            raise RefusedError(again.stderr.strip())
        if again.returncode:
            raise MachineryError(f"the gates could not run again: {again.stderr.strip()}")
        self.terminal.say(f"{self.name}: {again.stdout.strip()}")
        return 0

    def _failures(self, code: int) -> str:
        failed = [f"{stage}: {outcome.words}" for stage, outcome in self.pipeline.outcomes.items() if outcome.exit_code]
        return "\n".join(failed) or f"the pipeline ended with exit code {code}"

    def _publish(
        self, space: Workspace, what: params.Params, project: dvc.Project, told: dict[str, tuple[str, str]]
    ) -> tuple[str, str, int, registry.Version | None]:
        settings = self.running.of(self.name).publication
        verdict = challenge.compare(space, self.name, what.pipelines[self.name], settings)
        self.terminal.say("\n" + verdict.words)
        evidence.publish_comparison(self.name, verdict)
        if not verdict.publish:
            return REFUSED, verdict.words, RefusedError.exit_code, None
        approved = ""
        if settings.approval == "required":
            notify.notify(self.running, "waiting", self.name, f"It waits for a person's approval.\n{verdict.words}")
            approved = approval.ask(self.name, verdict.words, settings.approval_hours)
        record = self._record(what, told, verdict, approved)
        made, where = publication.publish(space, self.name, what, self.running, project, verdict, record)
        if where == publication.UNPUBLISHED:
            words = (
                f"{made} is ready, and waits to be published by the next tick: {publication.why(self.home, self.name)}"
            )
            return UNPUBLISHED, words, MachineryError.exit_code, made
        more = "" if where == publication.PUBLISHED else f"\n{where}"
        return PUBLISHED, f"{made} is published and in use.{more}\n{verdict.words}", 0, made

    def _record(
        self, what: params.Params, told: Mapping[str, Any], verdict: champion.Verdict, approved: str
    ) -> dict[str, Any]:
        """What a version says of the run that made it, beside what its files say themselves."""
        return {
            "reasons": self.reasons,
            "set_for_this_run": {key: {"was": was, "is": now} for key, (was, now) in told.items()},
            "parameters": what.pipelines[self.name].model_dump(mode="json"),
            "decision": verdict.words,
            "approved_by": approved,
            "environment": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "machine": platform.node(),
            "started": self.began.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._start, 1),
            "stages": {name: outcome.state for name, outcome in self.pipeline.outcomes.items()},
        }


def shown(outcome: str) -> str:
    """The name of the state in which Prefect shows an outcome; flows/deploy.py knows each as an end."""
    return outcome.title().replace(" ", "")


def _told(tick: Retrain, decision: Decision) -> State[Any]:
    """Tell of a decision inside of a flow run. Returns the state that Prefect shows of it."""
    get_run_logger().info("%s: %s", decision.outcome, decision.words)
    evidence.publish_decision(tick.name, decision.outcome, decision.words)
    if decision.outcome in EVENTS:
        notify.notify(tick.running, EVENTS[decision.outcome], tick.name, decision.words)
    if decision.outcome == FAILED:
        return _failed(decision.words, told=bool(tick.running.pipelines))
    return State(type=StateType.COMPLETED, name=shown(decision.outcome), message=decision.words)


def _failed(words: str, told: bool) -> State[Any]:
    """A failure, as Prefect shows it. Of one that nobody was told of, since params.yaml does not say whom, the server
    tells, which tells of what has crashed (flows/deploy.py)."""
    if told:
        return State(type=StateType.FAILED, name=shown(FAILED), message=words)
    return State(type=StateType.CRASHED, name="Crashed", message=words)


def _run_name() -> str:
    """The name of a deployed run: its pipeline and why it runs."""
    given = flow_run.parameters
    scheduled = "schedule" if "auto-scheduled" in flow_run.tags else BY_HAND
    return f"{given['name']}: {given.get('why') or scheduled}"


@flow(name="retrain", flow_run_name=_run_name, validate_parameters=True)
def retrain(name: Name, force: bool = False, why: str = "", changes: dict[str, str] | None = None) -> State[Any]:
    """Decide whether pipeline `name` is to be retrained, and do it.

    `changes` sets parameters for this run alone: those of augmentation, tokenization, training and evaluation.
    """
    worker.end_with_worker()
    root = Path(os.environ.get("TRAINWRIGHT_ROOT") or find_root())  # the clone that a worker serves
    os.chdir(root)
    try:
        require_known(root, name)
        require_changeable(changes or {})
    except InputError as error:
        return _failed(str(error), told=False)
    tick = Retrain(root, name, Terminal(), force, why, changes or {}, attended=False)
    return _told(tick, tick.run())


def _account_for_killed(home: Path, name: str) -> None:
    """Put into the ledger that earlier ticks of a pipeline here have left no decision there."""
    for run in local_runs.begun(home, name):
        if run.lives():
            continue  # it is about to leave its decision
        if all(entry.get("tick") != run.path.stem for entry in ledger.entries(home, name)):
            words = (
                f"The tick of {run.started} left no decision: its process ({run.process}) was ended, "
                "or its disk was full."
            )
            killed = {"outcome": KILLED, "words": words, "started": run.started, "tick": run.path.stem}
            ledger.record(home, name, killed)
        run.path.unlink()


def decide(root: Path, name: str, terminal: Terminal, force: bool, why: str, changes: Mapping[str, str]) -> Decision:
    """The same from a command line. Raises MachineryError where Prefect ends the run before there is a decision.

    A decision that the server could not be told of any more is one all the same: it is in the ledger.
    """
    found: list[Decision] = []

    def body() -> State[Any]:
        tick = Retrain(root, name, terminal, force, why, changes)
        found.append(tick.run())
        return _told(tick, found[0])

    try:
        with server.answering():
            state = flow(name="retrain", flow_run_name=f"{name}: {why or BY_HAND}")(body)(return_state=True)
    except MachineryError as error:
        if not found:
            raise
        terminal.note(f"Prefect was not told of it. {error}")
    if not found:
        raise MachineryError(f"{name}: Prefect says {state.name}: {state.message}")
    return found[0]


def chosen(values: Sequence[str]) -> dict[str, str]:
    """`--set KEY=VALUE`, several times, as parameters. Raises InputError where one has no value."""
    pairs = [value.partition("=") for value in values]
    for key, sign, _ in pairs:
        if not sign:
            raise InputError(Fault("--set", f"{key!r} has no value", "Write --set training.epochs=2.", field=key))
    return {key: value for key, _, value in pairs}
