"""A comparison for the terminal."""

import textwrap

from finetune.comparison.compare import Comparison
from finetune.comparison.interactions import sentence as interaction_sentence
from finetune.data.synthetic import STAMP
from finetune.report import cells, facts, lengths, words
from finetune.report.answer import answer
from finetune.system.tables import aligned
from finetune.system.text import clean

WIDTH = 110  # of wrapped lines


def text(comparison: Comparison) -> str:
    """Writes every table with its sentence; the answer comes last, where a terminal leaves it in sight."""
    parts = []
    for table in comparison.tables:
        lines = [clean(words.title(table))] + ([STAMP] if table.sample else [])
        lines += [aligned(cells.scores(table)), *_wrapped(table.sentence, "=> ")]
        for heading, items in facts.lists(table):
            lines += [f"{heading}:", *_bullets(items)]
        parts.append("\n".join(lines))
    if comparison.problems:
        parts.append("\n".join(["Records that could not be used:", *_bullets(comparison.problems)]))
    if origins := cells.origins(comparison):
        parts.append("\n".join([f"{words.ORIGINS_HEADING}:", aligned(origins, "lllllr")]))
    if comparison.overall:
        lines = [aligned(cells.overall(comparison), "lllr"), *_wrapped(words.OVER_TASKS)]
        parts.append("\n".join(lines + _bullets(facts.over_tasks(comparison))))
    for each in lengths.over_length(comparison):
        lines = [clean(f"{each.heading} · {each.title}"), aligned(each.scores, "ll")]
        lines += [aligned(each.differences, "ll")] if each.differences else []
        parts.append("\n".join([*lines, *_wrapped(lengths.INTRO)]))
    if comparison.interactions:
        lines = [words.INTERACTIONS, aligned(lengths.interactions(comparison), "lll")]
        lines += _bullets([interaction_sentence(each) for each in comparison.interactions])
        parts.append("\n".join([*lines, *_wrapped(words.ON_INTERACTIONS)]))
    parts.append("\n".join(_wrapped(answer(comparison))))
    return "\n\n".join(parts)


def _wrapped(sentence: str, mark: str = "") -> list[str]:
    return textwrap.wrap(
        mark + clean(sentence),
        WIDTH,
        subsequent_indent=" " * len(mark),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _bullets(lines: list[str]) -> list[str]:
    return [f"  - {clean(line)}" for line in lines]
