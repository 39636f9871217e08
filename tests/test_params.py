"""params.yaml is checked at the door: every mistake is named with its line, its key and the nearest right one."""

import itertools
import json
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from trainwright import operations
from trainwright.core import params
from trainwright.core.errors import Fault, InputError, MachineryError
from trainwright.core.layout import STAGES
from trainwright.core.yaml_file import read_yaml

ROOT = Path(__file__).parent.parent
GOOD = (ROOT / "params.yaml").read_text(encoding="utf-8")


def faults(tmp_path: Path, content: str | bytes) -> tuple[Fault, ...]:
    path = tmp_path / "params.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        operations.load(path)
    assert caught.value.exit_code == 2
    return caught.value.faults


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) >= 1
    return GOOD.replace(old, new, 1)


def line_of(text: str, content: str) -> str:
    return f"line {content[: content.index(text)].count(chr(10)) + 1}"


def test_the_repositorys_own_parameters_are_right() -> None:
    pipeline = params.load(ROOT / "params.yaml").pipeline("sample-qa")
    assert pipeline.training.learning_rate == 2e-4  # PyYAML would read text
    assert pipeline.source.licence == "Apache-2.0"


@pytest.mark.parametrize(
    ("old", "new", "field", "near"),
    [
        ("epochs: 3", "epoch: 3", "pipelines.sample-qa.training.epoch", "epochs"),
        ("stride: 128", "strid: 128", "pipelines.sample-qa.tokenization.strid", "stride"),
        ("uri: data", "url: data", "pipelines.sample-qa.source.url", "uri"),
        ("min_exact: 15.0", "min_exat: 15.0", "pipelines.sample-qa.gates.report.min_exat", "min_exact"),
        ("retries: 1", "retrys: 1", "operations.sample-qa.training.retrys", "retries"),
        ("training: {retries", "trainin: {retries", "operations.sample-qa.trainin", "training"),
        ("licence: A", "splits: {trian: a}\n      licence: A", "pipelines.sample-qa.source.splits.trian", "train"),
        ("# How", "dispatc: {}\n# How", "dispatc", "dispatch"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_right_one(
    tmp_path: Path, old: str, new: str, field: str, near: str
) -> None:
    content = changed(old, new)
    found = {fault.field: fault for fault in faults(tmp_path, content)}
    assert found[field].reason == "unknown key"
    assert found[field].remedy == f"Did you mean `{near}`?"
    assert found[field].row == line_of(new.split("\n", maxsplit=1)[0], content)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("epochs: 3", "epochs: six", "input should be a valid integer, not 'six'"),
        ("epochs: 3", "epochs: 3.5", "input should be a valid integer, not 3.5"),
        ("epochs: 3", "epochs: -3", "input should be greater than 0, not -3"),
        ("epochs: 3", "epochs: true", "input should be a valid integer, not True"),
        ("learning_rate: 2e-4", "learning_rate: -2e-4", "input should be greater than 0, not -0.0002"),
        ("learning_rate: 2e-4", "learning_rate: .nan", "input should be a finite number, not nan"),
        ("min_rows: 100", "min_rows: -1", "input should be greater than 0, not -1"),
        ("mojibake: true", "mojibake: 1", "input should be a valid boolean, not 1"),
        ("null_threshold: tune", "null_threshold: tuned", "input should be 'tune' or a valid number, not 'tuned'"),
        (
            "format: squad",
            "format: squat",
            "input should be 'squad', 'csv', 'tsv', 'jsonl', 'parquet', 'text', 'conll' or 'hub', not",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_line(tmp_path: Path, old: str, new: str, reason: str) -> None:
    content = changed(old, new)
    (fault,) = faults(tmp_path, content)
    assert fault.reason.startswith(reason)
    assert fault.row == line_of(new, content)


@pytest.mark.parametrize(
    ("section", "field", "reason"),
    [
        ("dispatch: {training: GPU}", "", "label 'GPU' must be lower-case words joined by hyphens"),
        ("dispatch: {training: retrain}", "", "the label 'retrain' is that of schedules"),
        ("labels: {gpu: {pool: stage}}", "", "the pool of label 'gpu' may not be called 'stage'"),
        ("dispatch: {trainin: gpu}", "dispatch.trainin", "unknown key"),
        ("labels: {gpu: {cuda: twelve}}", "labels.gpu.cuda", "string should match pattern"),
        ("labels: {gpu: {gpu_memory_gb: -1}}", "labels.gpu.gpu_memory_gb", "input should be greater than 0"),
        ("notifications: [{block: nobody}]", "notifications.0.block", "string should match pattern"),
    ],
)
def test_where_stages_run_is_checked_at_the_same_door(tmp_path: Path, section: str, field: str, reason: str) -> None:
    (fault,) = faults(tmp_path, f"{GOOD}\n{section}\n")
    assert fault.field == field and fault.reason.startswith(reason), fault


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        ("schedule: {cron: tonight}", "schedule.cron", "'tonight' is not five fields of cron"),
        ('schedule: {cron: "61 2 * * *"}', "schedule.cron", "'61 2 * * *' is not five fields of cron"),
        ('schedule: {cron: "0 0 2 * * *"}', "schedule.cron", "'0 0 2 * * *' is not five fields of cron"),
        ('schedule: {cron: "0 2 * * 5L"}', "schedule.cron", "'0 2 * * 5L' is not five fields of cron"),
        ('schedule: {cron: "0 2 * * 5-5"}', "schedule.cron", "'0 2 * * 5-5' is not five fields of cron"),
        ('schedule: {cron: "0 2 */2 * 1"}', "schedule.cron", "'0 2 */2 * 1' has a * within one of two fields of days"),
        ('schedule: {cron: "0 2 * * *", timezone: Berlin}', "schedule.timezone", "'Berlin' is no time zone"),
        ("publication: {rule: beter}", "publication.rule", "input should be 'non_inferior' or 'better'"),
        ("publication: {margin: -1}", "publication.margin", "input should be greater than or equal to 0"),
        ("retention: {gigabytes: 0}", "retention.gigabytes", "input should be greater than 0, not 0"),
        ("retention: {}", "retention", "it says neither how many `versions` nor how many `gigabytes` are kept"),
        ("retention: {versions: 1}", "retention.versions", "input should be greater than or equal to 2"),
    ],
)
def test_when_and_how_a_pipeline_is_published_too(tmp_path: Path, line: str, field: str, reason: str) -> None:
    (fault,) = faults(tmp_path, changed("    training: {retries", f"    {line}\n    training: {{retries"))
    assert fault.field == f"operations.sample-qa.{field}" and fault.reason.startswith(reason), fault


def test_a_wrong_word_is_answered_with_the_nearest_right_word(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, changed("format: squad", "format: squat"))
    assert fault.remedy == "Did you mean `squad`?"


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    content = changed("epochs: 3\n", "epochs: 3\n      epochs: 7\n")
    (fault,) = faults(tmp_path, content)
    assert 'duplicate key "epochs"' in fault.reason
    assert fault.row == line_of("epochs: 7", content)


def test_every_mistake_of_a_file_is_said_at_once(tmp_path: Path) -> None:
    found = faults(tmp_path, GOOD.replace("epochs: 3", "epochs: -3").replace("seed: 17", "sede: 17"))
    assert {fault.field for fault in found} == {
        "pipelines.sample-qa.training.epochs",
        "pipelines.sample-qa.augmentation.sede",
    }


def test_absent_sections_and_gates_have_their_defaults(tmp_path: Path) -> None:
    short = {"task": "qa", "language": "en", "base_model": "pipeline:b", "source": {"uri": "a", "format": "csv"}}
    whole = YAML(typ="safe").load(GOOD)["pipelines"]["sample-qa"]
    empty = {key: {} for key in STAGES} | {"gates": {key: {} for key in STAGES}}
    longer = {**short, "base_model": "package:x", "gates": {"report": {"min_f1": 3.0}}}
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps({"pipelines": {"a": short, "b": {**whole, "base_model": "package:x"}, "c": longer}}))
    found = params.load(path)
    path.write_text(json.dumps({"pipelines": {"a": short | empty | {"after": "b"}, "b": whole, "c": longer}}))
    assert found.pipelines["a"] == params.load(path).pipelines["a"]
    assert found.pipelines["a"].after == "b" and found.pipelines["c"].gates.report.min_f1 == 3.0


def test_a_key_without_a_default_is_asked_for(tmp_path: Path) -> None:
    missing = next(fault for fault in faults(tmp_path, changed("    language: en\n", "")) if fault.reason == "missing")
    assert (missing.field, missing.remedy) == ("pipelines.sample-qa.language", "Add `language:`.")


LARGE = "not valid YAML: larger than 4,000,000 characters"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "must be a section"),
        (b"pipelines: 5", "must be a section"),
        (b"pipelines: {sample-qa: null}", "must be a section"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"a\0b", "not valid YAML"),
        (b"a: [", "not valid YAML"),
        (b"a: 2024-13-45", "not valid YAML"),
        (b"pipelines: !!python/object:os.system {}", "not valid YAML"),
        (b"a: " + b"[" * 5000 + b"]" * 5000, "nested too deeply"),
        (b"a: " + b"[" * 100_000, "nested too deeply"),
        (b"- " * 100_000 + b"a", "nested too deeply"),
        (b"a: &x [*x]", "nested too deeply"),
        (b"a0: &a0 {b: 1}\n" + b"".join(b"a%d: &a%d [*a%d]\n" % (n, n, n - 1) for n in range(1, 60)), "nested too"),
        (
            b"a0: &a0 {b: 1}\n"
            + b"".join(b"a%d: &a%d {x: *a%d, y: *a%d}\n" % (n, n, n - 1, n - 1) for n in range(1, 40)),
            LARGE,
        ),
        (
            b"a0: &a0 {b0: 1}\n"
            + b"".join(b"a%d: &a%d {<<: [*a%d, *a%d]}\n" % (n, n, n - 1, n - 1) for n in range(1, 40)),
            LARGE,
        ),
        (b"a: &a " + b"x" * 100_000 + b"\nb: [" + b"*a, " * 50 + b"]", LARGE),
    ],
)
def test_what_is_no_parameter_file_is_refused_without_a_traceback(tmp_path: Path, content: bytes, reason: str) -> None:
    assert faults(tmp_path, content)[0].reason.startswith(reason)


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert "sample-qa" in params.load(path).pipelines


