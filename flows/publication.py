"""Publication: a new version becomes visible in one step, or not at all.

A publication makes two commits. V is the version: the tree of the commit that ran, with the pipeline's entries of
dvc.lock, its pins and data/<pipeline>/published/. Checked out and pulled it is that model, and DVC finds nothing
changed. P is the new head of the published branch: the newest code with every pipeline's own entries and files. Data go
to the DVC remote first and are read back there; then one atomic push moves the branch and the tags (flows/registry.py).

What is ready to be published is written down before anything is pushed, so that a kill or a remote that is away leaves
readers with the old version and the next run with nothing to do but the rest (`finish`).
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from flows import dvc, dvc_lock, git, ledger, registry
from flows.registry import Act, Bump, Version
from flows.workspace import Workspace, held, workspace
from trainwright import pins
from trainwright.champion import Verdict
from trainwright.core import layout
from trainwright.core.errors import Fault, InputError, MachineryError, RefusedError
from trainwright.core.layout import Layout
from trainwright.core.params import Params
from trainwright.operations import Running

PUBLISHED, UNPUBLISHED = "published", "unpublished"
OURS = re.compile(r"dvc\.lock|data/[^/]+/(source\.json|base_model\.json|published/.*)")  # what publications write
SHOWN = 3
Say = Callable[[str], None]


@dataclass(frozen=True)
class State:
    """What is published: the head of the branch, and its entries of dvc.lock by stage."""

    head: str
    entries: dict[str, str]


@dataclass(frozen=True)
class Ready:
    """A version that is made and not published yet; kept in .trainwright/unpublished/ until it is.

    `commit` is V, `code` the commit that ran, `known` the tags that there were when it was compared, `stages` those
    whose outputs the remote must have, `waits` why it could not be published at the last try.
    """

    name: str
    version: str
    commit: str
    code: str
    branch: str
    act: Act
    why: str
    known: tuple[str, ...]
    stages: tuple[str, ...]
    waits: str = ""


def lacking(project: dvc.Project) -> list[str]:
    """What a publication from a checkout needs and has not, each in words."""
    missing = [] if project.remote() else ["no DVC remote"]
    if not shutil.which("git"):
        return [*missing, "Git is not installed"]
    if not git.commit(project.root, "HEAD"):
        return [*missing, "not a Git repository with a commit"]
    if not git.remote(project.root):
        missing.append("no Git remote")
    if not git.identity(project.root):
        missing.append("Git does not know who commits here")
    return missing


def require(home: Path, project: dvc.Project) -> None:
    """Raise InputError where a publication could only fail, before any work is done for it."""
    if missing := lacking(project):
        raise InputError(Fault(str(home), f"not publishable: {'; '.join(missing)}", git.REMEDY))


def fetch(home: Path, branch: str) -> str | None:
    """Bring the published branch and all versions here. Returns the branch's head; None where nothing is published.

    Raises MachineryError where the remote cannot be reached.
    """
    ours = _ours(home, branch)
    if ours in git.fetch(home, f"+refs/heads/{branch}:{ours}", "refs/tags/*:refs/tags/*") and git.commit(home, ours):
        git.set_ref(home, ours, None)  # somebody took it away, as one is that was merged
    return git.commit(home, ours)


def state(home: Path, branch: str) -> State | None:
    """What is published, as of the last `fetch`; None where nothing is."""
    head = git.commit(home, _ours(home, branch))
    return State(head, _entries(home, head)) if head else None


def restore(space: Workspace, name: str, what: Params, head: str | None) -> None:
    """Put the published entries of dvc.lock and pins of `name`, and of the pipelines that it comes after, into a
    workspace: those of each one's newest version, which on a protected branch may be ahead of its `head`.
    """
    for pipeline in what.chain(name):
        newest = registry.versions(space.home, pipeline)[-1:]
        if commit := newest[0].commit if newest else head:
            bring(space, pipeline, commit)


def bring(space: Workspace, pipeline: str, commit: str) -> None:
    """Put a pipeline's entries of dvc.lock and its pins, as they are at a commit, into a workspace."""
    own = _of(_entries(space.home, commit), pipeline)
    if own:
        others = {stage: entry for stage, entry in _lock(space.root).items() if not _is_of(stage, pipeline)}
        layout.write_file(space.root / "dvc.lock", dvc_lock.text(others | own))
        for path in _pins(pipeline):
            if (content := git.read(space.home, commit, path)) is not None:
                layout.write_file(space.root / path, content.decode())


