"""A person's yes or no to a publication: asked on the terminal, or in Prefect's form while a flow of its own is paused.

Of its own, since a server takes a run's place under its deployment's limit when the run is paused: the next tick begins
then, and the engine ends the run minutes later, when it finds the lease of its place gone.
"""

import sys

from prefect import flow, pause_flow_run
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput
from pydantic import Field, ValidationError

from flows import server
from trainwright.core.errors import Fault, InputError, RefusedError

POLL = 5  # seconds


class Approval(RunInput):
    """What Prefect's form asks for."""

    approve: bool = Field(description="Publish this version and put it to use?")
    who: str = Field(pattern=r"\S", description="Your name, for the record")
    why: str = ""


def ask(pipeline: str, words: str, hours: float) -> str:
    """Who approved, and why. Returns only with a yes.

    Raises RefusedError where a person said no, or nobody said anything for `hours`; InputError where nobody can be
    asked.
    """
    if sys.stdin.isatty() and sys.stdout.isatty():
        if input(f"Publish {pipeline} and put it to use? [yes/no] ").strip().lower() not in ("y", "yes"):
            raise RefusedError(f"{pipeline} was not approved, at the terminal.")
        return "at the terminal"
    if server.embedded():
        reason = "approval: required, and nobody can be asked here"
        raise InputError(Fault("params.yaml", reason, "Run it in a terminal, or under a Prefect server."))
    said = _wait(pipeline, words, hours)
    if said is None:
        raise RefusedError(f"{pipeline} was not published: nobody approved it within {hours:g} hours.")
    if not said.approve:
        raise RefusedError(f"{pipeline} was not approved, by {said.who}{f': {said.why}' if said.why else ''}.")
    return f"{said.who}{f': {said.why}' if said.why else ''}"


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
