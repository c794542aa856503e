"""The kept studies: what is kept of them, and that their records still give the numbers of their reports."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.comparison.compare import compare
from finetune.report.formats import saved
from finetune.report.formats.markdown import markdown

ROOT = Path(__file__).parents[2]
KEPT = [ROOT / "results" / name for name in ("cpu", "first-runs")]
FROM_PREDICTIONS = {
    "comparisons",  # one seed without predictions has no test that could be counted
    "detectable",
    "interval",
    "interval_rows",
    "p",
    "p_adjusted",
    "p_bootstrap",
    "p_rows",
    "seeds_needed",
}
"""Numbers that are made from predictions too, which are not kept: they hold texts of the data sets."""


def numbers(value: Any, place: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], float]:
    """Every number of a JSON value by its place."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            where: number for key, part in items for where, number in numbers(part, (*place, key)).items()
        }
    return {place: value} if isinstance(value, int | float) and not isinstance(value, bool) else {}


def tables(folder: Path) -> list[Any]:
    content: list[Any] = json.loads((folder / saved.FILE).read_text(encoding="utf-8"))["tables"]
    return content


@pytest.mark.parametrize("folder", KEPT, ids=lambda path: path.name)
def test_records_and_two_forms_of_the_report_are_kept(folder: Path) -> None:
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    remade = {"report.html", "report.csv", "report.tex"}  # by compare --from; git ignores them there
    assert names - remade <= {"record.json", "diagnostics.json", saved.FILE, "report.md"}


@pytest.mark.parametrize("folder", KEPT, ids=lambda path: path.name)
def test_the_records_give_the_numbers_of_the_report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # a report names folders as they were typed
    kept = tables(folder)
    remade = json.loads(saved.as_json(compare([folder.relative_to(ROOT)])))["tables"]
    assert [table["task"] for table in remade] == [table["task"] for table in kept]
    for before, after in zip(kept, remade, strict=True):
        known = {
            place: number for place, number in numbers(before).items() if not FROM_PREDICTIONS & set(place)
        }
        assert len(known) > 30
        found = numbers(after)
        assert {place: found.get(place) for place in known} == pytest.approx(known, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("folder", KEPT, ids=lambda path: path.name)
def test_a_report_that_is_read_has_every_number_that_was_written(folder: Path) -> None:
    found = json.loads(saved.as_json(saved.read(folder)))
    assert numbers(tables(folder)).items() <= numbers(found["tables"]).items()


@pytest.mark.parametrize("folder", KEPT, ids=lambda path: path.name)
def test_the_kept_page_is_what_the_report_says(folder: Path) -> None:
    """Where this fails: finetune compare --from FOLDER FOLDER"""
    assert (folder / "report.md").read_text(encoding="utf-8") == markdown(saved.read(folder))
