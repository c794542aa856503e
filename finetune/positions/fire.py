"""FIRE: Li et al., Functional Interpolation for Relative Positions, arXiv 2310.04418 (ICLR 2024), Eq. 4.

b(i, d) = f(phi(d) / phi(max(i, |m L|))), phi(x) = log(1 + |c x|), with i the tokens before the query and f a
network of one number: Linear(1, 32), ReLU, Linear(32, heads). Learned are f, c (.1 at first) and m (1 at
first); the threshold L is a constant of the configuration.
"""

import torch
from torch import Tensor, nn

from finetune.attention.position_bias import Places, PositionBias

HIDDEN = 32
EPS = 1e-6


class Fire(PositionBias):
    """See the module."""

    def __init__(self, heads: int, threshold: float) -> None:
        super().__init__(heads)
        self.threshold = threshold
        self.network = nn.Sequential(nn.Linear(1, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, heads))
        # Of one dimension each, for one of none cannot be shared out among processes.
        self.c = nn.Parameter(torch.tensor([0.1]))
        self.m = nn.Parameter(torch.tensor([1.0]))

    def forward(self, places: Places, scores: Tensor | None, allowed: Tensor | None) -> Tensor:
        farthest = torch.maximum(places.row.float(), (self.m.float() * self.threshold).abs())
        ratio = self._phi(places.distance.float()) / (self._phi(farthest)[..., None] + EPS)
        return in_float32(self.network, ratio[..., None]).movedim(-1, 1)

    def _phi(self, steps: Tensor) -> Tensor:
        return torch.log1p((self.c.float() * steps).abs())


def in_float32(network: nn.Sequential, values: Tensor) -> Tensor:
    """A small network computed in float32, whatever the type of its weights."""
    for layer in network:
        if isinstance(layer, nn.Linear):
            values = nn.functional.linear(values, layer.weight.float(), layer.bias.float())
        else:
            values = layer(values)
    return values
