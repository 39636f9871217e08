"""The typed form of params.yaml: checked once, at the door; every stage gets its own section.

What is absent has its default, sections too. DVC tracks sections by their names, so `complete` names those that a
params.yaml lacks, and `trainwright refresh` and `run` write them there (`cleaning: {}`) before DVC looks.
What a section may hold beside the fields here is the task's own: see `trainwright/tasks/<task>/params.py`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializeAsAny,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from ruamel.yaml.error import YAMLError

from trainwright.core import tasks
from trainwright.core.errors import Fault, InputError, carries_secret, nearest
from trainwright.core.layout import STAGES
from trainwright.core.yaml_file import faults, parse_yaml, read_yaml

NAME = re.compile(r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")
NOTHING = "none"  # what `after` says where a pipeline waits for no other
LONGEST_NAME = 64  # characters; names of pipelines become parts of file names, tags and branches
LONGEST_FILE_NAME = 255  # bytes, on Linux and macOS
SHARE = Annotated[float, Field(ge=0, le=1)]
POSITIVE = Annotated[int, Field(gt=0)]
NATURAL = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """One section of params.yaml: immutable, strict about types, closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def public(uri: str) -> str:
    """The `uri` as it is. Raises ValueError for a URL that may carry a password or token: params.yaml is in Git."""
    if carries_secret(uri):
        raise ValueError(
            "the URL has a user name, password, query or fragment in it, where secrets stand, and would come to stand "
            "in files and messages; keep credentials in the environment or in a credential helper"
        )
    return uri


def short(path: str) -> str:
    """The path as it is. Raises ValueError for one that no file system has."""
    if any(len(part.encode(errors="surrogatepass")) > LONGEST_FILE_NAME for part in path.split("/")):
        raise ValueError(f"a file name may have {LONGEST_FILE_NAME} bytes at most")
    return path


class Stream(Section):
    """How one contiguous text is divided: the first characters to train, then validation, then test."""

    train: SHARE = 0.9  # share of the train split
    validation: SHARE = 0.05  # share of the validation split
    test: SHARE = 0.05  # share of the test split

    @model_validator(mode="after")
    def _whole(self) -> "Stream":
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("train, validation and test must add up to 1")
        if 0 in (self.train, self.validation, self.test):
            raise ValueError("train, validation and test must each be more than 0")
        return self


