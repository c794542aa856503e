"""Controls: other ways to normalise attention, none of them from the Self-Adjust Softmax paper.

Beside them a reader sees whether any change of softmax does what the paper's does. They keep the contract
of ``functions.py``: (scores, allowed) -> weights, (batch, heads, query, key), in float32 at least, exactly 0
where a key is blocked. They run step by step on the reference kernel. Below, x are the allowed scores of a
row and n is how many there are, whatever the length that the row is padded to.

A control is a function here and an entry in ``variants.py``.
"""

import math

import entmax
import torch
from torch import Tensor, nn

from finetune.attention.functions import at_least_float32, fill_blocked, softmax


def softmax_plus_one(scores: Tensor, allowed: Tensor | None = None) -> Tensor:
    """exp(x) / (1 + sum exp(x)): softmax with a silent further key of score 0, so that a row may attend to
    nothing. E. Miller, "Attention Is Off By One" (2023), softmax_1."""
    with_silent_key = nn.functional.pad(_filled(scores, allowed, -math.inf), (0, 1), value=0.0)
    return torch.softmax(with_silent_key, dim=-1)[..., :-1]


def ssmax(scores: Tensor, allowed: Tensor | None = None, *, s: float = 0.168) -> Tensor:
    """softmax(s log(n) x): Scalable-Softmax, without its optional bias (arXiv 2501.19399).

    The paper learns ``s`` for each head of each layer; here it is fixed and one for all. The default is
    where the paper starts when it replaces the softmax of a trained model: 1 over the mean of log(n) for
    n = 1 to 1024, so that rows of about 400 keys start as they were and shorter ones a little flatter.
    """
    scale = s * _allowed_keys(scores, allowed).log()
    return softmax(_below_highest(scores, allowed) * scale, allowed)


def sigmoid(scores: Tensor, allowed: Tensor | None = None) -> Tensor:
    """sigmoid(x - log(n)): each key by itself; rows do not sum to 1 (arXiv 2409.04431, with b = -log n).

    The paper's n is the length of the sequence; here it is the number of allowed keys of the row, which
    differs where keys are padded or in the future, and so padding changes nothing.
    """
    return torch.sigmoid(_filled(scores, allowed, -math.inf) - _allowed_keys(scores, allowed).log())


def entmax15(scores: Tensor, allowed: Tensor | None = None) -> Tensor:
    """max(x / 2 - t, 0)^2, with t such that the row sums to 1: 1.5-entmax, exactly 0 for low scores
    (Peters, Niculae, Martins 2019, arXiv 1905.05702; by sorting, in the authors' package entmax).

    As no weight exceeds 1, t is at least max(x) / 2 - 1: a score 2 below the highest has weight and gradient
    0 whatever it is, so nothing is lost by raising scores to 4 below it, where blocked keys are put as well.
    """
    raised = _below_highest(scores, allowed).clamp(min=-4.0)
    weights: Tensor = entmax.entmax15(_filled(raised, allowed, -4.0), dim=-1)
    return _filled(weights, allowed, 0.0)  # for rows without an allowed key, which are uniform until here


def softpick(scores: Tensor, allowed: Tensor | None = None, *, eps: float = 1e-6) -> Tensor:
    """relu(exp(x) - 1) / (sum |exp(x) - 1| + eps): rectified softmax (arXiv 2504.20966).

    Scores below 0 weigh nothing, but take from the others. ``eps`` keeps a row of zeros finite. All terms
    are scaled by exp(-M), M = max(max(x), 0), which cancels out, and |exp(x) - 1| is
    exp(max(x, 0)) (1 - exp(-|x|)), which rounds well around 0. A blocked key has score 0: no term.
    """
    scores = _filled(scores, allowed, 0.0)
    highest = scores.amax(dim=-1, keepdim=True).relu().detach()
    terms = (scores.relu() - highest).exp() * -torch.expm1(-scores.abs())
    return terms * (scores > 0) / (terms.sum(dim=-1, keepdim=True) + eps * (-highest).exp())


def sa_softmax_renormalised(scores: Tensor, allowed: Tensor | None = None, *, eps: float = 1e-6) -> Tensor:
    """(x - m) p / (sum (x - m) p + eps), m = min(x_min, 0): sa-softmax divided by its row sum, which cancels
    the row's range. Is it the shape of the weights that matters, or that rows sum to less than 1? Ours.

    Rows sum to 1, but where all weights are 0, as in a row of equal scores below 0 or of one such score: it
    stays 0. Beside such a row the weights jump from 0 to 1, with gradients of up to 1 / eps. ``eps`` has the
    unit of a score.
    """
    scores, p = fill_blocked(at_least_float32(scores), allowed)
    low = -torch.relu(-scores.min(dim=-1, keepdim=True).values)
    weights = (scores - low) * p
    return weights / (weights.sum(dim=-1, keepdim=True) + eps)


def sa_softmax_guarded(
    scores: Tensor, allowed: Tensor | None = None, *, eps: float = 1e-6, threshold: float = 1e-3
) -> Tensor:
    """g p with g = (x - m) / (M - m + eps), as sa-softmax; where M - m < ``threshold``, stop_gradient(g) p.

    The weights are those of sa-softmax to the last bit. Its gradient has terms p da / (M - m + eps) and
    grows to 1 / eps as all scores of a row go to 0, for g depends on their ratios alone. A narrow row here
    passes on what softmax would at weights of g, dx = p (g da - sum(g p da)), with da the gradient of its
    weights: at most twice the largest da, and 0 where all scores are 0. Ours.

    ``eps`` and ``threshold`` have the unit of a score.
    """
    scores, p = fill_blocked(at_least_float32(scores), allowed)
    low = -torch.relu(-scores.min(dim=-1, keepdim=True).values)
    high = torch.relu(scores.max(dim=-1, keepdim=True).values)
    place = (scores - low) * (high - low + eps).reciprocal()
    return torch.where(high - low < threshold, place.detach(), place) * p


def _filled(scores: Tensor, allowed: Tensor | None, value: float) -> Tensor:
    """Scores, in float32 at least, with ``value`` where blocked."""
    scores = at_least_float32(scores)
    return scores if allowed is None else scores.masked_fill(~allowed, value)


def _allowed_keys(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """n, broadcastable to ``scores``: the number of allowed keys of each row, 1 where there is none."""
    keys, dtype = scores.shape[-1], at_least_float32(scores).dtype
    if allowed is None:
        return torch.full((1,), keys, dtype=dtype, device=scores.device)
    return allowed.expand(*allowed.shape[:-1], keys).sum(dim=-1, keepdim=True).clamp(min=1).to(dtype)


def _below_highest(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """x - max(x), for maps that do not change when all scores of a row are shifted: the maximum therefore
    takes no gradient. What stands in blocked places is finite and means nothing."""
    scores = at_least_float32(scores)
    lowest = torch.finfo(scores.dtype).min
    return scores - _filled(scores.detach(), allowed, lowest).amax(dim=-1, keepdim=True)
