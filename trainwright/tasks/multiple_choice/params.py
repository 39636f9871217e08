"""The sections of params.yaml that are multiple choice's own."""

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
    """`max_length` in tokens, of a context with its question and one choice; a context that is longer is cut."""

    max_length: POSITIVE = 256


class Postprocessing(Section):
    bootstrap: POSITIVE = 1000  # draws of the bootstrap of the scores' intervals
    seed: NATURAL = 7  # seed of the bootstrap


class IngestionGate(Section):
    """`max_answer_share`: no place among the choices may be right more often, or a model could learn the place."""

    min_rows: POSITIVE = 2  # fewest rows that the source must have
    max_choice_characters: POSITIVE = 5_000  # longest choice
    max_context_characters: POSITIVE = 200_000  # longest context
    max_answer_share: SHARE = 0.9


class TokenizationGate(Section):
    """Shares of all rows: those of which the context was cut, and those with two choices of the same tokens."""

    max_truncated_share: SHARE = 0.1  # the largest share of rows that a length limit cuts
    max_indistinct_share: SHARE = 0.01  # the largest share of rows with two choices of the same tokens


class PostprocessingGate(Section):
    """`max_choice_share`: predictions may not fall nearly all on one place among the choices."""

    max_choice_share: SHARE = 0.98


class ReportGate(Section):
    """Floors: the published scores must reach them, in points of 100."""

    min_accuracy: float = 0.0  # least accuracy on test, in points


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