class Source(Section):
    """Where rows come from. `uri` is a path (read from the project's root) or `hub:owner/name`.

    `columns` maps our column names to the source's (`{context: passage, question: query}`); texts of several columns
    are joined by a colon and a space (`{text: [word, sentence]}`), and columns of 0 and 1 are labels by their names
    (`{labels: [toxic, insult]}`);
    `splits` maps declared splits to files or Hub splits (`{train: train.csv, validation: dev.csv}`).
    `stream` says that a plain text is contiguous, and how it is divided (files of declared splits are not); its rows
    are to be left as they are: `cleaning: {whitespace: false, duplicates: false}`, no `augmentation.typing_noise`.
    `documents` says what ends a document of a plain text without `stream`: blank lines, or each line end.
    `max_unpacked_gb` is the most that a packed or Parquet file may unpack to, in GB (10^9 bytes).
    `separator` parts a text where a task wants a list ("a|b" in a cell of CSV, which knows no lists).
    `tags` is the scheme of a source's tags: `auto` finds it out, `repair` is BIO where an I- without B- begins one.
    `header` names the columns of a CSV or TSV file that begins without a line of names. `delimiter` is the character
    that divides its cells, if it is neither the usual one nor plain to see. `quoted` says whether cells may stand in
    quotes (true for csv) or quotes are text like any other (false for tsv, as in GLUE's own files).
    `token_column` and `tag_column` say which columns of a CoNLL file hold tokens and tags, counted from 1; absent, the
    first and the last do.
    """

    uri: str
    # how the file is written; hub is a data set of the Hugging Face Hub
    format: Literal["squad", "csv", "tsv", "jsonl", "parquet", "text", "conll", "hub"]
    revision: str | None = None  # of a Hub data set: a commit, branch or tag; null is the newest
    configuration: str | None = None  # of a Hub data set: its configuration
    columns: dict[str, str | Annotated[list[str], Field(min_length=1)]] = {}
    splits: dict[Literal["train", "validation", "test"], str] = {}
    stream: Stream | None = None
    documents: Literal["blank-lines", "lines"] = "blank-lines"
    max_unpacked_gb: Annotated[float, Field(gt=0)] = 4.0
    separator: Annotated[str, Field(min_length=1)] | None = None
    licence: str = "unknown"  # the licence of the data, for the model card
    tags: Literal["auto", "bio", "iob1", "bioes", "repair"] = "auto"
    header: Annotated[list[str], Field(min_length=1)] | None = None
    quoted: bool = True
    delimiter: str | None = None
    token_column: Annotated[int, Field(ge=1)] | None = None
    tag_column: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _quotes_of_tsv_are_text(cls, data: Any) -> Any:
        tsv = isinstance(data, Mapping) and data.get("format") == "tsv"
        return {"quoted": False, **data} if tsv else data

    @field_validator("delimiter")
    @classmethod
    def _one_character_divides_cells(cls, delimiter: str | None) -> str | None:
        if delimiter is not None and (len(delimiter) != 1 or delimiter.isalnum() or delimiter in '"\r\n\0'):
            raise ValueError('it must be one character that is no letter, digit, quote or line end; a tab is "\\t"')
        return delimiter

    @field_validator("uri", "revision", "configuration")
    @classmethod
    def _public(cls, value: str | None) -> str | None:
        return value and public(value)

    @field_validator("uri")
    @classmethod
    def _short(cls, value: str) -> str:
        return short(value)

    @field_validator("splits")
    @classmethod
    def _all_public(cls, value: dict[Any, str]) -> dict[Any, str]:
        for file in value.values():
            short(public(file))
        return value

    @model_validator(mode="after")
    def _columns_by_number_are_of_conll(self) -> "Source":
        if (self.token_column or self.tag_column) and self.format != "conll":
            reason = "`token_column` and `tag_column` are for conll; in a source of format"
            raise ValueError(f"{reason} {self.format}, `columns` names the columns")
        if self.token_column and self.token_column == self.tag_column:
            raise ValueError("`token_column` and `tag_column` are the same column")
        return self

    @model_validator(mode="after")
    def _cells_are_of_delimited_files(self) -> "Source":
        if (self.header or not self.quoted or self.delimiter) and self.format not in ("csv", "tsv"):
            reason = "`header`, `quoted` and `delimiter` are for csv and tsv; a source of format"
            raise ValueError(f"{reason} {self.format} has none of them")
        return self

    @model_validator(mode="after")
    def _streams_are_text(self) -> "Source":
        if self.stream and self.format != "text":
            raise ValueError(f"`stream` is for format: text; a source of format {self.format} has rows")
        if self.documents == "lines" and (self.format != "text" or self.stream):
            raise ValueError("`documents: lines` is for format: text without `stream`")
        return self


class Scratch(Section):
    """A model from nothing: sizes of a BERT, GPT-2 or T5, and a tokenizer to be trained on the train split.

    `positions` is the longest input in tokens; `feed_forward` is four times the width where it is null.
    `vocabulary` is the most tokens that the tokenizer has, special ones and all.
    """

    family: Literal["bert", "gpt2", "t5"]  # the architecture
    layers: POSITIVE  # number of layers
    heads: POSITIVE  # attention heads of a layer
    width: POSITIVE  # size of a hidden state; divisible by heads
    feed_forward: POSITIVE | None = None
    positions: POSITIVE = 512
    tokenizer: Literal["wordpiece", "bpe", "unigram", "character"]  # the kind of tokenizer that is trained
    vocabulary: POSITIVE = 8_000
    lowercase: bool = False  # whether the tokenizer lowers letters

    @model_validator(mode="after")
    def _fits(self) -> "Scratch":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be divisible by heads {self.heads}")
        if self.tokenizer == "wordpiece" and self.family != "bert":
            raise ValueError(f"wordpiece does not keep white space, and {self.family} writes text: take bpe or unigram")
        return self


