"""The schema of a record, the upgrade of earlier versions, and the check of what is read from a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12

from finetune.config import schema as configuration
from finetune.config.schema import Seed
from finetune.errors import UserError
from finetune.system.parsing import complaint
from finetune.tasks.base import TASK_TYPES

SCHEMA = "finetune-record"
VERSION = 4
ADVICE = "move or delete its folder and run again"


class Record(TypedDict):
    """Everything known about one run; ``None`` where it is not known yet (or never will be)."""

    schema: str
    version: int
    status: Literal["running", "finished", "failed", "preempted"]  # told to end, and goes on when asked to
    reason: str | None  # why a run failed, or what preempted it
    config: dict[str, Any]
    config_hash: str
    task: dict[str, Any]  # name, kind, pair, labels
    data: dict[str, Any] | None  # kind, location, revision, sample, splits: {name: {rows, fingerprint, from}}
    model: dict[str, Any] | None  # name, revision, architecture, parameters, trainable, pretrained
    attention: dict[str, Any] | None  # variant, parameters, scope, kernel, layers, total, dropout
    versions: dict[str, str | None]
    git: dict[str, Any] | None  # commit, dirty
    hardware: dict[str, Any]  # device, devices (how many it trains on), cpu, cores, memory_gib
    started: str  # ISO 8601, UTC
    finished: str | None
    # train_s (None if resumed), predict_s, total_s: seconds. Of a language model tokens_per_s, that it was
    # trained on (None likewise), and mfu, the share of the device's peak that this is (None if not known).
    times: dict[str, float | None] | None
    peak_memory_mib: float | None
    # With what it computed, read back from the built Trainer (``training.computed``): device, precision,
    # optimizer, scheduler, batch, parallelism, compiled, gradient_*, determinism, attention; None: not known.
    computed: dict[str, Any] | None
    curve: list[dict[str, Any]]  # Trainer's log, one entry a logging step
    untrained: dict[str, Any] | None  # swapped (at once) and not trained: split, rows, loss, accuracy | bleu
    diagnostics: str | None  # file name beside the record, where attention was looked at while training
    metrics: dict[str, Any] | None  # name -> {value, signature}; per_class
    predictions: str | None  # file name beside the record
    probabilities: str | None  # likewise, of a classification; None also of earlier versions
    command: str  # reproduces the run


# What the comparison reads of the nested mappings; further keys are allowed. Only a record that fits both
# this and ``Record`` gets past ``check``, so that nothing behind it has to look again.
Number = Annotated[float, Field(ge=-1e12, le=1e12)]


class _Config(TypedDict):
    seed: Seed
    data: dict[str, Any]
    model: dict[str, Any]
    attention: dict[str, Any]
    train: dict[str, Any]
    generation: dict[str, Any] | None


def _known_kind(kind: str) -> str:
    """Checks that a type of task has this ``kind``; a user's own type is known once its file has run."""
    if kind not in TASK_TYPES:
        kinds = ", ".join(TASK_TYPES)
        raise PydanticCustomError(
            "kind", "'{kind}' is none of the kinds {kinds}", {"kind": kind, "kinds": kinds}
        )
    return kind


class _Task(TypedDict):
    name: str
    kind: Annotated[str, AfterValidator(_known_kind)]
    pair: str | None


class Split(TypedDict):
    """The facts of a split that are read."""

    rows: int
    fingerprint: str


class _Data(TypedDict):
    kind: str
    location: str | None
    revision: str | None
    sample: bool
    splits: dict[str, Split]


class Link(TypedDict):
    """The run whose checkpoint another run began from: where it is, what it was, and what it must share with
    the runs of other variants for the two to be a pair."""

    folder: str
    task: str
    model: str
    variant: str  # with its scope and parameters, where they are not the default
    seed: int
    position: str
    sample: bool
    config_hash: str
    settings: str  # hash of all but attention and seed: of Run.settings()
    initial_weights: str | None
    weights: str  # hash of the files that hold its weights
    new_weights: str  # fingerprint of those that it lacks, drawn from the seed
    pretrained: "Link | None"  # where it began from a run itself


