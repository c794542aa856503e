"""Differences from softmax with their intervals, below each other around 0 (a forest plot)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median_low

from markupsafe import Markup
from matplotlib.axes import Axes

from finetune.comparison.claims import Difference
from finetune.comparison.compare import Comparison
from finetune.comparison.tables import ResultTable
from finetune.config.schema import BASELINE
from finetune.metrics import registry
from finetune.report import words
from finetune.report.plots.figures import INK, ROW, WIDTH, Look, Palette, Plot, draw, name_row, only_rows

INTERVALS = (
    "Thick: 95% interval over seeds and test rows together; thin solid: over test rows only; thin dashed: "
    "over seeds only."
)

FAR = 15  # times the usual reach; what lies further out would press all else onto the line at 0


@dataclass(frozen=True)
class Bar:
    """One difference and its intervals, in points of the metric."""

    name: str
    look: Look
    value: float
    both: Sequence[float] | None
    rows: Sequence[float] | None = None
    seeds: Sequence[float] | None = None
    heading: str = ""

    @property
    def reach(self) -> float:
        """How far it stretches from 0 where it is known best."""
        return max(map(abs, (self.value, *(self.both or self.rows or self.seeds or ()))))


def differences(table: ResultTable, palette: Palette, key: str) -> Plot | None:
    """Each arm less softmax."""
    bars = [
        _bar(words.variant_name(arm), palette[arm.name], arm.difference)
        for arm in table.variants
        if arm.difference
    ]
    if not bars:
        return None
    paired = {arm.name: len(arm.difference.seeds) for arm in table.variants if arm.difference}
    metric = registry.get(table.metric)
    unit = metric.unit
    label = f"Differences from softmax in {unit}: " + "; ".join(_spoken(bar) for bar in bars)
    svg = _forest(bars, f"variant − softmax, {unit}", key, label)
    seeds = words.counts(paired, "paired seed")
    worse = "Left" if metric.higher_is_better else "Right"
    caption = f"{INTERVALS}{_beyond(bars)} {worse} of 0 is worse than softmax. n: {seeds}."
    return Plot(svg, "Difference from softmax", caption)


def at_a_glance(comparison: Comparison, palette: Palette) -> list[Plot]:
    """All differences on real data, one plot a metric."""
    real = [table for table in comparison.tables if not table.sample]
    plots = []
    for metric in dict.fromkeys(table.metric for table in real):
        bars = [
            _bar(arm.name, palette[arm.name], arm.difference, words.short(table, real))
            for table in real
            for arm in table.variants
            if table.metric == metric and arm.difference
        ]
        if len(bars) < 2:
            continue
        unit = registry.get(metric).unit
        label = f"All differences from softmax in {unit}: " + "; ".join(_spoken(bar) for bar in bars)
        svg = _forest(bars, f"variant − softmax, {unit}", f"glance-{metric}", label)
        many = words.plural(len(bars), "difference")
        caption = f"{INTERVALS}{_beyond(bars)} n: {many}, of the seeds in the table above."
        plots.append(Plot(svg, f"All differences, {unit}", caption))
    return plots


def over_tasks(comparison: Comparison, palette: Palette) -> list[Plot]:
    """Differences of interquartile means, one plot a metric."""
    plots = []
    for metric in dict.fromkeys(each.metric for each in comparison.overall):
        found = [each for each in comparison.overall if each.metric == metric and each.variant != BASELINE]
        bars = [
            Bar(
                each.variant,
                palette[each.variant],
                each.difference,
                each.difference_interval,
                heading=each.model,
            )
            for each in found
        ]
        if not bars:
            continue
        unit = registry.get(metric).unit
        label = f"Interquartile means of differences in {unit}: " + "; ".join(_spoken(bar) for bar in bars)
        svg = _forest(bars, f"variant − softmax, {unit}", f"overall-{metric}", label)
        lead = "Interquartile means of paired differences with 95% stratified bootstrap intervals."
        caption = f"{lead}{_beyond(bars)}"
        plots.append(Plot(svg, f"Over tasks, {unit}", caption))
    return plots


def _forest(bars: Sequence[Bar], xlabel: str, key: str, label: str) -> Markup:
    """Differences below each other around 0, under their headings."""
    edge = _edge(bars)
    headings = [name for name, _ in groupby(bars, key=lambda bar: bar.heading) if name]
    rows = len(bars) + len(headings)

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        axis.axvline(0, color=INK, linewidth=1, zorder=1)
        y, heading = 0, ""
        for bar in bars:
            if bar.heading != heading:
                heading = bar.heading
                name_row(axis, heading, "", y - 0.4, bold=True)
                y -= 1
            _draw(axis, bar, y, edge)
            y -= 1
        axis.set_xlabel(xlabel)
        only_rows(axis, rows)
        if edge is not None:
            low, high = axis.get_xlim()
            axis.set_xlim(max(low, -edge), min(high, edge))

    return draw(key, label, paint, size=(WIDTH, 60 + ROW * rows))


def _draw(axis: Axes, bar: Bar, y: float, edge: float | None) -> None:
    look = bar.look
    for bounds, below, style, width in (
        (bar.both, 0.0, "-", 4.0),
        (bar.rows, 0.16, "-", 1.4),
        (bar.seeds, 0.27, "--", 1.4),
    ):
        if bounds is not None:
            axis.plot(bounds, [y - below] * 2, style, color=look.color, linewidth=width)
    if edge is not None and abs(bar.value) > edge:
        at, marker = (edge, ">") if bar.value > 0 else (-edge, "<")
    else:
        at, marker = bar.value, look.marker
    axis.plot(at, y, marker, color=look.color, markersize=7, zorder=3, clip_on=False)
    shown = bar.both or bar.rows
    told = f" ({words.interval(shown)})" if shown else ""
    name_row(axis, bar.name, words.signed(bar.value) + told, y)


def _edge(bars: Sequence[Bar]) -> float | None:
    """Where the axis ends if some of them lie too far out to be drawn in scale with the others."""
    limit = FAR * median_low([bar.reach for bar in bars])
    return limit if 0 < limit < max(bar.reach for bar in bars) else None


def _beyond(bars: Sequence[Bar]) -> str:
    if _edge(bars) is None:
        return ""
    return " Values beyond the axis are told by an arrow, and intervals cut at its ends."


def _bar(name: str, look: Look, found: Difference, heading: str = "") -> Bar:
    return Bar(name, look, found.mean, found.interval, found.interval_rows, found.interval_seeds, heading)


def _spoken(bar: Bar) -> str:
    shown = bar.both or bar.rows
    name = f"{bar.heading}: {bar.name}" if bar.heading else bar.name
    return f"{name} {words.signed(bar.value)}" + (f", 95% {words.interval(shown)}" if shown else "")
