"""ALiBi: Press, Smith & Lewis, Train Short, Test Long, arXiv 2108.12409 (ICLR 2022).

b(h, d) = -s_h d, nothing learned. For n heads, a power of two, s_h = 2^(-8 (h + 1) / n); for another n the
slopes of the power below, then every other one of those of twice that power.
"""

import math

import torch
from torch import Tensor

from finetune.attention.position_bias import PositionBias, a_head


class Alibi(PositionBias):
    """See the module."""

    def __init__(self, heads: int) -> None:
        super().__init__(heads)
        # The exponents, which a model in half precision has exactly, and not the slopes.
        exponents = torch.tensor([math.log2(slope) for slope in slopes(heads)])
        self.exponents = torch.nn.Buffer(exponents, persistent=False)

    def by_distance(self, distance: Tensor) -> Tensor:
        return -a_head(torch.exp2(self.exponents.float()), distance) * distance


def slopes(heads: int) -> list[float]:
    """The slope of each head."""
    power = 2 ** math.floor(math.log2(heads))
    full = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    return full + ([] if power == heads else slopes(2 * power)[::2][: heads - power])
