"""Noise of seeds and test rows combined: the hierarchical bootstrap, and that of the interquartile mean.

All seeds of a variant are tested on the same rows, so seeds and rows are crossed. With the difference of seed
s on row r written as

    d_sr = theta + seed_s + row_r + residual_sr,    S seeds and R rows,

the noise of the mean difference is V = V_seed + V_row - V_residual, where V_seed = var_s(mean_r d) / S holds
the seed and the residual, V_row = var_r(mean_s d) / R the row and the residual, and V_residual removes what
was counted twice. This is the crossed analysis of readers and cases in diagnostic studies (seeds read rows):
Dorfman, Berbaum & Metz 1992; Hillis 2007, doi:10.1002/sim.2532, whose degrees of freedom are used here too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from finetune.statistics.over_rows import RowResult
from finetune.statistics.over_seeds import (
    ALPHA,
    LEAST_P,
    RESAMPLES,
    SEED,
    Interval,
    improvement,
    mean_sd,
    standard_error,
)


@dataclass(frozen=True)
class Noise:
    """Standard errors of a mean difference by their source, in the units of the metric."""

    seed: float  # sqrt(V_seed): shrinks with the seeds
    row: float  # sqrt(V_row - V_residual), 0 where that is negative: more seeds do not shrink it
    seeds: int

    @property
    def total(self) -> float:
        return math.hypot(self.seed, self.row)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of ``total`` (Hillis 2007); at least those of the seeds alone."""
        return (self.seeds - 1) * (self.total / self.seed) ** 4 if self.seed else math.inf


@dataclass(frozen=True)
class Both:
    """Interval and p of a mean difference against the noise of seeds and test rows."""

    interval: Interval  # of the confidence that was asked for, usually 95%
    p: float  # two-sided
    noise: Noise


def noise(per_seed: Sequence[float], rows: RowResult) -> Noise:
    """Both kinds of noise in paired differences, one a seed (two or more)."""
    row = math.sqrt(max(0.0, rows.standard_error**2 - rows.residual**2))
    return Noise(standard_error(per_seed), row, len(per_seed))


def hierarchical(per_seed: Sequence[float], rows: RowResult, alpha: float = ALPHA) -> Both:
    """The mean of paired differences, one a seed (two or more), bootstrapped over seeds and test rows.

    The interval has a confidence of 1 - ``alpha``.

    A replicate is the mean difference, plus the deviation of one resample of the test rows, taken once for
    all seeds, plus the deviation of one draw of the seeds.

    - Rows: the paired bootstrap, its deviations shrunk to the noise that seeds share (V_row - V_residual);
      the rest is part of the noise of the seeds, and resampling would count it a second and a third time.
    - Seeds: resampling n seeds gives deviations with (n - 1)/n of the variance and no tails, which for two to
      seven seeds is anticonservative. They are drawn instead from Student's t with n - 1 degrees of
      freedom, times sqrt(V_seed): for normal seeds the exact distribution where rows add no noise.

    The t draws need no random numbers: the distribution is the mean over the resampled rows of shifted t's.
    Few seeds can agree by chance more than their rows allow, two of them on every row. So the result is never
    less conservative than that over rows alone: the interval contains theirs, p is at least theirs, and the
    noise of the seeds is at least the residual, which V_seed holds. In simulated studies
    (``tests.calibration``) the interval misses the true difference in at most 5%, that of the bootstrap
    without these corrections in up to 25%; Student's t with Hillis' degrees of freedom rejects too often with
    two seeds.
    """
    mean, parts = mean_sd(per_seed)[0], noise(per_seed, rows)
    shrunk = parts.row / rows.standard_error if rows.standard_error else 0.0
    centres, counts = np.unique(mean + shrunk * rows.spread, return_counts=True)
    shares = counts / counts.sum()

    def below(value: float) -> float:
        """The share of replicates below ``value``."""
        if not parts.seed:
            return float(shares @ (centres < value) + shares @ (centres == value) / 2)
        return float(shares @ special.stdtr(parts.seeds - 1, (value - centres) / parts.seed))

    if parts.seed:
        # The ends lie within these bounds; the constant is for seeds that differ by rounding errors alone.
        reach = 1.01 * float(special.stdtrit(parts.seeds - 1, 1 - alpha / 2)) * parts.seed + 1e-9
        ends = float(centres[0]) - reach, float(centres[-1]) + reach
        tolerance = 1e-5 * (ends[1] - ends[0])
        low, high = (
            float(optimize.brentq(lambda value, q=q: below(value) - q, *ends, xtol=tolerance))
            for q in (alpha / 2, 1 - alpha / 2)
        )
    else:
        low, high = map(float, centres[np.searchsorted(shares.cumsum(), [alpha / 2, 1 - alpha / 2])])
    p = max(LEAST_P, rows.p, min(1.0, 2 * min(below(0.0), 1 - below(0.0))))
    interval = min(low, rows.interval[0]), max(high, rows.interval[1])
    return Both(interval, p, replace(parts, seed=max(parts.seed, rows.residual)))


