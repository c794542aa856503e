"""Reports: the same numbers in every form, nothing a user wrote breaks the Markdown."""

import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from finetune import record, report, stats
from finetune.compare import Comparison, compare
from finetune.errors import UserError
from records import classified, correctness, save, save_accuracies, started, translations


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """Two real tables, one on the sample, a failed run and a broken record."""
    root = tmp_path / "runs"
    save_accuracies(root, "softmax", [0.80, 0.81, 0.79])
    save_accuracies(root, "sa-softmax", [0.85, 0.86, 0.842])
    failed = started("sa-softmax-raw", 0)
    failed["status"], failed["reason"] = "failed", "loss became NaN at step 3"
    save(root, failed)
    for variant, noise in (("softmax", 0.4), ("sa-softmax", 0.38)):
        save(root, started(variant, 0, kind="translation"), translations(40, noise, 0))
        save_accuracies(root / "sample", variant, [0.6], sample=True)
    (root / "cut").mkdir()
    (root / "cut" / record.FILE).write_text("{")
    return compare([root])


def _cells(line: str) -> list[str]:
    """The cells of a Markdown table row, unescaped."""
    return [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_every_form_has_the_same_numbers(comparison: Comparison, tmp_path: Path) -> None:
    files = report.write(comparison, tmp_path / "out")
    assert [file.name for file in files] == ["report.json", "report.md"]
    content = json.loads(files[0].read_text())
    terminal, lines = report.text(comparison), files[1].read_text().splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("| attention"))
    rows = {
        _cells(line)[0]: dict(zip(_cells(lines[head]), _cells(line), strict=True))
        for line in lines[head + 2 : head + 5]
    }
    for arm in content["tables"][0]["arms"][:2]:
        shown, score = rows[arm["name"]], arm["metrics"]["accuracy"]
        assert shown["accuracy (%)"] == f"{score['mean']:.2f} ± {score['sd']:.2f}"
        assert shown["accuracy (%)"] in terminal
        assert shown["runs"] == "3"
    found = content["tables"][0]["arms"][1]["difference"]
    assert rows["sa-softmax"]["difference"] == f"{found['mean']:+.2f}" == "+5.08"
    low, high = found["interval_seeds"]
    assert rows["sa-softmax"]["95% seeds"] == f"{low:+.2f} to {high:+.2f}"
    assert rows["sa-softmax"]["95% seeds"] in terminal
    assert rows["sa-softmax-raw"] == dict.fromkeys(rows["softmax"], "") | {
        "attention": "sa-softmax-raw",
        "runs": "0",
    }


def test_the_sentence_the_gaps_and_the_stamp_are_everywhere(comparison: Comparison) -> None:
    plain, marked = report.text(comparison), report.markdown(comparison)
    for table in comparison.tables:
        assert report.escape(table.sentence) in marked
        assert " ".join(table.sentence.split())[:60] in " ".join(plain.split())
    for shown in (plain, marked):
        assert "loss became NaN at step 3" in shown
        assert "truncated" in shown
        assert shown.count(report.SAMPLE) == 1
    assert "exact McNemar" in marked
    assert "tok:13a" in marked
    assert "length\\_penalty" in marked
    assert "finetune classify --attention softmax --seeds 0" in marked


def test_the_terminal_table_is_aligned(comparison: Comparison) -> None:
    block = report.text(comparison).split("\n\n")[0].splitlines()
    head, first, second = block[1:4]
    end = head.index("accuracy (%)") + len("accuracy (%)")
    assert first[:end].endswith("80.00 ± 1.00") and second[:end].endswith("85.08 ± 0.88")


def test_columns_without_a_single_value_are_left_out(tmp_path: Path) -> None:
    entry = started("softmax", 0)
    save(tmp_path, entry, classified(correctness(10, 0.5, 0)))
    shown = report.text(compare([tmp_path]))
    assert "95%" not in shown and "difference" not in shown
    assert "50.00" in shown


def test_what_a_user_named_cannot_break_the_markdown(tmp_path: Path) -> None:
    evil = "a|b `c` *d* <script> [x](y)\n# e"
    entry = started("softmax", 0)
    entry["task"]["name"], entry["command"] = evil, "finetune ```x``` | y"
    entry["data"] = (entry["data"] or {}) | {"location": evil}
    save(tmp_path, entry, classified([True, False]))
    failed = started("sa-softmax", 0)
    failed["task"]["name"], failed["status"], failed["reason"] = evil, "failed", evil
    save(tmp_path, failed)
    marked = report.markdown(compare([tmp_path]))
    assert "\n# e" not in marked
    assert not re.search(r"(?<!\\)<script", marked)
    for table in re.findall(r"(?:^\|.*\n)+", marked, re.M):
        assert len({len(_cells(line)) for line in table.splitlines()}) == 1
    assert "\n````sh\n" in marked
    assert "\\`c\\`" in marked


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, ""), (7.4, "7 s"), (600.0, "10.0 min"), (9000.0, "2.5 h")]
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert report._duration(seconds) == shown


@pytest.mark.parametrize(("mib", "shown"), [(None, ""), (512.3, "512 MiB"), (2048.0, "2.0 GiB")])
def test_memory(mib: float | None, shown: str) -> None:
    assert report._memory(mib) == shown


