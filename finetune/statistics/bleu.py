"""Corpus BLEU from sacrebleu's counts, for many corpora at once, and its paired significance tests."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from sacrebleu.metrics import BLEU

from finetune.statistics import over_seeds
from finetune.statistics.over_rows import MIDDLES, Floats, RowResult

_NUMBERS = 4_000_000  # most numbers that are resampled or exchanged at once, which bounds the memory


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

    p is sacrebleu's paired approximate randomization (Riezler & Maxwell 2005), which exchanges a row of all
    seeds at once; p_bootstrap is sacrebleu's paired bootstrap (Koehn 2004). With one seed both equal
    sacrebleu's, from the same random numbers, but for ties: a trial that ties with the observed difference
    counts here, so that identical systems get p = 1 (sacrebleu: 1/10001 and 1/1001).
    """
    seeds = len(baseline)
    both = np.hstack([*baseline, *variant])  # (rows, 2 x seeds x 10)
    observed = float(_differences(both.sum(axis=0), seeds).mean())
    resampled = _resampled(both, seeds)
    means = resampled.mean(axis=1)
    low, high, *middles = np.quantile(means, [0.025, 0.975, *MIDDLES])
    apart = (resampled - means[:, None]).var(axis=0, ddof=1).sum() / max(1, seeds - 1) / seeds
    sizes = np.abs(means[: over_seeds.PAIRED_RESAMPLES])
    over = f", averaged over {seeds} seeds" if seeds > 1 else ""
    return RowResult(
        difference=observed,
        interval=(float(low), float(high)),
        standard_error=float(means.std(ddof=1)),
        residual=float(np.sqrt(apart)),
        p=_share(np.abs(_exchanged(both, seeds)), abs(observed)),
        test=f"approximate randomisation over rows{over}, {over_seeds.TRIALS} trials",
        p_bootstrap=_share(sizes - sizes.mean(), abs(observed)),  # sacrebleu's, in effect one-sided
        rows=len(both),
        spread=np.array(middles) - observed,
    )


def _share(trials: Floats, observed: float) -> float:
    """p: the share of trials at least as far from 0 as the observed difference, itself one of them."""
    return float(((trials >= observed - 1e-9).sum() + 1) / (len(trials) + 1))


def _differences(sums: Floats, seeds: int) -> Floats:
    """BLEU of the variant minus the baseline: sums of counts (..., 2 x seeds x 10) -> (..., seeds)."""
    scores = bleu(sums.reshape(*sums.shape[:-1], 2, seeds, 10))
    return scores[..., 1, :] - scores[..., 0, :]


def _resampled(both: Floats, seeds: int) -> Floats:
    """Paired differences, (resamples, seeds); a resample of the rows is the same for all models."""
    rng, rows = np.random.default_rng(over_seeds.SEED), len(both)
    differences = []
    for size in _parts(over_seeds.RESAMPLES, rows):
        # The same random numbers as in one draw of all resamples, of which the first 1,000 are sacrebleu's.
        drawn = rng.integers(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows).astype(float)
        differences.append(_differences(weights @ both, seeds))
    return np.concatenate(differences)


def _exchanged(both: Floats, seeds: int) -> Floats:
    """Mean differences, (trials,), with the systems exchanged on each row with probability 1/2."""
    rng, rows = np.random.default_rng(over_seeds.SEED), len(both)
    first, second = both[:, : 10 * seeds], both[:, 10 * seeds :]
    total, swap = both.sum(axis=0), first - second
    start, everything = total[10 * seeds :], total[: 10 * seeds] + total[10 * seeds :]
    means = []
    for size in _parts(over_seeds.TRIALS, rows):
        chosen = rng.integers(2, size=(size, rows), dtype=bool)
        one = start + chosen.astype(float) @ swap
        means.append(_differences(np.hstack([everything - one, one]), seeds).mean(axis=-1))
    return np.concatenate(means)


def _parts(count: int, rows: int) -> list[int]:
    """Splits ``count`` trials into parts that fit into memory."""
    # Of multiples of 32 trials: numpy draws bits in words of 32, and the parts shall equal one single draw.
    size = max(32, _NUMBERS // rows // 32 * 32)
    return [min(size, count - start) for start in range(0, count, size)]
