"""Seeds and test rows together, and interquartile means: by hand, by scipy, and by brute force."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from finetune.statistics import bootstrap
from finetune.statistics.bootstrap import (
    Noise,
    hierarchical,
    interquartile_mean,
    noise,
    stratified,
    stratified_draws,
)
from finetune.statistics.over_rows import MIDDLES, RowResult, compare_accuracy
from finetune.statistics.over_seeds import t_interval
from tests.calibration.studies import DESIGNS, classify, pair_accuracy, plain_bootstrap


def _rows(error: float, residual: float = 0.0, mean: float = 0.0) -> RowResult:
    """Rows with normal noise of the standard deviation ``error``."""
    spread = error * scipy_stats.norm.ppf(MIDDLES)
    interval = (mean - 1.96 * error, mean + 1.96 * error)
    p = float(2 * scipy_stats.norm.sf(abs(mean) / error)) if error else 0.0
    return RowResult(mean, interval, error, residual, p, "t", p, 500, spread)


def test_the_noise_is_that_of_a_crossed_table() -> None:
    """The variance of the mean of a two-way table of random seeds and rows, from its mean squares."""
    rng = np.random.default_rng(1)
    baseline, variant = rng.random((3, 40)) < 0.7, rng.random((3, 40)) < 0.8
    table = variant.astype(float) - baseline
    seeds, rows, grand = table.mean(axis=1), table.mean(axis=0), table.mean()
    by_seed = 40 * ((seeds - grand) ** 2).sum() / 2
    by_row = 3 * ((rows - grand) ** 2).sum() / 39
    left = ((table - seeds[:, None] - rows + grand) ** 2).sum() / (2 * 39)
    assert by_row > left
    found = noise(seeds.tolist(), compare_accuracy(baseline, variant))
    assert found.total**2 == pytest.approx((by_seed + by_row - left) / (3 * 40))
    # Hillis 2007: (MS_seed + MS_row - MS_residual)^2 / (MS_seed^2 / (seeds - 1))
    assert found.freedom == pytest.approx((by_seed + by_row - left) ** 2 / (by_seed**2 / 2))


def test_rows_that_vary_less_than_their_residual_add_nothing() -> None:
    found = noise([0.1, 0.5, 0.3], _rows(0.2, residual=0.3))
    assert (found.row, found.freedom) == (0.0, 2.0)
    assert found.total == found.seed


def test_without_noise_of_rows_it_is_students_t() -> None:
    values = [0.4, -0.1, 0.3, 0.9]
    found = hierarchical(values, _rows(0.0))
    expected = scipy_stats.ttest_1samp(values, 0)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), abs=1e-4)
    assert found.p == pytest.approx(expected.pvalue)


def test_without_noise_of_seeds_it_is_the_bootstrap_over_rows() -> None:
    rows = _rows(0.2, mean=0.5)
    for values in ([0.5, 0.5, 0.5], [0.5, 0.5 + 1e-14, 0.5]):  # the second by rounding alone
        found = hierarchical(values, rows)
        assert found.interval == pytest.approx(rows.interval, abs=0.02)
        assert found.p == pytest.approx(2 * scipy_stats.norm.sf(2.5), abs=0.005)
    nothing = hierarchical([0.0, 0.0], _rows(0.0))
    assert (nothing.interval, nothing.p, nothing.noise.total) == ((0.0, 0.0), 1.0, 0.0)


def test_both_kinds_of_noise_as_random_draws_would_have_it() -> None:
    """Rows of which a part is shared by the seeds; draws of 400,000 replicates."""
    values, rows = [0.8, 0.2, 0.5, 0.9, 0.4], _rows(0.3, residual=0.18, mean=0.56)
    rng = np.random.default_rng(0)
    shared = rng.normal(0, math.sqrt(0.3**2 - 0.18**2), 400_000)
    error = np.std(values, ddof=1) / math.sqrt(5)
    draws = 0.56 + shared + error * rng.standard_t(4, 400_000)
    found = hierarchical(values, rows)
    assert found.interval == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.01)
    assert found.p == pytest.approx(2 * np.mean(draws < 0), rel=0.03)


def test_the_distribution_of_rows_keeps_its_shape() -> None:
    skewed = replace(_rows(0.3), spread=scipy_stats.expon.ppf(MIDDLES) * 0.3 - 0.3, interval=(-0.01, 0.01))
    low, high = hierarchical([0.01, -0.01, 0.005, -0.005], skewed).interval
    assert high > 2 * abs(low)


def test_it_is_never_narrower_than_the_interval_over_rows() -> None:
    """Two seeds that agree by luck: Student's t over them alone would be next to nothing."""
    rows = _rows(0.2, residual=0.19, mean=0.5)
    low, high = hierarchical([0.5, 0.5001], rows).interval
    assert low <= rows.interval[0] and high >= rows.interval[1]


