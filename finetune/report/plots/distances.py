"""Plots of the last look at attention, by the distance of a key and by the number of keys of a query."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from finetune.report.histories import Curve
from finetune.report.plots.curves import line
from finetune.report.plots.figures import Palette, Plot, draw, log_scale
from finetune.report.plots.series import Sampled, counted, over_buckets

FEW = 7  # labels that fit below an axis
KEYS, DISTANCE = "keys that the query sees", "slots from the key to the query"


class _Quantity(NamedTuple):
    part: str  # of a layer's diagnostics
    name: str  # in that part
    heading: str
    axis: str
    caption: str


class _Words(NamedTuple):
    heading: str
    across: str
    upward: str
    caption: str


QUANTITIES = (
    _Quantity(
        "by_keys", "row_sum", "Row sums by number of keys", "sum of a row", "Mean sum of a row of weights."
    ),
    _Quantity(
        "by_keys",
        "to_softmax",
        "From softmax by number of keys",
        "half the sum of |difference|",
        "How far a row of weights, scaled to sum to 1, is from softmax of the same scores: 0 to 1.",
    ),
    _Quantity(
        "by_distance",
        "weight",
        "Weights by distance",
        "part of the row sum",
        "Mean sum of a query's weights on the keys of a distance.",
    ),
    _Quantity(
        "by_distance",
        "entropy",
        "Entropy by distance",
        "part of the entropy (nats)",
        "What the keys of a distance add to the entropy of a row, mean over rows.",
    ),
    _Quantity(
        "by_distance",
        "bias",
        "Bias by distance",
        "bias of a score",
        "What a positional encoding adds to a score, mean over heads.",
    ),
)


def last_look(sampled: Sequence[Sampled], palette: Palette, key: str) -> list[Plot]:
    """One plot a quantity, all variants in it; without those that are 0 everywhere."""
    plots = []
    for part, name, heading, axis, about in QUANTITIES:
        curves = {each.variant: over_buckets(each, part, name) for each in sampled}
        caption = f"{about} The last look, mean over layers. {counted(sampled)}"
        words = _Words(heading, KEYS if part == "by_keys" else DISTANCE, axis, caption)
        plots.append(_plot(curves, palette, f"{key}-{name}-{part}".replace("_", "-"), words))
    return [plot for plot in plots if plot]


def reach(sampled: Sequence[Sampled], variants: Sequence[str], palette: Palette, key: str) -> list[Plot]:
    """One plot a variant: the gradient at its scores by distance, under each of ``variants``."""
    plots = []
    for each in sampled:
        curves = {name: over_buckets(each, "by_distance", "reach", name) for name in variants}
        caption = (
            "Mean size of the loss's gradient at scores by the distance of the key. The last look, mean over "
            "layers. Each line is one function at the same scores and the same gradient from above, those of "
            f"the {each.variant} run. {counted([each])}"
        )
        words = _Words(f"Gradient by distance, {each.variant}", DISTANCE, "mean |dL/dscore|", caption)
        plots.append(_plot(curves, palette, f"{key}-gradient-by-distance-{each.variant}", words, log=True))
    return [plot for plot in plots if plot]


def _plot(
    curves: Mapping[str, Curve], palette: Palette, key: str, words: _Words, *, log: bool = False
) -> Plot | None:
    """Curves over the least numbers of buckets, which stand side by side."""
    shown = {name: curve for name, curve in curves.items() if any(curve.values())}
    if not shown:
        return None
    starts = sorted({start for curve in shown.values() for start in curve})
    named = starts[:: -(-len(starts) // FEW)]

    def paint(axes: list[Axes]) -> None:
        for name, curve in shown.items():
            line(axes[0], {start.bit_length(): value for start, value in curve.items()}, palette[name])
        axes[0].set_xticks([start.bit_length() for start in named], [f"{start:,}" for start in named])
        axes[0].set(xlabel=f"{words.across}, from", ylabel=words.upward)
        if log:
            log_scale(axes[0])

    ends = []
    for name, curve in shown.items():
        first, last = min(curve), max(curve)
        ends.append(f"{name} {curve[first]:.3g} from {first}, {curve[last]:.3g} from {last}")
    label = f"{words.heading}: {'; '.join(ends)}"
    looks = {name: palette[name] for name in shown}
    return draw(key, words.heading, label, words.caption, paint, looks=looks)
