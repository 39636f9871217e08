"""What the learning curves say of overfitting, in words: only what was logged, and nothing where nothing was.

The training loss of an epoch is the mean of what was logged in it, with dropout at work and, where it is set, with
label smoothing or a teacher; the validation loss is taken at the epoch's end without any of them.
"""

from dataclasses import dataclass
from typing import Any

Curve = list[tuple[int, float]]
NEAR = 0.02  # losses that differ by less, of the larger one, are called equal


@dataclass(frozen=True)
class Epoch:
    """An epoch's two losses; `train` is None where nothing was logged in it."""

    number: int
    step: int
    train: float | None
    validation: float


def epochs(train: Curve, validation: Curve) -> list[Epoch]:
    """The losses by epoch, as the evaluations part the training's curve."""
    found, begin = [], 0
    for number, (step, loss) in enumerate(validation, 1):
        own = [value for at, value in train if begin < at <= step]
        found.append(Epoch(number, step, sum(own) / len(own) if own else None, loss))
        begin = step
    return found


def sentences(curves: dict[str, Curve], training: dict[str, Any], params: dict[str, Any]) -> list[str]:
    """The gap between the losses and what it means, then what was set against overfitting."""
    found = epochs(curves.get("train/loss") or [], curves.get("validation/loss") or [])
    if not found:
        return ["No validation loss was logged: not computed.", _ended(training, params), _handled(params)]
    lowest = min(found, key=lambda epoch: epoch.validation)
    kept = next((epoch for epoch in found if epoch.step == training.get("best_step")), lowest)
    return [
        _gap(kept, params),
        _course(found, lowest, kept, _taught(params)),
        _ended(training, params),
        _handled(params),
    ]


def _taught(params: dict[str, Any]) -> bool:
    return (params.get("teacher") or "none") != "none"


def _gap(best: Epoch, params: dict[str, Any]) -> str:
    if best.train is None:
        return f"Validation loss {best.validation:.3g} at the best step; no training loss was logged there."
    gap = best.validation - best.train
    said = f"Training loss {best.train:.3g}, validation {best.validation:.3g} at the best step (epoch {best.number}): "
    if _taught(params):
        return said + "no gap can be told, since the training loss holds the distance to the teacher as well."
    if abs(gap) <= NEAR * max(abs(best.validation), abs(best.train)):
        said += "no gap to speak of."
    elif gap > 0:
        said += f"a gap of {gap:.2g}."
    else:
        said += (
            f"validation is lower by {-gap:.2g}, since dropout and the epoch's early steps weigh on training's mean."
        )
    if params.get("label_smoothing"):
        said += " Label smoothing raises the training loss alone, so that the true gap is larger."
    return said


def _course(found: list[Epoch], lowest: Epoch, kept: Epoch, taught: bool) -> str:
    """What came after the epoch of the lowest validation loss."""
    if len(found) == 1:
        return "One epoch was judged: whether more would overfit is not known."
    after = found[lowest.number :]
    if not after:
        return "Validation was still falling at the end: no overfitting is seen, and more epochs may help."
    last = found[-1]
    if last.train is None or lowest.train is None:
        return f"Validation was lowest after epoch {lowest.number}, and {last.validation:.3g} at the end."
    rose = last.validation - lowest.validation
    end = f"training loss came to {last.train:.3g} and validation to {last.validation:.3g}"
    if last.train < lowest.train and rose > NEAR * abs(lowest.validation):
        overfits = f"It overfits from epoch {after[0].number} on: by the end {end}"
        which = "before that" if kept.number <= lowest.number else f"of epoch {kept.number}, the most often right"
        gap = "" if taught else f", a gap of {last.validation - last.train:.2g}"
        return f"{overfits}{gap}. The weights kept are those {which}."
    if last.train < lowest.train:
        return f"After epoch {lowest.number} validation stayed about level while training fell: by the end {end}."
    return f"After epoch {lowest.number} neither loss fell: by the end {end}."


def _ended(training: dict[str, Any], params: dict[str, Any]) -> str:
    patience = params.get("early_stopping") or 0
    if not patience:
        return "Early stopping is off; the weights of the best epoch are kept all the same."
    measure = "agreement" if params.get("best_by") == "agreement" else "validation loss"
    wanted = f"{patience} {'epoch' if patience == 1 else 'epochs'} without a better {measure}"
    if training.get("ended_early"):
        return f"Early stopping ended it after {wanted}."
    return f"Early stopping waits for {wanted}; it did not come to that."


def _handled(params: dict[str, Any]) -> str:
    dropout, smoothing = params.get("dropout"), params.get("label_smoothing") or 0
    parts = [
        "dropout as the base model has it" if dropout is None else f"dropout {dropout:g}",
        f"weight decay {params.get('weight_decay') or 0:g}",
        f"label smoothing {smoothing:g}" if smoothing else "no label smoothing",
    ]
    if params.get("freeze"):
        parts.append(f"frozen: {params['freeze']}")
    return "Set against it: " + ", ".join(parts) + "."
