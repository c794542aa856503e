"""A slow start for a swapped model: its attention moves from softmax to the variant while it trains."""

from math import ceil
from typing import Any

from transformers import TrainerCallback

from finetune.attention.swap import blend


class Annealing(TrainerCallback):
    """The variant's share of the weights grows from 0 to 1, linearly, over the first ``share`` of the steps.

    From then on, and after training whatever happened, the model computes the variant and nothing else. The
    share follows from the number of the step alone, so a resumed run goes on where it was.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Before a step: ``state.global_step`` steps are done, of ``state.max_steps``."""
        blend(model, min(1.0, state.global_step / ceil(self.share * state.max_steps)))

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """The end is exactly the variant, however short the training was."""
        blend(model, 1.0)
