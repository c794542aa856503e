"""Linear layers and dropout on a CPU, in less time than torch's own: ``model.layers onednn``, in any variant.

torch multiplies float32 matrices with MKL, which leaves a third of some processors unused, and draws a
number of double precision for each one that dropout may drop. Here oneDNN, which comes with torch too,
multiplies, and 16 random bits decide each. Results differ from torch's by rounding, and by which numbers are
dropped.
"""

import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from finetune.errors import UserError

X86 = ("x86_64", "AMD64")
FEWEST_ROWS = 64  # of a product: of fewer, what oneDNN sets up for each new shape costs more than it saves
FEWEST_NUMBERS = 4096  # that dropout is drawn for: of fewer, its generator costs more than it saves
_LEVELS = 2**16  # of a random number that decides whether one is dropped
_TOLERANCE = 1e-5  # of the proof, relative to the largest number
_torch_linear, _torch_dropout = functional.linear, functional.dropout


class Layers:
    """While it is entered, torch's ``functional.linear`` and ``functional.dropout`` are those of this module.

    Whatever module calls them, and in the backward pass too, where activation checkpointing runs layers
    again: a mode of torch's functions is left there, and other numbers would be dropped. What is not on a CPU
    and in float32 stays torch's own work.
    """

    facts: ClassVar[Mapping[str, str]] = {"linear": "onednn", "dropout": "16 bits"}  # for the record

    def __init__(self) -> None:
        self._before: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        self._before.append((functional.linear, functional.dropout))
        functional.linear, functional.dropout = linear, dropout

    def __exit__(self, *_: object) -> None:
        functional.linear, functional.dropout = self._before.pop()


def chosen(choice: str, device: str, *, half: bool, compiled: bool) -> AbstractContextManager[Any]:
    """What the steps of a run are made in: ``Layers``, or nothing where torch is to compute.

    ``choice``: "torch" or "onednn" (``model.layers``). ``half``: in bfloat16 or float16. ``compiled``: by
    ``torch.compile``. Raises ``UserError`` where oneDNN is asked for and cannot be used.
    """
    if choice == "torch":
        return nullcontext()
    reasons = {
        f"it computes on an x86-64 CPU, and this run is on {device}": device != "cpu",
        f"it computes on an x86-64 CPU, not on {platform.machine()}": platform.machine() not in X86,
        "it computes in float32, and this run trains in half precision": half,
        "torch.compile replaces the layers itself": compiled,
    }
    if reason := next((reason for reason, holds in reasons.items() if holds), None) or fault():
        raise UserError(f"model.layers onednn cannot be used: {reason}; leave it out, or use torch")
    return Layers()


@cache
def fault() -> str | None:
    """What keeps oneDNN's products from being used; None where they have been held against torch's."""
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without oneDNN"
    generator = torch.Generator().manual_seed(0)
    inputs, weight, bias, grad = (
        torch.randn(*shape, generator=generator) for shape in ((70, 33), (48, 33), (48,), (70, 48))
    )
    answers = []
    for product in (_Linear.apply, _torch_linear):
        leaves = [tensor.clone().requires_grad_() for tensor in (inputs, weight, bias)]
        with torch.enable_grad():
            output = product(*leaves)
        answers.append([output.detach(), *torch.autograd.grad(output, leaves, grad)])
    for ours, theirs in zip(*answers, strict=True):
        if not (ours - theirs).abs().max() <= _TOLERANCE * theirs.abs().max():
            return "oneDNN's products are not those of torch"
    return None


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``functional.linear``: input (..., n) @ weight (m, n)^T + bias (m,)."""
    if _is_plain(input) and _is_plain(weight) and (bias is None or _is_plain(bias)):
        rows = input.numel() // max(1, input.shape[-1]) if input.dim() > 1 else 1
        if rows >= FEWEST_ROWS and weight.numel() and not torch.is_autocast_enabled("cpu"):
            output: Tensor = _Linear.apply(input, weight, bias)
            return output
    return _torch_linear(input, weight, bias)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """``functional.dropout``, of a probability rounded to 1/65,536, by which it is scaled too.

    It takes one number of torch's generator for the CPU, so that ``torch.manual_seed`` repeats it.
    """
    dropped = round(p * _LEVELS)
    if not training or inplace or not 0 < dropped < _LEVELS or not _is_plain(input):
        return _torch_dropout(input, p, training, inplace)
    if input.numel() < FEWEST_NUMBERS:
        return _torch_dropout(input, p, training)
    output: Tensor = _Dropout.apply(input, dropped, int(torch.randint(2**63 - 1, ())))
    return output


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is float32 numbers on the CPU, and no type of its own such as a share of a tensor."""
    plain = type(tensor) in (Tensor, nn.Parameter)
    return plain and tensor.device.type == "cpu" and tensor.dtype == torch.float32


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left (..., k) @ right (n, k)^T + bias (n,), by oneDNN; either may be a transposed view."""
    output: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return output


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, weight)
        return _product(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        grad_input = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_input = _product(grad, weight.t())
        flat = grad.reshape(-1, grad.shape[-1])
        if ctx.needs_input_grad[1]:
            rows = input.reshape(-1, input.shape[-1])
            if weight.shape[0] > weight.shape[1]:  # oneDNN is at its best where the result is wide
                grad_weight = _product(rows.t(), flat.t()).t()
            elif weight.shape[0] < weight.shape[1]:
                grad_weight = _product(flat.t(), rows.t())
            else:  # and MKL as good where it is square
                grad_weight = flat.t() @ rows
        if ctx.needs_input_grad[2]:
            grad_bias = flat.sum(0)
        return grad_input, grad_weight, grad_bias


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, dropped: int, seed: int) -> Tensor:
        bits = np.random.SFC64(seed).random_raw(-(-input.numel() // 4)).view(np.int16)
        numbers = torch.from_numpy(bits)[: input.numel()].view(input.shape)
        factor = torch.empty_like(input, memory_format=torch.contiguous_format)
        torch.ge(numbers, dropped - _LEVELS // 2, out=factor)  # 1 where it is kept, else 0
        factor.mul_(_LEVELS / (_LEVELS - dropped))
        ctx.save_for_backward(factor)
        return input * factor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (factor,) = ctx.saved_tensors
        return grad * factor, None, None
