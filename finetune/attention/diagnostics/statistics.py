"""What attention does with its scores: statistics of the weights, and the gradient that reaches each score.

Pure functions on what one attention call was given, the variant and the gradient that came back. Below, a
row is what one query of one head sees: x its allowed scores, p = softmax(x), w its weights *before dropout*.

A row counts if it sees at least two keys, for one key leaves nothing to weigh, and if it is no padding. Where
``extent`` and ``largest`` count, rows of one key do too. Padding is told so:

- in self-attention a query must see itself, which padding under a mask does not;
- in a decoder, whose padding is often not masked, a gradient must come back to the query.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from finetune.attention import PAPER, VARIANTS, functions
from finetune.attention.diagnostics import distances
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.kernels.reference import one_per_query_head, scores_of

SATURATED = 0.99
"""A score is saturated if its p is above: softmax passes p (1 - p) of a gradient, less than a hundredth."""
SUPPRESSED = 0.01
"""A score is suppressed, a loser, if its p is below: softmax passes less than a hundredth here too."""
FAINT = 0.01
"""A score is faint if its p is below this share of an even one, 1 / n among n keys: with more than a hundred
keys an even share is suppressed by itself, and a faint one still tells which scores have lost."""
NARROW = 1e-3
"""A row is narrow if its extent M - m is below, m = min(x_min, 0) and M = max(x_max, 0), that is if all its
scores are near 0: sa-softmax divides their gradient by M - m + eps."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
GROUPS = ("saturated", "suppressed", "faint", "all")

Columns = dict[str, Tensor]
"""Name -> one number for each row that counts, (counted rows,), or one for each of its buckets of distances,
(counted rows, buckets). Extents and the largest gradients are of rows with one key as well."""


@dataclass(frozen=True)
class Part:
    """Some batch rows and queries of one attention call, detached: enough to compute its weights again."""

    inputs: Inputs  # with ``allowed`` and ``bias`` written out, causal part and all, or None
    real: Tensor  # bool, (rows, heads, queries): no padding
    chosen: Tensor  # which queries these are
    distance: Tensor | None  # (queries, key): slots between query and key; None where they are of two texts
    decodes: bool  # of a decoder, or cross-attention

    def of_output(self, tensor: Tensor) -> Tensor:
        """The part of ``tensor``, (batch, query, heads, width), that belongs here, as a copy."""
        return tensor.detach()[: len(self.real), self.chosen].clone()

    def by_row(self) -> Iterator["Part"]:
        """The same for each batch row: computing one at a time takes less memory."""
        given = self.inputs
        for row in range(len(self.real)):
            mine = slice(row, row + 1)
            inputs = replace(
                given,
                query=given.query[mine],
                key=given.key[mine],
                value=given.value[mine],
                allowed=None if given.allowed is None else given.allowed[mine],
                bias=None if given.bias is None else given.bias[mine],
            )
            yield replace(self, inputs=inputs, real=self.real[mine])


def compared(variants: Sequence[BoundVariant]) -> dict[str, BoundVariant]:
    """The variants whose gradients are compared: the paper's, and ``variants`` with their parameters."""
    chosen = {name: BoundVariant.of(VARIANTS[name]) for name in PAPER}
    return chosen | {variant.name: variant for variant in variants}


