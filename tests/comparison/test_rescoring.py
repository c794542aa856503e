"""Predictions that do not fit their records."""

from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.comparison.caveats import NoteKind
from finetune.records import store
from tests.support.comparisons import difference_of, only_table
from tests.support.records import (
    classified,
    save_accuracies,
)


def _cut(folder: Path) -> None:
    file = folder / store.PREDICTIONS
    file.write_text(file.read_text()[:-5])


def _drop(folder: Path) -> None:
    (folder / store.PREDICTIONS).unlink()


def _other_numbers(folder: Path) -> None:
    store.write_predictions(folder, classified([True] * 400))


def _other_rows(folder: Path) -> None:
    rows = [row | {"row": row["row"] + 1} for row in store.read_predictions(folder)]
    store.write_predictions(folder, rows)


def _twice(folder: Path) -> None:
    rows = store.read_predictions(folder)
    store.write_predictions(folder, [*rows, rows[0]])


def _no_label(folder: Path) -> None:
    rows = store.read_predictions(folder)
    store.write_predictions(folder, [{"row": row["row"], "prediction": 0} for row in rows])


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_cut, "truncated"),
        (_drop, "No such file"),
        (_other_numbers, "give 100, its record says 90"),
        (_other_rows, "are of other rows than"),
        (_twice, "hold a row twice"),
        (_no_label, "lack 'label'"),
    ],
)
def test_predictions_that_do_not_fit_end_the_row_test_with_the_reason(
    tmp_path: Path, damage: Callable[[Path], None], why: str
) -> None:
    save_accuracies(tmp_path, "softmax", [0.8])
    (folder,) = save_accuracies(tmp_path, "sa-softmax", [0.9])
    damage(folder)
    table = only_table(tmp_path)
    found = difference_of(table)
    assert (found.p, found.interval_rows, found.verdict) == (None, None, "unknown")
    assert found.mean == pytest.approx(10.0)
    assert why in found.why
    assert any(why in note.text and note.kind is NoteKind.NO_ROWS for note in table.notes)
    assert found.comparisons == 0
