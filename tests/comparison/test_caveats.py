"""What is noted under a table: runs that did not learn, kernels, hardware, versions."""

from pathlib import Path

import pytest

from finetune.comparison.caveats import HALF
from finetune.comparison.compare import compare
from finetune.report.answer import state
from tests.support.comparisons import changed, notes_of, only_table
from tests.support.records import (
    LABELS,
    classified,
    correctness,
    save,
    save_accuracies,
    started,
    translations,
)


def test_runs_that_did_not_learn_are_named(tmp_path: Path) -> None:
    chance = 1 / len(LABELS)
    save_accuracies(tmp_path, "softmax", [0.80, 0.81, 0.79])
    save_accuracies(tmp_path, "sa-softmax", [0.80, chance, 1.1 * chance])
    save_accuracies(tmp_path, "sa-softmax-raw", [0.80, 1.4 * chance, 0.79])
    notes = [note for note in notes_of(tmp_path) if "learn" in note]
    shown = [
        f"seed {seed}: accuracy {100 * round(400 * share) / 400:.2f}%"
        for seed, share in ((1, chance), (2, 1.1 * chance))
    ]
    assert notes == [f"sa-softmax did not learn in 2 of 3 runs ({', '.join(shown)}; at or near chance)"]
    assert state(compare([tmp_path])).endswith("The notes of 1 table name runs that did not learn.")
    assert "learn" not in state(compare([tmp_path / "agnews" / "scratch-tiny" / "softmax"]))


@pytest.mark.parametrize(
    ("accuracy", "is_far_below"), [(0.0, True), (0.02, True), (0.2, False), (0.25, False)]
)
def test_far_below_chance_asks_for_the_order_of_labels(
    tmp_path: Path, accuracy: float, is_far_below: bool
) -> None:
    save_accuracies(tmp_path, "softmax", [0.80, 0.81])
    save_accuracies(tmp_path, "sa-softmax", [accuracy, accuracy])
    notes = [note for note in notes_of(tmp_path) if "learn" in note]
    assert ("far below chance: are labels in another order?" in notes[0]) == is_far_below


def test_a_model_that_learnt_no_translation_is_named(tmp_path: Path) -> None:
    save(tmp_path, started("softmax", 0, kind="translation"), translations(60, 0.4, 1))
    silent = [{**row, "prediction": "nothing"} for row in translations(60, 0.4, 1)]
    save(tmp_path, started("sa-softmax", 0, kind="translation"), silent)
    (note,) = [note for note in notes_of(tmp_path) if "learn" in note]
    assert note == (
        "sa-softmax did not learn in 1 of 1 runs (seed 0: bleu 0.00; less than a quarter of the median of "
        "these runs)"
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16", None])
def test_kernels_that_differ_are_noted_and_what_half_precision_makes_of_them(
    tmp_path: Path, precision: str | None
) -> None:
    train = {precision: True} if precision else {}
    for variant in ("softmax", "sa-softmax"):
        save_accuracies(tmp_path, variant, [0.8], train=train)
    save(
        tmp_path,
        changed(started("softmax", 1, train=train), "attention", kernel="reference"),
        classified([True, False]),
    )
    notes = notes_of(tmp_path)
    assert any("kernels were softmax reference / sdpa, sa-softmax reference" in note for note in notes)
    assert "softmax: its runs differ in attention kernel" in notes
    told = [note for note in notes if note.startswith("precision inside attention differs")]
    assert len(told) == bool(precision)
    name = HALF.get(precision or "")
    assert all(f"in {name} the kernels sdpa" in note for note in told)


def test_fused_kernels_are_of_one_precision(tmp_path: Path) -> None:
    for variant, kernel in (("softmax", "sdpa"), ("sa-softmax", "triton")):
        entry = changed(started(variant, 0, train={"bf16": True}), "attention", kernel=kernel)
        save(tmp_path, entry, classified([True, False]))
    (note,) = notes_of(tmp_path)
    assert "attention kernels were softmax sdpa, sa-softmax triton" in note


def test_one_kernel_for_all_is_not_worth_a_note(tmp_path: Path) -> None:
    for variant in ("softmax", "sa-softmax"):
        entry = changed(started(variant, 0, train={"bf16": True}), "attention", kernel="reference")
        save(tmp_path, entry, classified([True, False]))
    assert only_table(tmp_path).notes == []


def test_what_may_explain_a_difference_is_noted(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8])
    other = started("sa-softmax", 0)
    other["hardware"] = other["hardware"] | {"device": "NVIDIA H200"}
    other["versions"] = other["versions"] | {"torch": "9.9"}
    other["git"] = {"commit": "abcdef1234567", "dirty": True}
    save(tmp_path, other, classified(correctness(400, 0.8, 0)))
    notes = "\n".join(notes_of(tmp_path))
    assert "attention kernels were softmax sdpa, sa-softmax reference" in notes
    assert "differ in hardware: CPU, " in notes and "NVIDIA H200" in notes
    assert "package versions: torch " in notes and "9.9" in notes
    assert "commit: abcdef1234 with changes / unknown" in notes
