"""The native kernel: ``native.c``, compiled by the system's C compiler at first use, for a CPU."""

import ctypes
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from finetune.attention.kernels.inputs import (
    BoundVariant,
    Inputs,
    refuse_second_derivative,
    room_for_gradient,
    with_contiguous_rows,
)
from finetune.attention.kernels.native import build
from finetune.attention.variants import known_to

KNOWN = known_to("native")  # as native.c numbers them
TYPES = (torch.float32, torch.bfloat16, torch.float16)  # of elements, likewise
_PROCESS = os.getpid()  # torch's threads do not follow into one that is forked from it


@torch.compiler.disable
def why_not(inputs: Inputs, variant: BoundVariant) -> str | None:
    """Why this kernel cannot do these inputs; None if it can."""
    query, value, bias = inputs.query, inputs.value, inputs.bias
    reasons = {
        f"it knows no formula for {variant.name}": variant.name not in KNOWN,
        f"it computes on the CPU, not on {query.device.type}": query.device.type != "cpu",
        "it computes in float32, and these inputs are float64": any(
            tensor.dtype not in TYPES for tensor in (query, inputs.key, value)
        ),
        "the values are not as wide as the queries": query.shape[-1] != value.shape[-1],
        "the position bias is trained, and it computes no gradient for one": (
            bias is not None and bias.requires_grad
        ),
        # Checkpointing may pass a trained bias without gradients first, and draw again with another kernel.
        "with a bias and dropout another kernel draws the dropout": bias is not None and inputs.dropout > 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), None) or build.why_not()


@torch.compiler.disable
def attend(inputs: Inputs, variant: BoundVariant) -> Tensor:
    """The output, (batch, query, heads, width), in the value's type; float32 inside, but see native.c. Query,
    key and value are read, and their gradients written, in a type of their own each: under autocast in its,
    as by torch's own attention.

    Dropout takes one number from torch's generator for the CPU, so ``torch.manual_seed`` repeats it.
    """
    query, key, value = (with_contiguous_rows(tensor) for tensor in inputs.in_autocast())
    seed = inputs.draw_seed()
    if torch.is_grad_enabled():
        rest = replace(inputs.without_tensors(), by_distance=None)
        output: Tensor = _Attention.apply(query, key, value, inputs.by_distance, rest, variant, seed)
    else:  # a step of generation: autograd would take as long as the loop
        output, _ = _forward(query, key, value, inputs.by_distance, inputs, variant, seed)
    return output.to(inputs.value.dtype)


def _forward(  # noqa: PLR0917
    query: Tensor,
    key: Tensor,
    value: Tensor,
    by_distance: Tensor | None,
    inputs: Inputs,
    variant: BoundVariant,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """The output, and what the backward pass needs of each row, (batch, heads, query)."""
    batch, heads, query_len, width = query.shape
    out = value.new_empty(batch, query_len, heads, width)
    inverse_sum = query.new_empty(batch, heads, query_len, dtype=torch.float32)
    call = _call((query, key, value, inverse_sum), by_distance, inputs, variant, seed)
    call.out = _Tensor.of(out.transpose(1, 2))
    _run("attention_forward", call)
    return out, inverse_sum


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        by_distance: Tensor | None,
        inputs: Inputs,
        variant: BoundVariant,
        seed: int,
    ) -> Tensor:
        out, inverse_sum = _forward(query, key, value, by_distance, inputs, variant, seed)
        ctx.save_for_backward(query, key, value, inverse_sum, by_distance)
        ctx.rest = (inputs, variant, seed)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        grad_out = with_contiguous_rows(grad_out)
        *saved, by_distance = ctx.saved_tensors  # once: under activation checkpointing each look recomputes
        grads = [room_for_gradient(tensor) for tensor in saved[:3]]
        call = _call(saved, by_distance, *ctx.rest)
        call.grad_out = _Tensor.of(grad_out.transpose(1, 2))
        call.grad_query, call.grad_key, call.grad_value = (_Tensor.of(grad) for grad in grads)
        grad_by_distance = None
        if ctx.needs_input_grad[3]:
            shape = (*saved[0].shape[:2], by_distance.shape[-1])
            places = saved[0].new_zeros(shape, dtype=torch.float32)
            call.grad_by_distance = places.data_ptr()
        _run("attention_backward", call)
        if ctx.needs_input_grad[3]:
            grad_by_distance = places.sum(0).to(by_distance.dtype)
        return (*grads, grad_by_distance, None, None, None)


