"""The attention calls that are measured, and what computes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.attention import PAPER, get_variant
from finetune.attention.kernels import dispatch
from finetune.attention.kernels.inputs import BoundVariant, Inputs

MASK_TITLES = {"padded": "key padding", "whole": "no mask", "causal": "causal mask"}
MASKS = tuple(MASK_TITLES)
FAST = tuple(dispatch.FAST)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


class NotMeasuredError(Exception):
    """A figure that could not be had; the text is the reason."""


@dataclass(frozen=True)
class Missing:
    """Why a figure is not there, and whether something went wrong: the exit status hangs on that."""

    reason: str
    failed: bool = False


@dataclass(frozen=True)
class Case:
    """Self-attention of ``batch`` rows of ``length`` tokens.

    ``mask``: "padded" hides the end of each row, rows being evenly spread over half to the whole length (a
    single row has three quarters); "whole" hides nothing; "causal" hides the future.
    """

    mask: str
    batch: int
    length: int
    heads: int
    width: int  # features of a head
    dtype: str


@dataclass(frozen=True)
class Implementation:
    """One variant on one kernel."""

    variant: str
    kernel: str

    @property
    def name(self) -> str:
        """``sa-softmax blocked``, as in the tables."""
        return f"{self.variant} {self.kernel}"


BASELINE = Implementation("softmax", "sdpa")
# The fast kernel of a device without what the self-adjust variants add to softmax; no run computes with it.
CONTROLS = {"cpu": Implementation("softmax", "native"), "cuda": Implementation("softmax", "triton")}


def implementations() -> list[Implementation]:
    """Every variant of the paper on every kernel, the baseline first."""
    others = [name for name in PAPER if name != BASELINE.variant]
    fused = [Implementation(variant, kernel) for kernel in FAST for variant in others]
    plain = [Implementation(variant, "reference") for variant in PAPER]
    return [BASELINE, *CONTROLS.values(), *fused, *plain]


def make(case: Case, device: str, seed: int) -> tuple[Inputs, Tensor]:
    """Random inputs that ask for gradients, and a gradient of the output, (batch, query, heads, width).

    Nothing is made and thrown away: freed memory that the process keeps would hide in a peak.
    """
    generator = torch.Generator(device).manual_seed(seed)
    options = {"device": device, "dtype": DTYPES[case.dtype], "generator": generator}
    query, key, value = (
        torch.randn(case.batch, case.heads, case.length, case.width, requires_grad=True, **options)  # type: ignore[call-overload]
        for _ in range(3)
    )
    upstream = torch.randn(case.batch, case.length, case.heads, case.width, **options)  # type: ignore[call-overload]
    allowed = None
    if case.mask == "padded":
        kept = torch.tensor(row_lengths(case), device=device)
        allowed = (torch.arange(case.length, device=device) < kept[:, None])[:, None, None, :]
    inputs = Inputs(
        query=query, key=key, value=value, allowed=allowed, bias=None,
        causal=case.mask == "causal", scaling=case.width**-0.5, dropout=0.0,
    )  # fmt: skip
    return inputs, upstream


def row_lengths(case: Case) -> list[int]:
    """Tokens of each row of a padded case."""
    if case.batch == 1:
        return [max(1, 3 * case.length // 4)]
    half = case.length / 2
    return [max(1, round(half + half * row / (case.batch - 1))) for row in range(case.batch)]


def visible_pairs(case: Case) -> int:
    """Pairs of a query and a key that it may see, in all rows of one head."""
    if case.mask == "causal":
        return case.batch * case.length * (case.length + 1) // 2
    return case.length * (sum(row_lengths(case)) if case.mask == "padded" else case.batch * case.length)


def bind(variant: str) -> BoundVariant:
    """A variant with its default parameters."""
    return BoundVariant.of(get_variant(variant))


def why_not(implementation: Implementation, inputs: Inputs) -> Missing | None:
    """Why an implementation cannot do these inputs, or may not for its faults; None if it can."""
    kernel, variant = implementation.kernel, bind(implementation.variant)
    if kernel == "triton" and inputs.query.device.type != "cuda":
        return Missing("no CUDA device")  # its interpreter on a CPU is for tests, and its speed says nothing
    if reason := dispatch.why_not(kernel, inputs, variant):
        return Missing(reason)
    fault = dispatch.fault(kernel, inputs, variant)
    return Missing(fault, failed=True) if fault else None


def attend(implementation: Implementation, inputs: Inputs) -> Tensor:
    """The output, (batch, query, heads, width), by the kernel of ``implementation`` and no other.

    Raises ``NotMeasuredError`` where another one ran.
    """
    choice = "auto" if implementation.kernel == "sdpa" else implementation.kernel
    if implementation in CONTROLS.values():
        choice = dispatch.CONTROL
    output, _, ran = dispatch.attend(inputs, bind(implementation.variant), choice)
    if ran != implementation.kernel:
        raise NotMeasuredError(f"{ran} ran in its place")
    return output


def gradients(output: Tensor, inputs: Inputs, upstream: Tensor) -> Sequence[Tensor]:
    """The gradients of query, key and value."""
    return torch.autograd.grad(output, (inputs.query, inputs.key, inputs.value), upstream)


def forward(implementation: Implementation, inputs: Inputs, upstream: Tensor) -> Tensor:
    """The pass of inference: the output, nothing kept for a gradient. ``upstream`` is not used."""
    with torch.no_grad():
        return attend(implementation, inputs)


def forward_and_backward(
    implementation: Implementation, inputs: Inputs, upstream: Tensor
) -> Sequence[Tensor]:
    """The passes of a training step: the gradients."""
    return gradients(attend(implementation, inputs), inputs, upstream)


PASSES: dict[str, Callable[[Implementation, Inputs, Tensor], object]] = {
    "forward": forward,
    "both": forward_and_backward,
}
"""What is timed, by its key in a result."""


def automatic(inputs: Inputs, variant: str) -> str:
    """The kernel that ``attention.kernel: auto`` takes."""
    return dispatch.attend(inputs, bind(variant), "auto")[2]
