"""What attention does with its scores: statistics of the weights, and the gradient that reaches each score.

Pure functions on what one attention call was given, the variant and the gradient that came back. Below, a
row is what one query of one head sees: x its allowed scores, p = softmax(x), w its weights *before dropout*.

A row counts if it sees at least two keys, for one key leaves nothing to weigh, and if it is no padding:

- in self-attention a query must see itself, which padding under a mask does not;
- in a decoder, whose padding is often not masked, a gradient must come back to the query.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from finetune.attention import PAPER, VARIANTS, functions
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.kernels.reference import one_per_query_head, scores_of

SATURATED = 0.99
"""A score is saturated if its p is above: softmax passes p (1 - p) of a gradient, less than a hundredth."""
SUPPRESSED = 0.01
"""A score is suppressed, a loser, if its p is below: softmax passes less than a hundredth here too."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
GROUPS = ("saturated", "suppressed", "all")

Columns = dict[str, Tensor]  # name -> one number for each row that counts, (counted rows,)


@dataclass(frozen=True)
class Part:
    """Some batch rows and queries of one attention call, detached: enough to compute its weights again."""

    inputs: Inputs  # with ``allowed`` written out, causal part and all, or None
    real: Tensor  # bool, (rows, heads, queries): no padding
    chosen: Tensor | slice  # which queries these are
    decodes: bool  # of a decoder, or cross-attention

    def of_output(self, tensor: Tensor) -> Tensor:
        """The part of ``tensor``, (batch, query, heads, width), that belongs here, as a copy."""
        return tensor.detach()[: len(self.real), self.chosen].clone()


def compared(variants: Sequence[BoundVariant]) -> dict[str, BoundVariant]:
    """The variants whose gradients are compared: the paper's, and ``variants`` with their parameters."""
    chosen = {name: BoundVariant.of(VARIANTS[name]) for name in PAPER}
    return chosen | {variant.name: variant for variant in variants}


def take(inputs: Inputs, kind: str, rows: int, queries: int) -> Part:
    """The first ``rows`` of the batch, and at most ``queries`` evenly spaced queries of each of them.

    The latter keeps time and memory linear in the length of a text, as the fast kernels do.
    """
    batch, heads, query_len, _ = inputs.query.shape
    key_len = inputs.key.shape[-2]
    device = inputs.query.device
    chosen: Tensor | slice = slice(None)
    if query_len > queries:
        chosen = torch.linspace(0, query_len - 1, queries, device=device).round().long()
    allowed, bias = (
        None if mask is None else mask.detach().expand(batch, heads, query_len, key_len)[:rows]
        for mask in (inputs.all_allowed(), inputs.bias)
    )
    real = torch.ones(min(rows, batch), heads, query_len, dtype=torch.bool, device=device)
    if allowed is not None and kind != "cross" and query_len == key_len:
        real = allowed.diagonal(dim1=-2, dim2=-1)
    kept = replace(
        inputs,
        query=inputs.query.detach()[:rows, :, chosen].clone(),
        key=inputs.key.detach()[:rows].clone(),
        value=inputs.value.detach()[:rows].clone(),
        allowed=None if allowed is None else allowed[:, :, chosen],
        bias=None if bias is None else bias[:, :, chosen],
        causal=False,
        dropout=0.0,
    )
    return Part(kept, real[:, :, chosen], chosen, decodes=kind != "encoder")


@torch.no_grad()
def row_statistics(
    part: Part, upstream: Tensor | None, variant: BoundVariant, variants: Mapping[str, BoundVariant]
) -> Columns:
    """The numbers of each row that counts; ``summarize`` turns them into shares and means.

    ``upstream``, (rows, queries, heads, value width): dLoss/dOutput of the part, or None if none came back.
    The gradient of a variant is dLoss/dx through that variant at the same scores and the same upstream.
    """
    scores = scores_of(part.inputs)
    allowed = part.inputs.allowed
    allowed = torch.ones_like(scores, dtype=torch.bool) if allowed is None else allowed
    counted = part.real & (allowed.sum(-1) > 1)
    if part.decodes and upstream is not None:
        counted = counted & (upstream != 0).any(-1).any(-1)[:, None]
    seen, x = allowed[counted], scores[counted]
    weights = variant.weigh(scores, allowed)[counted]
    p = functions.softmax(scores, allowed)[counted]
    share = weights.abs() / weights.abs().sum(-1, keepdim=True)  # NaN in a row of zeros
    groups = {"saturated": seen & (p > SATURATED), "suppressed": seen & (p < SUPPRESSED), "all": seen}
    columns = {
        "above": (seen & (weights > SATURATED)).sum(-1),
        "below": (seen & (weights < SUPPRESSED)).sum(-1),
        "negative": (weights < 0).sum(-1),
        "entropy": -torch.xlogy(share, share).sum(-1),
        "row_sum": weights.sum(-1),
        "lowest": x.masked_fill(~seen, math.inf).amin(-1),
        "highest": x.masked_fill(~seen, -math.inf).amax(-1),
    }
    columns |= {group: where.sum(-1) for group, where in groups.items()}
    if upstream is not None:
        value = one_per_query_head(part.inputs.value, scores.shape[1]).to(scores.dtype)
        to_weights = upstream.to(scores.dtype).transpose(1, 2) @ value.transpose(-1, -2)
        for name, other in variants.items():
            size = score_gradient(other, scores, allowed, to_weights)[counted].abs()
            columns |= {_reach(name, g): (size * where).sum(-1) for g, where in groups.items()}
    return columns


def score_gradient(variant: BoundVariant, scores: Tensor, allowed: Tensor, to_weights: Tensor) -> Tensor:
    """dLoss/dscores from dLoss/dweights, both (batch, heads, query, key), by autograd."""
    with torch.enable_grad():
        leaf = scores.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(variant.weigh(leaf, allowed), leaf, to_weights)
    return gradient


def summarize(columns: Columns, variants: Mapping[str, BoundVariant]) -> dict[str, Any]:
    """Shares, means and quantiles over the rows of ``row_statistics``; None where there is nothing to tell.

    Keys: ``weights``, ``row_sum``, ``score``, ``reach`` and ``counts`` of a layer of diagnostics.json.
    """
    wide = {name: column.double().cpu() for name, column in columns.items()}
    totals = {name: float(column.sum()) for name, column in wide.items()}
    sums, low, high = wide["row_sum"], wide["lowest"], wide["highest"]
    entropies = wide["entropy"][~wide["entropy"].isnan()]
    levels = torch.tensor(QUANTILES, dtype=sums.dtype)
    return {
        "weights": {name: _ratio(totals[name], totals["all"]) for name in ("above", "below", "negative")}
        | {"entropy": _number(entropies.mean())},
        "row_sum": {
            "mean": _number(sums.mean()),
            "sd": _number(sums.std(correction=0)) if len(sums) else None,
            "quantiles": [_number(q) for q in sums.quantile(levels)] if len(sums) else [None] * len(levels),
        },
        "score": {
            "min": _number(low.min()) if len(low) else None,
            "max": _number(high.max()) if len(high) else None,
            "range": _number((high - low).mean()),
        },
        "reach": {
            name: {g: _ratio(totals.get(_reach(name, g), math.nan), totals[g]) for g in GROUPS}
            for name in variants
        },
        "counts": {group: int(totals[group]) for group in GROUPS},
    }


def _reach(variant: str, group: str) -> str:
    return f"reach of {variant}: {group}"


def _ratio(total: float, count: float) -> float | None:
    return _number(total / count) if count else None


def _number(value: Tensor | float) -> float | None:
    return float(value) if math.isfinite(value) else None
