"""Corpus BLEU from sacrebleu's counts, for many corpora at once, and its paired significance tests."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from sacrebleu.metrics import BLEU

from finetune.statistics.over_rows import Floats, RowResult
from finetune.statistics.over_sums import compare_sums


def counts(scorer: BLEU, predictions: Sequence[str], references: Sequence[str]) -> Floats:
    """sacrebleu's counts, (rows, 10): lengths (prediction, reference), matched n-grams (4), n-grams (4)."""
    table = np.empty((len(predictions), 10))
    for row, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        score = scorer.corpus_score([prediction], [[reference]])
        table[row] = [score.sys_len, score.ref_len, *score.counts, *score.totals]
    return table


def bleu(sums: ArrayLike) -> Floats:
    """BLEU, 0 to 100, of counts summed over the rows of a corpus: (..., 10) -> (...).

    The geometric mean of the n-gram precisions, n = 1 to 4, times the brevity penalty exp(1 - reference
    length / length) where the output is the shorter (Papineni et al. 2002, section 2.3). The k-th order
    without a match counts 1/2^k of one (sacrebleu's default smoothing, "exp"; NIST's mteval-v13a.pl).
    """
    values = np.asarray(sums, dtype=float)
    length, reference, matched, total = values[..., 0], values[..., 1], values[..., 2:6], values[..., 6:]
    none = (matched == 0) & (total > 0)
    smoothed = np.where(none, 0.5 ** none.cumsum(axis=-1), matched)
    whole = np.all(total > 0, axis=-1) & np.any(matched > 0, axis=-1)  # else 0: too short, or no match at all
    precisions = np.where(np.expand_dims(whole, -1), smoothed, 1.0) / np.where(total > 0, total, 1.0)
    brevity = np.minimum(1.0, np.exp(1 - reference / np.maximum(length, 1.0)))
    return np.where(whole, 100 * brevity * np.exp(np.log(precisions).mean(axis=-1)), 0.0)


def compare_bleu(baseline: Sequence[Floats], variant: Sequence[Floats]) -> RowResult:
    """Paired comparison of corpus BLEU, averaged over seeds; one (rows, 10) array of ``counts`` a seed.

    With one seed both p are sacrebleu's, from the same random numbers, but for ties: a trial that ties with
    the observed difference counts here, so that identical systems get p = 1 (sacrebleu: 1/10001 and 1/1001).
    """
    return compare_sums(bleu, baseline, variant)