def interquartile_mean(scores: NDArray[np.float64]) -> float:
    """Interquartile mean of all numbers: scipy's ``trim_mean`` of a quarter at each end.

    Agarwal et al. 2021, Deep RL at the edge of the statistical precipice, arXiv 2108.13264, section 4.3.
    """
    return float(stats.trim_mean(scores, 0.25, axis=None))


def stratified(strata: Sequence[Sequence[float]]) -> Interval:
    """95% interval of the interquartile mean of numbers by task, one a seed (two or more in each).

    Agarwal et al. 2021: seeds are resampled within each task (``stratified_draws``), tasks taken as given.
    Their percentile interval is too short for few seeds, so it is stretched around the interquartile mean by
    the factor that makes it Student's for a plain mean: sqrt(n / (n - 1)), n the fewest seeds of a task,
    times Student's quantile over the normal one. The degrees of freedom are Welch's (1947), as tasks differ
    in their noise; with two tasks, those of the one with fewer seeds.
    """
    fewest = min(map(len, strata))
    if fewest < 2:
        raise ValueError("an interval over seeds needs two or more of them in every task")
    middle = interquartile_mean(np.concatenate([np.asarray(values) for values in strata]))
    low, high = np.percentile(stratified_draws(strata), [2.5, 97.5])
    quantile = special.stdtrit(_freedom(strata), 0.975) / special.ndtri(0.975)
    factor = math.sqrt(fewest / (fewest - 1)) * quantile
    return float(middle + factor * (low - middle)), float(middle + factor * (high - middle))


def improvement_over(strata: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[float, Interval]:
    """Probability of improvement over tasks, and its 95% interval: scores of baseline and variant by task.

    Agarwal et al. 2021, section 4.3: the mean over tasks of the probability that a run of the variant scores
    above one of the baseline (``over_seeds.improvement``). Runs of both sides are resampled within each task;
    the interval is stretched for few seeds as that of ``stratified`` is, and kept within 0 and 1. Where all
    runs of one side are above all of the other it has no width, whatever their number: seeds so few that they
    cannot disagree.
    """
    fewest = min(min(map(len, sides)) for sides in strata)
    if fewest < 2:
        raise ValueError("an interval over seeds needs two or more of them in every task")
    value = float(np.mean([improvement(baseline, variant) for baseline, variant in strata]))
    low, high = np.percentile(improvement_draws(strata), [2.5, 97.5])
    quantile = special.stdtrit(sum(len(one) + len(two) - 2 for one, two in strata), 0.975) / special.ndtri(
        0.975
    )
    factor = math.sqrt(fewest / (fewest - 1)) * quantile
    return value, (
        float(max(0.0, value + factor * (low - value))),
        float(min(1.0, value + factor * (high - value))),
    )


def improvement_draws(
    strata: Sequence[tuple[Sequence[float], Sequence[float]]],
) -> NDArray[np.float64]:
    """Probabilities of improvement, (RESAMPLES,), of runs resampled within each task and side."""
    rng = np.random.default_rng(SEED)
    means = np.zeros(RESAMPLES)
    for baseline, variant in strata:
        one, two = (
            np.asarray(side)[rng.integers(len(side), size=(RESAMPLES, len(side)))]
            for side in (baseline, variant)
        )
        above = two[:, :, None] - one[:, None, :]
        means += (np.mean(above > 0, axis=(1, 2)) + 0.5 * np.mean(above == 0, axis=(1, 2))) / len(strata)
    return means


def _freedom(strata: Sequence[Sequence[float]]) -> float:
    """Degrees of freedom of a mean over strata whose variances differ."""
    fewest = min(map(len, strata)) - 1
    variances = np.array([np.var(values, ddof=1) for values in strata])
    if len(strata) == 2 or not variances.any():
        return fewest
    sizes = np.array([len(values) - 1 for values in strata])
    return float(variances.sum() ** 2 / (variances**2 / sizes).sum())


def stratified_draws(strata: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Interquartile means, (RESAMPLES,), of seeds resampled within each task."""
    rng = np.random.default_rng(SEED)
    drawn = [np.asarray(v)[rng.integers(len(v), size=(RESAMPLES, len(v)))] for v in strata]
    return np.asarray(stats.trim_mean(np.hstack(drawn), 0.25, axis=1))
