"""Runs of a study one after another and side by side, with a stub for the command."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from finetune.studies import logs
from finetune.studies.executors.local import Local
from finetune.studies.grid import Cell
from finetune.studies.run import commands
from finetune.studies.schedule import run
from finetune.studies.state import look
from finetune.system import lock
from finetune.system.lock import locked
from tests.support.studies import TINY, BoardSpy, keep, stub, study_of


def test_cells_run_in_order_so_many_at_a_time_and_a_failure_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    study = study_of(tmp_path, {"a": {**TINY, "variants": ["softmax"]}}, seeds=list(range(7)))
    special = {
        1: ["say=finetune: error: no such model", "exit=2"],
        2: ["record=failed", "exit=1"],
        3: ["kill=9"],
        4: ["say=RuntimeError: broken", "exit=1"],
        5: ["exit=75"],
        6: ["record=running"],
    }
    board = BoardSpy()
    slots = [{"CUDA_VISIBLE_DEVICES": "4"}, {"OMP_NUM_THREADS": "3"}]
    states = run(study.cells, Local(slots, stub(tmp_path, "sleep=0.2", "record", special=special)), board)
    assert [event.split()[2] for event in board.events if event.startswith("start")] == list("0123456")
    assert board.most == 2
    last = [
        (re.findall(r"^(?:4|None) \S+$", cell.log.read_text(), flags=re.MULTILINE) or [""])[-1]
        for cell in study.cells
    ]
    assert [(status.state, status.reason) for status in map(states.get, study.cells) if status] == [
        ("done", ""),
        ("failed", "no such model"),
        ("failed", "the loss became nan"),
        ("failed", "killed by signal 9 (out of memory?)"),
        ("failed", "RuntimeError: broken"),
        ("unfinished", last[5]),
        ("failed", last[6]),
    ]
    assert "\n4 " in study.cells[0].log.read_text() and "\nNone 3\n" in study.cells[1].log.read_text()
    assert study.cells[0].log.read_text().startswith("# 20")
    kinds = ["done", "failed", "failed", "failed", "failed", "missing", "failed"]
    assert [look(cell).state for cell in study.cells] == kinds, "and the next look knows it from the logs"
    again = run(study.cells[1:3], Local([{}], stub(tmp_path, "record")), BoardSpy())
    assert [status.state for status in again.values()] == ["done", "done"], "failed runs are tried again"
    assert study.cells[1].log.read_text().count("working on") == 2, "under what was there"


def test_a_cell_that_another_process_has_is_left_to_it(tmp_path: Path) -> None:
    """One whose log another study holds, one that something trains, one that was done meanwhile."""
    study = study_of(tmp_path, {"a": {**TINY, "variants": ["softmax"]}}, seeds=[0, 1, 2, 3])
    claimed, trained, done, _ = study.cells
    claim = logs.claim(claimed.log, ["another study"])
    assert claim is not None
    keep(trained, "running")
    keep(done)
    board = BoardSpy()
    with locked(trained.folder):
        states = run(study.cells, Local([{}], stub(tmp_path, "record")), board)
    claim.close()
    assert [states[cell].state for cell in study.cells] == ["running", "running", "done", "done"]
    assert [event for event in board.events if event.startswith("start")] == ["start softmax 3 on 1"]


def test_what_a_killed_study_leaves_running_is_not_run_twice(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"a": {**TINY, "variants": ["softmax"]}})
    code = f"""
