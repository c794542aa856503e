"""What transformers' attention interface passes to an attention function, read into ``Inputs``."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.output_capturing import _active_collector

from finetune.attention.kernels.inputs import Inputs
from finetune.attention.relative_bias import decided_by_distance, line_of
from finetune.errors import UserError

# Keywords that models pass down and that change nothing here: their meaning is in the mask, in the query and
# key (positions), in another kernel (deterministic), in what the caller keeps, or in other parts of the model
# (labels come along when Seq2SeqTrainer generates). Any other one is refused.
_HARMLESS = frozenset({
    "cache_position", "deterministic", "labels", "num_items_in_batch", "output_attentions",
    "output_hidden_states", "position_ids", "return_dict", "sliding_window", "token_type_ids", "use_cache",
})  # fmt: skip


def inputs_of(  # noqa: PLR0917 - the arguments of the interface
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    is_causal: bool | None,
    position_bias: Tensor | None,
    keywords: dict[str, Any],
) -> Inputs:
    """One call; ``UserError`` at a keyword that means something which would be ignored."""
    _refuse_unsupported(module, keywords)
    allowed, bias = _read_mask(attention_mask)
    by_distance = None
    if position_bias is not None and decided_by_distance(module):
        by_distance = line_of(position_bias)
    elif position_bias is not None:
        bias = position_bias if bias is None else position_bias + bias
    # Without a mask a causal module sees the past only, aligned at the first key, and a single query (a
    # decoding step) sees all: as in transformers' sdpa.
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    return Inputs(
        query=query,
        key=key,
        value=value,
        allowed=allowed,
        bias=bias,
        causal=bool(causal) and attention_mask is None and query.shape[-2] > 1,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        dropout=dropout if module.training else 0.0,
        by_distance=by_distance,
    )


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


def wants_weights(keywords: dict[str, Any]) -> bool:
    """Whether the caller asked for attentions. Some models (GPT-2) do not pass the keyword on, hence the
    collector, in which transformers' models gather what was asked for."""
    collected = _active_collector.get() or {}
    return bool(keywords.get("output_attentions")) or any("attentions" in key for key in collected)
