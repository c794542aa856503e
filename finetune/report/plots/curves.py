"""What a comparison looks like run by run: the values of each seed, and the learning curves."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from finetune.comparison.tables import ResultTable
from finetune.report import words
from finetune.report.histories import Curve, History, mean_curve
from finetune.report.plots.colors import INK, MUTED
from finetune.report.plots.figures import (
    AROUND,
    ROW,
    STRIP,
    WIDTH,
    Look,
    Palette,
    Plot,
    by_step,
    draw,
    log_scale,
    name_row,
    only_rows,
)
from finetune.report.plots.scale import Scale, telling


def seeds(table: ResultTable, palette: Palette, key: str) -> Plot | None:
    """The primary metric of every seed, the values of one seed joined."""
    summaries = [
        (result, result.metrics[table.metric])
        for result in table.variants
        if result.metrics.get(table.metric)
    ]
    if sum(len(summary.per_seed) for _, summary in summaries) < 2:
        return None

    values = [value for _, summary in summaries for value in summary.per_seed.values()]
    unit = telling([value - summaries[0][1].mean for value in values], filter(None, [table.margin]))
    center = unit * round(summaries[0][1].mean / unit)
    scale = Scale.over([value - center for value in values], unit)
    rows = [ROW * number + STRIP for number in range(len(summaries))]

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        for seed in sorted({seed for _, summary in summaries for seed in summary.per_seed}):
            joined = [
                (scale.at(summary.per_seed[seed] - center), y)
                for y, (_, summary) in zip(rows, summaries, strict=True)
                if seed in summary.per_seed
            ]
            axis.plot(*zip(*joined, strict=True), color=MUTED, linewidth=0.8, alpha=0.5, zorder=1)
        for y, (result, summary) in zip(rows, summaries, strict=True):
            look = palette[result.name]
            places = [scale.at(value - center) for value in summary.per_seed.values()]
            axis.plot([scale.at(summary.mean - center)] * 2, [y - 7, y + 7], color=INK, linewidth=2, zorder=2)
            axis.plot(places, [y] * len(places), look.marker, color=look.color, markersize=5)
            name_row(axis, y - 11, words.variant_name(result), words.score(table.primary, summary))
        scale.across(axis, table.primary.label, center)
        only_rows(axis, ROW * len(rows))

    spoken = "; ".join(
        f"{result.name} {words.score(table.primary, summary)}, {words.plural(len(summary.per_seed), 'seed')}"
        for result, summary in summaries
    )
    counts = words.counts({result.name: len(summary.per_seed) for result, summary in summaries}, "seed")
    return draw(
        key,
        "Seed by seed",
        f"Values by seed: {spoken}",
        f"One point a seed, lines join the same seed, the bar is the mean. n: {counts}.",
        paint,
        size=(WIDTH, AROUND + ROW * len(rows)),
    )


class _Quantity(NamedTuple):
    name: str  # in Trainer's log
    heading: str
    label: str


def curves(table: ResultTable, histories: Sequence[History], palette: Palette, key: str) -> list[Plot]:
    """Training loss, validation loss and validation metric by step."""
    quantities = (
        _Quantity("loss", "Training loss", "training loss"),
        _Quantity("eval_loss", "Validation loss", "validation loss"),
        _Quantity(f"eval_{table.metric}", "Validation metric", f"validation {table.primary.label}"),
    )
    plots = []
    for quantity in quantities:
        by_variant: dict[str, list[History]] = {}
        for result in table.variants:
            # What was logged once has no course.
            runs = [
                each
                for each in histories
                if each.variant == result.name and len(each.curve(quantity.name)) > 1
            ]
            if runs:
                by_variant[result.name] = runs
        if by_variant:
            name = quantity.heading.lower().replace(" ", "-")
            plots.append(_curve_plot(by_variant, quantity, palette, f"{key}-{name}"))
    return plots


def _curve_plot(
    by_variant: Mapping[str, Sequence[History]], quantity: _Quantity, palette: Palette, key: str
) -> Plot:
    """Draws one logged quantity: the mean of each variant, and each run behind it."""
    means = {}
    for name, runs in by_variant.items():
        # A run that failed would end the mean curve where it failed.
        finished = [history for history in runs if history.run.finished]
        means[name] = mean_curve([history.curve(quantity.name) for history in finished or runs])

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        values: list[float] = []
        for name, runs in by_variant.items():
            for history in runs:
                curve = history.curve(quantity.name)
                thin_line(axis, curve, palette[name])
                values += curve.values()
        for name, mean in means.items():
            line(axis, mean, palette[name])
        if min(values) > 0 and max(values) > 20 * min(values):  # a loss that fell far hides its end otherwise
            log_scale(axis)
        by_step(axis, ylabel=quantity.label)

    ends = [
        f"{name}: {curve[max(curve)]:.4g} at step {max(curve)}"
        if curve
        else f"{name}: no step that all runs logged"
        for name, curve in means.items()
    ]
    counts = words.counts({name: len(runs) for name, runs in by_variant.items()}, "run")
    caption = "Mean over the finished runs, at the steps that all of them logged; thin: each run. "
    several = any(len(runs) > 1 for runs in by_variant.values())
    return draw(
        key,
        quantity.heading,
        f"{quantity.heading} by training step. {'; '.join(ends)}",
        f"{caption if several else ''}n: {counts}.",
        paint,
        looks={name: palette[name] for name in means},
    )


def thin_line(axis: Axes, curve: Curve, look: Look) -> None:
    """Draws one run, or one layer, behind the mean of them; a dot where there is one step only."""
    marker = look.marker if len(curve) == 1 else ""
    axis.plot(*points(curve), color=look.color, linewidth=0.7, alpha=0.45, marker=marker, markersize=3)


def line(axis: Axes, curve: Curve, look: Look) -> None:
    """Draws a thick line with a few markers."""
    axis.plot(
        *points(curve),
        color=look.color,
        linestyle=look.dash,
        linewidth=2,
        marker=look.marker,
        markersize=4.5,
        markevery=max(1, len(curve) // 6),
    )


def points(curve: Curve) -> tuple[list[int], list[float]]:
    """Splits a curve into its steps and its values."""
    return list(curve), list(curve.values())
