"""Which runs may be compared, and what keeps the others from it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from finetune.comparison.caveats import NoteKind
from finetune.comparison.compare import compare
from finetune.records import store
from finetune.report import cells
from tests.support.comparisons import changed, difference_of, only_table, variant_of
from tests.support.records import (
    classified,
    correctness,
    save,
    save_accuracies,
    started,
)


def test_a_run_that_has_not_begun_to_tell_anything_names_no_table(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8, 0.81])
    other = started("softmax", 0, train={"learning_rate": 0.5})
    other |= {"status": "failed", "reason": "no memory", "data": None, "model": None, "attention": None}
    save(tmp_path / "other", other)
    first, second = compare([tmp_path]).tables
    assert first.setting.keys() == second.setting.keys() == {"train.learning_rate"}


def test_sample_and_real_runs_of_one_configuration_are_never_paired(tmp_path: Path) -> None:
    save_accuracies(tmp_path / "a", "softmax", [0.8])
    save_accuracies(tmp_path / "b", "sa-softmax", [0.9], sample=True)
    real, sample = compare([tmp_path]).tables
    assert (real.sample, sample.sample) == (False, True)
    assert variant_of(sample).difference is None
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
    assert [variant.name for variant in first.variants] == ["softmax", "sa-softmax-raw"]
    assert difference_of(first, "sa-softmax-raw").verdict == "equivalent"
    assert variant_of(second).difference is None
    (refused,) = second.refused
    assert refused.startswith("sa-softmax cannot be compared with ")
    assert named in refused
    assert len(second.setting) == 1 and first.setting.keys() == second.setting.keys()
    assert first.setting != second.setting
    assert second.missing == []


@pytest.mark.parametrize(
    ("key", "values", "named"),
    [
        ("attention", {"dropout": 0.0}, "attention dropout (0.0 against 0.1)"),
        ("model", {"revision": "abc"}, "model revision (abc against None)"),
    ],
)
def test_facts_that_the_configuration_does_not_show_are_compared_too(
    tmp_path: Path, key: str, values: dict[str, Any], named: str
) -> None:
    save_accuracies(tmp_path, "softmax", [0.8])
    rows = classified(correctness(400, 0.9, 0))
    save(tmp_path, changed(started("sa-softmax", 0), key, **values), rows)
    refused = [line for table in compare([tmp_path]).tables for line in table.refused]
    assert len(refused) == 1 and named in refused[0]


def _with_weights(variant: str, seed: int, weights: str | None) -> store.Record:
    return changed(started(variant, seed), "model", initial_weights=weights)


def test_runs_of_a_seed_with_other_initial_weights_are_not_paired(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8, 0.8, 0.8])
    for seed, weights in enumerate(["f" * 16, f"{1:016x}", None]):
        rows = classified(correctness(400, 0.9, seed))
        save(tmp_path, _with_weights("sa-softmax", seed, weights), rows)
    table = only_table(tmp_path)
    assert difference_of(table).seeds == [1, 2]  # that of seed 2 was not recorded
    (refused,) = table.refused
    assert refused == (
        "sa-softmax, seed 0 is not paired with softmax, seed 0: "
        f"their initial weights differ ({'f' * 16} against {'0' * 16})"
    )
    assert table.missing == []


def test_where_no_seed_began_alike_nothing_is_compared(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8])
    save(tmp_path, _with_weights("sa-softmax", 0, "f" * 16), classified(correctness(400, 0.9, 0)))
    table = only_table(tmp_path)
    assert variant_of(table).difference is None
    assert table.sentence == "sa-softmax cannot be paired with softmax: their initial weights differ."
    assert len(table.refused) == 1


def test_where_equal_rows_came_from_does_not_matter(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8], data={"source": "hub"})
    save_accuracies(tmp_path, "sa-softmax", [0.9], data={"source": "local"})
    assert difference_of(only_table(tmp_path)).seeds == [0]


def test_a_run_that_failed_before_its_data_belongs_to_the_sample_it_asked_for(tmp_path: Path) -> None:
    for sample in (False, True):
        save_accuracies(tmp_path / str(sample), "softmax", [0.8], sample=sample)
    entry = started("sa-softmax", 0, sample=True)
    entry["status"], entry["reason"], entry["data"] = "failed", "out of memory", None
    save(tmp_path / "failed", entry)
    real, sample_table = compare([tmp_path]).tables
    assert (real.missing, len(sample_table.missing)) == ([], 1)


def test_scopes_and_parameters_are_variants_of_their_own(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8])
    save_accuracies(tmp_path, "sa-softmax", [0.8], attention={"scope": "encoder"})
    save_accuracies(tmp_path, "sa-softmax", [0.8], attention={"parameters": {"eps": 0.01}})
    names = [variant.name for variant in only_table(tmp_path).variants]
    assert names == ["softmax", "sa-softmax-encoder", "sa-softmax-eps0.01"]


def test_a_run_reached_twice_counts_once_and_a_copy_is_noted(tmp_path: Path) -> None:
    save_accuracies(tmp_path / "a", "softmax", [0.8])
    (older,) = save_accuracies(tmp_path / "b", "softmax", [0.7])
    store.write(older, store.read(older) | {"started": "2020-01-01T00:00:00+00:00"})
    (table,) = compare([tmp_path, tmp_path / "a"]).tables
    assert table.variants[0].metrics["accuracy"].per_seed == {0: 80.0}
    assert any(str(older) in note.text and note.kind is NoteKind.LEFT_OUT for note in table.notes)


def test_models_and_pairs_have_tables_of_their_own(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8], model={"name": "org/one"})
    save_accuracies(tmp_path, "softmax", [0.8], model={"name": "org/one", "lora": {"rank": 4}})
    save_accuracies(tmp_path, "softmax", [0.8], model={"name": "/some/where/two"})
    assert [table.model for table in compare([tmp_path]).tables] == ["org/one", "org/one, LoRA rank 4", "two"]


def pretraining_of(variant: str, seed: int) -> dict[str, Any]:
    """The link to a pretraining run, as a record has it."""
    return {
        "folder": f"runs/books/{variant}/seed-{seed}", "task": "books", "model": "scratch:tiny",
        "variant": variant, "seed": seed, "position": "own", "sample": False, "config_hash": "c" * 12,
        "settings": "s" * 16, "initial_weights": f"{seed}" * 16, "weights": "w" * 16,
        "new_weights": f"{seed}" * 16, "pretrained": None,
    }  # fmt: skip


def pretrained(
    root: Path,
    variant: str,
    /,
    *,
    source: str = "pretrained:runs/books",
    seeds: Iterable[int] = (0, 1),
    **link: Any,
) -> None:
    """Finished runs that began from the runs of ``variant``, or from those that ``link`` describes."""
    for seed in seeds:
        entry = started(variant, seed, model={"name": source})
        # Two checkpoints: what training starts from differs.
        began = pretraining_of(variant, seed) | link
        changed(entry, "model", initial_weights=f"{variant} {seed}", pretrained=began)
        save(root, entry, classified(correctness(400, 0.8, seed)))


def test_variants_from_their_own_checkpoints_are_pairs_though_their_weights_differ(tmp_path: Path) -> None:
    pretrained(tmp_path, "softmax")
    pretrained(tmp_path, "sa-softmax")
    table = only_table(tmp_path)
    assert difference_of(table).seeds == [0, 1] and not table.refused
    (note,) = [note.text for note in table.notes if note.kind is NoteKind.PRETRAINED]
    assert note.startswith("every variant began from its own pretraining (books, scratch:tiny)")


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ({"initial_weights": "9" * 16}, "their initial weights differ (9999999999999999 against 0000"),
        ({"new_weights": "9" * 16}, "such as those of a new head"),
        ({"seed": 5}, "the runs they began from have other seeds"),
        (
            {"variant": "softmax"},
            "began from a checkpoint of softmax (runs/books/sa-softmax/seed-0), not from its own; where that "
            "is meant, name it: pretrained:softmax@runs/books",
        ),
    ],
)
def test_checkpoints_that_are_no_pair_are_refused_with_the_reason(
    tmp_path: Path, link: dict[str, Any], why: str
) -> None:
    pretrained(tmp_path, "softmax")
    pretrained(tmp_path, "sa-softmax", **link)
    table = only_table(tmp_path)
    assert variant_of(table).difference is None
    assert len(table.refused) == 2 and why in table.refused[0]


def test_a_chain_of_checkpoints_is_a_pair_where_its_first_links_are(tmp_path: Path) -> None:
    first = {"seed": 0, "settings": "f", "new_weights": "n", "initial_weights": "i", "pretrained": None,
             "folder": "a", "task": "books", "model": "scratch:tiny", "variant": "softmax", "position": "own",
             "sample": False, "config_hash": "c", "weights": "w"}  # fmt: skip
    pretrained(tmp_path, "softmax", seeds=(0,), initial_weights="1", pretrained=first)
    pretrained(tmp_path, "sa-softmax", seeds=(0,), initial_weights="2", pretrained=first)
    unlike = first | {"initial_weights": "j"}
    pretrained(tmp_path, "sa-softmax-raw", seeds=(0,), initial_weights="3", pretrained=unlike)
    table = only_table(tmp_path)
    assert difference_of(table).seeds == [0]
    assert variant_of(table, "sa-softmax-raw").difference is None


@pytest.mark.parametrize("source", ["pretrained:runs/books", "pretrained:softmax@runs/books", "runs/a"])
@pytest.mark.parametrize("depth", [0, 1])
def test_seeds_that_began_from_unlike_pretrainings_make_no_table_together(
    tmp_path: Path, source: str, depth: int
) -> None:
    """Whether the last one is unlike or the one that it began from itself."""
    for seed, settings in enumerate(("s" * 16, "t" * 16)):
        for variant in ("softmax", "sa-softmax"):
            began: dict[str, Any] = {"settings": settings, "pretrained": None}
            if depth:
                before = pretraining_of("softmax", seed) | began
                began = {"settings": "s" * 16, "pretrained": before}
            pretrained(tmp_path, variant, source=source, seeds=(seed,), initial_weights="i", **began)
    tables = compare([tmp_path]).tables
    assert [only.variants[0].finished for only in tables] == [1, 1]
    assert "pretraining (hash of its settings)" in tables[1].apart


def test_a_swapped_checkpoint_is_a_group_of_its_own_and_pairs_by_its_weights(tmp_path: Path) -> None:
    for variant in ("softmax", "sa-softmax"):
        pretrained(tmp_path / "own", variant)
        for seed in (0, 1):
            entry = started(variant, seed, model={"name": "pretrained:softmax@runs/books"})
            save(tmp_path / "swapped", entry, classified(correctness(400, 0.7, seed)))
    save_accuracies(tmp_path / "scratch", "softmax", [0.6, 0.6])
    save_accuracies(tmp_path / "scratch", "sa-softmax", [0.6, 0.6])
    comparison = compare([tmp_path])
    assert [table.model for table in comparison.tables] == [
        "pretrained:runs/books",
        "pretrained:softmax@runs/books",
        "scratch:tiny",
    ]
    assert all(difference_of(table).seeds == [0, 1] for table in comparison.tables)
    head, *rows = cells.origins(comparison)
    began, score = head.index("began from"), head.index("score")
    assert [(row[began], row[score]) for row in rows[::2]] == [
        ("its own pretraining", "80.00 ± 0.00"),
        ("pretraining with softmax, swapped", "70.00 ± 0.00"),
        ("scratch", "60.00 ± 0.00"),
    ]


def test_models_from_random_weights_alone_are_not_shown_beside_each_other(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.6, 0.6])
    assert cells.origins(compare([tmp_path])) == []
