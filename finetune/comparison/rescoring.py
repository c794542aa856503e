"""Scores the predictions of runs row by row, and checks that they give the values in the records."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.records.run import Run
from finetune.statistics.over_rows import RowResult


class Predictions:
    """Reads each run's predictions once, and checks that they give the value in its record."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[list[Any], Any]] = {}

    def pair(self, baseline: Sequence[Run], variant: Sequence[Run]) -> RowResult:
        """Compares over rows, one run a seed on each side, in reported units.

        Raises ``UserError`` where the rows do not match.
        """
        first, second = [self._scored(run) for run in baseline], [self._scored(run) for run in variant]
        wanted = first[0][0]
        for run, (rows, _) in zip([*baseline, *variant], [*first, *second], strict=True):
            if rows != wanted:
                raise UserError(
                    f"the predictions in {run.folder} are of other rows than {baseline[0].folder}"
                )
        metric = baseline[0].metric
        result = metric.row_scorer().compare([s for _, s in first], [s for _, s in second])
        return result.scaled(metric.scale)

    def _scored(self, run: Run) -> tuple[list[Any], Any]:
        """The rows of a run in order of their identity, and the score of each.

        Rows come with the right answer, so that other data under the same numbers is noticed.
        """
        if run.folder in self._known:
            return self._known[run.folder]
        metric = run.metric
        rows = sorted(run.predictions(), key=lambda row: row["row"])
        if not rows or any(metric.truth not in row for row in rows):
            raise UserError(f"the predictions in {run.folder} are empty or lack '{metric.truth}'")
        identity = [(row["row"], row[metric.truth]) for row in rows]
        if len({row for row, _ in identity}) < len(identity):
            raise UserError(f"the predictions in {run.folder} hold a row twice")
        scorer = metric.row_scorer()
        try:
            scores = scorer.score(rows, run.signature or "")
        except ValueError as error:
            raise UserError(f"the predictions in {run.folder} {error}") from error
        value = metric.reported(scorer.value(scores))
        # A value below 1 in recorded units is held to an absolute precision, as rounding is.
        if abs(value - run.value) > 1e-6 * max(metric.scale, abs(value)):
            raise UserError(
                f"the predictions in {run.folder} give {value:.6g}, its record says {run.value:.6g}"
            )
        self._known[run.folder] = (identity, scores)
        return identity, scores
