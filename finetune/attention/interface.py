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

from torch import Tensor, nn

from finetune.attention import functions
from finetune.attention.call import inputs_of, wants_weights
from finetune.attention.kernels import dispatch
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.position_bias import RECORDED, biased, encoding_of
from finetune.attention.unpadded import Unpadding
from finetune.errors import UserError

AttentionKind = Literal["encoder", "decoder", "cross"]

LAYER = "finetune_attention"  # the attribute of an attention module that holds its LayerAttention

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
    unpadding: Unpadding = field(default_factory=Unpadding)  # of the batch, where layers skip its padding

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
    layer = layer or getattr(module, LAYER, None)
    skipped = layer is not None and layer.unpadding.places is not None
    if layer is not None and skipped:
        query, key, value = (layer.unpadding.pad_heads(tensor) for tensor in (query, key, value))
    inputs = inputs_of(
        module, query, key, value, attention_mask, dropout, scaling, is_causal, position_bias, keywords
    )
    position = encoding_of(module)
    if position is not None:
        inputs = biased(inputs, position)
    elif _observed.get() is None and getattr(getattr(module, "config", None), RECORDED, None):
        raise UserError(
            "this checkpoint was trained with a positional encoding of finetune's, which "
            f"{type(module).__name__} has not got back: load its run by finetune.load"
        )
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
    wanted = wants_weights(keywords)
    output, weights, ran = dispatch.attend(inputs, layer.variant, layer.kernel, wanted)
    layer.ran[ran] += 1
    if layer.blend.share < 1.0:
        output, weights = _blended(inputs, layer, output, weights if wanted else None)
    for watch in layer.watchers:
        watch(inputs, output)
    return layer.unpadding.unpad(output) if skipped else output, weights


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
