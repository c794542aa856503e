"""T5's relative bias: Raffel et al., arXiv 1910.10683 (JMLR 2020), section 2.1, as a decoder has it.

b(h, d) = table[h, bucket(d)]. Of 32 buckets the first 16 hold one distance each, the others ranges that grow
logarithmically up to a distance of 128, the last one everything beyond. All layers share one table. At first
it is normal with a standard deviation of width ** -0.5, as in transformers' T5.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from finetune.attention.position_bias import PositionBias

BUCKETS = 32
FARTHEST = 128


class T5(PositionBias):
    """See the module. ``shared`` is the encoding of the first layer, which holds the table."""

    _owner: "T5"

    def __init__(self, heads: int, width: int, shared: "T5 | None" = None) -> None:
        super().__init__(heads)
        if shared is None:
            self.table = nn.Parameter(torch.randn(heads, BUCKETS) * width**-0.5)
        # Not as a child: one weight under two names could be neither saved nor decayed properly.
        self.__dict__["_owner"] = shared or self
        self.lends = shared is None

    @classmethod
    def build(
        cls, heads: int, *, width: int, first: PositionBias | None, constants: Mapping[str, float]
    ) -> "T5":
        assert first is None or isinstance(first, T5)
        return cls(heads, width, first)

    def by_distance(self, distance: Tensor) -> Tensor:
        return self._owner.table.float()[:, bucket(distance)]


def bucket(distance: Tensor) -> Tensor:
    """The bucket of each distance, 0 or more."""
    exact = BUCKETS // 2
    ratio = torch.log(distance.clamp(min=1).double() / exact) / math.log(FARTHEST / exact)
    far = (exact + ratio * (BUCKETS - exact)).long().clamp(max=BUCKETS - 1)
    return torch.where(distance < exact, distance.long(), far)
