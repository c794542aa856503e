"""Tables and prose fit the width that they are given; without one they stay whole."""

import itertools
import math
import os
import pty

import pytest
from rich.cells import cell_len

from finetune.system.sheet import Sheet, terminal_width

INTERVAL = "−5.25 to −3.66"
ROWS = [
    ("attention", "model", "runs", "accuracy (%)", "95%", "95% rows", "memory"),
    ("softmax", "models/all-MiniLM-L6-v2", "6", "89.42 ± 0.13", "", "", "2.2 GiB"),
    ("sa-softmax-raw-annealed0.3", "注意力-的-模型-很长的名字", "12", "4.96 ± 0.59", *[INTERVAL] * 2, "3 M"),
    ("x" * 90, "models/" + "y" * 60, "1", "1.00 ± 0.00", "−1.00 to +1.00", "", ""),
]  # fmt: skip
WIDTHS = [40, 80, 120, 200]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("least", [(), ("memory", "95% rows", "no such head")])
def test_no_line_is_wider_and_no_cell_is_lost(width: int, least: tuple[str, ...]) -> None:
    sheet = Sheet(width)
    shown = sheet.table(ROWS, "llr", least)
    assert max(map(cell_len, shown.splitlines())) <= width
    letters = "".join(shown.split())
    left = [column for column in zip(*ROWS, strict=True) if column[0] not in sheet.left_out]
    for cell in itertools.chain(*left):
        for letter in set("".join(cell.split())):
            assert letters.count(letter) >= cell.count(letter)
    assert set(sheet.left_out) <= set(least)


@pytest.mark.parametrize("width", [*WIDTHS, math.inf])
def test_a_table_that_fits_is_the_plain_one(width: float) -> None:
    few = [row[:1] + row[2:3] for row in ROWS[:2]]
    assert Sheet(width).table(few) == Sheet().table(few)
    assert Sheet().table(ROWS, "llr", ("memory",)) == Sheet().table(ROWS, "llr")


def test_columns_go_in_the_declared_order_and_no_more_than_must() -> None:
    sheet = Sheet(62)
    shown = sheet.table([row[:1] + row[2:] for row in ROWS[:3]], "lr", ("memory", "95% rows", "runs"))
    assert list(sheet.left_out) == ["memory", "95% rows"] and "runs" not in sheet.note()
    assert shown.splitlines()[0].split() == ["attention", "runs", "accuracy", "(%)", "95%"]
    assert sheet.note("report.md has them") == (
        "Left out, to fit 62 columns: memory, 95% rows; report.md has\nthem."
    )
    assert Sheet(60).note() == ""


def test_text_is_folded_before_a_table_is_cut() -> None:
    assert Sheet(31).table([row[:3] for row in ROWS[:3]], "llr").splitlines() == [
        "attention    model         runs",
        "softmax      models/all-      6",
        "             MiniLM-L6-v2",
        "sa-softmax-  注意力-的-模    12",
        "raw-         型-很长的名",
        "annealed0.3  字",
    ]


def test_a_table_is_cut_into_such_with_the_same_first_column() -> None:
    rows = [("kernel", *(f"8 x {2**i}" for i in range(7, 12))), ("native", *["1.23 (1.20-1.31)"] * 5)]
    assert Sheet(45).table(rows).split("\n\n") == [
        "kernel           8 x 128           8 x 256\nnative  1.23 (1.20-1.31)  1.23 (1.20-1.31)",
        "kernel           8 x 512          8 x 1024\nnative  1.23 (1.20-1.31)  1.23 (1.20-1.31)",
        "kernel          8 x 2048\nnative  1.23 (1.20-1.31)",
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_prose_breaks_between_words_and_leaves_a_path_whole(width: int) -> None:
    path = "/" + "folder/" * 20
    shown = Sheet(width).prose(f"it is in {path} and 这是一个很长的句子没有空格" * 2, "  - ").splitlines()
    assert any(path in line for line in shown)
    assert all(cell_len(line) <= width for line in shown if path not in line)
    assert all(line.startswith("    ") for line in shown[1:])
    assert Sheet().prose("word " * 90, "- ") == "- " + "word " * 90
    assert Sheet(width).prose("a b", "- ") == "- a b"


def test_the_width_is_that_of_the_terminal_or_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal_width() == math.inf
    monkeypatch.setenv("COLUMNS", "97")
    assert terminal_width() == 97
    monkeypatch.setenv("COLUMNS", "many")
    assert terminal_width() == math.inf
    monkeypatch.setattr("sys.stdout", None)
    assert terminal_width() == math.inf
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        assert terminal_width() == 80  # of a terminal that does not say
    os.close(ours)


@pytest.mark.parametrize("keys", [1, 2, 3])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_part_of_a_cut_table_names_its_rows(width: int, keys: int) -> None:
    shown = Sheet(width).table([row[:1] + row[1:] * 3 for row in ROWS[:3]], "llr", keys=keys)
    assert max(map(cell_len, shown.splitlines())) <= width
    parts = shown.split("\n\n")
    assert len(parts) > 1 and all("softm" in part for part in parts)
