"""Effect sizes by hand: error reduction, probability of improvement, wins over seeds and over tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from finetune.comparison.compare import Comparison, compare
from finetune.comparison.effects import effects
from finetune.comparison.verdicts import Outcome, verdicts
from finetune.metrics import registry
from finetune.statistics.bootstrap import improvement_draws, improvement_over
from finetune.statistics.over_seeds import improvement
from tests.support.comparisons import difference_of
from tests.support.records import save_accuracies

BASELINE, VARIANT = [0.80, 0.81, 0.79, 0.80], [0.81, 0.80, 0.79, 0.83]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    root = tmp_path_factory.mktemp("runs")
    for task in ("agnews", "yelp"):
        save_accuracies(root, "softmax", BASELINE, rows=100, task=task)
        save_accuracies(root, "sa-softmax", VARIANT, rows=100, task=task)
        save_accuracies(root, "sigmoid", [0.5, 0.5, 0.5], rows=100, task=task)
    return compare(root)


def test_effect_sizes_of_accuracy(comparison: Comparison) -> None:
    found = difference_of(comparison.tables[0])
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.error_reduction == pytest.approx(100 * (1 - 19.25 / 20))
    u = mannwhitneyu(VARIANT, BASELINE).statistic
    assert found.improvement == pytest.approx(u / 16) == improvement(BASELINE, VARIANT)
    seeds = difference_of(comparison.tables[0], "sigmoid")
    assert (seeds.improvement, seeds.losses) == (0.0, 3), "over the seeds that were paired"


@pytest.mark.parametrize(
    ("metric", "reduction", "better"),
    [
        ("accuracy", 10.0, True),  # errors of 20 and 18
        ("bleu", 10.0, True),
        ("perplexity", 100 * (1 - 81 / 79), False),  # above 1, the best
        ("masked_loss", -2.5, False),
        ("wer", None, True),  # which nobody declared: no best value is known
    ],
)
def test_the_direction_and_the_best_value_are_the_metrics(
    comparison: Comparison, metric: str, reduction: float | None, better: bool
) -> None:
    base = replace(difference_of(comparison.tables[0]), seeds=[0, 1], per_seed=[2.0, 2.0], mean=2.0)
    found = effects(base, registry.get(metric), {0: 80.0, 1: 80.0}, {0: 82.0, 1: 82.0})
    assert (found.wins, found.losses, found.improvement) == ((2, 0, 1.0) if better else (0, 2, 0.0))
    assert found.error_reduction == (None if reduction is None else pytest.approx(reduction))


def test_what_is_perfect_or_unknown_has_no_error_reduction(comparison: Comparison) -> None:
    base = replace(difference_of(comparison.tables[0]), seeds=[0], per_seed=[-1.0])
    assert effects(base, registry.get("accuracy"), {0: 100.0}, {0: 99.0}).error_reduction is None
    found = effects(base, registry.get("accuracy"), {}, {0: 99.0})
    assert (found.losses, found.improvement, found.error_reduction) == (
        1,
        base.improvement,
        base.error_reduction,
    )


def test_the_probability_of_improvement_over_tasks(comparison: Comparison) -> None:
    line = next(each for each in comparison.overall if each.variant == "sa-softmax")
    assert line.improvement == pytest.approx(improvement(BASELINE, VARIANT))
    low, high = line.improvement_interval or (1.0, 0.0)
    assert 0 <= low < 0.5 < (line.improvement or 0.0) < high <= 1
    other = next(each for each in comparison.overall if each.variant == "sigmoid")
    assert (other.improvement, other.improvement_interval) == (0.0, [0.0, 0.0])
    baseline = next(each for each in comparison.overall if each.variant == "softmax")
    assert (baseline.improvement, baseline.improvement_interval) == (None, None)


def test_every_task_weighs_the_same_and_few_seeds_are_stretched() -> None:
    strata = [([0.0, 1.0, 2.0], [0.5, 1.5, 2.5]), ([1.0, 2.0], [0.0, 3.0])]
    value, (low, high) = improvement_over(strata)
    assert value == pytest.approx(np.mean([improvement(*each) for each in strata]))
    plain = np.percentile(improvement_draws(strata), [2.5, 97.5])
    assert low < plain[0] < value < plain[1] <= high <= 1
    with pytest.raises(ValueError, match="two or more"):
        improvement_over([([1.0], [2.0]), ([1.0, 2.0], [1.0, 2.0])])


def test_verdicts_count_tables_and_leave_the_sample_out(comparison: Comparison) -> None:
    sample = replace(comparison.tables[0], sample=True)
    raw = replace(comparison.tables[1], variants=[replace(comparison.tables[1].variants[0], name="softmax")])
    paper, control = verdicts([*comparison.tables, sample, raw])
    assert (paper.variant, control.variant, control.control) == ("sa-softmax", "sigmoid", True)
    assert (paper.total, paper.wins, paper.ties, paper.losses) == (2, 2, 0, 0)
    assert (control.worse, control.surviving_worse, control.losses, control.outcome) == (
        2,
        2,
        2,
        Outcome.HARM,
    )
    assert paper.outcome is Outcome.UNKNOWN and paper.family == 4


def test_a_variant_that_cannot_be_paired_is_said_to_be_so(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8, 0.8])
    save_accuracies(tmp_path, "sa-softmax", [0.8, 0.8])
    save_accuracies(tmp_path / "other", "sa-softmax-raw", [0.8], train={"learning_rate": 0.5})
    found = {each.variant: each for each in verdicts(compare(tmp_path).tables)}
    assert found["sa-softmax"].outcome is Outcome.EQUIVALENT
    assert found["sa-softmax-raw"].outcome is Outcome.UNCOMPARED
    assert (
        found["sa-softmax-raw"].text
        == "sa-softmax-raw: not compared: no run of it can be paired with one of softmax"
    )
