"""Judge what a stage wrote, and open the door to the next stage or keep it shut.

python -m stages.gate cleaning sample-qa
python -m stages.gate every sample-qa      # all of them once more, writing nothing: what a publication wants to know
"""

import sys

from trainwright.core import process
from trainwright.core.layout import STAGES
from trainwright.gates import runner

EVERY = "every"


def main(run: process.Run) -> None:
    if sys.argv[-2] == EVERY:
        held = sum(len(verdict.judged) for verdict in runner.again(run.layout, run.params))
        process.say(f"every gate ran again: {held} promises held")
        return
    verdict = runner.run(run.layout, run.params, sys.argv[-2])
    process.say(f"{verdict.gate} gate: {len(verdict.judged)} promises held")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in (*STAGES, EVERY):
        print(f"usage: python -m stages.gate {{{','.join((*STAGES, EVERY))}}} PIPELINE", file=sys.stderr)
        sys.exit(2)
    process.stage(f"{sys.argv[1]}_gate", main)
