"""Interquartile means over tasks."""

from pathlib import Path

import numpy as np
import pytest

from finetune.comparison.aggregate import Overall
from finetune.comparison.compare import compare
from finetune.report.facts import over_tasks
from finetune.statistics.bootstrap import stratified
from tests.support.records import (
    classified,
    correctness,
    save,
    save_accuracies,
    started,
    translations,
)


def _overall(root: Path, variant: str = "sa-softmax") -> Overall:
    return next(line for line in compare([root]).overall if line.variant == variant)


def test_interquartile_means_over_tasks(tmp_path: Path) -> None:
    """Of 8 scores and 8 paired differences each, the middle 4."""
    scores = {
        "agnews": ([0.80, 0.81, 0.82], [0.81, 0.83, 0.82]),
        "yelp": ([0.40, 0.42], [0.45, 0.40]),
        "dbpedia": ([0.97, 0.98, 0.99], [0.97, 0.99, 0.99]),
        "amazon": ([0.50], [0.90]),  # one seed: no interval, so left out
    }
    for task, (baseline, variant) in scores.items():
        save_accuracies(tmp_path, "softmax", baseline, rows=100, task=task)
        save_accuracies(tmp_path, "sa-softmax", variant, rows=100, task=task)
    lines = compare([tmp_path]).overall
    assert [line.variant for line in lines] == ["softmax", "sa-softmax"]
    line = lines[1]
    assert line.tasks == ["agnews", "dbpedia", "yelp"]
    assert (line.metric, line.sample) == ("accuracy", False)
    assert line.iqm == pytest.approx(np.mean([81, 83, 82, 97]))
    assert line.difference == pytest.approx(np.mean([0, 0, 1, 1]))  # of -2 0 (0 0 1 1) 2 5
    assert line.interval == pytest.approx(stratified([[81, 83, 82], [97, 99, 99], [45, 40]]))
    assert line.difference_interval == pytest.approx(stratified([[1, 2, 0], [0, 1, 0], [5, -2]]))
    assert (lines[0].difference, lines[0].difference_interval) == (0.0, [0.0, 0.0])
    assert lines[0].iqm == pytest.approx(np.mean([80, 81, 82, 97]))
    save_accuracies(tmp_path, "sigmoid", [0.5, 0.6, 0.7], rows=100, task="agnews")
    save_accuracies(tmp_path, "sigmoid", [0.5, 0.6, 0.7], rows=100, task="dbpedia")
    fewer = "sigmoid: agnews; dbpedia"
    told = over_tasks(compare([tmp_path]))
    assert told == [f"Tasks of {line.model}, accuracy (%): agnews; dbpedia; yelp ({fewer})."]


def test_intervals_over_tasks_hold_no_value_that_cannot_be(tmp_path: Path) -> None:
    for task in ("agnews", "dbpedia"):
        save_accuracies(tmp_path, "softmax", [0.9, 0.91, 0.92], task=task)
        save_accuracies(tmp_path, "sa-softmax", [0.9, 0.1, 0.92], task=task)
    broken = next(line for line in compare([tmp_path]).overall if line.variant == "sa-softmax")
    assert broken.interval[0] >= 0 and broken.interval[1] <= 100
    assert broken.difference_interval[0] >= -100


def test_accuracy_and_bleu_and_the_sample_are_never_put_together(tmp_path: Path) -> None:
    for variant, noise in (("softmax", 0.4), ("sa-softmax", 0.38)):
        for seed in range(3):
            for task in ("toy", "toy2"):
                entry = started(variant, seed, kind="translation", task=task)
                save(tmp_path, entry, translations(20, noise, seed))
            for task, sample in (("agnews", False), ("yelp", False), ("dbpedia", True)):
                rows = classified(correctness(50, 0.5 + noise / 2, seed))
                save(tmp_path / str(sample), started(variant, seed, task=task, sample=sample), rows)
    lines = {(line.metric, line.sample, line.variant): line.tasks for line in compare([tmp_path]).overall}
    assert set(lines) == {
        (metric, False, variant) for metric in ("accuracy", "bleu") for variant in ("softmax", "sa-softmax")
    }
    assert lines["bleu", False, "sa-softmax"] == ["toy de-en", "toy2 de-en"]
    assert lines["accuracy", False, "sa-softmax"] == ["agnews", "yelp"]


def test_one_task_has_no_mean_over_tasks_and_neither_have_too_few_numbers(tmp_path: Path) -> None:
    for variant in ("softmax", "sa-softmax"):
        save_accuracies(tmp_path / "one", variant, [0.5, 0.6, 0.5, 0.6, 0.5, 0.6], rows=50)
        for task in ("agnews", "yelp"):
            save_accuracies(tmp_path / "two", variant, [0.5, 0.6], task=task)
    assert compare([tmp_path / "one"]).overall == []
    assert compare([tmp_path / "two"]).overall == []
