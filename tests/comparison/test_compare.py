"""From records to claims: what is paired, what is refused, what is tested and what is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats as scipy_stats

from finetune.attention import VARIANTS
from finetune.comparison.aggregate import Overall
from finetune.comparison.caveats import HALF, NoteKind
from finetune.comparison.claims import Difference, Paired, judge
from finetune.comparison.compare import Comparison, compare
from finetune.comparison.pairing import FROM_THE_PAPER
from finetune.comparison.sentence import p_text
from finetune.comparison.tables import ResultTable, VariantResult
from finetune.config import folders
from finetune.errors import UserError
from finetune.metrics.registry import METRICS
from finetune.records import store
from finetune.report.answer import state
from finetune.report.facts import over_tasks
from finetune.statistics import over_seeds
from finetune.statistics.bootstrap import hierarchical, stratified
from finetune.statistics.over_rows import MIDDLES, RowResult, compare_accuracy, mcnemar
from finetune.statistics.power import detectable, seeds_needed
from tests.support.records import (
    LABELS,
    classified,
    correctness,
    folder_of,
    run_config,
    save,
    save_accuracies,
    started,
    translations,
)

ACCURACY = METRICS["accuracy"]


def _table(root: Path) -> ResultTable:
    (table,) = compare([root]).tables
    return table


def _notes(root: Path) -> list[str]:
    return [note.text for note in _table(root).notes]


def _arm(table: ResultTable, name: str = "sa-softmax") -> VariantResult:
    return next(arm for arm in table.variants if arm.name == name)


def _difference(table: ResultTable, name: str = "sa-softmax") -> Difference:
    found = _arm(table, name).difference
    assert found is not None
    return found


def _every_other(base: list[bool], change: dict[int, bool]) -> list[bool]:
    return [change.get(i, right) for i, right in enumerate(base)]


def test_means_deviations_times_and_memory(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.80, 0.82, 0.81])
    save_accuracies(tmp_path, "sa-softmax", [0.81, 0.83, 0.79])
    table = _table(tmp_path)
    baseline, arm = table.variants
    assert (baseline.name, baseline.difference, baseline.finished) == ("softmax", None, 3)
    assert list(baseline.metrics) == ["accuracy", "macro_f1"]
    assert baseline.metrics["accuracy"].mean == pytest.approx(81.0)
    assert baseline.metrics["accuracy"].sd == pytest.approx(1.0)
    assert baseline.metrics["macro_f1"].mean == pytest.approx(80.0)
    assert (arm.train_s, arm.peak_memory_mib) == (61.0, 900.0)
    found = _difference(table)
    assert found.per_seed == pytest.approx([1.0, 1.0, -2.0])
    assert found.mean == pytest.approx(0.0, abs=1e-9)
    assert found.interval_seeds == pytest.approx(over_seeds.t_interval([1.0, 1.0, -2.0]))
    assert (table.missing, table.refused, table.setting) == ([], [], {})


def test_one_seed_is_exact_mcnemar_and_never_a_claim(tmp_path: Path) -> None:
    base = correctness(400, 0.6, 0)
    wrong = [i for i, right in enumerate(base) if not right][:40]
    right = [i for i, right in enumerate(base) if right][:10]
    better = _every_other(base, dict.fromkeys(wrong, True) | dict.fromkeys(right, False))
    save(tmp_path, started("softmax", 0), classified(base))
    save(tmp_path, started("sa-softmax", 0), classified(better))
    table = _table(tmp_path)
    found = _difference(table)
    assert found.mean == pytest.approx(100 * 30 / 400)
    assert (found.test, found.p) == ("exact McNemar", pytest.approx(mcnemar(10, 40)))
    assert found.p_adjusted == found.p == found.p_rows
    assert found.interval_rows is not None and found.interval_rows[0] > 0
    assert (found.interval, found.interval_seeds, found.p_seeds) == (None, None, None)
    assert (found.detectable, found.seeds_needed, found.verdict) == (None, None, "none")
    assert "+11.00 over test rows; p < 0.0001" in table.sentence
    assert "no conclusion on a difference between sa-softmax and softmax" in table.sentence.lower()
    assert "seed was not varied" in table.sentence


def test_a_clear_difference_over_three_seeds_is_claimed_either_way(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.80, 0.81, 0.79])
    save_accuracies(tmp_path, "sa-softmax", [0.85, 0.86, 0.842])
    save_accuracies(tmp_path, "sa-softmax-raw", [0.60, 0.60, 0.60])
    table = _table(tmp_path)
    assert _difference(table).verdict == "better"
    assert _difference(table, "sa-softmax-raw").verdict == "worse"
    assert (
        "sa-softmax is significantly better than softmax by 5.08 points of accuracy over 3 seeds"
        in table.sentence
    )
    assert "sa-softmax-raw is significantly worse than softmax by 20.00 points" in table.sentence
    assert _difference(table).comparisons == 2


def test_many_arms_share_one_short_sentence(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.80, 0.81, 0.79])
    save_accuracies(tmp_path, "sa-softmax", [0.85, 0.86, 0.842])
    save_accuracies(tmp_path, "sa-softmax-raw", [0.60, 0.60, 0.60])
    save_accuracies(tmp_path, "sigmoid", [0.80, 0.82, 0.78])
    save_accuracies(tmp_path, "ssmax", [0.60])
    table = _table(tmp_path)
    told = {}
    for name in ("sa-softmax", "sa-softmax-raw", "sigmoid", "ssmax"):
        found = _difference(table, name)
        low, high = found.interval or found.interval_rows or []
        told[name] = f"{name} ({found.mean:+.2f}, {low:+.2f} to {high:+.2f})"
    widest = _difference(table, "sigmoid")
    assert table.sentence == (
        f"Significantly better than softmax: {told['sa-softmax']}; "
        f"significantly worse than softmax: {told['sa-softmax-raw']}; "
        f"no significant difference from softmax: {told['sigmoid']}; no conclusion: {told['ssmax']}; in "
        "points of accuracy with 95% intervals over seeds and test rows or over test rows, over 1 to 3 "
        "seeds, tested at 0.05 after Holm for 4 comparisons; for the least certain comparison without "
        "significance, "
        f"the minimum detectable difference is about {widest.detectable:.2f} (power 80%), and 1 would "
        f"take about {(widest.seeds_needed or {})['1']} seeds."
    )


def test_runs_that_did_not_learn_are_named(tmp_path: Path) -> None:
    chance = 1 / len(LABELS)
    save_accuracies(tmp_path, "softmax", [0.80, 0.81, 0.79])
    save_accuracies(tmp_path, "sa-softmax", [0.80, chance, 1.1 * chance])
    save_accuracies(tmp_path, "sa-softmax-raw", [0.80, 1.4 * chance, 0.79])
    notes = [note for note in _notes(tmp_path) if "learn" in note]
    shown = [
        f"seed {seed}: accuracy {100 * round(400 * share) / 400:.2f}%"
        for seed, share in ((1, chance), (2, 1.1 * chance))
    ]
    assert notes == [f"sa-softmax did not learn in 2 of 3 runs ({', '.join(shown)}; at or near chance)"]
    assert state(compare([tmp_path])).endswith("Runs that did not learn are named in the notes of 1 table.")
    assert "learn" not in state(compare([tmp_path / "agnews" / "scratch-tiny" / "softmax"]))


@pytest.mark.parametrize(
    ("accuracy", "is_far_below"), [(0.0, True), (0.02, True), (0.2, False), (0.25, False)]
)
def test_far_below_chance_asks_for_the_order_of_labels(
    tmp_path: Path, accuracy: float, is_far_below: bool
) -> None:
    save_accuracies(tmp_path, "softmax", [0.80, 0.81])
    save_accuracies(tmp_path, "sa-softmax", [accuracy, accuracy])
    notes = [note for note in _notes(tmp_path) if "learn" in note]
    assert ("far below chance: are labels in another order?" in notes[0]) == is_far_below


def test_a_model_that_learnt_no_translation_is_named(tmp_path: Path) -> None:
    save(tmp_path, started("softmax", 0, kind="translation"), translations(60, 0.4, 1))
    silent = [{**row, "prediction": "nothing"} for row in translations(60, 0.4, 1)]
    save(tmp_path, started("sa-softmax", 0, kind="translation"), silent)
    (note,) = [note for note in _notes(tmp_path) if "learn" in note]
    assert note == (
        "sa-softmax did not learn in 1 of 1 runs (seed 0: bleu 0.00; less than a quarter of the median of "
        "these runs)"
    )


def test_two_seeds_that_agree_to_the_last_row_are_no_proof(tmp_path: Path) -> None:
    """As many more rows right with either seed: Student's t over the seeds alone would be without end."""
    base = correctness(400, 0.8, 0)
    wrong, right = ([i for i, ok in enumerate(base) if ok is not has] for has in (True, False))
    better = _every_other(base, dict.fromkeys(wrong[:30], True) | dict.fromkeys(right[:24], False))
    for seed in range(2):
        save(tmp_path, started("softmax", seed), classified(base))
        save(tmp_path, started("sa-softmax", seed), classified(better))
    found = _difference(_table(tmp_path))
    assert found.per_seed == pytest.approx([1.5, 1.5]) == found.interval_seeds
    assert found.interval is not None and found.interval[0] < 0 < found.interval[1]
    assert found.p is not None and found.p_rows is not None and found.p >= found.p_rows > 0.2
    assert found.detectable is not None and found.detectable > 1


