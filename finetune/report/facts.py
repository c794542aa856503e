"""Where a table's numbers come from, what is missing, and what may explain a difference; one line each."""

from typing import Any

from finetune.comparison.caveats import NoteKind
from finetune.comparison.compare import Comparison
from finetune.comparison.tables import ResultTable, VariantResult
from finetune.metrics import registry
from finetune.report import words


def protocol(table: ResultTable) -> list[str]:
    """Data, metric, attention, statistics and hardware of a table."""
    data: dict[str, Any] = table.data or {}
    facts = (
        [f"data: {data.get('kind')}, {data.get('location')}, revision {data.get('revision') or 'none'}"]
        if data
        else []
    )
    for name, split in data.get("splits", {}).items():
        facts.append(f"{name}: {split.get('rows'):,} rows, fingerprint {split.get('fingerprint')}")
    facts += [f"signature: {table.signature}"] if table.signature else []
    if table.generation:
        facts.append(f"generation: {words.listed(table.generation)}")
    facts += [f"{arm.name}: {_attention(arm.attention)}" for arm in table.variants if arm.attention]
    facts += [line for arm in table.variants for line in _tests(arm)]
    return facts + [f"ran on: {place}" for place in table.ran_on]


def lists(table: ResultTable) -> list[tuple[str, list[str]]]:
    """Headed lists of what is missing, what may not be compared, and what may explain a difference."""
    named = [
        ("Missing", table.missing),
        ("Not compared", table.refused),
        ("Notes", [note.text for note in table.notes]),
    ]
    return [(heading, items) for heading, items in named if items]


def cost_notes(table: ResultTable) -> list[str]:
    """Those notes that say why times and memory may not be held against each other."""
    about_cost = (NoteKind.KERNELS, NoteKind.PRECISION)
    return [note.text for note in table.notes if note.kind in about_cost]


def unlearned(table: ResultTable) -> list[str]:
    """Those notes that name runs which failed to learn: means over those and others are of neither."""
    return [note.text for note in table.notes if note.kind is NoteKind.UNLEARNED]


def over_tasks(comparison: Comparison) -> list[str]:
    """Of each model and metric, the tasks whose interquartile means are told."""
    groups: dict[tuple[str, bool, str], dict[str, str]] = {}
    for each in comparison.overall:
        arms = groups.setdefault((each.model, each.sample, each.metric), {})
        arms[each.variant] = "; ".join(each.tasks)
    return [
        _tasks(f"{model}{' · SAMPLE' if sample else ''}, {registry.get(metric).label}", arms)
        for (model, sample, metric), arms in groups.items()
    ]


def _tasks(what: str, arms: dict[str, str]) -> str:
    common, *others = dict.fromkeys(arms.values())  # the baseline has every task that another arm has
    own = [f" ({name}: {tasks})" for name, tasks in arms.items() if tasks in others]
    return f"Tasks of {what}: {common}{''.join(own)}."


def _attention(report: dict[str, Any]) -> str:
    layers = ", ".join(f"{count} {kind}" for kind, count in report.get("layers", {}).items())
    swapped = f"{layers} of {report.get('total')} attention calls, kernel {report.get('kernel')}"
    parameters = ", ".join(f"{key} {value:g}" for key, value in report.get("parameters", {}).items())
    return ", ".join(part for part in (swapped, f"dropout {report.get('dropout')}", parameters) if part)


def _tests(arm: VariantResult) -> list[str]:
    """What each p comes from."""
    found = arm.difference
    if found is None:
        return []
    lines = [f"{arm.name}, p from: {found.test}"]
    if found.test_rows and found.test_rows != found.test:
        lines.append(f"{arm.name}, p of the rows alone from: {found.test_rows}")
    return lines
