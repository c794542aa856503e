"""KERPLE: Chi et al., Kernelized Relative Positional Embedding, arXiv 2205.09921 (NeurIPS 2022).

Two learned numbers a head, p and a, in two forms (Eq. 5 and 6 of the paper: r_1 and r_2 are our p and a):

- logarithmic, which its results favor: b(d) = -p log(1 + a d), p and a >= .01
- power: b(d) = -a d^p, .01 <= p <= 2, a >= .01

At first p is uniform in (0, 2) and a in (0, 1), as in the authors' code, which keeps the limits the same way:
by setting a number that an optimizer step has taken beyond one back to it.
"""

import torch
from torch import Tensor, nn

from finetune.attention.position_bias import PositionBias, a_head

LEAST = 0.01
MOST_POWER = 2.0


class Kerple(PositionBias):
    """The logarithmic form."""

    most_p: float | None = None

    def __init__(self, heads: int) -> None:
        super().__init__(heads)
        self.p = nn.Parameter(torch.rand(heads) * 2)
        self.a = nn.Parameter(torch.rand(heads))

    def by_distance(self, distance: Tensor) -> Tensor:
        # In place: limited by clamp alone, a number beyond a limit would have no gradient to come back by.
        # Copies: another pass before the gradients must find what it computed with as it was.
        self.limit()
        p, a = (a_head(each.clone().float(), distance) for each in (self.p, self.a))
        return self.formula(distance, p, a)

    @torch.no_grad()
    def limit(self) -> None:
        self.p.clamp_(min=LEAST, max=self.most_p)
        self.a.clamp_(min=LEAST)

    @staticmethod
    def formula(distance: Tensor, p: Tensor, a: Tensor) -> Tensor:
        return -p * torch.log1p(a * distance)


class KerplePower(Kerple):
    """The power form."""

    most_p = MOST_POWER

    @staticmethod
    def formula(distance: Tensor, p: Tensor, a: Tensor) -> Tensor:
        # At distance 0 the slope of d^p in p is 0 * log 0, so that place is computed at 1 and set to 0.
        return -a * torch.where(distance > 0, distance.clamp(min=1.0).pow(p), 0.0)