def test_a_p_over_rows_that_is_too_large_is_the_reason(tmp_path: Path) -> None:
    """Five rows gained and none lost: their bootstrap leaves out 0, the exact test does not reach .05."""
    base = correctness(400, 0.8, 0)
    gained = [i for i, ok in enumerate(base) if not ok][:5]
    for seed in range(2):
        save(tmp_path, started("softmax", seed), classified(base))
        save(
            tmp_path, started("sa-softmax", seed), classified(_every_other(base, dict.fromkeys(gained, True)))
        )
    found = _difference(_table(tmp_path))
    assert found.interval_rows is not None and found.interval_rows[0] > 0
    assert found.p == found.p_rows == pytest.approx(2 / 2**5)
    assert found.why.startswith("not significant over the test rows alone (exact sign flips")


def test_a_run_that_has_not_begun_to_tell_anything_names_no_table(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8, 0.81])
    other = started("softmax", 0, train={"learning_rate": 0.5})
    other |= {"status": "failed", "reason": "no memory", "data": None, "model": None, "attention": None}
    save(tmp_path / "other", other)
    first, second = compare([tmp_path]).tables
    assert first.setting.keys() == second.setting.keys() == {"train.learning_rate"}


def test_rows_alone_do_not_make_a_claim_when_the_seeds_disagree(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.70, 0.80, 0.75], rows=2000)
    save_accuracies(tmp_path, "sa-softmax", [0.85, 0.79, 0.77], rows=2000)
    found = _difference(_table(tmp_path))
    assert found.p_rows is not None and found.p_rows < 0.001
    assert found.p_bootstrap is not None and found.p_bootstrap < 0.001
    assert found.p_adjusted is not None and found.p_adjusted > 0.05
    assert found.interval_seeds is not None and found.interval_seeds[0] < 0
    assert found.interval is not None and found.interval[0] <= found.interval_seeds[0] + 0.01
    assert found.verdict == "none"
    assert "but within that of the seeds" in found.why
    assert found.detectable is not None and found.detectable > found.mean


