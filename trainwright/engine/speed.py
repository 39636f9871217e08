"""How fast a pipeline's trained model answers, and in how much memory: `python -m trainwright.engine.speed NAME`.

Runs in a process of its own, whose peak of resident memory is then the model's and that of the libraries it needs.
Prints one JSON object: {"examples": n, "seconds": s, "peak_bytes": b}.
"""

import json
import resource
import sys
import time
from pathlib import Path

from trainwright.core import params, tasks
from trainwright.core.layout import Layout

EXAMPLES = 256


def measure(layout: Layout, pipeline: params.Pipeline) -> dict[str, float]:
    """Seconds for raw outputs of the first EXAMPLES features of test, after a run over a few to warm up."""
    import transformers

    from trainwright.engine import adapters, base_model
    from trainwright.engine.batching import FeatureTable
    from trainwright.engine.prediction import raw_outputs, resolve_precision

    part, features = tasks.load(pipeline.task, "model"), layout.stage("tokenization")
    tokenizer = transformers.AutoTokenizer.from_pretrained(features / "tokenizer", local_files_only=True)
    folder = layout.stage("training") / "model"
    model = adapters.load_trained(part.AUTO_CLASS, folder, lambda: base_model.resolve(layout, pipeline))
    everything = FeatureTable.open(features / "test.arrow")
    table = FeatureTable(everything.take(range(min(EXAMPLES, len(everything)))))
    few = FeatureTable(everything.take(range(min(4, len(everything)))))
    precision = resolve_precision(pipeline.training.precision)
    raw_outputs(model, part, few, tokenizer, pipeline.evaluation, precision)
    started = time.perf_counter()
    raw_outputs(model, part, table, tokenizer, pipeline.evaluation, precision)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes
    return {"examples": len(table), "seconds": seconds, "peak_bytes": peak}


if __name__ == "__main__":
    here = Layout(Path.cwd(), sys.argv[1])
    print(json.dumps(measure(here, params.load(here.params).pipeline(here.pipeline))))
