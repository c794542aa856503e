"""Rows whose float32 gradients are far from those in float64, and what of it is a kernel's.

``TRITON_INTERPRET=1 python -m tests.support.hard_rows`` prints the table of docs/variants.md.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.attention import VARIANTS
from finetune.attention.kernels import blocked, reference
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.kernels.native import native_attention
from finetune.attention.kernels.triton import triton_attention

HEADS, COUNT, WIDTH = 2, 32, 32  # queries, and keys
SCALING = WIDTH**-0.5
ULP, ROUNDING = 2.0**-23, 2.0**-24  # of float32, relative
DRAWS = 6
NAMES = ("output", "query", "key", "value")

Attend = Callable[[Inputs, BoundVariant], Tensor]
KERNELS: dict[str, Attend] = {
    "reference": lambda inputs, variant: reference.reference(inputs, variant)[0],
    "native": native_attention.attend,
    "blocked": blocked.attend,
    "triton": triton_attention.attend,
}
SA, SOFTMAX = (BoundVariant.of(VARIANTS[name]) for name in ("sa-softmax", "softmax"))


def draw() -> Tensor:
    return torch.randn(1, HEADS, COUNT, WIDTH, dtype=torch.float64)


def along(query: Tensor, key: Tensor, score: float) -> Tensor:
    """Queries with ``score`` on ``key``, which broadcasts to them, and their own components elsewhere."""
    if score == 0:
        return torch.zeros_like(query)
    square = (key * key).sum(-1, keepdim=True)
    return query + (score / SCALING - (query * key).sum(-1, keepdim=True)) / square * key


def of_scale(scale: float) -> tuple[Tensor, Tensor, None]:
    """Scores with a standard deviation of ``scale``."""
    return draw() * scale, draw(), None


def about(score: float, spread: float = 0.0) -> tuple[Tensor, Tensor, None]:
    """Rows of scores ``score`` with a standard deviation of about ``spread``."""
    if score == 0:
        return draw() * spread, draw(), None
    one = torch.randn(1, HEADS, 1, WIDTH, dtype=torch.float64)
    return along(draw(), one, score), one + spread * draw(), None


def single(score: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that see one key, of ``score``."""
    key = draw()
    return along(draw(), key, score), key, torch.eye(COUNT, dtype=torch.bool)[None, None]


CASES: dict[str, Callable[[], tuple[Tensor, Tensor, Tensor | None]]] = {
    "scores of standard deviation 1": lambda: of_scale(1),
    "of standard deviation 100": lambda: of_scale(1e2),
    "of standard deviation 10,000": lambda: of_scale(1e4),
    "all scores 0": lambda: about(0),
    "around 0, spread 1e-7": lambda: about(0, 1e-7),
    "around 0, spread 1e-3": lambda: about(0, 1e-3),
    "all scores 1e-4": lambda: about(1e-4),
    "all scores 1": lambda: about(1),
    "all scores -1": lambda: about(-1),
    "around -1, spread 1e-7": lambda: about(-1, 1e-7),
    "around -1, spread 1e-3": lambda: about(-1, 1e-3),
    "one key, score 0": lambda: single(0),
    "one key, score 1e-3": lambda: single(1e-3),
    "one key, score 1": lambda: single(1),
    "one key, score -1": lambda: single(-1),
    "one key, score 10,000": lambda: single(1e4),
    "one key, score -10,000": lambda: single(-1e4),
}


@dataclass(frozen=True)
class Exact:
    """What a case gives in float64; L2 norms by ``NAMES``."""

    inputs: Inputs  # in float32
    extent: float  # M - m, the mean over rows
    results: Mapping[str, Tensor]
    moved: Mapping[str, float]
    """How far the results go where every number of the inputs goes by one float32 ulp: most of ``DRAWS``."""
    terms: Mapping[str, float]
    """Of the gradients of query and key with every term of their formula positive: what rounding is of."""


def exact(case: str) -> Exact:
    """Computes ``case`` in float64."""
    torch.manual_seed(0)
    query, key, allowed = CASES[case]()
    inputs = Inputs(
        query.float(), key.float(), draw().float(), allowed, None, False, scaling=SCALING, dropout=0.0
    )
    results = results_of(KERNELS["reference"], inputs, torch.float64)
    moved = dict.fromkeys(NAMES, 0.0)
    for _ in range(DRAWS):
        nearby = [
            each.double() * (1 + ULP * torch.empty_like(each, dtype=torch.float64).uniform_(-1, 1).sign())
            for each in (inputs.query, inputs.key, inputs.value)
        ]
        query, key, value = nearby
        other = Inputs(query, key, value, allowed, None, False, scaling=SCALING, dropout=0.0)
        found = results_of(KERNELS["reference"], other, torch.float64)
        moved = {name: max(moved[name], float((found[name] - results[name]).norm())) for name in NAMES}
    extent, terms = terms_of(inputs)
    return Exact(inputs, extent, results, moved, terms)


