"""Token rows without their padding: between the layers of a model (1, tokens, features), in attention padded.

What a layer computes token by token, which is all but its attention, then computes no padding.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Unpadding:
    """Which tokens a batch has, of a model whose layers are given those alone; one for all layers of it."""

    places: Tensor | None = (
        None  # of the tokens in the padded batch, flattened: (tokens,); None: all are there
    )
    rows: int = 0
    length: int = 0  # of the padded rows, in tokens
    active: bool = True  # whether padding is left out at all

    def read(self, mask: Tensor | None) -> None:
        """Takes the layout of a batch from its ``mask``, (rows, length), 1 where there is a token."""
        self.places = None
        if mask is not None and mask.dim() == 2:
            places = mask.flatten().nonzero().squeeze(1)
            if len(places) < mask.numel():
                self.places = places
                self.rows, self.length = mask.shape

    def unpad(self, padded: Tensor) -> Tensor:
        """(rows, length, ...) -> (1, tokens, ...)"""
        assert self.places is not None
        output: Tensor = _Unpad.apply(padded.flatten(0, 1), self.places)
        return output[None]

    def pad(self, tokens: Tensor) -> Tensor:
        """(1, tokens, ...) -> (rows, length, ...), with 0 where there is no token."""
        assert self.places is not None
        output: Tensor = _Pad.apply(tokens[0], self.places, self.rows * self.length)
        return output.unflatten(0, (self.rows, self.length))

    def pad_heads(self, tokens: Tensor) -> Tensor:
        """(1, heads, tokens, width) -> (rows, heads, length, width)."""
        return self.pad(tokens.transpose(1, 2)).transpose(1, 2)


class _Unpad(torch.autograd.Function):
    """Rows of ``padded`` at ``places``, each of which is there once: quicker than indexing backwards."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(padded)
        return padded.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        output: Tensor = _Pad.apply(grad, places, ctx.count)
        return output, None


class _Pad(torch.autograd.Function):
    """The reverse: ``count`` rows, those at ``places`` from ``tokens`` and the others 0."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, places: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(places)
        return tokens.new_zeros(count, *tokens.shape[1:]).index_copy_(0, places, tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        output: Tensor = _Unpad.apply(grad, places)
        return output, None, None
