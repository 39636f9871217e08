"""A pipeline as a Prefect flow: a task for each of its DVC stages, waiting for what the stage depends on.

The graph is read from DVC, not written twice; what a stage does is DVC's and the stage's business. Import
this module only when Prefect's API is ready (flows/server.py), since Prefect reads its settings on import.
"""

import time
from dataclasses import dataclass
from itertools import count
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, StateType

from flows import dvc, evidence, server
from flows.dvc_process import Line
from flows.terminal import Terminal, duration
from trainwright.core.errors import MachineryError, RefusedError, TrainwrightError
from trainwright.core.layout import Layout
from trainwright.operations import Running

DONE = ("Completed", "Cached", "Skipped")
BY_HAND = "by hand"
SAID_NO = (1, 2)  # a gate's or an input's no is the same at a second try


class StageFailed(Exception):
    """What Prefect is told of a stage that failed: the stage's own words."""


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: the state that Prefect shows, and, if it failed, its exit code and its words."""

    state: str
    exit_code: int = 0
    words: str = ""


SKIPPED, NOT_RUN = Outcome("Skipped"), Outcome("NotRun")


class Pipeline:
    """One pipeline of a project, to be run as a flow that is named as it is.

    A stage whose upstream failed is not run; every other is, so that a broken floor still gets its report.
    """

    def __init__(
        self,
        layout: Layout,
        project: dvc.Project,
        running: Running,
        terminal: Terminal,
        goal: str | None = None,
        forced: str | None = None,
        reason: str = BY_HAND,
    ) -> None:
        """`reason` to run stands in the name of the flow run.

        With a `goal` (a stage's name, `training_gate`) only that stage and what it waits for is run. The stage
        `forced` runs even if nothing has changed.
        """
        self.goal, self.forced, self.reason = goal, forced, reason
        self.layout, self.project, self.running, self.terminal = layout, project, running, terminal
        self.nodes: list[dvc.Node] = []
        self.outcomes: dict[str, Outcome] = {}

    def run(self) -> int:
        """Run it, and tell on the terminal what came of it. Returns the exit code, the gravest of its stages'.

        Raises InputError where DVC cannot read the graph, MachineryError where Prefect's server has gone silent.
        """
        started = time.monotonic()
        self.nodes = self.project.graph(self.layout.pipeline, self.goal)
        with server.answering():
            named = f"{self.layout.pipeline}: {self.reason}"
            state = flow(name=self.layout.pipeline, flow_run_name=named)(self._stages)(return_state=True)
        self.terminal.say(f"\n{self.layout.pipeline}: {state.name} in {duration(time.monotonic() - started)}")
        self._closing()
        code = max((outcome.exit_code for outcome in self.outcomes.values()), default=0)
        if not code and not state.is_completed():
            self.terminal.note(f"Prefect says: {state.message}")
            return MachineryError.exit_code
        return code

    def _stages(self) -> State[Any]:
        """The flow: every stage in the graph's order, one at a time, since the lines of two would mix."""
        states: dict[str, State[Any]] = {}
        progress = evidence.Progress(self.layout.pipeline, len(self.nodes))
        for done, node in enumerate(self.nodes, 1):
            upstream = [states[name] for name in node.upstream]
            states[node.name] = state = self._task(node.name)(return_state=True, wait_for=upstream)
            if node.name not in self.outcomes:
                unknown = Outcome("Crashed", MachineryError.exit_code, str(state.message))
                self.outcomes[node.name] = unknown if state.is_final() else NOT_RUN
            if self.outcomes[node.name] not in (SKIPPED, NOT_RUN) or node is self.nodes[-1]:
                progress.tell(done, node.name)
        self._publish()
        failed = [f"{name}: {outcome.words}" for name, outcome in self.outcomes.items() if outcome.exit_code]
        if failed:
            return State(type=StateType.FAILED, message="\n".join(failed))
        return State(type=StateType.COMPLETED)

    def _task(self, stage: str) -> Any:
        """The task of one stage, which DVC's state of it names: Skipped, Cached, Completed."""
        operation = self.running.of(self.layout.pipeline).stage(stage.partition("@")[0])
        tries = count(1)

        def body() -> State[Any]:
            started = time.monotonic()
            self.outcomes[stage] = outcome = self._reproduce(stage, 60 * operation.timeout_minutes)
            if outcome != SKIPPED:
                self.terminal.note(f"{outcome.state} in {duration(time.monotonic() - started)}")
            if next(tries) <= operation.retries and outcome.exit_code not in (0, *SAID_NO):
                self.terminal.note(outcome.words.partition("\n")[0])
                self.terminal.note(f"It is tried again in {duration(operation.retry_delay_seconds)}.")
            if outcome.state == "TimedOut":
                raise TimeoutError(outcome.words)
            if outcome.exit_code:
                raise StageFailed(outcome.words)
            return State(type=StateType.COMPLETED, name=outcome.state)

        return task(
            name=stage,
            task_run_name=stage,
            retries=operation.retries,
            retry_delay_seconds=operation.retry_delay_seconds,
            retry_condition_fn=lambda *_: self.outcomes[stage].exit_code not in SAID_NO,
            cache_policy=NO_CACHE,  # what has run already is for DVC to know
        )(body)

    def _reproduce(self, stage: str, seconds: float) -> Outcome:
        name = stage.partition("@")[0]
        if name != self.forced and not self.project.changes(stage):
            self.terminal.heading(f"{stage}: Skipped, nothing has changed")
            return SKIPPED
        logger = get_run_logger()

        def say(line: Line) -> None:
            self.terminal.output(line)
            if not line.transient:
                logger.info("%s", line.text)

        label, force = self.running.label(self.layout.pipeline, name), name == self.forced
        self.terminal.heading(f"{stage} on {label}" if label else stage)
        self.layout.failure(name).unlink(missing_ok=True)
        try:
            if label:
                from flows import dispatch

                where = self.project, self.layout, stage, label, self.running
                return Outcome(dispatch.reproduce(*where, say, seconds, force))
            return Outcome(self.project.reproduce(stage, say, seconds, force))
        except TimeoutError:
            words = f"stopped after {duration(seconds)}, its timeout_minutes under operations in params.yaml"
            return Outcome("TimedOut", MachineryError.exit_code, words)
        except dvc.StageError as error:
            return self._failure(stage, str(error))
        except TrainwrightError as error:
            return Outcome("Failed", error.exit_code, str(error))

    def _failure(self, stage: str, otherwise: str) -> Outcome:
        """What the stage itself says of its failure; what DVC says where it has not come to say anything."""
        name = stage.partition("@")[0]
        code, words = evidence.failure(self.layout, name) or (MachineryError.exit_code, otherwise)
        if words.startswith("Traceback"):
            path = self.layout.failure(name).relative_to(self.layout.root)
            words = f"{words.splitlines()[-1]} (traceback in {path})"
        return Outcome("Failed", code if code in SAID_NO else MachineryError.exit_code, words)

    def _publish(self) -> None:
        """Artifacts of what this run can vouch for: a result left by an earlier run is not this one's.

        Where nothing has changed, the artifacts of the run before are still the newest.
        """
        if all(outcome == SKIPPED for outcome in self.outcomes.values()):
            return
        for stage, outcome in self.outcomes.items():
            name = stage.partition("@")[0]
            if name.endswith("_gate") and (outcome.state in DONE or outcome.exit_code == RefusedError.exit_code):
                evidence.publish_gate(self.layout, name.removesuffix("_gate"))
            if name == "postprocessing" and outcome.state in DONE:
                evidence.publish_scores(self.layout)
            if name == "report" and outcome.state in DONE:
                evidence.publish_picture(self.layout)

    def _closing(self) -> None:
        for stage, outcome in self.outcomes.items():
            if outcome.exit_code:
                self.terminal.note(f"{stage} {outcome.state}: {outcome.words.splitlines()[0]}")
        if waiting := sum(outcome == NOT_RUN for outcome in self.outcomes.values()):
            self.terminal.note(f"not run, since they wait for it: {waiting} of {len(self.nodes)} stages")
        elif self.outcomes and not self.goal:
            self.terminal.note(evidence.closing(self.layout))
