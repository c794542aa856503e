"""Paired statistics on a few numbers, one a seed: means, intervals, exact tests, Holm. Deterministic.

A difference has two kinds of noise: the choice of test rows (``over_rows``) and the random numbers of
training (seeds, here). ``bootstrap`` combines them, ``power`` computes what can be detected against both.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

ALPHA = 0.05  # what a significant difference is significant at
SEED = 12345  # sacrebleu's own; every random number of the statistics comes from it
RESAMPLES = 2_000  # bootstrap resamples for an interval
PAIRED_RESAMPLES = 1_000  # of these, those for the p of a paired bootstrap: sacrebleu's default
TRIALS = 10_000  # trials of an approximate randomization, sacrebleu's default
LEAST_P = 1e-9  # the smallest p reported: below it the sums are rounding errors
MOST_FLIPS = 24  # 2^24 sums take 128 MiB

Interval = tuple[float, float]


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); no deviation for a single value."""
    array = np.asarray(values, dtype=float)
    return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else None


def standard_error(differences: Sequence[float]) -> float:
    """Standard error of the mean of paired differences, one a seed (two or more)."""
    sd = mean_sd(differences)[1]
    if sd is None:
        raise ValueError("the noise of seeds shows in two or more of them")
    return sd / math.sqrt(len(differences))


def t_interval(differences: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of paired differences, one a seed (two or more)."""
    mean, error = mean_sd(differences)[0], standard_error(differences)
    half = float(special.stdtrit(len(differences) - 1, 0.5 + confidence / 2)) * error
    return mean - half, mean + half


def sign_flip(differences: Sequence[float]) -> float:
    """Exact two-sided p over seeds: the share of the 2^n sign patterns with a mean at least as far from 0.

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


def improvement(baseline: Sequence[float], variant: Sequence[float]) -> float:
    """Probability that a run of ``variant`` scores above one of ``baseline``: the share of all pairs of runs.

    The Mann-Whitney statistic over the number of pairs, a tie counting half (Agarwal et al. 2021, arXiv
    2108.13264, section 4.3: the probability of improvement on one task).
    """
    above = np.subtract.outer(np.asarray(variant, dtype=float), np.asarray(baseline, dtype=float))
    return float(np.mean((above > 0) + 0.5 * (above == 0)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p for the number of comparisons, in the order given (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