def results_of(
    attend: Attend, inputs: Inputs, dtype: torch.dtype, variant: BoundVariant = SA
) -> dict[str, Tensor]:
    """Output and gradients by ``NAMES``, in float64, as ``attend`` computes them in ``dtype``."""
    tensors = (inputs.query, inputs.key, inputs.value)
    leaves = [each.to(dtype).detach().requires_grad_() for each in tensors]
    query, key, value = leaves
    given = Inputs(query, key, value, inputs.allowed, None, False, scaling=SCALING, dropout=0.0)
    output = attend(given, variant)
    gradients = torch.autograd.grad(output, leaves, upstream().to(dtype))
    return dict(zip(NAMES, (each.detach().double() for each in (output, *gradients)), strict=True))


def upstream() -> Tensor:
    """dLoss/dOutput, (batch, query, heads, width), the same for every case."""
    return torch.randn(1, COUNT, HEADS, WIDTH, generator=torch.Generator().manual_seed(1))


def terms_of(inputs: Inputs) -> tuple[float, dict[str, float]]:
    """Mean M - m, and |dx| |K| and |dx|^T |Q| with |dx| the sum of the sizes of dx's terms.

    dx_k = p_k (da_k (1/R + g_k) - D1) + [argmin] (D1 - D0)/R - [argmax] D1/R, where the bounds are scores.
    """
    query, key, value = (each.double() for each in (inputs.query, inputs.key, inputs.value))
    scores = query @ key.transpose(-1, -2) * SCALING
    seen = torch.ones_like(scores, dtype=torch.bool) if inputs.allowed is None else inputs.allowed
    blocked_ = ~seen.expand(scores.shape)
    p = torch.softmax(scores.masked_fill(blocked_, -1e300), -1)
    lowest, highest = (
        scores.masked_fill(blocked_, math.inf).min(-1, True),
        scores.masked_fill(blocked_, -math.inf).max(-1, True),
    )
    low, high = lowest.values.clamp(max=0), highest.values.clamp(min=0)
    inverse = (high - low + SA.parameters["eps"]).reciprocal()
    place = (scores.masked_fill(blocked_, 0.0) - low) * inverse
    da = (upstream().double().transpose(1, 2) @ value.transpose(-1, -2)).abs()
    d0, d1 = (p * da).sum(-1, True), (place * p * da).sum(-1, True)
    sizes = p * (da * (inverse + place) + d1)
    sizes = sizes.scatter_add(-1, lowest.indices, (d1 + d0) * inverse * (low < 0))
    sizes = sizes.scatter_add(-1, highest.indices, d1 * inverse * (high > 0)) * SCALING
    terms = {"query": sizes @ key.abs(), "key": sizes.transpose(-1, -2) @ query.abs()}
    return float((high - low).mean()), {name: float(each.norm()) for name, each in terms.items()}


def distances(found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float((found[name] - truth[name]).norm()) for name in NAMES}


def relative(error: Mapping[str, float], truth: Mapping[str, Tensor]) -> float | None:
    """The worse of query and key, relative to the exact gradient; None where that is 0 and it is not."""
    sizes = {name: float(truth[name].norm()) for name in ("query", "key")}
    if any(error[name] > 0 and not size for name, size in sizes.items()):
        return None
    return max(error[name] / size if size else 0.0 for name, size in sizes.items())


def main() -> None:
    """Prints the table."""

    def shown(value: float | None) -> str:
        return "exact 0" if value is None else f"{value:.0e}" if value else "0"

    print("| rows | M - m | one ulp moves it | " + " | ".join(KERNELS) + " | softmax |")
    print("| --- |" + " ---: |" * (3 + len(KERNELS)))
    most = 0.0
    for case in CASES:
        truth = exact(case)
        cells = [f"{truth.extent:.2g}", shown(relative(truth.moved, truth.results))]
        for attend in KERNELS.values():
            error = distances(results_of(attend, truth.inputs, torch.float32), truth.results)
            cells.append(shown(relative(error, truth.results)))
            for name in ("query", "key"):
                rest = error[name] - truth.moved[name]
                if truth.terms[name]:
                    most = max(most, rest / (ROUNDING * truth.terms[name]))
        plain = [
            results_of(KERNELS["reference"], truth.inputs, dtype, SOFTMAX)
            for dtype in (torch.float32, torch.float64)
        ]
        cells.append(shown(relative(distances(*plain), plain[1])))
        print(f"| {case} | " + " | ".join(cells) + " |")
    print(f"Errors beyond what one ulp moves: at most {most:.2g} roundings of the terms.")


if __name__ == "__main__":
    main()