def take(inputs: Inputs, kind: str, rows: int, queries: int) -> Part:
    """The first ``rows`` of the batch, and at most ``queries`` evenly spaced queries of each of them.

    The latter keeps time and memory linear in the length of a text, as the fast kernels do: of a mask and a
    bias that are not written out by then, those queries' part alone is.
    """
    batch, heads, query_len, _ = inputs.query.shape
    key_len = inputs.key.shape[-2]
    device = inputs.query.device
    count = min(query_len, queries)
    chosen = torch.linspace(0, query_len - 1, count, device=device, dtype=torch.float64).round().long()
    steps = chosen[:, None] - torch.arange(key_len, device=device)  # from a key forward to the query
    allowed, bias = (
        None if each is None else each.detach().expand(batch, heads, query_len, key_len)[:rows, :, chosen]
        for each in (inputs.allowed, inputs.bias)
    )
    shape = (min(rows, batch), heads, count, key_len)
    if inputs.causal:
        past = (steps >= 0).expand(shape)
        allowed = past if allowed is None else past & allowed
    if inputs.by_distance is not None:
        more = inputs.by_distance.detach()[:, query_len - 1 - steps].expand(shape)
        bias = more if bias is None else bias + more
    itself = kind != "cross" and query_len == key_len
    real = torch.ones(shape[:3], dtype=torch.bool, device=device)
    if allowed is not None and itself:
        real = allowed[:, :, torch.arange(count, device=device), chosen]
    kept = replace(
        inputs,
        query=inputs.query.detach()[:rows, :, chosen].clone(),
        key=inputs.key.detach()[:rows].clone(),
        value=inputs.value.detach()[:rows].clone(),
        allowed=allowed,
        bias=bias,
        by_distance=None,
        causal=False,
        dropout=0.0,
    )
    return Part(kept, real, chosen, steps.abs() if itself else None, decodes=kind != "encoder")


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
    every = part.real & allowed.any(-1)
    if part.decodes and upstream is not None:
        every = every & (upstream != 0).any(-1).any(-1)[:, None]
    counted = every & (allowed.sum(-1) > 1)
    seen, x = allowed[counted], scores[counted]
    weights = variant.weigh(scores, allowed)[counted]
    p = functions.softmax(scores, allowed)[counted]
    keys = seen.sum(-1)
    sizes = weights.abs().sum(-1, keepdim=True)
    share = weights.abs() / sizes  # NaN in a row of zeros
    entropies = -torch.xlogy(share, share)
    groups = {
        "saturated": seen & (p > SATURATED),
        "suppressed": seen & (p < SUPPRESSED),
        "faint": seen & (p * keys[:, None] < FAINT),
        "all": seen,
    }
    columns = {
        "above": (seen & (weights > SATURATED)).sum(-1),
        "below": (seen & (weights < SUPPRESSED)).sum(-1),
        "negative": (weights < 0).sum(-1),
        "entropy": entropies.sum(-1),
        "row_sum": weights.sum(-1),
        "lowest": x.masked_fill(~seen, math.inf).amin(-1),
        "highest": x.masked_fill(~seen, -math.inf).amax(-1),
        "to_softmax": (weights / sizes - p).abs().sum(-1) / 2,
    }
    columns |= {group: where.sum(-1) for group, where in groups.items()}
    columns |= _extents(scores, allowed, every)
    spread = {"keys": seen, "weight": weights, "softmax": p, "entropy": entropies}
    if part.inputs.bias is not None:
        spread["bias"] = part.inputs.bias.expand(scores.shape)[counted].masked_fill(~seen, 0.0)
    if upstream is not None:
        value = one_per_query_head(part.inputs.value, scores.shape[1]).to(scores.dtype)
        to_weights = upstream.to(scores.dtype).transpose(1, 2) @ value.transpose(-1, -2)
        for name, other in variants.items():
            sizes_of_all = score_gradient(other, scores, allowed, to_weights).abs()
            columns[_largest(name)] = sizes_of_all[every].amax(-1)
            size = sizes_of_all[counted]
            columns |= {_reach(name, g): (size * where).sum(-1) for g, where in groups.items()}
            norms = {g: torch.linalg.vector_norm(size * where, dim=-1) for g, where in groups.items()}
            columns |= {_norm(name, g): norm for g, norm in norms.items()}
            spread[_reach(name, "all")] = size
    if part.distance is not None:
        buckets = distances.bucket(part.distance)[counted.nonzero()[:, -1]]
        columns |= {_there(name): distances.sums(values, buckets) for name, values in spread.items()}
    return columns


def _extents(scores: Tensor, allowed: Tensor, every: Tensor) -> Columns:
    """M - m of every row, those of one key among them, and whether it is narrow and sees one key."""
    with_zeros = scores.masked_fill(~allowed, 0.0)[every]
    extent = with_zeros.amax(-1).clamp(min=0) - with_zeros.amin(-1).clamp(max=0)
    single, narrow = allowed.sum(-1)[every] == 1, extent < NARROW
    return {"extent": extent, "single": single, "narrow": narrow, "narrow_single": single & narrow}


def score_gradient(variant: BoundVariant, scores: Tensor, allowed: Tensor, to_weights: Tensor) -> Tensor:
    """dLoss/dscores from dLoss/dweights, both (batch, heads, query, key), by autograd."""
    with torch.enable_grad():
        leaf = scores.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(variant.weigh(leaf, allowed), leaf, to_weights)
    return gradient


