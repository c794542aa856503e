"""The declarations of metrics: what each says of itself, and what nobody declared."""

import math
import subprocess
import sys

import pytest

from finetune.errors import UserError
from finetune.metrics import registry
from finetune.metrics.registry import METRICS, Metric
from finetune.tasks import TASK_TYPES


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_every_kind_of_task_has_one_primary_metric_that_can_be_tested(kind: str) -> None:
    (metric,) = [metric for metric in METRICS.values() if metric.primary_of == kind]
    assert registry.primary(kind) is metric
    assert metric.truth and callable(metric.row_scorer().compare)
    assert metric.chance is not None or metric.share_of_median is not None


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_declaration_fits_together(metric: Metric) -> None:
    assert METRICS[metric.name] is metric
    assert metric.lowest < metric.highest
    assert metric.best in (metric.lowest, metric.highest)


def test_values_and_their_texts() -> None:
    accuracy, bleu = METRICS["accuracy"], METRICS["bleu"]
    assert accuracy.text(accuracy.reported(0.8938)) == "89.38%"
    assert bleu.text(bleu.reported(33.0)) == "33.00"
    assert (accuracy.label, METRICS["macro_f1"].label, bleu.label) == ("accuracy (%)", "macro-F1 (%)", "BLEU")
    assert accuracy.largest_difference == 100


def test_no_difference_is_rounded_to_nothing_where_its_size_is_not_known_beforehand() -> None:
    """A perplexity can be near 1, where that of another text is in the hundreds."""
    perplexity = METRICS["perplexity"]
    small = {-0.0034: "−0.003", 0.0096: "+0.01", -0.7: "−0.70", 0.00004: "+0.00004", 0.0: "+0.00"}
    assert {size: perplexity.signed(size) for size in small} == small
    assert perplexity.interval((-0.004, -0.0006)) == "−0.004 to −0.0006"
    assert registry.get("perplexity@64").signed(-0.0034) == "−0.003"
    assert METRICS["masked_loss"].signed(1e-12) == "+0.0000"  # noise
    assert METRICS["accuracy"].signed(-0.0034) == "−0.00"  # of 100 points


def test_chance_is_known_where_the_labels_are() -> None:
    chance = METRICS["accuracy"].chance
    assert chance is not None
    assert chance({"labels": ["a", "b", "c", "d"]}) == 25
    assert chance({"labels": None}) is chance({}) is None


def test_a_metric_that_nobody_declared_is_shown_as_it_is_and_never_tested() -> None:
    wer = registry.get("wer")
    assert (wer.name, wer.title, wer.label, wer.primary_of) == ("wer", "wer", "wer", None)
    assert wer.text(wer.reported(0.123456)) == "0.1235"
    assert wer.largest_difference == math.inf


def test_a_kind_without_a_metric_says_what_to_declare() -> None:
    with pytest.raises(UserError, match="no metric of tasks of kind 'tagging'"):
        registry.primary("tagging")


def test_less_can_be_better() -> None:
    loss = Metric("loss", title="loss", unit="nats", higher_is_better=False, lowest=0.0)
    assert loss.is_better(-0.1) and not loss.is_better(0.1) and not loss.is_better(0.0)
    assert (loss.best, loss.largest_difference, loss.label) == (0.0, math.inf, "loss (lower is better)")


def test_declarations_are_light_to_import() -> None:
    code = (
        "import sys; import finetune.metrics.registry; "
        "print({'torch', 'numpy', 'scipy', 'sacrebleu', 'sklearn'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