def test_several_seeds_have_every_test_and_the_claim_rests_on_both_kinds_of_noise(tmp_path: Path) -> None:
    one, two = (
        save_accuracies(tmp_path, "softmax", [0.70, 0.72]),
        save_accuracies(tmp_path, "sa-softmax", [0.73, 0.74]),
    )
    right = [
        [[r["label"] == r["prediction"] for r in store.read_predictions(f)] for f in side]
        for side in (one, two)
    ]
    rows = compare_accuracy(np.array(right[0]), np.array(right[1])).scaled(100)
    both = hierarchical([3.0, 2.0], rows)
    found = _difference(_table(tmp_path))
    assert found.test == "hierarchical bootstrap over 2 seeds and 400 test rows"
    assert found.p == found.p_adjusted == pytest.approx(both.p)
    assert found.interval == pytest.approx(both.interval, rel=1e-4)
    assert (found.p_rows, found.test_rows) == (rows.p, "exact sign flips over rows, summed over 2 seeds")
    assert found.p_bootstrap == rows.p_bootstrap
    assert found.p_seeds == 0.5
    assert found.interval_rows == pytest.approx(rows.interval)
    assert found.detectable == pytest.approx(detectable(both.noise))
    assert found.seeds_needed == {w: seeds_needed(float(w), both.noise) for w in ("0.25", "0.5", "1")}


def test_the_sentence_gives_the_interval_over_both_and_what_the_design_could_see(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.70, 0.72, 0.71], rows=1000)
    save_accuracies(tmp_path, "sa-softmax", [0.73, 0.71, 0.715], rows=1000)
    table = _table(tmp_path)
    found = _difference(table)
    assert found.interval is not None and found.p is not None
    low, high = found.interval
    assert table.sentence == (
        "No significant difference between sa-softmax and softmax: +0.83 points of accuracy over 3 seeds "
        f"(95% interval {low:+.2f} to {high:+.2f} over seeds and test rows; p = {found.p:.2g}), "
        f"{found.why}; the minimum detectable difference is about {found.detectable:.2f} (power 80%), and 1 "
        f"would take about {(found.seeds_needed or {})['1']} seeds."
    )


def test_what_no_number_of_seeds_shows_wants_more_rows(tmp_path: Path) -> None:
    """Rows on which the variant is better whatever the seed, and others on which it is worse."""
    base = correctness(60, 0.5, 0)
    for seed in range(4):
        mine = [not right if i % 2 else right for i, right in enumerate(base)]
        mine[seed] = not mine[seed]
        save(tmp_path, started("softmax", seed), classified(base))
        save(tmp_path, started("sa-softmax", seed), classified(mine))
    table = _table(tmp_path)
    assert _difference(table).seeds_needed == {"0.25": None, "0.5": None, "1": None}
    assert table.sentence.endswith(" (power 80%), and 1 would take only more test rows.")


@pytest.mark.parametrize("seeds", [3, 6, 7])
def test_the_claim_does_not_hang_on_how_far_sign_flips_can_go(tmp_path: Path, seeds: int) -> None:
    """2 / 2^6 is above 0.05 once it is doubled for two comparisons, whatever the runs show."""
    for variant, share in (("softmax", 0.5), ("sa-softmax", 0.8), ("sa-softmax-raw", 0.4)):
        save_accuracies(tmp_path, variant, [share + 0.01 * (i % 3) for i in range(seeds)], rows=400)
    table = _table(tmp_path)
    for name, verdict in (("sa-softmax", "better"), ("sa-softmax-raw", "worse")):
        found = _difference(table, name)
        assert (found.verdict, found.comparisons) == (verdict, 2)
        assert found.p_seeds == 2 / 2**seeds


