"""What a comparison looks like run by run: the values of each seed, and the learning curves."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from finetune.comparison.tables import ResultTable
from finetune.report import words
from finetune.report.histories import Curve, History, mean_curve
from finetune.report.plots.figures import (
    INK,
    MUTED,
    ROW,
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


def seeds(table: ResultTable, palette: Palette, key: str) -> Plot | None:
    """The primary metric of every seed, the values of one seed joined."""
    summaries = [
        (result, result.metrics[table.metric])
        for result in table.variants
        if result.metrics.get(table.metric)
    ]
    if sum(len(summary.per_seed) for _, summary in summaries) < 2:
        return None

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        for seed in sorted({seed for _, summary in summaries for seed in summary.per_seed}):
            joined = [
                (summary.per_seed[seed], -y)
                for y, (_, summary) in enumerate(summaries)
                if seed in summary.per_seed
            ]
            axis.plot(*zip(*joined, strict=True), color=MUTED, linewidth=0.8, alpha=0.6, zorder=1)
        for y, (result, summary) in enumerate(summaries):
            look, values = palette[result.name], list(summary.per_seed.values())
            axis.plot([summary.mean] * 2, [-y - 0.16, -y + 0.16], color=INK, linewidth=2, zorder=2)
            axis.plot(values, [-y] * len(values), look.marker, color=look.color, markersize=6)
            name_row(axis, words.variant_name(result), words.score(table.primary, summary), -y)
        axis.set_xlabel(table.primary.label)
        only_rows(axis, len(summaries))

    spoken = "; ".join(
        f"{result.name} {words.score(table.primary, summary)}, {words.plural(len(summary.per_seed), 'seed')}"
        for result, summary in summaries
    )
    svg = draw(key, f"Values by seed: {spoken}", paint, size=(WIDTH, 60 + ROW * len(summaries)))
    counts = words.counts({result.name: len(summary.per_seed) for result, summary in summaries}, "seed")
    caption = f"One point a seed, lines join the same seed, the bar is the mean. n: {counts}."
    return Plot(svg, "Seed by seed", caption)


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
        logged = [history for history in histories if history.curve(quantity.name)]
        by_variant = {
            result.name: [history for history in logged if history.variant == result.name]
            for result in table.variants
        }
        by_variant = {name: runs for name, runs in by_variant.items() if runs}
        if by_variant:
            plots.append(_curve_plot(by_variant, quantity, palette, f"{key}-{quantity.name}"))
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
            line(axis, means[name], palette[name])
            for history in runs:
                curve = history.curve(quantity.name)
                thin_line(axis, curve, palette[name])
                values += curve.values()
        if min(values) > 0 and max(values) > 20 * min(values):  # a loss that fell far hides its end otherwise
            log_scale(axis)
        by_step(axis, ylabel=quantity.label)

    ends = [
        f"{name}: {curve[max(curve)]:.4g} at step {max(curve)}"
        if curve
        else f"{name}: no step that all runs logged"
        for name, curve in means.items()
    ]
    svg = draw(key, f"{quantity.heading} by training step. {'; '.join(ends)}", paint)
    counts = words.counts({name: len(runs) for name, runs in by_variant.items()}, "run")
    caption = "Mean over the finished runs, at the steps that all of them logged; thin: each run. "
    several = any(len(runs) > 1 for runs in by_variant.values())
    return Plot(svg, quantity.heading, f"{caption if several else ''}n: {counts}.")


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