def is_same(space: Workspace, version: Version) -> bool:
    """Whether the workspace's pipeline has made the very outputs of a version, by the digests in dvc.lock.

    Reports and gates' results are left out: they describe the other outputs.
    """
    now, then = (
        {(stage, output) for stage, entry in _of(entries, version.name).items() if _is_model(stage)
         for output in dvc_lock.outputs([entry]).items()}
        for entries in (_lock(space.root), _entries(space.home, version.commit))
    )  # fmt: skip
    return bool(now) and now == then


def _is_model(stage: str) -> bool:
    name = stage.partition("@")[0]
    return name != "report" and not name.endswith("_gate")


def publish(
    space: Workspace,
    name: str,
    what: Params,
    running: Running,
    project: dvc.Project,
    verdict: Verdict,
    record: Mapping[str, Any],
    *,
    bump: Bump = "minor",
    act: Act = "publish",
    why: str = "",
) -> tuple[Version, str]:
    """Publish what the workspace's pipeline has made, and put it in use.

    `record` is what a run says of itself; what its files say is put in here. Returns the version and "published",
    "unpublished" (the remote is away; `finish` goes on from there), or, where the branch is protected, how to merge.

    Raises InputError where something that it needs is not set, RefusedError where a version was published meanwhile
    that this one was not compared with.
    """
    require(space.home, project)
    branch = running.of(name).publication.branch
    version = registry.following(space.home, name, bump)
    commit, stages = _version(space, name, what, version, verdict, {**record, "act": act, "why": why})
    ready = Ready(name, version, commit, space.commit, branch, act, why, verdict.known, stages)
    _keep(space.home, ready)
    return _deliver(space.home, project, ready)


def finish(home: Path, name: str, say: Say) -> str:
    """Publish what an earlier run has left ready, without doing any of its work again. Returns, in words, what is
    published now, if anything; the remote being away still, or another version having come first, is said.

    What came of it is in the ledger; that it waits still is no news.
    """
    ready = _kept(home, name)
    if ready is None:
        return ""
    try:
        with workspace(home, name, ready.commit) as space:
            version, where = _deliver(home, dvc.Project(space.root), ready)
    except RefusedError as error:
        say(f"{name}: {error}")
        ledger.record(home, name, {"outcome": "refused", "words": str(error), "version": ready.version})
        return ""
    if where == UNPUBLISHED:
        say(f"{name}: {ready.version} still waits to be published: {why(home, name)}")
        return ""
    words = f"{version}, ready since an earlier run, is published" + ("" if where == PUBLISHED else f". {where}")
    say(f"{name}: {words}")
    ledger.record(home, name, {"outcome": PUBLISHED, "words": words, "version": ready.version})
    return words


def why(home: Path, name: str) -> str:
    """Why a version that is ready could not be published at the last try; empty where none is ready."""
    ready = _kept(home, name)
    return ready.waits if ready else ""


def waiting(root: Path) -> dict[str, list[dict[str, Any]]]:
    """The run records of versions that are ready and not published, by pipeline."""
    found = {}
    for path in sorted(_folder(root).glob("[!.]*.json")):
        ready = _kept(root, path.stem)
        if ready:
            content = git.read(root, ready.commit, f"{_published(ready.name)}/version.json")
            found[ready.name] = [{**(git.parse_object(content) or {}), "version": ready.version}]
    return found


