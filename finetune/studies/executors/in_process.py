"""Executes runs in this process, one after the other: ``classify``, ``translate`` and ``run``."""

from collections.abc import Mapping, Sequence

from finetune.errors import UserError
from finetune.studies.executors.base import Called, Executor, Job
from finetune.studies.grid import Cell
from finetune.studies.preflight import Prepared
from finetune.studies.state import RunState, Status, look
from finetune.system import world
from finetune.system.text import say
from finetune.training import run as training


class InProcess(Executor):
    """A submitted cell has ended when ``submit`` returns; a Ctrl-C stops it where it is.

    ``exit_status`` is the highest of the runs so far: 1 for a failure, 2 for a user's mistake.
    """

    capacity = 1

    def __init__(self, prepared: Prepared, command: str) -> None:
        """``command`` is what was typed, for the records."""
        self.prepared, self.command = prepared, command
        self.exit_status = 0

    def submit(self, cells: Sequence[Cell], after: Mapping[Cell, Job]) -> list[Job | Status]:
        return [self._make(cell) for cell in cells]

    def _make(self, cell: Cell) -> Status:
        cells: Sequence[Cell] = self.prepared.cells
        place = f"[{cells.index(cell) + 1}/{len(cells)}]"
        status = world.from_main(lambda: look(cell, thorough=True))
        if status.state is RunState.OTHER:  # since the first run: ``prepare`` refuses it before
            raise UserError(status.reason)
        if status.state is RunState.DONE:
            world.first(lambda: training.mend(cell.folder))
            became = "finished already" if status.run and status.run.finished else "failed, and is spent"
            say(f"{place} {cell.folder}: {became}, skipped")
            return status
        spec = training.RunSpec(
            cell.config, cell.folder, cell.output, place, self.command, diagnose=cell.diagnose
        )
        exit_status = training.run(spec, self.prepared.loaded)
        status = world.from_main(lambda: look(cell))
        if status.state is not RunState.DONE:  # a trial is done with also where it has failed
            self.exit_status = max(self.exit_status, exit_status)
        return status

    def watch(self) -> list[tuple[Job, Status]]:
        return []

    def cancel(self) -> None:
        """Nothing: no run goes on beside the caller."""

    def call(self, words: Sequence[str]) -> Called:
        raise NotImplementedError("what is here can be seen without a call")
