"""Executes runs as processes of their own on this machine; a failure or a Ctrl-C loses no other run."""

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pydantic.dataclasses import dataclass as checked_dataclass

from finetune.studies import cell_file, devices, logs
from finetune.studies.executors.base import (
    STRICT,
    Called,
    Duration,
    Engine,
    Executor,
    Job,
    Options,
    log_of,
    signal_group,
    status_after,
)
from finetune.studies.file import Study
from finetune.studies.grid import Cell
from finetune.studies.state import TO_RUN, RunState, Status, look
from finetune.system import durations
from finetune.system.text import say

TICK_S = 0.1  # seconds between two looks at the processes
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@checked_dataclass(frozen=True, config=STRICT)
class LocalOptions(Options):
    """The options of this engine."""

    grace: Duration = "2min"  # that a run has to end when it must: its step, an evaluation due, a checkpoint


@dataclass(frozen=True, eq=False)
class Process(Job):
    """A run in a process, which holds the log that it writes into."""

    slot: int
    process: "subprocess.Popen[bytes]"
    log: logs.Log

    def last_line(self) -> str:
        return self.log.last_line()


class Local(Executor):
    """One process a slot. On Ctrl-C, SIGTERM or SIGHUP all are told to end, and on a second one killed."""

    def __init__(
        self,
        slots: Sequence[Mapping[str, str]],
        execute: Callable[[Cell], list[str]] = cell_file.command,
        *,
        timeout_s: float = math.inf,
        grace_s: float = math.inf,
    ) -> None:
        """``slots``: environment variables of each worker, besides this process's own (``devices.slots``).

        A run is told to end and lost after ``timeout_s`` seconds. What is told to end is killed after another
        ``grace_s``.
        """
        self.slots, self.execute, self.timeout_s, self.grace_s = slots, execute, timeout_s, grace_s
        self.capacity = len(slots)
        self.jobs: list[Process] = []
        self.told: dict[Process, float] = {}  # to end, since then (monotonic seconds)
        self.interruptions: list[int] = []
        self.handlers: dict[int, Any] = {}

    def submit(self, cells: Sequence[Cell], after: Mapping[Cell, Job]) -> list[Job | Status]:
        return [self._start(cell) for cell in cells]

    def _start(self, cell: Cell) -> Job | Status:
        slot = min(set(range(self.capacity)) - {job.slot for job in self.jobs})
        words = self.execute(cell)
        log = logs.claim(log_of(cell), words)
        if log is None:
            return Status(RunState.RUNNING)
        status = look(cell, claimed=True)  # again, for another study may have run it since it was planned
        if status.state not in TO_RUN:
            log.close()
            return status
        try:
            process = log.execute(words, self.slots[slot])
        except OSError as error:
            log.close()
            return Status(RunState.FAILED, f"cannot start a process: {error.strerror}")
        job = Process(cell, str(slot + 1), slot, process, log)
        self.jobs.append(job)
        return job

    def watch(self) -> list[tuple[Job, Status]]:
        if self.interruptions:
            raise KeyboardInterrupt
        late = [job for job in self.jobs if job.seconds() > self.timeout_s]
        self._tell(late)
        if all(job.process.poll() is None for job in self.jobs):
            time.sleep(TICK_S if self.jobs else 0)
        ended: list[tuple[Job, Status]] = []
        for job in [job for job in self.jobs if job.process.poll() is not None]:
            self.jobs.remove(job)
            if job.process.returncode < 0:
                signal_group(
                    job.process, signal.SIGKILL
                )  # what it has started holds its log and its folder's lock
            hung = f"it was still running after {self.timeout_s:.0f} s" if job in self.told else ""
            status = status_after(
                job.cell,
                job.process.returncode,
                began=job.log.began,
                complaint=job.log.complaint,
                lost=hung,
            )
            job.log.close(status.reason if status.state is RunState.FAILED else "")
            ended.append((job, status))
        return ended

    def cancel(self) -> None:
        """Has every run leave a checkpoint and end, and ends whatever it has started.

        What takes too long is killed, and all is on a further interruption: the steps since the last
        checkpoint are lost.
        """
        heard = len(self.interruptions)
        if self.jobs:
            told = f"{len(self.jobs)} runs are told to leave a checkpoint and end"
            say(f"{told}, within {self.grace_s:g} s; a second Ctrl-C kills them")
        while any(job.process.poll() is None for job in self.jobs):
            self._tell(self.jobs)
            if len(self.interruptions) > heard:
                break
            time.sleep(TICK_S)
        for job in self.jobs:
            signal_group(job.process, signal.SIGKILL)
            job.process.wait()
            job.log.close()
        self.jobs.clear()

    def call(self, words: Sequence[str]) -> Called:
        """Runs a command on one GPU, as the runs will be, in a group of its own, which it ends with it."""
        ended = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self.slots[0]},
            process_group=0,
            check=False,
        )
        return Called(ended.returncode, ended.stdout.decode("utf-8", "replace"))

    def _tell(self, jobs: Sequence[Process]) -> None:
        """Has ``jobs`` end, once; kills those that have not, where they have been told for long."""
        now = time.monotonic()
        for job in jobs:
            if job not in self.told:
                self.told[job] = now
                signal_group(job.process, signal.SIGTERM)
            elif now - self.told[job] > self.grace_s:
                signal_group(job.process, signal.SIGKILL)

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


def _make(study: Study, options: LocalOptions, workers: int) -> Local:
    timeout = math.inf if options.timeout is None else durations.seconds(options.timeout)
    return Local(devices.slots(workers), timeout_s=timeout, grace_s=durations.seconds(options.grace))


ENGINE = Engine("local", "processes on this machine", LocalOptions, _make)
