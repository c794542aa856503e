"""The statistics keep what they promise, in simulated studies that go the way of real ones."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from finetune.statistics.bleu import bleu
from finetune.statistics.power import ALPHA
from finetune.statistics.sequential import Looks
from tests.calibration import __main__ as command
from tests.calibration import looks, page, rates, studies
from tests.calibration.studies import DESIGNS

RECORDED = Path(__file__).parents[2] / "results" / "calibration"
BY_NAME = {design.name: design for design in DESIGNS}


def most(promised: float, count: int) -> float:
    """The highest rate that so many studies of the promised rate give by chance, 1 time in 1,000."""
    return float(scipy_stats.binom.ppf(0.999, count, promised)) / count


@pytest.mark.slow
def test_equal_methods_are_claimed_to_differ_no_more_often_than_promised() -> None:
    """2,000 studies of three seeds with every kind of noise: two comparisons each, Holm, `claims.judge`."""
    found = rates.alarms("mixed", "accuracy", rates.classification(BY_NAME["mixed"], 3, 2000))
    assert found.studies == 2000
    assert found.claims <= most(ALPHA, 2000)
    assert found.misses is not None and found.misses <= most(ALPHA, 2000)
    # The studies are no walk-over: each kind of noise by itself says too much.
    assert found.claims_rows > 0.09
    assert found.misses_seeds is not None and found.misses_seeds > 0.07


@pytest.mark.slow
@pytest.mark.parametrize("name", ["errors", "seeds", "tastes", "collapse"])
def test_no_kind_of_noise_makes_more_claims_than_promised(name: str) -> None:
    for seeds, count in ((1, 25), (2, 100), (7, 100)):
        found = rates.alarms(name, "accuracy", rates.classification(BY_NAME[name], seeds, count))
        assert found.claims <= (0 if seeds == 1 else most(ALPHA, count)), seeds
        assert (found.misses or 0.0) <= most(ALPHA, 2 * count), seeds


@pytest.mark.slow
def test_seeds_that_are_added_until_a_difference_is_known_make_no_more_claims() -> None:
    """Fewer than where each look has its 5%; and a difference of the margin is not called equivalent."""
    equal = looks.looked(BY_NAME["seeds"], Looks(3, 9, 3), 60, 2.0, 0.0)
    assert equal.claims <= most(ALPHA, 60) and equal.claims <= equal.claims_naive
    assert equal.misses <= most(ALPHA, 120) and 3 < equal.seeds <= 9
    apart = looks.looked(BY_NAME["mixed"], Looks(3, 9, 3), 40, 2.0, 2.0)
    assert apart.equivalent <= most(ALPHA / 2, 80)


def test_rows_alone_and_seeds_alone_claim_too_much() -> None:
    by_rows = rates.alarms("seeds", "accuracy", rates.classification(BY_NAME["seeds"], 2, 60))
    by_seeds = rates.alarms("tastes", "accuracy", rates.classification(BY_NAME["tastes"], 7, 60))
    assert by_rows.claims_rows > 0.5
    assert by_seeds.claims_seeds > 0.15


@pytest.mark.slow
def test_equal_translations_are_not_claimed_to_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "finetune.statistics.over_seeds.TRIALS", 64
    )  # of the approximate randomisation, which decides nothing
    monkeypatch.setattr("finetune.statistics.over_seeds.RESAMPLES", 400)
    found = rates.alarms("mixed", "bleu", rates.translation(BY_NAME["mixed"], 3, 100))
    assert found.claims <= most(ALPHA, 100)
    assert found.misses is not None and found.misses <= most(ALPHA, 200)


@pytest.mark.parametrize("documents", [12, 30])
def test_few_unequal_documents_make_no_more_claims_than_promised(
    monkeypatch: pytest.MonkeyPatch, documents: int
) -> None:
    monkeypatch.setattr("finetune.statistics.over_seeds.TRIALS", 400)
    monkeypatch.setattr("finetune.statistics.over_seeds.RESAMPLES", 400)
    families = rates.language_models(BY_NAME["tastes"], 3, 60, documents)
    found = rates.alarms("tastes", "perplexity", families)
    assert found.claims <= most(ALPHA, 60)
    assert found.misses is not None and found.misses <= most(ALPHA, 120)
    assert found.misses_seeds is not None and found.misses_seeds > 0.2  # the seeds share the documents


def test_a_true_difference_is_found_about_as_often_as_predicted() -> None:
    """And the variant beside it, which is equal to the baseline, is not claimed to differ."""
    mean = rates.alarms("errors", "accuracy", rates.classification(BY_NAME["errors"], 6, 60))
    assert mean.detectable is not None
    found = rates.find(BY_NAME["errors"], 6, 120, mean.detectable, 0.8)
    assert 0.65 <= found.claims <= 0.95
    assert found.wrong == 0.0
    assert found.others <= most(ALPHA, 120)


def test_a_difference_of_the_margin_is_seldom_called_equivalent() -> None:
    """And equal methods often are, where the margin is what such a design can detect."""
    margin = 5.5
    apart, equal = (
        rates.accuracy_at(BY_NAME["mixed"], 3, count, margin, share)
        for count, share in ((60, 1.0), (20, 0.0))
    )
    found = rates.equivalence("mixed", "accuracy", margin, apart, equal)
    assert (found.studies, found.studies_equal, found.seeds) == (60, 20, 3)
    assert found.false_any <= most(ALPHA, 60) and found.false <= most(ALPHA / 2, 120)
    assert found.found > 0.6


@pytest.mark.parametrize("metric", ["bleu", "perplexity"])
def test_no_metric_calls_a_difference_of_the_margin_equivalent(
    monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    monkeypatch.setattr("finetune.statistics.over_seeds.TRIALS", 64)
    monkeypatch.setattr("finetune.statistics.over_seeds.RESAMPLES", 400)
    at = {"bleu": rates.bleu_at, "perplexity": partial(rates.perplexity_at, documents=30)}[metric]
    margin = {"bleu": 4.5, "perplexity": 2.4}[metric]
    apart, equal = (at(BY_NAME["mixed"], 6, 12, margin, share) for share in (1.0, 0.0))
    found = rates.equivalence("mixed", metric, margin, apart, equal)
    assert found.false_any <= most(ALPHA, 12) and found.found > 0.4


def test_the_made_up_margins_are_the_true_differences() -> None:
    rng = np.random.default_rng(0)
    design = replace(BY_NAME["mixed"], seed=0.0, taste=0.0)  # whose noise would take many more runs
    shift = design.shift_for_bleu(4.0)
    low, high = studies.translate(design, rng, 5, 8000, (0.0, shift))
    scores = [np.mean([bleu(run.sum(axis=0)) for run in side]) for side in (low, high)]
    assert scores[1] - scores[0] == pytest.approx(4.0, abs=0.25)
    assert design.bleu(shift) - design.bleu(0.0) == pytest.approx(4.0, abs=1e-6)
    fallen = BY_NAME["collapse"]
    shifts = (0.0, fallen.shift_for(0.05))
    low, high = studies.classify(fallen, rng, 400, 1000, shifts)
    assert high.mean() - low.mean() == pytest.approx(0.05, abs=0.025)


def test_probabilities_of_improvement_keep_their_promise_with_few_seeds() -> None:
    found = rates.improvements(3, 3, 60)
    assert found.misses <= most(ALPHA, 60) and found.misses <= found.misses_plain


def test_interquartile_means_keep_their_promise_with_few_seeds() -> None:
    found = rates.middles(3, 3, 150)
    assert found.misses <= most(ALPHA, 150)
    assert found.misses_plain > found.misses


def test_the_made_up_accuracy_is_what_it_says() -> None:
    design = BY_NAME["mixed"]
    shifts = (0.0, design.shift_for(0.05))
    low, high = studies.classify(design, np.random.default_rng(0), 400, 1000, shifts)
    assert high.mean() - low.mean() == pytest.approx(0.05, abs=0.02)
    expected = scipy_stats.norm.cdf(design.level / design.deviation)
    assert low.mean() == pytest.approx(expected, abs=0.03)


def test_the_command_writes_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("finetune.statistics.over_seeds.TRIALS", 64)
    result = command.measure(20, designs=[BY_NAME["errors"]], seeds=(1, 2))
    assert [(a["metric"], a["seeds"], a["studies"]) for a in result["alarms"]] == [
        *[("accuracy", 1, 20), ("accuracy", 2, 20)],
        *[("bleu", 1, 5), ("bleu", 2, 5)],
    ]
    assert [(e["metric"], e["seeds"], e["studies"], e["studies_equal"]) for e in result["equivalent"]] == [
        *[("accuracy", 2, 5, 1), ("bleu", 2, 2, 1)]
    ]
    monkeypatch.setattr(command, "measure", lambda count: result)
    monkeypatch.setattr("sys.argv", ["calibration", "--studies", "20", "--output", str(tmp_path / "out")])
    assert command.main() == 0
    assert json.loads((tmp_path / "out" / "calibration.json").read_text()) == result
    assert (tmp_path / "out" / "calibration.md").read_text() == page.markdown(result)
    monkeypatch.setattr("sys.argv", ["calibration", "--studies", "2"])
    assert command.main() == 2
    assert "--studies takes a number from 20" in capsys.readouterr().err


def test_the_recorded_rates_keep_the_promise() -> None:
    """``results/calibration``, of 2,000 studies a line, as the command left it."""
    result = json.loads((RECORDED / "calibration.json").read_text(encoding="utf-8"))
    assert (RECORDED / "calibration.md").read_text(encoding="utf-8") == page.markdown(result)
    assert result["studies"] >= 2000
    accuracy = [line for line in result["alarms"] if line["metric"] == "accuracy"]
    assert {(a["design"], a["seeds"]) for a in accuracy} == {
        (design.name, seeds) for design in DESIGNS for seeds in rates.SEEDS
    }
    perplexity = [line for line in result["alarms"] if line["metric"] == "perplexity"]
    assert {line["design"].rpartition(", ")[2] for line in perplexity} == {
        f"{documents} documents" for documents in rates.DOCUMENTS
    }
    for line in result["alarms"]:
        assert line["claims"] <= most(ALPHA, line["studies"]), line
        assert (line["misses"] or 0.0) <= most(ALPHA, 2 * line["studies"]), line
        assert line["seeds"] > 1 or line["claims"] == 0
    equivalent = result["equivalent"]
    assert {(line["design"], line["metric"], line["seeds"]) for line in equivalent} == {
        (line["design"], line["metric"], line["seeds"]) for line in result["alarms"] if line["seeds"] > 1
    }
    for line in equivalent:
        # No study can allow for collapses that it has not seen, and they are part of the true difference.
        collapses = BY_NAME[line["design"].partition(",")[0]].collapses > 0
        assert line["false_any"] <= most(0.1 if collapses else ALPHA, line["studies"]), line
        assert line["false"] <= most(ALPHA if collapses else ALPHA / 2, line["studies"]), line
    for line in result["improvement"]:
        assert line["misses"] <= most(ALPHA, line["studies"]), line
    for line in result["middle"]:
        assert line["misses"] <= most(ALPHA, line["studies"]), line
    for line in result["found"]:
        assert math.isclose(line["predicted"], 0.8)
        assert line["others"] <= most(ALPHA, line["studies"]), line
