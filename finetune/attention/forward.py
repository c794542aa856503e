"""One attention call: scores, a variant's weights, dropout, values. No registry of transformers here.

``attention`` has the signature that transformers gives its attention functions. What it computes is decided
by the ``Setting`` on the attention module it is called for, so that one function serves every variant and
every scope. Shapes: query (batch, heads, query, width); key and value (batch, key heads, key, width).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.utils.output_capturing import _active_collector

from finetune.attention import functions
from finetune.errors import UserError

Kind = Literal["encoder", "decoder", "cross"]
Kernel = Literal["sdpa", "reference"]

SETTING = "finetune_attention"  # the attribute of an attention module that holds its Setting

# Keywords that models pass down and that change nothing here: their meaning is in the mask, in the query and
# key (positions), in another kernel (deterministic), in what the caller keeps, or in other parts of the model
# (labels come along when Seq2SeqTrainer generates). Any other one is refused.
_HARMLESS = frozenset({
    "cache_position", "deterministic", "labels", "num_items_in_batch", "output_attentions",
    "output_hidden_states", "position_ids", "return_dict", "sliding_window", "token_type_ids", "use_cache",
})  # fmt: skip

Weigh = Callable[[Tensor, Tensor | None], Tensor]  # (scores, allowed) -> weights


@dataclass(frozen=True)
class Setting:
    """What one attention module computes."""

    weigh: Weigh
    kind: Kind
    kernel: Kernel


@dataclass(frozen=True)
class Call:
    """One observed call of ``attention``."""

    module: nn.Module
    query_len: int
    key_len: int
    causal: bool | None  # no query sees a later key
    dropout: float


_observed: ContextVar[list[Call] | None] = ContextVar("observed", default=None)


@contextmanager
def observing() -> Iterator[list[Call]]:
    """Collect every call of ``attention``; modules without a setting compute plain softmax meanwhile."""
    calls: list[Call] = []
    token = _observed.set(calls)
    try:
        yield calls
    finally:
        _observed.reset(token)


def attention(  # noqa: PLR0917 - the signature is transformers'
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **keywords: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend; return (batch, query, heads, width) in the value's type, and the weights where computed.

    The weights are those applied, that is after dropout, as in the library's eager attention. The ``sdpa``
    kernel computes none, so a call with ``output_attentions=True`` takes the reference kernel.
    """
    _refuse_unsupported(module, keywords)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal  # as transformers does
    allowed, bias = _read_mask(attention_mask, query, key, causal)
    if position_bias is not None:
        bias = position_bias if bias is None else position_bias + bias
    setting = _setting(module, Call(module, query.shape[-2], key.shape[-2], _is_causal(allowed), dropout))
    scaled = _Scaled(
        query=query,
        key=_one_per_query_head(query, key),
        value=_one_per_query_head(query, value),
        allowed=allowed,
        bias=bias,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        dropout=dropout if module.training else 0.0,
    )
    if setting.kernel == "sdpa" and not _wants_weights(keywords):
        return _sdpa(scaled), None
    return _reference(scaled, setting.weigh)


@dataclass(frozen=True)
class _Scaled:
    """Scaled dot-product attention, ready to compute: weights come from query @ key^T * scaling + bias."""

    query: Tensor  # (batch, heads, query, width)
    key: Tensor  # (batch, heads, key, width)
    value: Tensor  # (batch, heads, key, width)
    allowed: Tensor | None  # bool, broadcastable to (batch, heads, query, key)
    bias: Tensor | None  # floating, likewise
    scaling: float
    dropout: float