import sys
from pathlib import Path
from types import SimpleNamespace
from finetune.studies.file import load
from finetune.studies.executors.local import Local
from finetune.studies.grid import Cell
from finetune.studies.schedule import run
cells = load({str(tmp_path / "mine.yaml")!r}, Path({str(study.root)!r})).cells
board = SimpleNamespace(started=lambda job: print("started", flush=True), refresh=lambda jobs: None)
run(cells, Local([{{}}], lambda cell: [sys.executable, "-c", "import time; time.sleep(60)"]), board)
"""
    killed = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None and killed.stdout.readline() == "started\n"
    (orphan,) = psutil.Process(killed.pid).children()
    killed.kill()
    killed.communicate()
    assert look(study.cells[0]).state == "running" and commands(study) == []
    assert [
        status.state for status in run(study.cells, Local([{}], stub(tmp_path)), BoardSpy()).values()
    ] == ["running"]
    orphan.kill()
    orphan.wait()
    assert look(study.cells[0]).state == "missing"


def test_a_process_that_cannot_start_is_a_failure(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    states = run(study.cells, Local([{}], lambda cell: [str(tmp_path / "no-such-program")]), BoardSpy())
    assert [status.reason for status in states.values()] == [
        "cannot start a process: No such file or directory"
    ] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_ends_the_children_and_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Also one that does not listen to SIGTERM."""
    study = study_of(tmp_path, {"a": {**TINY, "variants": ["softmax"]}}, seeds=[0, 1, 2])
    board = BoardSpy()
    before = signal.getsignal(number)

    def interrupt() -> None:
        while not (study.cells[0].folder / ".ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    execute = stub(tmp_path, "sleep=60", special={0: ["ignore", "sleep=60"]})
    others = set(psutil.Process().children())  # of the process that tests: services of other tests
    with pytest.raises(KeyboardInterrupt):
        run(study.cells, Local([{}, {}], execute, grace_s=0.2), board)
    assert set(psutil.Process().children()) <= others
    assert not any(lock.held(cell.log) for cell in study.cells)
    assert signal.getsignal(number) is before
    assert [look(cell).state for cell in study.cells] == ["missing"] * 3
    assert len([event for event in board.events if event.startswith("start")]) == 2


def when_ready(cells: Sequence[Cell], *numbers: int) -> None:
    """Sends this process signals once the runs of ``cells`` have begun."""

    def interrupt() -> None:
        while not all((cell.folder / ".ready").exists() for cell in cells):
            time.sleep(0.02)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    threading.Thread(target=interrupt, daemon=True).start()


def test_an_interruption_gives_runs_the_time_to_save(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = study_of(tmp_path)
    when_ready(study.cells, signal.SIGTERM)
    execute = stub(tmp_path, "told=0.4", "sleep=60")
    with pytest.raises(KeyboardInterrupt):
        run(study.cells, Local([{}, {}], execute, grace_s=60), BoardSpy())
    assert all((cell.folder / "preempted-7").is_dir() for cell in study.cells)
    assert "2 runs are told to leave a checkpoint and end, within 60 s" in capsys.readouterr().out


def test_a_second_interruption_kills(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    when_ready(study.cells, signal.SIGINT, signal.SIGINT)
    began = time.monotonic()
    others = set(psutil.Process().children())
    with pytest.raises(KeyboardInterrupt):
        run(study.cells, Local([{}, {}], stub(tmp_path, "told=30", "sleep=60"), grace_s=60), BoardSpy())
    assert time.monotonic() - began < 20
    assert set(psutil.Process().children()) <= others
    assert not any(lock.held(cell.log) for cell in study.cells)


CHAIN = {
    "first": {**TINY, "seeds": [0, 1]},
    "second": {
        **{key: TINY[key] for key in TINY if key != "model.vocab_size"},
        "from": "first",
        "seeds": [1],
    },
}


def test_a_run_waits_for_the_one_that_it_begins_from_and_fails_with_it(tmp_path: Path) -> None:
    study = study_of(tmp_path, CHAIN)
    board = BoardSpy()
    slots: list[dict[str, str]] = [{}, {}, {}]
    states = run(study.cells, Local(slots, stub(tmp_path, "sleep=0.2", "record")), board)
    assert {status.state for status in states.values()} == {"done"}
    softmax = [event.split()[0] for event in board.events if event.split()[1:3] == ["softmax", "1"]]
    assert softmax == ["start", "end", "start", "end"] and board.most == 3

    (again := tmp_path / "again").mkdir()
    failing = study_of(again, CHAIN)
    special = {1: ["say=RuntimeError: broken", "exit=1"]}
    states = run(failing.cells, Local(slots, stub(tmp_path, "record", special=special)), BoardSpy())
    (later,) = [status for cell, status in states.items() if cell.grid == "second" and _softmax(cell)]
    assert later.state == "failed" and later.reason.endswith("softmax/seed-1, has failed")
    assert [look(cell).state for cell in failing.cells if cell.grid == "second"] == ["missing"] * 2


def test_a_run_whose_beginning_is_left_to_another_process_is_left_too(tmp_path: Path) -> None:
    study = study_of(tmp_path, CHAIN)
    first = next(cell for cell in study.cells if cell.grid == "first" and cell.config.seed and _softmax(cell))
    with locked(first.folder):
        states = run(study.cells, Local([{}], stub(tmp_path, "record")), BoardSpy())
    second = next(cell for cell in study.cells if cell.origin is first)
    assert states[second].state == "running" and "left to another process" in states[second].reason


def test_the_commands_are_those_of_runs_that_can_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = study_of(tmp_path, CHAIN)
    assert len(commands(study)) == 4
    assert "2 more begin from runs that are not done" in capsys.readouterr().err
    for cell in study.cells:
        if cell.grid == "first":
            keep(cell)
    assert len(commands(study)) == 2
    assert not capsys.readouterr().err


def _softmax(cell: Cell) -> bool:
    return cell.config.attention.variant == "softmax"