class FromScratch(Section):
    scratch: Scratch


class Ingestion(Section):
    """`limit` takes the rows of the smallest content hashes, spread over all groups: always the same ones. A retrain
    takes the frozen test rows of the version in use first."""

    limit: POSITIVE | None = None
    max_bad_share: SHARE = 0.01  # a larger share of rows in quarantine stops the run


class Cleaning(Section):
    mojibake: bool = True  # mend wrongly decoded text
    unicode_form: Literal["NFC", "NFKC", "none"] = "NFC"  # normalize to this form of Unicode
    control_characters: bool = True  # remove control characters
    whitespace: bool = True  # make each run of white space one space
    duplicates: bool = True  # drop rows that repeat another one


class Augmentation(Section):
    """Rates are shares of the training rows that get one child of the kind."""

    typing_noise: SHARE = 0.0  # share of train rows that get a copy with typing mistakes
    paraphrase: SHARE = 0.0  # share of train rows that get a copy in other words
    seed: NATURAL = 17  # seed of what is drawn


class Splitting(Section):
    """Shares of the groups when the source declares no splits; declared splits are kept as they are.

    Rows of one group, and rows with the same main text (context, source, text), stay in one split. `by: text` leaves
    the group out: for sources that name one group for nearly all rows.
    """

    train: SHARE = 0.8  # share of the train split
    validation: SHARE = 0.1  # share of the validation split
    test: SHARE = 0.1  # share of the test split
    salt: str = ""  # another text divides the rows in another way
    by: Literal["group", "text"] = "group"  # what keeps rows together: group and main text, or main text alone

    @model_validator(mode="after")
    def _whole(self) -> "Splitting":
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("train, validation and test must add up to 1")
        return self


class Lora(Section):
    """`merge` also writes the whole weights with the adapter multiplied in."""

    rank: POSITIVE = 8  # rank of the two matrices
    alpha: POSITIVE = 16  # scale of the adapter, divided by the rank
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # dropout before the adapter
    merge: bool = False


class Training(Section):
    """`warmup` is a share of all steps; `beta2` is the decay of AdamW's second moment; `checkpoint_every` counts
    optimizer steps; `freeze` reads like "embeddings, first 2"; `layer_decay` multiplies the learning rate once for
    every layer below the top; the weights kept are those of the best validation, by its loss or its agreement (the
    share of predictions that are right), and `early_stopping` is the number of epochs without a better one before
    training ends (0: never).
    `adapter: lora` trains an adapter beside the frozen base model. `teacher: pipeline:NAME` has the model learn from
    another one's softened probabilities as well: they weigh `teacher_weight`, at `temperature`.
    """

    seed: NATURAL = 42  # seed of weights, order and dropout
    epochs: POSITIVE = 3  # most passes over the train split
    batch_size: POSITIVE = 16  # rows of a forward pass
    accumulation: POSITIVE = 1  # forward passes whose gradients make one optimizer step
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 5e-5  # the highest learning rate
    schedule: Literal["linear", "cosine"] = "linear"  # how the learning rate falls after warmup
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.01  # AdamW's weight decay
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0  # gradients are clipped to this norm
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    freeze: Annotated[str, Field(pattern=r"^(|embeddings|first \d+|embeddings, first \d+)$")] = ""
    # auto is bfloat16 where the machine multiplies it natively, else float32
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    best_by: Literal["loss", "agreement"] = "loss"  # what the best weights are chosen by, on validation
    early_stopping: NATURAL = 2
    checkpoint_every: POSITIVE = 200
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None  # dropout of all layers; null keeps the base model's
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of probability spread over all classes
    adapter: Literal["none", "lora"] = "none"
    lora: Lora = Lora()  # the adapter's sizes, for adapter: lora
    teacher: Annotated[str, Field(pattern=r"^(none|pipeline:[a-z0-9-]+)$")] = "none"
    teacher_weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    temperature: Annotated[float, Field(gt=0)] = 2.0

    FROZEN: ClassVar[re.Pattern[str]] = re.compile(r"^(embeddings)?(?:, )?(?:first (\d+))?$")


