"""Metrics of one context length, such as ``perplexity@1024``: which a group of runs has, and which is tested.

A variant compared at five lengths is five comparisons. So one length is tested beside the primary metric, in
one family with it, and the others are described: the longest beyond the training length that every finished
run has. No score decides which. The configuration does, and what a run could not be scored at: one that ran
out of memory at a length has a shorter one tested, which its note names.
"""

import math

from finetune.comparison.pairing import RunGroup
from finetune.metrics import registry
from finetune.records.run import is_number


def names(group: RunGroup) -> list[str]:
    """Lists the metrics of one length that any finished run has, by length."""
    known = {name for run in group.runs if run.finished for name in run.metrics if registry.length_of(name)}
    return sorted(known, key=lambda name: registry.length_of(name) or 0)


def trained(group: RunGroup) -> int | None:
    """Looks up the length of the windows that the runs were trained on; ``None`` where none was scored."""
    length = group.first.config["data"].get("max_length")
    return int(length) if names(group) and is_number(length) else None


def tested(group: RunGroup) -> str | None:
    """Chooses the metric of one length that is tested; ``None`` where no length is beyond the training's."""
    finished = [run for run in group.runs if run.finished]
    beyond = [
        name
        for name in names(group)
        if (registry.length_of(name) or 0) > (trained(group) or 0)
        and all(name in run.metrics for run in finished)
    ]
    return beyond[-1] if beyond else None


def unscored(group: RunGroup) -> list[str]:
    """Lists the lengths that a finished run could not be scored at, why, and what is tested instead."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for run in group.runs:
        for name, score in run.scores.items() if run.finished else ():
            if registry.length_of(name) and score.get("value") is None:
                why = str(score.get("missing") or "no reason is recorded")
                reasons.setdefault((name, why), []).append(f"{run.variant}, seed {run.seed}")
    chosen, lines = tested(group), []
    least = (registry.length_of(chosen) if chosen else trained(group)) or math.inf
    for (name, why), runs in reasons.items():
        text = f"{registry.get(name).title} was not scored: {why} ({'; '.join(runs)})"
        if (registry.length_of(name) or 0) > least:  # it would have been tested, or a longer one
            instead = registry.get(chosen).title if chosen else "no length beyond that of training"
            text += f"; {instead} is tested instead"
        lines.append(text)
    return lines
