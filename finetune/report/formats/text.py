"""A comparison for the terminal."""

import textwrap

from finetune.comparison.compare import Comparison
from finetune.comparison.tables import ResultTable
from finetune.data.synthetic import STAMP
from finetune.report import cells, facts, words
from finetune.report.answer import answer
from finetune.system.tables import aligned
from finetune.system.text import clean

WIDTH = 110  # of wrapped lines


def text(comparison: Comparison) -> str:
    """Every table with its sentence, then the answer, which a terminal leaves in sight."""
    parts = [_of(table) for table in comparison.tables]
    if comparison.problems:
        parts.append("\n".join(["Records that could not be used:", *_bullets(comparison.problems)]))
    if comparison.overall:
        told = [*_wrapped(words.OVER_TASKS, ""), *_bullets(facts.over_tasks(comparison))]
        parts.append("\n".join([aligned(cells.overall(comparison), "lllr"), *told]))
    parts.append("\n".join(_wrapped(answer(comparison), "")))
    return "\n\n".join(parts)


def _of(table: ResultTable) -> str:
    lines = [clean(words.title(table))] + ([STAMP] if table.sample else [])
    lines.append(aligned(cells.scores(table)))
    lines += _wrapped(table.sentence, "=> ")
    for heading, items in facts.lists(table):
        lines += [f"{heading}:", *_bullets(items)]
    return "\n".join(lines)


def _wrapped(sentence: str, mark: str) -> list[str]:
    indent = " " * len(mark)
    return textwrap.wrap(
        mark + clean(sentence),
        WIDTH,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _bullets(lines: list[str]) -> list[str]:
    return [f"  - {clean(line)}" for line in lines]
