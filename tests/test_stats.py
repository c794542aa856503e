"""Paired statistics: worked examples, scipy's and sacrebleu's own numbers, and brute force."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats as scipy_stats

from finetune import stats

WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "red", "small", ",", "."]


def _corpus(rows: int, noise: float, seed: int) -> tuple[list[str], list[str]]:
    """Predictions with a share of ``noise`` wrong words, and their references."""
    rng = random.Random(seed)
    references = [[rng.choice(WORDS) for _ in range(rng.randint(5, 14))] for _ in range(rows)]
    wrong = random.Random(seed + 1 + round(noise * 100))
    predictions = [[wrong.choice(WORDS) if wrong.random() < noise else w for w in r] for r in references]
    return [" ".join(p) for p in predictions], [" ".join(r) for r in references]


def test_mean_and_sd_of_a_worked_example() -> None:
    assert stats.mean_sd([2, 4, 4, 4, 5, 5, 7, 9]) == (5.0, pytest.approx(math.sqrt(32 / 7)))
    assert stats.mean_sd([3.5]) == (3.5, None)


def test_t_interval_equals_scipy() -> None:
    values = [0.4, -0.1, 0.3, 0.9]
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert stats.t_interval(values) == pytest.approx((expected.low, expected.high))
    with pytest.raises(ValueError, match="two or more"):
        stats.t_interval([1.0])


def test_sign_flip_of_darwins_maize() -> None:
    """Fisher's own example (The Design of Experiments, section 21): 1,726 of 32,768 patterns, p = 0.0527."""
    maize = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert stats.sign_flip(maize) == pytest.approx(1726 / 32768)


@pytest.mark.parametrize("count", [1, 2, 6, 9])
def test_sign_flip_cannot_go_below_its_floor(count: int) -> None:
    assert stats.sign_flip([0.3] * count) == 2 / 2**count


def test_sign_flip_without_any_difference_is_one_and_bounds_its_input() -> None:
    assert stats.sign_flip([0.0, 0.0, 0.0]) == 1.0
    with pytest.raises(ValueError, match="1 to 24"):
        stats.sign_flip([])


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_sign_flip_equals_brute_force(values: list[float]) -> None:
    patterns = list(itertools.product([1, -1], repeat=len(values)))
    observed, slack = abs(sum(values)), 1e-9 * sum(map(abs, values))
    sums = [abs(math.fsum(s * v for s, v in zip(p, values, strict=True))) for p in patterns]
    assert stats.sign_flip(values) == pytest.approx(sum(s >= observed - slack for s in sums) / len(patterns))


def test_mcnemar_worked_examples() -> None:
    # 2 * (C(15,0) + ... + C(15,3)) / 2^15
    assert stats.mcnemar(3, 12) == pytest.approx(2 * (1 + 15 + 105 + 455) / 2**15)
    assert stats.mcnemar(12, 3) == stats.mcnemar(3, 12)
    assert stats.mcnemar(0, 0) == 1.0
    assert stats.mcnemar(4, 4) == 1.0


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_row_sign_flip_with_one_seed_is_mcnemar(better: int, worse: int, equal: int) -> None:
    rows = [1] * better + [-1] * worse + [0] * equal
    assert stats.row_sign_flip(np.array(rows, dtype=int)) == pytest.approx(
        stats.mcnemar(better, worse), abs=1e-9
    )


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
@settings(max_examples=40, deadline=None)
def test_row_sign_flip_equals_brute_force(values: list[int]) -> None:
    patterns = list(itertools.product([1, -1], repeat=len(values)))
    sums = [abs(sum(s * v for s, v in zip(p, values, strict=True))) for p in patterns]
    expected = sum(s >= abs(sum(values)) for s in sums) / len(patterns)
    assert stats.row_sign_flip(values) == pytest.approx(expected, abs=1e-9)


def test_row_sign_flip_is_quick_and_right_at_full_size() -> None:
    values = np.random.default_rng(0).choice([-3, -1, 0, 1, 2, 3], size=70_000)
    normal = 2 * scipy_stats.norm.sf(abs(values.sum()) / math.sqrt((values**2).sum()))
    assert stats.row_sign_flip(values) == pytest.approx(normal, rel=0.02, abs=1e-4)


def test_compare_accuracy_by_hand() -> None:
    baseline = np.array([[True] * 60 + [False] * 40])
    variant = np.array([[True] * 57 + [False] * 3 + [True] * 12 + [False] * 28])
    result = stats.compare_accuracy(baseline, variant)
    assert result.difference == pytest.approx(0.09)
    assert result.p == pytest.approx(stats.mcnemar(3, 12))
    assert result.test == "exact McNemar"
    wald = math.sqrt((15 / 100 - 0.09**2) / 100)
    assert result.standard_error == pytest.approx(wald, rel=0.06)
    assert result.interval == pytest.approx((0.09 - 1.96 * wald, 0.09 + 1.96 * wald), abs=0.012)


