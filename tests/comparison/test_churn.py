"""What a swap changes of the predictions, against another seed: from records made by hand."""

import json
from pathlib import Path

import pytest

from finetune.comparison import churn
from finetune.comparison.compare import compare
from finetune.metrics import registry
from finetune.records import store
from finetune.report import cells, facts, write
from finetune.report.formats import saved
from finetune.report.formats.markdown import markdown
from tests.support.records import save, started, translations
from tests.support.report_records import save_language_model


def predicted(classes: list[int]) -> list[dict[str, int]]:
    return [{"row": row, "label": row % 4, "prediction": each} for row, each in enumerate(classes)]


def shifted(*rows: int) -> list[int]:
    """Twenty right predictions but for these rows."""
    return [(row + (row in rows)) % 4 for row in range(20)]


def save_all(root: Path, runs: dict[str, list[list[int]]]) -> None:
    for variant, seeds in runs.items():
        for seed, classes in enumerate(seeds):
            save(root, started(variant, seed), predicted(classes))


def found(root: Path) -> churn.Churn | None:
    (table,) = compare(root).tables
    assert table.variants[0].churn is None
    return table.variants[1].churn


def test_shares_of_three_seeds_by_hand(tmp_path: Path) -> None:
    """Softmax's seeds are apart by 2, 3 and 3 rows of 20, sa-softmax's by 3, 3 and 0; swapped by 1, 0, 3."""
    save_all(
        tmp_path,
        {
            "softmax": [shifted(0, 1), shifted(1, 2), shifted(3, 4, 1)],
            "sa-softmax": [shifted(0, 1, 9), shifted(1, 2), shifted(1, 2)],
        },
    )
    each = found(tmp_path)
    assert each is not None and (each.seeds, each.rows) == ([0, 1, 2], 20)
    assert each.swap.value == pytest.approx(100 * (1 + 0 + 3) / 60)
    assert each.reseed_baseline is not None and each.reseed_variant is not None and each.reseed is not None
    assert each.reseed_baseline.value == pytest.approx(100 * (2 + 3 + 3) / 60)
    assert each.reseed_variant.value == pytest.approx(100 * (3 + 3 + 0) / 60)
    assert each.reseed.value == pytest.approx(100 * (8 + 6) / 120)
    assert each.difference == pytest.approx(each.swap.value - each.reseed.value)
    assert each.difference_interval is not None
    assert each.difference_interval[0] < each.difference < each.difference_interval[1]
    for share in (each.swap, each.reseed):
        assert 0 <= share.interval[0] <= share.value <= share.interval[1] <= 100 and share.over_seeds
    text = churn.sentence(each, registry.METRICS["accuracy"])
    assert text.startswith("swapping attention changes 6.7% of predictions (0.0 to ")
    assert ", another seed 11.7% (" in text and "the difference is −5.0 points (−" in text


def test_no_difference_is_more_than_all_predictions(tmp_path: Path) -> None:
    """Three runs that each predict a class of their own, as runs that learn nothing do."""
    constant = [[seed] * 20 for seed in range(3)]
    save_all(tmp_path, {"softmax": constant, "sa-softmax": [[0] * 20, [1] * 20, [3] * 20]})
    each = found(tmp_path)
    assert each and each.difference_interval
    assert -100 <= each.difference_interval[0] <= each.difference_interval[1] <= 100


def test_one_seed_has_no_reseed_and_two_no_noise_of_seeds_between_them(tmp_path: Path) -> None:
    runs = {"softmax": [shifted(0), shifted(1)], "sa-softmax": [shifted(2), shifted(1)]}
    save_all(tmp_path / "one", {variant: seeds[:1] for variant, seeds in runs.items()})
    save_all(tmp_path / "two", runs)
    one, two = found(tmp_path / "one"), found(tmp_path / "two")
    assert one is not None and two is not None
    assert (one.reseed, one.difference, one.swap.value, one.swap.over_seeds) == (None, None, 10.0, False)
    assert churn.sentence(one, registry.METRICS["accuracy"]).endswith(", over rows alone)")
    assert two.swap.over_seeds and two.reseed is not None and not two.reseed.over_seeds
    assert two.difference == pytest.approx(5.0 - 10.0) and two.difference_interval is None


