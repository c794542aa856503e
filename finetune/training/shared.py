"""Rows shared out among the processes of a run: the same ones in each step, however many share them.

accelerate deals batches in turn: the first to rank 0, the second to rank 1. Each process must have as many of
them, and all must be full. So the last ones are filled up with rows whose labels are all ``IGNORED``, which
add nothing to a loss or a gradient; accelerate's own way is to take the first rows a second time.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Sampler
from transformers import TrainerCallback, set_seed

from finetune.data.collate import IGNORED, lengths
from finetune.system import world


class Order(Sampler[int]):
    """The order of ``sampler``, with all that fills up the last batches of so many ``rows`` behind it."""

    def __init__(self, sampler: Any, rows: int) -> None:
        self.sampler, self.rows = sampler, rows

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        yield from range(len(self.sampler), self.rows)


def filled(rows: Dataset, batch: int) -> Dataset:
    """``rows``, and behind them as many without a target as make up whole batches of ``batch`` rows."""
    missing = -len(rows) % batch
    if not missing:
        return rows
    short = dict(rows[int(np.argmin(lengths(rows)))])
    if "labels" in short:
        labels = short["labels"]
        short["labels"] = [IGNORED] * len(labels) if isinstance(labels, list) else IGNORED
    return concatenate_datasets([rows, Dataset.from_list([short] * missing, features=rows.features)])


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of all that is drawn in an optimizer step on one process, 32 bits."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])


class StepSeeds(TrainerCallback):
    """Has every step draw its dropout from the seed, the number of the step and the rank, and nothing else.

    So the variants of a seed draw alike, the processes of a run do not, and a resumed run, on as many
    processes, draws what it would have drawn.
    """

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Seeds every generator, before the first batch of a step."""
        set_seed(step_seed(args.seed, state.global_step, world.rank()))
