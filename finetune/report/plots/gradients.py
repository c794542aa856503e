"""Plots of gradients: their norms by layer through training, and how much of them reaches a score."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes

from finetune.records.diagnostics import LayerSnapshot
from finetune.report.histories import Curve
from finetune.report.plots.curves import line, points
from finetune.report.plots.figures import MUTED, WIDTH, Palette, Plot, by_step, depth, draw, log_scale
from finetune.report.plots.series import Pick, Place, Sampled, by_layer, counted, ends, over_layers

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
    return [_norms(each, f"{key}-norms-{i}", limits) for i, each in enumerate(sampled)] if values else []


def reach(sampled: Sequence[Sampled], variants: Sequence[str], palette: Palette, key: str) -> list[Plot]:
    """One plot a variant: the gradient at its saturated and suppressed scores under each of ``variants``."""
    plots = (_reach(each, variants, palette, f"{key}-reach-{i}") for i, each in enumerate(sampled))
    return [plot for plot in plots if plot]


def _norms(each: Sampled, key: str, limits: Limits) -> Plot:
    curves = {name: by_layer(each, _norm_of(name)) for name in TENSORS}
    places = sorted({place for by_place in curves.values() for place in by_place})
    of_kind = {kind: [place for place in places if place[1] == kind] for _, kind in places}

    def paint(axes: list[Axes]) -> None:
        for axis, (name, by_place) in zip(axes, curves.items(), strict=True):
            for place, curve in by_place.items():
                same = of_kind[place[1]]
                _layer_line(axis, place, curve, same.index(place) / max(1, len(same) - 1))
            axis.set_title(name)
            if limits:
                log_scale(axis)
                axis.set_ylim(limits)
        for axis in axes[2:]:
            by_step(axis)

    spoken = "; ".join(f"{name} {_last(by_place)}" for name, by_place in curves.items())
    label = f"Gradient norms of {each.variant}, lowest to highest layer at the last step: {spoken}"
    kinds = ", ".join(f"{kind} {KINDS.get(kind, OTHER_KIND)[1]}" for kind in of_kind)
    caption = (
        "L2 norm of the loss's gradient with respect to each tensor of an attention call. One line a layer, "
        f"from the first (faint) to the last (strong); {kinds}. {counted([each])}"
    )
    svg = draw(key, label, paint, size=(WIDTH, 300), grid=(2, 2), sharey=True)
    return Plot(svg, f"Gradient norms, {each.variant}", caption)


def _reach(each: Sampled, variants: Sequence[str], palette: Palette, key: str) -> Plot | None:
    lines: dict[str, dict[str, Curve]] = {}
    for zone in ZONES:
        curves = {name: over_layers(each, _reach_of(name, zone), _count_of(zone)) for name in variants}
        lines[zone] = {name: curve for name, curve in curves.items() if curve}
    if not any(lines.values()):
        return None
    marks = (f"p > {each.runs[0]['saturated']:g}", f"p < {each.runs[0]['suppressed']:g}")

    def paint(axes: list[Axes]) -> None:
        for axis, zone in zip(axes, ZONES, strict=True):
            for variant, curve in lines[zone].items():
                line(axis, curve, palette[variant])
        for axis, zone, mark in zip(axes, ZONES, marks, strict=True):
            by_step(axis, title=f"{zone}, {mark}")
            if not lines[zone]:
                axis.text(0.5, 0.5, "no such score", transform=axis.transAxes, ha="center", color=MUTED)
        if _any_positive(lines):
            for axis in axes:
                log_scale(axis)
        axes[0].set_ylabel("mean |dL/dscore|")

    spoken = "; ".join(
        f"{zone}, {ends(name, curve)}" for zone, by in lines.items() for name, curve in by.items()
    )
    svg = draw(key, f"Gradient that scores get, {each.variant}: {spoken}", paint, grid=(1, 2), sharey=True)
    caption = (
        "Mean size of the loss's gradient at scores by their softmax weight p, over all layers. Each line is "
        f"one function at the same scores and the same gradient from above, those of the {each.variant} run. "
        f"{counted([each])}"
    )
    return Plot(svg, f"Gradient that scores get, {each.variant}", caption)


def _layer_line(axis: Axes, place: Place, curve: Curve, share: float) -> None:
    style = KINDS.get(place[1], OTHER_KIND)[0]
    marker = "o" if len(curve) == 1 else ""
    axis.plot(*points(curve), style, color=depth(share), linewidth=1.4, marker=marker, markersize=4)


def _any_positive(lines: Mapping[str, Mapping[str, Curve]]) -> bool:
    return any(value > 0 for by in lines.values() for curve in by.values() for value in curve.values())


def _norm_of(tensor: str) -> Pick:
    return lambda layer: layer["gradient"].get(tensor)


def _reach_of(variant: str, zone: str) -> Pick:
    return lambda layer: layer["reach"].get(variant, {}).get(zone)


def _count_of(zone: str) -> Callable[[LayerSnapshot], float]:
    return lambda layer: layer["counts"].get(zone, 0)


def _last(by_place: Mapping[Place, Curve]) -> str:
    last = [curve[max(curve)] for curve in by_place.values()]
    return f"{min(last):.3g} to {max(last):.3g}" if last else "unknown"
