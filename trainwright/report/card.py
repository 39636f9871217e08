"""The model's card: metadata that the Hub reads, and a text for people, both true to the run's records."""

from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from trainwright.report import learning, markdown
from trainwright.report.facts import Facts
from trainwright.report.heads import head
from trainwright.report.page import adapter, begun, environment, from_scratch, model_name, precision, teacher
from trainwright.report.results import score_rows, title, unit_words
from trainwright.scoring.wording import CONSTANT, cell, headline, kind, label, parts

HUB_METRICS = {  # the Hub's names, where they are not ours
    "exact": "exact_match",
    "macro_f1": "f1",
    "micro_f1": "f1",
    "weighted_f1": "f1",
    "token_f1": "f1",
    "matthews": "matthews_correlation",
    "mcc": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "rougeL": "rouge",
    "rouge_l": "rouge",
}
NO_ID = ("folder", "scratch", "pipeline")  # base models that have no name on the Hub
TRAINED = ("epochs", "steps", "best_step", "best_loss", "first_loss", "last_loss", "batch_size", "accumulation")
SET = ("learning_rate", "schedule", "warmup", "weight_decay", "dropout", "label_smoothing", "early_stopping", "seed")


def card(facts: Facts) -> str:
    """The README.md of the model's folder."""
    from huggingface_hub import ModelCard

    return str(ModelCard(f"---\n{metadata(facts).to_yaml()}\n---\n\n{_text(facts)}", ignore_metadata_errors=False))


def metadata(facts: Facts) -> Any:
    """What the Hub reads, as ModelCardData. A base model that is a local folder, another pipeline's or none, and
    data that are no Hub data set, have no id there: the text names them."""
    from huggingface_hub import ModelCardData

    base, _, _ = facts.base["uri"].partition(":")
    uri = facts.source["uri"]
    pipeline_tag = head(facts.architecture).tag
    return ModelCardData(
        base_model=None if base in NO_ID else model_name(facts.base["uri"]),
        **_licence(facts),
        datasets=[uri.removeprefix("hub:")] if uri.startswith("hub:") else None,
        language=facts.params["language"],
        library_name="transformers",
        pipeline_tag=pipeline_tag,
        tags=["trainwright", facts.params["task"]],
        model_name=facts.pipeline,
        eval_results=_results(facts, pipeline_tag) or None,
    )


def _licence(facts: Facts) -> dict[str, Any]:
    """One licence where base model and data share it, the Hub's "other" with both where they differ, and "unknown"
    where either is."""
    parts = (facts.base, facts.source)
    base, data = (markdown.one_line(str(part.get("licence") or "unknown")).lower() for part in parts)
    if facts.base["uri"] == "scratch":  # nobody's weights: the data's alone
        base = data
    if "unknown" in (base, data) or base == data:
        return {"license": base if base == data else "unknown"}
    return {"license": "other", "license_name": f"{base} (base model) and {data} (data)"}


def _results(facts: Facts, task_type: str | None) -> list[Any]:
    """The scores on test as the Hub's model-index; one that was not computed is left out."""
    from huggingface_hub import EvalResult

    test, uri = facts.metrics.get("test"), facts.source["uri"]
    return [
        EvalResult(
            task_type=task_type or "other",
            dataset_type=uri.removeprefix("hub:") if uri.startswith("hub:") else facts.source["format"],
            dataset_name=uri,
            dataset_split="test",
            dataset_revision=facts.source.get("commit") or facts.source.get("revision"),
            metric_type=HUB_METRICS.get(name, name),
            metric_name=title(name),
            metric_value=round(value, 4),
        )
        for name in headline(facts.metrics)
        if (value := cell(test, name)["value"]) is not None
    ]


def _text(facts: Facts) -> str:
    names = headline(facts.metrics)
    kinds = {name: kind(facts.metrics, name) for name in names}
    licences = {} if from_scratch(facts) else {"the base model's": facts.base.get("licence")}
    licences |= {"the data's": facts.source.get("licence")}
    training = facts.params["training"]
    beside = {"adapter": adapter(training), "teacher": teacher(training)}
    rendered = (
        _environment()
        .get_template("card.md")
        .render(
            facts=facts,
            begun=begun(facts),
            from_scratch=from_scratch(facts),
            scratch=facts.base.get("scratch"),
            metrics=names,
            units={n: words for n, k in kinds.items() if (words := unit_words(k))},
            score_rows=score_rows(facts.metrics, names),
            constant=parts(facts.metrics).get(CONSTANT),
            trained=_trained(facts),
            overfitting=learning.sentences(facts.curves, facts.training, facts.params["training"]),
            usage=head(facts.architecture).usage(bool(beside["adapter"]) and not training["lora"]["merge"]),
            beside=[(name, words) for name, words in beside.items() if words],
            test_count=(facts.metrics.get("test") or {}).get("count"),
            not_computed=not_computed(facts),
            unknown_licences=[whose for whose, licence in licences.items() if str(licence or "unknown") == "unknown"],
        )
    )
    return rendered.strip() + "\n"


def _environment() -> Environment:
    """The page's templates, with every value as Markdown shows it, not as HTML does."""
    templates = environment().overlay(finalize=_as_markdown)
    templates.filters |= {"code": lambda text: Markup(markdown.code(str(text)))}
    return templates


def _as_markdown(value: Any) -> Markup:
    return value if isinstance(value, Markup) else Markup(markdown.plain(str(value)))


def not_computed(facts: Facts) -> list[str]:
    """What a reader may look for and does not find among the scores."""
    calibrated = any(name in (facts.metrics.get("test") or {}) for name in ("ece", "calibration"))
    return ["bias", "toxicity", *([] if calibrated else ["calibration"]), "behaviour under attack"]


def _trained(facts: Facts) -> list[tuple[str, Any]]:
    """What is known of the training; None where a fact is missing."""
    known = [(label(name), facts.training.get(name)) for name in TRAINED]
    known += [(label(name), facts.params["training"].get(name)) for name in SET]
    where = [(name, facts.training.get(name)) for name in ("processes", "threads", "device")]
    return [*known, ("precision", precision(facts)), *where]
