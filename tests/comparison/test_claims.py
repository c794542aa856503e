"""What is significant: every kind of noise, one family a table, and the reason of each verdict."""

from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats as scipy_stats

from finetune.comparison.claims import Paired, judge
from finetune.comparison.compare import compare
from finetune.metrics.registry import METRICS
from finetune.records import store
from finetune.statistics import over_seeds
from finetune.statistics.bootstrap import hierarchical
from finetune.statistics.over_rows import MIDDLES, RowResult, compare_accuracy, mcnemar
from finetune.statistics.power import detectable, seeds_needed
from tests.support.comparisons import difference_of, only_table
from tests.support.records import (
    classified,
    correctness,
    save,
    save_accuracies,
    started,
    translations,
)

ACCURACY = METRICS["accuracy"]


def _every_other(base: list[bool], change: dict[int, bool]) -> list[bool]:
    return [change.get(i, right) for i, right in enumerate(base)]


def test_one_seed_is_exact_mcnemar_and_never_a_claim(tmp_path: Path) -> None:
    base = correctness(400, 0.6, 0)
    wrong = [i for i, right in enumerate(base) if not right][:40]
    right = [i for i, right in enumerate(base) if right][:10]
    better = _every_other(base, dict.fromkeys(wrong, True) | dict.fromkeys(right, False))
    save(tmp_path, started("softmax", 0), classified(base))
    save(tmp_path, started("sa-softmax", 0), classified(better))
    table = only_table(tmp_path)
    found = difference_of(table)
    assert found.mean == pytest.approx(100 * 30 / 400)
    assert (found.test, found.p) == ("exact McNemar", pytest.approx(mcnemar(10, 40)))
    assert found.p_adjusted == found.p == found.p_rows
    assert found.interval_rows is not None and found.interval_rows[0] > 0
    assert (found.interval, found.interval_seeds, found.p_seeds) == (None, None, None)
    assert (found.detectable, found.seeds_needed, found.verdict) == (None, None, "unknown")
    assert "+11.00 over test rows; p < 0.0001" in table.sentence
    assert (
        "it cannot be told whether there is a difference between sa-softmax and softmax"
        in table.sentence.lower()
    )
    assert "seed was not varied" in table.sentence


def test_a_clear_difference_over_three_seeds_is_claimed_either_way(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.80, 0.81, 0.79])
    save_accuracies(tmp_path, "sa-softmax", [0.85, 0.86, 0.842])
    save_accuracies(tmp_path, "sa-softmax-raw", [0.60, 0.60, 0.60])
    table = only_table(tmp_path)
    assert difference_of(table).verdict == "better"
    assert difference_of(table, "sa-softmax-raw").verdict == "worse"
    assert (
        "sa-softmax is significantly better than softmax by 5.08 points of accuracy over 3 seeds"
        in table.sentence
    )
    assert "sa-softmax-raw is significantly worse than softmax by 20.00 points" in table.sentence
    assert difference_of(table).comparisons == 2


def test_two_seeds_that_agree_to_the_last_row_are_no_proof(tmp_path: Path) -> None:
    """As many more rows right with either seed: Student's t over the seeds alone would be without end."""
    base = correctness(400, 0.8, 0)
    wrong, right = ([i for i, ok in enumerate(base) if ok is not has] for has in (True, False))
    better = _every_other(base, dict.fromkeys(wrong[:30], True) | dict.fromkeys(right[:24], False))
    for seed in range(2):
        save(tmp_path, started("softmax", seed), classified(base))
        save(tmp_path, started("sa-softmax", seed), classified(better))
    found = difference_of(only_table(tmp_path))
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
    found = difference_of(only_table(tmp_path))
    assert found.interval_rows is not None and found.interval_rows[0] > 0
    assert found.p == found.p_rows == pytest.approx(2 / 2**5)
    assert found.why.startswith("not significant over the test rows alone (exact sign flips")


