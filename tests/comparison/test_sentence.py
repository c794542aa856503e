"""The sentence under a table."""

from pathlib import Path

from finetune.comparison.sentence import p_text
from finetune.config import folders
from finetune.metrics.registry import METRICS
from tests.support.comparisons import difference_of, only_table
from tests.support.records import (
    LABELS,
    classified,
    correctness,
    folder_of,
    run_config,
    save,
    save_accuracies,
    started,
)


def test_many_variants_share_one_short_sentence(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.80, 0.81, 0.79])
    save_accuracies(tmp_path, "sa-softmax", [0.85, 0.86, 0.842])
    save_accuracies(tmp_path, "sa-softmax-raw", [0.60, 0.60, 0.60])
    save_accuracies(tmp_path, "sigmoid", [0.80, 0.82, 0.78])
    save_accuracies(tmp_path, "ssmax", [0.60])
    table = only_table(tmp_path)
    told = {}
    for name in ("sa-softmax", "sa-softmax-raw", "sigmoid", "ssmax"):
        found = difference_of(table, name)
        bounds = found.interval or found.interval_rows or []
        told[name] = (
            f"{name} ({METRICS['accuracy'].signed(found.mean)}, {METRICS['accuracy'].interval(bounds)})"
        )
    widest = difference_of(table, "sigmoid")
    assert table.sentence == (
        f"Significantly better than softmax: {told['sa-softmax']}; "
        f"significantly worse than softmax: {told['sa-softmax-raw']}; "
        f"cannot tell: {told['sigmoid']}, {told['ssmax']}; in "
        "points of accuracy with 95% intervals over seeds and test rows or over test rows, over 1 to 3 "
        "seeds, tested at 0.05 after Holm for 4 comparisons; for the least certain comparison without "
        "significance, "
        f"the minimum detectable difference is about {widest.detectable:.2f} (power 80%), and 1 would "
        f"take about {(widest.seeds_needed or {})['1']} seeds."
    )


def test_the_sentence_gives_the_interval_over_both_and_what_the_design_could_see(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.70, 0.72, 0.71], rows=1000)
    save_accuracies(tmp_path, "sa-softmax", [0.73, 0.71, 0.715], rows=1000)
    table = only_table(tmp_path)
    found = difference_of(table)
    assert found.interval is not None and found.p is not None
    interval = METRICS["accuracy"].interval(found.interval)
    assert table.sentence == (
        "It cannot be told whether there is a difference between sa-softmax and softmax: +0.83 points of "
        f"accuracy over 3 seeds (95% interval {interval} over seeds and test rows; p = {found.p:.2g}), "
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
    table = only_table(tmp_path)
    assert difference_of(table).seeds_needed == {"0.25": None, "0.5": None, "1": None}
    assert table.sentence.endswith(" (power 80%), and 1 would take only more test rows.")


def test_the_baseline_alone_and_variants_without_a_common_seed(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8])
    assert "only softmax has a finished run" in only_table(tmp_path).sentence
    save(tmp_path, started("sa-softmax", 5), classified([True]))
    table = only_table(tmp_path)
    assert "sa-softmax has no finished seed in common with softmax" in table.sentence
    assert table.missing == ["softmax, seed 5: not run", "sa-softmax, seed 0: not run"]


def test_the_fixtures_are_real_records(tmp_path: Path) -> None:
    entry = started("softmax", 0)
    assert entry["task"]["labels"] == LABELS
    assert folder_of(tmp_path, entry) == folders.run_folder(tmp_path, run_config())
    assert (p_text(0.0123), p_text(0.00001)) == ("p = 0.012", "p < 0.0001")
