"""A kernel's first use on a device is a small proof against the definition: wrong is never fast."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Lock

import torch
from torch import Tensor

from finetune.attention import VARIANTS
from finetune.attention.kernels import reference
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.system.allocation import out_of_memory

# Relative error, in norm, that rounding explains with room to spare; a wrong formula is off by far more.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_MANY, _FEW = 37, 3  # queries

Attend = Callable[[Inputs, BoundVariant], Tensor]


@dataclass(frozen=True)
class CallKind:
    """What may take a kernel through other code: each kind of call is proved by itself."""

    variant: str
    device: torch.device
    dtype: torch.dtype  # of the queries
    others: tuple[torch.dtype, ...]  # of keys, values and the bias, which may be another
    width: int
    causal: bool
    bias: bool
    trained_bias: bool
    by_distance: bool
    queries: int  # of the proof: many, or few as in steps of generation

    @classmethod
    def of(cls, inputs: Inputs, variant: str) -> "CallKind":
        query, bias = inputs.query, inputs.bias
        trained = bias is not None and bias.requires_grad
        width = query.shape[-1]
        by_distance = inputs.by_distance is not None
        dtype, *others = inputs.types()
        if bias is not None:
            others.append(bias.dtype)
        return cls(
            variant, query.device, dtype, tuple(others), width, inputs.causal,
            bias is not None, trained, by_distance, _FEW if inputs.query.shape[-2] <= _FEW else _MANY,
        )  # fmt: skip


@cache
@torch.compiler.disable
def fault(attend: Attend, kind: CallKind) -> str | None:
    """What is wrong with ``attend`` on this device, tried once a process; None where it is right.

    Output and gradients of a small padded call with grouped keys are held against the reference kernel's.
    Running out of memory is no verdict: it is raised. Dropout is left to the tests.
    """
    variant = BoundVariant.of(VARIANTS[kind.variant])
    with _undisturbed(kind.device):
        inputs = _inputs(kind, kind.device)
        exact = _inputs(kind, torch.device("cpu"), exact=True)
        try:
            results = _results(attend(inputs, variant), inputs)
        except Exception as error:  # a compiler or driver can fail in any way; the reason is passed on
            if out_of_memory(error):
                raise
            line = (str(error).strip().splitlines() or [""])[0]
            return f"it fails on {kind.device} ({type(error).__name__}: {line[:200]})"
        expected = _results(reference.reference(exact.with_whole_bias(), variant)[0], exact)
    for name, tensor in results.items():
        truth = expected[name].detach()
        difference = float((tensor.detach().cpu().double() - truth).norm() / truth.norm())
        if not difference <= max(
            _TOLERANCE[each] for each in (kind.dtype, *kind.others)
        ):  # NaN is no proof either
            return f"its {name} is wrong on {kind.device} in {kind.dtype}, by {difference:.1e} of its norm"
    return None


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Gradients as anywhere else, whatever surrounds the call: autocast, no_grad, activation checkpointing,
    and matrix products of less than float32."""
    with (
        _exact_products(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor),
    ):
        yield


_LOCK = Lock()
_before: list[str] = []  # the precision outside, once for each proof that is under way


@contextmanager
def _exact_products() -> Iterator[None]:
    """Matrix products in float32, which is one setting for all threads: the last of several proofs at once
    puts back what the first has found."""
    with _LOCK:
        _before.append(_before[0] if _before else torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        with _LOCK:
            found = _before.pop()
            if not _before:
                torch.set_float32_matmul_precision(found)


def _inputs(kind: CallKind, device: torch.device, exact: bool = False) -> Inputs:
    """Two rows of 45 keys, the second padded; 4 heads over 2 key heads."""
    generator = torch.Generator().manual_seed(0)

    def draw(dtype: torch.dtype, *shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=generator, device="cpu").to(dtype)
        return drawn.to(device, torch.float64 if exact else dtype)  # rounded as the kernel's own inputs are

    width, queries = kind.width, kind.queries
    query = draw(kind.dtype, 2, 4, queries, width)
    key, value = (draw(dtype, 2, 2, 45, width) for dtype in kind.others[:2])
    bias = draw(kind.others[2], 1, 4, queries, 45).requires_grad_(kind.trained_bias) if kind.bias else None
    float32 = torch.promote_types(kind.dtype, torch.float32)
    by_distance = draw(float32, 4, queries + 45 - 1).requires_grad_() if kind.by_distance else None
    lengths = torch.tensor([[45], [30]], device=device)
    allowed = (torch.arange(45, device=device) < lengths)[:, None, None]
    for tensor in (query, key, value):
        tensor.requires_grad_()
    return Inputs(query, key, value, allowed, bias, kind.causal, width**-0.5, 0.0, by_distance)


def _results(output: Tensor, inputs: Inputs) -> dict[str, Tensor]:
    arriving = torch.linspace(-1, 1, output.numel(), dtype=torch.float64, device="cpu").view(output.shape)
    leaves = {"query": inputs.query, "key": inputs.key, "value": inputs.value}
    if inputs.bias is not None and inputs.bias.requires_grad:
        leaves["bias"] = inputs.bias
    if inputs.by_distance is not None:
        leaves["bias by distance"] = inputs.by_distance
    arrived = arriving.to(output.device, output.dtype)
    gradients = torch.autograd.grad(output, list(leaves.values()), arrived)
    named = {f"gradient of the {name}": each for name, each in zip(leaves, gradients, strict=True)}
    return {"output": output, **named}
