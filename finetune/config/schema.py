"""YAML presets and overrides -> one frozen, checked ``RunConfig``; its hash names a run.

Nothing here imports torch. No field has a default: the presets in ``configs/`` hold every default, each
with its unit and source, so that a default lives in one place. ``EARLIER`` only tells what old runs did.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from finetune.errors import UserError, shown, unknown
from finetune.system.parsing import YAML_BYTES, UnreadableError, read_text, yaml_value

STRICT = ConfigDict(extra="forbid")
Kind = Literal["classification", "translation"]
KINDS: dict[Kind, str] = {"classification": "classify", "translation": "translate"}  # kind -> verb
BASELINE = "softmax"  # the arm that every other one is compared with

Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
# Of what memory is taken for at once, a number beyond every use is a slip: the machine would not survive it.
Tokens = Annotated[int, Field(ge=3, le=10**6)]  # room for one beside the two that mark the ends
Entries = Annotated[int, Field(ge=1, le=10**6)]  # of a vocabulary
NewTokens = Annotated[int, Field(ge=1, le=10**6)]
Beams = Annotated[int, Field(ge=1, le=1000)]
Rank = Annotated[int, Field(ge=0, le=10**5)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes
Name = Annotated[str, Field(min_length=1, max_length=1000)]  # Path("") would be the working folder
Dropout = Annotated[float, Field(ge=0, lt=1)]
Parameter = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Which rows are used. ``None`` rows means all of them."""

    source: Name  # auto | hub | sample | a folder
    train_rows: Positive | None
    validation_rows: Positive  # held out of train where the data set has no validation split
    test_rows: Positive | None
    split_seed: Seed  # which rows are taken and which are held out
    drop_empty: bool  # drop rows with an empty text (counted in the record) instead of stopping
    prefix: (
        str | None
    )  # before every input text: a task for T5 ("translate English to German: "), or Marian's >>fra<<
    max_length: Tokens  # tokens of the input text, with its prefix
    max_target_length: Tokens | None  # tokens of the target text; translation only


@dataclass(frozen=True, config=STRICT)
class BatchConfig:
    """What saves time in every arm alike. The order of training is ``train.train_sampling_strategy``."""

    padding: Literal["longest", "max_length"]  # each batch to its longest row, or every row to the limit
    sort_evaluation: bool  # longest first; no number depends on it
    cache_tokens: bool  # tokenised rows are kept on disk for other runs


@dataclass(frozen=True, config=STRICT)
class LoraConfig:
    """Low-rank adapters (peft). ``rank`` 0 fine-tunes every weight."""

    rank: Rank
    alpha: Positive
    dropout: Dropout
    target_modules: list[str] | str | None  # None: peft's choice for the architecture


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """A Hub id, a local folder, or ``scratch:SIZE``."""

    name: Name
    revision: Name | None
    dropout: Dropout | None  # of residual and embedding outputs; None keeps the model's own
    attention_dropout: Dropout | None  # of attention weights, after re-weighting; None keeps the model's own
    vocab_size: Entries  # of the tokenizer that a scratch model trains on the train split
    lora: LoraConfig


@dataclass(frozen=True, config=STRICT)
class AttentionConfig:
    """The normaliser inside attention. ``parameters`` override the variant's own, by name."""

    variant: str
    scope: Literal["all", "encoder", "decoder", "cross"]
    kernel: Literal["auto", "reference", "blocked", "native", "triton"]
    start: Literal["cold", "calibrated", "annealed"]  # how a pretrained model comes to the variant
    annealing_share: Annotated[float, Field(gt=0, le=1)] | None  # of the steps; annealed only
    parameters: dict[str, Parameter]


