"""A line for each run below some folders: its status, score and age, for a terminal."""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune.records.run import Run
from finetune.report import words
from finetune.system import lock
from finetune.system.sheet import Sheet

HEADS = ["status", "task", "model", "attention", "seed", "score", "age", "folder"]
LEAST = ("model", "task")  # which the folder names, too


def status(run: Run) -> str:
    """The status of a run; ``unfinished`` where by its record it runs, and no process holds its folder."""
    if run.status == "running" and not lock.held(run.folder / lock.FILE):
        return "unfinished"
    return run.status


def last_change(run: Run) -> datetime:
    """When a run ended, or began."""
    return datetime.fromisoformat(run.record["finished"] or run.record["started"]).astimezone(UTC)


def _rank(run: Run) -> tuple[Any, ...]:
    """Places a run among others of its task by its score, the best one first and those without one last."""
    value = run.metrics.get(run.metric.name)
    worst = math.inf if value is None else value * (-1 if run.metric.is_better(1.0) else 1)
    return run.title, run.metric.name, worst


SORTS: Mapping[str, Callable[[Sequence[Run]], list[Run]]] = {
    "newest": lambda runs: sorted(runs, key=last_change, reverse=True),
    "folder": lambda runs: sorted(runs, key=lambda run: run.folder),
    "score": lambda runs: sorted(runs, key=_rank),
}
"""The orders in which runs can be listed."""


def to_json(runs: Sequence[Run], now: datetime) -> list[dict[str, Any]]:
    """The runs as plain values, each with its status as it is now and its age in seconds."""
    return [
        {**run.to_dict(), "status": status(run), "age_s": (now - last_change(run)).total_seconds()}
        for run in runs
    ]


def text(runs: Sequence[Run], root: Path | None, now: datetime, width: float = math.inf) -> str:
    """A table with a line for each run, and how many there are of each status.

    ``root``: the folder that holds them all, below which theirs are shown.
    """
    rows = [HEADS]
    count: dict[str, int] = {}
    for run in runs:
        state = status(run)
        count[state] = count.get(state, 0) + 1
        task = f"{run.title} (SAMPLE)" if run.sample else run.title
        cells = [state, task, run.model, run.variant, str(run.seed), run.score_text or ""]
        place = run.folder if root is None else run.folder.relative_to(root)
        rows.append([*cells, age((now - last_change(run)).total_seconds()), str(place)])
    sheet = Sheet(width)
    total = words.plural(len(runs), "run") + (f" in {root}" if root else "")
    totals = ", ".join(f"{number} {state}" for state, number in count.items())
    shown = [sheet.table(rows, "llllrlrl", least=LEAST), sheet.prose(f"{total}: {totals}")]
    return "\n".join(filter(None, [*shown, sheet.note("--json has them all")]))


def age(seconds: float) -> str:
    """``now``, ``5 min``, ``3 h``, ``12 days``.

    >>> [age(seconds) for seconds in (3, 400, 40_000, 1_000_000)]
    ['now', '6 min', '11 h', '11 days']
    """
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds // unit:.0f} {name}"
    return "now" if seconds < 60 else "1 min"
