"""Values of sums over few documents of unequal size: the corrections, and that the rule keeps its promise."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from finetune.metrics.rows import mean_nats, perplexity
from finetune.statistics import over_sums
from finetune.statistics.over_sums import compare_sums, few


def test_equal_documents_have_students_t() -> None:
    for count in (2, 5, 12, 250):
        bias, tail = few(np.full(count, 7.0))
        assert bias == pytest.approx(np.sqrt(count / (count - 1)))
        assert tail == pytest.approx(scipy_stats.t.ppf(0.975, count - 1) / scipy_stats.norm.ppf(0.975))
    assert few(np.array([7.0])) == (1.0, 1.0)


def test_unequal_documents_count_as_fewer() -> None:
    """Against the quadratic form itself, A = (I - w1')D(I - 1w') with D = diag(w^2)."""
    sizes = np.random.default_rng(0).lognormal(0, 1, 9)
    shares = sizes / sizes.sum()
    centered = np.eye(9) - np.outer(np.ones(9), shares)
    form = centered.T @ np.diag(shares**2) @ centered
    freedom = np.trace(form) ** 2 / np.trace(form @ form)
    bias, tail = few(sizes)
    assert bias == pytest.approx(np.sqrt((shares**2).sum() / np.trace(form)))
    assert tail == pytest.approx(scipy_stats.t.ppf(0.975, freedom) / scipy_stats.norm.ppf(0.975))
    assert freedom < 8 and bias > np.sqrt(9 / 8)


def test_one_long_document_among_short_ones_decides_nothing() -> None:
    tokens = np.array([1e6, 100, 100, 100, 100, 100, 100])
    one = np.column_stack([4.0 * tokens, tokens])
    two = np.column_stack([np.array([3.9, 4.1, 4, 4, 4.1, 4, 4]) * tokens, tokens])
    result = compare_sums(mean_nats, [one], [two], tokens)
    assert result.difference == pytest.approx(-0.1, abs=1e-3)
    assert result.p > 0.4 and result.interval[0] < 0 < result.interval[1]


def test_a_value_of_sums_is_no_mean_of_values() -> None:
    tokens = np.array([10.0, 1000.0])
    one = np.column_stack([np.array([1.0, 2.0]) * tokens, tokens])
    assert perplexity(one.sum(axis=0)) == pytest.approx(np.exp(2010 / 1010))
    assert compare_sums(perplexity, [one], [one], tokens).difference == 0


def _misses(documents: int, studies: int, *, corrected: bool) -> float:
    """The share of intervals over documents that miss a true difference of 0; documents differ in size."""
    rng, missed = np.random.default_rng(documents), 0
    for _ in range(studies):
        tokens = rng.lognormal(8, 0.7, documents).round()
        shared = rng.normal(4, 0.3, documents)
        first, second = (_sums(shared + rng.normal(0, 0.02, documents), tokens) for _ in range(2))
        result = compare_sums(mean_nats, [first], [second], tokens if corrected else None)
        missed += not result.interval[0] <= 0 <= result.interval[1]
    return missed / studies


def _sums(mean: NDArray[np.float64], tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.column_stack([mean * tokens, tokens])


def test_intervals_over_few_documents_keep_their_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_sums.over_seeds, "TRIALS", 64)  # of the p that is not looked at here
    monkeypatch.setattr(over_sums.over_seeds, "RESAMPLES", 400)
    most = scipy_stats.binom.ppf(0.999, 300, 0.05) / 300
    assert _misses(12, 300, corrected=True) <= most
    assert _misses(30, 300, corrected=True) <= most
    assert _misses(12, 300, corrected=False) > 0.09  # the plain percentile interval is too short
