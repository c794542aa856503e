"""Starts of a swapped model (cold, calibrated, annealed), and their distance from the original model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from finetune.attention.annealing import Annealing
from finetune.attention.calibrate import RowSums, cosine, fold, pooled, row_sums
from finetune.attention.swap import forget_calls
from finetune.config.schema import RunConfig
from finetune.models.builder import Built, ModelObjective
from finetune.models.checkpoint import save_calibration

ROWS = 128
"""The first rows of the train split, on which row sums are measured: some thousand attention rows a head."""


def prepare(
    config: RunConfig, objective: ModelObjective, built: Built, train: Any, folder: Path
) -> dict[str, Any] | None:
    """Calibrates the model where ``attention.start`` says so; facts for the record, None for softmax alone.

    ``train`` holds token rows. The mean row sums are those before anything is folded; ``cosine`` compares
    the mean last hidden states of the rows with those under softmax, ``cosine_cold`` before a calibration.
    A calibration is written into ``folder``, since adapters do not hold the weights that it changed.
    """
    if not built.swap.swapped:
        return None
    attention, model = config.attention, built.base
    trained_on_gpu = torch.cuda.is_available() and not config.train.get("use_cpu")
    model.to("cuda" if trained_on_gpu else "cpu")  # where it is trained, on the same kernel
    batches = _batches(config, objective, built, train)
    sums: RowSums = row_sums(model, batches)
    origin, cold = (pooled(model, batches, share) for share in (0.0, 1.0))
    started = cold
    if attention.start == "calibrated":
        fold(model, sums)
        save_calibration(sums, folder)
        started = pooled(model, batches, share=1.0)
    elif attention.start == "annealed":
        started = origin
    forget_calls(model)  # made here: the record counts those of the training
    return {
        "kind": attention.start,
        "rows": min(ROWS, len(train)),
        "row_sums": sums,
        "cosine_cold": cosine(cold, origin),
        "cosine": cosine(started, origin),
    }


def callbacks(config: RunConfig) -> list[TrainerCallback]:
    """The callbacks that the start needs while training."""
    share = config.attention.annealing_share
    return [] if share is None else [Annealing(share)]


def _batches(
    config: RunConfig, objective: ModelObjective, built: Built, train: Any
) -> list[Mapping[str, Tensor]]:
    """The first ``ROWS`` training rows, in batches of the size that is trained with."""
    pad = objective.collator(built.tokenizer, built.model, config)
    rows = [train[i] for i in range(min(ROWS, len(train)))]
    size = int(config.train["per_device_train_batch_size"])
    batches = [pad(rows[start : start + size]) for start in range(0, len(rows), size)]
    return [{name: torch.as_tensor(values) for name, values in batch.items()} for batch in batches]
