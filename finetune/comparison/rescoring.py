"""Scores the predictions of runs row by row, and checks that they give the values in the records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.metrics import registry
from finetune.metrics.registry import Metric
from finetune.records.run import Run
from finetune.statistics.over_rows import RowResult


@dataclass(frozen=True)
class Scored:
    """The test rows of a run, in order of their identity."""

    rows: list[Any]  # with the right answer, so that other data under the same numbers is noticed
    scores: Any  # as the metric's ``RowScorer`` has them, and so are
    outputs: Any


class Predictions:
    """Reads each run's predictions once, and checks that they give the value in its record."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, str], Scored] = {}

    def pair(self, baseline: Sequence[Run], variant: Sequence[Run], metric: Metric) -> RowResult:
        """Compares over rows, one run a seed on each side, in reported units.

        Raises ``UserError`` where the rows do not match.
        """
        compared = self._compared(metric.row_scorer().compare, (baseline, variant), metric)
        return compared.scaled(metric.scale)

    def interact(
        self,
        reference: tuple[Sequence[Run], Sequence[Run]],
        other: tuple[Sequence[Run], Sequence[Run]],
        metric: Metric,
    ) -> RowResult:
        """Compares two differences over rows: that of the ``other`` two variants minus the ``reference``'s.

        Each is a baseline and a variant, one run a seed; the result is in reported units of the metric's
        ``interaction_scale``. Raises ``UserError`` as ``pair`` does.
        """
        scorer = metric.row_scorer()
        if metric.interaction_scale is None or scorer.interact is None:
            raise UserError(f"no interaction of {metric.title} is tested over rows")
        compared = self._compared(scorer.interact, (*reference, *other), metric)
        return compared.scaled(registry.get(metric.interaction_scale).scale)

    def _compared(
        self, compare: Callable[..., RowResult], sides: Sequence[Sequence[Run]], metric: Metric
    ) -> RowResult:
        found = self.scored(sides, metric)
        try:
            return compare(*([each.scores for each in side] for side in found))
        except ValueError as error:
            raise UserError(f"the predictions in {sides[0][0].folder} {error}") from error

    def scored(self, sides: Sequence[Sequence[Run]], metric: Metric) -> list[list[Scored]]:
        """The test rows of runs, side by side; raises ``UserError`` where they are not the same ones."""
        scored = [[self._scored(run, metric) for run in side] for side in sides]
        wanted, first = scored[0][0].rows, sides[0][0]
        for side, results in zip(sides, scored, strict=True):
            for run, result in zip(side, results, strict=True):
                if result.rows != wanted:
                    raise UserError(f"the predictions in {run.folder} are of other rows than {first.folder}")
        return scored

    def _scored(self, run: Run, metric: Metric) -> Scored:
        if known := self._known.get((run.folder, metric.name)):
            return known
        rows = predicted(run, metric)
        identity = [(row["row"], row[metric.truth]) for row in rows]
        scorer = metric.row_scorer()
        try:
            scores = scorer.score(rows, run.scores[metric.name].get("signature") or "")
        except ValueError as error:
            raise UserError(f"the predictions in {run.folder} {error}") from error
        value = metric.reported(scorer.value(scores))
        # A value below 1 in recorded units is held to an absolute precision, as rounding is.
        recorded = run.metrics[metric.name]
        if abs(value - recorded) > 1e-6 * max(metric.scale, abs(value)):
            raise UserError(
                f"the predictions in {run.folder} give {value:.6g}, its record says {recorded:.6g}"
            )
        outputs = scorer.outputs(rows) if metric.moved and scorer.outputs else None
        found = self._known[run.folder, metric.name] = Scored(identity, scores, outputs)
        return found


def predicted(run: Run, metric: Metric) -> list[dict[str, Any]]:
    """The rows of a run's predictions in order of their ids; raises ``UserError`` for none, for one without
    the right answer, and for one that is there twice."""
    rows = sorted(run.predictions(), key=lambda row: row["row"])
    if not rows or any(metric.truth not in row for row in rows):
        raise UserError(f"the predictions in {run.folder} are empty or lack '{metric.truth}'")
    if len({row["row"] for row in rows}) < len(rows):
        raise UserError(f"the predictions in {run.folder} hold a row twice")
    return rows
