"""Tables of what is declared: variants, encodings, tasks, presets, studies."""

from docs.generate.markdown import code, table, text
from finetune.attention import VARIANTS
from finetune.metrics.registry import METRICS
from finetune.positions import POSITIONS
from finetune.tasks import TASKS


def variants(control: bool) -> str:
    """Tabulates the variants of the paper, or the controls."""
    rows = [
        [
            code(name),
            code(each.equation),
            text(each.summary),
            ", ".join(code(f"{key} = {value:g}") for key, value in each.parameters.items()) or "none",
            text(each.paper),
        ]
        for name, each in VARIANTS.items()
        if each.control == control
    ]
    return table(["variant", "attention weights", "in words", "parameters", "source"], rows)


def positions() -> str:
    """Tabulates the positional encodings."""
    rows = [
        [
            code(name),
            code(each.equation) if each.equation else "",
            text(each.summary),
            ", ".join(code(f"{key} = {value:g}") for key, value in each.parameters.items()) or "none",
            text(each.paper),
        ]
        for name, each in POSITIONS.items()
    ]
    return table(["encoding", "bias", "in words", "constants", "source"], rows)


def tasks() -> str:
    """Tabulates every task of ``tasks/``."""
    rows = []
    for name, task in sorted(TASKS.items()):
        hub = code(task.hub_id) if task.hub_id else "local files only"
        rows.append([code(name), text(task.title), text(task.shape), hub])
    return table(["task", "data set", "what is predicted", "on the Hub"], rows)


def metrics() -> str:
    """Tabulates every declared metric."""
    scales = {each.interaction_scale: f"interactions of {each.name}" for each in METRICS.values()}
    rows = [
        [
            code(name),
            text(each.label),
            "higher" if each.higher_is_better else "lower",
            each.primary_of or scales.get(name, "none: described only"),
        ]
        for name, each in METRICS.items()
    ]
    return table(["metric", "in reports", "better", "tested in comparisons of"], rows)