class _Mask(ctypes.Structure):
    """Mask of native.c: data, and strides in elements."""

    _fields_ = [("data", ctypes.c_void_p)] + [
        (name, ctypes.c_int64) for name in ("batch", "head", "row", "column")
    ]

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        return cls(tensor.data_ptr(), *tensor.stride())


class _Tensor(_Mask):
    """Tensor of native.c: the type of its elements besides."""

    _fields_ = [("type", ctypes.c_int64)]

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        return cls(tensor.data_ptr(), *tensor.stride(), TYPES.index(tensor.dtype))


class _CallStruct(ctypes.Structure):
    """Call of native.c."""

    _fields_ = (
        [(name, ctypes.c_int64) for name in ("batch", "heads", "key_heads", "query_len", "key_len", "width")]
        + [(name, ctypes.c_int64) for name in ("variant", "causal", "threads", "forked")]
        + [("seed", ctypes.c_uint64)]
        + [(name, ctypes.c_float) for name in ("scaling", "eps", "dropout")]
        + [(name, _Tensor) for name in ("query", "key", "value", "bias", "out", "grad_out")]
        + [(name, _Tensor) for name in ("grad_query", "grad_key", "grad_value")]
        + [("allowed", _Mask)]
        + [("inverse_sum", ctypes.c_void_p), ("grad_by_distance", ctypes.c_void_p)]
    )


def _call(
    tensors: Sequence[Tensor], by_distance: Tensor | None, inputs: Inputs, variant: BoundVariant, seed: int
) -> _CallStruct:
    query, key, value, inverse_sum = tensors
    batch, heads, query_len, width = query.shape
    shape = (batch, heads, query_len, key.shape[-2])
    call = _CallStruct(
        batch=batch, heads=heads, key_heads=key.shape[1], query_len=query_len, key_len=key.shape[-2],
        width=width, variant=KNOWN.index(variant.name), causal=inputs.causal,
        threads=torch.get_num_threads(), forked=os.getpid() != _PROCESS, seed=seed, scaling=inputs.scaling,
        eps=variant.parameters.get("eps", 0.0), dropout=inputs.dropout,
        query=_Tensor.of(query), key=_Tensor.of(key), value=_Tensor.of(value),
        inverse_sum=inverse_sum.data_ptr(),
    )  # fmt: skip
    call.keep = []  # what the addresses point to lives as long as the call
    if inputs.allowed is not None:
        call.allowed = _Mask.of(inputs.allowed.expand(shape))
    if (bias := inputs.bias) is not None:
        bias = bias.detach() if bias.dtype in TYPES else bias.detach().float()
        call.keep.append(bias)
        call.bias = _Tensor.of(bias.expand(shape))
    if by_distance is not None:
        # The bias of query i begins in place query_len - 1 - i: a tensor whose rows step back by one.
        line = with_contiguous_rows(by_distance.detach().float())
        call.keep.append(line)
        first = line[:, query_len - 1 :].data_ptr()
        call.bias = _Tensor(first, 0, line.stride(0), -1, 1, TYPES.index(line.dtype))
    return call


def _run(function: str, call: _CallStruct) -> None:
    if getattr(build.library(), function)(ctypes.byref(call)):
        raise MemoryError("not enough memory for the work buffers of the native attention kernel")