def test_an_unknown_pipeline_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean `sample-qa`"):
        params.load(ROOT / "params.yaml").pipeline("sample-aq")


def test_a_model_from_scratch_takes_no_adapter(tmp_path):
    data = read_yaml(ROOT / "params.yaml")
    data["pipelines"]["sample-qa"]["base_model"] = {
        "scratch": {"family": "bert", "layers": 1, "heads": 1, "width": 8, "tokenizer": "bpe"}
    }
    data["pipelines"]["sample-qa"]["training"]["adapter"] = "lora"
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(data, file)
    with pytest.raises(InputError, match="no weights that an adapter could stand beside"):
        params.load(tmp_path / "params.yaml")


URLS = [
    "https://ada@example.org/x", "https://ada:s3cret@example.org/x", "s3://key:s3cret@bucket/x",
    "https://example.org/x?access_token=s3cret", "gs://bucket/x?token=s3cret", "az://c/x?sv=1&sig=s3cret",
    "https://example.org/x#s3cret", "HTTPS://example.org/x?s3cret",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("place", ["uri", "splits", "base_model"])
def test_a_url_that_may_carry_a_secret_is_refused_and_not_repeated(tmp_path: Path, url: str, place: str) -> None:
    data = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    pipeline = data["pipelines"]["sample-qa"]
    if place == "base_model":
        pipeline["base_model"] = f"folder:{url}"
    else:
        pipeline["source"][place] = url if place == "uri" else {"train": url}
    (tmp_path / "params.yaml").write_text(json.dumps(data))
    with pytest.raises(InputError, match="query or fragment") as caught:
        params.load(tmp_path / "params.yaml")
    assert "s3cret" not in str(caught.value)


def test_errors_show_urls_without_what_may_be_secret() -> None:
    error = MachineryError("fatal: unable to access 'https://ada:s3cret@example.org/x.git?token=s3cret': no")
    assert str(error) == "fatal: unable to access 'https://example.org/x.git?…': no"
    assert str(MachineryError("https://example.org/x is away. Is it?")) == "https://example.org/x is away. Is it?"


def test_a_scheduled_run_waits_an_hour_for_a_worker_and_one_by_hand_does_not(tmp_path: Path) -> None:
    data = YAML(typ="safe").load(GOOD)
    data["pipelines"] = dict.fromkeys(("one", "two", "three"), data["pipelines"]["sample-qa"])
    data["operations"] = {"one": {"wait_minutes": 0}, "two": {"wait_minutes": 5.0}}
    (tmp_path / "params.yaml").write_text(json.dumps(data))
    _, running = operations.load(tmp_path / "params.yaml")
    assert [running.of(name).wait_minutes for name in data["pipelines"]] == [0, 5, None]
    assert [running.unattended().of(name).wait_minutes for name in data["pipelines"]] == [0, 5, 60]


@pytest.mark.parametrize(
    ("limit", "key"), [(99, "gates.ingestion.min_rows"), (59, "gates.splitting.min_validation_rows and")]
)
def test_a_limit_under_the_rows_that_gates_want_is_refused_with_both_keys(tmp_path: Path, limit: int, key: str) -> None:
    content = changed("limit: null", f"limit: {limit}")
    if limit < 60:
        content = content.replace("min_rows: 100", "min_rows: 2")
    (fault,) = faults(tmp_path, content)
    assert f"ingestion.limit: {limit} is less than" in fault.reason
    assert key in fault.reason


def git_takes(tmp_path: Path, name: str) -> bool:
    command = ["git", "check-ref-format", "--branch", name]
    return not subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode


def test_a_branch_is_what_git_takes_for_one(tmp_path: Path) -> None:
    parts = ["a", "..", ".", "/", "@", "{", ".lock", "-", " ", "~", "ü", "HEAD"]
    names = [*parts, *map("".join, itertools.product(parts[:8], repeat=2)), "a@{1}", "a/.b", "a.lock/b", "a//b", "/a"]
    names += [f"a{character}b" for character in "^:?*[\\]\t\x7f$'#&;+"] + [
        "x.lockx",
        "a./b",
        "refs/heads/a",
        "",
        "a..b",
    ]
    assert [(name, operations.is_branch(name)) for name in names] == [
        (name, git_takes(tmp_path, name)) for name in names
    ]


def with_branch(branch: str) -> str:
    return changed(
        "  sample-qa:\n    training: {retries",
        f"  sample-qa:\n    publication: {{branch: {branch}}}\n    training: {{retries",
    )


@pytest.mark.parametrize(
    "branch, says",
    [("a..b", "not a name that Git takes"), ("ledger", "keeps the decisions"), ("Ledger/x", "keeps the decisions")],
)
def test_a_branch_that_could_not_be_pushed_is_refused_when_params_load(tmp_path: Path, branch: str, says: str) -> None:
    (fault,) = faults(tmp_path, with_branch(branch))
    assert says in fault.reason and fault.field == "operations.sample-qa.publication.branch"


def test_a_branch_within_another_pipelines_branch_is_refused() -> None:
    operated = {"one": {"publication": {"branch": "published/one"}}}
    with pytest.raises(ValueError, match="'published' and 'published/one' cannot both be"):
        operations.Running.model_validate({"pipelines": {"one": None, "two": None}, "operations": operated})
