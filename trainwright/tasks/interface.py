"""The signatures of a task's parts: what stages may ask of any task, and all that they ask.

Tables are Arrow. A row table has the columns `id`, `group` (rows of one group stay in one split), `split`
(declared by the source, else null), `parent` (the row that an augmented row was made from, else null) and
the task's own; see `trainwright/rows/tables.py`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from trainwright.core.errors import Fault
from trainwright.rows.columns import Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainwright.gates.promises import Checked, Promise
    from trainwright.scoring.constant import Constant
    from trainwright.scoring.intervals import Score


class Rows(Protocol):
    SCHEMA: pa.Schema
    TEXTS: tuple[Text, ...]
    IDENTITY: tuple[str, ...]  # the columns whose equality makes two rows duplicates
    MAIN: tuple[str, ...]  # of the main text, which no two splits share: the first of these columns that is not blank
    GROUP: str  # the column of a source that names the group of a row
    QUESTIONS: tuple[str, ...]  # the text columns without spans that paraphrase rules may rewrite
    COLUMNS: Mapping[str, tuple[pa.DataType, ...]]  # the columns that a source may bring, each with its possible types
    GOLD: tuple[str, ...]  # those of them that say what is right: not read where rows are to be predicted

    def from_source(self, table: pa.Table, file: str, answered: bool = True) -> tuple[pa.Table, list[Fault]]:
        """Rows of SCHEMA from a source's table (`trainwright/sources`), and a Fault for each row that is left out.

        After the columns of SCHEMA comes the source's `place`: the source location travels with each row, in whatever
        order a task puts them. Ingestion takes it off and keeps it beside the rows.
        With `answered=False` the rows are to be predicted: no gold is wanted, and the table has none.
        """

    def stratum(self, rows: pa.Table) -> pa.Array:
        """A string for each row: what splitting keeps in proportion."""


class Features(Protocol):
    SCHEMA: pa.Schema  # has `row` (int32, index into the split's rows) and `input_ids` (list<int32>)

    def learn(self, train: Iterable[pa.Table], tokenizer: Any, params: Any) -> dict[str, Any]:
        """What the whole train split (its rows, piece by piece) must tell before any row becomes features, as JSON
        values; it travels with the model. {} where there is nothing, the labels where rows have some.
        """

    def check_tokenizer(self, tokenizer: Any, params: Any) -> None:
        """Raises InputError where the tokenizer cannot serve the task."""

    def features(
        self, rows: pa.Table, tokenizer: Any, params: Any, file: str, learned: Mapping[str, Any]
    ) -> tuple[pa.Table, list[Fault]]:
        """Features of some rows (`row` counts from 0 within `rows`), and a Fault for each row that has none.

        Rows that are to be predicted have no gold: their features have labels that mean nothing.
        """

    def misaligned(self, rows: pa.Table, windows: pa.Table) -> pa.Array:
        """The ids of the rows whose labels, read back through their features, are not exactly what the row says."""


class Model(Protocol):
    AUTO_CLASS: str  # the name of the transformers class
    OUTPUTS: pa.Schema  # of raw outputs; has `row`, as features have

    def settings(self, learned: Mapping[str, Any]) -> dict[str, Any]:
        """What of the model's configuration the data decide, by transformers' names (id2label, problem_type, …)."""

    def collate(self, features: Sequence[Mapping[str, Any]], tokenizer: Any, labels: bool) -> dict[str, Any]:
        """Tensors of one padded batch.

        A feature is its columns and `draw`, the epoch (0 in evaluation): what is drawn at random is drawn from
        the feature's own content and its draw, so that a resumed run and another batch size draw the same.
        """

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Any:
        """The model's output for a batch, with its loss where the batch has labels."""

    def loss(self, output: Any, batch: Mapping[str, Any]) -> Any:
        """The mean loss of a batch with labels, a tensor: `output.loss` where the model's own is what is meant."""

    def targets(self, output: Any, batch: Mapping[str, Any]) -> list[tuple[Any, Any]]:
        """Pairs of logits (n, classes) and the classes (n) that they should name, each pair weighing the same;
        for label smoothing and distillation. [] where the model predicts no classes.
        """

    def agreement(self, output: Any, batch: Mapping[str, Any]) -> tuple[float, int]:
        """How many of a batch's predictions are right, a quick validation score, and how many there are, which
        is also what the batch's loss weighs."""

    def outputs(
        self, model: Any, output: Any, batch: Mapping[str, Any], features: pa.Table, tokenizer: Any, params: Any
    ) -> pa.Table:
        """Compact raw outputs of one batch, one row a feature, without logits.

        `model` is there to generate with, `tokenizer` to decode what it says; `params` is the evaluation section.
        """


class Predictions(Protocol):
    def tune(self, rows: pa.Table, outputs: pa.Table, params: Any, language: str) -> dict[str, Any]:
        """What is set on the validation split and must travel with the model (the no-answer threshold)."""

    def untuned(self, tuned: dict[str, Any], params: Any) -> dict[str, Any]:
        """What stands in for `tuned` for a model that was never tuned, so that it may stand beside one that was."""

    def predict(self, rows: pa.Table, outputs: pa.Table, params: Any, tuned: dict[str, Any]) -> pa.Table:
        """One row a row of `rows`: its id, the prediction and the best alternatives."""

    def constant(self, train: pa.Table, predictions: pa.Table) -> "Constant | None":
        """Replace each of `predictions` by the one answer that fits most rows of `train`, as the constant baseline.

        Returns None for a task whose scores hold another baseline.
        """

    def write(self, predictions: pa.Table, folder: Path) -> None:
        """predictions.json ({id: prediction}) and the task's further files in their official form.

        nbest.json, where there is one, is {id: [{text or label, probability}]}, best first.
        """


class Scores(Protocol):
    def each(self, rows: pa.Table, predictions: pa.Table, language: str) -> pa.Table:
        """Of every row its `id`, its `prediction` and, as further float columns, its own scores (from 0 to 1, the
        first says whether it is right; none where no row is right or wrong). `confidence` (float, from 0 to 1) and
        `gold` are no scores: how sure the model was, and what is right in the prediction's own form, where the row's
        spans do not say it.

        A prediction may be of any type. The report shows {start, end, label or text} and lists of them as spans
        of the row's text, {label or text, probability} as words with their probability.
        """

    def headline(self, rows: pa.Table, predictions: pa.Table, params: Any, language: str) -> "dict[str, Score]":
        """Each headline score, the first the main one: what each row adds to it, and the statistic of the sums."""

    def drawn(self, rows: pa.Table) -> "NDArray[np.int64]":
        """Of each row the number, from 0, of the group that intervals draw it with."""

    def scores(self, rows: pa.Table, predictions: pa.Table, params: Any, language: str) -> dict[str, Any]:
        """Scores with 95% intervals, tables by class and slices, in the forms of `trainwright/scoring/wording.py`:
        in points of 100 unless they carry a unit; None where one is undefined."""


class Promises(Protocol):
    """One function a gate, named as the stage it follows: `def cleaning(checked, limits) -> Iterator[Promise]`."""

    def __call__(self, checked: "Checked", limits: Any) -> "Iterator[Promise]": ...
