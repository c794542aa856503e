"""Refuses fields of TrainingArguments that would have no effect in a run.

``train.*`` is part of every record, so a value that decides nothing would be a false statement there. Where
an option leaves a value of a shipped preset without effect, a note says so instead.
"""

import dataclasses
from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import TrainingArguments
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, GreedyLR
from transformers.trainer_utils import SchedulerType

from finetune.config.loading import preset_names, read_preset
from finetune.errors import UserError, unknown

SHARED = "the run itself settles how its processes work together"
# Fields that decide nothing here, or not what they say, and why.
IDLE: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph",
            "ddp_backend", "ddp_timeout", "deepspeed", "parallelism_config",
            "local_rank",
            "eval_use_gather_object", "save_on_each_node",
        ),
        SHARED,
    ),
    **dict.fromkeys(
        ("use_liger_kernel", "liger_kernel_config"),
        "Liger replaces layers of some architectures and passes over the others in silence",
    ),
    "accelerator_config": "it would change batches behind the other options, such as "
    "--train.gradient_accumulation_steps",
    "sortish_sampler": "transformers does nothing with it; --batches.sort_evaluation and "
    "--train.train_sampling_strategy group_by_length sort rows",
    "length_column_name": "lengths are counted in tokens",
    "dataloader_persistent_workers": "dropout would draw other numbers from the second epoch on",
    "include_for_metrics": "no metric here reads inputs or losses",
}  # fmt: skip
# Fields whose choices transformers does not name itself, and takes any other value without a word.
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "include_num_input_tokens_seen": (True, False, "all", "non_padding", "no"),
    "debug": ("", "underflow_overflow"),
}
TRACKIO = ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "hub_private_repo")
LOW_RANK = ("galore", "apollo")  # the optimizers that optim_target_modules is for
# The optimizers, by the start of their names, that transformers gives Adam's betas and epsilon.
ADAM = (
    "adam",
    "paged_adam",
    "ademamix",
    "paged_ademamix",
    "apollo",
    "schedule_free_a",
    "schedule_free_r",
    "stable",
)
OVERRULED = ("num_train_epochs",)  # by an option that transformers itself puts above it
UNSCALED = (SchedulerType.CONSTANT, SchedulerType.CONSTANT_WITH_WARMUP)  # they take no arguments
UNWARMED = (SchedulerType.CONSTANT, SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
# What the function of a schedule hands on to, where it takes any name.
WITHOUT_SIGNATURE = {SchedulerType.REDUCE_ON_PLATEAU: ReduceLROnPlateau, SchedulerType.GREEDY: GreedyLR}
SET_BY_TRAINER = ("optimizer", "num_warmup_steps", "num_training_steps", "last_epoch")
BY_METRIC = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)


def check_alone(train: Mapping[str, Any], kind: type[TrainingArguments]) -> None:
    """Raises ``UserError`` for a field of ``train`` that has no effect here whatever the others are.

    Only values other than transformers' default are asked about: a default says nothing.
    """
    given = _given(train, kind)
    for name, why in IDLE.items():
        if given.get(name):
            raise UserError(f"train.{name} {_shown(given[name])} is not for a run here: {why}; leave it out")
    for field in dataclasses.fields(kind):
        choices = CHOICES.get(field.name) or field.metadata.get("choices")
        if choices and field.name in given and given[field.name] not in choices:
            raise unknown(f"value of train.{field.name}", given[field.name], map(_shown, choices))
    optimizer_arguments(train.get("optim_args"))


def check(train: Mapping[str, Any], arguments: TrainingArguments) -> None:
    """Raises ``UserError`` for a field of ``train`` without effect beside the others, or on this device.

    ``arguments`` are the whole of them, with defaults.
    """
    given = _given(train, type(arguments))
    for name, why in _idle_with_others(given, arguments).items():
        raise UserError(f"train.{name} {_shown(given[name])} would have no effect: {why}")
    on_cpu = arguments.device.type == "cpu"
    if on_cpu and arguments.fp16:
        raise UserError(
            "train.fp16 true needs a GPU: on a CPU everything would be computed in float32; leave it false, "
            "or try --train.bf16 true --train.use_cpu true"
        )
    if on_cpu and arguments.tf32:
        raise UserError("train.tf32 true needs a GPU, and this run is on a CPU: leave it out")
    if on_cpu and arguments.torch_empty_cache_steps:
        raise UserError(
            "train.torch_empty_cache_steps is for a GPU's memory, and this run is on a CPU: leave it out"
        )
    _check_schedule(arguments)


def notes(kind: str, train: Mapping[str, Any], arguments: TrainingArguments) -> list[str]:
    """One line for each value of a shipped preset that another option leaves without effect.

    Raises ``UserError`` where no preset of this kind holds the value: it was asked for. That max_steps
    decides and not num_train_epochs is no mistake, as transformers has it.
    """
    shipped = [read_preset(kind, preset)["train"] for preset in preset_names(kind)]
    given, lines = _given(train, type(arguments)), []
    schedule, optimizer = arguments.lr_scheduler_type, arguments.optim.value
    another = not optimizer.startswith(ADAM)
    of_adam = f"it is Adam's, and train.optim is {optimizer}"
    rows = [
        ("num_train_epochs", arguments.max_steps > 0, f"train.max_steps {arguments.max_steps} decides"),
        ("save_steps", *_another_strategy("save_strategy", arguments)),
        ("warmup_steps", schedule in UNWARMED, f"train.lr_scheduler_type {schedule.value} has no warm-up"),
        ("adam_beta1", another and "lion" not in optimizer, of_adam),  # Lion has betas of its own
        ("adam_beta2", another and "lion" not in optimizer, of_adam),
        ("adam_epsilon", another, of_adam),
    ]
    for name, idle, why in rows:
        if not idle or name not in given:
            continue
        fault = f"train.{name} {_shown(given[name])} has no effect: {why}"
        if name not in OVERRULED and not any(preset.get(name) == given[name] for preset in shipped):
            raise UserError(fault)
        lines.append(f"note: {fault}")
    return lines


