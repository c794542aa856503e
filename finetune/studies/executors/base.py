"""The interface of an engine that runs the cells of a grid: submit, watch, cancel; for ``schedule.run``.

An engine need not train: ``finetune run FILE``, the command of a cell (``cell_file.command``), does all of
it wherever it is started. It locks the run's folder, goes on from a checkpoint, and writes the record; its
exit status is 0, 1 (failed, and recorded so), 2 (a user's mistake), 75 (another process has the folder), or
that of a signal. What an engine owes:

- ``submit`` returns at once. It starts a cell unless another process runs it, or has since it was planned
  (``state.look`` says so), and then returns what it is waiting for; otherwise the status of the cell. It may
  be given a cell whose run is half finished: the command goes on with it.
- ``watch`` waits for a moment, and returns every job that has ended since, with the status of its cell: by
  its record, and where that is of an earlier attempt, by how the process ended.
- ``cancel`` ends every job that is still running, and whatever it has started, and waits for their ends.
- As a context it cancels on leaving. One whose jobs outlive a Ctrl-C collects signals while it is entered,
  and raises ``KeyboardInterrupt`` from ``watch``, not half-way through starting a job.
- ``capacity`` is how many cells it takes at a time.

An engine of a cluster has no lock to inherit: it must know its jobs again by a name (the cell's ``name``).
"""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from finetune.studies.grid import Cell
from finetune.studies.state import Status


@dataclass(frozen=True, eq=False)
class Job:
    """A cell that is being run by one of the workers."""

    cell: Cell
    worker: int  # from 0
    started: float = field(default_factory=time.monotonic, kw_only=True)

    def last_line(self) -> str:
        """The line that it has printed last; "" where that cannot be read."""
        return ""


class Executor(ABC):
    """An engine; see the module."""

    capacity: int

    @abstractmethod
    def submit(self, cell: Cell) -> Job | Status:
        """Starts a cell, and returns its job, or its status where there is nothing to wait for."""

    @abstractmethod
    def watch(self) -> list[tuple[Job, Status]]:
        """Returns the jobs that have ended since, after a moment where there is none."""

    @abstractmethod
    def cancel(self) -> None:
        """Ends what is still running."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self.cancel()
