"""The variants in the registries of transformers (5.17 or newer), the only file that touches them.

``swap`` puts one function there, under the name "finetune"; which variant a layer computes is kept on its
attention module. Beside it each variant is there under its own name, so that
``from_pretrained(..., attn_implementation="sa-softmax")`` computes it in every layer that calls the
interface.

That a model does call it, only ``swap`` proves: DeBERTa, XLNet and others accept any name, never call the
function, and compute plain softmax.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from finetune.attention import contract, variants
from finetune.attention.interface import LayerAttention, attention
from finetune.attention.kernels.inputs import BoundVariant
from finetune.attention.variants import BUILT_IN, VARIANTS, Variant, get_variant
from finetune.errors import UserError

NAME = "finetune"
RECORDED = "finetune_attention"
"""The key of config.json that says which variant a checkpoint was trained with: name, parameters, scope."""


def add(variant: Variant) -> None:
    """Make ``variant`` an ``attn_implementation`` by its own name; ``UserError`` where that is another's."""
    if variant.name not in BUILT_IN:
        taken = {"eager", NAME, *AttentionInterface()} - _ours
        if variant.name in taken or any(part in variant.name for part in ("flash", "flex", "sdpa", "paged")):
            raise UserError(
                f"'{variant.name}' is or looks like a name of transformers' own: give the variant another one"
            )
        contract.check(variant)
    _ours.add(variant.name)
    AttentionInterface.register(variant.name, _by_name(variant.name))
    AttentionMaskInterface.register(variant.name, _mask)


_ours: set[str] = set()


def _by_name(name: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention function that computes the variant called ``name`` in every layer."""

    def attend(module: nn.Module, *tensors: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        recorded = getattr(getattr(module, "config", None), RECORDED, None) or {}
        parameters: dict[str, float] = {}
        if recorded.get("variant") == name:
            parameters, scope = recorded["parameters"], recorded["scope"]
            if scope != "all":
                raise UserError(
                    f"this checkpoint was trained with {name} in its {scope} attention alone: load its run "
                    f'by finetune.load, or call finetune.swap(model, "{name}", scope="{scope}")'
                )
        layer = _layer(get_variant(name), tuple(sorted(parameters.items())))
        return attention(module, *tensors, layer=layer, **options)

    return attend


@cache
def _layer(variant: Variant, parameters: tuple[tuple[str, float], ...]) -> LayerAttention:
    bound = BoundVariant.of(variant, {**variant.parameters, **dict(parameters)})
    return LayerAttention(bound, "encoder", "auto")


def _mask(**keywords: Any) -> Tensor | None:
    """The boolean mask of transformers, as small as it can be.

    One that is the same for every query, as padding is, comes as (batch, 1, 1, key). None means that all is
    allowed or, on a causal module, the past: ``attention`` honours both.
    """
    if keywords.get("mask_function") is bidirectional_mask_function:
        keywords["q_length"] = 1
    return sdpa_mask(**keywords)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, _mask)
for _variant in list(VARIANTS.values()):
    add(_variant)
variants.on_registration.append(add)
