"""The interface of an engine that executes the cells of a study: submit, watch, cancel; for ``schedule.run``.

An engine need not train: ``finetune run FILE``, the command of a cell (``cell_file.command``), does all of
it wherever it is started. It locks the run's folder, goes on from a checkpoint, and writes the record; its
exit status is 0, 1 (failed, and recorded so), 2 (a user's mistake), 75 (another process has the folder, or
the run was preempted or found a disk full, and goes on from its checkpoint), or that of a signal. The truth
about a run is its record in the folder, whatever an engine remembers of it. What an engine owes:

- ``submit`` returns at once. It starts each cell unless another process runs it, or has since it was planned
  (``state.look`` says so), and gives what it is waiting for; otherwise the status of the cell. It may be
  given a cell whose run is half finished: the command goes on with it. It is given all cells that may begin
  at once, so that a cluster can take them as one array.
- ``watch`` waits for a moment, and returns every job that has ended since, with the status of its cell
  (``status_after``). ``Status.lost``: the run itself has not failed, so that ``schedule.run`` tries it again.
- ``cancel`` ends every job that is still running, and whatever it has started, and waits for their ends.
- ``attach`` returns the jobs that an earlier process of the study has left running, of an engine whose jobs
  go on without it. A job is known again by the name of its cell.
- ``call`` runs one command on a worker and waits for its end: what is there can only be seen there.
- As a context it cancels on leaving, unless its jobs outlive the study's process. One whose jobs outlive a
  Ctrl-C collects signals while it is entered, and raises ``KeyboardInterrupt`` from ``watch``, not half-way
  through starting a job.
- ``capacity`` is how many cells it takes at a time, those that wait in its own queue among them.
"""

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from finetune.errors import UserError
from finetune.studies import logs
from finetune.studies.file import Study
from finetune.studies.grid import Cell
from finetune.studies.state import RunState, Status, look
from finetune.system import durations, lock

STRICT = ConfigDict(extra="forbid")


def _duration(text: str) -> str:
    try:
        durations.seconds(text)
    except UserError as error:
        raise ValueError(str(error)) from error
    return text


Duration = Annotated[str, AfterValidator(_duration)]
"""Of an option: ``90min``, ``8h``; ``durations.seconds`` reads it."""


@checked_dataclass(frozen=True, config=STRICT)
class Options:
    """The options that every engine has; the class of an engine adds its own, each with a default."""

    # Times that a lost run is tried again; from each new checkpoint as often again.
    retries: Annotated[int, Field(ge=0, le=100)] = 2
    timeout: Duration | None = None  # after which a run hangs, is ended and counts as lost

    def processes(self) -> int:
        """Of a run, one for each of the devices that it is divided among."""
        return 1

    def processes_of_a_node(self) -> int:
        """Those of a run that are on one machine."""
        return self.processes()

    def how_to_ask_for_a_gpu(self) -> str:
        """What to type for one, of an engine that gives a run none where nothing is said; "" otherwise."""
        return ""


@dataclass(frozen=True)
class Engine:
    """The declaration of an engine; a module of this package holds one, as ``ENGINE``."""

    name: str
    about: str  # half a line, for the help
    options: type[Options]
    make: Callable[[Study, Any, int], "Executor"]
    """Of a study, the engine's options and the number of workers that a machine would have."""


@dataclass(frozen=True, eq=False)
class Job:
    """A cell that is being run by one of the workers."""

    cell: Cell
    worker: str  # its number, its host or its job's number
    started: float = field(default_factory=time.monotonic, kw_only=True)

    def seconds(self) -> float:
        """How long it has been running, without what it waited in a queue."""
        return time.monotonic() - self.started

    def last_line(self) -> str:
        """The line that it has printed last; "" where that cannot be read."""
        return ""


@dataclass(frozen=True)
class Called:
    """The end of a command that ran on a worker."""

    exit_status: int
    output: str  # what it printed, on both streams

    def complaint(self) -> str:
        """Why it ended, by what it printed."""
        return logs.complaint(self.output.strip().splitlines()) or "it said nothing"


class Executor(ABC):
    """An engine at work; see the module."""

    capacity: int
    chains: bool = False  # whether it takes a cell that waits for the job of another one
    outlives: bool = False  # whether its jobs go on when the study's process ends

    @abstractmethod
    def submit(self, cells: Sequence[Cell], after: Mapping[Cell, Job]) -> list[Job | Status]:
        """Starts cells, and returns for each its job, or its status where there is nothing to wait for.

        ``after``: the jobs that cells wait for, of an engine that ``chains``.
        """

    @abstractmethod
    def watch(self) -> list[tuple[Job, Status]]:
        """Returns the jobs that have ended since, after a moment where there is none."""

    @abstractmethod
    def cancel(self) -> None:
        """Ends what is still running."""

    @abstractmethod
    def call(self, words: Sequence[str]) -> Called:
        """Runs one command on a worker, and waits. Raises ``UserError`` where no worker takes it."""

    def attach(self, cells: Sequence[Cell]) -> list[Job]:
        """Returns the jobs of ``cells`` that an earlier process has left running."""
        return []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        if not self.outlives:
            self.cancel()


def log_of(cell: Cell) -> Path:
    """The log of a cell, which has one as it is a study's."""
    assert cell.log is not None
    return cell.log


def status_after(
    cell: Cell, exit_status: int | None, *, began: str, complaint: Callable[[], str], lost: str = ""
) -> Status:
    """The status of a cell whose job has ended: by its record, or else by how the job ended.

    ``exit_status`` is that of the command, negative for a signal, None where nobody knows it. ``began``: when
    this attempt did (ISO 8601, UTC), since a failure on record may be of an earlier one. ``complaint``: what
    the attempt has printed last. ``lost``: what the engine says of a job that was lost.
    """
    status = look(cell, claimed=True)
    if status.state is RunState.DONE:
        return status
    recorded = status.run.record if status.run else None
    own = logs.of_attempt(recorded, began)
    # By the record, not by the log, in which an engine may have noted that the run was killed.
    failed = own and status.run is not None and status.run.status == "failed"
    if exit_status == os.EX_TEMPFAIL:
        if lock.held(cell.folder / lock.FILE):
            return Status(RunState.RUNNING, run=status.run)
        # A full disk may have taken neither the record nor a word in the log.
        reason = lost or (status.reason if own else "") or complaint() or "it is to be resumed"
        state = RunState.FAILED if failed else RunState.UNFINISHED
        return Status(state, reason, status.run, lost=True)
    if failed:
        return status
    if exit_status is None or exit_status < 0 or lost:
        signaled = killed_text(-exit_status) if exit_status and exit_status < 0 else "its worker was lost"
        return Status(RunState.FAILED, lost or signaled, status.run, lost=True)
    reason = complaint() or f"it ended with status {exit_status} and without a word"
    # A run that has ended well has written so: another machine's file may only be seen a minute later.
    return Status(RunState.FAILED, reason, status.run, lost=exit_status == 0)


def signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Sends a signal to a process that leads a group, and to all that it has started."""
    with suppress(ProcessLookupError, PermissionError):  # the group is gone
        os.killpg(process.pid, number)


def killed_text(number: int) -> str:
    """``killed by signal 9 (out of memory?)``: how a process ended, with the usual cause."""
    guess = " (out of memory?)" if number == signal.SIGKILL else f" ({signal.strsignal(number)})"
    return f"killed by signal {number}{guess}"
