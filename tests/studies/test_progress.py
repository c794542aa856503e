"""What a study shows while it runs."""

import re
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.live import Live

from finetune.studies import estimate, logs, progress
from finetune.studies.executors.local import Local, Process
from finetune.studies.file import Study
from finetune.studies.schedule import run
from finetune.studies.state import RunState, Status, look
from finetune.system import lock
from tests.support.studies import TINY, keep, stub, study_of


def tally_of(study: Study, workers: int = 2) -> progress.Tally:
    states = {cell: look(cell) for cell in study.cells}
    costs = estimate.Costs()
    for cell in study.cells:
        costs.add(cell, states[cell].run)
    return progress.Tally(study, states, costs, workers)


def test_off_a_terminal_each_run_is_two_lines(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"a": TINY}, seeds=[0, 1])
    keep(study.cells[0], seconds=60.0)
    out = StringIO()
    lines = progress.Lines(tally_of(study), Console(file=out, width=40, highlight=False))
    special = {0: ["record"], 1: ["say=[red]finetune: error: broken[/red]", "exit=1"]}
    run(study.cells[1:], Local([{}], stub(tmp_path, special=special)), lines)
    shown = out.getvalue().splitlines()
    assert shown[0] == "start a/agnews/scratch-tiny/sa-softmax/seed-0"
    assert re.fullmatch(
        r"\[1/3\] \S+/sa-softmax/seed-0: accuracy 80.00%, \d+ s; 2 left, about \d+ s", shown[1]
    )
    assert "FAILED: [red]finetune: error: broken[/red]; 1 left, about" in shown[3]
    assert shown[5].endswith("FAILED: [red]finetune: error: broken[/red]") and len(shown) == 6


def test_on_a_terminal_a_table_shows_grids_and_workers(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"a": TINY, "b": {**TINY, "task": "yelp"}})
    keep(study.cells[0], seconds=60.0)
    tally = tally_of(study)
    tally.end(study.cells[1], Status(RunState.FAILED, "broken"))
    log = logs.claim(study.cells[2].log, ["x"])
    assert log is not None
    log.stream.write(b"header\n  step 12 of 96, loss 0.5\r\n\n")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    console = Console(file=StringIO(), force_terminal=True, width=100, height=20)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        table = progress.LiveTable(tally, console, live)
        table.refresh([Process(study.cells[2], "2", 1, process, log, started=time.monotonic() - 50)])
    log.close()
    assert isinstance(console.file, StringIO)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    assert "study mine: 0 s so far, about 35 s left" in shown
    assert re.search(r"grid\s+done\s+running\s+failed\s+left", shown)
    assert re.search(r"^a +1 +- +1 +-\s*$", shown, flags=re.MULTILINE)
    assert re.search(r"^b +- +1 +- +1\s*$", shown, flags=re.MULTILINE)
    assert re.search(
        r"^2 +b/yelp/scratch-tiny/softmax/seed-0 +50 s +step 12 of 96, loss 0.5\s*$", shown, re.MULTILINE
    )


def test_a_log_is_read_from_where_its_attempt_began(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "a.log"
    first = logs.claim(file, ["finetune", "a b"])
    assert first is not None and logs.claim(file, []) is None and lock.held(file)
    assert first.last_line() == first.complaint() == ""
    first.stream.write(b"finetune: error: one\nlast\n")
    assert (first.complaint(), first.last_line()) == ("one", "last")
    first.close("one\u2028 \udcff")
    assert not lock.held(file) and logs.verdict(file).startswith("one")
    second = logs.claim(file, [])
    assert second is not None and second.complaint() == "" and logs.verdict(file) == ""
    second.close()
    assert "finetune 'a b'" in file.read_text(encoding="utf-8")
    assert not lock.held(tmp_path / "none") and not logs.verdict(tmp_path / "none")
