"""Shows a running study: a live table on a terminal, one line a run elsewhere; and a grid that runs here."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from finetune.studies.estimate import Costs, rest_text
from finetune.studies.executors.base import Job
from finetune.studies.file import Study
from finetune.studies.grid import Cell
from finetune.studies.schedule import Board
from finetune.studies.state import RunState, Status
from finetune.system.durations import duration
from finetune.system.live import REFRESH_S, Foot, is_terminal
from finetune.system.text import clean, is_quiet

KEEPS = "Ctrl-C keeps what is done"
COLUMNS = {"done": "green", "running": "cyan", "failed": "red", "left": ""}


class Tally:
    """Counts what was done before, what has ended since, and how long the rest of a study will take."""

    def __init__(
        self,
        study: Study,
        before: Mapping[Cell, Status],
        costs: Costs,
        workers: int,
        waiting: Sequence[Cell] | None = None,
    ) -> None:
        """``waiting``: what is to be run; ``None``: all that is not done."""
        self.study, self.costs, self.workers = study, costs, workers
        self.statuses = dict(before)
        left = [cell for cell in study.cells if before[cell].state is not RunState.DONE]
        self.waiting = left if waiting is None else list(waiting)
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
            if status.run and not status.run.finished:
                outcome = clean(f"failed, and is spent: {status.reason}")
            elif cell.config.trial:
                outcome = f"a trial, on validation rows: {outcome}"
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
        title = f"study {tally.study.name}: {elapsed} so far, {tally.rest(jobs)} left; {KEEPS}"
        grids = Table("grid", *COLUMNS, box=None, pad_edge=False)
        for grid in dict.fromkeys(cell.grid for cell in tally.study.cells):
            count = tally.counts(grid, jobs)
            shown = [Text(str(count[name] or "-"), style, justify="right") for name, style in COLUMNS.items()]
            grids.add_row(Text(grid), *shown)
        workers = Table("worker", "run", "for", "last", box=None, pad_edge=False)
        for job in sorted(jobs, key=lambda job: (len(job.worker), job.worker)):
            spent = duration(job.seconds())
            last = Text(clean(job.last_line()), "dim", no_wrap=True, overflow="ellipsis")
            run = Text(tally.name(job.cell), overflow="ellipsis", no_wrap=True)
            workers.add_row(job.worker, run, spent, last)
        return Group(Text(title, "bold"), grids, workers)


@contextmanager
def board(tally: Tally) -> Iterator[Board]:
    """The live table where standard output is a terminal, plain lines elsewhere."""
    console = Console(highlight=False, quiet=is_quiet())
    if not is_terminal(console):
        yield Lines(tally, console)
        return
    # Transient: what stays on the screen are the lines of the runs, also after a Ctrl-C.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield LiveTable(tally, console, live)


class OneByOne:
    """A line of how far a grid is whose runs are made in this process, one after the other."""

    def __init__(self, foot: Foot, statuses: Mapping[Cell, Status]) -> None:
        """``statuses``: of every cell, from before the first run."""
        self.foot = foot
        self.before = {cell for cell, status in statuses.items() if status.state is RunState.DONE}
        self.count = len(statuses)
        self.waiting, self.failed = self.count - len(self.before), 0
        self.took: list[float] = []  # seconds of each run that has ended
        self.since = time.monotonic()
        if self.count > 1:
            foot.lines["grid"] = self.parts

    def parts(self) -> list[str]:
        """``1 of 6 runs done``, ``about 12 min left``."""
        done = self.count - self.waiting - self.failed
        left = self.left()
        shown = [f"{done} of {self.count} runs done", f"{self.failed} failed" if self.failed else ""]
        shown += ["" if left is None else f"about {duration(left)} left", KEEPS]
        return [part for part in shown if part]

    def left(self) -> float | None:
        """Seconds that the run that goes on and those after it take, as those so far."""
        now, of_run = time.monotonic() - self.since, self.foot.left_s
        if not self.waiting or (not self.took and of_run is None):
            return None
        each = fmean(self.took) if self.took else now + (of_run or 0.0)
        rest = max(0.0, each - now) if of_run is None else of_run
        return rest + (self.waiting - 1) * each

    def ended(self, cell: Cell, status: Status, seconds: float) -> None:
        self.foot.lines.pop("run", None)
        self.foot.left_s = None
        if cell not in self.before:
            self.took.append(time.monotonic() - self.since)
            self.waiting -= 1
            self.failed += status.state is not RunState.DONE
        self.since = time.monotonic()

    def started(self, job: Job) -> None:
        """Nothing: ``ended`` tells when the next one begins."""

    def lost(self, cell: Cell, status: Status, attempt: int) -> None:
        """Nothing: no run here outlives its process."""

    def refresh(self, jobs: Sequence[Job]) -> None:
        self.foot.draw()
