"""A comparison as ``report.md``; whatever a user named is escaped."""

from finetune.comparison.compare import Comparison
from finetune.comparison.interactions import sentence as interaction_sentence
from finetune.data.synthetic import STAMP
from finetune.report import cells, facts, lengths, words
from finetune.report.answer import answer, state
from finetune.system import tables
from finetune.system.tables import escape, fence
from finetune.system.text import visible


def markdown(comparison: Comparison) -> str:
    """Writes the whole file."""
    parts = [f"# {words.HEADING}\n", _items(answer(comparison)), f"{state(comparison)}\n"]
    for table in comparison.tables:
        parts.append(f"## {escape(words.title(table))}\n")
        parts += [f"**{STAMP}**\n"] if table.sample else []
        parts += [f"{escape(table.sentence)}\n", tables.markdown(cells.scores(table))]
        for heading, rows in (
            ("Before training", cells.starts(table)),
            (words.POWER, cells.power(table)),
            ("Cost", cells.cost(table)),
        ):
            parts += [f"{heading}:\n\n{tables.markdown(rows)}"] if rows else []
        parts.append(_items(facts.protocol(table)))
        parts += [f"{heading}:\n\n{_items(items)}" for heading, items in facts.lists(table)]
        runs = [(result.name, run) for result in table.variants for run in result.runs]
        listing = [["run", "seed", "status", "value", "folder"]]
        for name, run in runs:
            value = "" if run.value is None else words.value(table.primary, run.value)
            listing.append([name, str(run.seed), run.status, value, run.folder])
        commands = "\n".join(dict.fromkeys(visible(run.command) for _, run in runs))
        parts += [tables.markdown(listing, "lrlrl"), fence(commands, "sh")]
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
    if comparison.problems:
        parts.append("## Records that could not be used\n\n" + _items(comparison.problems))
    return "\n".join([*parts, "## How to read this\n", words.method(comparison.tables)])


def _items(lines: list[str]) -> str:
    return "".join(f"- {escape(line)}\n" for line in lines)
