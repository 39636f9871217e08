"""What a pipeline costs that has nothing to do: `dvc repro`, `trainwright run`, and `make run` after its set-up.

    python -m benchmarks.idle --clone               # brings sample-qa about in a throw-away clone first: minutes
    python -m benchmarks.idle --project FOLDER      # a project whose pipeline has run
    python -m benchmarks.idle --clone --make        # also times `make run` itself; sets up .venv before: downloads

Each is timed three times where it has nothing to do, and the best is taken. `make run` is timed once, over the
real pipeline, after its set-up.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
TIMES = 3
DVC_LIMIT, RUN_LIMIT, MAKE_LIMIT = 2.0, 12.0, 480.0  # seconds


def timed(command: list[str], folder: Path) -> tuple[float, str]:
    """Wall seconds of a command that must succeed, and what it said."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    environment["DVC_SITE_CACHE_DIR"] = str(folder / ".trainwright" / "dvc")
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return seconds, done.stdout


def idle(command: list[str], folder: Path, proof: str) -> float:
    """The best of TIMES calls, each of which must say `proof`, or it had something to do."""
    calls = [timed(command, folder) for _ in range(TIMES)]
    for _, said in calls:
        if proof not in said:
            raise SystemExit(f"{' '.join(command)} had something to do; run the pipeline first:\n{said}")
    return min(seconds for seconds, _ in calls)


def told(what: str, seconds: float, limit: float) -> None:
    verdict = "within" if seconds < limit else "OVER"
    print(f"{what}: {seconds:.1f} s, {verdict} the limit of {limit:g} s ({seconds / limit:.2f} of it)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--clone", action="store_true", help="clone this repository and bring the pipeline about there")
    where.add_argument("--project", type=Path, help="a project whose pipeline has run")
    parser.add_argument("--pipeline", default="sample-qa")
    parser.add_argument("--make", action="store_true", help="with --clone: time `make run` as well")
    arguments = parser.parse_args()
    if arguments.make and not arguments.clone:
        parser.error("--make runs the whole pipeline, and needs --clone")
    folder = Path(tempfile.mkdtemp(prefix="trainwright-idle-")) if arguments.clone else arguments.project.resolve()
    try:
        if arguments.clone:
            timed(["git", "clone", "--quiet", str(ROOT), str(folder)], ROOT)
        if arguments.make:
            timed(["make", "setup"], folder)
            told("make run, after its set-up", timed(["make", "run"], folder)[0], MAKE_LIMIT)
        run = [sys.executable, "-m", "flows.cli", "run", arguments.pipeline]
        if arguments.clone and not arguments.make:
            timed(run, folder)
        repro = [sys.executable, "-m", "dvc", "repro", f"report_gate@{arguments.pipeline}"]
        told("dvc repro with nothing to do", idle(repro, folder, "up to date"), DVC_LIMIT)
        told("trainwright run with nothing to do", idle(run, folder, "Skipped, nothing has changed"), RUN_LIMIT)
    finally:
        if arguments.clone:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
