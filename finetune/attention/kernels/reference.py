"""The two plain kernels: the definition itself, step by step, and torch's own fused softmax attention."""

import torch
from torch import Tensor, nn

from finetune.attention.kernels.inputs import BoundVariant, Inputs, without_autocast


def reference(inputs: Inputs, variant: BoundVariant) -> tuple[Tensor, Tensor]:
    """The formula, step by step, in float32 (float64 where the model is) whatever the input or autocast.

    Returns the output, (batch, query, heads, value width), and the weights, (batch, heads, query, key), as
    they were applied: after dropout, as in the library's eager attention.
    """
    value, heads = inputs.value, inputs.query.shape[1]
    with without_autocast(value):
        scores = scores_of(inputs)
        weights = variant.weigh(scores, inputs.all_allowed())
        if inputs.dropout > 0.0:
            weights = nn.functional.dropout(weights, p=inputs.dropout)
        output = torch.matmul(weights, one_per_query_head(value, heads).to(scores.dtype)).to(value.dtype)
    return output.transpose(1, 2).contiguous(), weights


def scores_of(inputs: Inputs) -> Tensor:
    """query @ key^T * scaling + bias, (batch, heads, query, key), in float32 (float64 where the model is).

    Nothing is masked yet: what a query may not see has a score too.
    """
    query = inputs.query
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    with without_autocast(query):
        key = one_per_query_head(inputs.key, query.shape[1]).to(wide)
        scores = torch.matmul(query.to(wide) * inputs.scaling, key.transpose(-1, -2))
        return scores if inputs.bias is None else scores + inputs.bias


def sdpa(inputs: Inputs) -> Tensor:
    """``torch.nn.functional.scaled_dot_product_attention`` under the same mask: softmax only.

    Returns (batch, query, heads, value width).
    """
    heads = inputs.query.shape[1]
    mask = inputs.allowed
    causal = inputs.causal and mask is None and inputs.bias is None
    if inputs.causal and not causal:
        mask = inputs.all_allowed()
    if inputs.bias is not None:
        mask = inputs.bias if mask is None else inputs.bias.masked_fill(~mask, float("-inf"))
        # A CPU takes a float32 bias beside half-precision queries: rounded, far distances would be alike.
        if inputs.query.device.type != "cpu" or inputs.query.dtype not in (torch.bfloat16, torch.float16):
            mask = mask.to(inputs.query.dtype)
    output = nn.functional.scaled_dot_product_attention(
        inputs.query,
        one_per_query_head(inputs.key, heads),
        one_per_query_head(inputs.value, heads),
        attn_mask=mask,
        dropout_p=inputs.dropout,
        is_causal=causal,
        scale=inputs.scaling,
    )
    return output.transpose(1, 2).contiguous()


def one_per_query_head(grouped: Tensor, heads: int) -> Tensor:
    """Repeat grouped keys or values, (batch, key heads, key, width), so that each query head has its own."""
    groups = heads // grouped.shape[1]
    return grouped if groups == 1 else grouped.repeat_interleave(groups, dim=1)