@dataclass(frozen=True, config=STRICT)
class GenerationConfig:
    """How translations are decoded for BLEU; these settings are part of every record."""

    num_beams: Beams
    length_penalty: Annotated[float, Field(allow_inf_nan=False)]
    max_new_tokens: NewTokens


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """Everything that decides a run's numbers."""

    kind: Kind
    task: str
    pair: str | None
    seed: Seed
    early_stopping_patience: Positive | None  # evaluations without improvement; None never stops early
    metrics: list[str]  # further metrics of evaluate: a .py file, or hub:NAME
    data: DataConfig
    batches: BatchConfig
    model: ModelConfig
    attention: AttentionConfig
    generation: GenerationConfig | None
    train: dict[str, Any]  # transformers.TrainingArguments fields, by their own names


# How runs worked before their configuration said so: their folders can still be loaded.
EARLIER: Mapping[str, Any] = {
    "batches": {"padding": "longest", "sort_evaluation": True, "cache_tokens": False},
    "attention": {"start": "cold", "annealing_share": None},
    "data": {"prefix": None},
}


# What moves no number: where tokens are kept, and what is shown, logged and tracked.
NEUTRAL = frozenset({
    "batches.cache_tokens", "train.report_to", "train.run_name", "train.project", "train.trackio_space_id",
    "train.trackio_bucket_id", "train.trackio_static_space_id", "train.hub_private_repo",
    "train.disable_tqdm", "train.log_level", "train.log_level_replica", "train.log_on_each_node",
})  # fmt: skip


TEXTS = frozenset({"data.prefix"})
"""Keys whose values on the command line are taken to the letter, unless null or in quotation marks."""


