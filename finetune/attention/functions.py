"""The maps from attention scores to attention weights that the paper compares, and what every map is.

No transformers here, and no configuration. ``variants.py`` gives each map its name.

Every map has the signature ``(scores, allowed=None, **parameters) -> weights``:

- ``scores``, (batch, heads, query, key): scaled query-key products *including* any position bias. Any
  floating type; a map computes in float32 (float64 stays float64) and returns that type.
- ``allowed``, bool, broadcastable to ``scores``: True where the query may see the key. None allows all.
- ``weights``, the shape of ``scores``: exactly 0 where not allowed, so a row with no allowed key is all 0.

Below, x are the allowed scores of one row and p = softmax(x).
"""

import torch
from torch import Tensor


def softmax(scores: Tensor, allowed: Tensor | None = None) -> Tensor:
    """p = exp(x) / sum exp(x): the baseline (Vaswani et al. 2017, arXiv 1706.03762, Eq. 1)."""
    scores = at_least_float32(scores)
    if allowed is None:
        return torch.softmax(scores, dim=-1)
    blocked = ~allowed
    # The second fill is for rows without an allowed key only, which the first one makes uniform.
    return _softmax_over_allowed(scores, blocked).masked_fill(blocked, 0.0)


def sa_softmax(scores: Tensor, allowed: Tensor | None = None, *, eps: float = 1e-6) -> Tensor:
    """(x - m) / (M - m + eps) * p with m = min(x_min, 0), M = max(x_max, 0).

    Self-Adjust Softmax, the normalised form (arXiv 2502.18277, Eq. 10). Weights are in [0, 1] and a row sums
    to at most 1. Gradients flow through x_min and x_max, to one index each.

    ``eps`` has the unit of a score and keeps a row of equal scores finite.
    """
    scores = at_least_float32(scores)
    scores, p = fill_blocked(scores, allowed)
    # relu, not clamp: at a score of exactly 0 the bound is the constant 0 and takes no gradient.
    # min and max, not amin and amax: those would share the gradient among equal scores.
    low = -torch.relu(-scores.min(dim=-1, keepdim=True).values)
    high = torch.relu(scores.max(dim=-1, keepdim=True).values)
    return (scores - low) * (high - low + eps).reciprocal() * p


def sa_softmax_raw(scores: Tensor, allowed: Tensor | None = None) -> Tensor:
    """x * p: Self-Adjust Softmax before normalisation (arXiv 2502.18277).

    Weights can be negative and the sum of a row is unbounded.
    """
    scores, p = fill_blocked(at_least_float32(scores), allowed)
    return scores * p


def at_least_float32(scores: Tensor) -> Tensor:
    """Scores as a map computes with them."""
    return scores if scores.dtype == torch.float64 else scores.float()


def _softmax_over_allowed(scores: Tensor, blocked: Tensor) -> Tensor:
    """softmax with weight 0 where blocked; uniform in a row that is blocked throughout.

    finfo.min instead of -inf keeps that row free of NaN, forward and backward.
    """
    return torch.softmax(scores.masked_fill(blocked, torch.finfo(scores.dtype).min), dim=-1)


def fill_blocked(scores: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores with 0 where blocked, and their softmax over the allowed keys.

    0 takes part neither in min(x_min, 0) nor in max(x_max, 0), and as a factor it gives a blocked key the
    weight 0 even in a row that is blocked throughout. The fill comes before any ratio is formed: with
    finfo.min in its place the ratio overflows and the gradients are NaN.
    """
    if allowed is None:
        return scores, torch.softmax(scores, dim=-1)
    blocked = ~allowed
    return scores.masked_fill(blocked, 0.0), _softmax_over_allowed(scores, blocked)
