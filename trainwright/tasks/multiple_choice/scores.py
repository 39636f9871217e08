"""How predictions are scored: accuracy in points of 100, with a 95% interval, what guessing would give, and slices."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainwright.rows import spans
from trainwright.scoring.intervals import Score, mean, means, measured
from trainwright.tasks.multiple_choice.params import Postprocessing

QUESTIONS = 10  # where there are no more different questions ("cause", "effect"), each is a slice
CONTEXT_LENGTHS = ((0, "none"), (99, "under 100"), (499, "100 to 499"), (1999, "500 to 1999"), (None, "2000 or more"))


def each(rows: pa.Table, predictions: pa.Table, language: str) -> pa.Table:  # noqa: ARG001
    """Of every row its id, whether it is right (`accuracy`, 0 or 1), the prediction, its confidence and what is right.

    A row without a prediction is wrong. Raises ValueError where `predictions` do not run parallel to `rows`.
    """
    if not rows["id"].equals(predictions["id"]):
        raise ValueError("predictions are not for these rows in this order")
    prediction = predictions["prediction"].combine_chunks()
    right = pc.equal(pc.struct_field(prediction, "choice"), rows["answer"]).fill_null(False).cast(pa.float64())
    choices, answer = rows["choices"].combine_chunks(), rows["answer"].to_numpy()
    known = answer >= 0
    at = pa.array(choices.offsets.to_numpy()[:-1] + answer, mask=~known)
    gold = pa.StructArray.from_arrays([rows["answer"].combine_chunks(), choices.values.take(at)], ["choice", "text"])
    return pa.table(
        {
            "id": rows["id"],
            "accuracy": right,
            "prediction": prediction,
            "confidence": pc.struct_field(prediction, "probability"),
            "gold": gold,
        }
    )


def headline(rows: pa.Table, predictions: pa.Table, params: Postprocessing, language: str) -> dict[str, Score]:  # noqa: ARG001
    """Accuracy: the mean over the rows."""
    return {"accuracy": Score(means(each(rows, predictions, language)["accuracy"].to_numpy()), mean)}


def drawn(rows: pa.Table) -> NDArray[np.int64]:
    """Groups are drawn, each with all its rows."""
    return spans.distinct(rows["group"])[0]


def scores(rows: pa.Table, predictions: pa.Table, params: Postprocessing, language: str) -> dict[str, Any]:
    """count; accuracy, its interval over groups of rows; chance, the accuracy of a blind guess; slices."""
    found = headline(rows, predictions, params, language)
    right = found["accuracy"].sums[:, 0]
    counts = pc.list_value_length(rows["choices"]).to_numpy()
    return {
        "count": rows.num_rows,
        **measured(found, drawn(rows), params.bootstrap, params.seed),
        "chance": round(float(100 * (1 / counts).mean()), 4) if len(counts) else None,
        "slices": _slices(rows, right, counts),
    }


def _slices(rows: pa.Table, right: NDArray[np.float64], counts: NDArray[Any]) -> list[dict[str, Any]]:
    place = rows["answer"].to_numpy() + 1
    lengths = pc.utf8_length(rows["context"]).to_numpy()
    names = np.array([name for _, name in CONTEXT_LENGTHS], dtype=object)
    bucket = names[np.searchsorted([most for most, _ in CONTEXT_LENGTHS if most is not None], lengths)]
    kinds: list[tuple[str, NDArray[Any], list[Any]]] = [
        ("place of the right choice", place, sorted(set(place.tolist()))),
        ("number of choices", counts, sorted(set(counts.tolist()))),
        ("context length in characters", bucket, names.tolist()),
    ]
    asked = pc.dictionary_encode(rows["question"].combine_chunks())
    if 1 < len(asked.dictionary) <= QUESTIONS:
        kinds.append(("question", asked.to_numpy(zero_copy_only=False), sorted(asked.dictionary.to_pylist())))
    found = []
    for by, values, order in kinds:
        for value in order:
            chosen = right[values == value]
            if len(chosen):
                accuracy = round(100 * float(chosen.mean()), 4)
                found.append({"by": by, "value": str(value), "count": len(chosen), "accuracy": accuracy})
    return found
