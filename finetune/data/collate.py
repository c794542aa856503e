"""Token rows -> padded batches, with as little padding as the configuration allows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from finetune.config.schema import RunConfig

IGNORED = -100
"""The label of padding, which torch's cross entropy passes over."""


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
    """Pads rows without their ``row`` number. A class, since worker processes need one that can be pickled.

    ``pad`` pads to the longest row of the batch and makes tensors. ``lengthened`` are the columns that are
    filled up before: their length in tokens, and the filler.
    """

    pad: Callable[[list[dict[str, Any]]], Any]
    lengthened: dict[str, tuple[int, int]]
    left: bool = False

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Token rows -> one batch of tensors, (rows, padded length). Models do not take ``row``."""
        batch = self.pad([self._filled({key: row[key] for key in row if key != "row"}) for row in features])
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
    pad: Callable[[list[dict[str, Any]]], Any], tokenizer: Any, config: RunConfig, target_length: int | None
) -> Collator:
    """A collator around ``pad`` that pads as far as ``config.batches.padding`` demands.

    ``longest``: each batch to its longest input and longest target. ``max_length``: every input to
    ``data.max_length`` and every target to ``target_length`` (tokens; None where labels are no texts), as
    many recipes do.
    """
    if config.batches.padding == "longest":
        return Collator(pad, {})
    wanted = {
        "input_ids": (config.data.max_length, tokenizer.pad_token_id),
        "attention_mask": (config.data.max_length, 0),
    }
    if target_length is not None:
        wanted["labels"] = (target_length, IGNORED)
    return Collator(pad, wanted, left=tokenizer.padding_side == "left")
