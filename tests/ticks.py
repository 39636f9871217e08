"""Pipelines that retrain in seconds, for tests that need many ticks: three stages each, in a clone with real remotes.

A source says in its first row how many of the test rows the model that it makes gets wrong. A stage writes its output
in two halves and tells a log outside of the checkout when it begins and ends. A tick is `trainwright retrain` of the
command line, in a process of its own that comes from one which has imported everything already.
"""

import hashlib
import json
import multiprocessing
import os
import secrets
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, Toy
from ruamel.yaml import YAML
from test_accepting import RECIPE, results
from test_publication import commit

from flows import git, ledger, registry

STAGES = ("splitting", "evaluation", "postprocessing")
PRELOADED = ["ticks", "flows.retrain", "dvc.repo", "dvc.cli", "trainwright.tasks.multiple_choice.model"]
MAKE = """
import json, os, pathlib, shutil, sys, time
from trainwright.core.layout import digest

stage, name = sys.argv[1:]
sys.excepthook = lambda _, error, __: print(f"{{stage}}: {{error}}", file=sys.stderr)  # as a real stage says it
source = json.loads(pathlib.Path("params.yaml").read_text())["pipelines"][name]["source"]["uri"]
rows = pathlib.Path(source).read_text().splitlines()
step = json.loads(rows[0])["context"]

def log(what):
    with open({log!r}, "a") as file:
        file.write(f"{{what}} {{name}} {{stage}} {{len(rows)}} {{os.getpid()}}\\n")

log("begin")
made = pathlib.Path("made") / stage
folder = pathlib.Path("data") / name / stage
shutil.rmtree(folder, ignore_errors=True)
folder.mkdir(parents=True)
for path in sorted(made.iterdir()):
    path = path / "test.parquet" if path.is_dir() and path.name == step else path
    if path.is_file():
        whole = path.read_bytes()
        with (folder / path.name).open("wb") as file:
            file.write(whole[: len(whole) // 2])
            file.flush()
            time.sleep(0.05)
            file.write(whole[len(whole) // 2 :])
(folder / "rows.txt").write_text("\\n".join(rows))
paper = pathlib.Path("data") / name / "gates" / stage / "certificate.json"
paper.parent.mkdir(parents=True, exist_ok=True)
paper.write_text(json.dumps({{"pipeline": name, "gate": stage, "digest": digest(folder)}}))
log("end")
"""
EVERY = """
import json, pathlib, sys
from trainwright.core.layout import digest
name = sys.argv[2]
for stage in ("splitting", "evaluation", "postprocessing"):
    paper = json.loads(pathlib.Path(f"data/{name}/gates/{stage}/certificate.json").read_text())
    if paper["digest"] != digest(pathlib.Path(f"data/{name}/{stage}")):
        print(f"the {stage} gate did not check these bytes", file=sys.stderr)
        sys.exit(1)
print("every gate ran again: 3 promises held")
"""
STORE = '[core]\n    remote = store\n    no_scm = false\n[remote "store"]\n    url = ../../store\n'
GOOD, WORSE = 5, 2  # every so many-th of the 400 test rows is wrong


