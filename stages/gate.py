"""Judge what a stage wrote, and open the door to the next stage or keep it shut.

python -m stages.gate cleaning sample-qa
"""

import sys

from trainwright.core import process
from trainwright.core.layout import STAGES
from trainwright.gates import runner


def main(run: process.Run) -> None:
    verdict = runner.run(run.layout, run.params, sys.argv[-2])
    print(f"{verdict.gate} gate: {len(verdict.judged)} promises held", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in STAGES:
        print(f"usage: python -m stages.gate {{{','.join(STAGES)}}} PIPELINE", file=sys.stderr)
        sys.exit(2)
    process.stage(f"{sys.argv[1]}_gate", main)
