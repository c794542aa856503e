"""Measures a few steps of a run: the seconds of each, and the memory at their peak; nothing is written."""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from finetune import objectives
from finetune.config.schema import RunConfig
from finetune.data.dataset import Data
from finetune.data.encoding import tokenize
from finetune.models import warm_start
from finetune.system import world
from finetune.system.memory import peak_memory_mib, release_memory, reset_peak_memory
from finetune.training import loop, rehearsal

WARM_UP = 2
"""Steps that are not counted: kernels are compiled, and memory is taken for the first time."""
STEPS, FEWEST = 6, 2
"""Steps that are counted; the fewer where they take longer than ``ENOUGH_S`` together."""
ENOUGH_S = 20.0


@dataclass(frozen=True)
class Pace:
    """The measured steps of a run."""

    seconds: float  # of a step, the median
    counted: int  # steps that were measured
    steps: int  # of the whole run
    peak_memory_mib: float | None
    device: str


def measure(config: RunConfig, loaded: Data) -> Pace | None:
    """Takes a few steps of a run in whole batches; ``None`` where its loss is not finite at once.

    A scratch model has the tokenizer of the run. Raises ``UserError`` where the run would.
    """
    objective = objectives.of(config)
    train = loaded.splits["train"]
    built = world.first(lambda: rehearsal.built_on(train, config, objective, loaded))
    amount = objective.amount(config)
    count = (WARM_UP + STEPS) * amount.step
    few = {
        name: objective.few(split, name, config, count if name == "train" else rehearsal.ROWS)
        for name, split in loaded.splits.items()
    }
    tokens = tokenize(few, built.tokenizer, objective, config)
    rows = round(len(tokens["train"]) * len(train) / len(few["train"]))  # of the whole run, in a pass
    with TemporaryDirectory() as folder:
        if config.attention.start != "cold":
            warm_start.prepare(config, objective, built, tokens["train"], Path(folder))
        trainer = loop.build_trainer(
            config, objective, built, tokens, Path(folder), callbacks=warm_start.callbacks(config)
        )
        args = trainer.args
        if amount.rows is not None and args.max_steps <= 0:
            rows = min(rows, round(amount.rows / args.num_train_epochs))
        steps = max(1, loop.total_steps(args, rows))
        rehearsal.train_alone(trainer)
        args.max_steps, args.eval_strategy, args.eval_on_start = steps, IntervalStrategy.NO, False
        watch = _Watch()
        trainer.add_callback(watch)
        measured = reset_peak_memory()
        try:
            trainer.train()
        except loop.NonFiniteLossError:
            return None
        peak = peak_memory_mib() if measured else None
    device = torch.cuda.get_device_name() if args.device.type == "cuda" else "cpu"
    del built, trainer
    release_memory()
    counted = watch.seconds[WARM_UP - 1 :] or watch.seconds
    if not counted:  # a run of one step, which has nothing to be compared with
        counted = [watch.first]
    return Pace(median(counted), len(counted), steps, peak, device)


class _Watch(TrainerCallback):
    """Notes how long each step takes from the end of the one before, and ends after a few."""

    def __init__(self) -> None:
        self.seconds: list[float] = []  # of the steps after the first
        self.began = self.first = 0.0
        self.ended: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began = _now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = _now()
        if self.ended is None:
            self.first = now - self.began
        else:
            self.seconds.append(now - self.ended)
        self.ended = now
        counted = self.seconds[WARM_UP - 1 :]
        enough = len(counted) >= STEPS or (len(counted) >= FEWEST and sum(counted) > ENOUGH_S)
        # All processes of a run end together, though each has a clock of its own.
        control.should_training_stop = world.any_of(enough or state.global_step >= state.max_steps)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # what was asked of a GPU may still go on
    return time.monotonic()
