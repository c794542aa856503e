"""Power: the minimum detectable difference of a design, and the seeds that a wanted difference needs.

The mean difference is taken as normal around the true one with the observed noise (``bootstrap.Noise``), the
estimate of the seeds' noise as chi-square with seeds - 1 degrees of freedom, and significance as that of
``bootstrap.hierarchical``, but for its lower bound by the p over rows: for few seeds a little optimistic.
With n seeds in the place of S the noise is

    V(n) = V_seed S / n + V_row,    V_row: of the test rows, whatever the number of seeds,

so the noise of the rows is a floor: below it only more test rows help, and no number of seeds. The threshold
is 5% / m for m comparisons, as Holm's for the first of them; a look of a plan (``sequential``) that has less
than 5% counts as so many more comparisons. Both numbers are as uncertain as the noise
they come from: with two or three seeds, a rough guide.
"""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from finetune.statistics.bootstrap import Noise
from finetune.statistics.over_seeds import ALPHA

POWER = 0.8  # the usual power of a minimum detectable difference (Cohen 1988)
MOST_SEEDS = 1_000_000  # as good as infinitely many
_FEW = 30  # seeds; for more of them Student's t is as good as normal, and the noncentral t is at hand
_PARTS = (np.arange(100) + 0.5) / 100  # 100 equally likely parts of a distribution, by their middles
_RATIOS = np.geomspace(1e-2, 20, 30)  # noise of rows over that of seeds
_NORMAL = np.arange(-6, 6, 0.04)  # points to integrate at, close enough for these ratios


def power(difference: float, noise: Noise, comparisons: float = 1) -> float:
    """The probability that a true ``difference`` is significant with this noise, in its own direction.

    Without noise of rows it is the power of a t test (Cohen 1988, section 2.5).
    """
    size, alpha = abs(difference), ALPHA / comparisons
    if not noise.total:
        return float(size > 0)
    if noise.seeds > _FEW or not noise.seed:
        freedom = min(noise.freedom, 1e6)  # as good as infinite
        critical = special.stdtrit(freedom, 1 - alpha / 2)
        shift = min(size / noise.total, 20 + 3 * critical)  # beyond it is 1, or scipy's NaN
        return float(1 - special.nctdtr(freedom, shift, critical))
    freedom = noise.seeds - 1
    estimates = noise.seed * np.sqrt(2 * special.gammaincinv(freedom / 2, _PARTS) / freedom)
    critical = estimates * _critical(noise.row / estimates, freedom, alpha)
    return float(special.ndtr((size - critical) / noise.total).mean())


def detectable(noise: Noise, comparisons: float = 1) -> float:
    """The minimum detectable difference at 80% power of a design of two or more seeds, in its own units."""
    if not noise.total:
        return 0.0
    most = noise.total
    while power(most, noise, comparisons) < POWER:
        most *= 2
    return float(optimize.brentq(lambda size: power(size, noise, comparisons) - POWER, 0.0, most))


def seeds_needed(wanted: float, noise: Noise, comparisons: float = 1) -> int | None:
    """The fewest seeds (two or more) that detect ``wanted`` with 80% power; ``None`` where no number does."""

    def enough(seeds: int) -> bool:
        seed = noise.seed * math.sqrt(noise.seeds / seeds)
        return power(wanted, replace(noise, seed=seed, seeds=seeds), comparisons) >= POWER

    if not enough(MOST_SEEDS):
        return None
    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _critical(ratios: NDArray[np.float64], freedom: int, alpha: float) -> NDArray[np.float64]:
    """Upper alpha / 2 quantiles of Student's t plus ``ratios`` times an independent normal number."""
    ends = special.stdtrit(freedom, 1 - alpha / 2), special.ndtri(1 - alpha / 2)
    # Interpolated between the known ratios, and towards 1 beyond them, where one of the two terms vanishes.
    at, factors = np.log([1e-4, *_RATIOS, 1e3]), [1.0, *_factors(freedom, alpha), 1.0]
    return np.asarray(np.hypot(ends[0], ratios * ends[1]) * np.interp(np.log(ratios + 1e-9), at, factors))


@lru_cache(maxsize=1024)
def _factors(freedom: int, alpha: float) -> NDArray[np.float64]:
    """The same quantiles at ``_RATIOS``, over the root of the sum of squares of those of the two terms."""
    student, normal = special.stdtrit(freedom, 1 - alpha / 2), special.ndtri(1 - alpha / 2)
    weights = np.exp(-(_NORMAL**2) / 2)
    weights /= weights.sum()
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    quantiles = np.maximum(student, _RATIOS * normal)
    for _ in range(8):  # Newton's method from below, on a tail that is convex
        away = quantiles[:, None] - _RATIOS[:, None] * _NORMAL
        above = special.stdtr(freedom, -away) @ weights - alpha / 2
        density = scale * (1 + away**2 / freedom) ** (-(freedom + 1) / 2) @ weights
        quantiles = quantiles + above / density
    return np.asarray(quantiles / np.hypot(student, _RATIOS * normal))
