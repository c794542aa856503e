"""A comparison as ``report.md``; whatever a user named is escaped."""

from collections.abc import Iterator

from finetune.comparison.compare import Comparison
from finetune.comparison.interactions import sentence as interaction_sentence
from finetune.comparison.tables import ResultTable
from finetune.data.synthetic import STAMP
from finetune.report import cells, facts, lengths, words
from finetune.report.answer import judged, remarks, state
from finetune.report.matrix import matrix
from finetune.system import tables
from finetune.system.tables import escape, fence
from finetune.system.text import visible


def markdown(comparison: Comparison) -> str:
    """Writes the whole file: the answer, every comparison, then each table with its details folded."""
    parts = [f"# {words.HEADING}\n", *_answer(comparison)]
    if found := matrix(comparison):
        parts.append(f"## {words.COMPARISONS}\n\n{words.ON_MATRIX}:\n\n{tables.markdown(found.grid, 'lr')}")
        parts.append(f"## {words.READING}\n\n{_items(words.reading(comparison.tables))}")
    if origins := cells.origins(comparison):
        parts.append(f"## {words.ORIGINS_HEADING}\n\n{tables.markdown(origins, 'llllr')}")
    if comparison.overall:
        parts.append(f"## Over tasks\n\n{words.OVER_TASKS}\n")
        parts.append(_items(facts.over_tasks(comparison)))
        parts.append(tables.markdown(cells.overall(comparison), "lllr"))
    for each in lengths.over_length(comparison):
        parts.append(f"## {escape(f'{each.heading} · {each.title}')}\n\n{lengths.INTRO}\n")
        parts += [tables.markdown(rows, "llr") for rows in (each.scores, each.differences) if rows]
    if comparison.interactions:
        parts.append(f"## {words.INTERACTIONS}\n\n{words.ON_INTERACTIONS}\n")
        parts.append(_items([interaction_sentence(each) for each in comparison.interactions]))
        parts.append(tables.markdown(lengths.interactions(comparison), "lllr"))
    for table in comparison.tables:
        parts += _table(table)
    if comparison.problems:
        parts.append("## Records that could not be used\n\n" + _items(comparison.problems))
    return "\n".join([*parts, "## Method\n", words.method(comparison.tables)])


def _answer(comparison: Comparison) -> Iterator[str]:
    lines = [
        f"- {words.mark(each.outcome)} **{escape(words.named(each.variant, control=each.control))}: "
        f"{each.outcome.value}**: {each.counts}\n"
        for each in judged(comparison)
    ]
    yield from ["".join(lines)] if lines else []
    yield from (f"**{remark}**\n" for remark in remarks(comparison))
    yield f"{state(comparison)}\n"


def _table(table: ResultTable) -> Iterator[str]:
    """What is asked first of a table, and its details in folds."""
    yield f"## {escape(words.title(table))}\n"
    if table.sample:
        yield f"**{STAMP}**\n"
    yield tables.markdown(cells.main(table))
    yield f"{escape(table.sentence)}\n"
    for heading, items in facts.lists(table):
        yield f"{heading}:\n\n{_items(items)}"
    for heading, rows in (
        (words.SCORES, cells.scores(table)),
        (words.EFFECTS, cells.effects(table)),
        (facts.BELOW, cells.below(table)),
        (words.CLASSES, cells.classes(table)),
        ("Before training", cells.starts(table)),
        (words.POWER, cells.power(table)),
        ("Cost", cells.cost(table)),
    ):
        if rows:
            yield _fold(heading, tables.markdown(rows))
    yield _fold(words.PROTOCOL, _items(facts.protocol(table)))
    runs = [(result.name, run) for result in table.variants for run in result.runs]
    listing = [["run", "seed", "status", "value", "folder"]]
    for name, run in runs:
        value = "" if run.value is None else words.value(table.primary, run.value)
        listing.append([name, str(run.seed), run.status, value, run.folder])
    commands = "\n".join(dict.fromkeys(visible(run.command) for _, run in runs))
    yield _fold(words.RUNS, f"{tables.markdown(listing, 'lrlrl')}\n{fence(commands, 'sh')}")


def _fold(heading: str, content: str) -> str:
    """A part that is closed until it is asked for, where Markdown is shown; ``heading`` names nothing."""
    return f"<details><summary>{heading}</summary>\n\n{content}\n</details>\n"


def _items(lines: list[str]) -> str:
    return "".join(f"- {escape(line)}\n" for line in lines)
