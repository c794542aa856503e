"""Distances between the outputs of two runs, row by row: how far a swap moves them, and how far another seed.

A distance is a number a test row: 1 where two runs predict different classes, else 0. Swapped at one seed,
every run is in one pair, and the distances are a table of seeds and rows like any other. Between seeds, S
runs form S (S - 1) / 2 pairs, of which each run is in S - 1: their mean is a U-statistic, and pairs that
share a run are no independent numbers. Its noise over seeds is the jackknife's: leave a seed out, with all
its pairs, and see how far the mean moves. The pseudo-values of the jackknife, one a seed and row, have the
U-statistic as their mean, and make the table of seeds and rows that the pairs are none of. The difference of
swap and reseed leaves out the same seed on both sides, and so knows that both come from the same runs.

The interval is that of every comparison here (``bootstrap.hierarchical``): crossed noise of seeds and rows,
Student's t with S - 1 degrees of freedom for the seeds. The jackknife of a U-statistic is never too small on
average (Efron & Stein 1981). In simulated studies (``tests/statistics/test_over_runs.py``) intervals of 95%
miss the truth in 1 to 7 of 100. Two seeds form one pair, whose noise over seeds is unknown: its interval
is over rows alone.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import special

from finetune.statistics.bootstrap import hierarchical
from finetune.statistics.over_rows import MIDDLES, Floats, RowResult, residual
from finetune.statistics.over_seeds import Interval

Distance = Callable[[Any, Any], Floats]  # the outputs of two runs -> how far they are apart, (rows,)
_NORMAL = float(special.ndtri(0.975))


def swapped(baseline: Sequence[Any], variant: Sequence[Any], distance: Distance) -> Floats:
    """Distances between the two runs of each seed, (seeds, rows)."""
    return np.stack([distance(one, two) for one, two in zip(baseline, variant, strict=True)])


def reseeded(runs: Sequence[Any], distance: Distance) -> Floats:
    """Pseudo-values of the mean distance between two runs of unlike seeds, (seeds, rows); two runs or more.

    Their mean over seeds is, row by row, the mean distance over all pairs. Of two runs it is the one
    distance, (1, rows).
    """
    count = len(runs)
    own: list[Any] = [0.0] * count  # each run's distances from all others, summed
    for one, two in combinations(range(count), 2):
        apart = distance(runs[one], runs[two])
        own[one], own[two] = own[one] + apart, own[two] + apart
    if count == 2:
        return np.stack(own[:1])
    total = sum(own) / 2
    pairs, left = count * (count - 1) / 2, (count - 1) * (count - 2) / 2
    return np.stack([count * total / pairs - (count - 1) * (total - each) / left for each in own])


def interval(table: Floats) -> Interval:
    """95% interval of the mean of a (seeds, rows) table over seeds and rows; of one seed over rows alone."""
    rows = over_rows(table)
    return hierarchical(table.mean(axis=1).tolist(), rows).interval if len(table) > 1 else rows.interval


def over_rows(table: Floats) -> RowResult:
    """The mean of a (seeds, rows) table against the noise of its rows, which for a plain mean is normal."""
    means = table.mean(axis=0)
    mean, rows = float(means.mean()), len(means)
    error = float(means.std(ddof=1) / np.sqrt(rows)) if rows > 1 else 0.0
    return RowResult(
        difference=mean,
        interval=(mean - _NORMAL * error, mean + _NORMAL * error),
        standard_error=error,
        residual=residual(table),
        p=float(2 * special.ndtr(-abs(mean) / error)) if error else 1.0,
        test="normal, over rows",
        p_bootstrap=1.0,
        rows=rows,
        spread=error * special.ndtri(MIDDLES),
    )
