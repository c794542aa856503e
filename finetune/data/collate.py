"""Token rows -> padded batches, with as little padding as the configuration allows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from finetune.config.schema import RunConfig

IGNORED = -100
"""The label of padding, which torch's cross entropy passes over."""


ABOUT = ("row", "document")
"""Columns that tell a collator which row it has, or which document's, and that no model takes."""


class Renewal(Protocol):
    """Makes of a token row, with the columns ``ABOUT`` it, the one that is padded: another in each epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Called at the start of every epoch, before a row of it is made."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]: ...


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers from 0 to ``count`` - 1, evenly spaced, with the first and the last.

    >>> evenly(10, 4), evenly(3, 4)
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return [int(index) for index in np.linspace(0, count - 1, min(most, count)).round()]


def lengths(rows: Dataset) -> np.ndarray:
    """Tokens of each row's input, (rows,), counted without reading the tokens."""
    column = rows.select_columns("input_ids").with_format("arrow")[:]["input_ids"]
    return np.asarray(pc.list_value_length(column))


def token_values(rows: Dataset, column: str) -> np.ndarray:
    """Every number of a column, of all rows: (tokens,), or (rows,) for a class a row."""
    values = rows.select_columns(column).with_format("arrow")[:][column].combine_chunks()
    return np.asarray(values.flatten() if hasattr(values, "flatten") else values)


def longest_first(rows: Dataset) -> Dataset:
    """Rows by falling length, ties by ``row``, which still identifies each.

    Batches of like length hold little padding, and one that does not fit into the memory shows at once.
    """
    return rows.select(np.lexsort((np.asarray(rows["row"]), -lengths(rows))))


@dataclass(frozen=True)
class Collator:
    """Pads rows without what is ``ABOUT`` them. A class, since worker processes need one that can be pickled.

    ``pad`` pads to the longest row of the batch and makes tensors. ``lengthened`` are the columns that are
    filled up before: their length in tokens, and the filler. ``renewal`` comes first, where there is one.
    """

    pad: Callable[[list[dict[str, Any]]], Any]
    lengthened: dict[str, tuple[int, int]]
    left: bool = False
    renewal: Renewal | None = None

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of every epoch, with its number from 0."""
        if self.renewal is not None:
            self.renewal.set_epoch(epoch)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Token rows -> one batch of tensors, (rows, padded length)."""
        rows = features if self.renewal is None else [self.renewal(row) for row in features]
        batch = self.pad([
            self._filled({key: value for key, value in row.items() if key not in ABOUT}) for row in rows
        ])  # fmt: skip
        # Without labels DataCollatorForSeq2Seq returns labels=None, which Trainer takes for labels.
        return {key: value for key, value in batch.items() if value is not None}

    def _filled(self, row: dict[str, Any]) -> dict[str, Any]:
        filled = dict(row)
        for name, (length, filler) in self.lengthened.items():
            if name in row:
                filling = [filler] * (length - len(row[name]))
                filled[name] = [*filling, *row[name]] if self.left else [*row[name], *filling]
        return filled


def collator(
    pad: Callable[[list[dict[str, Any]]], Any],
    tokenizer: Any,
    config: RunConfig,
    target_length: int | None,
    renewal: Renewal | None = None,
) -> Collator:
    """A collator around ``pad`` that pads as far as ``config.batches.padding`` demands.

    ``longest`` and ``skipped``: each batch to its longest input and longest target. ``max_length``: every
    input to ``data.max_length`` and every target to ``target_length`` (tokens; None where labels are no
    texts), as many recipes do.
    """
    if config.batches.padding != "max_length":
        return Collator(pad, {}, renewal=renewal)
    wanted = {
        "input_ids": (config.data.max_length, tokenizer.pad_token_id),
        "attention_mask": (config.data.max_length, 0),
    }
    if target_length is not None:
        wanted["labels"] = (target_length, IGNORED)
    return Collator(pad, wanted, left=tokenizer.padding_side == "left", renewal=renewal)
