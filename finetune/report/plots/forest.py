"""Differences from softmax with their intervals, below each other around 0 (a forest plot)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median_low

from matplotlib.axes import Axes

from finetune.comparison.claims import Difference
from finetune.comparison.compare import Comparison
from finetune.comparison.tables import ResultTable
from finetune.config.schema import BASELINE
from finetune.metrics import registry
from finetune.metrics.registry import Metric
from finetune.report import words
from finetune.report.plots.figures import INK, ROW, WIDTH, Look, Palette, Plot, draw, name_row, only_rows

INTERVALS = (
    "Thick: 95% interval over seeds and test rows together; thin solid: over test rows only; thin dashed: "
    "over seeds only."
)
FAR = 15  # times the usual reach; what lies further out would press all else onto the line at 0


@dataclass(frozen=True)
class Bar:
    """One difference and its intervals, in reported units."""

    name: str
    look: Look
    value: float
    both: Sequence[float] | None
    rows: Sequence[float] | None = None
    seeds: Sequence[float] | None = None
    heading: str = ""

    @classmethod
    def of(cls, name: str, look: Look, difference: Difference, heading: str = "") -> "Bar":
        """Takes what is drawn of ``difference``, under the ``heading`` of its table."""
        intervals = (difference.interval, difference.interval_rows, difference.interval_seeds)
        return cls(name, look, difference.mean, *intervals, heading)

    @property
    def reach(self) -> float:
        """How far its best-known interval stretches from 0."""
        return max(map(abs, (self.value, *(self.both or self.rows or self.seeds or ()))))

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
        Bar.of(words.variant_name(result), palette[result.name], difference) for result, difference in pairs
    ]
    seeds = words.counts({result.name: len(difference.seeds) for result, difference in pairs}, "paired seed")
    return _forest(
        bars,
        table.primary,
        key,
        heading="Difference from softmax",
        label=f"Differences from softmax in {table.primary.unit}",
        caption=f"{INTERVALS}{_side(table.primary)}",
        n=f" n: {seeds}.",
    )


def at_a_glance(comparison: Comparison, palette: Palette) -> list[Plot]:
    """All differences on real data, one plot a metric."""
    real = [table for table in comparison.tables if not table.sample]
    plots = []
    for name in dict.fromkeys(table.metric for table in real):
        bars = [
            Bar.of(result.name, palette[result.name], result.difference, words.short(table, real))
            for table in real
            for result in table.variants
            if table.metric == name and result.difference
        ]
        if len(bars) < 2:
            continue
        metric = registry.get(name)
        plots.append(
            _forest(
                bars,
                metric,
                f"glance-{name}",
                heading=f"All differences, {metric.unit}",
                label=f"All differences from softmax in {metric.unit}",
                caption=f"{INTERVALS}{_side(metric)}",
                n=f" n: {words.plural(len(bars), 'difference')}, of the seeds in the table above.",
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
                f"overall-{name}",
                heading=f"Over tasks, {metric.unit}",
                label=f"Interquartile means of differences in {metric.unit}",
                caption=f"{means}{_side(metric)}",
            )
        )
    return plots


def _side(metric: Metric) -> str:
    """Says which side of 0 is the worse one."""
    return f" {'Left' if metric.higher_is_better else 'Right'} of 0 is worse than softmax."


def _forest(
    bars: Sequence[Bar], metric: Metric, key: str, *, heading: str, label: str, caption: str, n: str = ""
) -> Plot:
    """Draws differences below each other around 0, under the headings of their tables."""
    # An axis that reached a value far out would press all others onto the line at 0.
    limit = FAR * median_low([bar.reach for bar in bars])
    edge = limit if 0 < limit < max(bar.reach for bar in bars) else None
    rows = len(bars) + len([name for name, _ in groupby(bars, key=lambda bar: bar.heading) if name])

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        axis.axvline(0, color=INK, linewidth=1, zorder=1)
        y, group = 0, ""
        for bar in bars:
            if bar.heading != group:
                group = bar.heading
                name_row(axis, group, "", y - 0.4, bold=True)
                y -= 1
            _bar(axis, bar, metric, y, edge)
            y -= 1
        axis.set_xlabel(f"variant − softmax, {metric.unit}")
        only_rows(axis, rows)
        if edge is not None:
            low, high = axis.get_xlim()
            axis.set_xlim(max(low, -edge), min(high, edge))

    spoken = []
    for bar in bars:
        name = f"{bar.heading}: {bar.name}" if bar.heading else bar.name
        interval = f", 95% {metric.interval(bar.shown)}" if bar.shown else ""
        spoken.append(f"{name} {metric.signed(bar.value)}{interval}")
    svg = draw(key, f"{label}: {'; '.join(spoken)}", paint, size=(WIDTH, 60 + ROW * rows))
    beyond = "" if edge is None else " An arrow marks a value beyond the axis; intervals are cut at its ends."
    return Plot(svg, heading, f"{caption}{beyond}{n}")


def _bar(axis: Axes, bar: Bar, metric: Metric, y: float, edge: float | None) -> None:
    """Draws one difference and its intervals; an arrow at the ``edge`` where it lies beyond."""
    for bounds, below, style, width in (
        (bar.both, 0.0, "-", 4.0),
        (bar.rows, 0.16, "-", 1.4),
        (bar.seeds, 0.27, "--", 1.4),
    ):
        if bounds is not None:
            axis.plot(bounds, [y - below] * 2, style, color=bar.look.color, linewidth=width)
    at, marker = bar.value, bar.look.marker
    if edge is not None and abs(bar.value) > edge:
        at, marker = (edge, ">") if bar.value > 0 else (-edge, "<")
    axis.plot(at, y, marker, color=bar.look.color, markersize=7, zorder=3, clip_on=False)
    interval = f" ({metric.interval(bar.shown)})" if bar.shown else ""
    name_row(axis, bar.name, f"{metric.signed(bar.value)}{interval}", y)