class Evaluation(Section):
    """`top` is the number of candidates that raw outputs keep, where a task keeps candidates.

    A task that wants more of this section (how to generate) has a class of its own that extends this one.
    """

    batch_size: POSITIVE = 32  # rows of a forward pass
    top: POSITIVE = 20


class Report(Section):
    mistakes: NATURAL = 20  # how many mistakes the report shows


# What the gates of every task may want; a task's own wants are in its params.py.


class CleaningGate(Section):
    max_dropped_share: SHARE = 0.2  # the largest share of rows that cleaning may drop


class AugmentationGate(Section):
    max_children_share: SHARE = 2 / 3  # the largest share of added copies in the train split


class SplittingGate(Section):
    """`max_shared_share` is for sources that declare splits which share groups (premises, passages): the share of rows
    that may be in one split while others of their group are in another. Where splits are made here there is none.
    """

    max_shared_share: SHARE = 0.0
    min_train_rows: POSITIVE = 10  # fewest rows to train on
    min_validation_rows: POSITIVE = 5  # fewest rows to validate on
    min_test_rows: POSITIVE = 5  # fewest rows to test on
    max_stratum_difference: SHARE = 0.25  # how much the shares of a stratum may differ between splits


class TrainingGate(Section):
    min_loss_drop: float = 0.0  # least fall of the loss in training, first to last


class EvaluationGate(Section):
    max_loss: Annotated[float, Field(gt=0)] = 20.0  # the highest loss on validation and test


