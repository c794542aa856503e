"""Studies as a whole: the plan, and all of it run once."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune.cli.main import main
from finetune.studies import rehearsal, schedule
from finetune.studies.file import load, shipped
from finetune.studies.grid import Cell
from finetune.studies.run import plan_text
from finetune.studies.state import Status, look
from finetune.system import hints, lock
from tests.support.studies import TINY, begun, keep, study_of, written


def test_the_plan_counts_states_and_names_failures(tmp_path: Path) -> None:
    study = study_of(tmp_path, seeds=[0, 1, 2])
    keep(study.cells[0], seconds=100.0)
    keep(study.cells[1], "failed", reason="the disk is full")
    keep(study.cells[2], "running")
    lines = plan_text(study, 2).splitlines()
    shown = [" ".join(line.split()) for line in lines]
    assert shown[1] == "grid task model attention runs done missing failed unfinished expected"
    assert shown[2] == "a agnews scratch-tiny softmax 3 1 1 1 3 min"
    assert shown[3] == "a agnews scratch-tiny sa-softmax 3 2 1 5 min"
    assert lines[4] == f"failed: {study.cells[1].folder}: the disk is full"
    assert lines[5].startswith(
        "1 done, 3 missing, 1 failed, 1 unfinished; about 4 min on 2 workers; --rehearse"
    )


def test_a_plan_writes_nothing_a_print_only_files_of_runs_and_neither_imports_torch(tmp_path: Path) -> None:
    """For every shipped study."""
    code = f"""
import pathlib, sys
from finetune.cli.main import main
for name in {shipped()!r}:
    assert main(["study", name, "--plan"]) == 0
assert not list(pathlib.Path().iterdir())
for name in {shipped()!r}:
    assert main(["study", name, "--print"]) == 0
assert not {{"torch", "transformers", "datasets", "numpy"}} & set(sys.modules), "heavy"
assert not [path for path in pathlib.Path("runs").glob("*/*") if path.name != "configs"]
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stderr.splitlines() if "begin from runs that are not done" not in line]
    assert not notes
    assert "420 runs in runs/paper" in done.stdout and "=> " not in done.stdout


@pytest.mark.slow
def test_a_study_runs_with_a_failing_cell_and_goes_on_from_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two real processes; the second call of the study has only the failed one to try."""
    bad = {**TINY, "variants": ["softmax"], "train.learning_rate": 1e30}  # which takes its first step well
    path = written(tmp_path, {"good": {**TINY, "variants": ["softmax"]}, "bad": bad}, workers=2, diagnose=[])
    assert main(["study", str(path), "--output", str(tmp_path / "runs")]) == 2, "diagnose is an empty list"
    path = written(tmp_path, {"good": {**TINY, "variants": ["softmax"]}, "bad": bad}, workers=2)
    capfd.readouterr()
    assert main(["study", str(path), "--output", str(tmp_path / "runs")]) == 1
    said = capfd.readouterr().out
    assert "/2] good/agnews/scratch-tiny/softmax/seed-0: accuracy " in said
    assert "FAILED: the loss" in said
    assert "agnews · scratch:tiny · train.learning_rate = 0.001 · SAMPLE" in said
    assert "1 of 2 runs failed" in said
    assert said.endswith("\n".join([*hints.after_runs(tmp_path / "runs"), ""]))
    assert main(["study", str(path), "--output", str(tmp_path / "runs"), "--plan"]) == 0
    assert "1 done, 1 failed; about " in capfd.readouterr().out
    assert main(["study", str(path), "--output", str(tmp_path / "runs"), "--print"]) == 0
    assert capfd.readouterr().out.count("\n") == 1
    keep(load(str(path), tmp_path / "runs").cells[1], data=None)
    assert main(["study", str(path), "--output", str(tmp_path / "runs")]) == 0
    assert "2 runs in" in (said := capfd.readouterr().out) and "nothing is left to run" in said


HIDES_THE_CURSOR, SHOWS_THE_CURSOR = "\x1b[?25l", "\x1b[?25h"


@pytest.mark.slow
def test_a_study_that_is_interrupted_leaves_no_child_and_a_clean_terminal(tmp_path: Path) -> None:
    """A real command on a real terminal."""
    path = written(tmp_path, {"a": TINY}, workers=2)
    ours, theirs = pty.openpty()
    words = ["study", str(path), "--output", str(tmp_path / "runs")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    command = subprocess.Popen(
        [sys.executable, "-m", "finetune", *words],
        stdout=theirs, stderr=subprocess.PIPE, env=environment, start_new_session=True, text=True,
    )  # fmt: skip
    os.close(theirs)
    cells = load(str(path), tmp_path / "runs").cells
    shown = read(ours, HIDES_THE_CURSOR)  # the rehearsal comes first
    while not all(lock.held(cell.log) for cell in cells):
        time.sleep(0.05)
    shown += read(ours, "worker")  # a picture of the table
    children = psutil.Process(command.pid).children(recursive=True)
    command.send_signal(signal.SIGINT)
    _, error = command.communicate()
    shown += read(ours)
    os.close(ours)
    assert command.returncode == 130 and len(children) >= 2
    assert error == "finetune: interrupted; the same command goes on from the last checkpoint\n"
    assert not any(child.is_running() for child in children)
    assert "worker" in shown
    assert shown.rindex(SHOWS_THE_CURSOR) > shown.rindex(HIDES_THE_CURSOR)
    assert "Traceback" not in shown


def read(terminal: int, until: str | None = None) -> str:
    """What a terminal is sent until those words come, or until nobody writes any more."""
    shown = b""
    while until is None or until.encode() not in shown:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # EIO: nobody writes any more
            break
        if not piece:
            break
        shown += piece
    return shown.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["nosuch"], "unknown study"),
        (["quik"], "did you mean 'quick'"),
        (["no/such.yaml"], "cannot read the configuration no/such.yaml"),
        (["quick", "--plan", "--print"], "not allowed with"),
        (["quick", "--workers", "0"], "--workers takes a whole number from 1"),
        (["quick", "--plna"], "takes no '--plna'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    telling: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", *words]) == 2
    error = capsys.readouterr().err
    assert telling in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_study_stops_where_a_run_began_from_what_was_made_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first run, and, where it makes that again itself, at the end: nothing is compared then."""
    first, second = begun(tmp_path)
    command = ["study", str(tmp_path / "mine.yaml"), "--output", str(tmp_path / "runs")]
    (first.folder / "model.safetensors").write_bytes(b"others")
    for option in (["--print"], []):
        assert main(command + option) == 2
        told = capfd.readouterr()
        assert f"{second.folder} holds a run that began from other weights than" in told.err and not told.out
    study = load(str(tmp_path / "mine.yaml"), tmp_path / "runs")
    assert "1 done, 1 other;" in plan_text(study, 1)

    (first.folder / "model.safetensors").write_bytes(b"weights")
    keep(first, "failed")

    def made(waiting: Sequence[Cell], *_: Any, **__: Any) -> dict[Cell, Status]:
        (first.folder / "model.safetensors").write_bytes(b"others")
        keep(first)
        return {cell: look(cell) for cell in waiting}

    monkeypatch.setattr(rehearsal, "in_process_of_its_own", lambda study: 0)
    monkeypatch.setattr(schedule, "run", made)
    assert main(command) == 2
    told = capfd.readouterr()
    assert "began from other weights than" in told.err and "next: " not in told.out
    assert "left to another process" not in told.out and "accuracy" not in told.out
