"""The sections of params.yaml that are masked language modelling's own."""

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


class Tokenization(Section):
    """`max_length` counts tokens, special ones too; longer documents become consecutive windows.

    `mask_share` of a window's words are chosen to be predicted: BERT's 15% (Devlin et al., 2019); Wettig et al. (2023)
    found 40% to serve larger models better. `seed` sets which.
    """

    max_length: POSITIVE = 128
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    seed: NATURAL = 11


class Postprocessing(Section):
    """`n_best` fillings of each blank are given, of the `evaluation.top` that were kept."""

    n_best: POSITIVE = 5
    bootstrap: POSITIVE = 1000  # draws of the bootstrap of the scores' intervals
    seed: NATURAL = 7  # seed of the bootstrap


class IngestionGate(Section):
    min_rows: POSITIVE = 2  # fewest rows that the source must have
    max_text_characters: POSITIVE = 10_000_000  # longest text


class TokenizationGate(Section):
    """A misaligned document is one of which the tokenizer dropped characters that are not white space."""

    max_misaligned_share: SHARE = 0.05  # the largest share of rows whose tokens and characters do not match


class PostprocessingGate(Section):
    min_blanks: POSITIVE = 1  # fewest blanks that are scored


class ReportGate(Section):
    """Floors: the accuracy of fillings on test in points of 100, and the highest perplexity (null: any)."""

    min_accuracy: float = 0.0  # least accuracy on test, in points
    max_perplexity: Annotated[float, Field(gt=1)] | None = None  # highest perplexity on test; null any


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