def test_every_table_is_a_family_of_its_own_however_many_tasks_there_are(tmp_path: Path) -> None:
    tasks = ["agnews", "dbpedia", "yelp", "yahoo", "amazon", "mine"]
    for task in tasks:
        for variant, share in (("softmax", 0.5), ("sa-softmax", 0.9), ("sa-softmax-raw", 0.2)):
            save_accuracies(tmp_path, variant, [share, share + 0.02], rows=100, task=task)
    tables = compare([tmp_path]).tables
    assert [table.task for table in tables] == sorted(tasks)
    for table in tables:
        found = [_difference(table, name) for name in ("sa-softmax", "sa-softmax-raw")]
        assert [one.p_adjusted for one in found] == over_seeds.holm([one.p or 0.0 for one in found])


def test_bleu_of_one_seed_is_sacrebleus_paired_test(tmp_path: Path) -> None:
    sides = {"softmax": translations(60, 0.40, 1), "sa-softmax": translations(60, 0.36, 2)}
    for variant, rows in sides.items():
        save(tmp_path, started(variant, 0, kind="translation"), rows)
    table = _table(tmp_path)
    assert (table.task, table.pair, table.metric) == ("toy", "de-en", "bleu")
    assert table.signature is not None and "tok:13a" in table.signature
    assert table.generation is not None and "num_beams" in table.generation
    systems = [(name, [row["prediction"] for row in rows]) for name, rows in sides.items()]
    references = [row["reference"] for row in sides["softmax"]]
    scores = PairedTest(systems, {"BLEU": BLEU()}, [references], "ar")()[1]["BLEU"]
    resampled = PairedTest(systems, {"BLEU": BLEU()}, [references], "bs")()[1]["BLEU"]
    found = _difference(table)
    assert found.p == found.p_rows == scores[1].p_value
    assert found.p_bootstrap == resampled[1].p_value
    assert found.mean == pytest.approx(scores[1].score - scores[0].score)
    assert "BLEU with one seed" in table.sentence


def test_identical_predictions_are_no_difference(tmp_path: Path) -> None:
    for variant in ("softmax", "sa-softmax"):
        save(tmp_path, started(variant, 0, kind="translation"), translations(30, 0.4, 1))
    found = _difference(_table(tmp_path))
    assert (found.mean, found.p, found.verdict) == (0.0, 1.0, "none")
    assert found.why.startswith("the two score the same")


def test_holm_counts_the_comparisons_of_one_table(tmp_path: Path) -> None:
    for variant, share in (("softmax", 0.7), ("sa-softmax", 0.74), ("sa-softmax-raw", 0.66)):
        for task in ("agnews", "yelp"):
            save_accuracies(tmp_path, variant, [share], task=task)
    for variant in ("softmax", "sa-softmax"):
        save_accuracies(tmp_path / "sample", variant, [0.7], sample=True)
    tables = compare([tmp_path]).tables
    assert [(table.task, table.sample) for table in tables] == [
        ("agnews", False),
        ("yelp", False),
        ("agnews", True),
    ]
    for table in tables[:2]:
        both = [_difference(table, name) for name in ("sa-softmax", "sa-softmax-raw")]
        assert [found.comparisons for found in both] == [2, 2]
        assert [found.p_adjusted for found in both] == over_seeds.holm([found.p or 0.0 for found in both])
    assert _difference(tables[2]).comparisons == 1
    assert tables[2].sentence.startswith("SAMPLE data, which says nothing about any method: ")
    assert not tables[0].sentence.startswith("SAMPLE")


def test_sample_and_real_runs_of_one_configuration_are_never_paired(tmp_path: Path) -> None:
    save_accuracies(tmp_path / "a", "softmax", [0.8])
    save_accuracies(tmp_path / "b", "sa-softmax", [0.9], sample=True)
    real, sample = compare([tmp_path]).tables
    assert (real.sample, sample.sample) == (False, True)
    assert _arm(sample).difference is None
    assert "nothing can be compared" in sample.sentence


