"""The model's card: metadata that the Hub reads, and a text for people, both true to the run's records."""

from typing import Any

from trainwright.report.facts import Facts
from trainwright.report.page import environment, model_name, points, precision, score_rows, title
from trainwright.scoring.wording import cell, headline, label

HEADS = {  # what follows "For" in an architecture's name: the Hub's pipeline tag, and transformers' class
    "QuestionAnswering": ("question-answering", "AutoModelForQuestionAnswering"),
    "SequenceClassification": ("text-classification", "AutoModelForSequenceClassification"),
    "TokenClassification": ("token-classification", "AutoModelForTokenClassification"),
    "MultipleChoice": ("multiple-choice", "AutoModelForMultipleChoice"),
    "MaskedLM": ("fill-mask", "AutoModelForMaskedLM"),
    "CausalLM": ("text-generation", "AutoModelForCausalLM"),
    "LMHeadModel": ("text-generation", "AutoModelForCausalLM"),
    "ConditionalGeneration": ("text2text-generation", "AutoModelForSeq2SeqLM"),
}
HUB_METRICS = {"exact": "exact_match"}  # the Hub's names, where they are not ours
TRAINED = ("epochs", "steps", "best_step", "best_loss", "first_loss", "last_loss", "batch_size", "accumulation")
SET = ("learning_rate", "schedule", "warmup", "weight_decay", "seed")


def card(facts: Facts) -> str:
    """The README.md of the model's folder."""
    from huggingface_hub import ModelCard

    return str(ModelCard(f"---\n{metadata(facts).to_yaml()}\n---\n\n{_text(facts)}", ignore_metadata_errors=False))


def metadata(facts: Facts) -> Any:
    """What the Hub reads, as ModelCardData. A base model that is a local folder, and data that are no Hub data set,
    have no id there: the text names them."""
    from huggingface_hub import ModelCardData

    kind, _, _ = facts.base["uri"].partition(":")
    uri = facts.source["uri"]
    pipeline_tag, _ = _head(facts.architecture)
    return ModelCardData(
        base_model=None if kind in ("folder", "scratch") else model_name(facts.base["uri"]),
        **_licence(facts),
        datasets=[uri.removeprefix("hub:")] if uri.startswith("hub:") else None,
        language=facts.params["language"],
        library_name="transformers",
        pipeline_tag=pipeline_tag,
        tags=["trainwright", facts.params["task"]],
        model_name=facts.pipeline,
        eval_results=_results(facts, pipeline_tag) or None,
    )


def _head(architecture: str) -> tuple[str | None, str]:
    return next((head for name, head in HEADS.items() if architecture.endswith(name)), (None, "AutoModel"))


def _licence(facts: Facts) -> dict[str, Any]:
    """One licence where base model and data share it, the Hub's "other" with both where they differ, and "unknown"
    where either is."""
    base, data = (str(part.get("licence") or "unknown").lower() for part in (facts.base, facts.source))
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
    templates = environment()
    templates.filters["interval"] = _interval
    names = headline(facts.metrics)
    licences = {"the base model's": facts.base.get("licence"), "the data's": facts.source.get("licence")}
    if facts.base["uri"] == "scratch":
        del licences["the base model's"]
    rendered = templates.get_template("card.md").render(
        facts=facts,
        name=model_name(facts.base["uri"]),
        scratch=facts.base.get("scratch"),
        metrics=names,
        score_rows=score_rows(facts.metrics, names),
        trained=_trained(facts),
        auto_class=_head(facts.architecture)[1],
        test_count=(facts.metrics.get("test") or {}).get("count"),
        unknown_licences=[whose for whose, licence in licences.items() if str(licence or "unknown") == "unknown"],
    )
    return rendered.strip() + "\n"


def _trained(facts: Facts) -> list[tuple[str, Any]]:
    """What is known of the training; None where a fact is missing."""
    known = [(label(name), facts.training.get(name)) for name in TRAINED]
    known += [(label(name), facts.params["training"].get(name)) for name in SET]
    where = [("threads", facts.training.get("threads")), ("device", facts.training.get("device"))]
    return [*known, ("precision", precision(facts)), *where]


def _interval(score: dict[str, Any]) -> str:
    if score["value"] is None or score["low"] is None or score["high"] is None:
        return points(score["value"])
    return f"{points(score['value'])} ({score['low']:.1f} to {score['high']:.1f})"
