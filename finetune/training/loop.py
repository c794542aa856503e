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
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.integrations import get_reporting_integration_callbacks

from finetune.config.schema import RunConfig
from finetune.data.collate import collator, evenly
from finetune.models.builder import Built, weights_fingerprint
from finetune.system.memory import peak_memory_mib, reset_peak_memory
from finetune.training.arguments import training_arguments
from finetune.training.computed import ReadBack, attention
from finetune.training.resume import SaveAtEpochEnd
from finetune.training.trainer import ComparableSeq2SeqTrainer, ComparableTrainer, NonFiniteLossError

__all__ = [
    "Answers",
    "NonFiniteLossError",
    "Outcome",
    "answers",
    "build_trainer",
    "epoch_steps",
    "fit",
    "planned_steps",
    "predict",
    "silence",
    "total_steps",
]

UNTRAINED_ROWS = 100
"""Validation pairs that a translator translates before training, evenly spaced."""
HELD_ROWS = 16
"""Test rows, evenly spaced, that the model loaded from its folder must answer as the trained one does."""
TRAINERS = {"classification": ComparableTrainer, "translation": ComparableSeq2SeqTrainer}


@dataclass(frozen=True)
class Answers:
    """What a model says of some rows: their mean loss, and a prediction for each, by row id."""

    loss: float
    predictions: dict[int, Any]


@dataclass(frozen=True)
class Outcome:
    """What a run measured. ``predictions``: test row id -> class index or translated text."""

    predictions: dict[int, Any]
    untrained: Answers  # of the swapped model before training, on the validation rows
    held: Answers  # of the trained model once more, on some test rows
    weights: str  # of the trained model, as ``weights_fingerprint`` has it
    curve: list[dict[str, float]]
    times: dict[str, float | None]  # seconds; training is None for a resumed run
    peak_memory_mib: float | None
    generation: dict[str, Any] | None  # every setting that decided the translations
    computed: dict[str, Any]  # what the built Trainer computed with, as ``computed.read`` gives it


def fit(
    config: RunConfig,
    built: Built,
    splits: Mapping[str, Any],
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    *,
    identity: str = "",
    checkpoint: Path | None = None,
) -> Outcome:
    """Train on ``splits["train"]``, predict ``splits["test"]``, and leave the model in ``folder``.

    ``splits`` hold tokenised rows; those of ``validation`` are predicted before training too. Goes on from
    ``checkpoint`` if there is one; the checkpoints that are written bear ``identity``. Raises
    ``NonFiniteLossError`` at the step where the loss is NaN or infinite.
    """
    trainer = build_trainer(config, built, splits, folder, callbacks)
    trainer.identity = identity
    untrained = _untrained(config, trainer, built, splits["validation"])
    measured = reset_peak_memory()  # the untrained model may write to the limit: its memory says little
    started = time.monotonic()
    set_seed(config.seed)  # whatever building the model drew, dropout starts from the seed
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trained = time.monotonic()
    _check_finite(built.model)
    predictions = predict(config, trainer, built.tokenizer, splits["test"])
    predicted = time.monotonic()
    memory = peak_memory_mib() if measured else None
    trainer.save_model()
    few = splits["test"].select(evenly(len(splits["test"]), HELD_ROWS))
    times: dict[str, float | None] = {
        "train_s": None if checkpoint else trained - started,  # the first part of a resumed run is unknown
        "predict_s": predicted - trained,
    }
    return Outcome(
        predictions=predictions,
        untrained=untrained,
        held=answers(config, built, few, folder),
        weights=weights_fingerprint(built.model),
        curve=_curve(trainer.state.log_history),
        times=times,
        peak_memory_mib=memory,
        generation=built.model.generation_config.to_diff_dict() if config.kind == "translation" else None,
        computed={**_read_back(trainer).facts, "attention": attention(built.model)},
    )


def _read_back(trainer: Any) -> ReadBack:
    return next(each for each in trainer.callback_handler.callbacks if isinstance(each, ReadBack))


