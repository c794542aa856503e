"""Windows of a text -> batches for a decoder: padded on the right, without a mask."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune.data.collate import IGNORED


@dataclass(frozen=True)
class WindowPadding:
    """Makes a batch of windows: ``input_ids`` and ``labels``, (rows, longest).

    There is no attention mask: in a causal model nothing before the padding sees it, and its labels count
    for nothing. With ``isolate``, ``position_ids`` begin anew at every end-of-text token, which stands before
    each document: transformers makes of that a block-diagonal mask, where there is no other and no cache.
    """

    padding: int  # token
    end: int  # the end-of-text token
    isolate: bool

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        fillers = {"input_ids": self.padding, "labels": IGNORED}
        longest = max(len(row["input_ids"]) for row in rows)
        batch = {
            name: torch.tensor([[*row[name], *[filler] * (longest - len(row[name]))] for row in rows])
            for name, filler in fillers.items()
        }
        if self.isolate:
            batch["position_ids"] = restarted(batch["input_ids"] == self.end)
        return batch


def restarted(starts: Tensor) -> Tensor:
    """Positions that are 0 at each start and at the first token of a row: (rows, tokens), whole numbers.

    >>> restarted(torch.tensor([[False, False, True, False, True]])).tolist()
    [[0, 1, 0, 1, 0]]
    """
    slots = torch.arange(starts.shape[-1], device=starts.device).expand_as(starts)
    return slots - torch.where(starts, slots, 0).cummax(-1).values