def test_rows_alone_do_not_make_a_claim_when_the_seeds_disagree(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.70, 0.80, 0.75], rows=2000)
    save_accuracies(tmp_path, "sa-softmax", [0.85, 0.79, 0.77], rows=2000)
    found = difference_of(only_table(tmp_path))
    assert found.p_rows is not None and found.p_rows < 0.001
    assert found.p_bootstrap is not None and found.p_bootstrap < 0.001
    assert found.p_adjusted is not None and found.p_adjusted > 0.05
    assert found.interval_seeds is not None and found.interval_seeds[0] < 0
    assert found.interval is not None and found.interval[0] <= found.interval_seeds[0] + 0.01
    assert found.verdict == "unknown"
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
    found = difference_of(only_table(tmp_path))
    assert found.test == "hierarchical bootstrap over 2 seeds and 400 test rows"
    assert found.p == found.p_adjusted == pytest.approx(both.p)
    assert found.interval == pytest.approx(both.interval, rel=1e-4)
    assert (found.p_rows, found.test_rows) == (rows.p, "exact sign flips over rows, summed over 2 seeds")
    assert found.p_bootstrap == rows.p_bootstrap
    assert found.p_seeds == 0.5
    assert found.interval_rows == pytest.approx(rows.interval)
    assert found.detectable == pytest.approx(detectable(both.noise))
    assert found.seeds_needed == {w: seeds_needed(float(w), both.noise) for w in ("0.25", "0.5", "1")}


@pytest.mark.parametrize("seeds", [3, 6, 7])
def test_the_claim_does_not_hang_on_how_far_sign_flips_can_go(tmp_path: Path, seeds: int) -> None:
    """2 / 2^6 is above 0.05 once it is doubled for two comparisons, whatever the runs show."""
    for variant, share in (("softmax", 0.5), ("sa-softmax", 0.8), ("sa-softmax-raw", 0.4)):
        save_accuracies(tmp_path, variant, [share + 0.01 * (i % 3) for i in range(seeds)], rows=400)
    table = only_table(tmp_path)
    for name, verdict in (("sa-softmax", "better"), ("sa-softmax-raw", "worse")):
        found = difference_of(table, name)
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
        found = [difference_of(table, name) for name in ("sa-softmax", "sa-softmax-raw")]
        assert [one.p_adjusted for one in found] == over_seeds.holm([one.p or 0.0 for one in found])


def test_bleu_of_one_seed_is_sacrebleus_paired_test(tmp_path: Path) -> None:
    sides = {"softmax": translations(60, 0.40, 1), "sa-softmax": translations(60, 0.36, 2)}
    for variant, rows in sides.items():
        save(tmp_path, started(variant, 0, kind="translation"), rows)
    table = only_table(tmp_path)
    assert (table.task, table.pair, table.metric) == ("toy", "de-en", "bleu")
    assert table.signature is not None and "tok:13a" in table.signature
    assert table.generation is not None and "num_beams" in table.generation
    systems = [(name, [row["prediction"] for row in rows]) for name, rows in sides.items()]
    references = [row["reference"] for row in sides["softmax"]]
    scores = PairedTest(systems, {"BLEU": BLEU()}, [references], "ar")()[1]["BLEU"]
    resampled = PairedTest(systems, {"BLEU": BLEU()}, [references], "bs")()[1]["BLEU"]
    found = difference_of(table)
    assert found.p == found.p_rows == scores[1].p_value
    assert found.p_bootstrap == resampled[1].p_value
    assert found.mean == pytest.approx(scores[1].score - scores[0].score)
    assert "BLEU with one seed" in table.sentence


def test_identical_predictions_are_no_difference(tmp_path: Path) -> None:
    for variant in ("softmax", "sa-softmax"):
        save(tmp_path, started(variant, 0, kind="translation"), translations(30, 0.4, 1))
    found = difference_of(only_table(tmp_path))
    assert (found.mean, found.p, found.verdict) == (0.0, 1.0, "unknown")
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
        both = [difference_of(table, name) for name in ("sa-softmax", "sa-softmax-raw")]
        assert [found.comparisons for found in both] == [2, 2]
        assert [found.p_adjusted for found in both] == over_seeds.holm([found.p or 0.0 for found in both])
    assert difference_of(tables[2]).comparisons == 1
    assert tables[2].sentence.startswith("SAMPLE data, which says nothing about any method: ")
    assert not tables[0].sentence.startswith("SAMPLE")


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
            "unknown",
            "not significant over the test rows alone (t), and the seed was not varied",
        ),
        (
            _paired((1.0,), 0.2),
            1,
            "unknown",
            "above the noise of the test rows, but the seed was not varied",
        ),
        (
            _paired((1.0,), 0.9),
            1,
            "unknown",
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
    assert (found.verdict, found.why) == ("unknown", "there is no comparison over rows: they are gone")
    (single,) = judge([Paired((0,), (1.0,), None, "they are gone")], ACCURACY)
    assert (single.test, single.p, single.comparisons) == (None, None, 0)
