"""YAML presets and overrides -> one frozen, checked ``RunConfig``; its hash names a run.

Nothing here imports torch. No field has a default: the presets in ``configs/`` hold every default, each
with its unit and source, so that a default lives in one place. ``EARLIER`` only says what runs did
before a key existed.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from finetune.config import choices
from finetune.config.choices import KernelChoice, Scope

STRICT = ConfigDict(extra="forbid")
BASELINE = choices.BASELINE
OWN = "own"  # of model.position: the positional encoding that a model has of itself
HALF = {"bf16": "bfloat16", "fp16": "float16"}  # train.NAME -> torch's name of the half precision

Positive = Annotated[int, Field(ge=1)]
# Of what memory is taken for at once, a number beyond every use is a slip: the machine would not survive it.
Tokens = Annotated[int, Field(ge=3, le=10**6)]  # room for one beside the two that mark the ends
Entries = Annotated[int, Field(ge=1, le=10**6)]  # of a vocabulary
StepTokens = Annotated[int, Field(ge=1, le=10**9)]
NewTokens = Annotated[int, Field(ge=1, le=10**6)]
Trials = Annotated[int, Field(ge=1, le=10_000)]
Beams = Annotated[int, Field(ge=1, le=1000)]
Rank = Annotated[int, Field(ge=0, le=10**5)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes
Name = Annotated[str, Field(min_length=1, max_length=1000)]  # Path("") would be the working folder
Dropout = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Parameter = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LayersChoice = Literal["torch", "onednn"]


@dataclass(frozen=True, config=STRICT)
class ColumnsConfig:
    """Columns of a table of the user's own (--task csv): text and label, or source and target."""

    text: list[Name] | None = None  # one or several, joined by a space; classification
    label: Name | None = None  # names or whole numbers; classification
    source: Name | None = None  # translation
    target: Name | None = None  # translation


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Which rows are used."""

    source: Name  # auto, hub, sample, a folder, or a file where there are columns
    train_rows: Positive | None  # after the hold-out; None takes all of them
    validation_rows: Positive  # held out of train where the data set has no validation split
    test_rows: Positive | None  # None takes all of them
    split_seed: Seed  # which rows are taken and which are held out
    drop_empty: bool  # drop rows with an empty text (counted in the record) instead of stopping
    prefix: str | None  # before every input text: "translate English to German: " (T5), >>fra<< (Marian)
    max_length: Tokens  # tokens of the input text, with its prefix
    max_target_length: Tokens | None  # tokens of the target text; translation only
    # The configuration, record and hash of a declared task are without these two, but texts may lack a test.
    columns: ColumnsConfig | None = None  # of a table of the user's own, which makes up the task (--task csv)
    test_share: Share | None = None  # of a table without a test split, held out as one


@dataclass(frozen=True, config=STRICT)
class BatchConfig:
    """How rows are batched; ``train.train_sampling_strategy`` orders them. Alike for every variant."""

    padding: Literal[
        "longest", "skipped", "max_length"
    ]  # to the batch's longest row; the same, but none in the layers; to data.max_length
    sort_evaluation: bool  # longest first; no number depends on it
    cache_tokens: bool  # tokenized rows are kept on disk for other runs


@dataclass(frozen=True, config=STRICT)
class LoraConfig:
    """Low-rank adapters (peft). ``rank`` 0 fine-tunes every weight."""

    rank: Rank  # of the two low-rank matrices; 0: no adapters
    alpha: Positive  # adapters are scaled by alpha / rank
    dropout: Dropout  # of what goes into an adapter
    target_modules: list[str] | str | None  # None: peft's choice for the architecture


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """The model that is fine-tuned."""

    name: Name  # a Hub id, a local folder, scratch:SIZE, or pretrained:FOLDER of runs
    revision: Name | None  # commit, branch or tag of a Hub model; None is its main branch
    dropout: Dropout | None  # of residual and embedding outputs; None keeps the model's own
    attention_dropout: Dropout | None  # of attention weights, after re-weighting; None keeps the model's own
    vocab_size: Entries  # of the tokenizer that a scratch model trains on the train split
    lora: LoraConfig
    # The configuration, record and hash of a model with its own encoding are without these two.
    position: Name = OWN  # positional encoding, one of finetune.positions; own: what the model has
    position_parameters: dict[str, Parameter] = field(
        default_factory=dict
    )  # over the encoding's own, by name
    # The configuration, record and hash of a model with torch's layers are without it.
    layers: LayersChoice = "torch"  # what computes linear layers and dropout in training steps


@dataclass(frozen=True, config=STRICT)
class VariantFile:
    """The file that declares a variant of the user's own."""

    path: Name  # as --attention has it: path/to/mine.py, or path/to/mine.py:NAME
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # of its content


@dataclass(frozen=True, config=STRICT)
class AttentionConfig:
    """The variant inside attention, and how the model comes to it."""

    variant: str  # its name
    scope: Scope  # which attention of the model is swapped
    kernel: KernelChoice  # what computes it; auto takes the fastest for the device
    start: Literal["cold", "calibrated", "annealed"]  # how a pretrained model comes to the variant
    annealing_share: Annotated[float, Field(gt=0, le=1)] | None  # of the steps; annealed only
    parameters: dict[str, Parameter]  # over the variant's own, by name
    file: VariantFile | None = None  # of a variant that is not built in; a record of one that is lacks it


