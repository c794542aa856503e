"""Comparisons over test rows: McNemar and its extension, the ideal bootstrap, and sacrebleu's own tests."""

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

from finetune.statistics import bleu, over_rows, over_sums
from finetune.statistics.over_rows import MIDDLES

WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "red", "small", ",", "."]


def _corpus(rows: int, noise: float, seed: int) -> tuple[list[str], list[str]]:
    """Predictions with a share of ``noise`` wrong words, and their references."""
    rng = random.Random(seed)
    references = [[rng.choice(WORDS) for _ in range(rng.randint(5, 14))] for _ in range(rows)]
    wrong = random.Random(seed + 1 + round(noise * 100))
    predictions = [[wrong.choice(WORDS) if wrong.random() < noise else w for w in r] for r in references]
    return [" ".join(p) for p in predictions], [" ".join(r) for r in references]


def test_mcnemar_worked_examples() -> None:
    # 2 * (C(15,0) + ... + C(15,3)) / 2^15
    assert over_rows.mcnemar(3, 12) == pytest.approx(2 * (1 + 15 + 105 + 455) / 2**15)
    assert over_rows.mcnemar(12, 3) == over_rows.mcnemar(3, 12)
    assert over_rows.mcnemar(0, 0) == 1.0
    assert over_rows.mcnemar(4, 4) == 1.0


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_row_sign_flip_with_one_seed_is_mcnemar(better: int, worse: int, equal: int) -> None:
    rows = [1] * better + [-1] * worse + [0] * equal
    found = over_rows.row_sign_flip(np.array(rows, dtype=int))
    assert found == pytest.approx(over_rows.mcnemar(better, worse), abs=2e-9)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
@settings(max_examples=40, deadline=None)
def test_row_sign_flip_equals_brute_force(values: list[int]) -> None:
    patterns = list(itertools.product([1, -1], repeat=len(values)))
    sums = [abs(sum(s * v for s, v in zip(p, values, strict=True))) for p in patterns]
    expected = sum(s >= abs(sum(values)) for s in sums) / len(patterns)
    assert over_rows.row_sign_flip(values) == pytest.approx(expected, abs=1e-9)


def test_row_sign_flip_is_quick_and_right_at_full_size() -> None:
    values = np.random.default_rng(0).choice([-3, -1, 0, 1, 2, 3], size=70_000)
    normal = 2 * scipy_stats.norm.sf(abs(values.sum()) / math.sqrt((values**2).sum()))
    assert over_rows.row_sign_flip(values) == pytest.approx(normal, rel=0.02, abs=1e-4)
    close = np.repeat([1, -1], [35_100, 34_900])  # p is far from 0 and 1
    expected = scipy_stats.binomtest(35_100, 70_000).pvalue
    assert over_rows.row_sign_flip(close) == pytest.approx(expected, rel=1e-6)


def test_compare_accuracy_by_hand() -> None:
    baseline = np.array([[True] * 60 + [False] * 40])
    variant = np.array([[True] * 57 + [False] * 3 + [True] * 12 + [False] * 28])
    result = over_rows.compare_accuracy(baseline, variant)
    assert result.difference == pytest.approx(0.09)
    assert result.p == pytest.approx(over_rows.mcnemar(3, 12))
    assert (result.test, result.rows, result.residual) == ("exact McNemar", 100, 0.0)
    wald = math.sqrt((15 / 100 - 0.09**2) / 99)
    assert result.standard_error == pytest.approx(wald)
    assert result.interval == pytest.approx((0.09 - 1.96 * wald, 0.09 + 1.96 * wald), abs=0.012)


