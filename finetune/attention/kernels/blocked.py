"""The blocked kernel: the self-adjust variants in PyTorch, some queries at a time, on any device.

No (query, key) tensor of the whole call exists, forward or backward: the backward pass computes the scores
of a block again and applies the exact gradient. With x the scores of a row over its allowed keys,
p = softmax(x), a the weights, da = dO V^T, m = min(x_min, 0), M = max(x_max, 0), R = M - m + eps,
g = (x - m) / R, D1 = sum(a da) and D0 = sum(p da):

    sa-softmax      a = g p   dx = p (da (1/R + g) - D1)  + (D1 - D0)/R at argmin x if x_min < 0
                                                          - D1/R        at argmax x if x_max > 0
    sa-softmax-raw  a = x p   dx = p (da (1 + x) - D1)
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from finetune.attention.kernels.inputs import (
    BoundVariant,
    Inputs,
    refuse_second_derivative,
    without_autocast,
)
from finetune.attention.variants import known_to

KNOWN = known_to("blocked")
# Scores of a block, in numbers: some fit a CPU's cache, many keep a GPU busy.
_BLOCK = {"cpu": 2**18}
_BLOCK_ELSEWHERE = 2**24
_FEWEST_QUERIES = 16


def why_not(inputs: Inputs, variant: BoundVariant) -> str | None:
    """Why this kernel cannot do these inputs; None if it can."""
    return None if variant.name in KNOWN else f"it knows no formula for {variant.name}"


@torch.compiler.disable
def attend(inputs: Inputs, variant: BoundVariant) -> Tensor:
    """The output, (batch, query, heads, value width), in the value's type; float32 (float64) inside.

    Dropout takes one number from torch's generator for the CPU, so ``torch.manual_seed`` repeats it.
    """
    raw, eps = variant.name == "sa-softmax-raw", variant.parameters.get("eps", 0.0)
    call = _BlockedCall(inputs, raw, eps, inputs.draw_seed())
    output: Tensor = _Attention.apply(inputs.query, inputs.key, inputs.value, inputs.bias, call)
    return output


class _BlockedCall(NamedTuple):
    inputs: Inputs
    raw: bool
    eps: float
    seed: int


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, call: _BlockedCall
    ) -> Tensor:
        batch, heads, query_len, _ = query.shape
        output = value.new_empty(batch, query_len, heads, value.shape[-1])
        ctx.save_for_backward(query, key, value, bias)
        ctx.call = call._replace(inputs=call.inputs.without_tensors())
        query, key, value = (_wide(tensor) for tensor in (query, key, value))
        with without_autocast(query):
            for block in _blocks(call):
                weights = _weigh(block.scores(query, key, bias), block, call)
                if block.kept is not None:
                    weights.mul_(block.kept)
                block.of_queries(output.transpose(1, 2)).copy_(block.product(weights, block.of_keys(value)))
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        saved = ctx.saved_tensors
        whole = replace(ctx.call.inputs, query=saved[0], key=saved[1], value=saved[2])
        call: _BlockedCall = ctx.call._replace(inputs=whole)
        query, key, value = (_wide(tensor) for tensor in saved[:3])
        bias = None if saved[3] is None else _wide(saved[3])
        grad_query = torch.empty_like(saved[0])
        grad_key, grad_value = key.new_zeros(key.shape), value.new_zeros(value.shape)
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[3] else None
        with without_autocast(query):
            for block in _blocks(call):
                grad = _wide(block.of_queries(grad_output.transpose(1, 2)))
                arriving = block.product(grad, block.of_keys(value).transpose(-1, -2))
                if block.kept is not None:
                    arriving.mul_(block.kept)
                weights, grad_scores = _differentiate(block.scores(query, key, bias), arriving, block, call)
                if block.kept is not None:
                    weights.mul_(block.kept)
                scaling = call.inputs.scaling
                block.add_transposed_product(grad_value, weights, grad)
                block.add_transposed_product(grad_key, grad_scores, block.of_queries(query), scaling)
                from_keys = block.product(grad_scores, block.of_keys(key))
                block.of_queries(grad_query).copy_(from_keys.mul_(scaling))
                if grad_bias is not None:
                    part = block.of_scores(grad_bias)
                    part.add_(grad_scores.sum_to_size(part.shape))
        grads = (grad_query, grad_key, grad_value, grad_bias)
        return (*(g if g is None else g.to(t.dtype) for g, t in zip(grads, saved, strict=True)), None)


def _wide_type(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(_wide_type(tensor))


@dataclass(frozen=True)
class _Block:
    """Some queries of some rows of the batch, and the keys from the first to the last that they may see."""

    rows: slice
    queries: slice
    keys: slice
    inputs: Inputs
    live: Tensor | None  # 1 where a query may see a key, else 0; broadcastable to the scores
    kept: Tensor | None  # 0 where a weight is dropped, else 1 / (1 - dropout)

    def of_queries(self, tensor: Tensor) -> Tensor:
        """A view of (batch, heads, query, width)."""
        return tensor[self.rows, :, self.queries]

    def of_keys(self, tensor: Tensor) -> Tensor:
        """A view of (batch, key heads, key, width)."""
        return tensor[self.rows, :, self.keys]

    def of_scores(self, tensor: Tensor) -> Tensor:
        """A view of a tensor that broadcasts to (batch, heads, query, key)."""
        tensor = tensor[(None,) * (4 - tensor.dim())]
        for dimension, part in ((0, self.rows), (2, self.queries), (3, self.keys)):
            if tensor.shape[dimension] > 1:
                tensor = tensor.narrow(dimension, part.start, part.stop - part.start)
        return tensor

    def scores(self, query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
        """(rows, heads, queries, keys)"""
        scaled = self.of_queries(query) * self.inputs.scaling
        scores = self.product(scaled, self.of_keys(key).transpose(-1, -2))
        return scores if bias is None else scores.add_(self.of_scores(bias))

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """left (rows, heads, queries, m) @ right (rows, key heads, m, n)."""
        rows, heads, queries, _ = left.shape
        folded = left.reshape(rows, right.shape[1], -1, left.shape[-1])
        return (folded @ right).view(rows, heads, queries, right.shape[-1])

    def add_transposed_product(self, total: Tensor, left: Tensor, right: Tensor, factor: float = 1) -> None:
        """total (batch, key heads, key, n) += left (rows, heads, queries, keys)^T @ right (rows, heads,
        queries, n) * factor, summed over the groups. ``total`` is contiguous."""
        folded = self.of_keys(total).flatten(0, 1)
        count = folded.shape[0]
        left, right = (part.reshape(count, -1, part.shape[-1]) for part in (left, right))
        folded.baddbmm_(left.transpose(-1, -2), right, alpha=factor)


def _blocks(call: _BlockedCall) -> Iterator[_Block]:
    """The blocks of a call, always in the same order, so that dropout can be drawn again."""
    inputs = call.inputs
    (batch, heads, query_len, _), key_len = inputs.query.shape, inputs.key.shape[-2]
    device = inputs.query.device
    budget = _BLOCK.get(device.type, _BLOCK_ELSEWHERE)
    queries = max(1, min(query_len, max(_FEWEST_QUERIES, budget // max(heads * key_len, 1))))
    rows = max(1, budget // max(heads * queries * key_len, 1))
    generator = torch.Generator(device).manual_seed(call.seed)
    wide = _wide_type(inputs.query)
    for row in range(0, batch, rows):
        for first in range(0, query_len, queries):
            last = min(first + queries, query_len)
            end = min(last, key_len) if inputs.causal else key_len
            block = _Block(
                slice(row, min(row + rows, batch)), slice(first, last), slice(0, end), inputs, None, None
            )
            live = None if inputs.allowed is None else block.of_scores(inputs.allowed)
            if inputs.causal:
                past = torch.arange(end, device=device) <= torch.arange(first, last, device=device)[:, None]
                live = past if live is None else live & past
            kept = None
            if inputs.dropout > 0:
                kept = torch.empty(block.rows.stop - row, heads, last - first, end, dtype=wide, device=device)
                kept.bernoulli_(1 - inputs.dropout, generator=generator).div_(1 - inputs.dropout)
            yield replace(block, live=None if live is None else live.to(wide), kept=kept)


def _weigh(scores: Tensor, block: _Block, call: _BlockedCall) -> Tensor:
    """Scores -> weights before dropout. Works in place."""
    p, x = _softmax(scores, block)
    if call.raw:
        return x.mul_(p)
    low, high = x.amin(-1, keepdim=True).clamp_(max=0), x.amax(-1, keepdim=True).clamp_(min=0)  # m and M
    return x.sub_(low).mul_(p).mul_((high - low + call.eps).reciprocal_())


def _differentiate(
    scores: Tensor, arriving: Tensor, block: _Block, call: _BlockedCall
) -> tuple[Tensor, Tensor]:
    """Scores and da -> weights before dropout, and dx. Works in place.

    D1 is summed from the very products that it is subtracted from, not as dO . O: in a row that attends to
    one key they cancel, and must be rounded alike.
    """
    p, x = _softmax(scores, block)
    if block.live is not None:
        p.mul_(block.live)  # a row that is blocked throughout has no gradient
    if call.raw:
        product = x * arriving
        d1 = (p * product).sum(-1, keepdim=True)
        return x.mul_(p), product.sub_(d1).add_(arriving).mul_(p)
    lowest, highest = x.min(-1, keepdim=True), x.max(-1, keepdim=True)
    low, high = lowest.values.clamp(max=0), highest.values.clamp(min=0)
    inverse = (high - low + call.eps).reciprocal_()
    place = x.sub_(low).mul_(inverse)
    product = place * arriving
    d0, d1 = ((p * part).sum(-1, keepdim=True) for part in (arriving, product))
    grad_scores = product.sub_(d1).add_(arriving.mul_(inverse)).mul_(p)
    at_low, at_high = (d1 - d0).mul_(inverse).mul_(low < 0), d1.mul(inverse).neg_().mul_(high > 0)
    grad_scores.scatter_add_(-1, lowest.indices, at_low)
    grad_scores.scatter_add_(-1, highest.indices, at_high)
    return place.mul_(p), grad_scores


def _softmax(scores: Tensor, block: _Block) -> tuple[Tensor, Tensor]:
    """Softmax over the keys that are not blocked, and the scores with 0 where blocked, in place.

    0 takes part neither in min(x_min, 0) nor in max(x_max, 0). A row that is blocked throughout has scores 0,
    and so weights 0.
    """
    if block.live is None:
        return torch.softmax(scores, dim=-1), scores
    least = torch.finfo(scores.dtype).min / 2
    return torch.softmax(scores + (1 - block.live) * least, dim=-1), scores.mul_(block.live)
