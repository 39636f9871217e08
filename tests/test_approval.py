"""`approval: required`: a person answers in Prefect's form, and nothing but a yes publishes."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from uuid import UUID

import pytest
from conftest import ROOT, Toy, wait
from test_accepting import project as _project  # noqa: F401  (a fixture of `house`)
from test_deploy import NIGHTLY, client
from test_publication import commit
from test_retrain import decisions, house, in_use, refs, source, start  # noqa: F401  (`house` is a fixture)

from flows import registry

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_api")]

ASK = """
from flows import approval
from trainwright.core.errors import RefusedError
approval.POLL = 0.2
for hours in (0.0005, 1):
    try:
        print("approved by", approval.ask("one", "It is better.", hours), flush=True)
    except RefusedError as error:
        print(error, flush=True)
"""


AT_A_TERMINAL = """
import sys
from flows import approval
from trainwright.core.errors import RefusedError
try:
    print("approved by", approval.ask("one", "It is better.", float(sys.argv[1])))
except RefusedError as error:
    print(error)
"""


@pytest.fixture
def asked(house: Toy) -> Iterator[Toy]:  # noqa: F811
    """A deployed pipeline whose versions a person approves."""
    from flows import deploy

    params = json.loads(house.read("params.yaml"))
    params["operations"] = {"one": {**NIGHTLY, "publication": {"approval": "required"}}}
    house.write("params.yaml", json.dumps(params))
    commit(house)
    deploy.deploy(house.root, lambda _: None)
    yield house
    deploy.remove(lambda _: None)


def paused(child: subprocess.Popen[str], parent: UUID | None = None) -> tuple[UUID, str]:
    """The run whose form waits for an answer, and what stands above the form."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.exceptions import PrefectHTTPStatusError

    wanted = filters.FlowRunFilter(
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.PAUSED])),
        parent_flow_run_id=filters.FlowRunFilterParentFlowRunId(any_=[parent]) if parent else None,
    )
    ours = filters.FlowFilter(name=filters.FlowFilterName(any_=["approval"]))
    found: list[tuple[UUID, str]] = []

    def asks() -> bool:
        assert child.poll() is None, child.communicate()
        with client() as api:
            for run in api.read_flow_runs(flow_filter=ours, flow_run_filter=wanted):
                key = run.state.state_details.run_input_keyset["description"]
                try:
                    answer = api._client.get(f"/flow_runs/{run.id}/input/{key}", params={})
                except PrefectHTTPStatusError as error:
                    if error.response.status_code != HTTPStatus.NOT_FOUND:
                        raise
                    continue  # a run is paused a moment before its form is there
                found.append((run.id, answer.text))
        return bool(found)

    wait(asks, 120, "nobody is asked")
    return found[0]


def answer(run: UUID, **said: Any) -> str:
    """Answer the form as Prefect's page does. Returns what the server says of the answer."""
    with client() as api:
        return str(api.resume_flow_run(run, run_input=said).status.value)


def test_a_scheduled_tick_keeps_its_place_while_a_person_reads_and_publishes_with_a_yes_alone(asked: Toy) -> None:
    from prefect.states import Pending

    from flows import status

    with client() as api:
        deployment = api.read_deployment_by_name("retrain/one").id
        tick = api.create_flow_run_from_deployment(deployment).id
        api.set_flow_run_state(tick, Pending())  # as a worker does, which gets it the deployment's one place
    child = asked.start("-m", "prefect.engine", PREFECT__FLOW_RUN_ID=str(tick))
    try:
        run, words = paused(child, tick)
        assert "one" in words and "80" in words
        with client() as api:
            assert api.read_flow_run(tick).state.is_running()
            assert api.read_deployment(deployment).global_concurrency_limit.active_slots == 1
        (told,) = status.status(asked.root)["runs"]
        assert told["why"] == "it waits for a person's answer: open its run `approval` in the server's UI"
        for wrong in ({}, {"approve": True}, {"approve": True, "who": " "}, {"approve": "perhaps", "who": "Ada"}):
            assert answer(run, **wrong) == "REJECT"
        assert refs(asked) == ""
        assert answer(run, approve=True, who="Ada", why="I read it") == "ACCEPT"
        said = child.communicate(timeout=120)
    finally:
        child.kill()
    with client() as api:
        assert api.read_flow_run(tick).state.name == "Published", said
    assert in_use(asked) == "v1.0.0"
    assert registry.record(asked.root, registry.versions(asked.root, "one")[0])["approved_by"] == "Ada: I read it"

    source(asked, 50)
    child = start(asked)
    try:
        run, words = paused(child)
        assert "of v1.0.0 on 400 rows" in words
        assert answer(run, approve=False, who="Ada", why="too early") == "ACCEPT"
        said = child.communicate(timeout=120)
    finally:
        child.kill()
    assert child.returncode == 1 and "one was not approved, by Ada: too early." in "".join(said), said
    assert in_use(asked) == "v1.0.0" and decisions(asked)[0]["outcome"] == "refused"


def test_nobody_until_the_deadline_and_a_run_set_going_without_an_answer_are_a_no(toy: Toy) -> None:
    from prefect.states import Running

    child = toy.start("-c", ASK)
    try:
        assert child.stdout and "nobody approved it within 0.0005 hours" in child.stdout.readline()
        run, _ = paused(child)
        with client() as api:
            api.set_flow_run_state(run, Running(), force=True)
        said = child.communicate(timeout=60)
    finally:
        child.kill()
    assert "one was not published: its run was resumed without an answer." in said[0], said
    assert "approved by" not in said[0] and child.returncode == 0


@pytest.mark.parametrize(
    ("typed", "hours", "words"),
    [
        ("yes\n \nAda\n", 1, "approved by Ada, at the terminal"),
        ("no\nAda\n", 1, "one was not approved, by Ada, at the terminal."),
        ("\x04", 1, "one was not published: the input at the terminal ended without an answer."),
        ("yes\n\x04", 1, "one was not published: the input at the terminal ended without an answer."),
        ("yes\n", 0.0003, "one was not published: nobody approved it within 0.0003 hours."),
    ],
)
def test_at_a_terminal_too_an_answer_has_a_name_and_a_deadline(typed: str, hours: float, words: str) -> None:
    """A pseudo-terminal stands for the person's."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", AT_A_TERMINAL, str(hours)]
    child = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True)
    try:
        os.write(ours, typed.encode())
        _, errors = child.communicate(timeout=120)
        said = os.read(ours, 10_000).decode()
    finally:
        child.kill()
        os.close(ours)
        os.close(theirs)
    assert said.rstrip().endswith(words) and "Traceback" not in errors, said + errors
