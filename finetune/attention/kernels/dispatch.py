"""Chooses the kernel of a call: the fastest that can compute it, or the one that was asked for.

| kernel | what it is | computes |
|---|---|---|
| sdpa | torch's scaled_dot_product_attention | softmax |
| triton | one fused kernel on CUDA | the self-adjust variants, and softmax with a bias by distance |
| native | one compiled loop on the CPU | the self-adjust variants, and softmax with a bias by distance |
| blocked | PyTorch, some queries at a time | the self-adjust variants |
| reference | the definition, step by step | everything |

A bias by distance is a line of numbers a head to triton and native. sdpa would take it written out only, with
a gradient as large and, on a CPU, in its slowest form: under such a bias softmax therefore goes where the
variants go, so that a comparison has one kernel on both sides.

A fast kernel computes nothing before it has been held against the reference on the device at hand.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import get_args

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from finetune.attention.kernels import blocked, proof, reference
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.kernels.native import native_attention
from finetune.attention.kernels.triton import triton_attention
from finetune.config.choices import KernelChoice

CHOICES: tuple[str, ...] = get_args(KernelChoice)  # of attention.kernel
CONTROL = "control"
"""A choice of measurements alone: softmax, too, on the fast kernel that the variants have on a device."""
FAST = {"triton": triton_attention, "native": native_attention, "blocked": blocked}
BY_DISTANCE = ("triton", "native")  # the kernels that take a bias by distance as it is
_log = logging.getLogger(__name__)
_logged: set[tuple[str, str]] = set()  # a reason is logged once a process, not once a layer and step


def attend(
    inputs: Inputs, variant: BoundVariant, choice: str, wants_weights: bool = False
) -> tuple[Tensor, Tensor | None, str]:
    """The output, (batch, query, heads, value width), the weights if wanted, and the kernel that ran.

    ``choice``: one of ``CHOICES``, or ``CONTROL``. What the chosen kernel cannot do goes to the next one that
    can, and that is logged once for each reason, as a warning.
    """
    for kernel in _order(inputs, variant, choice):
        if kernel not in BY_DISTANCE or inputs.bias is not None:
            inputs = inputs.with_whole_bias()
        if kernel == "reference":
            output, weights = reference.reference(inputs, variant)
            return output, weights, kernel
        if wants_weights:
            reason: str | None = "it returns no attention weights"
        else:
            reason = why_not(kernel, inputs, variant) or fault(kernel, inputs, variant)
        if reason is None:
            output = reference.sdpa(inputs) if kernel == "sdpa" else FAST[kernel].attend(inputs, variant)
            return output, None, kernel
        if (kernel, reason) not in _logged:
            _logged.add((kernel, reason))
            _log.warning("attention kernel %s passed over: %s", kernel, reason)
    raise AssertionError("the reference kernel computes everything")


def why_not(kernel: str, inputs: Inputs, variant: BoundVariant) -> str | None:
    """Why ``kernel`` does not do inputs of this kind; None if it does."""
    if kernel == "reference":
        return None
    if kernel == "sdpa":
        return None if variant.name == "softmax" else "it computes softmax only"
    return _not_plain(inputs) or _misshapen(inputs) or FAST[kernel].why_not(inputs, variant)


def fault(kernel: str, inputs: Inputs, variant: BoundVariant) -> str | None:
    """What is wrong with a kernel that does do such inputs, tried on this device; None where it is right."""
    if kernel not in FAST:
        return None
    return proof.fault(FAST[kernel].attend, proof.CallKind.of(inputs, variant.name))


def _not_plain(inputs: Inputs) -> str | None:
    """Why only PyTorch's own operators will do, which can be seen through: a fast kernel is one opaque step
    on numbers that are there."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return "a graph is exported, which holds PyTorch's own operators alone"
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return "torch.func transforms it, which takes PyTorch's own operators"
    if forward_ad._current_level >= 0:
        return "it gives no forward-mode gradients"
    if inputs.query.device.type == "meta":
        return "tensors on the device meta hold no numbers"
    for tensor in inputs.tensors():
        if type(tensor) not in (Tensor, nn.Parameter):
            return f"it reads plain tensors, no {type(tensor).__name__}"
    return None


def _misshapen(inputs: Inputs) -> str | None:
    """What the definition broadcasts or refuses by itself, the fast kernels do not take: some read memory by
    these shapes, and would read or write what is not theirs."""
    batch, heads, query_len, width = inputs.query.shape
    key_batch, key_heads, key_len, key_width = inputs.key.shape
    fits = (key_batch, key_width) == (batch, width) and key_heads > 0 and heads % key_heads == 0
    if not fits or inputs.value.shape[:3] != (batch, key_heads, key_len):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (inputs.query, inputs.key, inputs.value))
        return f"query, key and value of shapes {shapes} do not fit each other"
    scores = (batch, heads, query_len, key_len)
    for name, tensor in (("mask", inputs.allowed), ("bias", inputs.bias)):
        if tensor is not None and not _broadcasts(tensor.shape, scores):
            return f"a {name} of shape {tuple(tensor.shape)} does not broadcast to scores of shape {scores}"
    line = inputs.by_distance
    if line is not None and tuple(line.shape) != (heads, query_len + key_len - 1):
        return f"a bias by distance of shape {tuple(line.shape)} is none of scores of shape {scores}"
    if inputs.allowed is not None and inputs.allowed.dtype != torch.bool:
        return f"its mask is to be bool, not {inputs.allowed.dtype}"
    if any(tensor.device != inputs.query.device for tensor in inputs.tensors()):
        return "query, key, value, mask and bias are not on one device"
    return "with a dropout of 1 no weight is left" if inputs.dropout >= 1 else None


def _broadcasts(shape: Sequence[int], scores: Sequence[int]) -> bool:
    """Whether a tensor of ``shape`` expands to ``scores`` as it is."""
    fits = all(size in (1, whole) for size, whole in zip(reversed(shape), reversed(scores), strict=False))
    return fits and len(shape) <= len(scores)


def _order(inputs: Inputs, variant: BoundVariant, choice: str) -> Iterator[str]:
    """Kernels to try, the best first, ending with the reference."""
    if choice == "reference":
        yield "reference"
        return
    device = inputs.query.device.type
    order = {"cuda": ["triton", "blocked"], "cpu": ["native", "blocked"]}.get(device, ["blocked"])
    if variant.name == "softmax":
        if choice == CONTROL or (inputs.by_distance is not None and order[0] in BY_DISTANCE):
            yield order[0]
        yield from ("sdpa", "reference")
        return
    if choice != "auto":
        order = [choice, *(kernel for kernel in order if kernel != choice)]
    yield from order
    yield "reference"
