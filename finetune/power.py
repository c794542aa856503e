"""What a design can see: the smallest true difference it detects, and the seeds that a wanted one needs.

The mean difference is taken as normal around the true one with the noise that was observed
(``bootstrap.Noise``), and tested by Student's t with Hillis' degrees of freedom. With n seeds in the place
of S the noise is

    V(n) = V_seed S / n + V_row,    V_row: of the test rows, whatever the number of seeds,

so the noise of the rows is a floor: below it no number of seeds suffices, only more test rows would. Holm
asks the first of m comparisons for alpha / m, and that is what is asked here. Both numbers are as uncertain
as the noise they come from: over two or three seeds, a rough guide.
"""

import math
from dataclasses import replace

from scipy import optimize, special

from finetune.bootstrap import Noise

ALPHA = 0.05
POWER = 0.8  # the usual power of "what difference could have been seen" (Cohen 1988)
MOST_SEEDS = 1_000_000  # as good as infinitely many


def power(difference: float, noise: Noise, comparisons: int = 1) -> float:
    """How often a true ``difference`` is claimed with this noise; noncentral t (Cohen 1988, section 2.5)."""
    if not noise.total:
        return float(difference != 0)
    freedom = min(noise.freedom, 1e6)  # as good as infinite
    critical = special.stdtrit(freedom, 1 - ALPHA / 2 / comparisons)
    shift = min(abs(difference) / noise.total, 20 + 3 * critical)  # beyond it is 1, or scipy's NaN
    return float(1 - special.nctdtr(freedom, shift, critical))


def detectable(noise: Noise, comparisons: int = 1) -> float:
    """The true difference that this design, two seeds or more, claims 4 times in 5, about; in points."""
    if not noise.total:
        return 0.0
    most = noise.total
    while power(most, noise, comparisons) < POWER:
        most *= 2
    return float(optimize.brentq(lambda size: power(size, noise, comparisons) - POWER, 0.0, most))


def seeds_needed(wanted: float, noise: Noise, comparisons: int = 1) -> int | None:
    """The fewest seeds (two or more) that would claim ``wanted`` 4 times in 5; ``None``: no number would."""

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
