"""Numbers of single test rows beside their score: probabilities of classes, BLEU and chrF of a sentence."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.comparison.rescoring import Scored
from finetune.errors import UserError
from finetune.metrics.scorers import chrf_scorer
from finetune.records.run import Run


def probabilities(run: Run, rows: Sequence[int]) -> Any:
    """Log probabilities (rows, classes) of these rows; ``None`` where none are kept. Raises ``UserError``."""
    found = run.probabilities()
    if found is None:
        return None
    ids, logs = found
    places = {row: place for place, row in enumerate(ids.tolist())}
    if set(places) != set(rows):
        raise UserError(f"the probabilities in {run.folder} are of other rows than its predictions")
    return logs[[places[row] for row in rows]]


def sentences(scored: Scored, truth: Sequence[str]) -> dict[str, list[float]]:
    """sacrebleu's BLEU and chrF of each sentence, 0 to 100."""
    counts = np.array(scored.scores, dtype=float)
    chrf = chrf_scorer()
    likeness = [
        chrf.sentence_score(text, [right]).score for text, right in zip(scored.outputs, truth, strict=True)
    ]
    return {"bleu": sentence_bleu(counts).round(2).tolist(), "chrf": np.round(likeness, 2).tolist()}


def sentence_bleu(counts: Any) -> Any:
    """BLEU of each of (rows, 10) counts by itself, 0 to 100: sacrebleu's ``sentence_bleu``.

    Over the orders that a sentence is long enough for (its ``effective_order``), smoothed as the corpus is.
    """
    table = np.array(counts, dtype=float)
    values = np.zeros(len(table))
    orders = (table[:, 6:] > 0).sum(axis=1)
    for order in range(1, 5):
        some = table[orders == order]
        matched, total = some[:, 2 : 2 + order], some[:, 6 : 6 + order]
        smoothed = np.where(matched == 0, 0.5 ** (matched == 0).cumsum(axis=1), matched)
        brevity = np.minimum(1.0, np.exp(1 - some[:, 1] / np.maximum(some[:, 0], 1.0)))
        found = 100 * brevity * np.exp(np.log(smoothed / total).mean(axis=1))
        values[orders == order] = np.where(matched.any(axis=1), found, 0.0)
    return values
