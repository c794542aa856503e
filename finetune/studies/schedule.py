"""Runs of a study as processes of their own, several at a time; a failure or a Ctrl-C loses no other run."""

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from finetune.errors import BusyError
from finetune.studies import logs
from finetune.studies.grid import Cell
from finetune.studies.state import State, look
from finetune.system.processes import python_module

TICK_S = 0.1  # seconds between two looks at the processes
GRACE_S = 5  # seconds that a run has to end after SIGTERM; it ends at once, and its children with it


@dataclass(frozen=True)
class Job:
    """A cell that is being run by one of the workers."""

    cell: Cell
    worker: int  # from 0
    process: "subprocess.Popen[bytes]"
    log: logs.Log
    started: float = field(default_factory=time.monotonic)


class Board(Protocol):
    """What is told of the progress."""

    def started(self, job: Job) -> None: ...
    def ended(self, cell: Cell, state: State, seconds: float) -> None: ...
    def refresh(self, jobs: Sequence[Job]) -> None: ...


def command(cell: Cell) -> list[str]:
    """What is executed for a cell."""
    return [*python_module("finetune"), *cell.words]


def run(
    cells: Sequence[Cell],
    slots: Sequence[Mapping[str, str]],
    board: Board,
    execute: Callable[[Cell], list[str]] = command,
) -> dict[Cell, State]:
    """Run ``cells`` in their order, one a slot at a time, and return what became of each.

    ``slots``: what the environment of each worker has besides this process's. A cell that another process
    is running is left to it. On Ctrl-C, SIGTERM or SIGHUP all children are ended, then KeyboardInterrupt is
    raised.
    """
    waiting, jobs = deque(cells), list[Job]()
    states: dict[Cell, State] = {}

    def end(cell: Cell, state: State, seconds: float) -> None:
        states[cell] = state
        board.ended(cell, state, seconds)

    with _interruptions() as interrupted:
        try:
            while (waiting or jobs) and not interrupted:
                for job in [job for job in jobs if job.process.poll() is not None]:
                    jobs.remove(job)
                    end(job.cell, _outcome(job), time.monotonic() - job.started)
                while waiting and len(jobs) < len(slots):
                    free = min(set(range(len(slots))) - {job.worker for job in jobs})
                    started = _start(cell := waiting.popleft(), free, slots[free], execute)
                    if isinstance(started, State):
                        end(cell, started, 0.0)
                        continue
                    jobs.append(started)
                    board.started(started)
                board.refresh(jobs)
                time.sleep(TICK_S if jobs else 0)
        finally:
            _stop(jobs)
    if interrupted:
        raise KeyboardInterrupt
    return states


def _start(
    cell: Cell, worker: int, slot: Mapping[str, str], execute: Callable[[Cell], list[str]]
) -> Job | State:
    """Start a cell, unless somebody else does or has done: then its state."""
    words = execute(cell)
    log = logs.claim(cell.log, words)
    if log is None:
        return State("running")
    state = look(cell, claimed=True)  # again, for another study may have run it since this one looked
    if state.kind in ("done", "running", "other"):
        log.close()
        return state
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log.stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **slot},  # a log that is up to date
            process_group=0,  # a Ctrl-C in the terminal reaches this process alone, which ends the group
        )
    except OSError as error:
        log.close()
        return State("failed", f"cannot start a process: {error.strerror}")
    return Job(cell, worker, process, log)


def _outcome(job: Job) -> State:
    """What has become of a cell whose process has ended; lets go of its log, with the reason of a failure."""
    state = _by_record_and_log(job)
    job.log.close(state.reason if state.kind == "failed" else "")
    return state


def _by_record_and_log(job: Job) -> State:
    status, state, complaint = job.process.returncode, look(job.cell, claimed=True), job.log.complaint()
    if state.kind == "done":
        return state
    if status == BusyError.exit_status:
        return State("running", record=state.record)
    if status < 0:
        reason = killed_text(-status)
    elif state.kind == "failed" and job.log.tells_of(state.record):
        reason = state.reason
    else:
        reason = complaint or f"it ended with status {status} and without a word"
    return State("failed", reason, state.record)


def killed_text(number: int) -> str:
    """What became of a process that ended by a signal, and what that mostly means."""
    guess = " (out of memory?)" if number == signal.SIGKILL else f" ({signal.strsignal(number)})"
    return f"killed by signal {number}{guess}"


def _stop(jobs: Sequence[Job]) -> None:
    """End every job and whatever it has started; nothing is lost but the steps since its last checkpoint."""
    for job in jobs:
        _send(job, signal.SIGTERM)
    end = time.monotonic() + GRACE_S
    for job in jobs:
        with suppress(subprocess.TimeoutExpired):
            job.process.wait(timeout=max(0.0, end - time.monotonic()))
        _send(job, signal.SIGKILL)
        job.process.wait()
        job.log.close()


def _send(job: Job, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # the group is gone
        os.killpg(job.process.pid, number)


@contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Signals that mean an end are collected, not raised half-way through starting a process."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and means it
            before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