def optimizer_arguments(text: str | None) -> dict[str, str]:
    """``optim_args`` by name, as transformers reads them; ``UserError`` where it could not.

    >>> optimizer_arguments("momentum=0.9, nesterov=true")
    {'momentum': '0.9', 'nesterov': 'true'}
    """
    arguments = {}
    for part in text.replace(" ", "").split(",") if text else []:
        name, _, value = part.partition("=")
        if not name or not value or "=" in value:
            raise UserError(f"train.optim_args takes name=value, with commas between several, not {text!r}")
        arguments[name] = value
    return arguments


def _given(train: Mapping[str, Any], kind: type[TrainingArguments]) -> dict[str, Any]:
    """The fields of ``train`` whose value is not the default."""
    defaults = {
        field.name: field.default_factory()
        if field.default_factory is not dataclasses.MISSING
        else field.default
        for field in dataclasses.fields(kind)
    }
    return {name: value for name, value in train.items() if value != defaults[name]}


def _idle_with_others(given: Mapping[str, Any], arguments: TrainingArguments) -> dict[str, str]:
    """Fields that have no effect beside the others, and why."""
    schedule, optimizer = arguments.lr_scheduler_type, arguments.optim.value
    best = arguments.load_best_model_at_end or arguments.save_strategy == "best" or schedule in BY_METRIC
    no_best = "nothing asks for the best model: add --train.load_best_model_at_end true"
    unevaluated = arguments.eval_strategy == "no"
    no_evaluation = "nothing is evaluated while training: add --train.eval_strategy epoch"
    whole = not arguments.activation_checkpointing
    no_checkpointing = "--train.activation_checkpointing is false"
    alone = arguments.dataloader_num_workers == 0
    no_workers = "there are no workers: add --train.dataloader_num_workers 2"
    rows = [
        (
            "max_steps",
            arguments.max_steps < 1,
            "steps count from 1; -1 leaves them to --train.num_train_epochs",
        ),
        ("lr_scheduler_kwargs", schedule in UNSCALED, f"train.lr_scheduler_type {schedule.value} takes none"),
        (
            "optim_target_modules",
            not optimizer.startswith(LOW_RANK),
            f"it is for the optimizers {' and '.join(LOW_RANK)}, and train.optim is {optimizer}",
        ),
        ("eval_steps", *_another_strategy("eval_strategy", arguments)),
        ("eval_delay", unevaluated, no_evaluation),
        ("load_best_model_at_end", unevaluated, no_evaluation),
        ("save_strategy", unevaluated and arguments.save_strategy == "best", no_evaluation),
        ("metric_for_best_model", not best, no_best),
        ("greater_is_better", not best, no_best),
        ("activation_checkpointing_kwargs", whole, no_checkpointing),
        ("gradient_checkpointing_kwargs", whole, no_checkpointing),
        ("gradient_checkpointing", whole and given.get("gradient_checkpointing") is True, no_checkpointing),
        ("dataloader_multiprocessing_context", alone, no_workers),
        (
            "dataloader_in_order",
            True,
            "batches would come in another order each time, or there are no workers",
        ),
        (
            "train_sampling_strategy",
            arguments.train_sampling_strategy == "batch_rebalance",
            "it makes other batches for another number of devices; group_by_length saves padding",
        ),
        ("data_seed", arguments.train_sampling_strategy == "sequential", "rows come in their own order"),
        *(
            (name, "trackio" not in arguments.report_to, "it is for --train.report_to trackio")
            for name in TRACKIO
        ),
    ]
    return {name: why for name, idle, why in rows if idle and name in given}


def _another_strategy(name: str, arguments: TrainingArguments) -> tuple[bool, str]:
    strategy = getattr(arguments, name).value
    return strategy != "steps", f"train.{name} is {strategy}; add --train.{name} steps"


def _check_schedule(arguments: TrainingArguments) -> None:
    """Raises ``UserError`` for arguments that the schedule does not have, or lacks."""
    kind, given = arguments.lr_scheduler_type, arguments.lr_scheduler_kwargs or {}
    if not isinstance(given, Mapping):
        raise UserError(
            f"train.lr_scheduler_kwargs takes names and values, e.g. {{num_cycles: 2}}, not {given!r}"
        )
    rule = WITHOUT_SIGNATURE.get(kind, TYPE_TO_SCHEDULER_FUNCTION[kind])
    own = {name: one for name, one in signature(rule).parameters.items() if name not in SET_BY_TRAINER}
    for name in given:
        if name not in own:
            raise unknown(f"name in train.lr_scheduler_kwargs of {kind.value}", name, own)
    for name, one in own.items():
        if one.default is Parameter.empty and name not in given:
            raise UserError(f"train.lr_scheduler_type {kind.value} needs --train.lr_scheduler_kwargs.{name}")


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
