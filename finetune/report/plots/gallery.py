"""All plots of a comparison, drawn once: the page shows them, and each becomes a file of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.comparison.compare import Comparison
from finetune.comparison.pairing import FROM_THE_PAPER
from finetune.comparison.tables import ResultTable
from finetune.report import lengths
from finetune.report.histories import History, collect
from finetune.report.plots import curves, distances, forest, gradients, series, weights
from finetune.report.plots import lengths as lengths_plot
from finetune.report.plots.figures import Palette, Plot
from finetune.report.plots.series import Sampled


@dataclass(frozen=True)
class TablePlots:
    """The plots of one table, and what those of its attention were drawn from."""

    results: list[Plot]  # differences, seeds, learning curves
    diagnostics: list[Plot]  # of attention
    sampled: list[Sampled]
    functions: list[str]  # whose gradients at the same scores are compared


@dataclass(frozen=True)
class Gallery:
    """Every plot of a comparison, and a line about each run whose records could not be read."""

    palette: Palette
    glance: list[Plot]
    overall: list[Plot]
    lengths: list[Plot]  # one for each of ``lengths.over_length``
    tables: list[TablePlots]  # one for each table
    problems: list[str]

    def __iter__(self) -> Iterator[Plot]:
        yield from (*self.glance, *self.overall, *self.lengths)
        for table in self.tables:
            yield from (*table.results, *table.diagnostics)


def draw_all(comparison: Comparison, roots: Sequence[Path] = ()) -> Gallery:
    """Draws everything, with curves and diagnostics from the runs' folders, or from below ``roots``."""
    palette = Palette(dict.fromkeys(result.name for table in comparison.tables for result in table.variants))
    tables, problems = [], []
    for number, table in enumerate(comparison.tables, start=1):
        histories, unread = collect(table, roots)
        problems += unread
        tables.append(_of_table(table, histories, palette, f"table-{number}"))
    return Gallery(
        palette=palette,
        glance=forest.at_a_glance(comparison, palette) if len(tables) > 1 else [],
        overall=forest.over_tasks(comparison, palette),
        lengths=[
            lengths_plot.over_length(each, palette, f"length-{number}-plot")
            for number, each in enumerate(lengths.over_length(comparison), start=1)
        ],
        tables=tables,
        problems=problems,
    )


def _of_table(table: ResultTable, histories: Sequence[History], palette: Palette, key: str) -> TablePlots:
    names = [result.name for result in table.variants]
    results = [
        forest.differences(table, palette, f"{key}-difference"),
        curves.seeds(table, palette, f"{key}-seeds"),
        *curves.curves(table, histories, palette, key),
    ]
    sampled = series.of_variants(histories, names)
    # Diagnostics hold what many functions would do at the same scores: the paper's and the table's are drawn.
    own = {str((result.attention or {}).get("variant")) for result in table.variants}
    held = dict.fromkeys(name for each in sampled for layer in each.layers() for name in layer["reach"])
    functions = [name for name in held if name in FROM_THE_PAPER | own]
    diagnostics: list[Plot] = []
    if sampled:
        diagnostics += gradients.norms(sampled, key) + weights.weights(sampled, palette, key)
        diagnostics += gradients.reach(sampled, functions, palette, key)
        last = series.of_variants(histories, names, order=(True, False))
        diagnostics += distances.last_look(last, palette, key)
        diagnostics += distances.reach(last, functions, palette, key)
        diagnostics += weights.learned(sampled, palette, key)
    return TablePlots([plot for plot in results if plot], diagnostics, sampled, functions)