def _check_finite(model: torch.nn.Module) -> None:
    """The last step can spoil the weights without a loss to show it, and a NaN has a largest class too."""
    for name, weights in model.named_parameters():
        if not torch.isfinite(weights).all():
            raise NonFiniteLossError(f"the weights {name} are not finite after the last step")


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
    built: Built,
    splits: Mapping[str, Any],
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> Any:
    """The Trainer of a run, with all that it trains and evaluates on."""
    args = training_arguments(config, folder)
    patience = config.early_stopping_patience
    stopping = [] if patience is None else [EarlyStoppingCallback(patience)]
    classify = config.kind == "classification"
    trainer: Any = TRAINERS[config.kind](
        model=built.model,
        args=args,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=collator(built.tokenizer, built.model, config),
        processing_class=built.tokenizer,
        compute_metrics=_accuracy if classify else None,
        preprocess_logits_for_metrics=_best_class if classify else None,
        callbacks=[*stopping, *callbacks, SaveAtEpochEnd()],
    )
    trainer.add_callback(ReadBack(trainer))
    return trainer


def silence(trainer: Any) -> None:
    """Have it tell no tracker."""
    for told in get_reporting_integration_callbacks(trainer.args.report_to):
        trainer.remove_callback(told)


def _best_class(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Keep one class index a row, not the logits; the first of a tuple is the logits."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


def _accuracy(evaluation: Any) -> dict[str, float]:
    return {"accuracy": float(np.mean(evaluation.predictions == evaluation.label_ids))}


def answers(config: RunConfig, built: Built, rows: Any, folder: Path) -> Answers:
    """What ``built.model`` says of tokenised test ``rows`` in evaluation mode, in the precision of the run.

    By a Trainer of its own, which tells no tracker and trains nothing.
    """
    trainer = build_trainer(config, built, {"train": rows, "validation": rows}, folder)
    silence(trainer)
    return _answers(config, trainer, built.tokenizer, rows, "test")


def _untrained(config: RunConfig, trainer: Any, built: Built, rows: Any) -> Answers:
    """What the model says before training.

    A translator on some rows only: it has not learnt to stop, and writes up to the limit in each.
    """
    if config.kind == "translation":
        rows = rows.select(evenly(len(rows), UNTRAINED_ROWS))
    untrained = _answers(config, trainer, built.tokenizer, rows, "untrained")
    vars(trainer).pop("model_preparation_time", None)  # every evaluation while training would tell it again
    return untrained


def _answers(
    config: RunConfig, trainer: Any, tokenizer: PreTrainedTokenizerBase, rows: Any, prefix: str
) -> Answers:
    if config.kind == "classification":
        found = trainer.predict(rows, metric_key_prefix=prefix)
        predictions = dict(zip(rows["row"], map(int, found.predictions), strict=True))
    else:
        batches = trainer.get_eval_dataloader(rows)
        found = trainer.evaluation_loop(batches, "", prediction_loss_only=True, metric_key_prefix=prefix)
        predictions = predict(config, trainer, tokenizer, rows, prefix)
    return Answers(float(found.metrics[f"{prefix}_loss"]), predictions)


def predict(
    config: RunConfig, trainer: Any, tokenizer: PreTrainedTokenizerBase, rows: Any, prefix: str = "test"
) -> dict[int, Any]:
    """Each row's number -> its class or its translation, predicted once, in evaluation mode; trackers see it
    under ``prefix``."""
    if config.kind == "classification":
        answers: list[Any] = [
            int(label) for label in trainer.predict(rows, metric_key_prefix=prefix).predictions
        ]
    else:
        trainer.args.predict_with_generate = True
        ids = trainer.predict(rows.remove_columns("labels"), metric_key_prefix=prefix).predictions
        trainer.args.predict_with_generate = False  # the validation loss while training needs no text
        ids = np.where(ids == -100, tokenizer.pad_token_id, ids)
        answers = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    return dict(zip(rows["row"], answers, strict=True))


def _curve(log_history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The learning curve: what Trainer logged while training, without its closing summary."""
    return [entry for entry in log_history if "loss" in entry or "eval_loss" in entry]
