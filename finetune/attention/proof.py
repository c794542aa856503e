"""A kernel's first use on a device is a small proof against the definition: wrong is never fast."""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from finetune.attention import VARIANTS, plain
from finetune.attention.inputs import Inputs, Normaliser

# Relative error, in norm, that rounding explains with room to spare; a wrong formula is off by far more.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}

Attend = Callable[[Inputs, Normaliser], Tensor]


@cache
@torch.compiler.disable
def fault(attend: Attend, variant: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """What is wrong with ``attend`` on this device, tried once a process; None where it is right.

    Output and gradients of a small padded call with grouped keys are held against the reference kernel's.
    """
    defaults = VARIANTS[variant].parameters
    normaliser = Normaliser(variant, partial(VARIANTS[variant].function, **defaults), defaults)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        inputs, exact = _inputs(device, dtype), _inputs(torch.device("cpu"), torch.float64, dtype)
        try:
            found = _results(attend(inputs, normaliser), inputs)
        except Exception as error:  # a compiler or driver can fail in any way; the reason is passed on
            return f"it fails on {device} ({type(error).__name__}: {_first_line(error)})"
        expected = _results(plain.reference(exact, normaliser)[0], exact)
    for name, tensor in found.items():
        truth = expected[name].detach()
        difference = float((tensor.detach().cpu().double() - truth).norm() / truth.norm())
        if not difference <= _TOLERANCE[dtype]:  # NaN is no proof either
            return f"its {name} is wrong on {device} in {dtype}, by {difference:.1e} of its norm"
    return None


def _inputs(device: torch.device, dtype: torch.dtype, rounded_to: torch.dtype | None = None) -> Inputs:
    """Two rows of 45 keys, the second padded; 37 queries; 4 heads over 2 key heads; width 32."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"query": (2, 4, 37, 32), "key": (2, 2, 45, 32), "value": (2, 2, 45, 32)}
    query, key, value = (
        torch.randn(shape, generator=generator).to(rounded_to or dtype).to(device, dtype).requires_grad_()
        for shape in shapes.values()
    )
    allowed = torch.arange(45, device=device) < torch.tensor([[45], [30]], device=device)
    return Inputs(query, key, value, allowed[:, None, None], None, False, 32**-0.5, 0.0)


def _results(output: Tensor, inputs: Inputs) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    arriving = weights.to(output.device, output.dtype)
    gradients = torch.autograd.grad(output, (inputs.query, inputs.key, inputs.value), arriving)
    names = ("output", "gradient of the query", "gradient of the key", "gradient of the value")
    return dict(zip(names, (output, *gradients), strict=True))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