def _version(
    space: Workspace, name: str, what: Params, version: str, verdict: Verdict, record: Mapping[str, Any]
) -> tuple[str, tuple[str, ...]]:
    """The commit of the version, on no ref, and the stages that it needs."""
    chain = what.chain(name)
    now = _lock(space.root)
    own = {stage: entry for stage, entry in now.items() if any(_is_of(stage, each) for each in chain)}
    entries = _entries(space.home, space.commit)
    kept = {stage: entry for stage, entry in entries.items() if not any(_is_of(stage, each) for each in chain)}
    frozen = replace(verdict.frozen, frozen_at=verdict.frozen.frozen_at or version)
    scores = Layout(space.root, name).stage("postprocessing") / "metrics.json"
    metrics = json.loads(scores.read_text(encoding="utf-8")) if scores.exists() else {}
    told = {
        "version": version,
        "commit": space.commit,
        **record,
        "frozen": {"line": frozen.line, "values": verdict.values},
        "decision": {**verdict.as_dict(), "frozen": {"line": frozen.line, "rows": len(frozen.ids)}},
        "scores": {split: _headline(metrics, split) for split in metrics},
        "pins": {path: _pin(text) for path in _pins(name) if (text := _text(space.root / path))},
        "went_through": _went_through(Layout(space.root, name), _of(own, name)),
    }
    contents: dict[str, bytes | None] = {"dvc.lock": dvc_lock.text({**kept, **own}).encode()}
    contents["params.yaml"] = (space.root / "params.yaml").read_bytes()
    for path in [path for each in chain for path in _pins(each)]:
        if text := _text(space.root / path):
            contents[path] = text.encode()
    for path in git.files(space.home, space.commit, _published(name)):
        contents[path] = None
    files = {
        "version.json": json.dumps(told, indent=1, ensure_ascii=False) + "\n",
        "scores.json": json.dumps(metrics, indent=1, ensure_ascii=False) + "\n",
        "test_set.json": frozen.to_json(),
        "decision.md": f"# {name} {version}\n\n{verdict.words}\n",
    }
    contents |= {f"{_published(name)}/{file}": text.encode() for file, text in files.items()}
    message = f"{name} {version}\n\n{verdict.words}"
    return git.make_commit(space.home, space.commit, contents, [space.commit], message), tuple(own)


def _pin(text: str) -> dict[str, Any]:
    """A pin without the ids of rows, which may be many and stand in the pin itself."""
    return {key: value for key, value in json.loads(text).items() if key != pins.TEST_ROWS}


def _went_through(here: Layout, entries: Mapping[str, str]) -> dict[str, Any]:
    """Of each stage what went in and came out, by DVC's MD5, and the SHA-256 that its gate certified."""
    from ruamel.yaml import YAML

    found = {}
    for stage, entry in entries.items():
        told = YAML(typ="safe").load(entry)[stage]
        paths = {kind: {part["path"]: part.get("md5") for part in told.get(kind, [])} for kind in ("deps", "outs")}
        certificate = here.certificate(stage.partition("@")[0])
        digest = json.loads(certificate.read_text(encoding="utf-8")).get("digest") if certificate.exists() else None
        found[stage.partition("@")[0]] = {"in": paths["deps"], "out": paths["outs"], "sha256": digest}
    return found


def _deliver(home: Path, project: dvc.Project, ready: Ready) -> tuple[Version, str]:
    """Push data, then refs; what is ready stays so until both are done."""
    try:
        registry.fetch(home, ready.name)
        where = _published_already(home, ready)
        if where is None:
            project.deliver(ready.stages, _whole_before(home, ready))
            where = _move(home, ready)
    except git.MovedTagError as error:
        _keep(home, replace(ready, waits=str(error)))
        raise
    except (dvc.DamagedError, RefusedError, InputError):
        _forget(home, ready)
        raise
    except MachineryError as error:
        _keep(home, replace(ready, waits=str(error)))
        return Version(ready.name, ready.version, ready.commit, ""), UNPUBLISHED
    _forget(home, ready)
    made = next(version for version in registry.versions(home, ready.name) if version.version == ready.version)
    return made, where


def _published_already(home: Path, ready: Ready) -> str | None:
    """PUBLISHED where it is there already, by what was fetched last: a run may have been killed after its push.

    Raises RefusedError where another version has come first, or has been put in use.
    """
    there = registry.versions(home, ready.name)
    if any(version.version == ready.version and version.commit == ready.commit for version in there):
        return PUBLISHED
    if new := [tag for tag in registry.seen(home, ready.name) if tag not in ready.known]:
        published = [version for version in there if str(version) in new]
        what = f"{published[-1]} was published" if published else f"{registry.in_use(home, ready.name)} was put in use"
        raise RefusedError(
            f"{what} meanwhile, and {ready.version} was not compared with it: it is not published. "
            "The next run compares it."
        )
    return None


