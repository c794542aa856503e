"""A comparison for the terminal."""

import math

from finetune.comparison.compare import Comparison
from finetune.comparison.interactions import sentence as interaction_sentence
from finetune.config.schema import BASELINE
from finetune.data.synthetic import STAMP
from finetune.report import cells, facts, lengths, words
from finetune.report.answer import judged, line, remarks
from finetune.report.matrix import matrix
from finetune.system.sheet import Sheet
from finetune.system.text import clean

WIDTH = 110  # of sentences, however wide the terminal is
INDENT = "  "


def text(comparison: Comparison, width: float = math.inf) -> str:
    """Writes every table with its sentence; the answer comes last, where a terminal leaves it in sight.

    ``width``: cells of a line; a table that is wider loses the columns that say least.
    """
    sheet, parts = Sheet(width), []
    for table in comparison.tables:
        lines = [sheet.prose(clean(words.title(table)))]
        lines += [sheet.prose(STAMP)] if table.sample else []
        lines.append(sheet.table(cells.scores(table), least=cells.least(table)))
        lines.append(sheet.prose(clean(table.sentence), "=> ", WIDTH))
        for heading, items in facts.lists(table):
            lines += [f"{heading}:", *_bullets(sheet, items)]
        parts.append("\n".join(lines))
    if comparison.problems:
        parts.append("\n".join(["Records that could not be used:", *_bullets(sheet, comparison.problems)]))
    if origins := cells.origins(comparison):
        shown = sheet.table(origins, "lllllr", least=("metric", "p (Holm)"), keys=4)
        parts.append("\n".join([sheet.prose(f"{words.ORIGINS_HEADING}:"), shown]))
    if comparison.overall:
        spare = ("tasks", "95% IQM", "P(better)")
        lines = [sheet.table(cells.overall(comparison), "lllr", least=spare, keys=3)]
        lines.append(sheet.prose(clean(words.OVER_TASKS), most=WIDTH))
        parts.append("\n".join(lines + _bullets(sheet, facts.over_tasks(comparison))))
    for each in lengths.over_length(comparison):
        lines = [sheet.prose(clean(f"{each.heading} · {each.title}")), sheet.table(each.scores, "ll")]
        lines += [sheet.table(each.differences, "ll")] if each.differences else []
        parts.append("\n".join([*lines, sheet.prose(clean(lengths.INTRO), most=WIDTH)]))
    if comparison.interactions:
        lines = [sheet.prose(words.INTERACTIONS), sheet.table(lengths.interactions(comparison), "lll")]
        lines += _bullets(sheet, [interaction_sentence(each) for each in comparison.interactions])
        parts.append("\n".join([*lines, sheet.prose(clean(words.ON_INTERACTIONS), most=WIDTH)]))
    parts += filter(None, [sheet.note("report.md, which finetune compare writes, has them")])
    parts += _comparisons(sheet, comparison)
    answers = [(f"{words.mark(each.outcome)} ", line(each)) for each in judged(comparison)]
    answers += [("", remark) for remark in remarks(comparison)]
    parts.append("\n".join(sheet.prose(clean(said), mark, WIDTH) for mark, said in answers))
    return "\n\n".join(parts)


def _comparisons(sheet: Sheet, comparison: Comparison) -> list[str]:
    """Every comparison, which the page has in a matrix: task and model, and below them a line a variant."""
    found = matrix(comparison)
    if found is None:
        return []
    cells = [cell for row in found.rows for cell in row.cells if cell]
    columns = [[cell.marked, cell.variant, cell.difference, cell.interval] for cell in cells]
    shown = Sheet(sheet.width - len(INDENT)).table(columns, "llr").splitlines()
    if len(shown) > len(cells):  # too narrow for a line each
        shown = [clean(f"{cell.variant}: {cell.text}") for cell in cells]
    lines = iter(shown)
    parts = [sheet.prose(f"{words.COMPARISONS}, with its 95% interval:")]
    for row in found.rows:
        parts.append(sheet.prose(clean(f"{row.title}: {BASELINE} {row.score} {row.metric}")))
        parts += [sheet.prose(next(lines), INDENT) for cell in row.cells if cell]
    return ["\n".join(parts)]


def _bullets(sheet: Sheet, lines: list[str]) -> list[str]:
    return [sheet.prose(clean(line), "  - ") for line in lines]
