"""The sections of params.yaml that are classification's own.

Whether rows have one label, several or a number is not said here: the source says it, by the column that it brings
(`label`, `labels` or `value`; see rows.py).
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from trainwright.core.labels import unshown
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
    """`max_length` in tokens, special ones counted; of a pair the longer text is cut first."""

    max_length: POSITIVE = 256


class Postprocessing(Section):
    """`tune` sets the temperature (one label) and the threshold (several) on the validation split, a number fixes it.

    `bins` are those of the expected calibration error; `n_best` is how many labels of each row nbest.json lists.
    """

    # tune, or a fixed temperature of the probabilities
    temperature: Literal["tune"] | Annotated[float, Field(gt=0)] = "tune"
    # tune, or a fixed threshold from which a label is given
    threshold: Literal["tune"] | Annotated[float, Field(gt=0, lt=1)] = "tune"
    n_best: POSITIVE = 5
    bins: POSITIVE = 15
    bootstrap: POSITIVE = 1000  # draws of the bootstrap of the scores' intervals
    seed: NATURAL = 7  # seed of the bootstrap


class IngestionGate(Section):
    """`labels` are those allowed (without them, any); `max_label_share` is that of the most frequent label."""

    min_rows: POSITIVE = 2  # fewest rows that the source must have
    max_text_characters: POSITIVE = 200_000  # longest text
    labels: list[str] | None = None
    max_label_share: SHARE = 0.99

    @field_validator("labels")
    @classmethod
    def _labels_can_be_shown(cls, labels: list[str] | None) -> list[str] | None:
        if reason := next(filter(None, map(unshown, labels or [])), None):
            raise ValueError(reason)
        return labels


class TokenizationGate(Section):
    max_truncated_share: SHARE = 0.1  # the largest share of rows that a length limit cuts


class PostprocessingGate(Section):
    """`max_predicted_share`: more of the test rows with the same prediction than this is a model that has collapsed."""

    max_predicted_share: SHARE = 0.99


class ReportGate(Section):
    """Floors: the published scores must reach those that are given, in points of 100."""

    min_accuracy: float | None = None  # least accuracy on test, in points
    min_macro_f1: float | None = None  # least macro F1 on test, in points
    min_micro_f1: float | None = None  # least micro F1 on test, in points
    min_mcc: float | None = None  # least Matthews correlation on test, in points
    min_pearson: float | None = None  # least Pearson correlation on test, in points
    min_spearman: float | None = None  # least Spearman correlation on test, in points


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
