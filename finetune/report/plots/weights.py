"""Plots of attention weights through training: how extreme, how even, and what a row of them sums to."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from finetune.records.diagnostics import LayerSnapshot
from finetune.records.run import is_number
from finetune.report.plots.curves import line, thin_line
from finetune.report.plots.figures import Palette, Plot, by_step, draw
from finetune.report.plots.series import Pick, Sampled, at, by_layer, counted, ends, over_layers

QUANTILES = 7  # of a row sum: 0, 5, 25, 50, 75, 95 and 100%
LOW, MIDDLE, HIGH = 1, 3, 5
NEGATIVE = "weights-negative"  # a quantity that only some variants have


class _Quantity(NamedTuple):
    pick: Pick
    name: str
    heading: str
    axis: str
    caption: str


def weights(sampled: Sequence[Sampled], palette: Palette, key: str) -> list[Plot]:
    """One plot a quantity, all variants in it."""
    share, axis = "Share of the allowed attention weights", "share of weights"
    first = sampled[0].runs[0]
    high, low = f"above {first['saturated']:g}", f"below {first['suppressed']:g}"
    entropy, scores = "Mean entropy of a row of weights, |w| over their sum.", "highest − lowest"
    spread = "Highest less lowest score of a row, mean over rows."
    quantities = (
        _Quantity(at("weights", "above"), "weights-above", f"Weights {high}", axis, f"{share} {high}."),
        _Quantity(at("weights", "below"), "weights-below", f"Weights {low}", axis, f"{share} {low}."),
        _Quantity(at("weights", "negative"), NEGATIVE, "Weights below 0", axis, f"{share} below 0."),
        _Quantity(at("weights", "entropy"), "entropy", "Entropy", "entropy (nats)", entropy),
        _Quantity(at("score", "range"), "score-range", "Range of the scores", scores, spread),
    )
    plots = [_quantity(sampled, palette, key, quantity) for quantity in quantities]
    return [plot for plot in [*plots, _row_sums(sampled, palette, key)] if plot]


def learned(sampled: Sequence[Sampled], palette: Palette, key: str) -> list[Plot]:
    """One plot for each number that a positional encoding learns, all variants in it."""
    names = dict.fromkeys(
        name for each in sampled for layer in each.layers() for name in layer.get("learned", {})
    )
    plots = []
    for name in names:
        caption = f"Parameter {name} of the positional encoding, mean over heads."
        heading = f"Positional encoding: {name}"
        quantity = _Quantity(_learned(name), f"learned-{name}", heading, name, caption)
        plots.append(_quantity(sampled, palette, key, quantity))
    return [plot for plot in plots if plot]


def _learned(name: str) -> Pick:
    """Picks the mean over heads of a number that a layer's positional encoding has learned."""

    def pick(layer: LayerSnapshot) -> float | None:
        values = [value for value in layer.get("learned", {}).get(name, []) if is_number(value)]
        return math.fsum(values) / len(values) if values else None

    return pick


def _quantity(sampled: Sequence[Sampled], palette: Palette, key: str, quantity: _Quantity) -> Plot | None:
    pick = quantity.pick
    means = {each.variant: over_layers(each, pick) for each in sampled}
    means = {name: curve for name, curve in means.items() if curve}
    if not means or (quantity.name == NEGATIVE and not any(any(curve.values()) for curve in means.values())):
        return None  # only some variants have negative weights

    def paint(axes: list[Axes]) -> None:
        for each in sampled:
            for curve in by_layer(each, pick).values():
                thin_line(axes[0], curve, palette[each.variant])
        for name, curve in means.items():
            line(axes[0], curve, palette[name])
        by_step(axes[0], ylabel=quantity.axis)

    spoken = "; ".join(ends(name, curve) for name, curve in means.items())
    return draw(
        f"{key}-{quantity.name}",
        quantity.heading,
        f"{quantity.heading} by step: {spoken}",
        f"{quantity.caption} Thick: mean over layers; thin: each layer. {counted(sampled)}",
        paint,
        looks={name: palette[name] for name in means},
    )


def _row_sums(sampled: Sequence[Sampled], palette: Palette, key: str) -> Plot | None:
    bands = {each.variant: [over_layers(each, _quantile(n)) for n in (LOW, MIDDLE, HIGH)] for each in sampled}
    bands = {name: curves for name, curves in bands.items() if all(curves)}
    if not bands:
        return None

    def paint(axes: list[Axes]) -> None:
        for name, (lower, middle, upper) in bands.items():
            steps = sorted(lower.keys() & upper.keys())
            sides = [lower[step] for step in steps], [upper[step] for step in steps]
            axes[0].fill_between(steps, *sides, color=palette[name].color, alpha=0.2, linewidth=0)
            line(axes[0], middle, palette[name])
        low, high = axes[0].get_ylim()
        axes[0].set_ylim(min(low, 0), max(high, 1.1))  # rounding in softmax's sums of 1 is not worth a plot
        by_step(axes[0], ylabel="sum of a row of weights")

    spoken = "; ".join(ends(name, middle) for name, (_, middle, _) in bands.items())
    caption = f"Line: median; band: 5% to 95% of the rows; both are means over layers. {counted(sampled)}"
    label, looks = f"Median row sum by step: {spoken}", {name: palette[name] for name in bands}
    return draw(f"{key}-row-sums", "Row sums", label, caption, paint, looks=looks)


def _quantile(number: int) -> Pick:
    """Picks one of the quantiles of a layer's row sums."""

    def pick(layer: LayerSnapshot) -> float | None:
        quantiles = layer["row_sum"].get("quantiles")
        return quantiles[number] if isinstance(quantiles, list) and len(quantiles) == QUANTILES else None

    return pick
