"""Equivalence: margins as they are typed, recorded and changed, and the verdicts that follow from them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.cli.main import main
from finetune.comparison.claims import Difference, weigh
from finetune.comparison.compare import Comparison, compare, judged
from finetune.comparison.margins import parse
from finetune.errors import UserError
from finetune.metrics import registry
from finetune.metrics.margin import Margin
from finetune.metrics.registry import METRICS
from finetune.report import write
from tests.support.comparisons import difference_of
from tests.support.records import save_accuracies
from tests.support.report_records import save_language_model

ACCURACY = METRICS["accuracy"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    save_accuracies(root, "softmax", [0.80, 0.81, 0.79])
    save_accuracies(root, "sa-softmax", [0.85, 0.86, 0.842])
    save_accuracies(root, "sigmoid", [0.80, 0.82, 0.78])
    save_accuracies(root, "ssmax", [0.80])
    return root


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Comparison:
    return compare(folder)


@pytest.mark.parametrize(
    ("text", "metric", "margin"),
    [
        ("0.5", "bleu", Margin(0.5)),
        ("1%", "accuracy", Margin(0.01, relative=True)),
        (" accuracy = 1 , 2% ", "accuracy", Margin(1.0)),
        (" accuracy = 1 , 2% ", "perplexity@64", Margin(0.02, relative=True)),
        ("bleu=.3", "accuracy", None),
    ],
)
def test_margins_are_read_as_they_are_typed(text: str, metric: str, margin: Margin | None) -> None:
    found = parse(text).of(registry.get(metric))
    assert found == margin or (found is not None and margin is not None and found.of(7) == margin.of(7))
    assert margin is None or parse(margin.text).every == margin


@pytest.mark.parametrize(
    ("text", "named"),
    [
        *(
            (word, f"not '{word}': type 0.5, 1% or accuracy=0.5")
            for word in ("0", "-1", "nan", "inf", "1e999", "x", "0%", "")
        ),
        ("100%", "a margin of 100% of softmax's score leaves nothing out"),
        ("acuracy=1", "unknown metric 'acuracy': did you mean 'accuracy'?"),
        ("macro_f1=1", "unknown metric 'macro_f1'"),
        ("accuracy=1,accuracy=2", "two margins for accuracy"),
        ("1,2", "two margins for every metric"),
        ("accuracy=", "not '': type"),
        ("bleu=1", "no table here tests bleu: leave its margin out (there is accuracy)"),
        ("100", "a margin of 100 holds every difference in accuracy, whose values are from 0 to 100"),
    ],
)
def test_nonsense_is_one_line(folder: Path, capsys: Any, text: str, named: str) -> None:
    kept = folder / "report.json"
    if not kept.exists():
        write.write(compare(folder), folder)
    assert main(["compare", "--from", str(kept), f"--margin={text}"]) == 2
    told = capsys.readouterr().err.strip()
    assert named in told and "\n" not in told


def _inside(comparison: Comparison) -> dict[str, str]:
    return {each.name: each.difference.verdict for each in comparison.tables[0].variants if each.difference}


def test_the_verdict_goes_by_the_margin_and_superiority_comes_first(comparison: Comparison) -> None:
    found = difference_of(comparison.tables[0], "sigmoid")
    assert found.interval is not None and found.detectable is not None
    widest = max(map(abs, found.interval))
    assert widest < found.detectable, "else there is no margin between them"
    before = {"sa-softmax": "better", "sigmoid": "unknown", "ssmax": "unknown"}
    assert comparison.tables[0].margin == 0.5 and _inside(comparison) == before
    assert _inside(judged(comparison, parse(f"{widest - 0.01}"))) == before
    at = judged(comparison, parse(f"{widest + 0.01}"))
    assert _inside(at) == before | {"sigmoid": "equivalent"}
    assert difference_of(at.tables[0], "sigmoid").why.startswith("the 95% interval lies inside the margin of")
    wide = judged(comparison, parse("20"))
    assert _inside(wide) == before | {"sigmoid": "equivalent"}, "one seed cannot be told at any margin"
    assert "sa-softmax (+5.08, +3.83 to +6.42, less than the margin)" in wide.tables[0].sentence
    assert "within the margin of 20" in wide.tables[0].sentence
    assert judged(wide, parse("0.5")) == comparison, "any margin is taken back"


def test_low_power_is_not_taken_for_no_difference(comparison: Comparison) -> None:
    found = difference_of(comparison.tables[0], "sigmoid")
    assert found.detectable is not None
    shifted = replace(found, interval=[-1.0, found.detectable + 2])
    above, below = (weigh(shifted, ACCURACY, found.detectable + by) for by in (0.1, -0.1))
    assert (above.verdict, below.verdict) == ("none", "unknown")
    assert below.why.endswith("could be missed") and not above.why.endswith("could be missed")
    assert weigh(shifted, ACCURACY, None).verdict == "none"
    described = replace(found, p=None, p_adjusted=None)
    assert weigh(described, ACCURACY, 50.0).verdict == "unknown", "nothing is said of what was not tested"


def test_the_margin_is_kept_and_can_be_changed(folder: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["compare", str(folder), "--output", str(tmp_path / "a"), "--margin", "2%"]) == 0
    kept = json.loads((tmp_path / "a" / "report.json").read_text())
    assert kept["tables"][0]["margin"] == pytest.approx(1.6)
    assert write.read(tmp_path / "a").to_json() == judged(compare(folder), parse("2%")).to_json()
    again = [
        "compare",
        "--from",
        str(tmp_path / "a"),
        "--output",
        str(tmp_path / "b"),
        "--margin",
        "accuracy=9",
    ]
    assert main(again) == 0
    assert "equivalent within the margin in 1" in capsys.readouterr().out
    now = json.loads((tmp_path / "b" / "report.json").read_text())
    assert now["tables"][0]["margin"] == 9
    assert [each["outcome"] for each in now["verdicts"]] == ["benefit", "equivalent", "unknown"]


def _without(content: Any, keys: set[str]) -> Any:
    if isinstance(content, dict):
        return {key: _without(value, keys) for key, value in content.items() if key not in keys}
    return [_without(each, keys) for each in content] if isinstance(content, list) else content


def test_a_report_of_earlier_days_gets_verdicts_margins_and_effects(folder: Path, tmp_path: Path) -> None:
    now = compare(folder)
    later = {"margin", "improvement", "improvement_interval", "error_reduction", "wins", "ties", "losses"}
    content = _without(json.loads(json.dumps(now.to_json())), later | {"verdicts"})
    for result in content["tables"][0]["arms"][1:]:
        if result["difference"]["verdict"] in ("equivalent", "unknown"):
            result["difference"]["verdict"] = "none"
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert write.read(tmp_path).to_json() == now.to_json()


def test_a_margin_in_percent_goes_by_the_score_at_each_length(tmp_path: Path) -> None:
    for variant in ("softmax", "sa-softmax"):
        for seed in range(2):
            save_language_model(tmp_path, variant, seed)
    table = compare(tmp_path).tables[0]
    baseline, variant = table.variants
    assert table.margin == pytest.approx(baseline.metrics["perplexity"].mean / 100)
    tested = variant.at_lengths["perplexity@512"]
    assert tested.margin == pytest.approx(baseline.metrics["perplexity@512"].mean / 100)
    others = [found for name, found in variant.at_lengths.items() if name != "perplexity@512"]
    assert all(found.margin is None and found.verdict == "unknown" for found in others)


def test_a_margin_of_a_score_that_is_missing_is_none(comparison: Comparison) -> None:
    (table,) = comparison.tables
    baseline = replace(table.variants[0], metrics={})
    bare = Comparison([replace(table, variants=[baseline, *table.variants[1:]], margin=None)], [])
    with pytest.raises(UserError):
        parse("bleu=1").check(bare.tables)
    unmeasured = Difference(**{**vars(difference_of(table, "sigmoid")), "margin": None})
    bare.tables[0].variants[2:3] = [replace(table.variants[2], difference=unmeasured)]
    found = judged(bare, parse("1%")).tables[0]
    assert found.margin is None and difference_of(found, "sigmoid").margin is None
