"""Plots of gradients: their norms by layer through training, and how much of them reaches a score."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from finetune.report.histories import Curve
from finetune.report.plots.colors import MUTED, depth
from finetune.report.plots.curves import line, points
from finetune.report.plots.figures import WIDTH, Palette, Plot, by_step, draw, log_scale
from finetune.report.plots.series import Sampled, at, by_layer, counted, ends, over_layers

TENSORS = ("query", "key", "value", "output")
ZONES = ("saturated", "suppressed")
KINDS = {"encoder": ("-", "solid"), "decoder": ("--", "dashed"), "cross": (":", "dotted")}
OTHER_KIND = ("-.", "dash-dotted")
Limits = tuple[float, float] | None


def norms(sampled: Sequence[Sampled], key: str) -> list[Plot]:
    """One plot a variant, all on one scale: the norm for query, key, value and output of each layer."""
    values = [value for each in sampled for layer in each.layers() for value in layer["gradient"].values()]
    positive = [value for value in values if value is not None and value > 0]
    limits = (min(positive) / 1.3, max(positive) * 1.3) if positive else None
    if not values:
        return []
    return [_norms(each, f"{key}-gradient-norms-{each.variant}", limits) for each in sampled]


def reach(sampled: Sequence[Sampled], variants: Sequence[str], palette: Palette, key: str) -> list[Plot]:
    """One plot a variant: the gradient at its saturated and suppressed scores under each of ``variants``."""
    plots = (_reach(each, variants, palette, f"{key}-gradient-at-scores-{each.variant}") for each in sampled)
    return [plot for plot in plots if plot]


def _norms(each: Sampled, key: str, limits: Limits) -> Plot:
    curves = {name: by_layer(each, at("gradient", name)) for name in TENSORS}
    places = sorted({place for by_place in curves.values() for place in by_place})
    of_kind = {kind: [place for place in places if place[1] == kind] for _, kind in places}

    def paint(axes: list[Axes]) -> None:
        for axis, (name, by_place) in zip(axes, curves.items(), strict=True):
            for place, curve in by_place.items():
                same = of_kind[place[1]]
                axis.plot(
                    *points(curve),
                    KINDS.get(place[1], OTHER_KIND)[0],
                    color=depth(same.index(place) / max(1, len(same) - 1)),
                    linewidth=1.4,
                    marker="o" if len(curve) == 1 else "",
                    markersize=4,
                )
            axis.set_title(name)
            if limits:
                log_scale(axis)
                axis.set_ylim(limits)
        for axis in axes[2:]:
            by_step(axis)

    ranges = []
    for name, by_place in curves.items():
        last = [curve[max(curve)] for curve in by_place.values()]
        ranges.append(f"{name} {min(last):.3g} to {max(last):.3g}" if last else f"{name} unknown")
    spoken = "; ".join(ranges)
    label = f"Gradient norms of {each.variant}, lowest to highest layer at the last step: {spoken}"
    kinds = ", ".join(f"{kind} {KINDS.get(kind, OTHER_KIND)[1]}" for kind in of_kind)
    caption = (
        "L2 norm of the loss's gradient with respect to each tensor of an attention call. One line a layer, "
        f"from the first (faint) to the last (strong); {kinds}. {counted([each])}"
    )
    heading = f"Gradient norms, {each.variant}"
    return draw(key, heading, label, caption, paint, size=(WIDTH, 280), grid=(2, 2), sharey=True)


def _reach(each: Sampled, variants: Sequence[str], palette: Palette, key: str) -> Plot | None:
    lines: dict[str, dict[str, Curve]] = {}
    for zone in ZONES:
        curves = {name: over_layers(each, at("reach", name, zone), at("counts", zone)) for name in variants}
        lines[zone] = {name: curve for name, curve in curves.items() if curve}
    if not any(lines.values()):
        return None
    positive = any(value > 0 for by in lines.values() for curve in by.values() for value in curve.values())
    marks = (f"p > {each.runs[0]['saturated']:g}", f"p < {each.runs[0]['suppressed']:g}")

    def paint(axes: list[Axes]) -> None:
        for axis, zone in zip(axes, ZONES, strict=True):
            for variant, curve in lines[zone].items():
                line(axis, curve, palette[variant])
        for axis, zone, mark in zip(axes, ZONES, marks, strict=True):
            by_step(axis, title=f"{zone}, {mark}")
            if not lines[zone]:
                axis.text(0.5, 0.5, "no such score", transform=axis.transAxes, ha="center", color=MUTED)
        if positive:  # a logarithmic axis has no place for zeros alone
            for axis in axes:
                log_scale(axis)
        axes[0].set_ylabel("mean |dL/dscore|")

    spoken = "; ".join(
        f"{zone}, {ends(name, curve)}" for zone, by in lines.items() for name, curve in by.items()
    )
    heading = f"Gradient that scores get, {each.variant}"
    caption = (
        "Mean size of the loss's gradient at scores by their softmax weight p, over all layers. Each line is "
        f"one function at the same scores and the same gradient from above, those of the {each.variant} run. "
        f"{counted([each])}"
    )
    looks = {name: palette[name] for name in variants if any(name in by for by in lines.values())}
    label = f"{heading}: {spoken}"
    return draw(key, heading, label, caption, paint, grid=(1, 2), sharey=True, looks=looks)
