"""Differences from softmax with their intervals, below each other around 0 (a forest plot)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby

from matplotlib.axes import Axes

from finetune.comparison.claims import Verdict
from finetune.comparison.compare import Comparison
from finetune.comparison.tables import ResultTable
from finetune.config.schema import BASELINE
from finetune.metrics import registry
from finetune.metrics.registry import Metric
from finetune.report import words
from finetune.report.plots.colors import INK, LINE, MUTED, VERDICTS
from finetune.report.plots.figures import (
    AROUND,
    ROW,
    STRIP,
    WIDTH,
    Look,
    Palette,
    Plot,
    draw,
    name_row,
    only_rows,
)
from finetune.report.plots.scale import Scale, telling

INTERVALS = (
    "Thick: 95% interval over seeds and test rows together; thin solid: over test rows only; thin dashed: "
    "over seeds only."
)
ONE_INTERVAL = (
    "95% intervals over seeds and test rows together; thin: over test rows only, where one seed is known."
)
HEADER = 26  # pixels of the heading of a group of rows


@dataclass(frozen=True)
class Bar:
    """One difference and its intervals, in reported units."""

    name: str
    look: Look
    value: float
    both: Sequence[float] | None
    rows: Sequence[float] | None = None
    seeds: Sequence[float] | None = None
    margin: float | None = None  # of differences that do not matter
    verdict: Verdict | None = None
    heading: str = ""

    @property
    def ends(self) -> list[float]:
        """Everything that its axis must hold."""
        intervals = (self.both or (), self.rows or (), self.seeds or ())
        return [self.value, *(end for interval in intervals for end in interval)]

    @property
    def shown(self) -> Sequence[float] | None:
        """The interval that is written beside it."""
        return self.both or self.rows


def differences(table: ResultTable, palette: Palette, key: str) -> Plot | None:
    """The difference of each variant from softmax."""
    pairs = [(result, result.difference) for result in table.variants if result.difference]
    if not pairs:
        return None
    bars = [
        Bar(
            words.variant_name(result),
            palette[result.name],
            difference.mean,
            difference.interval,
            difference.interval_rows,
            difference.interval_seeds,
            table.margin,
            None if table.sample else difference.verdict,
        )
        for result, difference in pairs
    ]
    seeds = words.counts({result.name: len(difference.seeds) for result, difference in pairs}, "paired seed")
    return _forest(
        bars,
        table.primary,
        key,
        heading="Difference from softmax",
        label=f"Differences from softmax in {table.primary.unit}",
        caption=f"{INTERVALS}{_side(table.primary)}",
        n=seeds,
    )


def at_a_glance(comparison: Comparison, palette: Palette) -> list[Plot]:
    """All differences on real data, one plot a metric."""
    real = [table for table in comparison.tables if not table.sample]
    plots = []
    for name in dict.fromkeys(table.metric for table in real):
        bars = [
            Bar(
                result.name,
                palette[result.name],
                difference.mean,
                difference.interval,
                None if difference.interval else difference.interval_rows,
                margin=table.margin,
                verdict=difference.verdict,
                heading=words.short(table, real),
            )
            for table in real
            for result in table.variants
            if table.metric == name and (difference := result.difference)
        ]
        if len(bars) < 2:
            continue
        metric = registry.get(name)
        plots.append(
            _forest(
                bars,
                metric,
                f"differences-{name}",
                heading=f"All differences, {metric.unit}",
                label=f"All differences from softmax in {metric.unit}",
                caption=f"{ONE_INTERVAL}{_side(metric)}",
                n=f"{words.plural(len(bars), 'difference')}, each over the seeds of its table",
            )
        )
    return plots


def over_tasks(comparison: Comparison, palette: Palette) -> list[Plot]:
    """Interquartile means of differences, one plot a metric."""
    plots = []
    for name in dict.fromkeys(each.metric for each in comparison.overall):
        bars = [
            Bar(
                each.variant,
                palette[each.variant],
                each.difference,
                each.difference_interval,
                heading=each.model,
            )
            for each in comparison.overall
            if each.metric == name and each.variant != BASELINE
        ]
        if not bars:
            continue
        metric = registry.get(name)
        means = "Interquartile means of paired differences with 95% stratified bootstrap intervals."
        plots.append(
            _forest(
                bars,
                metric,
                f"over-tasks-{name}",
                heading=f"Over tasks, {metric.unit}",
                label=f"Interquartile means of differences in {metric.unit}",
                caption=f"{means}{_side(metric)}",
                matters={
                    table.margin for table in comparison.tables if table.metric == name and table.margin
                },
            )
        )
    return plots


def _side(metric: Metric) -> str:
    """Says which side of 0 is the worse one."""
    return f" {'Left' if metric.higher_is_better else 'Right'} of 0 is worse than softmax."


def _forest(
    bars: Sequence[Bar],
    metric: Metric,
    key: str,
    *,
    heading: str,
    label: str,
    caption: str,
    n: str = "",
    matters: Collection[float] = (),
) -> Plot:
    """Draws differences below each other around 0, under the headings of their groups.

    ``matters``: margins by which the axis is scaled where no difference has one of its own.
    """
    margins = {bar.margin for bar in bars if bar.margin}
    ends = [end for bar in bars for end in bar.ends]
    scale = Scale.over(
        [*ends, *margins, *(-margin for margin in margins)],
        telling([bar.value for bar in bars], margins or matters),
    )
    groups = [(name, list(group)) for name, group in groupby(bars, key=lambda bar: bar.heading)]
    height = ROW * len(bars) + HEADER * sum(bool(name) for name, _ in groups)

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        y = 0
        for name, group in groups:
            if name:
                name_row(axis, y + 18, name, bold=True)
                y += HEADER
            for bar in group:
                interval = f" ({metric.interval(bar.shown)})" if bar.shown else ""
                mark = f"{words.MARKS[bar.verdict]} " if bar.verdict else ""
                value = f"{mark}{metric.signed(bar.value)}{interval}"
                name_row(axis, y + 11, bar.name, value, color=VERDICTS.get(bar.verdict or "", MUTED))
                _strip(axis, bar, scale, y)
                y += ROW
        scale.across(axis, f"variant − softmax, {metric.unit}")
        only_rows(axis, height)

    spoken = (
        f"{f'{bar.heading}: ' if bar.heading else ''}{bar.name} {metric.signed(bar.value)}"
        + (f", 95% {metric.interval(bar.shown)}" if bar.shown else "")
        for bar in bars
    )
    about = [caption]
    if margins:
        most = f"{margins.pop():g} {metric.unit}" if len(margins) == 1 else "the margin of each table"
        about.append(f"Grey: differences of at most {most}.")
    if scale.unit:
        about.append(f"The axis is linear from −{scale.unit:g} to {scale.unit:g} and logarithmic beyond.")
    if n:
        about.append(f"n: {n}.")
    return draw(
        key,
        heading,
        f"{label}: {'; '.join(spoken)}",
        " ".join(about),
        paint,
        size=(WIDTH, AROUND + height),
    )


def _strip(axis: Axes, bar: Bar, scale: Scale, top: float) -> None:
    """Draws one difference and its intervals, below the line of its name; nothing runs through that."""
    y, sides = top + STRIP, (top + STRIP - 8, top + STRIP + 11)
    if bar.margin:
        band = [scale.at(-bar.margin), scale.at(bar.margin)]
        axis.fill_between(band, *sides, color=MUTED, alpha=0.16, linewidth=0)
    for tick in scale.ticks(WIDTH):
        axis.plot([scale.at(tick)] * 2, sides, color=LINE, linewidth=0.6, zorder=1.1)
    axis.plot([scale.at(0)] * 2, sides, color=INK, linewidth=1, zorder=1.2)
    for bounds, below, style, width in (
        (bar.both, 0, "-", 4.0),
        (bar.rows, 5, "-", 1.4),
        (bar.seeds, 9, "--", 1.4),
    ):
        if bounds is not None:
            interval = [scale.at(end) for end in bounds]
            # An estimate is seen on its interval.
            opacity = 0.45 if width > 2 else 1.0
            axis.plot(
                interval, [y + below] * 2, style, color=bar.look.color, linewidth=width, alpha=opacity,
                solid_capstyle="butt",
            )  # fmt: skip
    axis.plot(scale.at(bar.value), y, bar.look.marker, color=bar.look.color, markersize=6)
