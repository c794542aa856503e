"""Paired statistics on numbers alone: intervals, exact tests, corrections. Deterministic; no record, no file.

Two kinds of noise move a difference: which test rows were drawn (rows) and the random numbers of training
(seeds). Each function says which one it looks at.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sacrebleu.metrics import BLEU
from scipy import signal, stats

SEED = 12345  # sacrebleu's own; every random number here comes from it
RESAMPLES = 2_000  # bootstrap resamples for an interval
TRIALS = 10_000  # trials of an approximate randomisation, sacrebleu's default
MOST_FLIPS = 24  # 2^24 sums take 128 MiB
POWER = 0.8  # the usual power of "what difference could have been seen" (Cohen 1988)

Interval = tuple[float, float]


@dataclass(frozen=True)
class RowResult:
    """A paired comparison over test rows; all numbers are in the units of the metric."""

    difference: float  # variant minus baseline
    interval: Interval  # 95%, percentile bootstrap over rows
    standard_error: float  # sd of the bootstrap
    p: float  # two-sided
    test: str


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); no deviation for a single value."""
    array = np.asarray(values, dtype=float)
    return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else None


def t_interval(differences: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of paired differences, one a seed (two or more)."""
    mean, sd = mean_sd(differences)
    if sd is None:
        raise ValueError("an interval over seeds needs two or more of them")
    half = stats.t.ppf(0.5 + confidence / 2, len(differences) - 1) * sd / math.sqrt(len(differences))
    return mean - float(half), mean + float(half)


def sign_flip(differences: Sequence[float]) -> float:
    """Exact two-sided p over seeds: how many of the 2^n sign patterns have a mean at least as far from 0.

    It cannot go below 2 / 2^n. Fisher 1935, The Design of Experiments, section 21. At most 24 seeds.
    """
    if not 1 <= len(differences) <= MOST_FLIPS:
        raise ValueError(f"exact sign flips need 1 to {MOST_FLIPS} differences, not {len(differences)}")
    sums = np.zeros(1)
    for value in differences:
        sums = np.concatenate([sums + value, sums - value])
    observed = abs(math.fsum(differences))
    # The tolerance keeps equal sums equal, in whatever order they were added.
    slack = 1e-9 * math.fsum(abs(d) for d in differences)
    return float(np.mean(np.abs(sums) >= observed - slack))


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact McNemar: two-sided p from the rows that only one of two systems has right.

    McNemar 1947; the exact binomial form as in Fagerland, Lydersen & Laake 2013, doi:10.1186/1471-2288-13-91.
    """
    total = only_first + only_second
    return float(stats.binomtest(only_first, total, 0.5).pvalue) if total else 1.0


def row_sign_flip(differences: ArrayLike) -> float:
    """Exact two-sided p over rows for whole-number differences, one a row: McNemar's test for several seeds.

    A row's difference is the number of seeds in which the variant has it right less that of the baseline. If
    the two were exchangeable on every row, each sign would be a coin toss: k (2 Binomial(c_k, 1/2) - c_k)
    for the c_k rows of size k, summed over k, gives the exact distribution. With one seed it is ``mcnemar``.
    """
    array = np.asarray(differences)
    sizes, counts = np.unique(np.abs(array[array != 0]), return_counts=True)
    weights = np.ones(1)
    for size, count in zip(sizes.astype(int), counts, strict=True):
        spread = np.zeros(size * count + 1)
        spread[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        weights = np.clip(signal.convolve(weights, spread), 0, None)
    top = int(np.abs(array).sum())  # weights[i] belongs to the sum 2 i - top
    far = np.abs(2 * np.arange(weights.size) - top) >= abs(int(array.sum()))
    return float(min(1.0, weights[far].sum()))


def compare_accuracy(baseline: NDArray[np.bool_], variant: NDArray[np.bool_]) -> RowResult:
    """Paired comparison of correctness, (seeds, rows) each, in units of accuracy (0 to 1).

    The seeds' models are taken as given; the interval and p speak of other test rows like these.
    """
    seeds, rows = baseline.shape
    differences = variant.sum(axis=0, dtype=int) - baseline.sum(axis=0, dtype=int)
    if seeds == 1:
        p, test = mcnemar(int((differences > 0).sum()), int((differences < 0).sum())), "exact McNemar"
    else:
        p, test = row_sign_flip(differences), f"exact sign flips over rows, summed over {seeds} seeds"
    # Resampling rows is resampling how often each of the few possible differences occurs.
    values, counts = np.unique(differences, return_counts=True)
    draws = np.random.default_rng(SEED).multinomial(rows, counts / rows, size=RESAMPLES)
    means = draws @ values / rows / seeds
    return RowResult(float(differences.mean() / seeds), _percentiles(means), float(means.std()), p, test)


def bleu_counts(scorer: BLEU, predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """sacrebleu's counts, (rows, 10): lengths of prediction and reference, n-grams right (4), n-grams (4)."""
    counts = np.empty((len(predictions), 10))
    for row, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        score = scorer.corpus_score([prediction], [[reference]])
        counts[row] = [score.sys_len, score.ref_len, *score.counts, *score.totals]
    return counts


def bleu(scorer: BLEU, sums: ArrayLike) -> float:
    """Corpus BLEU, 0 to 100, from counts summed over rows: sacrebleu's own formula."""
    values = np.asarray(sums).tolist()
    return scorer.compute_bleu(
        values[2:6], values[6:], int(values[0]), int(values[1]), scorer.smooth_method, scorer.smooth_value
    ).score


def compare_bleu(
    scorer: BLEU, baseline: Sequence[NDArray[np.float64]], variant: Sequence[NDArray[np.float64]]
) -> RowResult:
    """Paired comparison of corpus BLEU, averaged over seeds; one (rows, 10) array of ``bleu_counts`` a seed.

    The p is sacrebleu's paired approximate randomisation (Riezler & Maxwell 2005), in which a row of all
    seeds is exchanged at once; with one seed it is sacrebleu's number. One thing differs: a trial that ties
    with the observed difference counts, so that identical systems get p = 1 (sacrebleu: 1/10001).
    """
    first, second = np.hstack(list(baseline)), np.hstack(list(variant))  # (rows, 10 * seeds)
    observed = _mean_bleu(scorer, second.sum(0)) - _mean_bleu(scorer, first.sum(0))
    p = _randomisation(scorer, first, second, abs(observed))
    boot = _bootstrap_bleu(scorer, first, second)
    seeds = f", averaged over {len(baseline)} seeds" if len(baseline) > 1 else ""
    test = f"approximate randomisation over rows{seeds}, {TRIALS} trials"
    return RowResult(observed, _percentiles(boot), float(boot.std()), p, test)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p for the number of comparisons, in the order given (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def detectable_over_seeds(differences: Sequence[float]) -> float:
    """The true difference that a two-sided 5% t-test over this many seeds would see 4 times in 5, about."""
    sd = mean_sd(differences)[1]
    if sd is None:
        raise ValueError("needs two or more seeds")
    freedom = len(differences) - 1
    quantiles = stats.t.ppf(0.975, freedom) + stats.t.ppf(POWER, freedom)
    return float(quantiles * sd / math.sqrt(len(differences)))


def detectable_over_rows(standard_error: float) -> float:
    """The true difference that a two-sided 5% test over these rows would see 4 times in 5, about."""
    return float((stats.norm.ppf(0.975) + stats.norm.ppf(POWER)) * standard_error)


def _percentiles(draws: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _mean_bleu(scorer: BLEU, sums: NDArray[np.float64]) -> float:
    return float(np.mean([bleu(scorer, part) for part in sums.reshape(-1, 10)]))


def _randomisation(
    scorer: BLEU, first: NDArray[np.float64], second: NDArray[np.float64], observed: float
) -> float:
    rng = np.random.default_rng(SEED)
    both, swap = first.sum(0) + second.sum(0), first - second
    # In parts, for memory; of a multiple of 32 trials, so that the bits drawn are those of one single draw.
    part = max(32, 4_000_000 // len(first) // 32 * 32)
    as_far = 0
    for start in range(0, TRIALS, part):
        chosen = rng.integers(2, size=(min(part, TRIALS - start), len(first)), dtype=bool)
        one = second.sum(0) + chosen.astype(float) @ swap
        for sums in one:
            gap = abs(_mean_bleu(scorer, sums) - _mean_bleu(scorer, both - sums))
            as_far += gap >= observed - 1e-9
    return (as_far + 1) / (TRIALS + 1)


def _bootstrap_bleu(
    scorer: BLEU, first: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.float64]:
    rng = np.random.default_rng(SEED)
    rows = len(first)
    gaps = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        weights = np.bincount(rng.integers(rows, size=rows), minlength=rows).astype(float)
        gaps[i] = _mean_bleu(scorer, weights @ second) - _mean_bleu(scorer, weights @ first)
    return gaps