def _move(home: Path, ready: Ready) -> str:
    """Move branch and tags in one push, again and again while other pipelines get in between. Returns where to."""
    ref = f"refs/heads/{ready.branch}"
    with held(_lock_file(home)):  # publishers of one clone need not race one another
        for attempt in git.tries():
            with attempt:
                head = fetch(home, ready.branch)
                if (where := _published_already(home, ready)) is not None:
                    return where
                commit = _head(home, head, ready)
                message = f"{ready.name} {ready.version}"
                named = registry.version_tag(home, ready.name, ready.version, ready.commit, message)
                used = registry.use_tag(home, ready.name, ready.commit, ready.act, ready.why)
                tags: dict[str, tuple[str, str | None]] = {tag: (made, None) for tag, made in (named, used)}
                try:
                    git.push(home, {ref: (commit, head), **tags})
                    where = PUBLISHED
                except git.ProtectedError:
                    where = _beside(home, head, ready, tags)
                for tag, (made, _) in tags.items():
                    git.set_ref(home, tag, made)
                return where
    raise AssertionError


def _beside(home: Path, head: str | None, ready: Ready, tags: Mapping[str, tuple[str, str | None]]) -> str:
    """Push to a branch beside the protected one, with all that waits to be merged. Returns words on how to merge it."""
    beside = f"{ready.branch}-next"
    there = fetch(home, beside)
    commit = _head(home, _waiting_merged(home, head, ready), ready)
    if there and not git.contains(home, commit, there):  # many a server takes no push that leaves commits behind
        commit = git.make_commit(home, commit, {}, [commit, there], f"Publish {ready.name} {ready.version}")
    git.push(home, {f"refs/heads/{beside}": (commit, there), **tags})
    return (
        f"The branch {ready.branch} is protected. The version is in use by its tags; to bring it, and all that waits "
        f"with it, into the branch, merge {beside}: "
        f"git fetch && git switch {quote(ready.branch)} && git merge {quote(f'{git.remote(home)}/{beside}')}"
    )


def _waiting_merged(home: Path, head: str | None, ready: Ready) -> str | None:
    """The head of a protected branch with the other pipelines' newest versions that nobody has merged into it yet."""
    for name in registry.known(home):
        newest = registry.versions(home, name)[-1]
        if name != ready.name and not (head and git.contains(home, head, newest.commit)):
            code = git.commit(home, f"{newest.commit}^1") or ready.code
            head = _head(home, head, replace(ready, name=name, version=newest.version, commit=newest.commit, code=code))
    return head


def _head(home: Path, head: str | None, ready: Ready) -> str:
    """The commit that the branch moves to: the newer code, this pipeline's entries and files of the version, every
    other's as they are published."""
    version = _entries(home, ready.commit)
    message = f"Publish {ready.name} {ready.version}"
    if head is None:
        told = {"params.yaml": git.read(home, ready.code, "params.yaml")}  # without what was set for this run alone
        return git.make_commit(home, ready.commit, told, [ready.commit], message)
    published = _entries(home, head)
    others = {stage: entry for stage, entry in published.items() if not _is_of(stage, ready.name)}
    new = {stage: entry for stage, entry in version.items() if stage.partition("@")[2] not in _pipelines(published)}
    contents: dict[str, bytes | None] = {
        "dvc.lock": dvc_lock.text({**others, **new, **_of(version, ready.name)}).encode()
    }
    base, giver, names = head, ready.commit, [ready.name]
    if not git.contains(home, head, ready.code):  # the branch's code is not newer
        base, giver, names = _code(home, head, ready), head, sorted(_pipelines(others))
        contents |= _files(home, ready.commit, base, [ready.name])
    contents |= _files(home, giver, base, names)
    return git.make_commit(home, base, contents, [head, ready.commit], message)


