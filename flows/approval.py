"""A person's yes or no to a publication: asked on the terminal, or in Prefect's form while a flow of its own is paused.

Of its own, since a server takes a run's place under its deployment's limit when the run is paused: the next tick begins
then, and the engine ends the run minutes later, when it finds the lease of its place gone.
"""

import select
import sys
import time

from prefect import flow, pause_flow_run
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput
from pydantic import Field, ValidationError

from flows import server
from trainwright.core.errors import Fault, InputError, RefusedError, printable

POLL = 5  # seconds


class Approval(RunInput):
    """What Prefect's form asks for."""

    approve: bool = Field(description="Publish this version and put it to use?")
    who: str = Field(pattern=r"\S", description="Your name, for the record")
    why: str = ""


def require_somebody() -> None:
    """Raise InputError where nobody could be asked, before any work is done for it."""
    if server.embedded() and not _on_terminal():
        reason = "approval: required, and nobody can be asked here"
        raise InputError(Fault("params.yaml", reason, "Run it in a terminal, or under a Prefect server."))


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask(pipeline: str, words: str, hours: float) -> str:
    """Who approved, and why. Returns only with a yes.

    Raises RefusedError where a person said no, or nobody said anything for `hours`; InputError where nobody can be
    asked.
    """
    require_somebody()
    if _on_terminal():
        approved, who = _at_terminal(pipeline, hours)
        if not approved:
            raise RefusedError(f"{pipeline} was not approved, by {who}, at the terminal.")
        return f"{who}, at the terminal"
    said = _wait(pipeline, words, hours)
    if said is None:
        raise _unanswered(pipeline, hours)
    if not said.approve:
        raise RefusedError(f"{pipeline} was not approved, by {said.who}{f': {said.why}' if said.why else ''}.")
    return f"{said.who}{f': {said.why}' if said.why else ''}"


def _unanswered(pipeline: str, hours: float) -> RefusedError:
    return RefusedError(f"{pipeline} was not published: nobody approved it within {hours:g} hours.")


def _at_terminal(pipeline: str, hours: float) -> tuple[bool, str]:
    """Whether a person at this terminal said yes, and who it was. Raises RefusedError where there was no answer."""
    deadline = time.monotonic() + hours * 3600

    def typed(question: str) -> str:
        print(printable(question, lines=True), end=" ", flush=True)
        if not select.select([sys.stdin], [], [], max(0.0, deadline - time.monotonic()))[0]:
            print()
            raise _unanswered(pipeline, hours)
        line = sys.stdin.readline()
        if not line:  # Ctrl-D, or the terminal is gone
            print()
            raise RefusedError(f"{pipeline} was not published: the input at the terminal ended without an answer.")
        return line.strip()

    approved = typed(f"Publish {pipeline} and put it to use? [yes/no]").lower() in ("y", "yes")
    who = ""
    while not who:
        who = typed("Your name, for the record:")
    return approved, who


def _wait(pipeline: str, words: str, hours: float) -> Approval | None:
    """What a person said; None where nobody did."""
    form = Approval.with_initial_data(description=f"**{pipeline}**\n\n{words}")
    found: list[Approval] = []

    def body() -> None:
        found.append(pause_flow_run(wait_for_input=form, timeout=max(1, int(hours * 3600)), poll_interval=POLL))

    try:
        flow(name="approval", flow_run_name=pipeline, persist_result=False)(body)()
    except FlowPauseTimeout:
        return None
    except ValidationError:  # the run was set going again by other means than the form
        raise RefusedError(f"{pipeline} was not published: its run was resumed without an answer.") from None
    return found[0]
