"""The variants of attention that can be compared. ``VARIANTS`` is the one list to edit to add a variant."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from finetune.attention import functions
from finetune.errors import unknown


@dataclass(frozen=True)
class Variant:
    """One map from attention scores to weights, as ``finetune.attention.functions`` describes them."""

    name: str
    function: Callable[..., Tensor]  # (scores, allowed, **parameters) -> weights
    paper: str
    equation: str
    summary: str
    parameters: Mapping[str, float] = field(default_factory=dict)  # name -> default


_SELF_ADJUST = "Self-Adjust Softmax, arXiv 2502.18277 (EMNLP 2025)"

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(
            name="softmax",
            function=functions.softmax,
            paper="Attention Is All You Need, arXiv 1706.03762 (NIPS 2017)",
            equation="p = exp(x) / sum(exp(x))",
            summary="the baseline, equal to the library's own",
        ),
        Variant(
            name="sa-softmax",
            function=functions.sa_softmax,
            parameters={"eps": 1e-6},
            paper=f"{_SELF_ADJUST}, Eq. 10",
            equation="(x - m) / (M - m + eps) * p, m = min(min(x), 0), M = max(max(x), 0)",
            summary="softmax times the place of the score in its row's range; the form the paper recommends",
        ),
        Variant(
            name="sa-softmax-raw",
            function=functions.sa_softmax_raw,
            paper=_SELF_ADJUST,
            equation="x * p",
            summary="softmax times the score; weights may be negative and rows do not sum to 1",
        ),
    )
}


def get_variant(name: str) -> Variant:
    """The variant called ``name``; ``UserError`` with the nearest name where there is none."""
    if name not in VARIANTS:
        raise unknown("attention variant", name, VARIANTS)
    return VARIANTS[name]
