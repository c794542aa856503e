"""What one attention call is given, and the variant it is to apply: the common language of the kernels.

A kernel is a module with two functions:

- ``attend(inputs, variant) -> Tensor``: the output, (batch, query, heads, value width), contiguous, in the
  value's type, differentiable in query, key, value and bias.
- ``why_not(inputs, variant) -> str | None``: why this kernel cannot do these inputs; None if it can.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from finetune.attention.variants import Variant
from finetune.errors import UserError

Weigh = Callable[[Tensor, Tensor | None], Tensor]  # (scores, allowed) -> weights


@dataclass(frozen=True)
class BoundVariant:
    """A variant with its parameters bound. ``weigh`` is its definition; a faster kernel goes by its name."""

    name: str  # of the variant
    weigh: Weigh
    parameters: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, variant: Variant, parameters: Mapping[str, float] | None = None) -> "BoundVariant":
        """``variant`` with all its ``parameters``, or with its defaults."""
        bound = dict(variant.parameters if parameters is None else parameters)
        return cls(variant.name, partial(variant.weigh, **bound), bound)


@dataclass(frozen=True)
class Inputs:
    """One attention call: scores are query @ key^T * scaling + bias."""

    query: Tensor  # (batch, heads, query, width)
    key: Tensor  # (batch, key heads, key, width); key heads divide heads: head h reads key head h // groups
    value: Tensor  # (batch, key heads, key, value width)
    allowed: Tensor | None  # bool, broadcastable to (batch, heads, query, key); None allows all
    bias: Tensor | None  # floating, broadcastable likewise; may ask for a gradient
    causal: bool  # on top of allowed: query i sees keys 0 to i
    scaling: float
    dropout: float  # probability; of weights, after normalising, scaled by 1 / (1 - dropout)
    by_distance: Tensor | None = None
    """(heads, query + key - 1), floating, may ask for a gradient: a further bias that is a function of
    distance, ``by_distance[:, query - 1 - i + j]`` for the query in slot i and the key in slot j. From the
    last query's distance to the first key, in steps of one key ahead, to the first query's to the last."""

    def tensors(self) -> list[Tensor]:
        """All that the call is given."""
        given = (self.query, self.key, self.value, self.allowed, self.bias, self.by_distance)
        return [tensor for tensor in given if tensor is not None]

    def types(self) -> tuple[torch.dtype, torch.dtype, torch.dtype]:
        """Of query, key and value, as torch's own attention takes them: under autocast, its type."""
        given = (self.query.dtype, self.key.dtype, self.value.dtype)
        device = self.query.device.type
        if torch.float64 in given or not torch.is_autocast_enabled(device):
            return given
        return (torch.get_autocast_dtype(device),) * 3

    def in_autocast(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value in those types."""
        query, key, value = self.types()
        return self.query.to(query), self.key.to(key), self.value.to(value)

    def draw_seed(self) -> int:
        """The seed of this call's dropout: one number of torch's CPU generator, none without dropout."""
        return int(torch.randint(2**63 - 1, ())) if self.dropout > 0 else 0

    def without_tensors(self) -> "Inputs":
        """All but query, key and value, for autograd's memory: it holds those itself, where activation
        checkpointing can take them away."""
        nothing = torch.empty(0, device=self.query.device, dtype=self.query.dtype)
        return replace(self, query=nothing, key=nothing, value=nothing)

    def with_whole_bias(self) -> "Inputs":
        """The same call with ``by_distance`` written out into ``bias``, (1, heads, query, key)."""
        if self.by_distance is None:
            return self
        heads, query_len, key_len = self.query.shape[1], self.query.shape[-2], self.key.shape[-2]
        places = max(query_len + key_len - 1, 0)
        if tuple(self.by_distance.shape) != (heads, places):
            raise UserError(
                f"a bias by distance of {heads} heads, {query_len} queries and {key_len} keys has the shape "
                f"{(heads, places)}, not {tuple(self.by_distance.shape)}"
            )
        bias = _Toeplitz.apply(self.by_distance, query_len, key_len)[None]
        return replace(self, bias=bias if self.bias is None else self.bias + bias, by_distance=None)

    def all_allowed(self) -> Tensor | None:
        """``allowed`` with the causal part written out."""
        if not self.causal:
            return self.allowed
        query_len, key_len = self.query.shape[-2], self.key.shape[-2]
        past = torch.ones(query_len, key_len, dtype=torch.bool, device=self.query.device).tril()
        return past if self.allowed is None else past & self.allowed


class _Toeplitz(torch.autograd.Function):
    """(heads, query + key - 1) -> (heads, query, key), the value in place query - 1 - i + j at (i, j).

    Not by indexing, whose gradient adds up one number at a time. ``torch.func`` may transform it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(by_distance: Tensor, query_len: int, key_len: int) -> Tensor:
        rows = by_distance.unfold(-1, key_len, 1) if query_len and key_len else by_distance[:, :0, None]
        return rows.flip(1).reshape(by_distance.shape[0], query_len, key_len)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        """It is linear: no tensor is kept."""
        ctx.lengths = inputs[1:]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return _Toeplitz.forward(tangent, *ctx.lengths)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return sum_by_distance(grad), None, None


def sum_by_distance(scores: Tensor) -> Tensor:
    """(..., query, key) -> (..., query + key - 1): the sum of the diagonals, by place query - 1 - i + j."""
    *others, query_len, key_len = scores.shape
    places = max(query_len + key_len - 1, 0)
    # Rows in reverse, each one place further to the right: equal distances then stand in one column.
    skewed = torch.nn.functional.pad(scores.flip(-2), (0, query_len)).flatten(-2)
    return skewed[..., : query_len * places].reshape(*others, query_len, places).sum(-2)


def refuse_second_derivative() -> None:
    """For the backward pass of a kernel, which computes a gradient that cannot be differentiated again."""
    if torch.is_grad_enabled():
        no_second_derivative()


def no_second_derivative(*_: Any) -> NoReturn:
    """The backward pass of a kernel's gradient."""
    raise UserError(
        "a fast attention kernel gives no second derivatives (create_graph=True): "
        "use --attention.kernel reference"
    )


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Types are chosen step by step, whatever surrounds a call; nothing is cast on the device meta."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


def with_contiguous_rows(tensor: Tensor) -> Tensor:
    """``tensor`` itself if its last axis has stride 1, else a copy."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def room_for_gradient(tensor: Tensor) -> Tensor:
    """Empty, dense and in the order of axes of ``tensor``, so that no row is written twice; the last axis has
    stride 1, where torch may order those of a view with overlapping rows otherwise."""
    return with_contiguous_rows(torch.empty_like(tensor))
