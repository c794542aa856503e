"""A comparison as ``report.html``: one page that needs no network, with plots, in light and dark."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from finetune.comparison.compare import Comparison
from finetune.comparison.pairing import FROM_THE_PAPER
from finetune.comparison.tables import ResultTable, RunLine
from finetune.data.synthetic import STAMP
from finetune.report import cells, facts, histories, words
from finetune.report.answer import answer, state
from finetune.report.plots import curves, forest, gradients, looked, weights
from finetune.report.plots.figures import Palette, swatch
from finetune.system.text import visible

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Grid:
    """A table of cells for the template; the first ``left`` columns are text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    label: str
    left: int = 1


def page(comparison: Comparison, roots: Sequence[Path] = ()) -> str:
    """The whole file. Curves and diagnostics are read from the runs' folders, or found below ``roots``."""
    names = list(dict.fromkeys(arm.name for table in comparison.tables for arm in table.variants))
    palette = Palette(names)
    problems = list(comparison.problems)
    tables = []
    for number, table in enumerate(comparison.tables, start=1):
        found, unread = histories.collect(table, roots)
        problems += unread
        tables.append(_table(table, found, palette, f"table-{number}"))
    return _template().render(
        heading=words.HEADING,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        answer=answer(comparison),
        state=state(comparison),
        glance=_grid(cells.glance(comparison), "All differences", left=3) if len(tables) > 1 else None,
        glance_plots=forest.at_a_glance(comparison, palette) if len(tables) > 1 else [],
        legend_of_all=_legend(names, palette),
        over_tasks=words.OVER_TASKS,
        tasks=facts.over_tasks(comparison),
        overall=_grid(cells.overall(comparison), "Interquartile means over tasks and seeds", left=3),
        overall_plots=forest.over_tasks(comparison, palette),
        tables=tables,
        problems=problems,
        method=words.METHOD.strip().split("\n\n"),
        sample=STAMP,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        finalize=_seen,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def _seen(value: Any) -> Any:
    """What the template is about to write: nothing in a name may hide, or turn the text around."""
    return visible(value) if type(value) is str else value


def _table(
    table: ResultTable, found: Sequence[histories.History], palette: Palette, key: str
) -> dict[str, Any]:
    """Everything the template says about one table."""
    arms = [arm.name for arm in table.variants]
    seen = looked.looked_at(found, arms)
    drawn = [
        forest.differences(table, palette, f"{key}-difference"),
        curves.seeds(table, palette, f"{key}-seeds"),
    ]
    variants = _shown(table, seen)
    mechanism = []
    if seen:
        mechanism = gradients.norms(seen, key) + weights.weights(seen, palette, key)
        mechanism += gradients.reach(seen, variants, palette, key)
    return {
        "key": key,
        "title": words.title(table),
        "sample": table.sample,
        "sentence": table.sentence,
        "main": _grid(cells.scores(table, whole=False), words.title(table)),
        "legend": _legend(arms, palette),
        "plots": [plot for plot in drawn if plot] + curves.curves(table, found, palette, key),
        "starts": _grid(cells.starts(table), "Before training"),
        "diagnostics": mechanism,
        "mechanism_legend": _legend(dict.fromkeys([*(each.variant for each in seen), *variants]), palette),
        "cost": _grid(cells.cost(table), "Cost"),
        "cost_notes": facts.cost_notes(table),
        "lists": _lists(table),
        "power": _grid(cells.power(table), "Each kind of noise alone, and what more seeds would show"),
        "facts": facts.protocol(table),
        "runs": [_run(words.variant_name(arm), run) for arm in table.variants for run in arm.runs],
    }


def _lists(table: ResultTable) -> list[tuple[str, list[str]]]:
    """What is missing and what is to note, but for what stands beside the cost."""
    told = facts.cost_notes(table)
    kept = ((heading, [line for line in lines if line not in told]) for heading, lines in facts.lists(table))
    return [(heading, lines) for heading, lines in kept if lines]


def _shown(table: ResultTable, seen: Sequence[looked.Looked]) -> list[str]:
    """Of the functions that diagnostics hold at the same scores: those of the paper and of the table."""
    mine = {str((arm.attention or {}).get("variant")) for arm in table.variants}
    held = dict.fromkeys(variant for each in seen for layer in each.layers() for variant in layer["reach"])
    return [variant for variant in held if variant in FROM_THE_PAPER | mine]


def _run(name: str, run: RunLine) -> dict[str, str]:
    value = "" if run.value is None else f", {run.value:.2f}"
    facts = [part for part in (run.folder, run.device, run.reason) if part]
    return {
        "name": f"{name}, seed {run.seed}: {run.status}{value}",
        "command": run.command,
        "facts": " · ".join(facts),
    }


def _legend(names: Iterable[str], palette: Palette) -> list[dict[str, Any]]:
    return [{"name": name, "swatch": swatch(palette[name])} for name in names]


def _grid(rows: cells.Cells, label: str, left: int = 1) -> Grid | None:
    return Grid(rows[0], rows[1:], label, left) if len(rows) > 1 else None