@pytest.mark.parametrize(
    ("over", "named"),
    [
        ({"train": {"learning_rate": 0.5}}, "train.learning_rate (0.5 against "),
        ({"data": {"max_length": 7}}, "data.max_length (7 against "),
        ({"train": {"bf16": True}}, "train.bf16 (True against "),
        ({"attention": {"kernel": "reference"}}, "attention.kernel (reference against auto)"),
        ({"fingerprint": "0" * 16}, f"test rows (fingerprint) ({'0' * 16} against {'f' * 16})"),
    ],
)
def test_unequal_configurations_are_refused_with_the_keys(
    tmp_path: Path, over: dict[str, Any], named: str
) -> None:
    save_accuracies(tmp_path / "a", "softmax", [0.8, 0.8])
    save_accuracies(tmp_path / "a", "sa-softmax-raw", [0.8, 0.8])
    save_accuracies(tmp_path / "b", "sa-softmax", [0.9], **over)
    first, second = compare([tmp_path]).tables
    assert [arm.name for arm in first.variants] == ["softmax", "sa-softmax-raw"]
    assert _difference(first, "sa-softmax-raw").verdict == "none"
    assert _arm(second).difference is None
    (refused,) = second.refused
    assert refused.startswith("sa-softmax cannot be compared with ")
    assert named in refused
    assert len(second.setting) == 1 and first.setting.keys() == second.setting.keys()
    assert first.setting != second.setting
    assert second.missing == []


def _with(entry: store.Record, key: str, **values: Any) -> store.Record:
    entry[key] = {**entry[key], **values}  # type: ignore[literal-required]
    return entry


@pytest.mark.parametrize(
    ("key", "values", "named"),
    [
        ("attention", {"dropout": 0.0}, "attention dropout (0.0 against 0.1)"),
        ("model", {"revision": "abc"}, "model revision (abc against None)"),
        ("hardware", {"devices": 2}, "devices (2 against 1)"),
    ],
)
def test_facts_that_the_configuration_does_not_show_are_compared_too(
    tmp_path: Path, key: str, values: dict[str, Any], named: str
) -> None:
    save_accuracies(tmp_path, "softmax", [0.8])
    rows = classified(correctness(400, 0.9, 0))
    save(tmp_path, _with(started("sa-softmax", 0), key, **values), rows)
    refused = [line for table in compare([tmp_path]).tables for line in table.refused]
    assert len(refused) == 1 and named in refused[0]


def _with_weights(variant: str, seed: int, weights: str | None) -> store.Record:
    return _with(started(variant, seed), "model", initial_weights=weights)


def test_runs_of_a_seed_with_other_initial_weights_are_not_paired(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8, 0.8, 0.8])
    for seed, weights in enumerate(["f" * 16, f"{1:016x}", None]):
        rows = classified(correctness(400, 0.9, seed))
        save(tmp_path, _with_weights("sa-softmax", seed, weights), rows)
    table = _table(tmp_path)
    assert _difference(table).seeds == [1, 2]  # that of seed 2 was not recorded
    (refused,) = table.refused
    assert refused == (
        "sa-softmax, seed 0 is not paired with softmax, seed 0: "
        f"their initial weights differ ({'f' * 16} against {'0' * 16})"
    )
    assert table.missing == []


def test_where_no_seed_began_alike_nothing_is_compared(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8])
    save(tmp_path, _with_weights("sa-softmax", 0, "f" * 16), classified(correctness(400, 0.9, 0)))
    table = _table(tmp_path)
    assert _arm(table).difference is None
    assert table.sentence == "sa-softmax cannot be paired with softmax: their initial weights differ."
    assert len(table.refused) == 1


def test_where_equal_rows_came_from_does_not_matter(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8], data={"source": "hub"})
    save_accuracies(tmp_path, "sa-softmax", [0.9], data={"source": "local"})
    assert _difference(_table(tmp_path)).seeds == [0]


def test_a_run_that_failed_before_its_data_belongs_to_the_sample_it_asked_for(tmp_path: Path) -> None:
    for sample in (False, True):
        save_accuracies(tmp_path / str(sample), "softmax", [0.8], sample=sample)
    entry = started("sa-softmax", 0, sample=True)
    entry["status"], entry["reason"], entry["data"] = "failed", "out of memory", None
    save(tmp_path / "failed", entry)
    real, sample_table = compare([tmp_path]).tables
    assert (real.missing, len(sample_table.missing)) == ([], 1)


@pytest.mark.parametrize("precision", ["bf16", "fp16", None])
def test_kernels_that_differ_are_noted_and_what_half_precision_makes_of_them(
    tmp_path: Path, precision: str | None
) -> None:
    train = {precision: True} if precision else {}
    for variant in ("softmax", "sa-softmax"):
        save_accuracies(tmp_path, variant, [0.8], train=train)
    save(
        tmp_path,
        _with(started("softmax", 1, train=train), "attention", kernel="reference"),
        classified([True, False]),
    )
    notes = _notes(tmp_path)
    assert any("kernels were softmax reference / sdpa, sa-softmax reference" in note for note in notes)
    assert "softmax: its runs differ in attention kernel" in notes
    told = [note for note in notes if note.startswith("precision inside attention differs")]
    assert len(told) == bool(precision)
    name = HALF.get(precision or "")
    assert all(f"in {name} the kernels sdpa" in note for note in told)


