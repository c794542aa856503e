"""Shows a running study: a live table on a terminal, one line a run elsewhere."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from finetune.studies.estimate import Costs, duration, rest_text
from finetune.studies.executors.base import Job
from finetune.studies.file import Study
from finetune.studies.grid import Cell
from finetune.studies.logs import brief
from finetune.studies.schedule import Board
from finetune.studies.state import RunState, Status
from finetune.system.text import clean, is_quiet

REFRESH_S = 0.5  # seconds between two pictures of the table
COLUMNS = {"done": "green", "running": "cyan", "failed": "red", "left": ""}


class Tally:
    """Counts what was done before, what has ended since, and how long the rest of a study will take."""

    def __init__(self, study: Study, before: Mapping[Cell, Status], costs: Costs, workers: int) -> None:
        self.study, self.costs, self.workers = study, costs, workers
        self.statuses = dict(before)
        self.waiting = [cell for cell in study.cells if before[cell].state is not RunState.DONE]
        self.planned, self.ended = len(self.waiting), 0
        self.began = time.monotonic()

    def end(self, cell: Cell, status: Status) -> None:
        """Counts a cell that needs no worker any more."""
        self.statuses[cell] = status
        self.waiting.remove(cell)
        self.ended += 1
        if status.state is RunState.DONE:
            self.costs.add(cell, status.run)

    def rest(self, jobs: Sequence[Job]) -> str:
        """``about 12 min``, for what waits and what the running ones still need."""
        spent = {job.cell: job.seconds() for job in jobs}
        expected = [(cell, self.costs.expected(cell)) for cell in self.waiting]
        return rest_text(
            [None if s is None else max(0.0, s - spent.get(cell, 0.0)) for cell, s in expected], self.workers
        )

    def counts(self, grid: str, jobs: Sequence[Job]) -> Counter[str]:
        """How many runs of a grid are done, running, failed and left."""
        running, waiting = {job.cell for job in jobs}, set(self.waiting)
        count: Counter[str] = Counter()
        for cell in self.study.cells:
            if cell.grid == grid:
                state = self.statuses[cell].state
                ended = state in (RunState.DONE, RunState.FAILED) and cell not in waiting
                settled = state.value if ended else "left"
                count["running" if cell in running else settled] += 1
        return count

    def name(self, cell: Cell) -> str:
        return cell.folder.relative_to(self.study.root).as_posix()


class Lines:
    """Plain lines, for a log file or a job of a cluster."""

    def __init__(self, tally: Tally, console: Console) -> None:
        self.tally, self.console = tally, console
        self.jobs: list[Job] = []

    def started(self, job: Job) -> None:
        self.jobs.append(job)
        self.say(f"start {self.tally.name(job.cell)}")

    def ended(self, cell: Cell, status: Status, seconds: float) -> None:
        self.jobs = [job for job in self.jobs if job.cell is not cell]
        self.tally.end(cell, status)
        if status.state is RunState.DONE:
            by = duration(seconds) if seconds else "by another process"
            score = status.run.score_text if status.run else None
            outcome = f"{score or 'finished'}, {by}"
        elif status.state is RunState.FAILED:
            outcome = clean(f"FAILED: {status.reason}")
        elif status.state is RunState.UNFINISHED:
            outcome = clean(f"UNFINISHED: {status.reason}")
        else:
            outcome = clean(f"left alone: {status.reason or 'another process is at it'}")
        place = f"[{self.tally.ended}/{self.tally.planned}] {self.tally.name(cell)}"
        left = len(self.tally.waiting)
        rest = f"; {left} left, {self.tally.rest(self.jobs)}" if left else ""
        self.say(f"{place}: {outcome}{rest}", "red" if status.state is RunState.FAILED else "")

    def lost(self, cell: Cell, status: Status, attempt: int) -> None:
        self.jobs = [job for job in self.jobs if job.cell is not cell]
        self.say(clean(f"lost {self.tally.name(cell)}: {status.reason}; tried again ({attempt})"))

    def refresh(self, jobs: Sequence[Job]) -> None:
        """Nothing: lines report what has happened, not what is going on."""

    def say(self, line: str, style: str = "") -> None:
        self.console.print(Text(line, style), soft_wrap=True)


class LiveTable(Lines):
    """A table that stays below the lines of the runs that have ended."""

    def __init__(self, tally: Tally, console: Console, live: Live) -> None:
        super().__init__(tally, console)
        self.live, self.drawn = live, 0.0

    def started(self, job: Job) -> None:
        self.jobs.append(job)  # the table shows it

    def refresh(self, jobs: Sequence[Job]) -> None:
        if time.monotonic() - self.drawn >= REFRESH_S:
            self.drawn = time.monotonic()
            self.live.update(self.picture(jobs), refresh=True)

    def picture(self, jobs: Sequence[Job]) -> Group:
        """Title, one row a grid, one row a worker."""
        tally = self.tally
        elapsed = duration(time.monotonic() - tally.began)
        title = (
            f"study {tally.study.name}: {elapsed} so far, {tally.rest(jobs)} to go; Ctrl-C keeps what is done"
        )
        grids = Table("grid", *COLUMNS, box=None, pad_edge=False)
        for grid in dict.fromkeys(cell.grid for cell in tally.study.cells):
            count = tally.counts(grid, jobs)
            shown = [Text(str(count[name] or "-"), style, justify="right") for name, style in COLUMNS.items()]
            grids.add_row(Text(grid), *shown)
        workers = Table("worker", "run", "for", "last", box=None, pad_edge=False)
        for job in sorted(jobs, key=lambda job: (len(job.worker), job.worker)):
            spent = duration(job.seconds())
            last = Text(clean(brief(job.last_line())), "dim", no_wrap=True, overflow="ellipsis")
            run = Text(tally.name(job.cell), overflow="ellipsis", no_wrap=True)
            workers.add_row(job.worker, run, spent, last)
        return Group(Text(title, "bold"), grids, workers)


@contextmanager
def board(tally: Tally) -> Iterator[Board]:
    """The live table where standard output is a terminal, plain lines elsewhere."""
    console = Console(highlight=False, quiet=is_quiet())
    if is_quiet() or not console.is_terminal:
        yield Lines(tally, console)
        return
    # Transient: what stays on the screen are the lines of the runs, also after a Ctrl-C.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield LiveTable(tally, console, live)