def test_neither_are_p_and_what_could_be_seen_surer_than_rows_alone() -> None:
    """Accuracies are counts, so two seeds can agree to the last row; that is luck, and no certainty."""
    for mean, residual in ((0.13, 0.2), (0.5, 0.2), (0.5, 0.25)):
        rows = _rows(0.2, residual=residual, mean=mean)
        found = hierarchical([mean, mean], rows)
        assert found.p == rows.p
        assert (found.p < 0.05) == (not found.interval[0] <= 0 <= found.interval[1])
        assert found.noise.total >= rows.standard_error


def test_p_and_interval_agree() -> None:
    for mean in np.linspace(-1.5, 1.5, 13):
        values = [mean - 0.3, mean, mean + 0.3]
        found = hierarchical(values, _rows(0.2, residual=0.1, mean=float(mean)))
        low, high = found.interval
        assert (found.p < 0.05) == (not low <= 0 <= high)
        seeds = t_interval(values)
        assert low <= seeds[0] and high >= seeds[1]


def test_the_plain_bootstrap_misses_what_the_corrected_one_holds() -> None:
    """Where seeds move whole runs, resampling a few of them says too little: 5% of intervals may miss."""
    design, rng = replace(DESIGNS[1], seed=0.8), np.random.default_rng(0)
    plain = corrected = 0
    for _ in range(300):
        arms = classify(design, rng, 3, 200, (0.0, 0.0))
        low, high = plain_bootstrap(arms[0], arms[1], rng, resamples=200)
        plain += not low <= 0 <= high
        paired = pair_accuracy(arms[0], arms[1])
        assert paired.rows is not None
        low, high = hierarchical(paired.per_seed, paired.rows).interval
        corrected += not low <= 0 <= high
    assert corrected / 300 <= 0.075
    assert plain / 300 >= 0.15


def test_interquartile_means_by_hand_and_by_scipy() -> None:
    assert interquartile_mean(np.array([100.0, 0, 1, 2, 3, 4, 0, 100])) == 2.5  # of 1, 2, 3, 4
    assert interquartile_mean(np.array([[7.0, 1.0], [3.0, -50.0]])) == 2.0  # of 1, 3
    scores = np.random.default_rng(0).normal(size=(5, 7))
    middle = np.sort(scores.ravel())[8:-8]
    assert interquartile_mean(scores) == pytest.approx(middle.mean())


def test_seeds_are_resampled_within_their_task_only() -> None:
    """Two tasks of two seeds: all 16 resamples, and how often each interquartile mean is among the draws."""
    strata = [[0.0, 1.0], [10.0, 13.0]]
    every = [
        float(np.sort([*first, *second])[1:3].mean())
        for first in itertools.product(strata[0], repeat=2)
        for second in itertools.product(strata[1], repeat=2)
    ]
    draws = stratified_draws(strata)
    assert set(draws.tolist()) == set(every)
    for value in set(every):
        assert np.mean(draws == value) == pytest.approx(every.count(value) / 16, abs=0.03)
    assert stratified_draws(strata).tolist() == draws.tolist()


def test_the_interval_of_an_interquartile_mean_is_longer_than_plain_percentiles_for_few_seeds() -> None:
    strata = [[0.1, 0.4, 0.3], [0.2, 0.6, 0.3], [-0.3, 0.1, 0.2], [0.0, 0.2], [0.4, 0.5]]
    plain = np.percentile(stratified_draws(strata), [2.5, 97.5])
    middle = interquartile_mean(np.concatenate(strata))
    variances = [np.var(values, ddof=1) for values in strata]
    welch = sum(variances) ** 2 / sum(v**2 / (len(s) - 1) for v, s in zip(variances, strata, strict=True))
    factor = math.sqrt(2) * scipy_stats.t.ppf(0.975, welch) / scipy_stats.norm.ppf(0.975)
    assert stratified(strata) == pytest.approx(middle + factor * (plain - middle))
    two = strata[:2]
    plain = np.percentile(stratified_draws(two), [2.5, 97.5])
    middle = interquartile_mean(np.concatenate(two))
    factor = math.sqrt(3 / 2) * scipy_stats.t.ppf(0.975, 2) / scipy_stats.norm.ppf(0.975)
    assert stratified(two) == pytest.approx(middle + factor * (plain - middle))
    assert stratified([[0.2, 0.2], [0.1, 0.1], [0.2, 0.2]]) == pytest.approx((0.175, 0.175))
    with pytest.raises(ValueError, match="two or more"):
        stratified([[1.0, 2.0], [3.0]])


def test_noise_adds_up() -> None:
    found = Noise(seed=0.3, row=0.4, seeds=4)
    assert found.total == pytest.approx(0.5)
    assert found.freedom == pytest.approx(3 * (0.5 / 0.3) ** 4)
    assert Noise(0.0, 0.4, 4).freedom == math.inf
    assert bootstrap.noise([1.0, 2.0], _rows(0.0)).seed == pytest.approx(0.5)
