"""The paper that a gate hands on: which bytes it passed. A stage opens its input only through `take`.

The certificate names pipeline, gate and the digest of the bytes, no more, so that it changes only when the
bytes do. What was promised and seen is in the gate's result beside it, which no stage depends on: a promise
tightened that still holds re-runs the gate and retrains nothing. `check` wants both: the bytes must be those
of the certificate, and the result must say that they passed under the suite as it is now.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from trainwright.core.copies import copy_folder
from trainwright.core.errors import RefusedError
from trainwright.core.layout import Layout, digest, write_file
from trainwright.core.params import Pipeline

PACKAGE = Path(__file__).parent.parent
REFUSED = "REFUSED"


def suite_digest(params: Pipeline, gate: str) -> str:
    """SHA-256 of what the gate promises now: its parameters and its stage's own (a promise may speak of them),
    and the code that states and judges its promises.

    What goes in here must be among the gate's dependencies in dvc.yaml, or a gate that has to run again is
    one that DVC holds to be up to date.
    """
    code = [*sorted((PACKAGE / "gates").glob("*.py")), PACKAGE / "tasks" / params.task / "promises.py"]
    suite = {
        "gate": gate,
        "parameters": getattr(params.gates, gate).model_dump(mode="json"),
        "stage": getattr(params, gate).model_dump(mode="json"),
        "postprocessing": params.postprocessing.model_dump(mode="json") if gate == "tokenization" else None,
        "code": {path.relative_to(PACKAGE).as_posix(): digest(path) for path in code},
    }
    return hashlib.sha256(json.dumps(suite, sort_keys=True).encode()).hexdigest()


def certify(layout: Layout, gate: str, checked: str, result: dict[str, Any]) -> None:
    """Write result and then certificate for the bytes of digest `checked`: the certificate comes last."""
    write_file(layout.gate_result(gate), json.dumps(result, indent=2) + "\n")
    content = {"pipeline": layout.pipeline, "gate": gate, "digest": checked}
    write_file(layout.certificate(gate), json.dumps(content, indent=2) + "\n")


def refuse(layout: Layout, gate: str, result: dict[str, Any]) -> None:
    """Leave a tombstone where the certificate would be, so that no pull brings an old one back unseen."""
    write_file(layout.certificate(gate), json.dumps({REFUSED: result["failed"]}, indent=2) + "\n")
    write_file(layout.gate_result(gate), json.dumps(result, indent=2) + "\n")


def take(layout: Layout, params: Pipeline, gate: str, aside: Path) -> Path:
    """Copy the folder of stage `gate` to `<aside>/<pipeline>/<gate>`, and return the copy once it is checked.

    What is read is thus what was checked, whatever others write meanwhile. Raises RefusedError as `check` does.
    """
    copy = aside / layout.pipeline / gate
    if layout.stage(gate).is_dir():
        copy_folder(layout.stage(gate), copy)
    check(layout, params, gate, copy)
    return copy


def check(layout: Layout, params: Pipeline, gate: str, folder: Path | None = None) -> str:
    """Return the digest of `folder` (the stage's own if None), if its gate passed these bytes under its present suite.

    Raises RefusedError saying what is missing or differs, and the command that mends it.
    """
    stage, own = f"{gate}@{layout.pipeline}", f"{gate}_gate@{layout.pipeline}"
    remedy = f"Run `dvc repro {own}`."
    # DVC takes a file whose size and time of change are as before for unchanged, so damaged ones need --force.
    renew, remake = (f"Run `dvc repro --force -s {targets}`." for targets in (own, f"{stage} {own}"))
    paper = _read(layout.certificate(gate), gate, remedy, renew)
    if REFUSED in paper:
        failed = paper[REFUSED] if isinstance(paper[REFUSED], list) else [paper[REFUSED]]
        raise RefusedError(f"The {gate} gate refused these data ({', '.join(map(str, failed))}). {remedy}")
    result = _read(layout.gate_result(gate), gate, remedy, renew)
    if not layout.stage(gate).is_dir():
        raise RefusedError(f"The output of {gate} is missing. Run `dvc repro {gate}@{layout.pipeline}`.")
    expected = {"pipeline": layout.pipeline, "gate": gate, "digest": digest(folder or layout.stage(gate))}
    if paper != expected:
        raise RefusedError(f"The data of {gate} are not the bytes that the {gate} gate checked. {remake}")
    if {key: result.get(key) for key in expected} != expected:
        raise RefusedError(f"The result of the {gate} gate is for other bytes than these. {renew}")
    if result.get("suite") != suite_digest(params, gate):
        raise RefusedError(f"The {gate} gate has not run since its promises changed. {remedy}")
    if result.get("passed") is not True:
        raise RefusedError(f"The {gate} gate did not pass these data. {renew}")
    return expected["digest"]


def _read(path: Path, gate: str, remedy: str, renew: str) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError("no plain file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RefusedError(f"The {gate} gate has left no {path.name}. {remedy}") from None
    except (OSError, ValueError, RecursionError):
        raise RefusedError(f"The {gate} gate's {path.name} cannot be read. {renew}") from None
    if not isinstance(content, dict):
        raise RefusedError(f"The {gate} gate's {path.name} is not one that it wrote. {renew}")
    return content
