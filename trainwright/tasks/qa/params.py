"""The sections of params.yaml that are question answering's own."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

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
    """Lengths in tokens; neighbouring windows of one context share `stride` tokens of it."""

    max_length: POSITIVE = 384  # most tokens of an input, special ones included
    stride: NATURAL = 128

    @model_validator(mode="after")
    def _stride_fits(self) -> "Tokenization":
        if self.stride >= self.max_length:
            raise ValueError("stride must be smaller than max_length")
        return self


class Postprocessing(Section):
    """`max_answer_length` in tokens, as in the well-known scripts; `null_threshold: tune` sets the
    no-answer threshold on the validation split, a number fixes it."""

    n_best: POSITIVE = 20  # how many candidates of each row are kept
    max_answer_length: POSITIVE = 30
    null_threshold: Literal["tune"] | float = "tune"
    bootstrap: POSITIVE = 1000  # draws of the bootstrap of the scores' intervals
    seed: NATURAL = 7  # seed of the bootstrap


class IngestionGate(Section):
    min_rows: POSITIVE = 2  # fewest rows that the source must have
    max_question_characters: POSITIVE = 2_000  # longest question
    max_context_characters: POSITIVE = 200_000  # longest context
    min_unanswerable_share: SHARE = 0.0  # least share of questions without an answer
    max_unanswerable_share: SHARE = 0.9  # largest share of questions without an answer


class TokenizationGate(Section):
    max_impossible_share: SHARE = 0.1  # the largest share of answers longer than postprocessing.max_answer_length
    max_misaligned_share: SHARE = 0.005  # the largest share of rows whose tokens and characters do not match
    max_truncated_share: SHARE = 0.1  # the largest share of rows that a length limit cuts


class PostprocessingGate(Section):
    max_empty_share: Annotated[float, Field(ge=0, lt=1)] = 0.95  # the largest share of empty predictions


class ReportGate(Section):
    """Floors: the published scores must reach them, in points of 100."""

    min_exact: float = 0.0  # least exact match on test, in points
    min_f1: float = 0.0  # least F1 on test, in points


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


SECTIONS = {"tokenization": Tokenization, "postprocessing": Postprocessing, "gates": Gates}
