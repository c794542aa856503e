"""Runs the cells of a grid through an executor, in order, several at a time; a failure stops no other."""

import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from finetune.studies.executors.base import Executor, Job
from finetune.studies.grid import Cell
from finetune.studies.state import Status


class Board(Protocol):
    """A display of the progress."""

    def started(self, job: Job) -> None: ...
    def ended(self, cell: Cell, status: Status, seconds: float) -> None: ...
    def refresh(self, jobs: Sequence[Job]) -> None: ...


def run(cells: Sequence[Cell], executor: Executor, board: Board | None = None) -> dict[Cell, Status]:
    """Runs ``cells`` and returns the last status of each.

    A cell that another process is running is left to it. On ``KeyboardInterrupt`` all jobs are cancelled.
    """
    waiting, jobs = deque(cells), list[Job]()
    statuses: dict[Cell, Status] = {}

    def end(cell: Cell, status: Status, seconds: float) -> None:
        statuses[cell] = status
        if board:
            board.ended(cell, status, seconds)

    with executor:
        while waiting or jobs:
            for job, status in executor.watch():
                jobs.remove(job)
                end(job.cell, status, time.monotonic() - job.started)
            while waiting and len(jobs) < executor.capacity:
                started = executor.submit(cell := waiting.popleft())
                if isinstance(started, Status):
                    end(cell, started, 0.0)
                    continue
                jobs.append(started)
                if board:
                    board.started(started)
            if board:
                board.refresh(jobs)
    return statuses