def test_a_report_can_be_written_again_and_nothing_is_reported_of_nothing(
    comparison: Comparison, tmp_path: Path
) -> None:
    first = [file.read_text() for file in report.write(comparison, tmp_path)]
    assert [file.read_text() for file in report.write(comparison, tmp_path)] == first
    assert report.text(Comparison([], [])) == "No run was found."
    assert "No run was found." in report.markdown(Comparison([], []))


def test_a_folder_that_cannot_be_written(comparison: Comparison, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write report.json in the folder .*file"):
        report.write(comparison, tmp_path / "file")


def test_the_report_says_which_comparisons_are_one_family(comparison: Comparison) -> None:
    shown = " ".join(report.markdown(comparison).split())
    assert "adjusted for the comparisons of one table (one task, model and setting)" in shown


WRONG = (None, "x", 7, -1.5, True, [], [1], {}, {"a": 1}, "\ud800", 10**400, float("nan"))


def _places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Every key of a nested mapping or list, by its path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in [(*path, key), *_places(item, (*path, key))]]


def _changed(content: Any, place: tuple[Any, ...], *value: object) -> Any:
    """A copy of ``content`` with another value at ``place``, or with none."""
    copy = json.loads(json.dumps(content))
    holder = copy
    for key in place[:-1]:
        holder = holder[key]
    if value:
        holder[place[-1]] = value[0]
    else:
        del holder[place[-1]]
    return copy


def _survives(root: Path, out: Path, what: object) -> None:
    """The report comes out in every form, with what the good run of the other task says."""
    try:
        found = compare([root])
        shown = report.text(found)
        report.write(found, out)
    except Exception as error:
        raise AssertionError(f"{what!r} broke the report") from error
    assert any(table.task == "untouched" and table.arms[0].finished for table in found.tables), what
    assert all("\n" not in problem for problem in found.problems)
    assert len(found.problems) <= 1, what
    shown.encode()


@pytest.mark.parametrize(("kind", "arm"), [("classification", 1), ("translation", 0)])
def test_no_wrong_value_in_a_record_takes_the_report_down(
    tmp_path: Path, kind: str, arm: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key of a good record, at every depth, taken out and given values of every wrong type."""
    monkeypatch.setattr(stats, "RESAMPLES", 5)
    monkeypatch.setattr(stats, "TRIALS", 5)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    root, out = tmp_path / "runs", tmp_path / "out"
    rows = classified([True, False, True]) if kind == "classification" else translations(3, 0.3, 0)
    save(root / "other", started("softmax", 0, task="untouched"), classified([True, False]))
    folders = [save(root, started(name, 0, kind=kind), rows) for name in ("softmax", "sa-softmax")]
    file = folders[arm] / record.FILE
    good = json.loads(file.read_text())
    places = [place for place in _places(good) if place[:2] != ("config", "train") or place[-1] == "bf16"]
    values: list[tuple[object, ...]] = [(), *((wrong,) for wrong in WRONG)]
    for number, (place, value) in enumerate(itertools.product(places, values)):
        file.write_text(json.dumps(_changed(good, place, *value)))
        try:
            record.read(file)
        except UserError as error:
            assert "\n" not in str(error)
            if number % 50:  # that a problem is only listed is worth a look now and then
                continue
        _survives(root, out, (place, value))


@pytest.mark.parametrize("kind", ["classification", "translation"])
def test_no_wrong_value_in_the_predictions_takes_the_report_down(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 5)
    monkeypatch.setattr(stats, "TRIALS", 5)
    root, out = tmp_path / "runs", tmp_path / "out"
    rows = classified([True, False, True]) if kind == "classification" else translations(3, 0.3, 0)
    save(root / "other", started("softmax", 0, task="untouched"), classified([True, False]))
    for variant in ("softmax", "sa-softmax"):
        folder = save(root, started(variant, 0, kind=kind), rows)
    file = folder / record.PREDICTIONS
    for key in rows[1]:
        for value in [(), *((wrong,) for wrong in WRONG)]:
            lines = [json.dumps(row) for row in [rows[0], _changed(rows[1], (key,), *value), rows[2]]]
            file.write_text("\n".join(lines))
            _survives(root, out, (key, value))
    file.write_text("[" * 100_000)
    _survives(root, out, "deep")


@pytest.mark.parametrize("signature", [None, "x", "bleu|tok:flores200", "bleu|tok:none such", "bleu|tok:"])
def test_a_foreign_signature_is_a_reason_and_fetches_nothing(tmp_path: Path, signature: str | None) -> None:
    for variant in ("softmax", "sa-softmax"):
        folder = save(tmp_path, started(variant, 0, kind="translation"), translations(3, 0.3, 0))
        entry = record.read(folder)
        assert entry["metrics"] is not None
        entry["metrics"]["bleu"]["signature"] = signature
        record.write(folder, entry)
    (table,) = compare([tmp_path]).tables
    assert any("cannot score again as" in note for note in table.notes)


def test_a_folder_whose_name_is_no_text_is_reported(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    save(root / "caf\udce9", started("softmax", 0), classified([True, False]))
    found = compare([root])
    report.text(found).encode()
    assert "caf\\udce9" in report.write(found, tmp_path)[0].read_text()
