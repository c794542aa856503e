"""Paired comparison over rows of a value that is computed from sums over them: BLEU, perplexity.

Such a value belongs to a corpus and not to a row, so rows are drawn and exchanged as counts, and the value is
computed from their sums each time.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from finetune.statistics import over_seeds
from finetune.statistics.over_rows import MIDDLES, Floats, RowResult

Value = Callable[[Floats], Floats]  # counts summed over rows, (..., counts) -> (...)
_NUMBERS = 4_000_000  # most numbers that are resampled or exchanged at once, which bounds the memory


def compare_sums(
    value: Value, baseline: Sequence[Floats], variant: Sequence[Floats], sizes: Floats | None = None
) -> RowResult:
    """Paired comparison of ``value``, averaged over seeds; one (rows, counts) array a seed.

    p is the paired approximate randomization (Riezler & Maxwell 2005), which exchanges a row of all seeds at
    once; p_bootstrap is the paired bootstrap (Koehn 2004). ``sizes`` are given where a few large rows may
    decide the value, as documents do: then the noise of the rows is corrected for that (``few``).
    """
    seeds = len(baseline)
    both = np.hstack([*baseline, *variant])  # (rows, 2 x seeds x counts)
    observed = float(_differences(value, both.sum(axis=0), seeds).mean())
    resampled = _resampled(value, both, seeds)
    means = resampled.mean(axis=1)
    bias, tail = (1.0, 1.0) if sizes is None else few(sizes)
    low, high, *middles = observed + bias * tail * (np.quantile(means, [0.025, 0.975, *MIDDLES]) - observed)
    apart = (resampled - means[:, None]).var(axis=0, ddof=1).sum() / max(1, seeds - 1) / seeds
    trials = np.abs(means[: over_seeds.PAIRED_RESAMPLES])
    over = f", averaged over {seeds} seeds" if seeds > 1 else ""
    return RowResult(
        difference=observed,
        interval=(float(low), float(high)),
        standard_error=bias * float(means.std(ddof=1)),
        residual=bias * float(np.sqrt(apart)),
        p=_share(np.abs(_exchanged(value, both, seeds)), abs(observed)),
        test=f"approximate randomisation over rows{over}, {over_seeds.TRIALS} trials",
        p_bootstrap=_share(trials - trials.mean(), abs(observed)),  # sacrebleu's, in effect one-sided
        rows=len(both),
        spread=np.array(middles) - observed,
    )


def few(sizes: Floats) -> tuple[float, float]:
    """Corrections of the noise of a bootstrap over few rows of unequal ``sizes``: of its scale, of its tails.

    The value is close to a mean of the rows' own values with their shares w of the size as weights. A
    bootstrap estimates its variance as sum w^2 (d - mean)^2, which is too small, as the mean lies closer to
    the large rows than the truth does; and it knows no uncertainty of that estimate. If the rows' own values
    had one variance, the estimate would be the quadratic form d'Ad with A = D - w u' - u w' + S w w',
    D = diag(w^2), u = w^2, S = sum w^2: its expectation is tr A (the truth: S), and by Satterthwaite it has
    (tr A)^2 / tr A^2 degrees of freedom. Bell & McCaffrey 2002 do so for clusters in surveys. For n rows of
    one size it is sqrt(n / (n - 1)) and Student's t with n - 1 degrees of freedom over the normal quantile.
    """
    if len(sizes) < 2:
        return 1.0, 1.0
    shares = sizes / sizes.sum()
    s2, s3, s4, s5 = (float((shares**power).sum()) for power in (2, 3, 4, 5))
    trace = s2 - 2 * s3 + s2**2
    inner, gram = np.array([[s2, -1.0], [-1.0, 0.0]]), np.array([[s2, s3], [s3, s4]])
    product = inner @ gram
    squared = s4 + 2 * (s2 * s4 - 2 * s5) + float(np.trace(product @ product))
    freedom = trace**2 / squared
    return float(np.sqrt(s2 / trace)), float(special.stdtrit(freedom, 0.975) / special.ndtri(0.975))


def _share(trials: Floats, observed: float) -> float:
    """p: the share of trials at least as far from 0 as the observed difference, itself one of them."""
    return float(((trials >= observed - 1e-9).sum() + 1) / (len(trials) + 1))


def _differences(value: Value, sums: Floats, seeds: int) -> Floats:
    """Variant minus baseline: sums of counts (..., 2 x seeds x counts) -> (..., seeds)."""
    values = value(sums.reshape(*sums.shape[:-1], 2, seeds, -1))
    return values[..., 1, :] - values[..., 0, :]


def _resampled(value: Value, both: Floats, seeds: int) -> Floats:
    """Paired differences, (resamples, seeds); a resample of the rows is the same for all models."""
    rng, rows = np.random.default_rng(over_seeds.SEED), len(both)
    differences = []
    for size in _parts(over_seeds.RESAMPLES, rows):
        # The same random numbers as in one draw of all resamples, of which the first 1,000 are sacrebleu's.
        drawn = rng.integers(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows).astype(float)
        differences.append(_differences(value, weights @ both, seeds))
    return np.concatenate(differences)


def _exchanged(value: Value, both: Floats, seeds: int) -> Floats:
    """Mean differences, (trials,), with the systems exchanged on each row with probability 1/2."""
    rng, rows = np.random.default_rng(over_seeds.SEED), len(both)
    first, second = np.hsplit(both, 2)
    total, swap = both.sum(axis=0), first - second
    start, everything = np.split(total, 2)[1], sum(np.split(total, 2))
    means = []
    for size in _parts(over_seeds.TRIALS, rows):
        chosen = rng.integers(2, size=(size, rows), dtype=bool)
        one = start + chosen.astype(float) @ swap
        means.append(_differences(value, np.hstack([everything - one, one]), seeds).mean(axis=-1))
    return np.concatenate(means)


def _parts(count: int, rows: int) -> list[int]:
    """Splits ``count`` trials into parts that fit into memory."""
    # Of multiples of 32 trials: numpy draws bits in words of 32, and the parts shall equal one single draw.
    size = max(32, _NUMBERS // rows // 32 * 32)
    return [min(size, count - start) for start in range(0, count, size)]
