"""What `trainwright check` says of a pipeline: whether it could run, what would run and why, and where it could go."""

import shutil
from collections.abc import Callable, Iterator

from flows import dvc, git, pinning, publication, source_check
from trainwright import pins, sources
from trainwright.core.errors import Fault, InputError, RefusedError, TrainwrightError
from trainwright.core.layout import Layout
from trainwright.core.params import Pipeline
from trainwright.engine import base_model
from trainwright.sources import hub

ROOM_PER_MODEL = 12  # weights, optimizer and gradients of three checkpoints, two models, and copies in DVC's cache
ROOM_PER_SOURCE = 20  # rows of every stage, features, and copies in DVC's cache
ROOM_AT_LEAST = 1 << 30
SHOWN = 3
Say = Callable[[str], None]


def check(layout: Layout, params: Pipeline, project: dvc.Project, say: Say) -> list[TrainwrightError]:
    """Say how things stand with one pipeline. Returns what would stop it."""
    problems: list[TrainwrightError] = []
    sizes: list[int] = []
    for look in (_source, _base_model):
        try:
            line, size = look(layout, params)
            say(line)
            sizes.append(size)
        except TrainwrightError as error:
            problems.append(error)
    if not problems:
        try:
            say(_disk(layout, *sizes))
            source_check.check_rows(params, layout.root, sizes[0], say)
        except TrainwrightError as error:
            problems.append(error)
    for line in (*alone(layout, params), *_plan(layout, project)):
        say(line)
    return problems


def publishable(project: dvc.Project) -> str:
    """Whether models could be published from here, and if not, why; not an error."""
    if missing := publication.lacking(project):
        return f"not publishable: {'; '.join(missing)} (`trainwright init` sets what is missing)"
    return "publishable: it has a Git remote, a DVC remote and an identity"


def alone(layout: Layout, params: Pipeline) -> Iterator[str]:
    """The local files that the pipeline starts from and that are not in its Git: another machine does not see them."""
    if not shutil.which("git") or not git.commit(layout.root, "HEAD"):
        return
    found = {"source": params.source.uri} if params.source.format != "hub" else {}
    if params.base_uri.startswith("folder:"):
        found["base model"] = params.base_uri.removeprefix("folder:")
    for what, uri in found.items():
        if "://" not in uri and not any(git.knows(layout.root, path) for path in (uri, f"{uri}.dvc")):
            yield f"warning      a {what} on this machine alone: {uri} is not in Git, so no other machine can retrain"


def _source(layout: Layout, params: Pipeline) -> tuple[str, int]:
    """How things stand with the source, and its bytes (0 where it is on the Hub)."""
    pinning.bring(layout, params)
    on_hub = params.source.format == "hub"
    if reason := pinning.source_unpinned(layout, params):
        if on_hub:
            hub.resolve(params.source)
        says = f"{reason}; the next run pins it"
    else:
        pins.verify(layout, params)
        says = "as pinned"
    files = [] if on_hub else sources.files(params.source, layout.root)
    return f"source       {params.source.uri}: {says}", sum(file.path.stat().st_size for file in files)


def _base_model(layout: Layout, params: Pipeline) -> tuple[str, int]:
    """How things stand with the base model, and the bytes of its weights."""
    if reason := pinning.base_unpinned(layout, params):
        says = f"{reason}; the next run pins it"
    else:
        base_model.verify(layout, params)
        says = "as pinned"
    size = base_model.size(layout, params)
    if params.base_pipeline:
        says = _upstream(layout, params.base_pipeline)
    return f"base model   {params.base_uri}: {says}", size


def _upstream(layout: Layout, pipeline: str) -> str:
    try:
        base_model.trained(layout, pipeline)
    except RefusedError:
        return "not trained as params.yaml has it; `trainwright run` brings it about first"
    return "trained and certified"


def _disk(layout: Layout, source: int, weights: int) -> str:
    need = max(ROOM_AT_LEAST, ROOM_PER_MODEL * weights + ROOM_PER_SOURCE * source)
    free = shutil.disk_usage(layout.root).free
    if free < need:
        reason = f"{free / 1e9:.1f} GB are free, a whole run may need {need / 1e9:.1f} GB"
        raise InputError(Fault(str(layout.root), reason, "Make room, for example with `dvc gc --workspace`."))
    return f"disk         {free / 1e9:.1f} GB free; a whole run may need {need / 1e9:.1f} GB"


def _plan(layout: Layout, project: dvc.Project) -> Iterator[str]:
    """Which stages would run and why; those after one that runs may turn out to have nothing to do."""
    waiting: dict[str, str] = {}
    nodes = project.graph(layout.pipeline)
    for node in nodes:
        changes = project.changes(node.name)
        before = next((name for name in node.upstream if name in waiting), None)
        if changes:
            more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
            waiting[node.name] = ", ".join(changes[:SHOWN]) + more
        elif before:
            waiting[node.name] = f"if {before} gives other bytes"
    if [*waiting.values()] == [dvc.NEVER_RAN] * len(nodes):
        yield f"would run    {len(nodes)} of {len(nodes)} stages: none has run yet"
        return
    yield f"would run    {len(waiting)} of {len(nodes)} stages"
    for name, why in waiting.items():
        yield f"  {name}: {why}"
