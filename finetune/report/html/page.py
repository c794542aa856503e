"""A comparison as ``report.html``, and what attention did in it as ``report-attention.html`` beside it.

Both need no network and no scripts, and are for light and dark, for a phone and for paper. The answer comes
first, then every comparison; what is below that is folded, table by table.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from finetune.comparison.compare import Comparison
from finetune.comparison.interactions import sentence as interaction_sentence
from finetune.comparison.tables import ResultTable
from finetune.config.schema import BASELINE
from finetune.data.synthetic import STAMP
from finetune.report import cells, extents, facts, lengths, reached, words
from finetune.report.answer import judged, remarks, state
from finetune.report.matrix import matrix
from finetune.report.plots import colors
from finetune.report.plots.figures import Palette, swatch
from finetune.report.plots.gallery import Gallery, TablePlots, draw_all
from finetune.system.text import visible

HERE = Path(__file__).parent
FILE, ATTENTION_FILE = "report.html", "report-attention.html"
ATTENTION = "What attention did"
ON_ATTENTION = (
    "The gradients, weights and scores of attention in the runs that were made with --diagnose. They may "
    "explain a difference; whether there is one is in the report."
)


@dataclass(frozen=True)
class HtmlTable:
    """A table of cells for the template; the first ``left`` columns are text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    label: str
    left: int = 1
    cards: bool = False  # on a phone a list, a variant below the other, instead of columns
    kinds: Sequence[str] = ()  # of verdict, one a row: what its last cell is colored by


def page(comparison: Comparison, roots: Sequence[Path] = (), drawn: Gallery | None = None) -> str:
    """Renders the whole file with the plots ``drawn``, or else with those drawn here of the runs' folders.

    Runs that moved since the comparison are looked for below ``roots``.
    """
    drawn = drawn or draw_all(comparison, roots)
    palette = drawn.palette
    names = dict.fromkeys(result.name for table in comparison.tables for result in table.variants)
    return _render(
        "page",
        heading=words.HEADING,
        verdicts=[
            {
                "like": words.LIKE[each.outcome],
                "mark": words.mark(each.outcome),
                "name": words.named(each.variant, control=each.control),
                "outcome": each.outcome.value,
                "counts": each.counts,
            }
            for each in judged(comparison)
        ],
        remarks=remarks(comparison),
        state=state(comparison),
        baseline=BASELINE,
        matrix=matrix(comparison),
        comparisons_heading=words.COMPARISONS,
        on_matrix=words.ON_MATRIX,
        reading_heading=words.READING,
        reading=words.reading(comparison.tables),
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
                "differences": _grid(each.differences, f"Differences from {BASELINE}", left=2),
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
        tables=[_table(table, plots, palette, key) for key, table, plots in _keyed(comparison, drawn)],
        attention_file=ATTENTION_FILE,
        problems=[*comparison.problems, *drawn.problems],
        method=words.method(comparison.tables).strip().split("\n\n"),
    )


def attention_page(comparison: Comparison, drawn: Gallery) -> str | None:
    """Renders what attention did, in plots and numbers; ``None`` where no run has diagnostics."""
    tables = [
        {
            "key": key,
            "title": words.title(table),
            "sample": table.sample,
            "legend": _legend(
                dict.fromkeys([*(each.variant for each in plots.sampled), *plots.functions]), drawn.palette
            ),
            "plots": plots.diagnostics,
            "reached": _grid(reached.reached(plots.sampled, plots.functions), reached.HEADING, left=3),
            "extents": _grid(extents.extents(plots.sampled, plots.functions), extents.HEADING, left=1),
        }
        for key, table, plots in _keyed(comparison, drawn)
        if plots.diagnostics
    ]
    if not tables:
        return None
    return _render("attention", heading=ATTENTION, intro=ON_ATTENTION, tables=tables, report_file=FILE)


def _keyed(comparison: Comparison, drawn: Gallery) -> list[tuple[str, ResultTable, TablePlots]]:
    """Each table with its plots, and with the name of its place in both pages."""
    pairs = zip(comparison.tables, drawn.tables, strict=True)
    return [(f"table-{number}", table, plots) for number, (table, plots) in enumerate(pairs, start=1)]


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        # What is about to be written, in letters that can be seen: a name may hide or turn nothing.
        finalize=lambda value: visible(value) if type(value) is str else value,  # markup stays as it is
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(name: str, **content: Any) -> str:
    style = Markup((HERE / "page.css").read_text(encoding="utf-8") + colors.rules())
    return _environment().get_template(f"{name}.html.jinja").render(style=style, sample=STAMP, **content)


def _table(table: ResultTable, plots: TablePlots, palette: Palette, key: str) -> dict[str, Any]:
    """Collects everything the template shows of one table, but for what attention did."""
    names = [result.name for result in table.variants]
    kinds = [
        result.difference.verdict if result.difference and not table.sample else ""
        for result in table.variants
    ]
    # Those stand beside the cost, or in sight, and not among the other notes.
    cost_notes, warnings, below = facts.cost_notes(table), facts.unlearned(table), facts.below(table)
    lists = [
        (heading, [line for line in lines if line not in cost_notes + warnings + below])
        for heading, lines in facts.lists(table)
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
        "warnings": warnings,
        "churn": below,
        "main": _grid(cells.main(table), words.title(table), cards=True, kinds=kinds),
        "scores": _grid(cells.scores(table, whole=False), words.SCORES),
        "effects": _grid(cells.effects(table), words.EFFECTS),
        "on_effects": words.ON_EFFECTS,
        "below": _grid(cells.below(table), facts.BELOW),
        "classes": _grid(cells.classes(table), words.CLASSES),
        "legend": _legend(names, palette),
        "difference": plots.differences,
        "plots": plots.results,
        "starts": _grid(cells.starts(table), "Before training"),
        "attention": bool(plots.diagnostics),
        "cost": _grid(cells.cost(table), "Cost"),
        "cost_notes": cost_notes,
        "lists": [(heading, lines) for heading, lines in lists if lines],
        "power": _grid(cells.power(table), words.POWER),
        "protocol": words.PROTOCOL,
        "facts": facts.protocol(table),
        "every_run": words.RUNS,
        "runs": runs,
    }


def _legend(names: Iterable[str], palette: Palette) -> list[dict[str, Any]]:
    return [{"name": name, "swatch": swatch(palette[name])} for name in names]


def _grid(rows: cells.Cells, label: str, left: int = 1, **look: Any) -> HtmlTable | None:
    return HtmlTable(rows[0], rows[1:], label, left, **look) if len(rows) > 1 else None