def joined(parts: Sequence[Columns]) -> Columns:
    """The columns of several parts as those of one; fewer buckets of one part are empty ones."""
    found = {}
    for name in parts[0]:
        columns = [part[name] for part in parts]
        if columns[0].dim() == 2:
            most = max(column.shape[1] for column in columns)
            columns = [pad(column, (0, most - column.shape[1])) for column in columns]
        found[name] = torch.cat(columns)
    return found


def summarize(columns: Columns, variants: Mapping[str, BoundVariant]) -> dict[str, Any]:
    """Shares, means and quantiles over the rows of ``row_statistics``; None where there is nothing to tell.

    Keys: ``weights``, ``row_sum``, ``score``, ``reach``, ``norm``, ``largest``, ``counts``, ``extent``,
    ``by_keys`` and ``by_distance`` of a layer of diagnostics.json.
    """
    wide = {name: column.double().cpu() for name, column in columns.items()}
    totals = {name: float(column.sum()) for name, column in wide.items() if column.dim() == 1}
    sums, low, high = wide["row_sum"], wide["lowest"], wide["highest"]
    levels = torch.tensor(QUANTILES, dtype=sums.dtype)
    found = {
        "weights": {name: _ratio(totals[name], totals["all"]) for name in ("above", "below", "negative")}
        | {"entropy": _mean(wide["entropy"])},
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
        "norm": {
            name: {g: _length(wide.get(_norm(name, g)), totals[g]) for g in GROUPS} for name in variants
        },
        "largest": {name: _most(wide.get(_largest(name))) for name in variants},
        "counts": {group: int(totals[group]) for group in GROUPS},
        "extent": {
            "rows": len(wide["extent"]),
            **{name: int(totals[name]) for name in ("single", "narrow", "narrow_single")},
            "least": _number(wide["extent"].min()) if len(wide["extent"]) else None,
        },
        "by_keys": _by_keys(wide),
    }
    if _there("keys") in wide:
        found["by_distance"] = _by_distance(wide, variants)
    return found


def _by_keys(wide: Columns) -> list[dict[str, Any]]:
    """What rows do by the number of keys that they see; buckets without a row are left out."""
    numbers = distances.bucket(wide["all"])
    return [
        {
            "start": distances.start(number),
            "rows": int(there.sum()),
            "row_sum": _number(wide["row_sum"][there].mean()),
            "entropy": _mean(wide["entropy"][there]),
            "to_softmax": _mean(wide["to_softmax"][there]),
        }
        for number in numbers.unique().tolist()
        for there in (numbers == number,)
    ]


def _by_distance(wide: Columns, variants: Mapping[str, BoundVariant]) -> list[dict[str, Any]]:
    """What lies at each distance; buckets without a key are left out."""
    all_keys, found = wide[_there("keys")], []
    for number in range(all_keys.shape[-1]):
        keys = float(all_keys[:, number].sum())
        there = all_keys[:, number] > 0
        if not keys:
            continue
        entry: dict[str, Any] = {
            "start": distances.start(number), "keys": int(keys), "rows": int(there.sum()),
        }  # fmt: skip
        for name in ("weight", "softmax", "entropy"):
            entry[name] = _mean(wide[_there(name)][there, number])
        if _there("bias") in wide:
            entry["bias"] = _ratio(float(wide[_there("bias")][:, number].sum()), keys)
        reached = {name: wide.get(_there(_reach(name, "all"))) for name in variants}
        entry["reach"] = {
            name: None if column is None else _ratio(float(column[:, number].sum()), keys)
            for name, column in reached.items()
        }
        found.append(entry)
    return found


def _reach(variant: str, group: str) -> str:
    return f"reach of {variant}: {group}"


def _norm(variant: str, group: str) -> str:
    return f"norm of {variant}: {group}"


def _largest(variant: str) -> str:
    return f"largest of {variant}"


def _there(name: str) -> str:
    return f"{name}, by distance"


def _ratio(total: float, count: float) -> float | None:
    return _number(total / count) if count else None


def _mean(values: Tensor) -> float | None:
    """The mean of those that are numbers: a row of zeros has no shares."""
    return _number(values[~values.isnan()].mean())


def _length(norms: Tensor | None, count: float) -> float | None:
    """The L2 norm over all rows from that of each."""
    return None if norms is None or not count else _number(torch.linalg.vector_norm(norms))


def _most(values: Tensor | None) -> float | None:
    return None if values is None or not len(values) else _number(values.max())


def _number(value: Tensor | float) -> float | None:
    return float(value) if math.isfinite(value) else None
