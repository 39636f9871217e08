"""Score the answers of `trainwright predict` against a SQuAD file's answerable questions.

    trainwright predict MODEL FILE.json answers.json
    python -m benchmarks.squad --data FILE.json --answers answers.json

Prints exact match and F1 with their 95% intervals by context.
"""

import argparse
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from trainwright import sources
from trainwright.core.params import Source
from trainwright.tasks.qa import rows, scores
from trainwright.tasks.qa.params import Postprocessing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--answers", type=Path, required=True)
    arguments = parser.parse_args()
    source = Source(uri=str(arguments.data.resolve()), format="squad")
    table, faults = rows.from_source(sources.read(source, Path.cwd(), rows.COLUMNS), source.uri)
    answerable = table.filter(pc.greater(pc.list_value_length(table["answer_text"]), 0))
    answers = json.loads(arguments.answers.read_text(encoding="utf-8"))
    given = pa.chunked_array([pa.array([answers.get(i, "") for i in answerable["id"].to_pylist()], pa.string())])
    predictions = pa.table({"id": answerable["id"], "prediction": given})
    found = scores.scores(answerable, predictions, Postprocessing(), "en")
    golds = pc.mean(pc.list_value_length(answerable["answer_text"])).as_py()
    print(f"{answerable.num_rows:,} answerable questions, {golds:.1f} gold answers each, {len(faults)} bad rows")
    for name in ("exact", "f1"):
        score = found[name]
        print(f"{name:6} {score['value']:.2f} ({score['low']:.2f} to {score['high']:.2f})")


if __name__ == "__main__":
    main()
