"""Paired statistics over seeds: worked examples, scipy's own numbers, and brute force."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from finetune.statistics import over_seeds


def test_mean_and_sd_of_a_worked_example() -> None:
    assert over_seeds.mean_sd([2, 4, 4, 4, 5, 5, 7, 9]) == (5.0, pytest.approx(math.sqrt(32 / 7)))
    assert over_seeds.mean_sd([3.5]) == (3.5, None)
    assert over_seeds.standard_error([2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx(math.sqrt(32 / 7 / 8))


def test_t_interval_equals_scipy() -> None:
    values = [0.4, -0.1, 0.3, 0.9]
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert over_seeds.t_interval(values) == pytest.approx((expected.low, expected.high))
    with pytest.raises(ValueError, match="two or more"):
        over_seeds.t_interval([1.0])


def test_sign_flip_of_darwins_maize() -> None:
    """Fisher's own example (The Design of Experiments, section 21): 1,726 of 32,768 patterns, p = 0.0527."""
    maize = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert over_seeds.sign_flip(maize) == pytest.approx(1726 / 32768)


def test_sign_flip_equals_scipys_exact_permutation_test() -> None:
    values = np.array([0.4, -0.1, 0.3, 0.9, 0.2, -0.05, 0.7])
    scipys = scipy_stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert over_seeds.sign_flip(values.tolist()) == pytest.approx(scipys.pvalue)


@pytest.mark.parametrize("count", [1, 2, 6, 9])
def test_sign_flip_cannot_go_below_its_floor(count: int) -> None:
    assert over_seeds.sign_flip([0.3] * count) == 2 / 2**count


def test_sign_flip_without_any_difference_is_one_and_bounds_its_input() -> None:
    assert over_seeds.sign_flip([0.0, 0.0, 0.0]) == 1.0
    with pytest.raises(ValueError, match="1 to 24"):
        over_seeds.sign_flip([])


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_sign_flip_equals_brute_force(values: list[float]) -> None:
    patterns = list(itertools.product([1, -1], repeat=len(values)))
    observed, slack = abs(sum(values)), 1e-9 * sum(map(abs, values))
    sums = [abs(math.fsum(s * v for s, v in zip(p, values, strict=True))) for p in patterns]
    assert over_seeds.sign_flip(values) == pytest.approx(
        sum(s >= observed - slack for s in sums) / len(patterns)
    )


def test_holm_worked_example() -> None:
    """p = .01 .04 .03 .005 -> .03 .06 .06 .02, as R's p.adjust(p, "holm") gives."""
    assert over_seeds.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert over_seeds.holm([]) == []
    assert over_seeds.holm([0.6, 0.7]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=8))
@settings(max_examples=50, deadline=None)
def test_holm_never_lowers_and_keeps_the_order(values: list[float]) -> None:
    adjusted = over_seeds.holm(values)
    assert all(p <= a <= 1 for p, a in zip(values, adjusted, strict=True))
    ranked = [adjusted[i] for i in sorted(range(len(values)), key=values.__getitem__)]
    assert ranked == sorted(ranked)