def parse_value(text: str, key: str = "") -> Any:
    """Read one command-line value, of ``key``, by the rules of the YAML files.

    >>> [parse_value(text) for text in ("3e-5", "true", "null", "linear", "no")]
    [3e-05, True, None, 'linear', 'no']
    """
    if key in TEXTS and text != "null" and text[:1] not in ('"', "'"):
        return text
    try:
        return yaml_value(text)
    except UnreadableError as error:
        raise UserError(f"cannot read the value {shown(text)}: it is {error}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; raise ``UserError`` where it is missing, malformed, too much or no mapping."""
    try:
        content = yaml_value(read_text(path, YAML_BYTES))
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error
    except UnreadableError as error:
        raise UserError(f"{path} is {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping of keys to values, not {type(content).__name__}")
    return content


def preset_names(kind: Kind) -> list[str]:
    """The presets shipped for a kind of task: ``configs/<kind>-<preset>.yaml``."""
    prefix = f"{kind}-"
    files = [entry.name for entry in resources.files("finetune.configs").iterdir()]
    return sorted(f[len(prefix) : -5] for f in files if f.startswith(prefix) and f.endswith(".yaml"))


def read_preset(kind: Kind, preset: str) -> dict[str, Any]:
    """Read a shipped preset; its ``seeds`` and ``variants`` say which grid it runs by default."""
    if preset not in preset_names(kind):
        raise unknown("preset", preset, preset_names(kind))
    with resources.as_file(resources.files("finetune.configs") / f"{kind}-{preset}.yaml") as path:
        return read_yaml(path)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``base``, mapping by mapping; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nest(key: str, value: Any) -> dict[str, Any]:
    """A dotted name and its value as ``merge`` takes them.

    >>> nest("model.lora.rank", 8)
    {'model': {'lora': {'rank': 8}}}
    """
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def build(values: Mapping[str, Any]) -> RunConfig:
    """Check ``values`` and freeze them; raise ``UserError`` naming the first key that is wrong.

    By way of JSON, whose strict rules take 1 for 1.0 but neither true for 1 nor "5" for 5.
    """
    if values.get("kind") == "classification" and values.get("generation") is not None:
        raise UserError("generation.* says how translations are decoded; a classification task has none")
    if values.get("kind") == "translation" and values.get("generation") is None:
        raise UserError("a translation task needs generation.num_beams, length_penalty and max_new_tokens")
    _check_search(values.get("generation"))
    text = json.dumps(_settled(merge(EARLIER, values)), default=str)
    try:
        return TypeAdapter(RunConfig).validate_json(text, strict=True)
    except ValidationError as error:
        raise _as_user_error(error) from error


def _check_search(generation: Any) -> None:
    """A length penalty weighs hypotheses against each other: with a single one it cannot even be saved."""
    if not isinstance(generation, Mapping) or generation.get("num_beams") != 1:
        return
    penalty = generation.get("length_penalty", 1.0)
    if penalty != 1.0:
        raise UserError(
            f"generation.length_penalty {shown(penalty)} has no effect with generation.num_beams 1: raise "
            "the beams, or leave it at 1.0"
        )


def _settled(values: dict[str, Any]) -> dict[str, Any]:
    """A share of the steps is for the start that has one: equal runs have equal configurations."""
    attention = values.get("attention")
    if not isinstance(attention, Mapping):
        return values
    if attention["start"] != "annealed":
        return {**values, "attention": {**attention, "annealing_share": None}}
    if attention["annealing_share"] is None:
        raise UserError("attention.start annealed needs attention.annealing_share, e.g. 0.3 of the steps")
    return values


def arm(attention: Mapping[str, Any], variant: str, parameters: Collection[str]) -> dict[str, Any]:
    """``attention`` of a grid for its arm ``variant``, which has ``parameters`` (names).

    Parameters go to the variants that have them, a scope and a warm start to those that differ from the
    baseline: softmax within a scope and outside it is softmax everywhere.
    """
    own = {name: value for name, value in attention["parameters"].items() if name in parameters}
    baseline = {"scope": "all", "start": "cold"} if variant == BASELINE else {}
    return {**attention, "variant": variant, "parameters": own, **baseline}


def as_dict(config: RunConfig) -> dict[str, Any]:
    """Plain JSON-ready values, the same for equal configurations."""
    return TypeAdapter(RunConfig).dump_python(config, mode="json")


def but_for_seed(config: RunConfig) -> str:
    """What the runs of one kind have in common: everything but their seed."""
    return json.dumps(as_dict(config) | {"seed": 0})


def config_hash(config: RunConfig) -> str:
    """Twelve hexadecimal digits that name a configuration (SHA-256 of its sorted JSON)."""
    text = json.dumps(as_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> ``{"train.learning_rate": 3e-5}``, the names used on the command line."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def differing_keys(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Dotted names of the keys in which two configurations differ, sorted."""
    one, two = flatten(first), flatten(second)
    absent = object()
    return sorted(key for key in one.keys() | two.keys() if one.get(key, absent) != two.get(key, absent))


def unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The keys in which two configurations differ and that make them two runs: all but the neutral ones."""
    return [key for key in differing_keys(first, second) if key not in NEUTRAL]


def _as_user_error(error: ValidationError) -> UserError:
    """The first of pydantic's complaints as one line, with the nearest key where a key is unknown."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join(location)
    if first["type"] in ("unexpected_keyword_argument", "dataclass_exact_type"):
        return unknown("key", key, _allowed_keys(location[:-1]))
    if first["type"] == "missing":
        return UserError(f"the key '{key}' is missing from the configuration")
    message = first["msg"].replace("an object", "a mapping of keys to values").replace("valid array", "list")
    if first["type"] == "json_invalid":
        return UserError(f"a value of the configuration is no text of letters: {message}")
    return UserError(f"{key}: {message[0].lower()}{message[1:]}, not {shown(first['input'])}")


def _allowed_keys(parents: Iterable[str]) -> list[str]:
    """Dotted names of the fields beside an unknown one."""
    holder: Any = RunConfig
    for part in parents:
        holder = holder.__dataclass_fields__[part].type
        holder = next((t for t in getattr(holder, "__args__", ()) if t is not type(None)), holder)
    prefix = "".join(f"{part}." for part in parents)
    return [prefix + name for name in holder.__dataclass_fields__]