@dataclass(frozen=True, config=STRICT)
class GenerationConfig:
    """How translations are decoded for BLEU; these settings are part of every record."""

    num_beams: Beams  # hypotheses; 1 is greedy search
    length_penalty: Annotated[float, Field(allow_inf_nan=False)]  # exponent of the length
    max_new_tokens: NewTokens  # that a translation may have


SHORTEST_WINDOW = 8
"""Tokens of the shortest window that makes a language model at all, marks among them."""


@dataclass(frozen=True, config=STRICT)
class LanguageConfig:
    """How a language model reads texts in training, and how it is scored."""

    documents: Literal["cross", "isolate"]  # whether attention crosses documents that share a window
    train_tokens: Positive | None  # of the training split, in its order; None takes all
    tokens_per_step: StepTokens  # of an optimizer step: a whole number of windows of data.max_length
    eval_lengths: list[Tokens]  # at each of which the same tokens are scored; may be empty
    scored_tokens: Tokens | None  # the last tokens of those windows, which are scored; causal only
    test_windows: Positive | None  # of those windows, at most; None takes all
    stride: (
        Annotated[int, Field(ge=1, le=10**6)] | None
    )  # tokens between windows of data.max_length; None: they do not overlap
    masked_share: Share | None  # of the tokens; masked language models only


@dataclass(frozen=True, config=STRICT)
class UntilConfig:
    """The plan of a study that adds seeds until a difference is known (``statistics.sequential``)."""

    margin: Parameter  # of equivalence, and of how far an interval may reach from its middle; reported units
    first: Annotated[int, Field(ge=2, le=1000)]  # seeds, of each variant, before anyone looks
    step: Positive  # seeds that are added at a time
    most: Annotated[int, Field(ge=2, le=1000)]  # seeds; the budget


@dataclass(frozen=True, config=STRICT)
class SearchRange:
    """The values that a search may try for a key: numbers from ``low`` to ``high``."""

    low: Annotated[float, Field(allow_inf_nan=False)]
    high: Annotated[float, Field(allow_inf_nan=False)]
    log: bool = False  # whether their logarithms are drawn evenly, as for a learning rate


@dataclass(frozen=True, config=STRICT)
class TuningConfig:
    """How the values of some keys were chosen: the same for every variant, on validation rows alone."""

    keys: dict[str, list[Any] | SearchRange]  # by dotted name: the values tried, or the range searched
    search: Literal["grid", "tpe"]  # every combination of the values, or so many trials of Optuna's TPE
    trials: Trials  # of a variant: combinations of values that were tried, those that failed among them
    seeds: list[Seed]  # of each trial; none of them is a seed of the comparison
    metric: Name  # of the validation rows, whose best mean over the seeds is chosen


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """Everything that decides a run's numbers."""

    kind: Name  # of task; an objective of that name does the rest
    task: str  # its name, or the path of the file that declares it
    pair: str | None  # languages, source first; translation only
    seed: Seed  # of the initial weights, the order of rows and the dropout
    early_stopping_patience: Positive | None  # evaluations without improvement; None never stops early
    metrics: list[str]  # further metrics of evaluate: a .py file, or hub:NAME
    data: DataConfig
    batches: BatchConfig
    model: ModelConfig
    attention: AttentionConfig
    generation: GenerationConfig | None
    train: dict[str, Any]  # transformers.TrainingArguments fields, by their own names
    # The configuration, record and hash of another kind of task are without it.
    language: LanguageConfig | None = None  # language models only
    until: UntilConfig | None = None  # of a study with such a plan; all others are without it
    # Set by ``tune`` of a grid (finetune.studies.tuning); those of all other runs are without them.
    trial: bool = False  # a trial of a tuning: it is scored on validation rows, and is given no test row
    tuning: TuningConfig | None = None  # of a run whose values were chosen by trials

    @property
    def scored(self) -> Literal["test", "validation"]:
        """The split that the trained model predicts."""
        return "validation" if self.trial else "test"


BY_TUNING = frozenset({"trial", "tuning"})
"""What ``tune`` of a grid sets in its runs."""
BY_GRID = BY_TUNING | {"kind", "task", "pair", "seed"}
"""What a grid or an option of its own sets, and no file of values or option --KEY."""

# What runs did before there were these keys: their folders can still be loaded.
EARLIER: Mapping[str, Any] = {
    "batches": {"padding": "longest", "sort_evaluation": True, "cache_tokens": False},
    "attention": {"start": "cold", "annealing_share": None},
    "data": {"prefix": None},
}


# What moves no number: where files and tokens are kept, what is shown, logged and tracked, and whether a
# model is shared out among the processes of a run.
NEUTRAL = frozenset({
    "attention.file.path",
    "batches.cache_tokens", "train.report_to", "train.run_name", "train.project", "train.trackio_space_id",
    "train.trackio_bucket_id", "train.trackio_static_space_id", "train.hub_private_repo",
    "train.fsdp", "train.fsdp_config", "train.fsdp_config.version",
    "train.fsdp_config.reshard_after_forward",
    "train.disable_tqdm", "train.log_level", "train.log_level_replica", "train.log_on_each_node",
})  # fmt: skip
