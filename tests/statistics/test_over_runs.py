"""Distances between runs: the jackknife by hand, and intervals that hold what they promise."""

from itertools import combinations

import numpy as np
import pytest

from finetune.statistics import over_runs


def apart(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return (one != two).astype(float)


def classes(drawn: np.random.Generator, seeds: int, rows: int, spread: float = 0.1) -> list[np.ndarray]:
    """Runs of two variants that are alike, (seeds, rows) each: rows are easy or not, runs have leanings."""
    rows_own = drawn.normal(size=(rows, 4)) + 2 * np.eye(4)[drawn.integers(0, 4, rows)]
    shared = drawn.normal(size=(seeds, rows, 4))  # of a seed, by its data order
    found = []
    for _ in range(2):
        leaning = spread * drawn.normal(size=(seeds, 1, 4))
        noise = np.sqrt(0.3) * shared + np.sqrt(0.7) * drawn.normal(size=(seeds, rows, 4))
        found.append((rows_own + leaning + 0.5 * noise).argmax(axis=-1))
    return found


@pytest.mark.parametrize("seeds", [3, 5])
def test_pseudo_values_are_those_of_leaving_a_seed_out(seeds: int) -> None:
    runs, _ = classes(np.random.default_rng(1), seeds, 23)
    table = over_runs.reseeded(list(runs), apart)

    def mean(kept: list[int]) -> np.ndarray:
        return np.mean([apart(runs[a], runs[b]) for a, b in combinations(kept, 2)], axis=0)

    whole = mean(list(range(seeds)))
    np.testing.assert_allclose(table.mean(axis=0), whole, atol=1e-12)
    for seed in range(seeds):
        left = mean([other for other in range(seeds) if other != seed])
        np.testing.assert_allclose(table[seed], seeds * whole - (seeds - 1) * left, atol=1e-12)


def test_two_runs_are_one_pair_and_know_the_noise_of_rows_alone() -> None:
    one, two = np.array([0, 1, 2, 3, 0, 1, 2]), np.array([0, 1, 2, 0, 0, 2, 2])
    table = over_runs.reseeded([one, two], apart)
    assert table.tolist() == [[0, 0, 0, 1, 0, 1, 0]]
    low, high = over_runs.interval(table)
    assert (low + high) / 2 == pytest.approx(2 / 7)
    assert (high - low) / 2 == pytest.approx(1.96 * np.std(table, ddof=1) / np.sqrt(7), rel=1e-3)


def test_runs_that_are_the_same_are_not_apart() -> None:
    runs = [np.arange(9)] * 4
    for table in (over_runs.swapped(runs, runs, apart), over_runs.reseeded(runs, apart)):
        assert not table.any() and over_runs.interval(table) == (0.0, 0.0)


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of swap, reseed and their difference; 100 studies, so that 9% is what 5% may look like."""
    drawn, studies, misses = np.random.default_rng(7), 100, np.zeros(3)

    def tables(seeds: int, rows: int) -> list[np.ndarray]:
        first, second = classes(drawn, seeds, rows)
        swap = over_runs.swapped(first, second, apart)
        reseed = np.mean([over_runs.reseeded(list(side), apart) for side in (first, second)], axis=0)
        return [swap, reseed, swap - reseed]

    truth = np.mean([[table.mean() for table in tables(3, 2000)] for _ in range(100)], axis=0)
    for _ in range(studies):
        ends = [over_runs.interval(table) for table in tables(3, 300)]
        misses += [not low <= value <= high for (low, high), value in zip(ends, truth, strict=True)]
    assert (misses / studies <= 0.09).all(), misses / studies
    assert truth[2] < 0  # what a seed shares between the variants makes a swap change less than a reseed