def test_compare_accuracy_is_deterministic_and_antisymmetric() -> None:
    rng = np.random.default_rng(3)
    baseline, variant = rng.random((3, 211)) < 0.7, rng.random((3, 211)) < 0.8
    one, again = stats.compare_accuracy(baseline, variant), stats.compare_accuracy(baseline, variant)
    other = stats.compare_accuracy(variant, baseline)
    assert one == again
    assert other.difference == -one.difference
    assert other.p == pytest.approx(one.p)
    assert "3 seeds" in one.test


def test_equal_correctness_is_no_difference() -> None:
    right = np.random.default_rng(1).random((2, 50)) < 0.5
    result = stats.compare_accuracy(right, right)
    assert (result.difference, result.interval, result.p) == (0.0, (0.0, 0.0), 1.0)


def test_the_bootstrap_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        baseline, variant = rng.random((1, 150)) < 0.7, rng.random((1, 150)) < 0.75
        low, high = stats.compare_accuracy(baseline, variant).interval
        covered += low <= 0.05 <= high
    assert 0.90 <= covered / 200 <= 0.99


@pytest.mark.parametrize("empty", [False, True])
def test_bleu_from_counts_is_sacrebleus(empty: bool) -> None:
    predictions, references = _corpus(23, 0.4, 0)
    predictions = [""] * 23 if empty else ["", *predictions[1:]]
    scorer = BLEU()
    counts = stats.bleu_counts(scorer, predictions, references)
    assert counts.shape == (23, 10)
    expected = scorer.corpus_score(predictions, [references]).score
    assert stats.bleu(scorer, counts.sum(0)) == pytest.approx(expected, abs=1e-9)


def test_bleu_p_with_one_seed_is_sacrebleus_own() -> None:
    (first, references), (second, _) = _corpus(67, 0.40, 0), _corpus(67, 0.36, 0)
    scorer = BLEU()
    paired = PairedTest([("a", first), ("b", second)], {"BLEU": BLEU()}, [references], "ar")
    expected = paired()[1]["BLEU"][1]
    one, two = (stats.bleu_counts(scorer, side, references) for side in (first, second))
    result = stats.compare_bleu(scorer, [one], [two])
    assert result.p == expected.p_value
    assert 0.001 < result.p < 0.99
    first_score = scorer.corpus_score(first, [references]).score
    assert result.difference == pytest.approx(expected.score - first_score)
    assert result.interval[0] < result.difference < result.interval[1]


def test_bleu_over_seeds_and_of_identical_systems() -> None:
    (first, references), (second, _) = _corpus(41, 0.5, 1), _corpus(41, 0.1, 1)
    scorer = BLEU()
    one, two = (stats.bleu_counts(scorer, side, references) for side in (first, second))
    several = stats.compare_bleu(scorer, [one, one], [two, two])
    single = stats.compare_bleu(scorer, [one], [two])
    assert several.difference == pytest.approx(single.difference)
    assert (several.p, single.p) == (1 / 10001, 1 / 10001)
    assert "2 seeds" in several.test
    same = stats.compare_bleu(scorer, [one], [one])
    assert (same.difference, same.interval, same.p) == (0.0, (0.0, 0.0), 1.0)


def test_holm_worked_example() -> None:
    """p = .01 .04 .03 .005 -> .03 .06 .06 .02, as R's p.adjust(p, "holm") gives."""
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([]) == []
    assert stats.holm([0.6, 0.7]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=8))
@settings(max_examples=50, deadline=None)
def test_holm_never_lowers_and_keeps_the_order(values: list[float]) -> None:
    adjusted = stats.holm(values)
    assert all(p <= a <= 1 for p, a in zip(values, adjusted, strict=True))
    ranked = [adjusted[i] for i in sorted(range(len(values)), key=values.__getitem__)]
    assert ranked == sorted(ranked)


def test_detectable_differences() -> None:
    assert stats.detectable_over_rows(1.0) == pytest.approx(1.95996 + 0.84162, abs=1e-4)
    values = [0.1, 0.5, 0.3]
    sd = stats.mean_sd(values)[1]
    assert sd is not None
    assert stats.detectable_over_seeds(values) == pytest.approx(
        (4.3027 + 1.0607) * sd / math.sqrt(3), rel=1e-4
    )
    with pytest.raises(ValueError, match="two or more"):
        stats.detectable_over_seeds([0.1])
