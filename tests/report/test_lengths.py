"""Perplexity over length and interactions with the positional encoding, in every form of a report."""

import csv
import io
import re
from pathlib import Path

import pytest

from finetune.comparison.compare import Comparison, compare
from finetune.report import lengths, summary, write
from finetune.report.answer import answer
from finetune.report.plots import lengths as plot
from finetune.report.plots.figures import Palette
from tests.support.records import save_accuracies
from tests.support.report_records import save_language_model

VARIANTS = ("softmax", "sa-softmax", "sa-softmax-raw")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for position in ("own", "kerple", "alibi"):
        for variant in VARIANTS:
            for seed in range(3):
                save_language_model(folder, variant, seed, position)
    return folder


@pytest.fixture(scope="module")
def comparison(root: Path) -> Comparison:
    return compare(root)


@pytest.fixture(scope="module")
def files(root: Path, comparison: Comparison) -> dict[str, str]:
    return {path.suffix: path.read_text("utf-8") for path in write.write(comparison, root / "report")}


def test_the_training_and_the_tested_length_are_marked(comparison: Comparison) -> None:
    (each,) = lengths.over_length(comparison)
    assert each.scores[0] == ["positions", "attention", "64", "128 (trained)", "256", "512 (tested)"]
    assert [row[:2] for row in each.scores[1:]] == [
        [position, f"{variant}"] for position in ("own", "alibi", "kerple") for variant in VARIANTS
    ]
    assert len(each.differences) == 1 + 6
    kerple = next(row for row in each.differences if row[:2] == ["kerple", "sa-softmax"])
    assert kerple[2].startswith("−") and kerple[-1].endswith("better") and not kerple[2].endswith("better")


@pytest.mark.parametrize("ending", [".md", ".html", ".tex"])
def test_every_form_shows_both_tables_and_the_interactions(
    comparison: Comparison, files: dict[str, str], ending: str
) -> None:
    (each,) = lengths.over_length(comparison)
    for wanted in ("128 (trained)", "512 (tested)", each.scores[1][2].split(" ")[0], "gains more"):
        assert wanted in files[ending], wanted
    assert "Interactions with the positional encoding" in files[ending]
    assert "Perplexity over length" in files[ending]
    said = write.text(comparison)
    assert "128 (trained)" in said and "kerple against own" in said
    assert "perplexity@" not in files[ending] + said  # nobody reads that name


def test_a_printed_difference_has_minus_signs_and_no_hyphens(files: dict[str, str]) -> None:
    """In the interval in brackets too."""
    (row,) = re.findall(r"^kerple & sa-softmax & \$-.*$", files[".tex"], re.M)
    assert not re.search(r"(?<!\$)[-+]\d", row)


def test_the_csv_has_a_column_for_each_length(files: dict[str, str]) -> None:
    rows = list(csv.DictReader(io.StringIO(files[".csv"])))
    variant = next(row for row in rows if row["position"] == "kerple" and row["attention"] == "sa-softmax")
    assert (variant["trained_length"], variant["tested_length"]) == ("128", "perplexity@512")
    for length in (64, 128, 256, 512):
        name = f"perplexity@{length}"
        assert float(variant[f"{name}_interval_low"]) < float(variant[f"{name}_difference"]) < 0
        assert float(variant[f"{name}_mean"]) > 1
    assert variant["perplexity@512_p_adjusted"] and "perplexity@64_p_adjusted" not in variant


def test_a_report_is_read_again_as_it_was(root: Path, comparison: Comparison, files: dict[str, str]) -> None:
    assert write.read(root / "report").to_json() == comparison.to_json()
    assert "interactions" in files[".json"]


def test_the_plot_has_a_panel_for_each_encoding(comparison: Comparison) -> None:
    (each,) = lengths.over_length(comparison)
    drawn = plot.over_length(each, Palette(VARIANTS), "k")
    for text in (">own<", ">kerple<", ">alibi<", " trained<", ">64<", ">512<"):
        assert text in drawn.svg, text
    assert "Perplexity (lower is better) of the same tokens" in drawn.caption
    assert "3 runs each" in drawn.caption
    assert "kerple: softmax 1" in drawn.svg  # in words, for those who cannot see it


def test_what_is_tested_at_a_length_is_counted_in_the_answer(comparison: Comparison) -> None:
    said = answer(comparison)
    assert [line.partition(":")[0] for line in said] == list(VARIANTS[1:]) and "of 6" in said[0]
    assert "**better**" in summary.markdown(comparison)


def test_other_tasks_have_no_such_part(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8, 0.81])
    save_accuracies(tmp_path, "sa-softmax", [0.82, 0.83])
    comparison = compare(tmp_path)
    assert lengths.over_length(comparison) == [] and comparison.interactions == []
    assert "over length" not in write.text(comparison)
    files = [path.read_text("utf-8") for path in write.write(comparison, tmp_path / "report")]
    assert not any("over length" in text or "position" in text.partition("\n")[0] for text in files)


def test_a_sample_says_nothing_at_any_length(tmp_path: Path) -> None:
    for position in ("own", "kerple"):
        for variant in VARIANTS[:2]:
            for seed in range(2):
                save_language_model(tmp_path, variant, seed, position, sample=True)
    comparison = compare(tmp_path)
    (each,) = lengths.over_length(comparison)
    assert all("better" not in cell for row in each.differences for cell in row)
    rows = lengths.interactions(comparison)
    assert rows[1][-1] == "no verdict: sample" and "SAMPLE" in rows[1][0]


def test_one_seed_has_intervals_over_documents_alone(tmp_path: Path) -> None:
    for position in ("own", "kerple"):
        for variant in VARIANTS[:2]:
            save_language_model(tmp_path, variant, 0, position)
    comparison = compare(tmp_path)
    (each,) = lengths.over_length(comparison)
    assert all(cell.endswith("rows only)") for cell in each.differences[1][2:-1])
    assert each.differences[1][-1].endswith("rows only) cannot tell")
    (row,) = lengths.interactions(comparison)[1:]
    assert row[5].endswith("rows only") and row[-1] == "cannot tell"
    assert "over documents, p" in write.text(comparison).replace("\n", " ")
