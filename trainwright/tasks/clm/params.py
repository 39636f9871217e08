"""The sections of params.yaml that are causal language modelling's own."""

from typing import Annotated

from pydantic import Field

from trainwright.core.params import (
    NATURAL,
    POSITIVE,
    SHARE,
    AugmentationGate,
    CleaningGate,
    EvaluationGate,
    Section,
    SplittingGate,
    TrainingGate,
)
from trainwright.core.params import Evaluation as Shared


class Tokenization(Section):
    """`block` is the length of a block in tokens, which documents share; `beginning` is how many tokens of a held-out
    text the model is given to go on from."""

    block: Annotated[int, Field(gt=1)] = 256
    beginning: POSITIVE = 16


class Evaluation(Shared):
    """`new_tokens` are written after each beginning, the most likely ones where `temperature` is 0, else drawn."""

    new_tokens: POSITIVE = 24
    temperature: Annotated[float, Field(ge=0)] = 0.0
    seed: NATURAL = 5  # seed of drawn tokens


class Postprocessing(Section):
    bootstrap: POSITIVE = 1000  # draws of the bootstrap of the scores' intervals
    seed: NATURAL = 7  # seed of the bootstrap


class IngestionGate(Section):
    min_rows: POSITIVE = 2  # fewest rows that the source must have
    max_text_characters: POSITIVE = 10_000_000  # longest text


class TokenizationGate(Section):
    """A misaligned text is one of which tokens do not stand for every character but white space at its end."""

    max_misaligned_share: SHARE = 0.05  # the largest share of rows whose tokens and characters do not match


class PostprocessingGate(Section):
    max_empty_share: SHARE = 0.5  # the largest share of empty predictions


class ReportGate(Section):
    """The ceiling of nats per character on test (null: any)."""

    # highest loss on test in nats per character; null any
    max_nats_per_character: Annotated[float, Field(gt=0)] | None = None


class Gates(Section):
    """One section a gate, each named as the stage whose output it checks."""

    ingestion: IngestionGate
    cleaning: CleaningGate
    augmentation: AugmentationGate
    splitting: SplittingGate
    tokenization: TokenizationGate
    training: TrainingGate
    evaluation: EvaluationGate
    postprocessing: PostprocessingGate
    report: ReportGate


SECTIONS = {"tokenization": Tokenization, "evaluation": Evaluation, "postprocessing": Postprocessing, "gates": Gates}
