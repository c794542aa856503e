"""Where a table's numbers come from, what is missing, and what may explain a difference; one line each."""

from typing import Any

from finetune.comparison.caveats import NoteKind
from finetune.comparison.churn import sentence
from finetune.comparison.compare import Comparison
from finetune.comparison.tables import ResultTable
from finetune.metrics import registry
from finetune.report import words
from finetune.statistics.sequential import looks_of

BELOW = "Below the mean"


def protocol(table: ResultTable) -> list[str]:
    """Lists data, metric, attention, statistics and hardware of a table."""
    data: dict[str, Any] = table.data or {}
    facts = []
    if data:
        revision = data.get("revision") or "none"
        facts.append(f"data: {data.get('kind')}, {data.get('location')}, revision {revision}")
    for name, split in data.get("splits", {}).items():
        facts.append(f"{name}: {split.get('rows'):,} rows, fingerprint {split.get('fingerprint')}")
    facts += [f"signature: {table.signature}"] if table.signature else []
    if table.generation:
        facts.append(f"generation: {words.listed(table.generation)}")
    for result in table.variants:
        if attention := result.attention:
            layers = ", ".join(f"{count} {kind}" for kind, count in attention.get("layers", {}).items())
            swapped = (
                f"{layers} of {attention.get('total')} attention calls, kernel {attention.get('kernel')}"
            )
            facts.append(f"{result.name}: {swapped}, dropout {attention.get('dropout')}")
            for key, value in attention.get("parameters", {}).items():
                facts[-1] += f", {key} {value:g}"
    for result in table.variants:
        if difference := result.difference:
            facts.append(f"{result.name}, p from: {difference.test}")
            if difference.test_rows and difference.test_rows != difference.test:
                facts.append(f"{result.name}, p of the rows alone from: {difference.test_rows}")
    if plan := table.until:
        looks = ", ".join(str(seeds) for seeds in looks_of(plan).seeds)
        facts.append(
            f"seeds were added by a plan until differences were known within {plan['margin']:g}: looks after "
            f"{looks} seeds; intervals and p are adjusted for them"
        )
        facts += [
            f"{result.name}: {len(result.difference.seeds)} seeds, level {result.difference.level:.2g}"
            for result in table.variants
            if result.difference
        ]
    return facts + [f"ran on: {place}" for place in table.ran_on]


def lists(table: ResultTable) -> list[tuple[str, list[str]]]:
    """Groups under headings what a swap changes, what is missing and not compared, and notes."""
    named = [
        (BELOW, below(table)),
        ("Missing", table.missing),
        ("Not compared", table.refused),
        ("Notes", [note.text for note in table.notes]),
    ]
    return [(heading, items) for heading, items in named if items]


def below(table: ResultTable) -> list[str]:
    """Says what each variant changes of the answers behind a score, and what another seed does."""
    found = [(result, result.churn) for result in table.variants if result.churn]
    return [f"{words.variant_name(result)}: {sentence(each, table.primary)}" for result, each in found]


def cost_notes(table: ResultTable) -> list[str]:
    """Picks the notes on why times and memory are not comparable."""
    about_cost = (NoteKind.KERNELS, NoteKind.PRECISION)
    return [note.text for note in table.notes if note.kind in about_cost]


def unlearned(table: ResultTable) -> list[str]:
    """Picks the notes on runs that did not learn: means over those and others describe neither."""
    return [note.text for note in table.notes if note.kind is NoteKind.UNLEARNED]


def over_tasks(comparison: Comparison) -> list[str]:
    """Lists the tasks behind the interquartile means of each model and metric."""
    groups: dict[tuple[str, bool, str], dict[str, str]] = {}
    for each in comparison.overall:
        tasks_of = groups.setdefault((each.model, each.sample, each.metric), {})
        tasks_of[each.variant] = "; ".join(each.tasks)
    lines = []
    for (model, sample, metric), tasks_of in groups.items():
        common, *others = dict.fromkeys(tasks_of.values())  # the baseline has every task that a variant has
        own = [f" ({name}: {tasks})" for name, tasks in tasks_of.items() if tasks in others]
        stamp = " · SAMPLE" if sample else ""
        lines.append(f"Tasks of {model}{stamp}, {registry.get(metric).label}: {common}{''.join(own)}.")
    return lines
