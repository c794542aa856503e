"""Stock models whose position bias is a function of distance: T5 and its relatives.

They pass it to attention written out, (1, heads, query, key). Read back as the line of numbers that it was
made of, it costs a kernel next to nothing, and its gradient is summed by distance instead of score by score:
keys at one distance share a bucket, and so a number of the table that is trained.
"""

from typing import Any

import torch
from torch import Tensor, nn

# Attention classes whose position_bias is the table of ``compute_bias`` by bucket of distance, or zeros, and
# nothing else: by name, so that no model is imported. A declaration, and never a look at the numbers, for a
# bias that is trained score by score may start out as a function of distance. UDOP, whose encoder adds biases
# of places on a page, is not among them, and neither is a subclass, which may do otherwise.
_DECLARED = frozenset(
    f"transformers.models.{model}.modeling_{model}.{name}Attention"
    for model, name in (
        ("t5", "T5"), ("mt5", "MT5"), ("umt5", "UMT5"), ("longt5", "LongT5"), ("pop2piano", "Pop2Piano"),
        ("pix2struct", "Pix2StructText"), ("switch_transformers", "SwitchTransformers"),
    )
)  # fmt: skip


def decided_by_distance(module: nn.Module) -> bool:
    """Whether the position bias that ``module`` passes is a function of distance, by declaration."""
    return f"{type(module).__module__}.{type(module).__qualname__}" in _DECLARED


def line_of(bias: Tensor) -> Tensor:
    """(1, heads, query, key), a function of distance -> (heads, query + key - 1), as ``Inputs`` has it."""
    line: Tensor = _Line.apply(bias)
    return line


class _Line(torch.autograd.Function):
    """The first column from the bottom up, then the first row; each number once. One gradient of the size of
    the bias, where slices would have one each. ``torch.func`` may transform it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(bias: Tensor) -> Tensor:
        return torch.cat([bias[0, :, 1:, 0].flip(-1), bias[0, :, 0]], dim=-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.shape = inputs[0].shape

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return _Line.forward(tangent)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        whole = grad.new_zeros(ctx.shape)
        before = ctx.shape[2] - 1
        whole[0, :, 1:, 0] = grad[:, :before].flip(-1)
        whole[0, :, 0] = grad[:, before:]
        return whole
