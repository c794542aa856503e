"""The limits of numbers under ``train.*``; nothing here imports torch, so that a study's plan can ask.

transformers takes others silently, and stops at them later, or never.
"""

from collections.abc import Mapping
from typing import Any

from finetune.errors import UserError, shown

SMALLEST: Mapping[str, float] = {
    "max_steps": -1,  # of no such limit
    **dict.fromkeys(
        (
            "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
            "eval_accumulation_steps", "save_total_limit", "dataloader_prefetch_factor",
            "torch_empty_cache_steps",
        ),
        1,
    ),
    **dict.fromkeys(
        (
            "logging_steps", "eval_steps", "save_steps", "eval_delay", "dataloader_num_workers",
            "num_train_epochs", "learning_rate", "weight_decay", "warmup_steps", "max_grad_norm",
            "label_smoothing_factor", "neftune_noise_alpha", "adam_beta1", "adam_beta2", "adam_epsilon",
            "data_seed",
        ),
        0,
    ),
}  # fmt: skip
LARGEST: Mapping[str, float] = {
    "label_smoothing_factor": 1,
    "adam_beta1": 1,
    "adam_beta2": 1,
    "data_seed": 2**32 - 1,  # as every seed
    # Far beyond every recipe: what is larger is a slip, and would not come to an end.
    "num_train_epochs": 100_000,
    "dataloader_num_workers": 1_000,
    **dict.fromkeys(
        (
            "max_steps", "per_device_train_batch_size", "per_device_eval_batch_size",
            "gradient_accumulation_steps",
        ),
        10**9,
    ),
}  # fmt: skip
STEPS = ("logging", "eval", "save")  # each has a strategy, and a number of steps for the strategy steps


def check(train: Mapping[str, Any]) -> None:
    """Raises ``UserError`` for a number that no run could go by; types are left to ``TrainingArguments``."""
    for name, value in train.items():
        if not isinstance(value, int | float):
            continue
        if name in SMALLEST and value < SMALLEST[name]:
            raise UserError(f"train.{name} must be at least {SMALLEST[name]}, not {shown(value)}")
        if name in LARGEST and value > LARGEST[name]:
            raise UserError(f"train.{name} must be at most {LARGEST[name]:,}, not {shown(value)}")
    if train.get("num_train_epochs") == 0 and not train.get("max_steps", -1) > 0:
        raise UserError(
            "train.num_train_epochs 0 trains nothing: what a model does before its training is in the record "
            "of every run; set it above 0, or set --train.max_steps"
        )
    for name in STEPS:
        if train.get(f"{name}_strategy") == "steps" and train.get(f"{name}_steps") == 0:
            raise UserError(
                f"train.{name}_strategy steps needs a train.{name}_steps above 0: a number of steps, or a "
                "share of them below 1"
            )
    warmup = train.get("warmup_steps")
    if isinstance(warmup, float) and warmup > 1 and not warmup.is_integer():
        raise UserError(
            f"train.warmup_steps must be a whole number, or below 1 a share of the steps, not {warmup!r}"
        )
