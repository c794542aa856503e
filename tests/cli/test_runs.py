"""``finetune ls`` and ``finetune show``: what is there, in which order, and what of it can be read."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.cells import cell_len

from finetune.cli.main import main
from finetune.cli.runs import ORDERS
from finetune.records import store
from finetune.report.run_list import SORTS
from finetune.system.lock import locked
from tests.support.records import classified, correctness, save, started, translations

NOW = datetime.now(UTC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three finished runs of several ages, and one each of every other status."""
    rows = classified(correctness(40, 0.9, 0)), classified(correctness(40, 0.95, 1)), translations(5, 0.5, 3)
    kinds = ("softmax", 0, {}), ("sa-softmax", 1, {}), ("softmax", 3, {"kind": "translation"})
    for (variant, seed, over), predicted, hours in zip(kinds, rows, (30, 5, 400), strict=True):
        entry = started(variant, seed, **over)
        folder = save(tmp_path, entry, predicted)
        store.write(folder, {**entry, "finished": _ago(hours)})
    for seed, status in ((4, "failed"), (5, "preempted"), (6, "running")):
        reason = "no \x1b[31mmemory" if status == "failed" else None
        save(tmp_path, {**started("softmax", seed), "status": status, "reason": reason, "finished": None})
    return tmp_path


def _ago(hours: float) -> str:
    return (NOW - timedelta(hours=hours)).isoformat(timespec="seconds")


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words]) == 0
    return capsys.readouterr().out


def test_each_run_has_a_line_the_newest_first(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, *lines, total = printed(capsys, "ls", str(root)).splitlines()
    assert head.split() == ["status", "task", "model", "attention", "seed", "score", "age", "folder"]
    assert len(lines) == 6 and total.startswith(f"6 runs in {root}: ")
    finished = [re.split(r" {2,}", line) for line in lines if line.startswith("finished")]
    assert [(row[1], row[3], row[4], row[6]) for row in finished] == [
        ("agnews", "sa-softmax", "1", "5 h"),
        ("agnews", "softmax", "0", "30 h"),
        ("toy de-en", "softmax", "3", "16 days"),
    ]
    assert finished[0][5] == "accuracy 95.00%" and (root / finished[0][7] / store.FILE).is_file()
    assert {line.split()[0] for line in lines} == {"finished", "failed", "preempted", "unfinished"}


def test_several_folders_may_lie_anywhere(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variants = sorted({record.parents[1] for record in root.rglob(store.FILE)})
    assert len(variants) > 1 and all(folder.is_absolute() for folder in variants)
    out = printed(capsys, "ls", *map(str, variants))
    assert out.splitlines()[-1].startswith("6 runs: ") and str(variants[0] / "seed-") in out


def test_the_order_is_that_of_folders_or_scores_if_asked(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def seeds(order: str) -> list[int]:
        return [
            run["seed"]
            for run in json.loads(printed(capsys, "ls", str(root), "--sort", order, "--json"))["runs"]
        ]

    assert tuple(SORTS) == ORDERS
    assert seeds("folder") == [1, 0, 4, 5, 6, 3]
    assert seeds("score")[:2] == [1, 0] and seeds("score")[-1] == 3


def test_a_run_whose_folder_is_held_is_running(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = (path for path in root.rglob("seed-6"))
    with locked(run):
        found = json.loads(printed(capsys, "ls", str(root), "--json"))["runs"]
    assert [each["status"] for each in found if each["seed"] == 6] == ["running"]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_both_fit_the_terminal(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = printed(capsys, "ls", str(root)) + printed(capsys, "show", str(next(root.rglob("seed-1"))))
    wide = [line for line in shown.partition("\nnext\n")[0].splitlines() if cell_len(line) > width]
    assert all(len(line.split()) == 1 for line in wide)


def test_a_damaged_record_is_named_and_hides_no_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (next(root.rglob("seed-4")) / store.FILE).write_text("{")
    out = printed(capsys, "ls", str(root))
    assert "5 runs" in out and "seed-4" in out.splitlines()[-1]
    assert len(json.loads(printed(capsys, "ls", str(root), "--json"))["problems"]) == 1


def test_one_run_is_shown_with_what_differs_from_the_nearest_preset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = started("sa-softmax", 2, train={"learning_rate": 0.5}, model={"dropout": 0.25})
    entry["curve"] = [
        {"step": step, key: value}
        for step in range(1, 21)
        for key, value in (("loss", 1 / step), ("eval_loss", 2 / step), ("eval_accuracy", step / 20))
    ]
    folder = save(tmp_path, entry, classified(correctness(40, 0.9, 0)))
    out = printed(capsys, "show", str(folder))
    for words in (
        "sa-softmax on agnews, scratch:tiny, seed 2: finished",
        "as the preset quick, but for\n",
        "  train.learning_rate: 0.5 (preset: 0.001)\n",
        "  model.dropout: 0.25 (preset: 0.1)\n",
        "  accuracy 90.00% (accuracy|scikit-learn:1.9.1)\n",
        "  kernel: ",
        f"finetune diagnose {folder}\n",
    ):
        assert words in out, words
    assert "{}" not in out and "start:" not in out, "what was not recorded is left out"
    table = out.partition("curve\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in table] == ["step", "1", "6", "11", "15", "20"]
    assert table[-1].split() == ["20", "0.05", "0.1", "100.00%"]
    assert json.loads(printed(capsys, "show", str(folder), "--json")) == store.read(folder)


def test_a_run_without_a_result_says_why_and_how_to_go_on(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(capsys, "show", str(next(root.rglob("seed-4"))))
    assert "why\n  no \ufffd[31mmemory" in out and "\x1b" not in out
    assert out.rstrip().endswith(store.read(next(root.rglob("seed-4")))["command"])


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["ls", "nowhere"], "no folder nowhere"),
        (["ls", "."], "there is no run in .: give the folder that --output named"),
        (["ls", "--sort", "age"], "invalid choice: 'age'"),
        (["show", "."], ". is no run folder: it holds no record.json; finetune ls . lists the runs"),
        (["show", "nowhere"], "cannot read the record nowhere"),
    ],
)
def test_mistakes(
    words: list[str],
    telling: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert telling in error and error.count("\n") == 1
