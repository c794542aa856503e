"""Own pretraining, swapped and from scratch beside each other, in every form of a report."""

import csv
import io
from pathlib import Path

import pytest

from finetune.comparison.compare import compare
from finetune.report import cells, words, write
from tests.support.records import classified, correctness, save, save_accuracies, started

OWN, SWAPPED = "pretrained:runs/books", "pretrained:softmax@runs/books"


def files_of(root: Path, *models: str) -> dict[str, str]:
    """The forms of a report of two variants that began from each of ``models`` and from random weights."""
    for variant in ("softmax", "sa-softmax"):
        for number, model in enumerate(models):
            entry = started(variant, 0, model={"name": model})
            save(root / str(number), entry, classified(correctness(40, 0.7, 0)))
        save_accuracies(root / "scratch", variant, [0.6])
    comparison = compare(root)
    assert bool(cells.origins(comparison)) == bool(models)
    files = {path.suffix: path.read_text("utf-8") for path in write.write(comparison, root / "report")}
    return files | {"text": write.text(comparison)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return files_of(tmp_path_factory.mktemp("runs"), OWN, SWAPPED)


@pytest.mark.parametrize("form", [".md", ".html", ".tex", "text"])
def test_every_form_for_reading_has_the_table(files: dict[str, str], form: str) -> None:
    _, _, part = files[form].partition(words.ORIGINS_HEADING)
    for wanted in ("its own pretraining", "pretraining with softmax, swapped", "scratch", OWN, "70.00"):
        assert wanted in part, wanted


def test_the_printed_table_names_models_in_its_caption_where_these_are_clear(
    tmp_path: Path, files: dict[str, str]
) -> None:
    for text, columns, named in (
        (files[".tex"], "began from & attention", True),
        (files_of(tmp_path, OWN, f"{OWN}2")[".tex"], "began from & model", False),
    ):
        caption, _, table = text.partition(words.ORIGINS_HEADING)[2].partition(r"\toprule")
        assert table.strip().startswith(columns)
        assert (f"its own pretraining: {OWN};" in caption) == named
        assert r"\label{tab:finetune-origins}" in caption


def test_the_spreadsheet_has_a_column_where_a_model_began_from_a_run(
    tmp_path: Path, files: dict[str, str]
) -> None:
    rows = list(csv.DictReader(io.StringIO(files[".csv"])))
    assert {row["model"]: row["began_from"] for row in rows} == {
        OWN: "its own pretraining",
        SWAPPED: "pretraining with softmax, swapped",
        "scratch:tiny": "scratch",
    }
    assert "began_from" not in files_of(tmp_path)[".csv"]
