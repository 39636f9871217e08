"""The sections of params.yaml that named entity recognition has for its own."""

from typing import Annotated

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
    """Lengths in tokens; neighbouring windows of one text share `stride` tokens of it."""

    max_length: POSITIVE = 256  # most tokens of an input, special ones included
    stride: NATURAL = 64

    @model_validator(mode="after")
    def _stride_fits(self) -> "Tokenization":
        if self.stride >= self.max_length:
            raise ValueError("stride must be smaller than max_length")
        return self


class Postprocessing(Section):
    """`bootstrap` is how often groups are drawn for an interval."""

    bootstrap: POSITIVE = 1000
    seed: NATURAL = 7  # seed of the bootstrap


class IngestionGate(Section):
    min_rows: POSITIVE = 2  # fewest rows that the source must have
    min_entities: POSITIVE = 1  # fewest entities that the source must have
    max_text_characters: POSITIVE = 200_000  # longest text
    max_labels: POSITIVE = 100  # most different labels


class TokenizationGate(Section):
    """A row is misaligned where an entity begins or ends within a word, or has a label that no training row has."""

    max_misaligned_share: SHARE = 0.01  # the largest share of rows whose tokens and characters do not match


class PostprocessingGate(Section):
    """The predicted entities may be so many times as many as the gold ones, at most."""

    max_entities_ratio: Annotated[float, Field(gt=0)] = 20.0  # most predicted entities for one true entity


class ReportGate(Section):
    """Floors: the published scores must reach them, in points of 100."""

    min_f1: float = 0.0  # least F1 on test, in points
    min_macro_f1: float = 0.0  # least macro F1 on test, in points


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