class House(Toy):
    """A clone whose pipelines retrain; `clone` has one commit and a Git remote."""

    def __init__(self, clone: Path, names: Sequence[str] = ("one",), **sections: Any) -> None:
        super().__init__(clone)
        self.names, self.log = names, clone.parent / "stages.log"
        for step in (GOOD, WORSE):
            results(clone, set(range(0, 400, step)))
            (clone / "made" / "evaluation" / str(step)).mkdir()
            kept = clone / "made" / "evaluation" / str(step) / "test.parquet"
            (clone / "made" / "evaluation" / "test.parquet").rename(kept)
        stages, before = {}, "data/${key}/source.json"
        for stage in STAGES:
            folder, paper = f"data/${{key}}/{stage}", f"data/${{key}}/gates/{stage}/certificate.json"
            deps = ["make.py", f"made/{stage}", before]
            do = {"cmd": f"python make.py {stage} ${{key}}", "deps": deps, "outs": [folder, paper]}
            stages[stage], before = {"foreach": {name: {} for name in names}, "do": do}, paper
        self.write("dvc.yaml", json.dumps({"stages": stages}))
        self.write("make.py", MAKE.format(log=str(self.log)))
        self.write("stages/__init__.py", "")
        self.write("stages/gate.py", EVERY)
        self.write(".dvc/config", STORE)
        self.write(".dvc/.gitignore", "/config.local\n/tmp\n/cache\n")
        self.write(".gitignore", "/.trainwright/\n/data/*/*/\n!/data/*/published/\n")
        self.params(**sections)
        for name in names:
            self.source(name, 40)
        commit(self)

    def params(self, **sections: Any) -> None:
        """params.yaml of all pipelines, with other sections of the file. A comparison draws less than in earnest."""
        drawn = {"publication": {"draws": 200, "small_test_set": "widen"}}
        sections["operations"] = {name: drawn | sections.get("operations", {}).get(name, {}) for name in self.names}
        recipe = YAML(typ="safe").load(RECIPE.read_text())["copa"]
        scratch = {"family": "bert", "layers": 1, "heads": 1, "width": 8, "tokenizer": "wordpiece"}
        pipelines = {
            name: recipe
            | {"source": {"uri": str(self._source(name)), "format": "jsonl"}, "base_model": {"scratch": scratch}}
            for name in self.names
        }
        self.write("params.yaml", json.dumps({"pipelines": pipelines} | sections))

    def source(self, name: str, rows: int, wrong: int = GOOD) -> None:
        """The source of a pipeline, of which every `wrong`-th test row will be wrong; Git does not know it."""
        row = {"context": str(wrong), "question": "?", "choices": ["a", "b"], "answer": 0}
        lines = [json.dumps({"id": f"s{n}", **row}) + "\n" for n in range(rows)]
        self._source(name).write_text("".join(lines))

    def _source(self, name: str) -> Path:
        return self.root.parent / f"{name}.jsonl"

    def told(self) -> list[tuple[str, ...]]:
        """What the stages' processes have told: begin or end, pipeline, stage, rows, process id."""
        return [tuple(line.split()) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def versions(self, name: str = "one") -> list[str]:
        registry.fetch(self.root, name)
        return [version.version for version in registry.versions(self.root, name)]

    def decisions(self, name: str = "one") -> list[dict[str, Any]]:
        """Newest first."""
        ledger.sync(self.root)
        return ledger.entries(self.root, name, 1000)

    def objects(self, version: str, name: str = "one") -> dict[str, bytes]:
        """The files of a version's outputs, by path, as they are on the DVC remote: each the bytes of its name."""
        found: dict[str, bytes] = {}
        lock = YAML(typ="safe").load((git.read(self.root, f"{name}@{version}", "dvc.lock") or b"").decode())
        for out in (out for stage in STAGES for out in lock["stages"][f"{stage}@{name}"]["outs"]):
            content = self._object(out["md5"])
            if out["md5"].endswith(".dir"):
                found |= {f"{out['path']}/{file['relpath']}": self._object(file["md5"]) for file in json.loads(content)}
            else:
                found[out["path"]] = content
        return found

    def _object(self, md5: str) -> bytes:
        content = (self.root.parent / "store" / "files" / "md5" / md5[:2] / md5[2:]).read_bytes()
        assert hashlib.md5(content).hexdigest() == md5.removesuffix(".dir")
        return content

    def whole(self, version: str, rows: int, name: str = "one", wrong: int = GOOD) -> None:
        """Assert that what a version has on the remote is what its stages make of a source of so many rows."""
        objects = self.objects(version, name)
        for stage in STAGES:
            folder = f"data/{name}/{stage}"
            made = {path.name: path for path in (self.root / "made" / stage).iterdir() if path.is_file()}
            made |= {path.name: path for path in (self.root / "made" / stage).glob(f"{wrong}/*")}
            for file, path in made.items():
                assert objects[f"{folder}/{file}"] == path.read_bytes(), f"{version}: {folder}/{file}"
            assert len(objects[f"{folder}/rows.txt"].splitlines()) == rows

    def refs(self) -> str:
        """What of the remote a reader of versions sees."""
        return git.git(self.root, "ls-remote", "origin", "refs/heads/published", "refs/tags/*")


class Tick:
    """A retrain that has been started, in a process of its own, whose clock is some hours off."""

    def __init__(self, house: House, *arguments: str, name: str = "one", hours: int = 0) -> None:
        self._said = house.root.parent / f"tick-{secrets.token_hex(4)}.txt"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        own = {**os.environ, "PYTHONPATH": str(ROOT)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{Path(__file__).parent}")  # of the process that preloads
            self.process = context.Process(target=_retrain, args=(house.root, self._said, own, hours, name, *arguments))
            self.process.start()

    @property
    def said(self) -> str:
        return self._said.read_text() if self._said.exists() else ""

    def end(self) -> tuple[int, str]:
        """Its exit code, below zero for a signal's, and its words, once it has ended."""
        self.process.join(300)
        assert self.process.exitcode is not None, self.said
        return self.process.exitcode, self.said

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def dvc(self) -> list[psutil.Process]:
        """The dvc processes that it runs just now."""
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
            return [child for child in children if "flows.dvc_process" in child.cmdline()]
        return []


def _retrain(root: Path, said: Path, environment: dict[str, str], hours: int, *arguments: str) -> None:
    from flows import cli, retrain
    from trainwright.core import process

    process.die_with_parent()  # which ends with the tests

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(hours=hours)

    os.environ.clear()
    os.environ.update(environment)
    if hours:
        ledger.datetime = retrain.datetime = Clock  # type: ignore[misc]
        os.environ["GIT_COMMITTER_DATE"] = os.environ["GIT_AUTHOR_DATE"] = f"@{int(Clock.now().timestamp())} +0000"
    os.chdir(root)
    with said.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(cli.main(["retrain", *arguments]))