def test_without_predictions_there_is_none_and_a_kept_report_says_the_same(tmp_path: Path) -> None:
    seeds = [shifted(0), shifted(1), shifted(5)]
    save_all(tmp_path, {"softmax": seeds, "sa-softmax": seeds})
    comparison = compare(tmp_path)
    (tmp_path / saved.FILE).write_text(saved.as_json(comparison))
    again = saved.read(tmp_path / saved.FILE)
    assert again.tables[0].variants[1].churn == comparison.tables[0].variants[1].churn is not None
    content = json.loads((tmp_path / saved.FILE).read_text())
    for table in content["tables"]:  # a report of earlier days
        for arm in table["arms"]:
            del arm["churn"]
    (tmp_path / saved.FILE).write_text(json.dumps(content))
    assert saved.read(tmp_path / saved.FILE).tables[0].variants[1].churn is None
    next(tmp_path.rglob(store.PREDICTIONS)).unlink()
    assert found(tmp_path) is None


def test_translations_that_differ_are_more_or_less_alike(tmp_path: Path) -> None:
    over = {"kind": "translation", "task": "toy", "pair": "de-en"}
    for variant, noise in (("softmax", 0.1), ("sa-softmax", 0.3)):
        for seed in range(3):
            save(tmp_path, started(variant, seed, **over), translations(30, noise, seed))
    each = found(tmp_path)
    assert each is not None and each.reseed_baseline is not None and each.reseed_variant is not None
    assert 50 < each.reseed_baseline.value < each.reseed_variant.value <= 100
    assert each.swap.alike is not None and 20 < each.swap.alike < 95
    assert each.reseed_baseline.alike is not None and each.reseed_variant.alike is not None
    assert each.reseed_baseline.alike > each.reseed_variant.alike
    assert " chrF, of two seeds " in churn.sentence(each, registry.METRICS["bleu"])


def test_documents_of_a_language_model_are_apart_in_nats(tmp_path: Path) -> None:
    for variant in ("softmax", "sa-softmax"):
        for seed in range(3):
            save_language_model(tmp_path, variant, seed)
    each = found(tmp_path)
    assert each is not None and 0.01 < each.swap.value < 0.1  # the made-up gain is 0.03 nats a token
    assert each.reseed is not None and each.reseed.value < each.swap.value
    text = churn.sentence(each, registry.METRICS["perplexity"])
    assert (
        text.startswith("swapping attention moves the loss of a document by 0.0")
        and " nats a token (" in text
    )


def test_every_form_of_a_report_says_what_the_swap_changes(tmp_path: Path) -> None:
    save_all(tmp_path, {"softmax": [shifted(0), shifted(1)], "sa-softmax": [shifted(2), shifted(1)]})
    for number, file in enumerate(sorted(tmp_path.rglob(store.FILE))):
        content = json.loads(file.read_text())
        scores = {"precision": 0.5, "recall": 1.0, "f1": 0.6 + number / 100, "support": 5}
        content["metrics"] |= {
            "per_class": {"World": scores, "Sports": scores | {"support": "many"}},  # the second is damaged
            "nll": {"value": 0.25 + number / 8, "signature": "nll"},
            "ece": {"value": 0.0125, "signature": "ece"},
        }
        file.write_text(json.dumps(content))
    comparison = compare(tmp_path)
    (table,) = comparison.tables
    assert "swapping attention changes 5.0% of predictions" in write.text(comparison)
    assert f"{facts.BELOW}:" in markdown(comparison)
    head, softmax, variant = cells.below(table)
    assert head[-2:] == [
        "negative log-likelihood (lower is better)",
        "expected calibration error (%) (lower is better)",
    ]
    assert (
        softmax[0] == "softmax" and variant[1].startswith("5.0% (0.0 to ") and variant[-1].startswith("1.25")
    )
    assert cells.classes(table)[1][:2] == ["World", "5"] and len(cells.classes(table)) == 2
    assert "negative log-likelihood" not in " ".join(cells.scores(table)[0])
