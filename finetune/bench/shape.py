"""What a bench.json must hold for tables and figures to be made of it; further keys are welcome."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12

Number = Annotated[float, Field(ge=0, le=1e15)]
Count = Annotated[int, Field(ge=1, le=10**12)]


class Spread(TypedDict):
    median: Number
    low: Number
    high: Number
    repeats: Count


class ImplementationRow(TypedDict):
    variant: str
    kernel: str


class Timed(TypedDict):
    ratio: Spread | None
    control: Spread | None
    of_peak: Number | None


class Row(ImplementationRow):
    mask: Literal["padded", "whole", "causal"]
    batch: Count
    length: Count
    heads: Count
    width: Count
    dtype: str
    reason: str | None
    failed: bool  # something went wrong, as against: was left out
    forward: Timed | None
    both: Timed | None
    memory_mib: Number | None
    memory_ratio: Number | None
    least_mib: Number | None
    memory_reason: str | None
    memory_failed: bool


class Growth(ImplementationRow):
    batch: Count
    lengths: tuple[Count, Count]
    mib: tuple[Number, Number]
    ratio: Number


class Deviation(ImplementationRow):
    mask: str
    width: Count
    output: Number
    gradients: Number
    exact: bool


class Peak(TypedDict):
    flops: Number
    source: str


class Attention(TypedDict):
    peak: Peak | None
    control: ImplementationRow
    automatic: dict[str, str]
    errors: list[Deviation]
    rows: list[Row]
    growth: list[Growth]


class Speeds(TypedDict):
    rows_per_s: Spread
    time_ratio: Spread
    speed_ratio: Spread


class SetupRow(TypedDict):
    name: str
    computes: str
    train: Speeds
    evaluate: Speeds


class Rows(TypedDict):
    rows: Count
    tokens_mean: Number


class StepsData(TypedDict):
    source: str
    train: Rows
    test: Rows


class Steps(TypedDict):
    model: str
    parameters: Count
    data: StepsData
    batch: Count
    evaluation_batch: Count
    padded_to: Count
    arms: list[SetupRow]  # the setups


class PretrainingRow(TypedDict):
    length: Count
    position: str
    name: str
    computes: str
    parameters: Count
    batch: Count
    step_tokens: Count
    tokens_per_s: Spread
    time_ratio: Spread
    speed_ratio: Spread


class NotPretrained(TypedDict):
    length: Count
    position: str
    reason: str


class Texts(TypedDict):
    source: str


class Pretraining(TypedDict):
    model: str
    data: Texts
    steps: Count
    rows: list[PretrainingRow]
    absent: list[NotPretrained]


class Settings(TypedDict):
    device: str
    quick: bool
    seed: int
    tokens: Count


class Versions(TypedDict):
    python: str
    torch: str | None
    transformers: str | None


class Git(TypedDict):
    commit: str
    dirty: bool


class Hardware(TypedDict):
    device: str | None
    cpu: str | None
    cores: int | None
    memory_gib: Number | None


class Result(TypedDict):
    """The whole file."""

    schema: Literal["finetune-bench"]
    version: Literal[1]
    command: str
    started: str
    finished: bool
    seconds: Number
    settings: Settings
    threads: Count
    versions: Versions
    git: Git | None
    hardware: Hardware
    attention: Attention | None
    steps: Steps | None
    pretraining: Pretraining | None


SHAPE = TypeAdapter(Result)