def absent(pipeline: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that DVC needs by name and that a pipeline of params.yaml lacks, with their defaults."""
    base, training = pipeline.get("base_model"), pipeline.get("training")
    teacher = training.get("teacher") if isinstance(training, Mapping) else None
    used = [uri.partition(":")[2] for uri in (base, teacher) if isinstance(uri, str) and uri.startswith("pipeline:")]
    defaults: dict[str, Any] = {"after": used[0] if used else NOTHING}
    defaults |= {key: {} for key in STAGES} | {"gates": {key: {} for key in STAGES}}
    return {key: value for key, value in defaults.items() if key not in pipeline}


def absent_gates(pipeline: Mapping[str, Any]) -> dict[str, Any]:
    """The same of its gates; none of a section that is absent itself, or is none."""
    gates = pipeline.get("gates")
    return {key: {} for key in STAGES if key not in gates} if isinstance(gates, Mapping) else {}


class Pipeline(Section):
    """One pipeline. `after` repeats, for DVC's graph, the pipeline whose model it uses: its base model's or its
    teacher's. The sections typed `Any` are the task's; they are checked against its own classes."""

    task: str  # what is learned: a folder of trainwright/tasks
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]  # the language of the texts, as ISO 639 has it (en)
    # package:NAME, folder:PATH, hub:OWNER/NAME@COMMIT, pipeline:NAME or scratch: {…}
    base_model: Annotated[
        Annotated[str, Tag("str")] | Annotated[FromScratch, Tag("mapping")],
        Discriminator(lambda value: "str" if isinstance(value, str) else "mapping"),
    ]
    after: str = NOTHING
    source: Source  # where rows come from
    ingestion: Ingestion = Ingestion()  # which rows are taken
    cleaning: Cleaning = Cleaning()  # what is mended in texts
    augmentation: Augmentation = Augmentation()  # which copies are added to the train split
    splitting: Splitting = Splitting()  # how rows are divided when the source does not say
    tokenization: Any  # how texts become tokens; see the task
    training: Training = Training()  # how the model is trained
    evaluation: SerializeAsAny[Evaluation] = Evaluation()  # how it is run on validation and test
    postprocessing: Any  # how outputs become predictions and scores; see the task
    report: Report = Report()  # what the report shows
    gates: Any  # what each gate demands; see below and the task

    @property
    def scratch(self) -> Scratch | None:
        """What a model from scratch is to be; None where training starts from a model that is there."""
        return self.base_model.scratch if isinstance(self.base_model, FromScratch) else None

    @property
    def base_pipeline(self) -> str | None:
        """The pipeline whose trained model training starts from, if it starts from one."""
        return self.base_uri.partition(":")[2] if self.base_uri.startswith("pipeline:") else None

    @property
    def teacher_pipeline(self) -> str | None:
        """The pipeline whose trained model this one learns from as well, if there is one."""
        return self.training.teacher.partition(":")[2] or None

    @model_validator(mode="after")
    def _adapts_what_is_there(self) -> "Pipeline":
        if self.scratch and self.training.adapter != "none":
            raise ValueError("training.adapter: a model from scratch has no weights that an adapter could stand beside")
        return self

    @model_validator(mode="after")
    def _limit_is_enough_for_the_gates(self) -> "Pipeline":
        """No gate wants more rows than `ingestion.limit` lets in. (Children may fill train.)"""
        splitting = self.gates.splitting
        wanted = {
            "gates.ingestion.min_rows": self.gates.ingestion.min_rows,
            "gates.splitting.min_validation_rows and gates.splitting.min_test_rows": splitting.min_validation_rows
            + splitting.min_test_rows,
        }
        for keys, least in wanted.items():
            if self.ingestion.limit is not None and self.ingestion.limit < least:
                refuses = f"ingestion.limit: {self.ingestion.limit} is less than the {least} rows that"
                raise ValueError(f"{refuses} {keys} want; raise the limit or lower these")
        return self

    @model_validator(mode="after")
    def _keeps_a_stream_whole(self) -> "Pipeline":
        """The rows of a stream are one text: nothing may be taken out between them, nor put there."""
        wanted = (
            ("cleaning", "whitespace", False, "the line ends that rows of a stream end with are part of it"),
            ("cleaning", "duplicates", False, "a line that a stream repeats is part of it both times"),
            ("augmentation", "typing_noise", 0.0, "what follows a row of a stream goes on from it, not from a copy"),
        )
        problems = [
            InitErrorDetails(
                type=PydanticCustomError("stream", reason, {"wanted": json.dumps(value)}),
                loc=(section, name),
                input=getattr(getattr(self, section), name),
            )
            for section, name, value, reason in wanted
            if self.source.stream and getattr(getattr(self, section), name) != value
        ]
        if problems:
            raise ValidationError.from_exception_data(type(self).__name__, problems)
        return self

    @model_validator(mode="after")
    def _waits_for_what_it_uses(self) -> "Pipeline":
        used = {
            f"base_model is pipeline:{self.base_pipeline}": self.base_pipeline,
            f"its teacher is {self.teacher_pipeline}": self.teacher_pipeline,
        }
        reasons = {why: name for why, name in used.items() if name}
        if len(set(reasons.values())) > 1:
            raise ValueError(f"a pipeline can wait for one other, but {' and '.join(reasons)}")
        why, wanted = next(iter(reasons.items()), ("neither base_model nor teacher is another pipeline's", "none"))
        if self.after != wanted:
            raise ValueError(f"after: {self.after} must be `after: {wanted}`, since {why}")
        return self

    @property
    def base_uri(self) -> str:
        """The base model as one word, as its pin has it."""
        return "scratch" if isinstance(self.base_model, FromScratch) else self.base_model

    @field_validator("base_model")
    @classmethod
    def _known_base(cls, value: str | FromScratch) -> str | FromScratch:
        known = r"^(package:[A-Za-z0-9_.-]+|folder:.+|hub:[\w./-]+@[0-9a-f]{7,40}|pipeline:[a-z][a-z0-9-]*)$"
        if isinstance(value, str) and not re.fullmatch(known, value):
            raise ValueError(
                "must be package:NAME, folder:PATH, hub:OWNER/NAME@COMMIT (pin the commit), pipeline:NAME (another "
                "pipeline's model) or a section `scratch:`"
            )
        return public(value) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _task_sections(cls, data: Any) -> Any:
        """Read the task's own sections with the task's own classes."""
        if not isinstance(data, Mapping) or not isinstance(data.get("task"), str):
            return data
        if data["task"] not in tasks.names():
            raise ValueError(f"task {data['task']!r} is not one of {', '.join(tasks.names())}")
        checked, problems = {**absent(data), **data}, []
        if gates := absent_gates(checked):
            checked["gates"] = {**checked["gates"], **gates}
        for name, section in tasks.load(data["task"], "params").SECTIONS.items():
            try:
                checked[name] = section.model_validate(checked[name])
            except ValidationError as error:
                problems += [
                    InitErrorDetails(type=p["type"], loc=(name, *p["loc"]), input=p["input"], ctx=p.get("ctx", {}))
                    for p in error.errors(include_url=False)
                ]
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        return checked


class Params(Section):
    """The whole file. How pipelines are run is no business of a stage: see `trainwright/operations.py`."""

    pipelines: dict[str, Pipeline]
    operations: Any = None
    dispatch: Any = None
    labels: Any = None
    notifications: Any = None

    @model_validator(mode="after")
    def _names(self) -> "Params":
        for name in self.pipelines:
            check_name(name)
            self.chain(name)
            teacher = self.pipelines.get(self.pipelines[name].teacher_pipeline or "")
            if teacher and teacher.task != self.pipelines[name].task:
                raise ValueError(f"{name} cannot learn from a teacher of another task: {teacher.task}")
        return self

    def chain(self, name: str) -> list[str]:
        """The pipelines that `name` needs, each after what it needs itself, and `name` last.

        Raises ValueError where one is not there, or needs itself.
        """
        found = [name]
        while (before := self.pipelines[found[0]].after) != NOTHING:
            if before not in self.pipelines:
                raise ValueError(f"{found[0]} waits for a pipeline {before!r} that is not there")
            if before in found:
                raise ValueError(f"{' waits for '.join([*reversed(found), before])}: no pipeline can wait for itself")
            found.insert(0, before)
        return found

    def pipeline(self, name: str) -> Pipeline:
        """The pipeline called `name`. Raises InputError naming those there are."""
        if name not in self.pipelines:
            remedy = nearest(name, self.pipelines) if self.pipelines else "Run `trainwright add RECIPE` to add one."
            raise InputError(Fault("params.yaml", f"there is no pipeline {name!r}", remedy))
        return self.pipelines[name]


def check_name(name: str) -> None:
    """Raises ValueError where no pipeline may be called `name`."""
    if not NAME.fullmatch(name):
        raise ValueError(f"pipeline name {name[:LONGEST_NAME]!r} must be lower-case words joined by hyphens")
    if len(name) > LONGEST_NAME:
        reason = f"pipeline name {name[:LONGEST_NAME]!r}… has {len(name)} characters; {LONGEST_NAME} are allowed"
        raise ValueError(f"{reason}: it becomes part of file names and tags")
    if name == NOTHING:
        raise ValueError(f"no pipeline may be called {NOTHING!r}: that is what `after` says where it waits for none")


def names(text: str) -> list[str]:
    """The pipelines that the text of a params.yaml has, whatever is wrong with them; none where it cannot be read."""
    try:
        data = parse_yaml(text)
    except (YAMLError, RecursionError, ValueError):
        return []
    pipelines = data.get("pipelines") if isinstance(data, dict) else None
    return [str(name) for name in pipelines] if isinstance(pipelines, dict) else []


def load(path: Path) -> Params:
    """Read and check params.yaml. Raises InputError with one Fault for every problem in the file."""
    data = read_yaml(path)
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise InputError(*faults(path, error, data, Params)) from None
