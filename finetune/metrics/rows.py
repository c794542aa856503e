"""Row scorers of the primary metrics: the score of each test row, and paired comparisons over rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.metrics.scorers import bleu_scorer, tokenizer_of
from finetune.statistics import bleu
from finetune.statistics.over_rows import RowResult, compare_accuracy

Rows = Sequence[Mapping[str, Any]]

# sacrebleu fetches the models of all other tokenizers.
TOKENIZERS = ("13a", "intl", "none", "char", "zh", "ja-mecab", "ko-mecab")


@dataclass(frozen=True)
class RowScorer:
    """A metric's statistics over test rows, all in recorded units.

    ``score`` takes the rows of predictions.jsonl and the signature of the recorded value, and gives an array
    with one entry a row; it raises ``ValueError`` with what is wrong, to follow "the predictions in FOLDER".
    ``value`` turns those scores into the value of the whole set, ``compare`` two lists of them, one a seed,
    into a paired comparison.
    """

    score: Callable[[Rows, str], Any]
    value: Callable[[Any], float]
    compare: Callable[[Sequence[Any], Sequence[Any]], RowResult]


def _bleu_counts(rows: Rows, signature: str) -> Any:
    texts = [row["prediction"] for row in rows], [row["reference"] for row in rows]
    if not all(isinstance(text, str) for side in texts for text in side):
        raise ValueError("are no texts")
    try:
        tokenizer = tokenizer_of(signature)
        if tokenizer not in TOKENIZERS:
            raise KeyError(tokenizer)
        scorer = bleu_scorer(tokenizer)
    except (KeyError, RuntimeError) as error:  # a foreign signature; a tokenizer that is not installed
        raise ValueError(f"cannot be scored again as '{signature}': {error}") from error
    return bleu.counts(scorer, *texts)


ACCURACY = RowScorer(
    score=lambda rows, signature: np.array([row["prediction"] == row["label"] for row in rows]),
    value=lambda scores: float(scores.mean()),
    compare=lambda baseline, variant: compare_accuracy(np.stack(baseline), np.stack(variant)),
)
BLEU = RowScorer(
    score=_bleu_counts,
    value=lambda counts: float(bleu.bleu(counts.sum(axis=0))),
    compare=bleu.compare_bleu,
)
