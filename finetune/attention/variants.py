"""The attention variants that can be compared: name, formula and source of each. Imports no torch.

The functions are in ``functions.py`` (the paper's) and ``controls.py`` (others to compare with); an entry
names its function, which is imported when it is first used.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from finetune.config.schema import BASELINE
from finetune.errors import unknown

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Variant:
    """One map from attention scores to attention weights; ``functions.py`` says what every map keeps to."""

    name: str
    function: "Callable[..., Tensor] | str"
    """``(scores, allowed=None, **parameters) -> weights``, or where it is: "package.module:function"."""
    paper: str
    equation: str
    summary: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Name -> default, all above 0."""
    control: bool = True
    """Not from the paper on Self-Adjust Softmax: there to compare with."""
    kernels: tuple[str, ...] = ()
    """The fused kernels that know its formula; every variant runs on the reference kernel."""

    @cached_property
    def weigh(self) -> "Callable[..., Tensor]":
        """The function itself, imported on first use."""
        if not isinstance(self.function, str):
            return self.function
        module, _, name = self.function.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found


_SELF_ADJUST = "Self-Adjust Softmax, arXiv 2502.18277 (EMNLP 2025)"

_BUILT_IN = (
    Variant(
        name=BASELINE,
        function="finetune.attention.functions:softmax",
        paper="Attention Is All You Need, arXiv 1706.03762 (NIPS 2017)",
        equation="p = exp(x) / sum(exp(x))",
        summary="the baseline, equal to the library's own",
        control=False,
        kernels=("sdpa", "native", "triton"),  # models take sdpa; the others measure what a variant adds
    ),
    Variant(
        name="sa-softmax",
        function="finetune.attention.functions:sa_softmax",
        parameters={"eps": 1e-6},
        paper=f"{_SELF_ADJUST}, Eq. 10",
        equation="(x - m) / (M - m + eps) * p, m = min(min(x), 0), M = max(max(x), 0)",
        summary="softmax times the place of the score in its row's range; the form the paper recommends",
        control=False,
        kernels=("native", "triton", "blocked"),
    ),
    Variant(
        name="sa-softmax-raw",
        function="finetune.attention.functions:sa_softmax_raw",
        paper=_SELF_ADJUST,
        equation="x * p",
        summary="softmax times the score; weights may be negative and rows do not sum to 1",
        control=False,
        kernels=("native", "triton", "blocked"),
    ),
    Variant(
        name="softmax-plus-one",
        function="finetune.attention.controls:softmax_plus_one",
        paper="E. Miller, Attention Is Off By One, evanmiller.org (2023)",
        equation="exp(x) / (1 + sum(exp(x)))",
        summary="softmax with a silent further key of score 0",
    ),
    Variant(
        name="ssmax",
        function="finetune.attention.controls:ssmax",
        parameters={"s": 0.168},
        paper="Scalable-Softmax Is Superior for Attention, arXiv 2501.19399 (2025)",
        equation="softmax(s * log(n) * x), n = allowed keys",
        summary="softmax that sharpens with the number of keys; s is fixed here, its paper learns it",
    ),
    Variant(
        name="sigmoid",
        function="finetune.attention.controls:sigmoid",
        paper="Theory, Analysis, and Best Practices for Sigmoid Self-Attention, arXiv 2409.04431 (2024)",
        equation="sigmoid(x - log(n)), n = allowed keys",
        summary="each key weighed by itself; rows do not sum to 1",
    ),
    Variant(
        name="entmax15",
        function="finetune.attention.controls:entmax15",
        paper="Sparse Sequence-to-Sequence Models, arXiv 1905.05702 (ACL 2019)",
        equation="max(x / 2 - t, 0)^2, t such that the sum is 1",
        summary="1.5-entmax: low scores weigh exactly 0",
    ),
    Variant(
        name="softpick",
        function="finetune.attention.controls:softpick",
        parameters={"eps": 1e-6},
        paper="Softpick: No Attention Sink, No Massive Activations, arXiv 2504.20966 (2025)",
        equation="max(exp(x) - 1, 0) / (sum(|exp(x) - 1|) + eps)",
        summary="rectified softmax: scores below 0 weigh exactly 0",
    ),
    Variant(
        name="sa-softmax-renormalised",
        function="finetune.attention.controls:sa_softmax_renormalised",
        parameters={"eps": 1e-6},
        paper="this project, to tell apart two effects of sa-softmax",
        equation="a / (sum(a) + eps), a = (x - m) * p, m = min(min(x), 0)",
        summary="sa-softmax with rows that sum to 1",
    ),
)

VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _BUILT_IN}
PAPER = tuple(variant.name for variant in _BUILT_IN if not variant.control)
"""The variants that the paper compares, the baseline first."""


def get_variant(name: str) -> Variant:
    """The variant called ``name``; ``UserError`` with the nearest name where there is none."""
    if name not in VARIANTS:
        raise unknown("attention variant", name, VARIANTS)
    return VARIANTS[name]


def known_to(kernel: str) -> tuple[str, ...]:
    """The variants whose formula a fused kernel knows; a kernel numbers them by their place here."""
    return tuple(variant.name for variant in _BUILT_IN if kernel in variant.kernels)
