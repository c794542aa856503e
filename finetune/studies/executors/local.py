"""Executes runs as processes of their own on this machine; a failure or a Ctrl-C loses no other run."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from finetune.errors import BusyError
from finetune.studies import cell_file, logs
from finetune.studies.executors.base import Executor, Job
from finetune.studies.grid import Cell
from finetune.studies.state import RunState, Status, look

TICK_S = 0.1  # seconds between two looks at the processes
GRACE_S = 5  # seconds that a run has to end after SIGTERM; it ends at once, and its children with it
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, eq=False)
class Process(Job):
    """A run in a process, which holds the log that it writes into."""

    process: "subprocess.Popen[bytes]"
    log: logs.Log

    def last_line(self) -> str:
        return self.log.last_line()


class Local(Executor):
    """One process a slot. On Ctrl-C, SIGTERM or SIGHUP all of them are ended."""

    def __init__(
        self,
        slots: Sequence[Mapping[str, str]],
        execute: Callable[[Cell], list[str]] = cell_file.command,
    ) -> None:
        """``slots``: environment variables of each worker, besides this process's own (``devices.slots``)."""
        self.slots, self.execute = slots, execute
        self.capacity = len(slots)
        self.jobs: list[Process] = []
        self.interruptions: list[int] = []
        self.handlers: dict[int, Any] = {}

    def submit(self, cell: Cell) -> Job | Status:
        worker = min(set(range(self.capacity)) - {job.worker for job in self.jobs})
        words = self.execute(cell)
        assert cell.log is not None  # of a study's cell
        log = logs.claim(cell.log, words)
        if log is None:
            return Status(RunState.RUNNING)
        status = look(cell, claimed=True)  # again, for another study may have run it since it was planned
        if status.state in (RunState.DONE, RunState.RUNNING, RunState.OTHER):
            log.close()
            return status
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log.stream,
                stderr=subprocess.STDOUT,
                # Unbuffered: a log that is up to date.
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.slots[worker]},
                # A Ctrl-C in the terminal reaches this process alone, which ends the group.
                process_group=0,
            )
        except OSError as error:
            log.close()
            return Status(RunState.FAILED, f"cannot start a process: {error.strerror}")
        job = Process(cell, worker, process, log)
        self.jobs.append(job)
        return job

    def watch(self) -> list[tuple[Job, Status]]:
        if self.interruptions:
            raise KeyboardInterrupt
        if all(job.process.poll() is None for job in self.jobs):
            time.sleep(TICK_S if self.jobs else 0)
        ended: list[tuple[Job, Status]] = []
        for job in [job for job in self.jobs if job.process.poll() is not None]:
            self.jobs.remove(job)
            status = _status_after(job)
            job.log.close(status.reason if status.state is RunState.FAILED else "")
            ended.append((job, status))
        return ended

    def cancel(self) -> None:
        """Ends every run and whatever it has started: the steps since its last checkpoint are lost."""
        for job in self.jobs:
            _send(job, signal.SIGTERM)
        end = time.monotonic() + GRACE_S
        for job in self.jobs:
            with suppress(subprocess.TimeoutExpired):
                job.process.wait(timeout=max(0.0, end - time.monotonic()))
            _send(job, signal.SIGKILL)
            job.process.wait()
            job.log.close()
        self.jobs.clear()

    def __enter__(self) -> Self:
        """Collects signals from here on, since one may come half-way through starting a process."""
        if threading.current_thread() is threading.main_thread():  # others get none, and may set no handler
            for number in INTERRUPTIONS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and means it
                    self.handlers[number] = signal.signal(
                        number, lambda number, frame: self.interruptions.append(number)
                    )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        try:
            self.cancel()
        finally:
            for number, handler in self.handlers.items():
                signal.signal(number, handler)
            self.handlers.clear()
        if self.interruptions and kind is None:
            raise KeyboardInterrupt


def killed_text(number: int) -> str:
    """``killed by signal 9 (out of memory?)``: how a process ended, with the usual cause."""
    guess = " (out of memory?)" if number == signal.SIGKILL else f" ({signal.strsignal(number)})"
    return f"killed by signal {number}{guess}"


def _status_after(job: Process) -> Status:
    """The status of a cell whose process has ended: by its record, or else by how the process ended."""
    exit_status, status = job.process.returncode, look(job.cell, claimed=True)
    if status.state is RunState.DONE:
        return status
    if exit_status == BusyError.exit_status:
        return Status(RunState.RUNNING, run=status.run)
    if exit_status < 0:
        reason = killed_text(-exit_status)
    elif status.state is RunState.FAILED and job.log.wrote(status.run.record if status.run else None):
        reason = status.reason
    else:
        reason = job.log.complaint() or f"it ended with status {exit_status} and without a word"
    return Status(RunState.FAILED, reason, status.run)


def _send(job: Process, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # the group is gone
        os.killpg(job.process.pid, number)
