"""A metric of which less is better and which has no upper end, from its rows to every form of a report."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.comparison.compare import Comparison, compare
from finetune.comparison.tables import ResultTable
from finetune.metrics import registry
from finetune.metrics.registry import METRICS, Metric
from finetune.metrics.rows import RowScorer
from finetune.records import store
from finetune.records.run import read_runs
from finetune.report import cells, summary, write
from finetune.report.answer import answer
from finetune.report.matrix import matrix
from finetune.report.plots import forest
from finetune.report.plots.figures import Palette
from finetune.statistics.over_rows import MIDDLES, RowResult
from tests.support.records import folder_of, started
from tests.support.report_records import curve

ROWS = 300


def _compare(baseline: Sequence[Any], variant: Sequence[Any]) -> RowResult:
    """The paired bootstrap of perplexity, the exponential of the mean loss of rows."""
    draws = np.random.default_rng(0).integers(ROWS, size=(500, ROWS))

    def differences(rows: Any) -> Any:
        sides = [
            np.exp(np.array([scores[rows].mean(axis=-1) for scores in side])) for side in (variant, baseline)
        ]
        return sides[0] - sides[1]

    observed, resampled = differences(np.arange(ROWS)), differences(draws)
    means = resampled.mean(axis=0)
    low, high = np.quantile(means, [0.025, 0.975])
    middle = float(observed.mean())
    p = float(max(1e-3, (np.abs(means - middle) >= abs(middle)).mean()))
    spread = np.quantile(means, MIDDLES) - middle
    return RowResult(middle, (float(low), float(high)), float(means.std()), 0.0, p, "a test", p, ROWS, spread)


SCORER = RowScorer(
    score=lambda rows, signature: np.array([row["prediction"] for row in rows]),
    value=lambda losses: float(np.exp(losses.mean())),
    compare=_compare,
)


def _chance(task: Mapping[str, Any]) -> float:
    return 1000.0  # entries of a vocabulary


PERPLEXITY = Metric(
    "perplexity",
    title="perplexity",
    unit="perplexity",
    higher_is_better=False,
    lowest=1.0,
    highest=math.inf,
    primary_of="classification",
    truth="label",
    rows=SCORER,
    chance=_chance,
)


@pytest.fixture(autouse=True)
def _declared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delitem(METRICS, "accuracy")
    monkeypatch.setitem(METRICS, "perplexity", PERPLEXITY)
    yield


def _save(root: Path, variant: str, perplexities: Sequence[float], task: str = "agnews", **over: Any) -> None:
    for seed, value in enumerate(perplexities):
        entry = started(variant, seed, task=task, **over)
        losses = math.log(value) + 0.05 * np.random.default_rng(seed).standard_normal(ROWS)
        rows = [{"row": i, "label": i, "prediction": float(loss)} for i, loss in enumerate(losses)]
        folder = folder_of(root, entry)
        store.write_predictions(folder, rows)
        entry["metrics"] = {"perplexity": {"value": SCORER.value(losses), "signature": "perplexity|made up"}}
        entry["status"], entry["finished"], entry["predictions"] = "finished", store.now(), store.PREDICTIONS
        entry["times"] = {"train_s": 60.0, "predict_s": 5.0, "total_s": 70.0}
        entry["untrained"] = {"split": "validation", "rows": 10, "loss": 6.0, "perplexity": 403.0}
        entry["curve"] = curve(seed, metric="perplexity")
        store.write(folder, entry)


def _comparison(root: Path) -> Comparison:
    for task in ("agnews", "yelp"):
        _save(root, "softmax", [20.0, 20.4, 19.6], task)
        _save(root, "sa-softmax", [15.0, 15.2, 14.9], task)
        _save(root, "sa-softmax-raw", [30.0, 31.0, 29.5], task)
        _save(root, "sigmoid", [20.1, 20.2, 19.8], task)
    return compare(root)


def _table(comparison: Comparison) -> ResultTable:
    return comparison.tables[0]


def test_the_verdict_is_better_where_the_value_is_lower(tmp_path: Path) -> None:
    table = _table(_comparison(tmp_path))
    assert (table.metric, table.signature) == ("perplexity", "perplexity|made up")
    judged = {variant.name: variant.difference for variant in table.variants if variant.difference}
    assert {name: each.verdict for name, each in judged.items()} == {
        "sa-softmax": "better",
        "sa-softmax-raw": "worse",
        "sigmoid": "none",
    }
    assert judged["sa-softmax"].mean == pytest.approx(-5.0, abs=0.3)
    assert judged["sa-softmax-raw"].mean == pytest.approx(10.2, abs=0.3)
    assert judged["sa-softmax-raw"].interval is not None and judged["sa-softmax-raw"].interval[0] > 0


def test_what_is_said_of_it(tmp_path: Path) -> None:
    comparison = _comparison(tmp_path)
    text = _table(comparison).sentence
    better, worse = text.index("etter than softmax"), text.index("orse than softmax")
    assert better < text.index("sa-softmax (−") < worse < text.index("sa-softmax-raw (+")
    assert "perplexity (lower is better)" in text
    assert answer(comparison)[0] == "sa-softmax: a benefit shown: better in 2, worse in 0 of 2."


def test_one_against_another_is_told_without_a_sign(tmp_path: Path) -> None:
    _save(tmp_path, "softmax", [20.0, 20.4, 19.6])
    _save(tmp_path, "sa-softmax", [15.0, 15.2, 14.9])
    table = _table(compare(tmp_path))
    assert "significantly better than softmax by " in table.sentence and "by −" not in table.sentence


def test_the_forest_says_on_which_side_worse_lies(tmp_path: Path) -> None:
    comparison = _comparison(tmp_path)
    palette = Palette([variant.name for variant in _table(comparison).variants])
    plot = forest.differences(_table(comparison), palette, "k")
    assert plot is not None and "Right of 0 is worse" in plot.caption and "Left of" not in plot.caption


def test_aggregates_end_at_the_best_value_and_nowhere_above(tmp_path: Path) -> None:
    for task in ("agnews", "yelp"):
        _save(tmp_path, "softmax", [1.1, 1.2, 1.1], task)
        _save(tmp_path, "sa-softmax", [1.1, 900.0, 1.2], task)  # of which one failed
    lines = {line.variant: line for line in compare(tmp_path).overall}
    assert lines["softmax"].interval[0] >= 1
    assert lines["sa-softmax"].interval[0] == 1 and lines["sa-softmax"].interval[1] > 100
    assert lines["sa-softmax"].difference_interval[1] > 100
    for table in compare(tmp_path).tables:
        (judged,) = [variant.difference for variant in table.variants if variant.difference]
        assert judged.detectable is not None and judged.detectable > 100
        # No difference of an unbounded metric is too large to be seen: the number is told.
        assert f"{judged.detectable:.2f}" in table.sentence
        assert f"{judged.detectable:.2f}" in [cell for column in cells.power(table) for cell in column]


def test_a_run_that_did_not_learn_lies_high(tmp_path: Path) -> None:
    _save(tmp_path, "softmax", [20.0, 21.0])
    _save(tmp_path, "sa-softmax", [20.0, 990.0])
    notes = [note.text for note in _table(compare(tmp_path)).notes]
    assert any("sa-softmax did not learn in 1 of 2 runs (seed 1: perplexity 9" in note for note in notes)
    assert not any("softmax did not learn" in note and note.startswith("softmax") for note in notes)


def test_without_a_chance_level_the_median_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relative = Metric(**{**vars(PERPLEXITY), "chance": None, "share_of_median": 0.25})
    monkeypatch.setitem(METRICS, "perplexity", relative)
    _save(tmp_path, "softmax", [20.0, 21.0])
    _save(tmp_path, "sa-softmax", [5.0, 990.0])  # a quarter of the others' is no failure, but good
    (note,) = [note.text for note in _table(compare(tmp_path)).notes if "learn" in note.text]
    assert "in 1 of 2 runs (seed 1" in note and note.endswith("more than 4 times the median of these runs)")


def test_every_form_of_the_report_is_written_and_read_again(tmp_path: Path) -> None:
    comparison = _comparison(tmp_path)
    files = {path.suffix: path.read_text("utf-8") for path in write.write(comparison, tmp_path / "report")}
    for ending in (".md", ".html", ".json", ".tex"):
        assert "perplexity" in files[ending], ending
    assert "perplexity (lower is better)" in files[".md"]
    assert "validation perplexity" in files[".html"]
    assert write.read(tmp_path / "report").to_json() == comparison.to_json()
    assert "**better**" in summary.markdown(comparison) and "**worse**" in summary.markdown(comparison)
    assert "perplexity (lower is better)" in write.text(comparison)
    found = matrix(comparison)
    assert found is not None
    assert [cell.verdict for row in found.rows for cell in row.compared][:3] == ["better", "worse", "none"]


def test_runs_are_read_in_its_units(tmp_path: Path) -> None:
    _save(tmp_path, "softmax", [20.0])
    (run,) = read_runs(tmp_path)
    assert run.metric is registry.primary("classification") is PERPLEXITY
    assert run.value == pytest.approx(20, abs=0.2) and run.untrained == 403
