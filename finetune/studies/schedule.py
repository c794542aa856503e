"""Runs the cells of a grid through an executor, in order, several at a time; a failure stops no other."""

import time
from collections.abc import Sequence
from typing import Protocol

from finetune.studies.executors.base import Executor, Job
from finetune.studies.grid import Cell
from finetune.studies.state import RunState, Status


class Board(Protocol):
    """A display of the progress."""

    def started(self, job: Job) -> None: ...
    def ended(self, cell: Cell, status: Status, seconds: float) -> None: ...
    def refresh(self, jobs: Sequence[Job]) -> None: ...


def run(cells: Sequence[Cell], executor: Executor, board: Board | None = None) -> dict[Cell, Status]:
    """Runs ``cells`` and returns the last status of each.

    A cell that begins from the run of another one waits for it, and fails with it. A cell that another
    process is running is left to it. On ``KeyboardInterrupt`` all jobs are cancelled.
    """
    waiting, jobs = list(cells), list[Job]()
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
            while len(jobs) < executor.capacity and (cell := _first_ready(waiting, jobs)):
                waiting.remove(cell)
                origin = cell.origin
                if origin in statuses and statuses[origin].state is not RunState.DONE:
                    end(cell, _without(origin, statuses[origin]), 0.0)
                    continue
                started = executor.submit(cell)
                if isinstance(started, Status):
                    end(cell, started, 0.0)
                    continue
                jobs.append(started)
                if board:
                    board.started(started)
            if board:
                board.refresh(jobs)
    return statuses


def _first_ready(waiting: Sequence[Cell], jobs: Sequence[Job]) -> Cell | None:
    """The first cell that begins from none that is still to be run."""
    pending = {*waiting, *(job.cell for job in jobs)}
    return next((cell for cell in waiting if cell.origin not in pending), None)


def _without(origin: Cell, became: Status) -> Status:
    """The status of a cell whose ``origin`` has ended and is not done."""
    if became.state is RunState.FAILED:
        return Status(RunState.FAILED, f"the run that it begins from, {origin.folder}, has failed")
    return Status(became.state, f"the run that it begins from, {origin.folder}, was left to another process")
