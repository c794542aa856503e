"""DAPE: Zheng et al., Data-Adaptive Positional Encoding, arXiv 2405.14722 (NeurIPS 2024); DAPE V2, arXiv
2410.04798 (2024). Here over KERPLE's logarithmic bias, their strongest form.

With s the scaled scores and k the bias of KERPLE, both 0 at keys that the query does not see, heads first:

- DAPE: b = k + f([s; k]), f = Linear(2 heads, 32), LeakyReLU, Linear(32, heads) over the heads at each (i, j)
- DAPE V2: b = k + g([s; k]), g = Conv(2 heads, 32, (1, 3)), LeakyReLU, Conv(32, heads, (1, 3)) over three
  neighboring keys

The code that its authors published leaves what comes out of V2's first convolution as it is at masked keys,
so the second one sees, beside a query's own key, a value made from that key's scores for the next place. That
place is not there where keys come from a cache, and with padding on the left other values are: the same
model then says something else. ``DapeV2Kerple`` sets those values to 0, which changes the bias of a query's
own key alone, and means the same with a cache, with padding and without; ``DapeV2KerplePublished`` is the
published form.
"""

import torch
from torch import Tensor, nn

from finetune.attention.position_bias import Places
from finetune.positions.fire import in_float32
from finetune.positions.kerple import Kerple

HIDDEN = 32


class DapeKerple(Kerple):
    """DAPE over KERPLE."""

    reads_scores = True

    def __init__(self, heads: int) -> None:
        super().__init__(heads)
        self.network = nn.Sequential(nn.Linear(2 * heads, HIDDEN), nn.LeakyReLU(), nn.Linear(HIDDEN, heads))

    def by_distance(self, distance: Tensor) -> None:  # type: ignore[override]
        return None

    def forward(self, places: Places, scores: Tensor | None, allowed: Tensor | None) -> Tensor:
        assert scores is not None
        kerple = super().by_distance(places.distance.float()).transpose(0, 1)
        both = _unseen_to_zero(torch.cat([scores, kerple.expand(scores.shape)], dim=1).float(), allowed)
        return kerple + self.adapt(both, allowed)

    def adapt(self, both: Tensor, allowed: Tensor | None) -> Tensor:
        """(batch, 2 heads, query, key) -> (batch, heads, query, key)."""
        return in_float32(self.network, both.movedim(1, -1)).movedim(-1, 1)


class DapeV2Kerple(DapeKerple):
    """DAPE V2 over KERPLE, in the form that means the same with a cache as without."""

    def __init__(self, heads: int) -> None:
        super(DapeKerple, self).__init__(heads)
        self.first = nn.Conv2d(2 * heads, HIDDEN, (1, 3), padding=(0, 1))
        self.second = nn.Conv2d(HIDDEN, heads, (1, 3), padding=(0, 1))

    def adapt(self, both: Tensor, allowed: Tensor | None) -> Tensor:
        hidden = nn.functional.leaky_relu(_convolved(self.first, both))
        return _convolved(self.second, self.between(hidden, allowed))

    def between(self, hidden: Tensor, allowed: Tensor | None) -> Tensor:
        """What the second convolution sees of the first."""
        return _unseen_to_zero(hidden, allowed)


class DapeV2KerplePublished(DapeV2Kerple):
    """DAPE V2 over KERPLE as published, but that the last key has a place ahead of it too.

    Without one, a window would be read otherwise in a batch with a longer one.
    """

    generates = False

    def adapt(self, both: Tensor, allowed: Tensor | None) -> Tensor:
        return super().adapt(nn.functional.pad(both, (0, 1)), allowed)[..., :-1]

    def between(self, hidden: Tensor, allowed: Tensor | None) -> Tensor:
        return hidden


def _unseen_to_zero(values: Tensor, allowed: Tensor | None) -> Tensor:
    return values if allowed is None else values.masked_fill(~allowed, 0.0)


def _convolved(layer: nn.Conv2d, values: Tensor) -> Tensor:
    assert layer.bias is not None
    return nn.functional.conv2d(values, layer.weight.float(), layer.bias.float(), padding=(0, 1))
