"""What is told of a run while it goes on: one line at the foot of a terminal, or plain lines now and then."""

import time
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_utils import has_length

from finetune.metrics import registry
from finetune.system import live
from finetune.system.durations import duration
from finetune.system.text import is_quiet, is_verbose, say

APART_S, SHARE = 10.0, 0.05
"""Seconds, and share of the steps, that lie between two plain lines without an evaluation, at least."""
LEAST_S = 1.0  # seconds of steps from which the time of all others is estimated


class Display(Enum):
    """What is shown of a training."""

    NOTHING = "nothing"
    TRAINERS = "Trainer's own bars and dictionaries"
    LINES = "plain lines"
    LIVE = "a live line on a terminal, plain lines elsewhere"


def display(train: Mapping[str, Any]) -> Display:
    """What to show of a run with the settings ``train``, whose ``disable_tqdm`` says what is wanted."""
    bars = train.get("disable_tqdm")
    if is_quiet():
        return Display.NOTHING
    if is_verbose() or bars is False:
        return Display.TRAINERS
    return Display.LIVE if bars is None else Display.LINES


def settle(trainer: Any, train: Mapping[str, Any]) -> None:
    """Takes Trainer's own bars and dictionaries out of a trainer, unless they are to be shown."""
    if display(train) is not Display.TRAINERS:
        for printing in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(printing)


class Progress(TrainerCallback):
    """Tells how far a run is. ``place``: its place in its grid, such as ``[1/2]``; ``scored``: the split that
    it predicts at its end."""

    def __init__(self, place: str, scored: str = "test") -> None:
        self.place = place
        self.predicting = f"predicting the {scored} rows"
        self.foot = live.current()
        self.loss = ""
        self.measured: list[str] = []  # by the last evaluation
        self.batch, self.batches = 0, ""  # of the evaluation that goes on, and of how many
        self.step = self.steps = 0
        self.began: tuple[int, float] | None = None  # step and time (monotonic) from which steps are counted
        self.started = 0.0
        self.told = (0, 0.0)  # step and time of the last plain line
        self.done = False
        if self.foot is not None:
            self.foot.lines["run"] = lambda: [f"{self.place} {self.parts()[0]}", *self.parts()[1:]]

    def parts(self) -> list[str]:
        """``step 12 of 500``, ``about 70 s left``, ``loss 0.43``, ``accuracy 87.25%``."""
        batch = f"batch {self.batch:,}{self.batches}" if self.batch else ""
        if self.done or not self.steps:
            what = self.predicting if self.done else "answering validation rows before training"
            return [what, *filter(None, [batch])]
        left = self.left()
        estimate = "" if left is None else f"about {duration(left)} left"
        evaluating = f"evaluating: {batch}" if batch else ""
        position = f"step {self.step:,} of {self.steps:,}"
        return [position, *filter(None, [evaluating, estimate, self.loss]), *self.measured]

    def left(self) -> float | None:
        """Seconds of the steps that are left, at the pace of those so far in this process."""
        if self.began is None or self.done or self.step >= self.steps:
            return None
        first, since = self.began
        spent, taken = time.monotonic() - since, self.step - first
        return spent / taken * (self.steps - self.step) if taken and spent >= LEAST_S else None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step, self.steps, self.batch = state.global_step, state.max_steps, 0
        self.started = time.monotonic()
        self._show()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step = state.global_step
        now = time.monotonic()
        if self.began is None:  # the first one compiles and takes memory
            self.began = (self.step, now)
            self._tell()
        elif now - self.told[1] >= APART_S and self.step - self.told[0] >= SHARE * self.steps:
            self._tell()
        self._show()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            self.loss = f"loss {logs['loss']:.4g}"
        if "eval_loss" in logs:
            self.measured = [*_scores(logs), f"validation loss {logs['eval_loss']:.4g}"]

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any
    ) -> None:
        self.batch += 1
        self.batches = f" of {len(eval_dataloader):,}" if has_length(eval_dataloader) else ""
        self._show()

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.batch = 0
        self._tell()
        self._show()

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **_: Any) -> None:
        self.batch = 0

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        spent = duration(time.monotonic() - self.started)
        self.done, self.batch = True, 0
        if self.foot is None:
            say(f"  trained to step {self.step:,} in {spent}; {self.predicting}")
        self._show()

    def _show(self) -> None:
        if self.foot is not None:
            self.foot.left_s = self.left()
            self.foot.draw()

    def _tell(self) -> None:
        """Prints a plain line, off a terminal."""
        self.told = (self.step, time.monotonic())
        if self.foot is None:
            say(f"  {', '.join(self.parts())}")


def _scores(logs: Mapping[str, Any]) -> Sequence[str]:
    """``accuracy 87.25%``, of every declared metric in what an evaluation has logged."""
    named = {key.removeprefix("eval_"): value for key, value in logs.items()}
    known = [(registry.get(name), value) for name, value in named.items() if name in registry.METRICS]
    return [f"{metric.name} {metric.text(metric.reported(value))}" for metric, value in known]