def test_fused_kernels_are_of_one_precision(tmp_path: Path) -> None:
    for variant, kernel in (("softmax", "sdpa"), ("sa-softmax", "triton")):
        entry = _with(started(variant, 0, train={"bf16": True}), "attention", kernel=kernel)
        save(tmp_path, entry, classified([True, False]))
    (note,) = _notes(tmp_path)
    assert "attention kernels were softmax sdpa, sa-softmax triton" in note


def test_one_kernel_for_all_is_not_worth_a_note(tmp_path: Path) -> None:
    for variant in ("softmax", "sa-softmax"):
        entry = _with(started(variant, 0, train={"bf16": True}), "attention", kernel="reference")
        save(tmp_path, entry, classified([True, False]))
    assert _table(tmp_path).notes == []


def test_a_seed_elsewhere_is_missing_here_and_its_keys_are_named(tmp_path: Path) -> None:
    save_accuracies(tmp_path / "a", "softmax", [0.8, 0.81])
    save_accuracies(tmp_path / "a", "sa-softmax", [0.82])
    save(tmp_path / "b", started("sa-softmax", 1, train={"learning_rate": 0.5}), classified([True, False]))
    table = compare([tmp_path]).tables[0]
    (missing,) = table.missing
    assert missing.startswith("sa-softmax, seed 1: not run in this setting (")
    assert "train.learning_rate (" in missing
    assert _difference(table).seeds == [0]


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
    table = _table(tmp_path)
    assert [line.partition(" (")[0] for line in table.missing] == [
        "sa-softmax, seed 1: failed: loss became NaN at step 3",
        "sa-softmax, seed 2: still running, or broken off",
        "sa-softmax-raw, seed 0: failed: out of memory",
        "sa-softmax-raw, seed 1: not run",
        "sa-softmax-raw, seed 2: not run",
    ]
    assert _difference(table).seeds == [0]
    assert _arm(table).metrics["accuracy"].per_seed == {0: 90.0}
    raw = _arm(table, "sa-softmax-raw")
    assert (raw.finished, raw.metrics, raw.difference, raw.train_s) == (0, {}, None, None)


def test_only_failures_still_make_a_table(tmp_path: Path) -> None:
    entry = started("softmax", 0)
    entry["status"], entry["reason"], entry["data"] = "failed", "no such folder", None
    save(tmp_path, entry)
    table = _table(tmp_path)
    assert table.sentence == "No run has finished."
    assert len(table.missing) == 1


def test_the_baseline_alone_and_arms_without_a_common_seed(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8])
    assert "only softmax has a finished run" in _table(tmp_path).sentence
    save(tmp_path, started("sa-softmax", 5), classified([True]))
    table = _table(tmp_path)
    assert "sa-softmax has no finished seed in common with softmax" in table.sentence
    assert table.missing == ["softmax, seed 5: not run", "sa-softmax, seed 0: not run"]


def test_scopes_and_parameters_are_arms_of_their_own(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8])
    save_accuracies(tmp_path, "sa-softmax", [0.8], attention={"scope": "encoder"})
    save_accuracies(tmp_path, "sa-softmax", [0.8], attention={"parameters": {"eps": 0.01}})
    names = [arm.name for arm in _table(tmp_path).variants]
    assert names == ["softmax", "sa-softmax-encoder", "sa-softmax-eps0.01"]


def _cut(folder: Path) -> None:
    file = folder / store.PREDICTIONS
    file.write_text(file.read_text()[:-5])


def _drop(folder: Path) -> None:
    (folder / store.PREDICTIONS).unlink()


def _other_numbers(folder: Path) -> None:
    store.write_predictions(folder, classified([True] * 400))


def _other_rows(folder: Path) -> None:
    rows = [row | {"row": row["row"] + 1} for row in store.read_predictions(folder)]
    store.write_predictions(folder, rows)


def _twice(folder: Path) -> None:
    rows = store.read_predictions(folder)
    store.write_predictions(folder, [*rows, rows[0]])


def _no_label(folder: Path) -> None:
    rows = store.read_predictions(folder)
    store.write_predictions(folder, [{"row": row["row"], "prediction": 0} for row in rows])


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_cut, "truncated"),
        (_drop, "No such file"),
        (_other_numbers, "give 100, its record says 90"),
        (_other_rows, "are of other rows than"),
        (_twice, "hold a row twice"),
        (_no_label, "lack 'label'"),
    ],
)
def test_predictions_that_do_not_fit_end_the_row_test_with_the_reason(
    tmp_path: Path, damage: Callable[[Path], None], why: str
) -> None:
    save_accuracies(tmp_path, "softmax", [0.8])
    (folder,) = save_accuracies(tmp_path, "sa-softmax", [0.9])
    damage(folder)
    table = _table(tmp_path)
    found = _difference(table)
    assert (found.p, found.interval_rows, found.verdict) == (None, None, "none")
    assert found.mean == pytest.approx(10.0)
    assert why in found.why
    assert any(why in note.text and note.kind is NoteKind.NO_ROWS for note in table.notes)
    assert found.comparisons == 0


