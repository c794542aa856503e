"""One attention call of a model: read what it passes, let a kernel compute it. No registry of transformers.

``attention`` has the signature that transformers gives its attention functions. What it computes is decided
by the ``LayerAttention`` on the attention module it is called for, so that one function serves every variant
and every scope. Shapes: query (batch, heads, query, width); key and value (batch, key heads, key, width).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.utils.output_capturing import _active_collector

from finetune.attention import functions
from finetune.attention.kernels import dispatch
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.position_bias import RECORDED, biased, encoding_of
from finetune.errors import UserError

AttentionKind = Literal["encoder", "decoder", "cross"]

LAYER = "finetune_attention"  # the attribute of an attention module that holds its LayerAttention

# Keywords that models pass down and that change nothing here: their meaning is in the mask, in the query and
# key (positions), in another kernel (deterministic), in what the caller keeps, or in other parts of the model
# (labels come along when Seq2SeqTrainer generates). Any other one is refused.
_HARMLESS = frozenset({
    "cache_position", "deterministic", "labels", "num_items_in_batch", "output_attentions",
    "output_hidden_states", "position_ids", "return_dict", "sliding_window", "token_type_ids", "use_cache",
})  # fmt: skip


Watcher = Callable[[Inputs, Tensor], None]  # (what a call was given, its output)


@dataclass
class Blend:
    """On the way from softmax to a variant: the variant's share of the weights, softmax having the rest."""

    share: float = 1.0


@dataclass(frozen=True)
class LayerAttention:
    """What one attention module computes, and which kernels did."""

    variant: BoundVariant
    kind: AttentionKind
    kernel: str  # as chosen: one of dispatch.CHOICES
    ran: Counter[str] = field(default_factory=Counter)  # calls by the kernel that computed them
    blend: Blend = field(default_factory=Blend)
    watchers: list[Watcher] = field(default_factory=list)  # given every call; they change nothing

    @property
    def swapped(self) -> bool:
        """Whether this computes a variant; outside of the scope of a swap it is plain softmax."""
        return self.variant.name != SOFTMAX.name


@dataclass(frozen=True)
class ObservedCall:
    """One observed call of ``attention``."""

    module: nn.Module
    query_len: int
    key_len: int
    causal: bool  # no query sees a later key
    dropout: float


SOFTMAX = BoundVariant("softmax", functions.softmax)

_observed: ContextVar[list[ObservedCall] | None] = ContextVar("observed", default=None)


@contextmanager
def observing() -> Iterator[list[ObservedCall]]:
    """Collect every call of ``attention``; modules that were not swapped compute plain softmax meanwhile."""
    calls: list[ObservedCall] = []
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
    *,
    layer: LayerAttention | None = None,
    **keywords: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend; return (batch, query, heads, width) in the value's type, and the weights where computed.

    The weights are those applied, that is after dropout, as in the library's eager attention. Only the
    reference kernel has them, so a call with ``output_attentions=True`` goes to it. ``layer`` says what to
    compute for a module that was not swapped.
    """
    _refuse_unsupported(module, keywords)
    allowed, bias = _read_mask(attention_mask)
    if position_bias is not None:
        bias = position_bias if bias is None else position_bias + bias
    # Without a mask a causal module sees the past only, aligned at the first key, and a single query (a
    # decoding step) sees all: as in transformers' sdpa.
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    inputs = Inputs(
        query=query,
        key=key,
        value=value,
        allowed=allowed,
        bias=bias,
        causal=bool(causal) and attention_mask is None and query.shape[-2] > 1,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        dropout=dropout if module.training else 0.0,
    )
    position = encoding_of(module)
    if position is not None:
        inputs = biased(inputs, position)
    elif _observed.get() is None and getattr(getattr(module, "config", None), RECORDED, None):
        raise UserError(
            "this checkpoint was trained with a positional encoding of finetune's, which "
            f"{type(module).__name__} has not got back: load its run by finetune.load"
        )
    layer = layer or getattr(module, LAYER, None)
    observed = _observed.get()
    if observed is not None:
        whole = inputs.all_allowed()  # costs a synchronization, so only where calls are observed
        sees_past_only = whole is not None and not bool(whole.triu(1).any())
        observed.append(ObservedCall(module, query.shape[-2], key.shape[-2], sees_past_only, dropout))
        layer = layer or LayerAttention(SOFTMAX, "encoder", "reference")
    if layer is None:
        raise UserError(
            f"{type(module).__name__} has no attention variant: load a run by finetune.load, or call "
            "finetune.swap(model, ...); attn_implementation takes the name of a variant"
        )
    wanted = _wants_weights(keywords)
    output, weights, ran = dispatch.attend(inputs, layer.variant, layer.kernel, wanted)
    layer.ran[ran] += 1
    if layer.blend.share < 1.0:
        output, weights = _blended(inputs, layer, output, weights if wanted else None)
    for watch in layer.watchers:
        watch(inputs, output)
    return output, weights


def _blended(
    inputs: Inputs, layer: LayerAttention, output: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """``share`` of the variant and the rest of softmax: of the outputs, which are linear in the weights.

    Each part has its own dropout, so that either can run on its own kernel.
    """
    share = layer.blend.share
    plain, plain_weights, _ = dispatch.attend(inputs, SOFTMAX, layer.kernel, weights is not None)
    mixed = share * output + (1.0 - share) * plain
    if weights is None or plain_weights is None:
        return mixed, None
    return mixed, share * weights + (1.0 - share) * plain_weights


def _read_mask(mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """A mask -> (allowed, bias), either of them None where it says nothing.

    In an additive mask -inf and the type's minimum block a key; half the minimum is the threshold because
    masks are summed and cast between types. The rest is a bias.
    """
    if mask is None:
        return None, None
    if mask.dtype == torch.bool:
        return mask, None
    if not mask.is_floating_point():
        raise UserError(f"an attention mask must be bool or floating, not {mask.dtype}; use mask.bool()")
    allowed = mask > torch.finfo(mask.dtype).min / 2
    return allowed, mask.masked_fill(~allowed, 0.0)


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
