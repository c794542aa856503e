"""``train.*`` of a configuration -> Hugging Face's TrainingArguments, every name and value checked."""

import dataclasses
import json
import math
import re
import sys
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from pydantic import PydanticUserError, TypeAdapter, ValidationError
from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available

from finetune import objectives
from finetune.config import limits, names
from finetune.config.folders import run_folder
from finetune.config.schema import RunConfig
from finetune.errors import UserError, shown, unknown
from finetune.models.workload import local_batch
from finetune.system import ambient, world
from finetune.system.text import is_verbose, reason
from finetune.training import effects, renamed, sharded, trackers

# What the run itself decides, whatever its kind of task, and where to set it instead.
SET_ELSEWHERE: Mapping[str, str] = {
    "output_dir": "--output",
    "seed": "--seeds",
    "resume_from_checkpoint": "nothing: an unfinished run resumes by itself",
    "remove_unused_columns": "nothing: columns that the model does not take are dropped",
    "do_train": "nothing",
    "do_eval": "nothing",
    "do_predict": "nothing",
    **dict.fromkeys(
        ("push_to_hub", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"),
        "finetune push RUN --to org/name, once the run is finished",
    ),
    "logging_dir": "nothing: TensorBoard's files lie in each run's own folder",
    "hub_token": "the environment variable HF_TOKEN: every record would show it",
    "prediction_loss_only": "nothing: predictions are always made",
    "auto_find_batch_size": "--train.per_device_train_batch_size: variants must not choose their own batches",
    **dict.fromkeys(
        ("bf16_full_eval", "fp16_full_eval"),
        "--train.bf16: evaluating in half precision would cast the weights that are trained",
    ),
    "save_only_model": "nothing: a run could not resume to the same numbers",
    "enable_jit_checkpoint": "nothing: on SIGTERM or SIGUSR1 a run leaves a checkpoint, and goes on from it",
    "ignore_data_skip": "nothing: a run could not resume to the same numbers",
    "restore_callback_states_from_checkpoint": "nothing: a run resumes with the state of every callback",
    "dataloader_drop_last": "nothing: every row is trained on and predicted",
    "eval_do_concat_batches": "nothing",
    "batch_eval_metrics": "nothing",
    "label_names": "nothing: labels are called labels",
}


BATCH: Mapping[str, int] = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
"""Fields whose product is the rows of an optimizer step, with transformers' defaults."""


def resolve_bf16(train: Any) -> Any:
    """``train`` with ``bf16: auto`` made true where a GPU is used that computes in bfloat16, else false.

    torch emulates bfloat16 on older GPUs, slowly: there it is false. Nor is it beside ``fp16``.
    """
    if not isinstance(train, Mapping) or train.get("bf16") != "auto":
        return train
    free = not train.get("use_cpu") and not train.get("fp16") and torch.cuda.is_available()
    return {**train, "bf16": free and torch.cuda.is_bf16_supported(including_emulation=False)}


def shared_batch(options: Mapping[str, Any], processes: int) -> dict[str, int]:
    """The rows of a batch and the batches of a step, of one of the ``processes`` that share a step's rows.

    ``options`` say what a step takes, whoever computes it: that many rows it stays. Raises ``UserError``
    where they are no whole number for each.
    """
    rows, batches = (options.get(name, usual) for name, usual in BATCH.items())
    own = local_batch(rows * batches, rows, processes)
    if own is None:
        unit = processes // math.gcd(processes, batches)
        near = sorted({max(1, rows // unit) * unit, (rows // unit + 1) * unit})
        counts = [str(count) for count in range(1, rows * batches + 1) if rows * batches % count == 0]
        raise UserError(
            f"a step takes {rows * batches} rows (train.per_device_train_batch_size {rows}, {batches} of "
            f"them), which {processes} processes cannot share evenly: start {' or '.join(counts)} processes, "
            f"or set train.per_device_train_batch_size to {' or '.join(map(str, near))}, which is another run"
        )
    return dict(zip(BATCH, (own, rows * batches // (processes * own)), strict=True))


def admitted(kind: str) -> set[str]:
    """The fields of TrainingArguments that a run of one kind of task leaves to its user."""
    objective = objectives.get(kind)
    fields = {field.name for field in dataclasses.fields(objective.arguments)}
    return fields - SET_ELSEWHERE.keys() - objective.set_elsewhere.keys()


def check_train(kind: str, train: Mapping[str, Any]) -> None:
    """Raises ``UserError`` for a name that is no TrainingArguments field, or a value of the wrong type."""
    objective = objectives.get(kind)
    # Whether and how a model is shared out has a check of its own: transformers takes older forms too.
    hints = typing.get_type_hints(objective.arguments) | dict.fromkeys(sharded.FIELDS, Any)
    set_elsewhere = {**SET_ELSEWHERE, **objective.set_elsewhere}
    fields = admitted(kind)
    for name, value in train.items():
        if name in set_elsewhere:
            raise UserError(f"train.{name} is set by the run; use {set_elsewhere[name]}")
        if name not in fields:
            renamed.refuse(name)
            allowed = [f"train.{field}" for field in fields]
            raise unknown("key", f"train.{name}", allowed, names.meant(name))
        _check_type(name, hints[name], value)
    limits.check(train)


def _check_type(name: str, hint: Any, value: Any) -> None:
    """Raises ``UserError`` for a value that is not of the type ``hint``, or none of its choices."""
    try:
        # Strict JSON: 1 does for 1.0 and a name for a choice, but "no" is not False and true is not 1.
        TypeAdapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        # Optional[int] prints as "int | None", a class by its name without the module.
        expected = re.sub(r"\w+\.", "", str(hint)) if typing.get_args(hint) else hint.__name__
        raise UserError(f"train.{name} takes {expected}, not {shown(value)}") from error
    except PydanticUserError:
        return  # a type that only transformers itself can check
    for kind in typing.get_args(hint):
        if isinstance(kind, type) and issubclass(kind, Enum) and isinstance(value, str):
            choices = [choice.value for choice in kind]
            if value not in choices:  # the type takes any text beside the choices
                raise unknown(f"value of train.{name}", value, choices)


def training_arguments(config: RunConfig, folder: Path) -> TrainingArguments:
    """The arguments of one run.

    Raises ``UserError`` where they are wrong, by themselves or together, and where the environment would make
    something else of them.
    """
    ambient.check(config.train)
    objective = objectives.get(config.kind)
    check_train(config.kind, config.train)
    arguments_class = objective.arguments
    effects.check_alone(config.train, arguments_class)
    sharding = sharded.wanted(config.train)
    options: dict[str, Any] = {
        "report_to": "none",
        "run_name": run_folder(Path(), config).as_posix(),  # under which trackers list it
        "disable_tqdm": not (is_verbose() and sys.stderr.isatty()),  # a bar is unreadable in a log
        "dataloader_pin_memory": torch.cuda.is_available(),
        **config.train,
        **objective.settled(config),
        "output_dir": str(folder),
        "seed": config.seed,
    }
    for name in sharded.FIELDS:  # Trainer would share out by accelerate, which has no way to do it on a CPU
        options.pop(name, None)
    options |= shared_batch(options, world.size())
    if world.launched() and not torch.cuda.is_available():
        options["use_cpu"] = True  # or accelerate would take each process for a run of its own
    if options.get("bf16") and not options.get("use_cpu") and not is_torch_bf16_gpu_available():
        raise UserError(
            "train.bf16 true needs a GPU that computes in bfloat16, and there is none: leave it false, or "
            "compute on the CPU with --train.use_cpu true"
        )
    try:
        arguments = arguments_class(**options)
    except (ValueError, TypeError, ImportError) as error:
        options_renamed = re.sub(r"(?<![\w-])--(?=[a-z])", "--train.", reason(error))
        raise UserError(f"train.*: {options_renamed}") from error
    trackers.check(arguments.report_to)
    effects.check(config.train, arguments)
    if sharding is not None:
        sharded.check(arguments)
    if arguments.save_strategy == "best" and arguments.metric_for_best_model is None:
        raise UserError("train.save_strategy best needs --train.metric_for_best_model, e.g. loss")
    if config.early_stopping_patience is not None and not arguments.load_best_model_at_end:
        raise UserError("early_stopping_patience needs --train.load_best_model_at_end true")
    if config.attention.start == "annealed" and arguments.load_best_model_at_end:
        raise UserError(
            "attention.start annealed ends at the variant, and train.load_best_model_at_end may go back to a "
            "model from before: set one of them otherwise"
        )
    return arguments
