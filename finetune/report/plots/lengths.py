"""A metric over context length: a panel for each positional encoding, a line for each variant."""

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from finetune.comparison.tables import ResultTable, Summary, VariantResult
from finetune.metrics import registry
from finetune.report import words
from finetune.report.histories import Curve
from finetune.report.lengths import OverLength, place
from finetune.report.plots.colors import INK, MUTED
from finetune.report.plots.curves import line, thin_line
from finetune.report.plots.figures import WIDTH, Palette, Plot, draw, log_scale

PANEL = 170  # CSS pixels of height of a panel
SPREAD = 4.0  # largest value over smallest from which the scale is logarithmic


def over_length(each: OverLength, palette: Palette, key: str) -> Plot:
    """Values of every variant by length, on one scale for all positional encodings."""
    lengths, metric = each.lengths, each.tables[0].primary
    drawn = [table for table in each.tables if any(_curve(result) for result in table.variants)]
    values = [value for table in drawn for result in table.variants for value in _curve(result).values()]

    def paint(axes: list[Axes]) -> None:
        for axis, table in zip(axes, drawn, strict=False):
            for result in table.variants:
                if curve := _curve(result):
                    for seed in _seeds(result):
                        thin_line(axis, seed, palette[result.name])
                    line(axis, curve, palette[result.name])
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_locator(FixedLocator(lengths))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_title(place(table, each.tables))
            if table.trained_length:
                axis.axvline(table.trained_length, color=INK, linewidth=1, linestyle=(0, (2, 2)), zorder=0)
                axis.text(
                    table.trained_length, 0.98, " trained", transform=axis.get_xaxis_transform(),
                    va="top", color=MUTED,
                )  # fmt: skip
        if max(values) > SPREAD * min(values):
            for axis in axes:
                log_scale(axis)
        for axis in axes[len(drawn) :]:
            axis.set_visible(False)
        for number, axis in enumerate(axes[: len(drawn)]):
            axis.tick_params(labelbottom=True)
            axis.set_ylabel(metric.title if number == 0 else "")
            axis.set_xlabel("tokens" if number >= len(drawn) - columns else "")

    columns = min(2, len(drawn))
    rows = -(-len(drawn) // columns)
    spoken = "; ".join(f"{place(table, each.tables)}: {_spoken(table)}" for table in drawn)
    seeds = words.counts(
        {
            f"{result.name}, {place(table, each.tables)}": result.finished
            for table in drawn
            for result in table.variants
        },
        "run",
    )
    caption = (
        f"{metric.label[0].upper()}{metric.label[1:]} of the same tokens at every length; mean over seeds, "
        f"thin: each run. Dashed: the length of the training windows. n: {seeds}."
    )
    heading = f"{each.heading}, {each.title}"
    return draw(
        key,
        heading,
        f"{heading}. {spoken}",
        caption,
        paint,
        size=(WIDTH, 30 + PANEL * rows),
        grid=(rows, columns),
        sharey=True,
        looks={result.name: palette[result.name] for table in drawn for result in table.variants},
    )


def _curve(result: VariantResult) -> Curve:
    """Means by length."""
    return {
        length: summary.mean for name, summary in _by_length(result) if (length := registry.length_of(name))
    }


def _seeds(result: VariantResult) -> list[Curve]:
    """Values of each seed by length."""
    curves: dict[int, Curve] = {}
    for name, summary in _by_length(result):
        for seed, value in summary.per_seed.items():
            curves.setdefault(seed, {})[registry.length_of(name) or 0] = value
    return list(curves.values()) if len(curves) > 1 else []


def _by_length(result: VariantResult) -> list[tuple[str, Summary]]:
    found = [(name, summary) for name, summary in result.metrics.items() if registry.length_of(name)]
    return sorted(found, key=lambda pair: registry.length_of(pair[0]) or 0)


def _spoken(table: ResultTable) -> str:
    return ", ".join(
        f"{result.name} {curve[min(curve)]:.4g} at {min(curve)}, {curve[max(curve)]:.4g} at {max(curve)}"
        for result in table.variants
        if (curve := _curve(result))
    )
