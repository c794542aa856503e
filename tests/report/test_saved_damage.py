"""Whatever is wrong with a record, its predictions or its diagnostics, the report comes out and says so."""

import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.comparison.compare import compare
from finetune.errors import UserError
from finetune.records import store
from finetune.report import write
from finetune.report.html.page import page
from finetune.report.plots import curves, distances, files, forest, gradients, lengths, weights
from finetune.report.plots.figures import Plot
from finetune.statistics import over_seeds
from tests.support.nested import WRONG, changed, every_place
from tests.support.records import classified, save, started, translations
from tests.support.report_records import FILE, curve, diagnostics, documents, save_language_model, undrawn


def _not_written(file: Path, pieces: Iterable[str]) -> Path:
    """Only that there is something to write, which UTF-8 has letters for."""
    assert "".join(pieces).encode("utf-8", "backslashreplace")
    return file


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few resamples, no waiting for the disk; and plots drawn only now and then, since each takes a while."""
    monkeypatch.setattr(over_seeds, "RESAMPLES", 5)
    monkeypatch.setattr(over_seeds, "PAIRED_RESAMPLES", 5)
    monkeypatch.setattr(over_seeds, "TRIALS", 5)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(write, "write_text", _not_written)
    monkeypatch.setattr(files, "write_figures", lambda plots, folder: [plot.drawing.file() for plot in plots])
    real, turn = forest.draw, itertools.count()

    def draw(*parts: Any, **options: Any) -> Plot:
        return (real if next(turn) % 200 == 0 else undrawn)(*parts, **options)

    for module in (curves, distances, forest, gradients, lengths, weights):
        monkeypatch.setattr(module, "draw", draw)
    yield


def _survives(root: Path, out: Path, what: object) -> None:
    """The report comes out in every form, with what the good run of the other task says."""
    try:
        found = compare([root])
        shown = write.text(found)
        write.write(found, out)
    except Exception as error:
        raise AssertionError(f"{what!r} broke the report") from error
    assert any(table.task == "untouched" and table.variants[0].finished for table in found.tables), what
    assert all("\n" not in problem for problem in found.problems)
    assert len(found.problems) <= 1, what
    shown.encode()


def _rows(kind: str) -> list[dict[str, Any]]:
    """Three rows of predictions."""
    if kind == "causal":
        return documents("softmax", 0, count=3, lengths=(128, 256))
    return classified([True, False, True]) if kind == "classification" else translations(3, 0.3, 0)


def _save(root: Path, variant: str, kind: str) -> Path:
    """A finished run with a short learning curve."""
    if kind == "causal":
        return save_language_model(root, variant, 0, "kerple", rows=_rows(kind))
    entry = started(variant, 0, kind=kind)
    entry["curve"] = curve(0, steps=40)[-2:]
    return save(root, entry, _rows(kind))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "variant"), [("classification", 1), ("translation", 0), ("causal", 1)])
def test_no_wrong_value_in_a_record_takes_the_report_down(tmp_path: Path, kind: str, variant: int) -> None:
    """Every key of a good record, at every depth, taken out and given values of every wrong type.

    The two older kinds of task share the values between them: what a record holds is nearly the same. Of a
    language model the metrics and the model are tried.
    """
    root, out = tmp_path / "runs", tmp_path / "out"
    save(root / "other", started("softmax", 0, task="untouched"), classified([True, False]))
    folders = [_save(root, name, kind) for name in ("softmax", "sa-softmax")]
    file = folders[variant] / store.FILE
    good = json.loads(file.read_text())
    places = [place for place in every_place(good) if place[:2] != ("config", "train") or place[-1] == "bf16"]
    if kind == "causal":
        own = ("metrics",), ("config", "model"), ("config", "data")
        places = [place for place in places if any(place[: len(each)] == each for each in own)]
    values: list[tuple[object, ...]] = [(), *((wrong,) for wrong in WRONG)]
    for number, (place, value) in enumerate([*itertools.product(places, values)][variant::2]):
        file.write_text(json.dumps(changed(good, place, *value)))
        try:
            store.read(file)
        except UserError as error:
            assert "\n" not in str(error)
            if number % 50:  # that a problem is only listed is worth a look now and then
                continue
        _survives(root, out, (place, value))


@pytest.mark.parametrize("kind", ["classification", "translation", "causal"])
def test_no_wrong_value_in_the_predictions_takes_the_report_down(tmp_path: Path, kind: str) -> None:
    root, out = tmp_path / "runs", tmp_path / "out"
    rows = _rows(kind)
    save(root / "other", started("softmax", 0, task="untouched"), classified([True, False]))
    for variant in ("softmax", "sa-softmax"):
        folder = _save(root, variant, kind)
    file = folder / store.PREDICTIONS
    for key in rows[1]:
        for value in [(), *((wrong,) for wrong in WRONG)]:
            lines = [json.dumps(row) for row in [rows[0], changed(rows[1], (key,), *value), rows[2]]]
            file.write_text("\n".join(lines))
            _survives(root, out, (key, value))
    file.write_text("[" * 100_000)
    _survives(root, out, "deep")


@pytest.mark.slow
def test_no_wrong_value_in_the_diagnostics_takes_the_report_down(tmp_path: Path) -> None:
    root, out = tmp_path / "runs", tmp_path / "out"
    save(root / "other", started("softmax", 0, task="untouched"), classified([True, False]))
    entry = started("sa-softmax", 0)
    entry["diagnostics"] = FILE
    folder = save(root, entry, classified([True, False, True]))
    good, found = diagnostics("sa-softmax", steps=[0], layers=1), compare([root])
    values: list[tuple[object, ...]] = [(), *((wrong,) for wrong in WRONG)]
    for place, value in itertools.product(every_place(good), values):
        (folder / FILE).write_text(json.dumps(changed(good, place, *value)))
        try:
            page(found)
        except Exception as error:
            raise AssertionError(f"{place, value!r} broke the page") from error
    for content in ("", "{", "[" * 100_000, b"\xff"):
        (folder / FILE).write_bytes(content if isinstance(content, bytes) else content.encode())
        _survives(root, out, content)
        assert "diagnostics" in page(found)


@pytest.mark.parametrize("signature", [None, "x", "bleu|tok:flores200", "bleu|tok:none such", "bleu|tok:"])
def test_a_foreign_signature_is_a_reason_and_fetches_nothing(tmp_path: Path, signature: str | None) -> None:
    for variant in ("softmax", "sa-softmax"):
        folder = save(tmp_path, started(variant, 0, kind="translation"), translations(3, 0.3, 0))
        entry = store.read(folder)
        assert entry["metrics"] is not None
        entry["metrics"]["bleu"]["signature"] = signature
        store.write(folder, entry)
    (table,) = compare([tmp_path]).tables
    assert any("cannot be scored again as" in note.text for note in table.notes)
