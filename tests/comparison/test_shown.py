"""A comparison as values: its JSON, a data frame, and what a notebook shows."""

import json
import math
from pathlib import Path

import pandas
import pytest

from finetune.comparison.compare import Comparison, compare
from tests.support.records import save, save_accuracies, started


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    root = tmp_path_factory.mktemp("runs")
    save_accuracies(root, "softmax", [0.80, 0.81, 0.79])
    save_accuracies(root, "sa-softmax", [0.85, 0.86, 0.842])
    save_accuracies(root, "sigmoid", [0.80, 0.82, 0.78])
    save_accuracies(root, "softmax", [0.5], task="yelp")
    other = started("sa-softmax", 0, task="yelp")
    other["status"], other["reason"] = "failed", "<b>no memory</b>"
    save(root, other)
    return compare(root)


def test_a_frame_has_a_row_a_table_and_variant(comparison: Comparison) -> None:
    frame = comparison.to_frame()
    assert list(frame["variant"]) == ["softmax", "sa-softmax", "sigmoid", "softmax", "sa-softmax"]
    better = frame[(frame["task"] == "agnews") & (frame["variant"] == "sa-softmax")].iloc[0]
    found = comparison.tables[0].variants[1].difference
    assert found is not None and found.interval is not None
    assert (better["metric"], better["n"], better["verdict"]) == ("accuracy", 3, "better")
    assert better["mean"] == pytest.approx(85.08, abs=0.01) and better["sd"] > 0
    assert better["difference"] == found.mean and better["p"] == found.p
    assert [better["interval_low"], better["interval_high"]] == found.interval
    assert better["why"] == found.why
    baseline = frame.iloc[0]
    assert math.isnan(baseline["difference"]) and pandas.isna(baseline["verdict"])
    assert frame.iloc[4]["n"] == 0 and math.isnan(frame.iloc[4]["mean"])
    assert len(compare_nothing().to_frame()) == 0


def compare_nothing() -> Comparison:
    return Comparison([], [])


def test_a_notebook_shows_a_small_table_in_which_nothing_runs(comparison: Comparison) -> None:
    html = Comparison(comparison.tables, ["<script>x</script> is no record"])._repr_html_()
    assert html.count("<tr>") == 1 + 5
    assert "<td>sa-softmax</td><td>3</td><td>85.08%</td><td>+5.08</td>" in html
    assert "<td>better</td>" in html and "<td>cannot tell</td>" in html
    assert "&lt;script&gt;" in html and "<script" not in html
    assert "is significantly better than softmax by 5.08 points" in html


def test_json_keeps_its_words_and_gives_the_kinds_of_notes_beside_their_texts(comparison: Comparison) -> None:
    content = json.loads(json.dumps(comparison.to_json()))
    table = content["tables"][0]
    assert [each["name"] for each in table["arms"]] == ["softmax", "sa-softmax", "sigmoid"]
    assert all(isinstance(note, str) for note in table["notes"])
    assert table["note_kinds"] == ["kernels"]
    assert set(content) == {
        "schema",
        "version",
        "alpha",
        "power",
        "tables",
        "problems",
        "overall",
        "interactions",
        "verdicts",
    }


def test_a_notebook_calls_no_variant_better_on_the_sample(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.80, 0.81, 0.79], sample=True)
    save_accuracies(tmp_path, "sa-softmax", [0.95, 0.96, 0.94], sample=True)
    shown = compare(tmp_path)
    difference = shown.tables[0].variants[1].difference
    assert shown.tables[0].sample and difference is not None and difference.verdict == "better"
    assert (
        "<td>no verdict: sample</td>" in shown._repr_html_() and "<td>better</td>" not in shown._repr_html_()
    )
