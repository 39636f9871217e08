"""The house holds to its design: imports go one way, one word names one thing, DVC sees every module."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from trainwright.core import tasks
from trainwright.core.layout import STAGES
from trainwright.core.params import Pipeline
from trainwright.tasks import interface

ROOT = Path(__file__).parent.parent
GRAPH = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
TASK = "${item.task}"


def module_file(name: str) -> str | None:
    """The repository's file of a module, or None for one of another distribution."""
    path = name.replace(".", "/")
    for candidate in (f"{path}.py", f"{path}/__init__.py"):
        if (ROOT / candidate).is_file():
            return candidate
    return None


@functools.cache
def imports(file: str) -> set[str]:
    """The repository's files that `file` imports anywhere in it, lazily too, and its packages' __init__ files."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "tasks.load":
            part = node.args[1]
            assert isinstance(part, ast.Constant), f"{file}: the part of a task must be a literal"
            names = [f"trainwright.tasks.{task}.{part.value}" for task in tasks.names()]
        for name in names:
            parents = [name.rsplit(".", n)[0] for n in range(name.count(".") + 1)]
            found |= {path for parent in parents if (path := module_file(parent)) and does_something(path)}
    return found


@functools.cache
def does_something(file: str) -> bool:
    """Whether there is more in a file than a docstring, so that what imports it depends on it."""
    return bool(ast.parse((ROOT / file).read_text()).body[1:])


@functools.cache
def type_checking_only(file: str) -> set[str]:
    """Files imported under `if TYPE_CHECKING:` alone are never run."""
    tree = ast.parse((ROOT / file).read_text())
    guarded = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    inside = {n for block in guarded for n in ast.walk(block) if isinstance(n, ast.ImportFrom)}
    run = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n not in inside}
    return {path for n in inside if n.module and n.module not in run and (path := module_file(n.module))}


@functools.cache
def closure(file: str) -> set[str]:
    """Every file of the repository that running `file` can run, itself included."""
    seen: set[str] = set()
    todo = [file]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo += imports(current) - type_checking_only(current)
    return seen


def as_dep(file: str) -> str:
    return re.sub(r"^trainwright/tasks/[a-z0-9_]+/", f"trainwright/tasks/{TASK}/", file)


def test_the_core_is_what_every_stage_imports_and_nothing_else():
    core = {f"trainwright/core/{path.name}" for path in (ROOT / "trainwright" / "core").glob("*.py")}
    core = {file for file in core if does_something(file)}
    used_by_all = set.intersection(*(closure(code_of(stage)) for stage in GRAPH))
    assert core == {file for file in used_by_all if not file.startswith("trainwright/tasks/")}


def covered(file: str, deps: list[str]) -> bool:
    return any(file == dep or file.startswith(f"{dep}/") for dep in deps)


def code_of(stage: str) -> str:
    module = re.search(r"python -m stages[.](\w+)", GRAPH[stage]["do"]["cmd"])
    assert module, stage
    return f"stages/{module[1]}.py"


@pytest.mark.parametrize("stage", GRAPH)
def test_every_module_that_a_stage_imports_is_among_its_deps(stage):
    deps = GRAPH[stage]["do"]["deps"]
    missing = sorted(f for f in map(as_dep, closure(code_of(stage))) if not covered(f, deps))
    assert not missing, f"{stage} lacks deps: {missing}"


@pytest.mark.parametrize("stage", GRAPH)
def test_a_stage_depends_on_no_module_that_it_does_not_import(stage):
    used = {as_dep(file) for file in closure(code_of(stage))}
    code = [d for d in GRAPH[stage]["do"]["deps"] if d.startswith(("trainwright/", "stages/"))]
    unused = [dep for dep in code if not any(covered(file, [dep]) for file in used) and Path(dep).suffix == ".py"]
    assert not unused, f"{stage} would rerun for nothing after a change of {unused}"


def test_one_word_names_the_file_the_function_the_section_and_the_dvc_stage():
    for stage in STAGES:
        assert (ROOT / "stages" / f"{stage}.py").is_file()
        assert stage in GRAPH
        assert stage in Pipeline.model_fields
        assert f'process.stage("{stage}", main)' in (ROOT / "stages" / f"{stage}.py").read_text()


def test_a_gate_follows_every_stage_and_every_stage_waits_for_the_gates_of_its_inputs():
    for stage in STAGES:
        gate = GRAPH[f"{stage}_gate"]["do"]
        assert f"stages.gate {stage} " in gate["cmd"]
        assert f"data/${{key}}/{stage}" in gate["deps"]
    for name, stage in GRAPH.items():
        inputs = re.findall(r"data/\$\{key\}/(\w+)(?:/|$)", "\n".join(stage["do"]["deps"]), re.M)
        for data in {i for i in inputs if i in STAGES and i != name.removesuffix("_gate")}:
            certificate = f"data/${{key}}/gates/{data}/certificate.json"
            assert certificate in stage["do"]["deps"], f"{name} reads {data} without its certificate"


def test_no_stage_depends_on_how_stages_are_run():
    for stage in GRAPH.values():
        assert not [p for p in stage["do"].get("params", []) if p.startswith(("operations", "dispatch"))]


def test_commands_hold_nothing_of_params_not_even_a_pipelines_name():
    for stage in GRAPH.values():
        assert re.fullmatch(r'exec python -m stages\.\w+( \w+)? "\$DVC_STAGE"', stage["do"]["cmd"])


@pytest.mark.parametrize("task", tasks.names())
@pytest.mark.parametrize("part", ["rows", "features", "model", "predictions", "scores"])
def test_every_task_has_all_that_the_interface_asks_of_its_parts(task, part):
    asked = getattr(interface, part.title())
    wanted = {name for name in vars(asked) if not name.startswith("_")} | set(asked.__annotations__)
    missing = wanted - set(vars(tasks.load(task, part)))
    assert not missing, f"trainwright/tasks/{task}/{part}.py lacks {missing}: see trainwright/tasks/interface.py"


def test_imports_go_one_way():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_stage_asks_which_task_it_serves():
    for path in [*(ROOT / "stages").glob("*.py"), *(ROOT / "trainwright").glob("engine/*.py")]:
        assert not re.search(r"\btask\b\s*(==|!=|in)\s*[\"'(\[]", path.read_text()), path


def test_the_repository_names_no_registry_and_no_path_of_a_machine():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    hosts = re.compile("|".join(["pypi" + r"\.org", "registry" + r"\.npmjs", "deb" + r"\.debian", "file:" + "///"]))
    paths = re.compile("/(?:" + "|".join(["root", "home/" + r"\w+", "work/" + "main", "work/" + "shared"]) + ")/")
    for name in filter(None, tracked):
        path = ROOT / name
        if path.suffix in {".png", ".gz"} or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not hosts.search(text), f"{name}: {hosts.search(text)}"
        assert not paths.search(text), f"{name}: {paths.search(text)}"


@pytest.mark.parametrize(
    "path", [ROOT / "params.yaml", *sorted((ROOT / "recipes").rglob("*.yaml"))], ids=lambda p: p.name
)
def test_every_parameter_that_dvc_tracks_is_in_every_entry(path):
    entries = YAML(typ="safe").load(path.read_text())
    for name, entry in entries.get("pipelines", entries).items():
        for parameter in {p for stage in GRAPH.values() for p in stage["do"]["params"]}:
            value = {"pipelines": {"${key}": entry}}
            for key in parameter.split("."):
                assert key in value, f"{name} lacks {parameter}"
                value = value[key]


def test_git_ignores_every_stage_output_and_no_pin():
    outs = [out for stage in GRAPH.values() for key in ("outs", "metrics", "plots") for out in stage["do"].get(key, [])]
    paths = [(out if isinstance(out, str) else next(iter(out))).replace("${key}", "mine") for out in outs]
    kept = ["data/mine/source.json", "data/mine/published/version.json", "data/mine/raw/rows.csv"]
    kept += ["data/none/training/README.md", "data/sample/squad.json"]
    checked = subprocess.run(
        ["git", "check-ignore", "--no-index", *paths, *kept], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    assert sorted(checked.stdout.split()) == sorted(paths)


def test_the_tests_that_the_security_page_names_are_there():
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs/security.md").read_text())
    assert len(named) > 15
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"docs/security.md names {file}::{name}"
