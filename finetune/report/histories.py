"""What lies beside a comparison's runs: their records, learning curves and diagnostics."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.comparison.tables import ResultTable, RunLine
from finetune.errors import UserError
from finetune.records import store
from finetune.records.diagnostics import Diagnostics
from finetune.records.run import Run

Curve = dict[int, float]  # step -> value


@dataclass(frozen=True)
class History:
    """A run of a table, with what its folder holds."""

    run: Run
    diagnostics: Diagnostics | None

    @property
    def variant(self) -> str:
        return self.run.variant

    def curve(self, key: str) -> Curve:
        """One quantity of Trainer's log by step, in reported units."""
        return self.run.curve(key)


def collect(table: ResultTable, roots: Sequence[Path] = ()) -> tuple[list[History], list[str]]:
    """Reads what there is of the runs of ``table``; also one line about each run that cannot be read.

    A run that is not where the comparison found it is looked for below ``roots``, by the end of its path.
    """
    histories, problems = [], []
    for line in (line for result in table.variants for line in result.runs):
        try:
            run = _find(line, table.metric, roots)
            histories.append(History(run, None))
            histories[-1] = History(run, run.diagnostics())  # a run keeps its curve where these are damaged
        except UserError as error:
            problems.append(str(error))
    return histories, problems


def _find(line: RunLine, metric: str, roots: Sequence[Path]) -> Run:
    """Finds the run of a line: where it was, or the longest end of its path below a root."""
    parts = Path(line.folder).parts
    places = [Path(line.folder), *(root.joinpath(*parts[i:]) for i in range(len(parts)) for root in roots)]
    for place in places:
        if (place / store.FILE).is_file():
            run = Run.checked(place, store.read(place))
            # A run that was made again has another value, and is not the one that was compared.
            value = None if line.value is None else run.metrics.get(metric)
            if (run.seed, run.status, value) == (line.seed, line.status, line.value):
                return run
    raise UserError(
        f"nothing to plot of {line.folder}: its record is not there any more, or is another run's"
    )


def mean_curve(curves: Sequence[Mapping[int, float]]) -> Curve:
    """Averages ``curves`` at each step that all of them have."""
    steps = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    return {step: math.fsum(curve[step] for curve in curves) / len(curves) for step in sorted(steps)}