def _code(home: Path, head: str, ready: Ready) -> str:
    """The commit, or tree, that has the code of the run and what others have brought to the branch.

    Raises MachineryError where the two cannot be joined.
    """
    theirs = [path for path in git.differing(home, ready.code, head) if not OURS.fullmatch(path)]
    if not theirs:
        return ready.code
    tree, torn = git.merged(home, head, ready.code)
    if torn := [path for path in torn if not OURS.fullmatch(path)]:
        raise MachineryError(
            f"the branch {ready.branch} and commit {ready.code[:10]}, of which {ready.version} is, have both changed "
            f"{', '.join(torn[:SHOWN])}: merge that commit into the branch"
        )
    return tree


def _files(home: Path, giver: str, base: str, names: Sequence[str]) -> dict[str, bytes | None]:
    """What makes the files of pipelines at `base` those of `giver`."""
    found: dict[str, bytes | None] = {}
    for name in names:
        wanted = [*_pins(name), *git.files(home, giver, _published(name))]
        found |= dict.fromkeys(git.files(home, base, _published(name)))
        found |= {path: content for path in wanted if (content := git.read(home, giver, path)) is not None}
    return found


def _headline(metrics: Mapping[str, Any], split: str) -> dict[str, Any]:
    from trainwright.scoring import wording

    return {name: entry for name, entry in metrics[split].items() if wording.is_score(entry)}


def _whole_before(home: Path, ready: Ready) -> set[str]:
    """The MD5s of outputs that were read back whole when the newest version was published."""
    newest = registry.versions(home, ready.name)[-1:]
    text = git.read(home, newest[0].commit, "dvc.lock") if newest else None
    return set(re.findall(r"^      md5: (\S+)$", text.decode(), re.M)) if text else set()


def _entries(home: Path, commit: str) -> dict[str, str]:
    try:
        return dvc_lock.entries((git.read(home, commit, "dvc.lock") or b"").decode())
    except (MachineryError, UnicodeDecodeError) as error:
        raise MachineryError(f"commit {commit[:10]} cannot be built on: {error}") from None


def _lock(root: Path) -> dict[str, str]:
    try:
        return dvc_lock.entries(_text(root / "dvc.lock"))
    except MachineryError:
        raise InputError(Fault("dvc.lock", "is not whole", "Restore it with Git, or remove it; commit that.")) from None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _is_of(stage: str, pipeline: str) -> bool:
    return stage.partition("@")[2] == pipeline


def _of(entries: Mapping[str, str], pipeline: str) -> dict[str, str]:
    return {stage: entry for stage, entry in entries.items() if _is_of(stage, pipeline)}


def _pipelines(entries: Mapping[str, str]) -> set[str]:
    return {stage.partition("@")[2] for stage in entries}


def _pins(name: str) -> tuple[str, str]:
    return f"data/{name}/source.json", f"data/{name}/base_model.json"


def _published(name: str) -> str:
    return f"data/{name}/published"


def _ours(home: Path, branch: str) -> str:
    return f"refs/remotes/{git.remote(home)}/{branch}"


def _folder(home: Path) -> Path:
    return home / ".trainwright" / "unpublished"


def _lock_file(home: Path) -> Path:
    _folder(home).mkdir(parents=True, exist_ok=True)
    return _folder(home) / "lock"


def _keep(home: Path, ready: Ready) -> None:
    """Write down what is ready, with a ref that keeps its commit from Git's tidying up."""
    git.set_ref(home, _kept_ref(ready.name), ready.commit)
    layout.write_file(_folder(home) / f"{ready.name}.json", json.dumps(asdict(ready), indent=1) + "\n")


def _kept(home: Path, name: str) -> Ready | None:
    text = _text(_folder(home) / f"{name}.json")
    if not text:
        return None
    read = json.loads(text)
    return Ready(**{**read, "known": tuple(read["known"]), "stages": tuple(read["stages"])})


def _forget(home: Path, ready: Ready) -> None:
    (_folder(home) / f"{ready.name}.json").unlink(missing_ok=True)
    if git.commit(home, _kept_ref(ready.name)):
        git.set_ref(home, _kept_ref(ready.name), None)


def _kept_ref(name: str) -> str:
    return f"refs/trainwright/unpublished/{name}"
