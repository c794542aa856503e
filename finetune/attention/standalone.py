"""One variant as an attention function of transformers alone: what a kernel repository holds.

transformers takes ``flash_attn_forward`` of a kernel that has ``supports_flash_attn`` too, and gives it the
masks of its sdpa attention. ``attn_implementation="org/name"`` then computes the variant in every layer.
"""

from typing import Any

from torch import Tensor, nn

from finetune.attention.call import inputs_of, wants_weights
from finetune.attention.kernels import dispatch
from finetune.attention.kernels.inputs import BoundVariant
from finetune.attention.variants import VARIANTS

VARIANT = "sa-softmax"
supports_flash_attn = True


def flash_attn_forward(  # noqa: PLR0917 - the signature is transformers'
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
    """Attend; return (batch, query, heads, width) in the value's type, and the weights where asked for."""
    inputs = inputs_of(
        module, query, key, value, attention_mask, dropout, scaling, is_causal, position_bias, keywords
    )
    bound = BoundVariant.of(VARIANTS[VARIANT])
    output, weights, _ = dispatch.attend(inputs, bound, "auto", wants_weights(keywords))
    return output, weights