def test_records_that_cannot_be_used_are_problems_and_the_rest_goes_on(tmp_path: Path) -> None:
    save_accuracies(tmp_path / "good", "softmax", [0.8])
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / store.FILE).write_text('{"schema": ')
    liar = save(tmp_path / "liar", started("softmax", 0), classified([True]))
    store.write(liar, store.read(liar) | {"metrics": None})
    swapped = _with(started("sa-softmax", 0), "attention", variant="softmax")
    save(tmp_path / "swapped", swapped, classified([True]))
    foreign = started("sa-softmax", 0)
    foreign["config"]["attention"]["new_key"] = 1
    store.write(tmp_path / "foreign", foreign)
    found = compare([tmp_path])
    assert [table.variants[0].finished for table in found.tables] == [1]
    told = "\n".join(found.problems)
    assert len(found.problems) == 4
    for part in ("truncated", "says finished but lacks", "asked for sa-softmax but ran softmax", "new_key"):
        assert part in told


def test_a_run_reached_twice_counts_once_and_a_copy_is_noted(tmp_path: Path) -> None:
    save_accuracies(tmp_path / "a", "softmax", [0.8])
    (older,) = save_accuracies(tmp_path / "b", "softmax", [0.7])
    store.write(older, store.read(older) | {"started": "2020-01-01T00:00:00+00:00"})
    (table,) = compare([tmp_path, tmp_path / "a"]).tables
    assert table.variants[0].metrics["accuracy"].per_seed == {0: 80.0}
    assert any(str(older) in note.text and note.kind is NoteKind.LEFT_OUT for note in table.notes)


def test_what_may_explain_a_difference_is_noted(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8])
    other = started("sa-softmax", 0)
    other["hardware"] = other["hardware"] | {"device": "NVIDIA H200"}
    other["versions"] = other["versions"] | {"torch": "9.9"}
    other["git"] = {"commit": "abcdef1234567", "dirty": True}
    save(tmp_path, other, classified(correctness(400, 0.8, 0)))
    notes = "\n".join(_notes(tmp_path))
    assert "attention kernels were softmax sdpa, sa-softmax reference" in notes
    assert "differ in hardware: CPU, " in notes and "NVIDIA H200" in notes
    assert "package versions: torch " in notes and "9.9" in notes
    assert "commit: abcdef1234 with changes / unknown" in notes


def test_models_and_pairs_have_tables_of_their_own(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8], model={"name": "org/one"})
    save_accuracies(tmp_path, "softmax", [0.8], model={"name": "org/one", "lora": {"rank": 4}})
    save_accuracies(tmp_path, "softmax", [0.8], model={"name": "/some/where/two"})
    assert [table.model for table in compare([tmp_path]).tables] == ["org/one", "org/one, LoRA rank 4", "two"]


def test_the_same_records_give_the_same_comparison(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.7, 0.71])
    save_accuracies(tmp_path, "sa-softmax", [0.72, 0.73])
    assert compare([tmp_path]).to_json() == compare([tmp_path]).to_json()


def test_nothing_there(tmp_path: Path) -> None:
    assert compare([tmp_path]) == Comparison([], [])
    with pytest.raises(UserError, match="no folder"):
        compare([tmp_path / "nowhere"])


def test_the_fixtures_are_real_records(tmp_path: Path) -> None:
    entry = started("softmax", 0)
    assert entry["task"]["labels"] == LABELS
    assert folder_of(tmp_path, entry) == folders.run_folder(tmp_path, run_config())
    assert (p_text(0.0123), p_text(0.00001)) == ("p = 0.012", "p < 0.0001")


def _paired(per_seed: tuple[float, ...], error: float, p: float = 0.001, residual: float = 0.0) -> Paired:
    """Differences over rows with normal noise of the standard deviation ``error``."""
    mean = float(np.mean(per_seed))
    interval = (mean - 1.96 * error, mean + 1.96 * error)
    spread = error * scipy_stats.norm.ppf(MIDDLES)
    rows = RowResult(mean, interval, error, residual, p, "t", p, 500, spread)
    return Paired(tuple(range(len(per_seed))), per_seed, rows, None)


