"""What a design can see: Cohen's and G*Power's worked examples, scipy's distributions, and simulation."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from finetune.statistics.bootstrap import Noise, hierarchical
from finetune.statistics.over_rows import MIDDLES, RowResult
from finetune.statistics.power import POWER, _critical, detectable, power, seeds_needed


def test_power_of_a_paired_t_test_as_in_gpower() -> None:
    """Effect size 0.5, 34 pairs, two-sided 5%: power 0.808 (G*Power 3.1, t tests, matched pairs)."""
    assert power(0.5, Noise(1 / math.sqrt(34), 0.0, 34)) == pytest.approx(0.8077775, abs=1e-6)
    assert power(0.0, Noise(0.2, 0.0, 5)) == pytest.approx(0.025, abs=1e-3)  # the upper tail
    assert 0.01 < power(0.0, Noise(0.2, 0.1, 5)) < 0.025


@pytest.mark.parametrize(("wanted", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_seeds_needed_as_in_cohens_tables(wanted: float, seeds: int) -> None:
    """Small, medium and large effects of a paired t test: 199, 34 and 15 pairs (G*Power 3.1), whatever the
    number of seeds that the noise was seen in."""
    for seen in (2, 10):
        assert seeds_needed(wanted, Noise(1 / math.sqrt(seen), 0.0, seen)) == seeds


def test_rows_are_a_floor_that_no_number_of_seeds_goes_below() -> None:
    floor = (scipy_stats.norm.ppf(0.975) + scipy_stats.norm.ppf(POWER)) * 0.3
    noise = Noise(seed=0.2, row=0.3, seeds=4)
    assert seeds_needed(0.99 * floor, noise) is None
    assert seeds_needed(1.02 * floor, noise) is not None
    assert seeds_needed(0.5, Noise(0.2, 0.0, 4)) is not None


def test_more_comparisons_want_more() -> None:
    noise = Noise(0.2, 0.1, 6)
    sizes = [detectable(noise, comparisons) for comparisons in (1, 2, 7)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    needed = [seeds_needed(1.0, noise, comparisons) or 0 for comparisons in (1, 2, 7)]
    assert needed == sorted(needed) and needed[0] < needed[-1]


@pytest.mark.parametrize(
    ("seed", "row", "seeds"), [(0.2, 0.0, 2), (0.2, 0.1, 3), (0.2, 0.3, 3), (0.1, 0.3, 7), (0.0, 0.3, 5)]
)
def test_what_is_detectable_is_claimed_4_times_in_5(seed: float, row: float, seeds: int) -> None:
    """Seeds and rows drawn from normal distributions, and the hierarchical bootstrap of each draw."""
    noise = Noise(seed, row, seeds)
    size = detectable(noise, comparisons=2)
    assert power(size, noise, comparisons=2) == pytest.approx(POWER)
    rng, spread = np.random.default_rng(0), row * scipy_stats.norm.ppf(MIDDLES)
    claimed = 0
    for _ in range(400):
        shared = size + row * rng.normal()
        per_seed = shared + seed * math.sqrt(seeds) * rng.normal(size=seeds)
        interval = (shared - 1.96 * row, shared + 1.96 * row)
        p = 2 * scipy_stats.norm.sf(abs(per_seed.mean()) / row) if row else 0.0
        rows = RowResult(shared, interval, row, 0.0, p, "t", p, 500, spread)
        claimed += hierarchical(per_seed.tolist(), rows).p < 0.025
    assert claimed / 400 == pytest.approx(POWER, abs=0.06)


@pytest.mark.parametrize(("freedom", "ratio"), [(1, 0.5), (1, 5.0), (2, 40.0), (6, 2.0)])
def test_quantiles_of_students_t_and_a_normal_number_together(freedom: int, ratio: float) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.standard_t(freedom, 400_000) + ratio * rng.normal(size=400_000)
    (found,) = _critical(np.array([ratio]), freedom, 0.05)
    assert np.mean(drawn > found) == pytest.approx(0.025, rel=0.04)


def test_few_and_many_seeds_meet() -> None:
    for row in (0.0, 0.1, 0.4):
        sizes = [power(0.6, Noise(0.2, row, seeds)) for seeds in (30, 31)]
        assert sizes[0] == pytest.approx(sizes[1], abs=0.005)


def test_the_seeds_that_are_needed_are_enough_and_no_fewer_are() -> None:
    noise = Noise(seed=0.5, row=0.1, seeds=3)
    needed = seeds_needed(0.8, noise, comparisons=2)
    assert needed is not None
    for seeds, enough in ((needed, True), (needed - 1, False)):
        moved = Noise(0.5 * math.sqrt(3 / seeds), 0.1, seeds)
        assert (power(0.8, moved, 2) >= POWER) == enough


@pytest.mark.filterwarnings("error")
def test_no_noise_and_extremes_give_numbers() -> None:
    assert detectable(Noise(0.0, 0.0, 3)) == 0.0
    assert (power(0.1, Noise(0.0, 0.0, 3)), power(0.0, Noise(0.0, 0.0, 3))) == (1.0, 0.0)
    assert seeds_needed(0.5, Noise(0.0, 0.0, 3)) == 2
    for seed in np.geomspace(1e-9, 1e3, 13):
        for row in (0.0, *np.geomspace(1e-9, 1e3, 7)):
            for seeds in (2, 7, 1_000_000):
                noise = Noise(float(seed), float(row), seeds)
                sizes = [power(float(d), noise, 3) for d in np.geomspace(1e-6, 1e6, 13)]
                assert all(0 <= value <= 1 for value in sizes)
                assert math.isfinite(detectable(noise, 3))
