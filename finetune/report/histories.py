"""What lies beside a comparison's runs: their records, learning curves and diagnostics."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from finetune.comparison.tables import RunLine, Table
from finetune.errors import UserError
from finetune.metrics.scorers import SCALE
from finetune.records import diagnostics, store
from finetune.records.diagnostics import Diagnostics
from finetune.records.store import Record

Curve = dict[int, float]  # step -> value


@dataclass(frozen=True)
class History:
    """A run of a table, with what its folder holds."""

    arm: str
    seed: int
    folder: Path
    record: Record
    diagnostics: Diagnostics | None

    def curve(self, key: str) -> Curve:
        """One quantity of Trainer's log by step; the last where a step was logged twice."""
        found: Curve = {}
        for entry in self.record["curve"]:
            step, value = entry.get("step"), entry.get(key)
            if is_plottable(step) and is_plottable(value):
                found[int(step)] = float(value)
        return dict(sorted(found.items()))


def collect(table: Table, roots: Sequence[Path] = ()) -> tuple[list[History], list[str]]:
    """What can be read of the runs of ``table``, and one line about each that cannot.

    A run that is not where the comparison found it is looked for below ``roots``, by the end of its path.
    """
    found, problems = [], []
    for arm in table.arms:
        for run in arm.runs:
            try:
                folder, entry = _find(run, table.metric, roots)
                found.append(History(arm.name, run.seed, folder, entry, None))
                found[-1] = History(arm.name, run.seed, folder, entry, _diagnostics(folder, entry))
            except UserError as error:
                problems.append(str(error))
    return found, problems


def _find(run: RunLine, metric: str, roots: Sequence[Path]) -> tuple[Path, Record]:
    """The folder and record of a run: where it was, or the longest end of its path below a root."""
    parts = Path(run.folder).parts
    places = [Path(run.folder), *(root.joinpath(*parts[i:]) for i in range(len(parts)) for root in roots)]
    for place in places:
        if (place / store.FILE).is_file():
            entry = store.read(place)
            if _same(run, entry, metric):
                return place, entry
    raise UserError(f"nothing to plot of {run.folder}: its record is not there any more, or is another run's")


def _same(run: RunLine, entry: Record, metric: str) -> bool:
    """Whether a record is the one that was compared; a run that was made again has another value."""
    value = ((entry["metrics"] or {}).get(metric) or {}).get("value")
    known = None if value is None or run.value is None else value * SCALE.get(metric, 1.0)
    return (entry["config"]["seed"], entry["status"], known) == (run.seed, run.status, run.value)


def _diagnostics(folder: Path, entry: Record) -> Diagnostics | None:
    if entry["diagnostics"] is None:
        return None
    # Beside the record, wherever the name points to.
    return diagnostics.read(folder / Path(entry["diagnostics"]).name)


def is_plottable(value: object) -> TypeGuard[float]:
    """A number, and none that is beyond everything, as of a training that went astray or a damaged file."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12


def mean_curve(curves: Sequence[Mapping[int, float]]) -> Curve:
    """The mean at each step that all ``curves`` have."""
    steps = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    return {step: math.fsum(curve[step] for curve in curves) / len(curves) for step in sorted(steps)}
