"""How pipelines are run, not what they do: the sections `operations`, `dispatch`, `labels` and `notifications` of
params.yaml, typed. No stage reads them, so that no edit of them makes a model stale.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import Field, ValidationError, field_validator, model_validator

from trainwright.core import params
from trainwright.core.errors import Fault, InputError
from trainwright.core.layout import STAGES
from trainwright.core.params import NATURAL, POSITIVE, Params, Section
from trainwright.core.yaml_file import faults, read_yaml

Stage = Literal[STAGES]  # type: ignore[valid-type]
LABEL = re.compile(r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")
# A part of a field of cron that our reader and Prefect's take alike: not `L`, `#` or `H`, and not `5-5`, which is every
# value to Prefect's.
CRON = re.compile(r"(\*|(\d{1,2}|[a-z]{3})-(?!\2(/|$))(\d{1,2}|[a-z]{3}))(/\d+)?|\d{1,2}|[a-z]{3}", re.IGNORECASE)
LEDGER = "ledger"  # the branch of the decisions (flows/ledger.py)
UNFIT_IN_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{")
LONGEST_PART = 240  # bytes of a part of a branch's name: Git adds `.lock` for its file, a protected branch `-next`
OWN = ("trainwright", "stage")  # what the pool of workers of ours is called, and what it runs
WAIT_MINUTES = 60.0
RETRAIN = "retrain"  # the label of the workers that run what schedules start
Event = Literal["published", "refused", "failed", "waiting"]
EVENTS: tuple[Event, ...] = get_args(Event)


def is_branch(name: str) -> bool:
    """Return whether `git check-ref-format --branch` accepts a name for a branch.

    Names whose files would be too long for the file system are refused as well.
    """
    if name == "HEAD" or name.startswith("-") or name.endswith(".") or UNFIT_IN_BRANCH.search(name):
        return False
    parts = name.split("/")
    return all(
        part and part[0] != "." and not part.endswith(".lock") and len(part.encode()) <= LONGEST_PART for part in parts
    )


class Operation(Section):
    """One stage: how often it is tried again, after how long, and when it has taken too long."""

    retries: NATURAL = 0  # how often a failed stage is tried again
    retry_delay_seconds: NATURAL = 10  # seconds before it is
    timeout_minutes: POSITIVE = 24 * 60  # minutes after which a stage is stopped


class Schedule(Section):
    """When a pipeline decides whether to retrain: five fields of cron, read in a time zone of the IANA's list.

    Of hours that a change of clocks skips or repeats, a tick comes once.
    """

    cron: str  # five fields of cron, such as 0 2 * * *
    timezone: str = "UTC"  # the time zone that they are read in, such as Europe/Berlin

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(f"{value!r} is no time zone of the IANA's list, such as Europe/Berlin")
        return value

    @field_validator("cron")
    @classmethod
    def _read(cls, value: str) -> str:
        fields = value.split()
        try:
            if len(fields) != 5 or not all(CRON.fullmatch(part) for field in fields for part in field.split(",")):
                raise CronSimError
            CronSim(value, datetime.now(UTC))
        except CronSimError:
            raise ValueError(f"{value!r} is not five fields of cron, such as 0 2 * * * (every day at two)") from None
        days, weekdays = fields[2], fields[4]
        if "*" not in (days, weekdays) and "*" in days + weekdays:  # either of them, or both at once
            raise ValueError(
                f"{value!r} has a * within one of two fields of days, which readers of cron take differently"
            )
        return value

    def following(self, moment: datetime) -> datetime:
        """The first tick after `moment`, which has a time zone."""
        return next(CronSim(self.cron, moment.astimezone(ZoneInfo(self.timezone))))


class Publication(Section):
    """When a new version takes the place of the one in use.

    `rule: non_inferior` wants the lower end of the interval of the difference above -`margin`, against the version in
    use and against the best so far; `better` wants it above 0. `score` is the one compared (the task's first where it
    is null), `margin` in its unit: 2 points where it is null, 2% of the score in use where that is not in points.
    `small_test_set` decides when the test rows are too few to show the margin. `refuse` publishes nothing then; `widen`
    takes the least margin that they show. With `approval: required` a person decides, by the wider margin.
    `slice_floors` are floors of the score in slices that the report shows, by "by: value" (`"question word: who": 20`).
    With `approval: required` a person is asked, for `approval_hours` at most. `branch` is where versions are published.
    """

    rule: Literal["non_inferior", "better"] = "non_inferior"
    score: str | None = None
    margin: Annotated[float, Field(ge=0)] | None = None
    small_test_set: Literal["refuse", "widen"] = "refuse"
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95  # confidence level of the interval of the difference
    draws: POSITIVE = 2000  # draws of the paired bootstrap
    slice_floors: dict[str, float] = Field(default_factory=dict)
    approval: Literal["none", "required"] = "none"
    approval_hours: Annotated[float, Field(gt=0, le=365 * 24)] = 24.0
    branch: str = "published"

    @field_validator("branch")
    @classmethod
    def _is_branch(cls, value: str) -> str:
        if not is_branch(value):
            raise ValueError(f"{value!r} is not a name that Git takes for a branch; write one such as published")
        if value.partition("/")[0].lower() == LEDGER:
            raise ValueError(f"the branch {LEDGER!r} keeps the decisions; write another, such as published")
        return value


class Retention(Section):
    """Which published versions of a pipeline keep their data, besides those in use and the best: the newest `versions`,
    and the newest whose outputs together are no more than `gigabytes` (10^9 bytes)."""

    versions: Annotated[int, Field(ge=2)] | None = None
    gigabytes: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Retention":
        if self.versions is None and self.gigabytes is None:
            raise ValueError("it says neither how many `versions` nor how many `gigabytes` are kept")
        return self


class Operations(Section):
    """How one pipeline is run: a section a stage, and when it is retrained, where, and what publishes it.

    `dispatch` here goes before the one of the whole file. `wait_minutes` is how long a stage waits for a worker of its
    label. Null waits an hour in a run that the server starts, since a machine may be starting again, and not at all in
    one that a person starts. Without a wait a label that nobody serves is an error within a minute.
    """

    ingestion: Operation = Operation()  # retries and time limit of ingestion
    cleaning: Operation = Operation()  # retries and time limit of cleaning
    augmentation: Operation = Operation()  # retries and time limit of augmentation
    splitting: Operation = Operation()  # retries and time limit of splitting
    tokenization: Operation = Operation()  # retries and time limit of tokenization
    training: Operation = Operation()  # retries and time limit of training
    evaluation: Operation = Operation()  # retries and time limit of evaluation
    postprocessing: Operation = Operation()  # retries and time limit of postprocessing
    report: Operation = Operation()  # retries and time limit of report
    dispatch: dict[Stage, str] = Field(default_factory=dict)
    wait_minutes: Annotated[float, Field(ge=0)] | None = None
    schedule: Schedule | None = None  # when the pipeline is retrained; null only by hand
    publication: Publication = Publication()  # when a new version is published
    retention: Retention | None = None  # which versions keep their data; null all

    def stage(self, name: str) -> Operation:
        """How a stage of dvc.yaml is run (`training`, `training_gate`); a gate by the defaults."""
        return getattr(self, name) if name in STAGES else Operation()


class Label(Section):
    """What a worker must have to serve a label; each is looked at when the worker starts.

    Memory in GB (10^9 bytes): of one GPU, and of the machine. `cuda` is the least version of CUDA of the driver.
    `devices` is how many GPUs one stage gets, and it sees no other; where it is not said, one if a need speaks of GPUs.
    A training divides its steps among all that it sees. `pool` is the work pool of Kubernetes or Docker whose workers
    serve the label; needs are then the pool's job template's to meet.
    """

    gpu_memory_gb: Annotated[float, Field(gt=0)] | None = None  # memory of one GPU in GB
    cuda: Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")] | None = None
    memory_gb: Annotated[float, Field(gt=0)] | None = None  # memory of the machine in GB
    cpus: POSITIVE | None = None  # fewest processor cores
    devices: NATURAL | None = None
    pool: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")] | None = None

    @property
    def gpus(self) -> int:
        """How many GPUs one stage gets."""
        return int(self.gpu_memory_gb is not None or self.cuda is not None) if self.devices is None else self.devices


class Notification(Section):
    """Who hears of what. `block` names a saved Prefect block (`slack-webhook/ops`, `email/…`, `custom-webhook/…`)."""

    block: Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")]
    events: list[Event] = Field(default=list(EVENTS))  # the events to tell of


class Running(Section):
    """All of params.yaml that says how pipelines are run."""

    pipelines: dict[str, Any]
    operations: dict[str, Operations] = Field(default_factory=dict)
    dispatch: dict[Stage, str] = Field(default_factory=dict)
    labels: dict[str, Label] = Field(default_factory=dict)
    notifications: list[Notification] = Field(default_factory=list)

    @model_validator(mode="after")
    def _names(self) -> "Running":
        if wrong := [name for name in self.operations if name not in self.pipelines]:
            raise ValueError(f"{wrong[0]!r} in operations is not a pipeline")
        branches = {self.of(name).publication.branch for name in {*self.pipelines, *self.operations}}
        for branch in sorted(branches):
            if inner := [other for other in branches if other.startswith(f"{branch}/")]:
                raise ValueError(
                    f"the branches {branch!r} and {min(inner)!r} cannot both be: Git keeps no branch within another"
                )
        for label in self.served():
            if not LABEL.match(label):
                raise ValueError(f"label {label!r} must be lower-case words joined by hyphens")
            if label == RETRAIN:
                raise ValueError(f"the label {RETRAIN!r} is that of schedules; no stage may be sent to it")
        for label, needs in self.labels.items():
            if needs.pool in OWN:
                raise ValueError(
                    f"the pool of label {label!r} may not be called {needs.pool!r}, as ours and its runs are"
                )
        return self

    def of(self, pipeline: str) -> Operations:
        """How `pipeline` is run; by the defaults where params.yaml says nothing."""
        return self.operations.get(pipeline, Operations())

    def unattended(self) -> "Running":
        """Return it with WAIT_MINUTES as the wait for a worker where none is set: nobody waits for the run itself."""
        waits = {"wait_minutes": WAIT_MINUTES}
        found = {name: self.of(name) for name in {*self.pipelines, *self.operations}}
        patient = {n: how.model_copy(update=waits) if how.wait_minutes is None else how for n, how in found.items()}
        return self.model_copy(update={"operations": patient})

    def label(self, pipeline: str, stage: str) -> str | None:
        """The label of the workers that run a stage of dvc.yaml (without its pipeline); None where it runs here."""
        return self.of(pipeline).dispatch.get(stage) or self.dispatch.get(stage)

    def sent(self, pipeline: str) -> set[str]:
        """The labels that stages of `pipeline` are sent to."""
        return {label for stage in STAGES if (label := self.label(pipeline, stage))}

    def here(self) -> "Running":
        """The same with every stage run on this machine."""
        operations = {name: own.model_copy(update={"dispatch": {}}) for name, own in self.operations.items()}
        return self.model_copy(update={"dispatch": {}, "operations": operations})

    def served(self) -> set[str]:
        """Every label that some stage is sent to or that has needs."""
        own = [label for operations in self.operations.values() for label in operations.dispatch.values()]
        return {*self.labels, *self.dispatch.values(), *own}


def load(path: Path) -> tuple[Params, Running]:
    """Read and check all of params.yaml: what pipelines do, and how they are run.

    Raises InputError with one Fault for every problem in the file.
    """
    found: list[Fault] = []
    try:
        what = params.load(path)
    except InputError as error:
        found += error.faults
    data = read_yaml(path)
    known = {key: value for key, value in data.items() if key in Running.model_fields} if isinstance(data, dict) else {}
    try:
        how = Running.model_validate({"pipelines": {}, **known})
    except ValidationError as error:
        found += [fault for fault in faults(path, error, known, Running) if fault.field.split(".")[0] != "pipelines"]
    if found:
        raise InputError(*dict.fromkeys(found))
    return what, how
