"""Runs the cells of a grid through an executor, in order, several at a time; a failure stops no other."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from finetune.records import store
from finetune.studies.executors.base import Executor, Job
from finetune.studies.grid import Cell
from finetune.studies.state import RunState, Status


class Board(Protocol):
    """A display of the progress."""

    def started(self, job: Job) -> None: ...
    def ended(self, cell: Cell, status: Status, seconds: float) -> None: ...
    def lost(self, cell: Cell, status: Status, attempt: int) -> None: ...
    def refresh(self, jobs: Sequence[Job]) -> None: ...


def run(
    cells: Sequence[Cell],
    executor: Executor,
    board: Board | None = None,
    *,
    retries: int = 0,
    going: Sequence[Job] | None = None,
) -> dict[Cell, Status]:
    """Runs ``cells`` and returns the last status of each.

    A cell that begins from the run of another one waits for it, and fails with it. A cell that another
    process is running is left to it. A lost one is tried again up to ``retries`` times, and as often again
    once it has come further; one that has failed of itself would fail again. On ``KeyboardInterrupt`` jobs
    are cancelled, unless they outlive this process. ``going``: the jobs that the engine has attached to
    already; None has it do so.
    """
    course = _Course(cells, executor, board, retries)
    with executor:
        course.take_over(executor.attach(cells) if going is None else going)
        while course.waiting or course.jobs:
            course.watch()
            course.leave_out()
            course.submit()
            if board:
                board.refresh(course.jobs)
    return course.statuses


class _Course:
    """The state of ``run``: what waits, what is being run, and what has become of the others."""

    def __init__(self, cells: Sequence[Cell], executor: Executor, board: Board | None, retries: int) -> None:
        self.executor, self.board, self.retries = executor, board, retries
        self.waiting, self.jobs = list(cells), list[Job]()
        self.statuses: dict[Cell, Status] = {}
        self.attempts: Counter[Cell] = Counter()  # that were lost, without a step more on record
        self.reached: dict[Cell, int] = {cell: store.reached(cell.folder) for cell in cells}

    def take_over(self, going: Sequence[Job]) -> None:
        """Takes over the jobs of an earlier process."""
        for job in going:
            self._begun(job)

    def watch(self) -> None:
        """Takes note of the jobs that have ended; what was lost waits again."""
        for job, status in self.executor.watch():
            self.jobs.remove(job)
            # One that waited for a run that is lost or has failed was not begun.
            if (step := store.reached(job.cell.folder)) > self.reached[job.cell]:
                self.reached[job.cell], self.attempts[job.cell] = step, 0
            unbegun = self._fails(job.cell) or job.cell.origin in {each.cell for each in self.jobs}
            if status.lost and (unbegun or self.attempts[job.cell] < self.retries):
                self.attempts[job.cell] += not unbegun
                self.waiting.insert(0, job.cell)
                if self.board:
                    self.board.lost(job.cell, status, self.attempts[job.cell])
            else:
                self._end(job.cell, status, job.seconds())

    def leave_out(self) -> None:
        """Ends the cells whose beginning will not be there."""
        for cell in filter(self._fails, list(self.waiting)):
            assert cell.origin is not None
            self.waiting.remove(cell)
            self._end(cell, _without(cell.origin, self.statuses[cell.origin]), 0.0)

    def submit(self) -> None:
        """Starts what may begin, in order, as many as the engine takes."""
        of_cell = {job.cell: job for job in self.jobs}
        pending = set(self.waiting) if self.executor.chains else {*self.waiting, *of_cell}
        ready = [cell for cell in self.waiting if cell.origin not in pending]
        ready = ready[: max(0, self.executor.capacity - len(self.jobs))]
        if not ready:
            return
        after = {cell: of_cell[cell.origin] for cell in ready if cell.origin in of_cell}
        for cell, started in zip(ready, self.executor.submit(ready, after), strict=True):
            if isinstance(started, Job):
                self._begun(started)
            else:
                self.waiting.remove(cell)
                self._end(cell, started, 0.0)

    def _begun(self, job: Job) -> None:
        self.waiting.remove(job.cell)
        self.jobs.append(job)
        if self.board:
            self.board.started(job)

    def _end(self, cell: Cell, status: Status, seconds: float) -> None:
        self.statuses[cell] = status
        if self.board:
            self.board.ended(cell, status, seconds)

    def _fails(self, cell: Cell) -> bool:
        """Whether the run that a cell begins from has ended, and is not done."""
        became = None if cell.origin is None else self.statuses.get(cell.origin)
        return became is not None and became.state is not RunState.DONE


def _without(origin: Cell, became: Status) -> Status:
    """The status of a cell whose ``origin`` has ended and is not done."""
    outcomes = {RunState.FAILED: "has failed", RunState.UNFINISHED: "is unfinished"}
    outcome = outcomes.get(became.state, "was left to another process")
    return Status(became.state, f"the run that it begins from, {origin.folder}, {outcome}")
