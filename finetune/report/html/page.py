"""A comparison as ``report.html``: one page that needs no network, with plots, in light and dark."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from finetune.comparison.compare import Comparison
from finetune.comparison.interactions import sentence as interaction_sentence
from finetune.comparison.tables import ResultTable
from finetune.data.synthetic import STAMP
from finetune.report import cells, facts, lengths, reached, words
from finetune.report.answer import answer, state
from finetune.report.plots import colors
from finetune.report.plots.figures import Palette, swatch
from finetune.report.plots.gallery import Gallery, TablePlots, draw_all
from finetune.system.text import visible

HERE = Path(__file__).parent


@dataclass(frozen=True)
class HtmlTable:
    """A table of cells for the template; the first ``left`` columns are text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    label: str
    left: int = 1


def page(comparison: Comparison, roots: Sequence[Path] = (), drawn: Gallery | None = None) -> str:
    """Renders the whole file with the plots ``drawn``, or else with those drawn here of the runs' folders.

    Runs that moved since the comparison are looked for below ``roots``.
    """
    drawn = drawn or draw_all(comparison, roots)
    palette = drawn.palette
    names = dict.fromkeys(result.name for table in comparison.tables for result in table.variants)
    tables = [
        _table(table, plots, palette, f"table-{number}")
        for number, (table, plots) in enumerate(zip(comparison.tables, drawn.tables, strict=True), start=1)
    ]
    return _template().render(
        heading=words.HEADING,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8") + colors.rules()),
        answer=answer(comparison),
        state=state(comparison),
        glance=_grid(cells.glance(comparison), "All differences", left=3) if len(tables) > 1 else None,
        glance_plots=drawn.glance,
        legend_of_all=_legend(names, palette),
        origins_heading=words.ORIGINS_HEADING,
        origins=_grid(cells.origins(comparison), words.ORIGINS_HEADING, left=4),
        over_tasks=words.OVER_TASKS,
        tasks=facts.over_tasks(comparison),
        overall=_grid(cells.overall(comparison), "Interquartile means over tasks and seeds", left=3),
        overall_plots=drawn.overall,
        over_length=[
            {
                "key": f"length-{number}",
                "heading": f"{each.heading} · {each.title}",
                "scores": _grid(each.scores, each.heading, left=2),
                "differences": _grid(each.differences, "Differences from softmax", left=2),
                "legend": _legend(
                    dict.fromkeys(result.name for table in each.tables for result in table.variants), palette
                ),
                "plots": [plot],
            }
            for number, (each, plot) in enumerate(
                zip(lengths.over_length(comparison), drawn.lengths, strict=True), start=1
            )
        ],
        on_lengths=lengths.INTRO,
        interactions=_grid(lengths.interactions(comparison), words.INTERACTIONS, left=3),
        interaction_sentences=[interaction_sentence(each) for each in comparison.interactions],
        on_interactions=words.ON_INTERACTIONS,
        tables=tables,
        problems=[*comparison.problems, *drawn.problems],
        method=words.method(comparison.tables).strip().split("\n\n"),
        sample=STAMP,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        # What is about to be written, in letters that can be seen: a name may hide or turn nothing.
        finalize=lambda value: visible(value) if type(value) is str else value,  # markup stays as it is
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def _table(table: ResultTable, plots: TablePlots, palette: Palette, key: str) -> dict[str, Any]:
    """Collects everything the template shows of one table."""
    names = [result.name for result in table.variants]
    sampled, functions = plots.sampled, plots.functions
    cost_notes = facts.cost_notes(table)  # they stand beside the cost, and not among the other notes
    lists = [
        (heading, [line for line in lines if line not in cost_notes]) for heading, lines in facts.lists(table)
    ]
    runs = []
    for result, run in ((variant, run) for variant in table.variants for run in variant.runs):
        value = "" if run.value is None else f", {words.value(table.primary, run.value)}"
        runs.append(
            {
                "name": f"{words.variant_name(result)}, seed {run.seed}: {run.status}{value}",
                "command": run.command,
                "facts": " · ".join(part for part in (run.folder, run.device, run.reason) if part),
            }
        )
    return {
        "key": key,
        "title": words.title(table),
        "sample": table.sample,
        "sentence": table.sentence,
        "main": _grid(cells.scores(table, whole=False), words.title(table)),
        "legend": _legend(names, palette),
        "plots": plots.results,
        "starts": _grid(cells.starts(table), "Before training"),
        "diagnostics": plots.diagnostics,
        "reached": _grid(reached.reached(sampled, functions), reached.HEADING, left=3),
        "diagnostics_legend": _legend(
            dict.fromkeys([*(each.variant for each in sampled), *functions]), palette
        ),
        "cost": _grid(cells.cost(table), "Cost"),
        "cost_notes": cost_notes,
        "lists": [(heading, lines) for heading, lines in lists if lines],
        "power": _grid(cells.power(table), words.POWER),
        "facts": facts.protocol(table),
        "runs": runs,
    }


def _legend(names: Iterable[str], palette: Palette) -> list[dict[str, Any]]:
    return [{"name": name, "swatch": swatch(palette[name])} for name in names]


def _grid(rows: cells.Cells, label: str, left: int = 1) -> HtmlTable | None:
    return HtmlTable(rows[0], rows[1:], label, left) if len(rows) > 1 else None
