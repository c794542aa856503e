"""What is told of a run while it goes on, on a terminal and off one; no model and no training."""

import itertools
import logging
import os
import pty
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PrinterCallback, ProgressCallback

from finetune.studies.progress import OneByOne
from finetune.studies.state import RunState, Status
from finetune.system import live
from finetune.system.text import quietly, say, verbosely
from finetune.training import progress
from finetune.training.progress import Display, Progress
from tests.support.screen import screen
from tests.support.studies import TINY, study_of

LONG = "it is in /" + "folder/" * 16


class Terminal:
    """A terminal for standard output and errors, and all that it was sent."""

    def __init__(self, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.width, self.sent, self.monkeypatch = width, "", monkeypatch
        self.ours, theirs = pty.openpty()
        os.set_blocking(self.ours, False)
        self.stream = os.fdopen(theirs, "w", buffering=1, encoding="utf-8")

    def attach(self) -> None:
        """Makes it standard output and errors; in the test itself, since pytest sets both before."""
        self.monkeypatch.setattr("sys.stdout", self.stream)
        self.monkeypatch.setattr("sys.stderr", self.stream)

    def shown(self) -> list[str]:
        """The lines of the screen that are not empty."""
        self.stream.flush()
        while True:
            try:
                self.sent += os.read(self.ours, 65536).decode()
            except BlockingIOError:
                return [line for line in screen(self.sent, self.width) if line]


@pytest.fixture(params=[40, 80, 120])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    opened = Terminal(request.param, monkeypatch)
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(live, "REFRESH_S", 0.0)
    yield opened
    opened.stream.close()
    os.close(opened.ours)


def events(shown: Progress, first: int = 0, steps: int = 6, clock: Any = None) -> Iterator[str]:
    """What Trainer tells of a run: its answers, its steps from ``first`` on, an evaluation, and the test."""
    state = SimpleNamespace(global_step=first, max_steps=steps)

    def tell(name: str, **values: Any) -> str:
        getattr(shown, f"on_{name}")(None, state, None, **values)
        if clock is not None:
            clock.now += 2.0
        return name

    yield tell("prediction_step", eval_dataloader=[0, 0])
    yield tell("predict", metrics={})
    yield tell("train_begin")
    for step in range(first + 1, steps + 1):
        state.global_step = step
        yield tell("step_end")
        if step == steps - 1:
            yield tell("log", logs={"loss": 0.43215, "grad_norm": 1.0})
            yield tell("prediction_step", eval_dataloader=[0] * 3)
            metrics = {"eval_loss": 0.3751, "eval_accuracy": 0.8725, "eval_runtime": 1.0}
            yield tell("log", logs=metrics)
            yield tell("evaluate", metrics=metrics)
    yield tell("train_end")
    yield tell("prediction_step", eval_dataloader=[0] * 4)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two seconds an event."""
    ticking = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: ticking.now)
    return ticking


@pytest.mark.parametrize("first", [0, 3])
def test_plain_lines_are_few(first: int, clock: Any, capsys: pytest.CaptureFixture[str]) -> None:
    list(events(Progress("[1/2]"), first, clock=clock))
    left = f"about {16 / 4 if first == 0 else 10 / 1:.0f} s left"  # at the pace so far, evaluation and all
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"  step {first + 1} of 6"
    assert shown[-2] == f"  step 5 of 6, {left}, loss 0.4321, accuracy 87.25%, validation loss 0.3751"
    assert shown[-1].startswith("  trained to step 6 in ")
    assert len(shown) == 3


def test_a_long_run_has_a_line_now_and_then(clock: Any, capsys: pytest.CaptureFixture[str]) -> None:
    list(events(Progress("[1/1]"), steps=1000, clock=clock))
    lines = capsys.readouterr().out.splitlines()[:-2]  # without the evaluation and the end
    steps = [int(line.split()[1].replace(",", "")) for line in lines]
    assert all(later - earlier >= 50 for earlier, later in itertools.pairwise(steps))
    assert 15 <= len(steps) <= 21


def test_on_a_terminal_a_line_stays_below_what_is_printed(
    terminal: Terminal, clock: Any, tmp_path: Path
) -> None:
    terminal.attach()
    cells = study_of(tmp_path, {"a": TINY}, seeds=[0, 1]).cells[:3]
    statuses = {cell: Status(RunState.MISSING) for cell in cells}
    statuses[cells[0]] = Status(RunState.DONE)
    handler = logging.StreamHandler(terminal.stream)
    log = logging.getLogger("a.library")
    log.addHandler(handler)
    width, lines = terminal.width, []
    with live.foot() as foot:
        assert foot is not None
        board = OneByOne(foot, statuses)
        board.ended(cells[0], statuses[cells[0]], 0.0)
        say("[1/3] header")
        for name in events(Progress("[2/3]"), clock=clock):
            if name == "log":
                say(LONG)
                print("on errors", file=sys.stderr)
                log.error("of a library")
            lines = terminal.shown()
            assert all(len(line) <= width for line in lines)
            assert sum("runs done" in line for line in lines) == 1
            assert sum("[2/3]" in line for line in lines) == 1  # one line, drawn again
            if name == "evaluate":
                whole = (
                    "[2/3] step 5 of 6, about 4 s left, loss 0.4321, accuracy 87.25%, validation loss 0.3751"
                )
                assert lines[-1] == whole if width >= len(whole) else whole.startswith(lines[-1] + ",")
                assert lines[-2].startswith("1 of 3 runs done, about ")
        assert lines[0] == "[1/3] header" and lines[-1].startswith("[2/3] predicting the test rows")
        board.ended(cells[1], Status(RunState.FAILED), 0.0)
        board.refresh([])
        assert terminal.shown()[-1].startswith("1 of 3 runs done, 1 failed")
    log.removeHandler(handler)
    shown = terminal.shown()
    assert "".join(shown).count(LONG) == 2 and shown.count("on errors") == shown.count("of a library") == 2
    assert not any("runs done" in line or "[2/3]" in line for line in shown)
    assert sys.stderr is terminal.stream and handler.stream is terminal.stream
    assert terminal.sent.rindex("\x1b[?25h") > terminal.sent.rindex("\x1b[?25l")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_whatever_ends_a_run_leaves_a_clean_screen(terminal: Terminal, error: type[BaseException]) -> None:
    terminal.attach()
    with pytest.raises(error), live.foot() as foot:
        assert foot is not None
        say("before")
        started = Progress("[1/1]")
        for name in events(started):
            if name == "step_end":
                assert "[1/1] step 1 of 6" in terminal.shown()
                raise error
    say("after")
    assert terminal.shown() == ["before", "after"] and live.current() is None


def test_no_foot_where_none_is_wanted(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal.attach()
    with live.foot(wanted=False) as foot:
        assert foot is None
    with quietly(), live.foot() as foot:
        assert foot is None
    monkeypatch.setenv("TERM", "dumb")
    with live.foot() as foot:
        assert foot is None
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with open(os.devnull, "w") as nowhere:
        monkeypatch.setattr("sys.stdout", nowhere)
        with live.foot() as foot:
            assert foot is None


def test_a_foot_is_drawn_twice_a_second_at_most(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "REFRESH_S", 0.5)
    terminal.attach()
    with live.foot():
        list(events(Progress("[1/1]"), steps=10_000))
    assert terminal.shown() == [] and terminal.sent.count("step ") <= 4


def test_a_trial_says_that_it_predicts_validation_rows() -> None:
    trial = Progress("[1/1]", "validation")
    trial.done = True
    assert trial.parts() == ["predicting the validation rows"]


@pytest.mark.parametrize(
    ("bars", "usual"), [(None, Display.LIVE), (True, Display.LINES), (False, Display.TRAINERS)]
)
def test_trainers_own_display_is_shown_where_it_is_asked_for(bars: bool | None, usual: Display) -> None:
    train = {} if bars is None else {"disable_tqdm": bars}
    assert progress.display(train) is usual
    with verbosely():
        assert progress.display(train) is Display.TRAINERS
    with quietly(), verbosely():
        assert progress.display(train) is Display.NOTHING
    removed: list[Any] = []
    progress.settle(SimpleNamespace(remove_callback=removed.append), train)
    assert removed == ([] if usual is Display.TRAINERS else [PrinterCallback, ProgressCallback])
