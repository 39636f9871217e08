"""The sections of params.yaml that are text to text's own."""

from typing import Annotated

from pydantic import Field

from trainwright.core import params
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


class Tokenization(Section):
    """Lengths in tokens, special ones included, of what goes into the encoder and the decoder.

    `noise_density` is the share of a text's tokens that span corruption drops, `mean_span` how many of them lie
    together on average; the values are those of T5 (Raffel et al., 2020, section 3.1.4). Rows with a target have
    no use for them.
    """

    max_source_length: Annotated[int, Field(ge=8)] = 512  # most tokens that go into the encoder
    max_target_length: Annotated[int, Field(ge=8)] = 128  # most tokens of a target
    noise_density: Annotated[float, Field(gt=0, lt=1)] = 0.15
    mean_span: Annotated[float, Field(ge=1)] = 3.0


class Evaluation(params.Evaluation):
    """How texts are generated: by beam search (greedily with one beam), at most `max_new_tokens` long."""

    beams: POSITIVE = 1  # beams of the search; 1 is greedy
    max_new_tokens: POSITIVE = 64


class Postprocessing(Section):
    bootstrap: POSITIVE = 1000  # draws of the bootstrap of the scores' intervals
    seed: NATURAL = 7  # seed of the bootstrap


class IngestionGate(Section):
    min_rows: POSITIVE = 2  # fewest rows that the source must have
    max_source_characters: POSITIVE = 200_000  # longest source
    max_target_characters: POSITIVE = 20_000  # longest target


class TokenizationGate(Section):
    """Shares of all rows that a length limit cut, and of all target tokens that the tokenizer does not know."""

    max_truncated_share: SHARE = 0.1  # the largest share of rows that a length limit cuts
    max_unknown_share: SHARE = 0.01  # the largest share of target tokens that the tokenizer does not know


class PostprocessingGate(Section):
    max_empty_share: Annotated[float, Field(ge=0, lt=1)] = 0.95  # the largest share of empty predictions


class ReportGate(Section):
    """Floors: the published scores must reach them, in points of 100. `min_margin` counts nats a token: by how much
    the model must beat the frequencies of the train split's target tokens."""

    min_exact: float = 0.0  # least exact match on test, in points
    min_f1: float = 0.0  # least F1 on test, in points
    min_rouge_l: float = 0.0  # least ROUGE-L on test, in points
    min_chrf: float = 0.0  # least chrF on test, in points
    min_margin: float = 0.0


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
