"""A built model and its data -> a trained model and one prediction per test row, with Trainer's own loop."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations import get_reporting_integration_callbacks

from finetune.config.schema import RunConfig
from finetune.data.collate import evenly
from finetune.models import layers, scale
from finetune.models.builder import Built, weights_fingerprint
from finetune.models.sharding import shard
from finetune.models.unpadded import skip_padding
from finetune.objectives.base import Answers, Objective
from finetune.system import world
from finetune.system.memory import peak_memory_mib, reset_peak_memory
from finetune.system.shares import own_share
from finetune.training import preemption, progress, sharded
from finetune.training.arguments import training_arguments
from finetune.training.computed import ReadBack, attention
from finetune.training.resume import SaveAtEpochEnd
from finetune.training.shared import StepSeeds
from finetune.training.trainer import NonFiniteLossError, comparable

__all__ = [
    "Answers",
    "NonFiniteLossError",
    "Outcome",
    "answers",
    "build_trainer",
    "epoch_steps",
    "fit",
    "planned_steps",
    "silence",
    "total_steps",
]

HELD_ROWS = 16
"""Rows of the scored split, evenly spaced, that the model loaded from its folder must answer alike."""


@dataclass(frozen=True)
class Outcome:
    """Measurements of a run. ``predictions``: id of a row of the scored split -> what is predicted for it."""

    predictions: dict[int, Any]
    untrained: Answers  # of the swapped model before training, on the validation rows
    held: Answers  # of the trained model once more, on some of these rows
    weights: str  # of the trained model, as ``weights_fingerprint`` has it
    curve: list[dict[str, float]]
    times: dict[str, float | None]  # seconds, and targets a second of training; None for a resumed run
    peak_memory_mib: float | None
    generation: dict[str, Any] | None  # every setting that decided what the model wrote
    computed: dict[str, Any]  # what the built Trainer computed with, as ``computed.read`` gives it


def fit(
    config: RunConfig,
    objective: Objective,
    built: Built,
    splits: Mapping[str, Any],
    folder: Path,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    identity: str = "",
    checkpoint: Path | None = None,
) -> Outcome:
    """Trains on ``splits["train"]``, predicts the scored split, and leaves the model in ``folder``.

    ``splits`` hold token rows; those of ``validation`` are predicted before training too. Goes on from
    ``checkpoint`` if there is one; the checkpoints that are written bear ``identity``. Raises
    ``NonFiniteLossError`` at the step where the loss is NaN or infinite, ``PreemptedError`` at the one where
    the run was told to end.
    """
    model, tokenizer = built.model, built.tokenizer
    trainer = build_trainer(config, objective, built, splits, folder, callbacks=callbacks)
    trainer.identity = identity
    rows = objective.untrained_rows(splits["validation"])
    untrained = objective.answer(config, trainer, tokenizer, rows, "untrained")
    # Every evaluation while training would report it again.
    vars(trainer).pop("model_preparation_time", None)

    # The untrained model may write to the limit: its memory says little.
    measured = not world.any_of(not reset_peak_memory())
    started = time.monotonic()
    with preemption.put_off():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trained = time.monotonic()
    # The last step can spoil the weights without a loss to show it, and a NaN has a largest class too.
    for name in spoiled(model):
        raise NonFiniteLossError(f"the weights {name} are not finite after the last step")

    scored = splits[config.scored]
    predictions = objective.predict(config, trainer, tokenizer, scored, config.scored)
    predicted = time.monotonic()
    memory = max(world.gathered(peak_memory_mib())) if measured else None
    trainer.save_model()
    world.wait()  # what rank 0 has saved is read by all
    few = scored.select(evenly(len(scored), HELD_ROWS))
    spent = None if checkpoint else trained - started  # the first part of a resumed run is unknown
    evaluating = sum(entry.get("eval_runtime", 0.0) for entry in trainer.state.log_history)
    read_back = next(each for each in trainer.callback_handler.callbacks if isinstance(each, ReadBack))
    times: dict[str, float | None] = {"train_s": spent, "predict_s": predicted - trained}
    flops = objective.flops_per_token(config, built.base)
    if flops is not None:
        trained_tokens = sum(world.gathered(trainer.trained_tokens))
        speed = None if spent is None else trained_tokens / (spent - evaluating)
        device = torch.cuda.get_device_name() if trainer.args.device.type == "cuda" else "cpu"
        products = read_back.facts["precision"]["products"]
        share = None if speed is None else scale.utilization(speed * flops / world.size(), device, products)
        times |= {"tokens_per_s": speed, "mfu": share}
    weights = weights_fingerprint(model)
    if len({*world.gathered(weights)}) > 1:
        raise RuntimeError("the processes of the run have trained apart: their weights differ at its end")
    return Outcome(
        predictions=predictions,
        untrained=untrained,
        held=answers(config, objective, built, few, folder),
        weights=weights,
        # What Trainer logged while training, without its closing summary.
        curve=[entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry],
        times=times,
        peak_memory_mib=memory,
        generation=objective.generation(model),
        computed={**read_back.facts, "attention": attention(model)},
    )


def spoiled(model: Any) -> list[str]:
    """The names of weights that hold a number which is not finite, in this or another process of the run."""
    own = [name for name, weights in model.named_parameters() if not own_share(weights).isfinite().all()]
    return [name for names in world.gathered(own) for name in names]


def planned_steps(config: RunConfig, rows: int, folder: Path) -> int:
    """Optimizer steps of a whole run, for the header line."""
    return total_steps(training_arguments(config, folder), rows)


def total_steps(args: TrainingArguments, rows: int) -> int:
    """Optimizer steps of a whole training."""
    if args.max_steps > 0:
        return args.max_steps
    return int(np.ceil(epoch_steps(args, rows) * args.num_train_epochs))


def epoch_steps(args: TrainingArguments, rows: int) -> int:
    """Optimizer steps of one pass over the training rows."""
    batches = -(-rows // (args.train_batch_size * max(1, args.world_size)))
    return max(1, -(-batches // args.gradient_accumulation_steps))


def build_trainer(
    config: RunConfig,
    objective: Objective,
    built: Built,
    splits: Mapping[str, Any],
    folder: Path,
    *,
    callbacks: Sequence[TrainerCallback] = (),
) -> Any:
    """The Trainer of a run, with all that it trains and evaluates on."""
    patience = config.early_stopping_patience
    stopping = [] if patience is None else [EarlyStoppingCallback(patience)]
    args = training_arguments(config, folder)
    if (sharding := sharded.wanted(config.train)) is not None and world.launched():
        shard(built.model, on_gpu=args.device.type != "cpu", reshard=sharding.reshard)
    trainer: Any = comparable(objective.trainer)(
        model=built.model,
        args=args,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=objective.collator(built.tokenizer, built.model, config),
        processing_class=built.tokenizer,
        callbacks=[*stopping, *callbacks, SaveAtEpochEnd(), StepSeeds()],
        **objective.trainer_options(),
    )
    if config.batches.padding == "skipped":
        skip_padding(built.model)
    trainer.layers = layers.chosen(
        config.model.layers, args.device.type, half=args.bf16 or args.fp16, compiled=args.torch_compile
    )
    trainer.add_callback(ReadBack(trainer))
    progress.settle(trainer, config.train)
    return trainer


def silence(trainer: Any) -> None:
    """Takes the callbacks of all trackers out of a trainer."""
    for callback in get_reporting_integration_callbacks(trainer.args.report_to):
        trainer.remove_callback(callback)


def answers(config: RunConfig, objective: Objective, built: Built, rows: Any, folder: Path) -> Answers:
    """The loss and predictions of ``built.model`` on token ``rows`` of the test split, in evaluation mode.

    In the precision of the run, by a Trainer of its own, which reports to no tracker and trains nothing.
    """
    trainer = build_trainer(config, objective, built, {"train": rows, "validation": rows}, folder)
    silence(trainer)
    return objective.answer(config, trainer, built.tokenizer, rows, "test")
