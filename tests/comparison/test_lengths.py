"""Language models: perplexity by context length, by positional encoding, and over few documents."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from finetune.comparison import lengths
from finetune.comparison.caveats import NoteKind
from finetune.comparison.compare import Comparison, compare
from finetune.comparison.interactions import sentence
from finetune.comparison.pairing import groups
from finetune.metrics import registry
from finetune.metrics.perplexity import masked_metrics
from finetune.records import store
from finetune.records.run import read_runs
from tests.support.comparisons import only_table, variant_of
from tests.support.records import folder_of, started
from tests.support.report_records import documents, save_language_model


def _save(root: Path, positions: tuple[str, ...] = ("own",), seeds: int = 3, **over: Any) -> None:
    for position in positions:
        for variant in ("softmax", "sa-softmax"):
            for seed in range(seeds):
                save_language_model(root, variant, seed, position, **over)


def _changed(folder: Path, name: str, value: float | None, why: str = "") -> None:
    entry = store.read(folder)
    assert entry["metrics"] is not None
    entry["metrics"][name] = {"value": value, "missing": why}
    store.write(folder, entry)


def test_one_length_beyond_the_training_is_tested_in_the_family_of_the_table(tmp_path: Path) -> None:
    _save(tmp_path)
    table = only_table(tmp_path)
    assert (table.trained_length, table.tested_length) == (128, "perplexity@512")
    result = variant_of(table)
    assert result.difference is not None and result.difference.comparisons == 2
    assert list(result.at_lengths) == [f"perplexity@{length}" for length in (64, 128, 256, 512)]
    tested = result.at_lengths["perplexity@512"]
    assert tested.comparisons == 2 and tested.p_adjusted is not None and tested.verdict == "better"
    for name, described in result.at_lengths.items():
        assert described.interval is not None
        if name != "perplexity@512":
            assert (described.p, described.p_adjusted, described.verdict) == (None, None, "unknown")
    assert "at 512 tokens, 4 times the training length, significantly better: sa-softmax (−" in table.sentence


def test_lower_is_better_at_every_length(tmp_path: Path) -> None:
    _save(tmp_path)
    table = only_table(tmp_path)
    for name, described in variant_of(table).at_lengths.items():
        softmax, other = (variant_of(table, each).metrics[name].mean for each in ("softmax", "sa-softmax"))
        assert described.mean == pytest.approx(other - softmax) and described.mean < 0
        assert not registry.get(name).higher_is_better


def test_the_tested_length_is_one_that_every_run_has(tmp_path: Path) -> None:
    _save(tmp_path)
    folder = save_language_model(tmp_path, "sa-softmax", 1)
    _changed(folder, "perplexity@512", None, "windows of 512 tokens do not fit")
    table = only_table(tmp_path)
    assert table.tested_length == "perplexity@256"
    assert variant_of(table).at_lengths["perplexity@512"].seeds == [0, 2]
    (note,) = [note.text for note in table.notes if note.kind is NoteKind.LENGTHS]
    assert note == (
        "perplexity at 512 was not scored: windows of 512 tokens do not fit (sa-softmax, seed 1); "
        "perplexity at 256 is tested instead"
    )


def test_a_length_that_is_missing_and_was_not_to_be_tested_moves_nothing(tmp_path: Path) -> None:
    _save(tmp_path, seeds=2)
    _changed(save_language_model(tmp_path, "softmax", 0), "perplexity@256", None, "it does not fit")
    table = only_table(tmp_path)
    assert table.tested_length == "perplexity@512"
    (note,) = [note.text for note in table.notes if note.kind is NoteKind.LENGTHS]
    assert note == "perplexity at 256 was not scored: it does not fit (softmax, seed 0)"


def test_without_a_length_beyond_the_training_none_is_tested(tmp_path: Path) -> None:
    for variant in ("softmax", "sa-softmax"):
        for seed in range(2):
            rows = documents(variant, seed, lengths=(64, 128))
            save_language_model(tmp_path, variant, seed, rows=rows)
    table = only_table(tmp_path)
    assert table.tested_length is None and table.trained_length == 128
    result = variant_of(table)
    assert result.difference is not None and result.difference.comparisons == 1
    assert "times the training length" not in table.sentence


def test_predictions_are_held_to_every_recorded_value(tmp_path: Path) -> None:
    _save(tmp_path, seeds=2)
    folder = save_language_model(tmp_path, "softmax", 0)
    _changed(folder, "perplexity@512", 99.0)
    result = variant_of(only_table(tmp_path))
    assert result.at_lengths["perplexity@512"].interval is None
    assert result.at_lengths["perplexity@256"].interval is not None


def test_documents_that_are_not_the_same_are_not_compared(tmp_path: Path) -> None:
    _save(tmp_path, seeds=2)
    rows = documents("sa-softmax", 1)
    rows[0]["tokens"] += 1
    save_language_model(tmp_path, "sa-softmax", 1, rows=rows)
    (note,) = [note.text for note in only_table(tmp_path).notes if note.kind is NoteKind.NO_ROWS]
    assert "are not of the same tokens" in note


@pytest.mark.parametrize(("count", "said"), [(5, "with fewer than 6 no"), (12, "12 documents"), (40, None)])
def test_few_documents_are_told(tmp_path: Path, count: int, said: str | None) -> None:
    for variant in ("softmax", "sa-softmax"):
        for seed in range(3):
            save_language_model(tmp_path, variant, seed, rows=documents(variant, seed, count=count))
    table = only_table(tmp_path)
    notes = [note.text for note in table.notes if note.kind is NoteKind.FEW_ROWS]
    assert len(notes) == (said is not None) and all(str(said) in note for note in notes)
    difference = variant_of(table).difference
    assert difference is not None and (difference.verdict == "unknown") == (count == 5)
    assert difference.conclusive == (count > 5)
    assert ("It cannot be told" in table.sentence) == (count == 5)
    assert count > 5 or "minimum detectable" not in table.sentence  # more seeds would not help
    assert difference.test is not None and f"{count} documents" in difference.test


@pytest.mark.parametrize("long", [4, 12, 40])
def test_few_documents_at_the_tested_length_are_told(tmp_path: Path, long: int) -> None:
    """60 documents are many, but those of them that are long enough may be few."""
    for variant in ("softmax", "sa-softmax"):
        for seed in range(3):
            rows = documents(variant, seed, count=60)
            for row in rows[long:]:
                row["by_length"] = {}
            save_language_model(tmp_path, variant, seed, rows=rows)
    table = only_table(tmp_path)
    notes = [note.text for note in table.notes if note.kind is NoteKind.FEW_ROWS]
    assert len(notes) == (long < 30)
    wanted = f"the test set has 60 documents, {long} documents are long enough for perplexity at 512, and"
    assert all(wanted in note and ("fewer than 6" in note) == (long < 6) for note in notes)
    result = variant_of(table)
    assert result.difference is not None and result.difference.conclusive
    at = result.at_lengths["perplexity@512"]
    assert (at.rows, at.conclusive) == (long, long >= 6)
    assert ("training length, cannot tell: sa-softmax" in table.sentence) == (long < 6)


def test_positions_are_settings_as_the_task_is(tmp_path: Path) -> None:
    _save(tmp_path, ("own", "kerple"), seeds=2)
    runs = read_runs(tmp_path)
    assert {run.position for run in runs} == {"", "kerple"} and {run.base_model for run in runs} == {
        "scratch:tiny"
    }
    assert {run.folder.parts[-3] for run in runs} == {"scratch-tiny", "scratch-tiny-kerple"}
    assert [len(siblings) for siblings in groups(runs)] == [1, 1]
    for table in compare(tmp_path).tables:
        assert not table.missing and not table.refused and not table.setting
        assert table.model == ("scratch:tiny, kerple positions" if table.position else "scratch:tiny")


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    root = tmp_path_factory.mktemp("crossed")
    _save(root, ("own", "kerple"))
    return compare(root)


def test_a_variant_that_gains_more_under_one_encoding_is_named(crossed: Comparison) -> None:
    (found,) = crossed.interactions
    assert (found.variant, found.position, found.reference) == ("sa-softmax", "kerple", "own")
    gains = [
        [
            math.log(table.variants[1].metrics["perplexity"].per_seed[seed])
            - math.log(table.variants[0].metrics["perplexity"].per_seed[seed])
            for seed in range(3)
        ]
        for table in crossed.tables
    ]
    assert found.metric == "log_perplexity"
    assert found.difference.per_seed == pytest.approx([two - one for one, two in zip(*gains, strict=True)])
    assert found.difference.verdict == "better" and found.difference.seeds == [0, 1, 2]
    assert found.difference.interval is not None and found.difference.interval[1] < 0
    said = sentence(found)
    assert said.startswith(
        "books, scratch:tiny: sa-softmax gains significantly more over softmax under kerple"
    )


def test_equal_gains_are_no_interaction(tmp_path: Path) -> None:
    _save(tmp_path, ("own", "alibi"))
    (found,) = compare(tmp_path).interactions
    assert found.difference.verdict == "none" and found.difference.conclusive
    assert "no significant interaction" in sentence(found)


@pytest.mark.parametrize("level", [-0.3, 0.3])
def test_an_interaction_does_not_depend_on_the_level_of_an_encoding(tmp_path: Path, level: float) -> None:
    """Equal gains in nats are unequal ones in perplexity where softmax has another one."""
    for variant in ("softmax", "sa-softmax"):
        for seed in range(3):
            rows = documents(variant, seed, "own")
            save_language_model(tmp_path, variant, seed, "own", rows=rows)
            for row in rows:
                row["nats"] += level * row["tokens"]
            save_language_model(tmp_path, variant, seed, "alibi", rows=rows)
    comparison = compare(tmp_path)
    gains = [variant_of(table).difference for table in comparison.tables]
    assert abs(gains[0].mean - gains[1].mean) > 0.5  # type: ignore[union-attr]
    (found,) = comparison.interactions
    assert found.difference.verdict == "none" and found.difference.mean == pytest.approx(0, abs=1e-9)
    assert " nats a token (95% interval " in sentence(found)


def test_one_seed_allows_no_conclusion_on_an_interaction(tmp_path: Path) -> None:
    _save(tmp_path, ("own", "kerple"), seeds=1)
    (found,) = compare(tmp_path).interactions
    assert (
        found.difference.interval is None
        and "it cannot be told whether there is an interaction" in sentence(found)
    )


def test_runs_that_differ_in_more_than_position_have_no_interaction(tmp_path: Path) -> None:
    _save(tmp_path, ("own",))
    _save(tmp_path, ("kerple",), train={"learning_rate": 0.1})
    assert compare(tmp_path).interactions == []


def test_every_setting_has_interactions_of_its_own(tmp_path: Path) -> None:
    """All in one family; an encoding whose setting the reference lacks has none."""
    for rate, positions in ((0.1, ("own", "kerple")), (0.2, ("own", "kerple", "alibi")), (0.3, ("alibi",))):
        _save(tmp_path / str(rate), positions, train={"learning_rate": rate})
    found = compare(tmp_path).interactions
    assert [(each.position, each.apart) for each in found] == [
        ("alibi", "train.learning_rate = 0.2"),
        ("kerple", "train.learning_rate = 0.1"),
        ("kerple", "train.learning_rate = 0.2"),
    ]
    assert {each.difference.comparisons for each in found} == {3}
    assert all(f", {each.apart}: " in sentence(each) for each in found)


def test_rope_is_the_reference_where_it_is(tmp_path: Path) -> None:
    for position in ("kerple", "rope"):
        for variant in ("softmax", "sa-softmax"):
            for seed in range(2):
                rows = documents(variant, seed, "own" if position == "rope" else position)
                save_language_model(tmp_path, variant, seed, position, rows=rows)
    (found,) = compare(tmp_path).interactions
    assert (found.position, found.reference) == ("kerple", "rope")


def test_the_numbers_are_those_of_the_sums(tmp_path: Path) -> None:
    _save(tmp_path, seeds=1)
    run = next(run for run in read_runs(tmp_path) if run.variant == "softmax")
    rows = json.loads(f"[{','.join((run.folder / store.PREDICTIONS).read_text().splitlines())}]")
    whole = math.exp(sum(row["nats"] for row in rows) / sum(row["tokens"] for row in rows))
    assert run.metrics["perplexity"] == pytest.approx(whole)
    assert [name for name in run.metrics if registry.length_of(name)] == lengths.names(groups([run])[0][0])


def test_a_masked_model_is_compared_by_its_loss(tmp_path: Path) -> None:
    for variant in ("softmax", "sa-softmax"):
        for seed in range(3):
            keys = ("row", "document", "nats", "tokens")
            rows = [{key: row[key] for key in keys} for row in documents(variant, seed)]
            entry = started(variant, seed, kind="masked", task="books", pair=None)
            folder = folder_of(tmp_path, entry)
            store.write_predictions(folder, rows)
            entry["metrics"] = masked_metrics(rows, tokenizer="0123abcd", length=128, masked_share=0.15)
            entry["status"], entry["finished"], entry["predictions"] = (
                "finished",
                store.now(),
                "predictions.jsonl",
            )
            store.write(folder, entry)
    table = only_table(tmp_path)
    assert (table.metric, table.trained_length, table.tested_length) == ("masked_loss", None, None)
    difference = variant_of(table).difference
    assert difference is not None and difference.verdict == "better" and -0.05 < difference.mean < -0.01
    assert "nats a masked token (lower is better)" in table.sentence
    assert not variant_of(table).at_lengths
