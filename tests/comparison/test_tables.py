"""What a table holds: means, cost, starts, what is missing."""

from pathlib import Path

import pytest

from finetune.comparison.compare import compare
from finetune.statistics import over_seeds
from tests.support.comparisons import changed, difference_of, only_table, variant_of
from tests.support.records import (
    classified,
    correctness,
    save,
    save_accuracies,
    started,
)


def test_means_deviations_times_and_memory(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.80, 0.82, 0.81])
    save_accuracies(tmp_path, "sa-softmax", [0.81, 0.83, 0.79])
    table = only_table(tmp_path)
    baseline, variant = table.variants
    assert (baseline.name, baseline.difference, baseline.finished) == ("softmax", None, 3)
    assert list(baseline.metrics) == ["accuracy", "macro_f1"]
    assert baseline.metrics["accuracy"].mean == pytest.approx(81.0)
    assert baseline.metrics["accuracy"].sd == pytest.approx(1.0)
    assert baseline.metrics["macro_f1"].mean == pytest.approx(80.0)
    assert (variant.train_s, variant.peak_memory_mib) == (61.0, 900.0)
    found = difference_of(table)
    assert found.per_seed == pytest.approx([1.0, 1.0, -2.0])
    assert found.mean == pytest.approx(0.0, abs=1e-9)
    assert found.interval_seeds == pytest.approx(over_seeds.t_interval([1.0, 1.0, -2.0]))
    assert (table.missing, table.refused, table.setting) == ([], [], {})


def test_a_seed_elsewhere_is_missing_here_and_its_keys_are_named(tmp_path: Path) -> None:
    save_accuracies(tmp_path / "a", "softmax", [0.8, 0.81])
    save_accuracies(tmp_path / "a", "sa-softmax", [0.82])
    save(tmp_path / "b", started("sa-softmax", 1, train={"learning_rate": 0.5}), classified([True, False]))
    table = compare([tmp_path]).tables[0]
    (missing,) = table.missing
    assert missing.startswith("sa-softmax, seed 1: not run in this setting (")
    assert "train.learning_rate (" in missing
    assert difference_of(table).seeds == [0]


def test_failed_running_and_missing_runs_are_listed_and_never_numbers(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8, 0.8, 0.8])
    save_accuracies(tmp_path, "sa-softmax", [0.9])
    failed, running = started("sa-softmax", 1), started("sa-softmax", 2)
    failed["status"], failed["reason"] = "failed", "loss became NaN at step 3"
    early = started("sa-softmax-raw", 0)
    early["status"], early["reason"], early["data"], early["attention"] = (
        "failed",
        "out of memory",
        None,
        None,
    )
    for entry in (failed, running, early):
        save(tmp_path, entry)
    table = only_table(tmp_path)
    assert [line.partition(" (")[0] for line in table.missing] == [
        "sa-softmax, seed 1: failed: loss became NaN at step 3",
        "sa-softmax, seed 2: still running, or broken off",
        "sa-softmax-raw, seed 0: failed: out of memory",
        "sa-softmax-raw, seed 1: not run",
        "sa-softmax-raw, seed 2: not run",
    ]
    assert difference_of(table).seeds == [0]
    assert variant_of(table).metrics["accuracy"].per_seed == {0: 90.0}
    raw = variant_of(table, "sa-softmax-raw")
    assert (raw.finished, raw.metrics, raw.difference, raw.train_s) == (0, {}, None, None)


def test_only_failures_still_make_a_table(tmp_path: Path) -> None:
    entry = started("softmax", 0)
    entry["status"], entry["reason"], entry["data"] = "failed", "no such folder", None
    save(tmp_path, entry)
    table = only_table(tmp_path)
    assert table.sentence == "No run has finished."
    assert len(table.missing) == 1


def test_warm_starts_are_variants_of_their_own_and_controls_are_known(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8, 0.82])
    starts = {
        "cold": {"start": "cold"},
        "calibrated": {"start": "calibrated", "annealing_share": None},
        "annealed": {"start": "annealed", "annealing_share": 0.3},
    }
    for kind, attention in starts.items():
        for seed in range(2):
            entry = started("sa-softmax", seed, attention=attention)
            entry = changed(
                entry,
                "attention",
                start={
                    "kind": kind,
                    "rows": 8,
                    "row_sums": {},
                    "cosine_cold": 0.9,
                    "cosine": 0.9 + seed / 100,
                },
            )
            entry["untrained"] = {
                "split": "validation",
                "rows": 10,
                "loss": 1.0,
                "accuracy": 0.25 + seed / 10,
            }
            save(tmp_path, entry, classified(correctness(400, 0.85, seed)))
    save_accuracies(tmp_path, "softmax-plus-one", [0.8])
    table = only_table(tmp_path)
    assert [(variant.name, variant.control) for variant in table.variants] == [
        ("softmax", False),
        ("sa-softmax", False),
        ("sa-softmax-annealed0.3", False),
        ("sa-softmax-calibrated", False),
        ("softmax-plus-one", True),
    ]
    assert all(variant.difference is not None for variant in table.variants[1:])
    warm = variant_of(table, "sa-softmax-calibrated")
    assert warm.start == {"kind": "calibrated", "cosine_cold": 0.9, "cosine": pytest.approx(0.905)}
    assert warm.untrained is not None
    assert warm.untrained.mean == pytest.approx(30.0)
    assert warm.untrained.per_seed == {0: pytest.approx(25.0), 1: pytest.approx(35.0)}
    assert (table.variants[0].start, table.variants[0].untrained) == (None, None)
