"""A comparison as ``report.md``; whatever a user named is escaped."""

from finetune.comparison.compare import Comparison
from finetune.comparison.tables import ResultTable
from finetune.data.synthetic import STAMP
from finetune.report import cells, facts, words
from finetune.report.answer import answer, state
from finetune.system import tables
from finetune.system.tables import escape, fence
from finetune.system.text import visible


def markdown(comparison: Comparison) -> str:
    """The whole file."""
    parts = [f"# {words.HEADING}\n", f"**{escape(answer(comparison))}** {state(comparison)}\n"]
    parts += [_of(table) for table in comparison.tables]
    if comparison.overall:
        parts.append(f"## Over tasks\n\n{words.OVER_TASKS}\n")
        parts.append(_items(facts.over_tasks(comparison)))
        parts.append(tables.markdown(cells.overall(comparison), "lllr"))
    if comparison.problems:
        parts.append("## Records that could not be used\n\n" + _items(comparison.problems))
    return "\n".join([*parts, "## How to read this\n", words.METHOD])


def _of(table: ResultTable) -> str:
    parts = [f"## {escape(words.title(table))}\n"]
    parts += [f"**{STAMP}**\n"] if table.sample else []
    parts += [f"{escape(table.sentence)}\n", tables.markdown(cells.scores(table))]
    parts += [f"Before training:\n\n{tables.markdown(found)}" for found in [cells.starts(table)] if found]
    parts += [
        f"Each kind of noise alone, and what more seeds would show:\n\n{tables.markdown(found)}"
        for found in [cells.power(table)]
        if found
    ]
    parts += (
        [f"Cost:\n\n{tables.markdown(cells.cost(table))}"]
        if any(arm.finished for arm in table.variants)
        else []
    )
    parts += [_items(facts.protocol(table))]
    parts += [f"{heading}:\n\n{_items(items)}" for heading, items in facts.lists(table)]
    return "\n".join([*parts, _runs(table)])


def _runs(table: ResultTable) -> str:
    """Every run, and the command that makes each of them again."""
    runs = [(arm.name, run) for arm in table.variants for run in arm.runs]
    rows = [["run", "seed", "status", "value", "folder"]]
    for name, run in runs:
        value = "" if run.value is None else f"{run.value:.2f}"
        rows.append([name, str(run.seed), run.status, value, run.folder])
    commands = "\n".join(dict.fromkeys(visible(run.command) for _, run in runs))
    listing = tables.markdown(rows, "lrlrl")
    return f"{listing}\n{fence(commands, 'sh')}"


def _items(lines: list[str]) -> str:
    return "".join(f"- {escape(line)}\n" for line in lines)
