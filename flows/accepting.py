"""`trainwright accept`: the results of the version in use, taken for other code, as a version of its own."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from flows import challenge, dvc, dvc_lock, git, ledger, publication, registry
from flows.workspace import turn, workspace
from trainwright import champion, operations
from trainwright.core.errors import Fault, InputError, MachineryError, RefusedError
from trainwright.core.layout import Layout

Say = Callable[[str], None]


def accept(home: Path, name: str, why: str, say: Say, new_line: bool = False) -> str:
    """Take the results of the version in use for the code that is checked out, as a version of its own.

    For changes of code that change no behaviour: the outputs are committed to DVC as they are, every gate runs again,
    and the ledger and the version's record say that they were accepted and why. With `new_line` the test rows are
    frozen anew, and what follows is compared on them. Returns what was done, in words.

    Raises InputError where there is nothing to accept, or where parameters or data have changed too, which only a
    retrain can answer; RefusedError where a gate says no; MachineryError where a version waits to be published, this
    one or one before.
    """
    with turn(home, name, say):
        return _accept(home, name, why, say, new_line)


def _accept(home: Path, name: str, because: str, say: Say, new_line: bool) -> str:
    publication.finish(home, name, say)
    if waits := publication.why(home, name):
        raise MachineryError(f"{name}: a version waits to be published, which comes first: {waits}")
    registry.fetch(home, name)
    registry.require_sound_use(home, name)
    now = registry.in_use(home, name)
    if now is None:
        raise InputError(Fault(name, "no version of it is published", f"Run `trainwright retrain {name}`."))
    with workspace(home, name, git.head(home)) as space:
        what, running = operations.load(space.root / "params.yaml")
        what.pipeline(name)
        chain = what.chain(name)
        for each in chain:
            publication.bring(space, each, now.commit)
        project = dvc.Project(space.root)
        publication.require(home, project)
        nodes = [node.name for node in project.graph(name)]
        changed = _changed_code(project, name, nodes)
        if not changed and not new_line:
            raise InputError(Fault(name, f"{now} is of this code already", "There is nothing to accept."))
        made = dvc_lock.entries((space.root / "dvc.lock").read_text(encoding="utf-8"))
        project.restore([stage for stage in made if stage.partition("@")[2] in chain])
        project.commit(changed)
        gates = [node for node in nodes if node.partition("@")[0].endswith("_gate")]
        for gate in gates:
            _again(project, gate, say)
        known = registry.seen(home, name)
        frozen = challenge.frozen(home, now)
        side = challenge.side(Layout(space.root, name), name, what.pipelines[name])
        if new_line:
            frozen = champion.freeze(side.rows, frozen.line + 1)
        verdict = champion.accepted(
            side, frozen, f"Accepted for other code, with the results of {now}: {because}", known
        )
        version, where = publication.publish(
            space, name, what, running, project, verdict, {"accepted": {"of": now.version, "stages": changed}},
            bump="patch", act="accept", why=because,
        )  # fmt: skip
    told = {"decision": "accepted", "version": version.version, "of": now.version, "stages": changed, "why": because}
    waits = publication.why(home, name)
    ledger.record(home, name, told | ({"waits": waits} if waits else {}))
    if waits:
        raise MachineryError(f"{version} is accepted, and waits to be published by the next tick: {waits}")
    return f"{version} has the results of {now.version} for the code of {space.commit[:10]}: {where}"


def _again(project: dvc.Project, gate: str, say: Say) -> None:
    try:
        project.reproduce(gate, lambda line: say(line.text), float("inf"), force=True)
    except dvc.StageError as error:
        failure = Layout(project.root, gate.partition("@")[2]).failure(gate.partition("@")[0])
        words = json.loads(failure.read_text(encoding="utf-8"))["message"] if failure.exists() else str(error)
        raise RefusedError(f"{gate}: {words}") from None


def _changed_code(project: dvc.Project, name: str, nodes: Sequence[str]) -> list[str]:
    """The stages of which nothing but code has changed. Raises InputError where something else has, too."""
    found = []
    for node in nodes:
        changes = project.changes(node, missing=False)
        if other := [words for words in changes if not re.match(r"(stages|trainwright)/\S+ ", words)]:
            remedy = f"Only new code can be accepted; run `trainwright retrain {name}`."
            raise InputError(Fault(node, f"not its code alone has changed: {other[0]}", remedy))
        if changes:
            found.append(node)
    return found