def _reference(inputs: _Scaled, weigh: Weigh) -> tuple[Tensor, Tensor]:
    """The formula, step by step, in float32 (float64 where the model is) whatever the input or autocast."""
    query, value = inputs.query, inputs.value
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    with torch.autocast(query.device.type, enabled=False):
        scores = torch.matmul(query.to(wide) * inputs.scaling, inputs.key.to(wide).transpose(-1, -2))
        if inputs.bias is not None:
            scores = scores + inputs.bias
        weights = weigh(scores, inputs.allowed)
        if inputs.dropout > 0.0:
            weights = nn.functional.dropout(weights, p=inputs.dropout)
        output = torch.matmul(weights, value.to(wide)).to(value.dtype)
    return output.transpose(1, 2).contiguous(), weights


def _sdpa(inputs: _Scaled) -> Tensor:
    """torch's fused softmax attention under the same mask."""
    mask = inputs.allowed
    if inputs.bias is not None:
        mask = inputs.bias if mask is None else inputs.bias.masked_fill(~mask, float("-inf"))
        mask = mask.to(inputs.query.dtype)
    output = nn.functional.scaled_dot_product_attention(
        inputs.query,
        inputs.key,
        inputs.value,
        attn_mask=mask,
        dropout_p=inputs.dropout,
        scale=inputs.scaling,
    )
    return output.transpose(1, 2).contiguous()


def _read_mask(
    mask: Tensor | None, query: Tensor, key: Tensor, causal: bool
) -> tuple[Tensor | None, Tensor | None]:
    """A mask -> (allowed, bias), either of them None where it says nothing.

    Without a mask a causal module sees the past only, aligned at the first key as in transformers' sdpa, and
    a single query (a decoding step) sees all. In an additive mask -inf and the type's minimum block a key;
    half the minimum is the threshold because masks are summed and cast between types. The rest is a bias.
    """
    if mask is None:
        if not causal or query.shape[-2] == 1:
            return None, None
        allowed = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device)
        return allowed.tril(), None
    if mask.dtype == torch.bool:
        return mask, None
    if not mask.is_floating_point():
        raise UserError(f"an attention mask must be bool or floating, not {mask.dtype}; use mask.bool()")
    allowed = mask > torch.finfo(mask.dtype).min / 2
    return allowed, mask.masked_fill(~allowed, 0.0)


def _one_per_query_head(query: Tensor, grouped: Tensor) -> Tensor:
    """Repeat grouped keys or values so that each query head has its own."""
    groups = query.shape[1] // grouped.shape[1]
    return grouped if groups == 1 else grouped.repeat_interleave(groups, dim=1)


def _refuse_unsupported(module: nn.Module, keywords: dict[str, Any]) -> None:
    """Stop at a keyword that carries a meaning which our attention would drop in silence."""
    unsupported = sorted(keywords.keys() - _HARMLESS - {name for name, v in keywords.items() if v is None})
    if unsupported:
        raise UserError(
            f"{type(module).__name__} asks its attention for {', '.join(unsupported)}, which is not "
            "supported and would be ignored: use another model, or one without it"
        )


def _wants_weights(keywords: dict[str, Any]) -> bool:
    """Whether the caller asked for attentions. Some models (GPT-2) do not pass the keyword on, hence the
    collector, in which transformers' models gather what was asked for."""
    collected = _active_collector.get() or {}
    return bool(keywords.get("output_attentions")) or any("attentions" in key for key in collected)


def _is_causal(allowed: Tensor | None) -> bool | None:
    """Whether no query sees a later key; None, for it costs a synchronisation, unless calls are observed."""
    if _observed.get() is None:
        return None
    return allowed is not None and not bool(allowed.triu(1).any())


def _setting(module: nn.Module, call: Call) -> Setting:
    """The module's setting. While observing, the call is noted and a missing setting is plain softmax."""
    setting = getattr(module, SETTING, None)
    calls = _observed.get()
    if calls is not None:
        calls.append(call)
        setting = setting or Setting(functions.softmax, "encoder", "reference")
    if setting is None:
        raise UserError(
            f"{type(module).__name__} has no attention variant: call finetune.attention.swap.swap(model, "
            "...) instead of setting attn_implementation by hand, and again after loading a checkpoint"
        )
    return setting