class _Model(TypedDict):
    revision: str | None
    tokenizer: NotRequired[str | None]  # records of earlier days lack this and the next
    initial_weights: NotRequired[str | None]
    pretrained: NotRequired[Link | None]  # of a model that began from a run


class _Attention(TypedDict):
    variant: str
    parameters: dict[str, Number]
    kernel: str
    layers: dict[str, int]
    total: int
    dropout: Number | dict[str, Number] | None


class _Git(TypedDict):
    commit: str
    dirty: bool


class _Hardware(TypedDict):
    device: str | None
    cpu: str | None
    devices: NotRequired[int | None]


class _Times(TypedDict):
    train_s: Number | None
    tokens_per_s: NotRequired[Number | None]
    mfu: NotRequired[Number | None]


class _Score(TypedDict):
    value: Number | None
    signature: NotRequired[str | None]


def _scores(metrics: Any) -> Any:
    """Drops the report per class, whose keys are names of labels; ``Run.per_class`` takes what fits of it."""
    return {k: v for k, v in metrics.items() if k != "per_class"} if isinstance(metrics, dict) else metrics


class _Precision(TypedDict):
    products: str
    weights: list[str]


class _Optimizer(TypedDict):
    groups: list[dict[str, Any]]


class _Computed(TypedDict):
    device: str
    precision: _Precision
    optimizer: _Optimizer
    scheduler: dict[str, Any]
    batch: dict[str, Any]
    parallelism: dict[str, Any]
    attention: dict[str, Any]


class _Nested(TypedDict):
    config: _Config
    task: _Task
    data: _Data | None
    model: _Model | None
    attention: _Attention | None
    git: _Git | None
    hardware: _Hardware
    times: _Times | None
    peak_memory_mib: Number | None
    computed: _Computed | None
    metrics: Annotated[dict[str, _Score] | None, BeforeValidator(_scores)]


_SHAPES: tuple[TypeAdapter[Any], ...] = (TypeAdapter(Record), TypeAdapter(_Nested))


# What records of earlier versions lack. It is not known of them, so that it is None and not a guess.
NEW_IN: Mapping[int, Mapping[str, Any]] = {
    2: {"untrained": None, "diagnostics": None},
    3: {"computed": None},
    4: {"probabilities": None},
}


def upgrade(content: Any) -> Any:
    """Converts the ``content`` of a file to this version; what is no record stays as it is."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        return content
    version = content.get("version")
    if version == 1:
        config = content.get("config")
        if isinstance(config, dict) and isinstance(config.get("attention"), dict):
            config = {**config, "attention": {**configuration.EARLIER["attention"], **config["attention"]}}
        content, version = {**NEW_IN[2], **content, "config": config}, 2
    if version == 2:
        content, version = {**NEW_IN[3], **content}, 3
    if version == 3:
        content = {**NEW_IN[4], **content, "version": VERSION}
    config = content.get("config")
    if isinstance(config, dict) and isinstance(config.get("data"), dict):
        content = {
            **content,
            "config": {**config, "data": {**configuration.EARLIER["data"], **config["data"]}},
        }
    return content


def check(file: Path, content: Any) -> None:
    """Raises ``UserError`` unless ``content``, read from ``file``, is a whole record of this version."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UserError(f"{file} is no record of this program (no schema '{SCHEMA}'): {ADVICE}")
    version = content.get("version")
    if isinstance(version, int) and version > VERSION:
        raise UserError(
            f"the record {file} has version {version}, this program reads {VERSION}: upgrade this program"
        )
    wrong = set(content) ^ set(Record.__annotations__)
    if version != VERSION or wrong:
        keys = f" (missing or unknown keys: {', '.join(sorted(map(str, wrong)))})" if wrong else ""
        raise UserError(f"the record {file} is damaged{keys}: {ADVICE}")
    try:
        # As text, whose strict rules take 1 for 1.0 and no "1"; NaN and infinity are no JSON.
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        for shape in _SHAPES:
            shape.validate_json(text, strict=True)
    except (ValueError, RecursionError) as error:  # a ValidationError is a ValueError
        raise UserError(f"the record {file} is damaged ({complaint(error)}): {ADVICE}") from error
