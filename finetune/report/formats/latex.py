"""A comparison as ``report.tex``, which a paper includes by ``\\input``: one of all, then each table."""

from itertools import groupby

from finetune.comparison.compare import Comparison
from finetune.data.synthetic import STAMP
from finetune.metrics import registry
from finetune.report import cells, facts, lengths, words
from finetune.report.answer import answer
from finetune.report.formats.paper import paper
from finetune.report.formats.tex import HEAD, cell, escape, floating
from finetune.system.tables import Rows
from finetune.system.text import clean, plain

MOST_HELD = 15  # tables that LaTeX has to find a place for at once; it gives up where there are too many


def latex(comparison: Comparison) -> str:
    """Writes the whole file."""
    about = "".join(f"% {plain(clean(line))}\n" for line in answer(comparison))
    details = []
    for number, table in enumerate(comparison.tables, start=1):
        head, *rows = cells.scores(table)
        # A printed page has no room for these; the other forms have them.
        described = {metric.label for metric in registry.METRICS.values() if metric.name != table.metric}
        left_out = {"untrained", "p", "train", "memory", *described}
        if "95%" in head:
            left_out |= {"95% rows", "95% seeds"}
        kept = [column for column, name in enumerate(head) if name not in left_out]
        stamp = f" {escape(STAMP)}." if table.sample else ""
        caption = f"{escape(words.title(table))}.{stamp} {escape(table.sentence)}"
        details.append(
            _float([[row[column] for column in kept] for row in [head, *rows]], caption, str(number))
        )
    details += [*_origins(comparison), *_over_length(comparison), *_overall(comparison)]
    for at in range(MOST_HELD, len(details), MOST_HELD):
        details[at] = f"\\clearpage\n{details[at]}"
    return "\n".join([HEAD, about, *paper(comparison), *details])


def _origins(comparison: Comparison) -> list[str]:
    """Writes a table for each task; its caption names metric and models, which are too wide as columns.

    Models have a column where several began alike, for a row would not say which one it is of.
    """
    head, *others = cells.origins(comparison) or [[]]
    rows = [dict(zip(head, row, strict=True)) for row in others]
    floats = []
    for number, (task, group) in enumerate(groupby(rows, key=lambda row: row["task"]), start=1):
        lines = list(group)
        models = dict.fromkeys((row["began from"], row["model"]) for row in lines)
        several = len(models) > len({began for began, _ in models})
        kept = [name for name in head if name not in ("task", "metric") and (several or name != "model")]
        named = "" if several else f" ({'; '.join(f'{began}: {model}' for began, model in models)})"
        caption = escape(f"{words.ORIGINS_HEADING}: {task}, {lines[0]['metric']}{named}.")
        table = [kept, *([row[name] for name in kept] for row in lines)]
        label = "origins" if number == 1 else f"origins-{number}"
        floats.append(_float(table, caption, label, left=3 if several else 2))
    return floats


def _over_length(comparison: Comparison) -> list[str]:
    """Writes tables of scores and differences by context length, and one of interactions."""
    floats = []
    for number, each in enumerate(lengths.over_length(comparison), start=1):
        for what, rows in (("", each.scores), ("differences from softmax", each.differences)):
            caption = (
                escape(", ".join(filter(None, (each.heading, each.title, what))))
                + f". {escape(lengths.INTRO)}"
            )
            label = "-".join(filter(None, ("length", str(number), "difference" if what else "")))
            floats += [_float(rows, caption, label, left=2)] if rows else []
    if comparison.interactions:
        caption = escape(f"{words.INTERACTIONS}. {words.ON_INTERACTIONS}")
        floats.append(_float(lengths.interactions(comparison), caption, "interactions", left=3))
    return floats


def _overall(comparison: Comparison) -> list[str]:
    """Writes a table for each model and metric, which its caption names: as columns they are too wide."""
    if not comparison.overall:
        return []
    head, *rows = cells.overall(comparison)
    floats = []
    groups = zip(groupby(rows, key=lambda row: row[:2]), facts.over_tasks(comparison), strict=True)
    for number, (((model, metric), group), tasks) in enumerate(groups, start=1):
        means = "interquartile means over tasks and seeds, with 95% stratified bootstrap intervals"
        caption = escape(f"{model}, {metric}: {means}. {tasks}")
        label = "overall" if number == 1 else f"overall-{number}"
        floats.append(_float([head[2:], *(row[2:] for row in group)], caption, label))
    return floats


def _float(rows: Rows, caption: str, label: str, left: int = 1) -> str:
    """Writes a floating table whose first ``left`` columns are text, the others numbers."""
    head, *others = rows
    lines = [" & ".join(map(escape, head)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(cell, row)) + r" \\" for row in others]
    return floating(caption, label, "l" * left + "r" * (len(head) - left), lines)