def test_the_bootstrap_over_rows_is_scipys_with_all_resamples() -> None:
    rng = np.random.default_rng(5)
    baseline, variant = rng.random((3, 211)) < 0.7, rng.random((3, 211)) < 0.8
    result = over_rows.compare_accuracy(baseline, variant)
    differences = variant.mean(axis=0) - baseline.mean(axis=0)
    scipys = scipy_stats.bootstrap(
        (differences,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    )
    expected = scipys.confidence_interval
    assert result.interval == pytest.approx((expected.low, expected.high), abs=0.003)
    assert result.spread.std() == pytest.approx(scipys.standard_error, rel=0.02)
    away = scipys.bootstrap_distribution - result.difference
    assert result.p_bootstrap == pytest.approx(np.mean(np.abs(away) >= result.difference), abs=0.005)
    assert np.quantile(away, MIDDLES[[3, 200, -4]]) == pytest.approx(result.spread[[3, 200, -4]], abs=0.004)


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_the_ideal_bootstrap_equals_every_resample(differences: list[int]) -> None:
    sums, shares = over_rows._resampled_sums(np.array(differences), 2)
    every = [sum(drawn) for drawn in itertools.product(differences, repeat=len(differences))]
    expected = [every.count(total) / len(every) for total in sums]
    assert shares == pytest.approx(expected, abs=1e-9)


def test_what_seeds_do_not_share_is_the_interaction_of_a_table() -> None:
    """2 seeds x 4 rows, d = [[1, 0, 0, 1], [0, 0, -1, 1]]. By hand: seeds' means .5, 0; rows' .5, 0, -.5, 1;
    sums of squares 3.5 in all, .5 by seeds, 2.5 by rows, so .5 are left over 3 degrees of freedom."""
    baseline = np.array([[False, False, False, False], [False, False, True, False]])
    variant = np.array([[True, False, False, True], [False, False, False, True]])
    result = over_rows.compare_accuracy(baseline, variant)
    assert result.difference == pytest.approx(0.25)
    assert result.residual == pytest.approx(math.sqrt(0.5 / 3 / 8))
    assert result.standard_error == pytest.approx(math.sqrt(2.5 / 3 / 8))


def test_compare_accuracy_is_deterministic_and_antisymmetric() -> None:
    rng = np.random.default_rng(3)
    baseline, variant = rng.random((3, 211)) < 0.7, rng.random((3, 211)) < 0.8
    one, again = over_rows.compare_accuracy(baseline, variant), over_rows.compare_accuracy(baseline, variant)
    other = over_rows.compare_accuracy(variant, baseline)
    assert one == again
    assert (other.difference, other.standard_error) == pytest.approx((-one.difference, one.standard_error))
    assert other.p == pytest.approx(one.p)
    assert "3 seeds" in one.test
    scaled = one.scaled(100)
    assert scaled.interval == pytest.approx([100 * end for end in one.interval])
    assert (scaled.p, scaled.residual, scaled.rows) == (one.p, 100 * one.residual, 211)
    assert scaled.spread == pytest.approx(100 * one.spread)


@pytest.mark.parametrize("rows", [1, 50])
def test_equal_correctness_is_no_difference(rows: int) -> None:
    right = np.random.default_rng(1).random((2, rows)) < 0.5
    result = over_rows.compare_accuracy(right, right)
    assert (result.difference, result.interval) == (0.0, (0.0, 0.0))
    assert (result.p, result.p_bootstrap) == (pytest.approx(1.0), pytest.approx(1.0))
    assert (result.standard_error, result.residual) == (0.0, 0.0)


def test_the_bootstrap_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        baseline, variant = rng.random((1, 150)) < 0.7, rng.random((1, 150)) < 0.75
        low, high = over_rows.compare_accuracy(baseline, variant).interval
        covered += low <= 0.05 <= high
    assert 0.92 <= covered / 400 <= 0.98


@pytest.mark.parametrize("empty", [False, True])
def test_bleu_from_counts_is_sacrebleus(empty: bool) -> None:
    predictions, references = _corpus(23, 0.4, 0)
    predictions = [""] * 23 if empty else ["", *predictions[1:]]
    scorer = BLEU()
    counts = bleu.counts(scorer, predictions, references)
    assert counts.shape == (23, 10)
    expected = scorer.corpus_score(predictions, [references]).score
    assert bleu.bleu(counts.sum(0)) == pytest.approx(expected, abs=1e-9)


def test_bleu_of_many_corpora_is_sacrebleus_of_each() -> None:
    """Short ones, with nothing right in some orders or with too few words for them."""
    rng = np.random.default_rng(0)
    totals = np.maximum(0, rng.integers(0, 9, (300, 1)) - np.arange(4))
    right = rng.integers(0, totals + 1)
    lengths = np.column_stack([totals[:, 0], rng.integers(0, 9, 300)])
    scores = bleu.bleu(np.hstack([lengths, right, totals]).reshape(3, 100, 10))
    expected = [
        BLEU.compute_bleu(r.tolist(), t.tolist(), int(n[0]), int(n[1]), "exp").score
        for n, r, t in zip(lengths, right, totals, strict=True)
    ]
    assert len({round(score, 6) for score in expected}) > 50
    assert scores.ravel() == pytest.approx(np.array(expected), abs=1e-9)


@pytest.mark.parametrize("rows", [67, 701])
def test_both_p_of_bleu_with_one_seed_are_sacrebleus_own(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_sums, "_NUMBERS", 200_000)  # so that the draws come in several parts
    (first, references), (second, _) = _corpus(rows, 0.40, 0), _corpus(rows, 0.385, 0)
    systems, scorer = [("a", first), ("b", second)], BLEU()
    scores = {
        kind: PairedTest(systems, {"BLEU": BLEU()}, [references], kind)()[1]["BLEU"] for kind in ("ar", "bs")
    }
    one, two = (bleu.counts(scorer, side, references) for side in (first, second))
    result = bleu.compare_bleu([one], [two])
    assert result.p == scores["ar"][1].p_value
    assert result.p_bootstrap == scores["bs"][1].p_value
    assert 0.001 < result.p < 0.99 and 0.001 < result.p_bootstrap < 0.99
    first_score = scorer.corpus_score(first, [references]).score
    assert result.difference == pytest.approx(scores["bs"][1].score - first_score)
    assert result.interval[0] < result.difference < result.interval[1]


def test_bleu_over_seeds_and_of_identical_systems() -> None:
    (first, references), (second, _) = _corpus(41, 0.5, 1), _corpus(41, 0.1, 1)
    scorer = BLEU()
    one, two = (bleu.counts(scorer, side, references) for side in (first, second))
    several = bleu.compare_bleu([one, one], [two, two])
    single = bleu.compare_bleu([one], [two])
    assert several.difference == pytest.approx(single.difference)
    assert several.standard_error == pytest.approx(single.standard_error)
    assert several.residual == pytest.approx(0.0, abs=1e-9)  # the seeds share everything
    assert (several.p, single.p, single.p_bootstrap) == (1 / 10001, 1 / 10001, 1 / 1001)
    assert "2 seeds" in several.test
    same = bleu.compare_bleu([one], [one])
    assert (same.difference, same.interval, same.p, same.p_bootstrap) == (0.0, (0.0, 0.0), 1.0, 1.0)


def test_the_rows_of_bleu_are_resampled_for_all_seeds_at_once() -> None:
    """Rows on which all seeds are better alike do not average out over seeds; errors of each seed do."""
    scorer, references = BLEU(), _corpus(120, 0.0, 3)[1]

    def runs(shared: bool) -> list[np.ndarray]:
        found = []
        for seed in range(4):
            wrong = random.Random(0 if shared else seed + 1)
            texts = [" ".join("x" if wrong.random() < 0.3 else w for w in r.split()) for r in references]
            found.append(bleu.counts(scorer, texts, references))
        return found

    clean = [bleu.counts(scorer, references, references)] * 4
    alike, own = bleu.compare_bleu(clean, runs(True)), bleu.compare_bleu(clean, runs(False))
    assert alike.standard_error > 1.5 * own.standard_error
    assert own.residual == pytest.approx(own.standard_error, rel=0.2)
