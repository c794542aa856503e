"""Paired comparison over the test rows that two sets of models share: its result, and that of accuracy.

Every model is tested on the same rows, so a resample of rows is drawn once for all: rows and seeds are
crossed.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.stats import binomtest

from finetune.statistics.over_seeds import LEAST_P, Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RowResult:
    """A paired comparison over test rows; all numbers are in the units of the metric."""

    difference: float  # variant minus baseline, the mean over seeds
    interval: Interval  # 95%, percentile bootstrap over rows, the trained models taken as given
    standard_error: float  # over rows
    residual: float  # the part that seeds do not share (row x seed); 0 for one seed, where it is unknown
    p: float  # two-sided
    test: str
    p_bootstrap: float  # paired bootstrap
    rows: int
    spread: Floats = field(repr=False, compare=False)  # quantiles (MIDDLES) less the difference

    def scaled(self, scale: float) -> "RowResult":
        """The same comparison in other units."""
        low, high = self.interval
        return replace(
            self,
            difference=scale * self.difference,
            interval=(scale * low, scale * high),
            standard_error=scale * self.standard_error,
            residual=scale * self.residual,
            spread=scale * self.spread,
        )


MIDDLES = (np.arange(400) + 0.5) / 400  # 400 equally likely parts of a distribution, by their middles


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact McNemar test: two-sided p from the rows that only one of two systems has right.

    McNemar 1947; the exact binomial form as in Fagerland, Lydersen & Laake 2013, doi:10.1186/1471-2288-13-91.
    """
    total = only_first + only_second
    return float(binomtest(only_first, total, 0.5).pvalue) if total else 1.0


def row_sign_flip(differences: ArrayLike) -> float:
    """Exact two-sided p over rows for whole-number differences, one a row: McNemar's test for several seeds.

    A row's difference is the number of seeds in which the variant has it right minus that of the baseline. If
    the two were exchangeable on every row, each sign would be a coin toss, and the sum of c_k rows of size k
    would have the characteristic function cos(k w)^c_k; their product, transformed back, is the exact
    distribution. With one seed it is ``mcnemar``.
    """
    array = np.asarray(differences)
    sizes, counts = np.unique(np.abs(array[array != 0]).astype(int), return_counts=True)
    top = int(sizes @ counts)
    waves = 2 * np.pi * np.arange(2 * top + 1) / (2 * top + 1)
    product = np.prod([np.cos(k * waves) ** c for k, c in zip(sizes, counts, strict=True)], axis=0)
    shares = fft.fft(np.broadcast_to(product, waves.shape)).real / waves.size  # of the sums 0, 1, ..., -2, -1
    sums = np.arange(waves.size)
    far = np.minimum(sums, waves.size - sums) >= abs(int(array.sum()))
    return float(np.clip(shares[far].sum(), LEAST_P, 1.0))


def compare_accuracy(baseline: NDArray[np.bool_], variant: NDArray[np.bool_]) -> RowResult:
    """Paired comparison of correctness, (seeds, rows) each, in units of accuracy (0 to 1).

    The trained models are taken as given; the interval and both p are about other test rows of the same kind.
    The bootstrap is the ideal one, of all resamples: p_bootstrap is the share of resampled differences that
    lie at least as far from the observed one as that lies from 0 (Efron & Tibshirani 1993, section 16.4).
    """
    seeds, rows = baseline.shape
    by_seed = variant.astype(float) - baseline
    differences = variant.sum(axis=0, dtype=int) - baseline.sum(axis=0, dtype=int)
    total = int(differences.sum())
    if seeds == 1:
        p, test = mcnemar(int((differences > 0).sum()), int((differences < 0).sum())), "exact McNemar"
    else:
        p, test = row_sign_flip(differences), f"exact sign flips over rows, summed over {seeds} seeds"
    sums, shares = _resampled_sums(differences, seeds)
    low, high, *middles = sums[np.searchsorted(shares.cumsum(), [0.025, 0.975, *MIDDLES])] / rows / seeds
    far = np.abs(sums - total) >= abs(total)
    return RowResult(
        difference=total / rows / seeds,
        interval=(float(low), float(high)),
        standard_error=float(by_seed.mean(axis=0).std(ddof=1) / np.sqrt(rows)) if rows > 1 else 0.0,
        residual=residual(by_seed),
        p=p,
        test=test,
        p_bootstrap=float(np.clip(shares[far].sum(), LEAST_P, 1.0)),
        rows=rows,
        spread=np.array(middles) - total / rows / seeds,
    )


def _resampled_sums(differences: NDArray[np.int_], most: int) -> tuple[NDArray[np.int_], Floats]:
    """Possible sums of a bootstrap resample of ``differences``, and the probability of each.

    ``differences`` are whole numbers from -most to most; the distribution of one draw is convolved with
    itself.
    """
    rows = len(differences)
    one = np.bincount(differences + most, minlength=2 * most + 1) / rows
    size = 2 * most * rows + 1
    padded = fft.next_fast_len(size, real=True)
    shares = fft.irfft(fft.rfft(one, padded) ** rows, padded)[:size].clip(0)
    return np.arange(size) - most * rows, shares / shares.sum()


def residual(by_seed: Floats) -> float:
    """Standard error of the interaction of seeds and rows in (seeds, rows) numbers.

    The interaction of a two-way table with one number a cell (Fisher 1925; Searle, Casella & McCulloch 1992).
    """
    seeds, rows = by_seed.shape
    if seeds == 1 or rows == 1:
        return 0.0
    left = by_seed - by_seed.mean(axis=0) - by_seed.mean(axis=1, keepdims=True) + by_seed.mean()
    return float(np.sqrt((left**2).sum() / ((seeds - 1) * (rows - 1)) / (seeds * rows)))
