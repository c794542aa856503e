"""Row scorers of the primary metrics: the score of each test row, and paired comparisons over rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.metrics.scorers import bleu_scorer, tokenizer_of
from finetune.statistics import bleu
from finetune.statistics.over_rows import Floats, RowResult, compare_accuracy
from finetune.statistics.over_sums import Value, compare_sums

Rows = Sequence[Mapping[str, Any]]

MOST_NATS = 700.0  # a token of a document; exp of more is no number
# sacrebleu fetches the models of all other tokenizers.
TOKENIZERS = ("13a", "intl", "none", "char", "zh", "ja-mecab", "ko-mecab")


@dataclass(frozen=True)
class RowScorer:
    """A metric's statistics over test rows, all in recorded units.

    ``score`` takes the rows of predictions.jsonl and the signature of the recorded value, and gives an array
    with one entry a row; it raises ``ValueError`` with what is wrong, to follow "the predictions in FOLDER".
    ``value`` turns those scores into the value of the whole set, ``compare`` two lists of them, one a seed,
    into a paired comparison. ``interact`` compares two differences: it takes a baseline and a variant, then
    another baseline and variant, and tests the second difference minus the first, in recorded units of the
    metric's ``interaction_scale``; ``None`` where it has none. ``outputs`` takes the rows too and gives what
    the run answered, an array with one entry a row, and ``distance`` how far two of them are apart
    (``Metric.moved``); ``None`` where that says nothing.
    """

    score: Callable[[Rows, str], Any]
    value: Callable[[Any], float]
    compare: Callable[[Sequence[Any], Sequence[Any]], RowResult]
    interact: Callable[[Sequence[Any], Sequence[Any], Sequence[Any], Sequence[Any]], RowResult] | None = None
    outputs: Callable[[Rows], Any] | None = None
    distance: Callable[[Any, Any], Floats] | None = None


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


def _nats_and_tokens(rows: Rows, signature: str) -> Any:
    """Sums by document, (documents, 2): of ``perplexity@LENGTH`` those at that length, or 0."""
    length = signature.partition("|")[0].partition("@")[2]
    try:
        if length:
            sums = [row["by_length"].get(length, (0.0, 0)) for row in rows]
        else:
            sums = [(row["nats"], row["tokens"]) for row in rows]
        table = np.array(sums, dtype=float)
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError("hold no sums of nats and tokens by document") from error
    fits = table.shape == (len(rows), 2) and np.isfinite(table).all() and table.min() >= 0
    if not fits or not table[:, 1].any() or (table[:, 0] > MOST_NATS * table[:, 1]).any():
        raise ValueError("hold no sums of nats and tokens by document")
    return table


def _ratio_of_sums(value: Value, interaction: Value) -> RowScorer:
    """The scorer of a ``value`` of summed nats and tokens; its interactions are of ``interaction``."""

    def compare(baseline: Sequence[Floats], variant: Sequence[Floats]) -> RowResult:
        tokens = _tokens([*baseline, *variant])
        kept = tokens > 0
        first, second = ([run[kept] for run in side] for side in (baseline, variant))
        return compare_sums(value, first, second, tokens[kept])

    def interact(*sides: Sequence[Floats]) -> RowResult:
        tokens = _tokens([run for side in sides for run in side])
        kept = tokens > 0
        first, second = (
            [np.hstack([two, one])[kept] for one, two in zip(baseline, variant, strict=True)]
            for baseline, variant in (sides[:2], sides[2:])
        )
        return compare_sums(difference, first, second, tokens[kept])

    def difference(sums: Floats) -> Floats:
        """Variant minus baseline on the scale of interactions, of the sums of both: (..., 4) -> (...)."""
        return interaction(sums[..., :2]) - interaction(sums[..., 2:])

    return RowScorer(
        _nats_and_tokens,
        lambda sums: float(value(sums.sum(axis=0))),
        compare,
        interact,
        outputs=lambda rows: np.array([row["nats"] / max(1, row["tokens"]) for row in rows]),
        distance=lambda one, two: np.abs(one - two),
    )


def _tokens(runs: Sequence[Floats]) -> Floats:
    """The tokens of each document, the same in all runs."""
    tokens = runs[0][:, 1]
    if any((run[:, 1] != tokens).any() for run in runs):
        raise ValueError("are not of the same tokens as those of the runs that they are compared with")
    return tokens


def mean_nats(sums: Floats) -> Floats:
    """Nats a token of summed nats and tokens: (..., 2) -> (...)."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def perplexity(sums: Floats) -> Floats:
    """exp of the mean nats a token of summed nats and tokens: (..., 2) -> (...)."""
    return np.asarray(np.exp(mean_nats(sums)))


ACCURACY = RowScorer(
    score=lambda rows, signature: np.array([row["prediction"] == row["label"] for row in rows]),
    value=lambda scores: float(scores.mean()),
    compare=lambda baseline, variant: compare_accuracy(np.stack(baseline), np.stack(variant)),
    outputs=lambda rows: np.fromiter((row["prediction"] for row in rows), dtype=object),
    distance=lambda one, two: (one != two).astype(float),
)
BLEU = RowScorer(
    score=_bleu_counts,
    value=lambda counts: float(bleu.bleu(counts.sum(axis=0))),
    compare=bleu.compare_bleu,
    outputs=lambda rows: np.fromiter((row["prediction"] for row in rows), dtype=object),
    distance=lambda one, two: (one != two).astype(float),
)
PERPLEXITY = _ratio_of_sums(perplexity, mean_nats)
MASKED_LOSS = _ratio_of_sums(mean_nats, mean_nats)