@pytest.mark.parametrize(
    ("paired", "family", "verdict", "why"),
    [
        (
            _paired((0.99, 1.0, 1.01), 0.2),
            1,
            "better",
            "above the noise of the test rows and of the seeds",
        ),
        (
            _paired((-0.99, -1.0, -1.01), 0.2),
            1,
            "worse",
            "above the noise of the test rows and of the seeds",
        ),
        (_paired((0.0, 0.0, 0.0), 0.2), 1, "none", "the two score the same"),
        (_paired((0.99, 1.0, 1.01), 0.6), 1, "none", "within the noise of the test rows"),
        (
            _paired((0.99, 1.0, 3.0), 0.2),
            1,
            "none",
            "above the noise of the test rows, but within that of the seeds",
        ),
        (
            _paired((0.6, 1.0, 1.4), 0.45),
            1,
            "none",
            "above the noise of the test rows and of the seeds, but within both together",
        ),
        (
            _paired((0.8, 1.0, 1.2), 0.2),
            9,
            "none",
            "above the noise of the test rows and of the seeds, but not significant after Holm for 9 "
            "comparisons",
        ),
        (
            _paired((1.0,), 0.2, p=0.06),
            1,
            "none",
            "not significant over the test rows alone (t), and the seed was not varied",
        ),
        (
            _paired((1.0,), 0.2),
            1,
            "none",
            "above the noise of the test rows, but the seed was not varied",
        ),
        (
            _paired((1.0,), 0.9),
            1,
            "none",
            "within the noise of the test rows, and the seed was not varied",
        ),
    ],
)
def test_each_kind_of_noise_can_forbid_a_claim_and_is_named(
    paired: Paired, family: int, verdict: str, why: str
) -> None:
    for found in judge([paired] * family, ACCURACY):
        assert (found.verdict, found.why) == (verdict, why)


def test_what_could_be_seen_allows_for_the_number_of_comparisons() -> None:
    paired = _paired((0.6, 1.0, 1.4), 0.1, residual=0.05)
    (one,), (several, *_) = judge([paired], ACCURACY), judge([paired] * 5, ACCURACY)
    assert one.detectable is not None and several.detectable is not None
    assert several.detectable > 1.3 * one.detectable
    fewer, more = ((found.seeds_needed or {})["0.5"] for found in (one, several))
    assert fewer is not None and more is not None and more > fewer


def test_no_comparison_is_no_family() -> None:
    assert judge([], ACCURACY) == []


def test_without_predictions_the_seeds_are_tested_and_nothing_is_claimed() -> None:
    (found,) = judge([Paired((0, 1, 2), (1.0, 1.1, 0.9), None, "they are gone")], ACCURACY)
    assert (found.test, found.p, found.p_seeds) == ("exact sign flips over 3 seeds", 0.25, 0.25)
    assert (found.interval, found.p_rows, found.test_rows, found.p_bootstrap) == (None, None, None, None)
    assert found.interval_seeds == pytest.approx(over_seeds.t_interval([1.0, 1.1, 0.9]))
    assert (found.verdict, found.why) == ("none", "there is no comparison over rows: they are gone")
    (single,) = judge([Paired((0,), (1.0,), None, "they are gone")], ACCURACY)
    assert (single.test, single.p, single.comparisons) == (None, None, 0)


def _overall(root: Path, arm: str = "sa-softmax") -> Overall:
    return next(line for line in compare([root]).overall if line.variant == arm)


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
        (metric, False, arm) for metric in ("accuracy", "bleu") for arm in ("softmax", "sa-softmax")
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


def test_warm_starts_are_arms_of_their_own_and_controls_are_known(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8, 0.82])
    starts = {
        "cold": {"start": "cold"},
        "calibrated": {"start": "calibrated", "annealing_share": None},
        "annealed": {"start": "annealed", "annealing_share": 0.3},
    }
    for kind, attention in starts.items():
        for seed in range(2):
            entry = started("sa-softmax", seed, attention=attention)
            entry = _with(
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
    table = _table(tmp_path)
    assert [(arm.name, arm.control) for arm in table.variants] == [
        ("softmax", False),
        ("sa-softmax", False),
        ("sa-softmax-annealed0.3", False),
        ("sa-softmax-calibrated", False),
        ("softmax-plus-one", True),
    ]
    assert all(arm.difference is not None for arm in table.variants[1:])
    warm = _arm(table, "sa-softmax-calibrated")
    assert warm.start == {"kind": "calibrated", "cosine_cold": 0.9, "cosine": pytest.approx(0.905)}
    assert warm.untrained is not None
    assert warm.untrained.mean == pytest.approx(30.0)
    assert warm.untrained.per_seed == {0: pytest.approx(25.0), 1: pytest.approx(35.0)}
    assert (table.variants[0].start, table.variants[0].untrained) == (None, None)


def test_what_is_from_the_paper_is_said_twice_alike() -> None:
    assert {name for name, variant in VARIANTS.items() if not variant.control} == FROM_THE_PAPER


def test_the_json_has_its_version_and_what_holds_over_tasks(tmp_path: Path) -> None:
    for task in ("agnews", "yelp"):
        for variant, share in (("softmax", 0.5), ("sa-softmax", 0.6)):
            save_accuracies(tmp_path, variant, [share, share + 0.03, share + 0.02], task=task)
    content = json.loads(json.dumps(compare([tmp_path]).to_json(), allow_nan=False))
    assert (content["schema"], content["version"]) == ("finetune-comparison", 2)
    assert [line["arm"] for line in content["overall"]] == ["softmax", "sa-softmax"]
    found = content["tables"][0]["arms"][1]
    assert set(found["difference"]["seeds_needed"]) == {"0.25", "0.5", "1"}
    assert len(found["difference"]["interval"]) == 2
    assert (found["control"], found["untrained"], found["start"]) == (False, None, None)
