"""A comparison as ``report.md``; whatever a user named is escaped."""

import re
from collections.abc import Sequence

from finetune.comparison.compare import Comparison
from finetune.comparison.tables import Table
from finetune.report import cells, facts, words
from finetune.report.answer import answer, state
from finetune.system.text import clean, visible


def markdown(comparison: Comparison) -> str:
    """The whole file."""
    parts = [f"# {words.HEADING}\n", f"**{escape(answer(comparison))}** {state(comparison)}\n"]
    parts += [_of(table) for table in comparison.tables]
    if comparison.overall:
        parts.append(f"## Over tasks\n\n{words.OVER_TASKS}\n")
        parts.append(_items(facts.over_tasks(comparison)))
        parts.append(_grid(cells.overall(comparison), 3))
    if comparison.problems:
        parts.append("## Records that could not be used\n\n" + _items(comparison.problems))
    return "\n".join([*parts, "## How to read this\n", words.METHOD])


def escape(text: str) -> str:
    """``text`` as it is, wherever it stands in Markdown: on one line, with no mark-up and no cell end.

    >>> print(escape("a|b *c* <d>"))
    a\\|b \\*c\\* \\<d\\>
    """
    return re.sub(r"([\\`*_\[\]<>|#~$&])", r"\\\1", clean(text))


def fence(code: str, language: str) -> str:
    """A code block that no backtick in ``code`` can end."""
    ticks = "`" * max(3, 1 + max((len(found) for found in re.findall("`+", code)), default=0))
    return f"{ticks}{language}\n{code}\n{ticks}\n"


def _of(table: Table) -> str:
    parts = [f"## {escape(words.title(table))}\n"]
    parts += [f"**{words.SAMPLE}**\n"] if table.sample else []
    parts += [f"{escape(table.sentence)}\n", _grid(cells.columns(table))]
    parts += [f"Before training:\n\n{_grid(found)}" for found in [cells.starts(table)] if found]
    parts += [
        f"Each kind of noise alone, and what more seeds would show:\n\n{_grid(found)}"
        for found in [cells.power(table)]
        if found
    ]
    parts += [f"Cost:\n\n{_grid(cells.cost(table))}"] if any(arm.finished for arm in table.arms) else []
    parts += [_items(facts.protocol(table))]
    parts += [f"{heading}:\n\n{_items(items)}" for heading, items in facts.lists(table)]
    return "\n".join([*parts, _runs(table)])


def _grid(columns: cells.Columns, left: int = 1) -> str:
    """A table whose first ``left`` columns are text, the others numbers."""
    ruler = [*["---"] * left, *["---:"] * (len(columns) - left)]
    head, *rows = zip(*columns, strict=True)
    return lines([head, *rows], ruler)


def lines(rows: Sequence[Sequence[str]], ruler: Sequence[str]) -> str:
    """A table of cells, the first row its head, the second in the file the ``ruler``."""
    head, *others = [[escape(cell) for cell in row] for row in rows]
    return "".join("| " + " | ".join(row) + " |\n" for row in [head, ruler, *others])


def _runs(table: Table) -> str:
    """Every run, and the command that makes each of them again."""
    runs = [(arm.name, run) for arm in table.arms for run in arm.runs]
    rows = [["run", "seed", "status", "value", "folder"]]
    for name, run in runs:
        value = "" if run.value is None else f"{run.value:.2f}"
        rows.append([name, str(run.seed), run.status, value, run.folder])
    commands = "\n".join(dict.fromkeys(visible(run.command) for _, run in runs))
    listing = lines(rows, ["---", "---:", "---", "---:", "---"])
    return f"{listing}\n{fence(commands, 'sh')}"


def _items(lines: list[str]) -> str:
    return "".join(f"- {escape(line)}\n" for line in lines)
