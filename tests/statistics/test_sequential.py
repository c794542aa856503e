"""Levels of planned looks: together they let equal methods differ in 5%."""

import numpy as np
import pytest
from scipy.special import ndtri

from finetune.statistics.sequential import Looks


@pytest.mark.parametrize("looks", [Looks(3, 11), Looks(2, 9, 1), Looks(5, 25, 10), Looks(3, 8)])
def test_equal_methods_cross_a_level_at_any_look_in_one_of_twenty(looks: Looks) -> None:
    rng = np.random.default_rng(7)
    sums = rng.normal(size=(100_000, looks.most)).cumsum(axis=1)
    crossed = np.zeros(len(sums), dtype=bool)
    for seeds, level in zip(looks.seeds, looks.levels, strict=True):
        crossed |= np.abs(sums[:, seeds - 1]) / np.sqrt(seeds) >= -ndtri(level / 2)
    assert crossed.mean() == pytest.approx(0.05, abs=0.002)


def test_one_look_has_all_of_the_level() -> None:
    assert Looks(4, 4).levels == (pytest.approx(0.05),)


def test_levels_rise_and_are_above_what_is_spent() -> None:
    """The first is 5% times (1/5)^2; each is above the one before, and above what is spent on it."""
    levels = Looks(2, 10).levels
    spent = np.diff(0.05 * (np.arange(6) / 5) ** 2)
    assert levels[0] == pytest.approx(spent[0]) and (np.diff(levels) > 0).all()
    assert (np.array(levels[1:]) > spent[1:]).all()


@pytest.mark.parametrize(("seeds", "look"), [(1, 0), (3, 0), (4, 0), (5, 1), (8, 3), (9, 3)])
def test_the_level_is_that_of_the_last_look_that_so_many_seeds_allow(seeds: int, look: int) -> None:
    looks = Looks(3, 8)
    assert looks.seeds == (3, 5, 7, 8)
    assert looks.level(seeds) == looks.levels[look]
