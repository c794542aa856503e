"""Predictions of runs, read once, scored row by row, and held against the values in the records."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.comparison.pairing import Run
from finetune.errors import UserError
from finetune.metrics.scorers import bleu_scorer, tokenizer_of
from finetune.records.store import read_predictions
from finetune.statistics import bleu
from finetune.statistics.over_rows import RowResult, compare_accuracy

TOKENIZERS = ("13a", "intl", "none", "char", "zh", "ja-mecab", "ko-mecab")  # sacrebleu fetches the others


class Predictions:
    """Reads each run's predictions once, and checks that they give the value in its record."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[list[Any], Any]] = {}

    def pair(self, baseline: Sequence[Run], variant: Sequence[Run]) -> RowResult:
        """Compare over rows, one run a seed on each side; raise ``UserError`` where they do not match."""
        first, second = [self._of(run) for run in baseline], [self._of(run) for run in variant]
        wanted = first[0][0]
        for run, (rows, _) in zip([*baseline, *variant], [*first, *second], strict=True):
            if rows != wanted:
                raise UserError(
                    f"the predictions in {run.folder} are of other rows than {baseline[0].folder}"
                )
        scored_first, scored_second = [s for _, s in first], [s for _, s in second]
        if baseline[0].record["task"]["kind"] == "classification":
            return compare_accuracy(np.stack(scored_first), np.stack(scored_second))
        return bleu.compare_bleu(scored_first, scored_second)

    def _of(self, run: Run) -> tuple[list[Any], Any]:
        if run.folder not in self._known:
            self._known[run.folder] = _scored(run)
        return self._known[run.folder]


def _scored(run: Run) -> tuple[list[Any], Any]:
    """The rows of a run in order of their identity, and what is right about each.

    Rows come with label or reference, so that other data under the same numbers is noticed.
    """
    rows = sorted(read_predictions(run.folder), key=lambda row: row["row"])
    truth = "label" if run.record["task"]["kind"] == "classification" else "reference"
    if not rows or any(truth not in row for row in rows):
        raise UserError(f"the predictions in {run.folder} are empty or lack '{truth}'")
    identity = [(row["row"], row[truth]) for row in rows]
    if len({row for row, _ in identity}) < len(identity):
        raise UserError(f"the predictions in {run.folder} hold a row twice")
    if truth == "label":
        scored: Any = np.array([row["prediction"] == row["label"] for row in rows])
        value = float(scored.mean())
    else:
        texts = [row["prediction"] for row in rows], [row["reference"] for row in rows]
        if not all(isinstance(text, str) for side in texts for text in side):
            raise UserError(f"the predictions in {run.folder} are no texts")
        scored = bleu.counts(_scorer(run), *texts)
        value = float(bleu.bleu(scored.sum(axis=0)))
    if abs(value - run.value) > 1e-6 * max(1.0, abs(value)):
        raise UserError(f"the predictions in {run.folder} give {value:.6g}, its record says {run.value:.6g}")
    return identity, scored


def _scorer(run: Run) -> Any:
    signature = (run.record["metrics"] or {})["bleu"].get("signature") or ""
    try:
        tokenizer = tokenizer_of(signature)
        if tokenizer not in TOKENIZERS:
            raise KeyError(tokenizer)
        return bleu_scorer(tokenizer)
    except (KeyError, RuntimeError) as error:  # a foreign signature; a tokenizer that is not installed
        raise UserError(f"cannot score again as '{signature}': {error}") from error
