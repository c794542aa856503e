"""How far each implementation is from the definition in float64, so that a fast wrong kernel shows."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from finetune.attention import PAPER
from finetune.attention.kernels import reference
from finetune.attention.kernels.inputs import Inputs
from finetune.bench.cases import (
    BASELINE,
    Case,
    Implementation,
    NotMeasuredError,
    attend,
    bind,
    gradients,
    implementations,
    make,
    why_not,
)

LIMIT = 1e-5  # relative error in float32
WORST = 1e9  # stands for infinity and NaN, which JSON lacks
FACTOR = 1.5  # in half precision: times the baseline's own error


def measure(
    device: str, dtype: str, masks: Sequence[str], widths: Sequence[int], seed: int
) -> list[dict[str, Any]]:
    """One row a case and implementation: the relative errors of the output and of the worst gradient."""
    rows = []
    for width, mask in product(widths, masks):
        # No multiple of a tile's length, so that a wrong edge shows.
        case = Case(mask=mask, batch=3, length=67, heads=2, width=width, dtype=dtype)
        inputs, upstream = make(case, device, seed)
        exact = {name: _definition(name, inputs, upstream) for name in PAPER}
        limit = {"output": LIMIT, "gradients": LIMIT}
        for implementation in implementations():  # the baseline first, whose error may set the limit
            if why_not(implementation, inputs) is not None:
                continue
            try:
                deviations = errors(implementation, inputs, upstream, exact[implementation.variant])
            except NotMeasuredError:
                continue
            except Exception:  # the timing says why; here it must not pass for exact
                deviations = {"output": WORST, "gradients": WORST}
            if implementation == BASELINE and dtype != "float32":
                limit = {name: FACTOR * error for name, error in deviations.items()}
            rows.append({
                "mask": mask, "width": width, **asdict(implementation), **deviations,
                "limit": dict(limit), "exact": all(deviations[name] <= limit[name] for name in deviations),
            })  # fmt: skip
    return rows


def errors(
    implementation: Implementation, inputs: Inputs, upstream: Tensor, exact: Sequence[Tensor]
) -> dict[str, float]:
    """Relative errors in the 2-norm, against output and gradients of the definition."""
    output = attend(implementation, inputs)
    deviations = [_relative(mine, theirs) for mine, theirs in zip(
        [output, *gradients(output, inputs, upstream)], exact, strict=True
    )]  # fmt: skip
    return {"output": deviations[0], "gradients": max(deviations[1:])}


def _definition(variant: str, inputs: Inputs, upstream: Tensor) -> list[Tensor]:
    """Output and gradients of query, key and value, step by step in float64."""
    wide = {
        name: getattr(inputs, name).detach().double().requires_grad_() for name in ("query", "key", "value")
    }
    exact = replace(inputs, **wide)
    output, _ = reference.reference(exact, bind(variant))
    return [output, *gradients(output, exact, upstream.double())]


def _relative(computed: Tensor, exact: Tensor) -> float:
    """The error's norm over the exact norm; ``WORST`` for a larger one, and for NaN."""
    exact = exact.detach()
    error = torch.linalg.vector_norm(computed.detach().double() - exact) / torch.linalg.vector_norm(exact)
    return float(error.nan_to_num(nan=WORST).clamp(max=WORST))
