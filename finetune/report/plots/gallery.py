"""All plots of a comparison, drawn once: the page shows them, and each becomes a file of its own."""

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.comparison.compare import Comparison
from finetune.comparison.pairing import FROM_THE_PAPER
from finetune.comparison.tables import ResultTable
from finetune.report import lengths, words
from finetune.report.histories import History, collect
from finetune.report.plots import curves, distances, forest, gradients, series, weights
from finetune.report.plots import lengths as lengths_plot
from finetune.report.plots.figures import Palette, Plot
from finetune.report.plots.series import Sampled


@dataclass(frozen=True)
class TablePlots:
    """The plots of one table, and what those of its attention were drawn from."""

    differences: list[Plot]  # one, or none where nothing is compared
    results: list[Plot]  # seeds, learning curves
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
            yield from (*table.differences, *table.results, *table.diagnostics)


def draw_all(comparison: Comparison, roots: Sequence[Path] = ()) -> Gallery:
    """Draws everything, with curves and diagnostics from the runs' folders, or from below ``roots``."""
    palette = Palette(dict.fromkeys(result.name for table in comparison.tables for result in table.variants))
    tables, problems = [], []
    for table in comparison.tables:
        histories, unread = collect(table, roots)
        problems += unread
        tables.append(_of_table(table, histories, palette, words.title(table)))
    glance = forest.at_a_glance(comparison, palette) if len(tables) > 1 else []
    over_length = [
        lengths_plot.over_length(each, palette, f"{each.heading} {each.title}")
        for each in lengths.over_length(comparison)
    ]
    name = _Names().name
    return Gallery(
        palette=palette,
        glance=name(glance),
        overall=name(forest.over_tasks(comparison, palette)),
        lengths=name(over_length),
        tables=[
            replace(
                each,
                differences=name(each.differences),
                results=name(each.results),
                diagnostics=name(each.diagnostics),
            )
            for each in tables
        ],
        problems=problems,
    )


class _Names:
    """Gives each plot of a report a name of its own, of words that the name of a file can have anywhere."""

    LONGEST = 100

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def name(self, plots: Iterable[Plot]) -> list[Plot]:
        """The plots with such names."""
        return [replace(plot, drawing=replace(plot.drawing, key=self._next(plot.name))) for plot in plots]

    def _next(self, words_of_it: str) -> str:
        letters = unicodedata.normalize("NFKD", words_of_it).encode("ascii", "ignore").decode().lower()
        # What tells the plots of a table apart stands at the end.
        short = re.sub("[^a-z0-9]+", "-", letters).strip("-")[-self.LONGEST :].strip("-") or "figure"
        tries = (short if number == 1 else f"{short}-{number}" for number in itertools.count(1))
        free = next(each for each in tries if each not in self._taken)
        self._taken.add(free)
        return free


def _of_table(table: ResultTable, histories: Sequence[History], palette: Palette, key: str) -> TablePlots:
    names = [result.name for result in table.variants]
    differences = forest.differences(table, palette, f"{key} differences")
    results = [
        curves.seeds(table, palette, f"{key} seed by seed"),
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
    return TablePlots(
        [differences] if differences else [],
        [plot for plot in results if plot],
        diagnostics,
        sampled,
        functions,
    )
