"""A person's yes or no to a publication: asked on the terminal, or in Prefect's form while the flow is paused."""

import sys

from prefect import pause_flow_run
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput
from pydantic import Field

from flows import server
from trainwright.core.errors import Fault, InputError, RefusedError

POLL = 5  # seconds


class Approval(RunInput):
    """What Prefect's form asks for."""

    approve: bool = Field(description="Publish this version and put it to use?")
    who: str = Field(min_length=1, description="Your name, for the record")
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
    form = Approval.with_initial_data(description=f"**{pipeline}**\n\n{words}")
    try:
        said = pause_flow_run(wait_for_input=form, timeout=int(hours * 3600), poll_interval=POLL)
    except FlowPauseTimeout:
        raise RefusedError(f"{pipeline} was not published: nobody approved it within {hours:g} hours.") from None
    if not said.approve:
        raise RefusedError(f"{pipeline} was not approved, by {said.who}{f': {said.why}' if said.why else ''}.")
    return f"{said.who}{f': {said.why}' if said.why else ''}"
