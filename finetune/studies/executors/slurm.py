"""Executes runs as jobs of Slurm, which go on when the study's process ends; ``squeue`` says which still do.

By ``sbatch`` itself, not by submitit (1.5.4): that knows how a job stands from ``sacct`` alone, which needs
accounting, and the jobs of a process that dies while it submits find nothing to execute.
"""

import math
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from finetune.errors import UserError, shown
from finetune.records.store import now
from finetune.studies import cell_file, logs
from finetune.studies.executors import slurm_batch as batch
from finetune.studies.executors import slurm_commands as slurm
from finetune.studies.executors.base import (
    STRICT,
    Called,
    Duration,
    Engine,
    Executor,
    Job,
    Options,
    log_of,
    status_after,
)
from finetune.studies.executors.slurm_commands import CommandError, Entry, Key
from finetune.studies.executors.turn import turn
from finetune.studies.file import JOBS, Study
from finetune.studies.grid import Cell
from finetune.studies.state import TO_RUN, RunState, Status, look
from finetune.system import durations
from finetune.system.files import write_text

TICK_S = 0.5  # seconds between two returns of ``watch``
PATIENCE_S = 900  # seconds without an answer of the controller, which may be restarted meanwhile
LOOKS = 2  # after which a job that has ended without a record is believed: files of other machines come late
CALL_S = 10  # seconds between two looks at a command that is waited for, and for what it printed to be there
COMPLETING = "COMPLETING"  # the state of a job whose processes are told to end, or have
OF_ITSELF = ("COMPLETED", "FAILED")  # how a job ends that Slurm has not ended
GRACE_S = 90  # seconds that a cancelled job may take to end: Slurm's KillWait is 30


def _text(value: Any) -> Any:
    return str(value) if type(value) is int else value  # an account may be 1234


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _word(text: str) -> str:
    if not re.fullmatch(r"[^\s-]\S{0,199}", text):
        raise ValueError(f"a word without blanks or dashes before it, such as gpu, not {shown(text)}")
    return text


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,6}[MGT]", text):
        raise ValueError(f"a whole number with its unit, such as 64G, not {shown(text)}")
    return text


Positive = Annotated[int, Field(ge=1, le=10**6)]
Word = Annotated[str, BeforeValidator(_text), AfterValidator(_word)]
Memory = Annotated[str, BeforeValidator(_text), AfterValidator(_size)]


@checked_dataclass(frozen=True, config=STRICT)
class SlurmOptions(Options):
    """What a run asks Slurm for; what is left out, the cluster decides."""

    partition: Word | None = None  # one, or several with commas
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None  # features of a node, such as a100
    gpus: Positive | None = None  # of a run, on all of its nodes together: a process for each
    nodes: Positive = 1  # of a run
    cpus: Positive | None = None  # of each process of a run
    memory: Memory | None = None  # of a node: 64G
    time: Duration | None = None  # of a job; a run that needs more goes on in the next one
    save_before: Duration = "2min"  # before the end of that time, a run saves what it has and ends
    most_at_a_time: Positive | None = None  # runs of an array; it goes on without the study's process
    most_in_queue: Positive | None = None  # runs that are submitted at a time, where a cluster limits them
    setup: Annotated[
        tuple[str, ...], BeforeValidator(_several)
    ] = ()  # lines of shell before a run, such as module load cuda
    sbatch: Annotated[
        tuple[Word, ...], BeforeValidator(_several)
    ] = ()  # further options of sbatch, without the dashes: exclude=node7
    poll: Duration = "10s"  # between two questions to squeue, one for all jobs

    def __post_init__(self) -> None:
        if self.gpus is not None and self.gpus % self.nodes:
            raise UserError(f"slurm.gpus {self.gpus} must be a multiple of slurm.nodes {self.nodes}")
        if self.time and durations.seconds(self.time) <= durations.seconds(self.save_before):
            raise UserError(
                f"slurm.time {self.time} must be longer than slurm.save_before {self.save_before}"
            )

    def processes(self) -> int:
        return self.gpus or self.nodes

    def processes_of_a_node(self) -> int:
        return self.processes() // self.nodes

    def how_to_ask_for_a_gpu(self) -> str:
        return "" if self.gpus else "--slurm.gpus 1"

    def words(self) -> list[str]:
        """The options of ``sbatch`` for one run."""
        on_a_node = self.processes_of_a_node()
        asked = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "nodes": self.nodes,
            "ntasks-per-node": on_a_node,
            # All GPUs of a node are seen by each of its processes, which takes the one of its local rank.
            "gres": self.gpus and f"gpu:{on_a_node}",
            "cpus-per-task": self.cpus,
            "mem": self.memory,
            "time": self.time and math.ceil(durations.seconds(self.time) / 60),  # minutes
        }
        chosen = [f"--{name}={value}" for name, value in asked.items() if value]
        return chosen + [f"--{option}" for option in self.sbatch]


@dataclass(frozen=True, eq=False)
class SlurmJob(Job):
    """An element of a job array; ``worker`` is its number, 12_0."""

    key: Key
    attempt: logs.Attempt
    seen: Mapping[Key, Entry]  # the last answer of ``squeue``

    @property
    def entry(self) -> Entry | None:
        """What Slurm says of it; None where it knows it no more."""
        return self.seen.get(self.key)

    def seconds(self) -> float:
        return self.entry.running_s if self.entry is not None else super().seconds()

    def last_line(self) -> str:
        if self.entry is not None and self.entry.state == "PENDING":
            return f"waits in the queue ({self.entry.reason})"
        return self.attempt.last_line()


class Slurm(Executor):
    """Jobs of Slurm, whose commands are asked only once something is submitted, attached or called."""

    chains, outlives = True, True

    def __init__(
        self,
        study: Study,
        options: SlurmOptions,
        execute: Callable[[Cell], list[str]] = cell_file.command,
    ) -> None:
        self.study, self.options, self.execute = study, options, execute
        self.capacity = options.most_in_queue or max(1, len(study.cells))
        self.poll_s = durations.seconds(options.poll)
        self.timeout_s = durations.seconds(options.timeout) if options.timeout else math.inf
        self.jobs: list[SlurmJob] = []
        self.seen: dict[Key, Entry] = {}
        self.looks: Counter[SlurmJob] = Counter()  # since a job was first seen to have ended
        self.hung: set[SlurmJob] = set()
        self.next_look = 0.0
        self.silent_since: float | None = None  # the controller

    def submit(self, cells: Sequence[Cell], after: Mapping[Cell, Job]) -> list[Job | Status]:
        with turn(self.study.root) as held:
            self._ask_until_answered()
            # Another process of the study may have submitted some since they were planned.
            started: dict[Cell, Job | Status] = {**self._left(cells)}
            arrays: dict[str, list[Cell]] = {}  # what the jobs of an array wait for -> their cells
            for cell in cells:
                status = look(cell)
                if cell in started:
                    continue
                if status.state not in TO_RUN:
                    started[cell] = status
                elif (condition := _condition(after.get(cell))) is None:
                    started[cell] = self._job(cell, "", ("", 0), logs.Attempt(log_of(cell), 0, now()))
                else:
                    arrays.setdefault(condition, []).append(cell)
            for condition, group in arrays.items():
                started |= self._submit_arrays(group, condition, held)
        jobs = [job for job in started.values() if isinstance(job, SlurmJob)]
        self.jobs += jobs
        return [started[cell] for cell in cells]

    def watch(self) -> list[tuple[Job, Status]]:
        time.sleep(TICK_S)
        if time.monotonic() < self.next_look or not self.jobs or not self._ask():
            return []
        ended: list[tuple[Job, Status]] = []
        for job in list(self.jobs):
            if job.entry is not None and job.entry.goes_on and not _is_tidied_up(job):
                self.looks[job] = 0  # one that has ended may have been put back into the queue
                if job.entry.running_s > self.timeout_s:
                    self.hung.add(job)
                    with suppress(CommandError):  # said again at the next look
                        slurm.cancel([job.entry.job])
                continue
            self.looks[job] += 1
            status = self._status(job)
            if status.state is RunState.DONE or self.looks[job] > LOOKS:
                self.jobs.remove(job)
                if status.state is RunState.FAILED:
                    logs.judge(job.attempt, status.reason)
                ended.append((job, status))
        return ended

    def cancel(self) -> None:
        """Ends the jobs of this study alone; a run that goes on has a while to save what it has.

        Another process that watches them learns from the mark that they are not lost.
        """
        for name in {job.key[0] for job in self.jobs if job.worker}:
            batch.file_of(self.study.root, name, "cancelled").touch()
        end, why = time.monotonic() + GRACE_S, ""
        while left := [job.entry for job in self.jobs if job.entry is not None and job.entry.goes_on]:
            # The cluster's own tidying may take longer, and ends by itself.
            going = [entry.job for entry in left if entry.state != COMPLETING]
            if time.monotonic() > end and not going:
                break
            if time.monotonic() > end:
                many = f"{len(going)} jobs go on {GRACE_S} s after scancel, the first is {going[0]}"
                raise UserError(many + why)
            try:
                slurm.cancel(going)
                why = ""
            except CommandError as error:
                why = f" ({error})"
            time.sleep(TICK_S)
            if not self._ask():  # nobody is there to end them
                end = time.monotonic() + GRACE_S
        self.jobs.clear()

    def attach(self, cells: Sequence[Cell]) -> list[Job]:
        if not batch.kept(self.study.root):
            return []
        with turn(self.study.root):
            self._ask_until_answered()
            self.jobs = list(self._left(cells).values())
        return list(self.jobs)

    def call(self, words: Sequence[str]) -> Called:
        """Runs a command in a job as those of the runs, once, and waits for it, in the queue too."""
        name = batch.new_name("call")
        file, out = (batch.file_of(self.study.root, name, ending) for ending in ("sh", "out"))
        write_text(file, [batch.script_of_call(words, self.options.setup)])
        job = _number(slurm.ask([*self._sbatch(name, 1), str(file)]))
        try:
            while not self._ask() or ((entry := self.seen.get((name, 0))) is not None and entry.goes_on):
                time.sleep(min(self.poll_s, CALL_S))
        except BaseException:
            with suppress(CommandError):  # the reason to leave is worth more
                slurm.cancel([job])
            raise
        file.unlink(missing_ok=True)
        entry = entry or slurm.accounted(f"{job}_0")
        if entry is None or entry.exit_status is None or entry.state not in OF_ITSELF:
            how = "is gone" if entry is None else f"ended as {entry.state}"
            raise UserError(f"job {job}, which was to run {words[0]} on a worker, {how}")
        end = time.monotonic() + CALL_S
        while not out.is_file():
            if time.monotonic() > end:
                raise UserError(
                    f"job {job} ran on {entry.node} and left nothing in {out.parent}: the folder of the runs "
                    "must be on a file system that the workers share (--output)"
                )
            time.sleep(TICK_S)
        output = out.read_text(encoding="utf-8", errors="replace")
        out.unlink()
        return Called(entry.exit_status, output)

    def _left(self, cells: Sequence[Cell]) -> dict[Cell, SlurmJob]:
        """The jobs of cells that go on, by whatever process they were submitted."""
        named = {cell.name: cell for cell in cells}
        jobs = {}
        for each in batch.kept(self.study.root):
            for name, key in each.keys().items():
                entry = self.seen.get(key)
                if name in named and entry is not None and entry.goes_on:
                    jobs[named[name]] = self._job(named[name], entry.job, key, each.attempt(named[name]))
                    if each.job is None:  # its process ended before it could write that down
                        batch.keep(self.study.root, replace(each, job=entry.job.partition("_")[0]))
        return jobs

    def _submit_arrays(self, cells: Sequence[Cell], condition: str, held: int) -> dict[Cell, Job | Status]:
        """Submits cells in arrays as long as the cluster takes them."""
        started: dict[Cell, Job | Status] = {}
        while not self._answers(slurm.largest_array):
            time.sleep(TICK_S)
        most, before = slurm.largest_array(), ""
        for first in range(0, len(cells), most):
            jobs = self._submit_array(cells[first : first + most], [condition, before], held)
            started |= jobs
            numbers = {job.worker.partition("_")[0] for job in jobs.values() if isinstance(job, Job)}
            if self.options.most_at_a_time and numbers:  # each array has a limit of its own
                before = f"afterany:{numbers.pop()}"
        return started

    def _submit_array(
        self, cells: Sequence[Cell], conditions: Sequence[str], held: int
    ) -> dict[Cell, Job | Status]:
        """Submits one array, of those cells whose log no process holds."""
        commands = {cell: self.execute(cell) for cell in cells}
        attempts = {cell: logs.begin(log_of(cell), commands[cell]) for cell in cells}
        free = {cell: attempt for cell, attempt in attempts.items() if attempt is not None}
        busy: dict[Cell, Job | Status] = dict.fromkeys(set(cells) - set(free), Status(RunState.RUNNING))
        if not free:
            return busy
        name = batch.new_name(self.study.name)
        starts = tuple(attempt.start for attempt in free.values())
        made = batch.Batch(name, tuple(cell.name for cell in free), starts, now())
        file = batch.file_of(self.study.root, name, "sh")
        write_text(file, [batch.script(list(free), commands, self.options.setup)])
        batch.keep(self.study.root, made)
        words = self._sbatch(name, len(free))
        dependency = ",".join(filter(None, conditions))
        words += [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"] if dependency else []
        try:
            number = _number(slurm.ask([*words, str(file)], held))
        except CommandError:
            self._ask_until_answered()  # has the controller taken it, and only not said so?
            taken = [entry.job for (of, _), entry in self.seen.items() if of == name]
            if not taken:  # yet: what is kept of it lets a later process know it, should it be taken late
                raise
            number = taken[0].partition("_")[0]
        batch.keep(self.study.root, replace(made, job=number))
        self.seen |= {(name, index): Entry(f"{number}_{index}", "PENDING") for index in range(len(free))}
        return busy | {
            cell: self._job(cell, f"{number}_{index}", (name, index), attempt)
            for index, (cell, attempt) in enumerate(free.items())
        }

    def _sbatch(self, name: str, jobs: int) -> list[str]:
        """The command that submits an array, but for the file of its script."""
        most = self.options.most_at_a_time
        return [
            "sbatch",
            "--parsable",
            f"--job-name={name}",
            f"--array=0-{jobs - 1}" + (f"%{most}" if most else ""),
            "--requeue",
            "--open-mode=append",
            f"--output={os.path.abspath(batch.file_of(self.study.root, name, 'out'))}",
            f"--chdir={os.getcwd()}",
            f"--signal=B:USR1@{durations.seconds(self.options.save_before)}",
            *self.options.words(),
        ]

    def _job(self, cell: Cell, number: str, key: Key, attempt: logs.Attempt) -> SlurmJob:
        return SlurmJob(cell, number, key, attempt, self.seen)

    def _status(self, job: SlurmJob) -> Status:
        """The status of a cell whose job does not go on."""
        if batch.file_of(self.study.root, job.key[0], "cancelled").exists():
            status = look(job.cell)
            return (
                status if status.state is RunState.DONE else Status(RunState.UNFINISHED, "it was cancelled")
            )
        entry = job.entry or (slurm.accounted(job.worker) if job.worker else None)
        lost = ""
        if job in self.hung:
            lost = f"it was still running after {self.timeout_s:.0f} s"
        elif not job.worker:
            lost = "the job that it was to wait for had ended"
        elif entry is None:
            lost = f"job {job.worker} is gone, and Slurm does not know how it ended"
        elif entry.exit_status == batch.SRUN_FAILED:
            lost = (
                f"srun could not run it in job {job.worker}: see {job.key[0]}.out in {self.study.root / JOBS}"
            )
        elif entry.state not in OF_ITSELF:
            lost = f"Slurm ended its job {job.worker} on {entry.node or 'no node'}: {entry.state}"
        return status_after(
            job.cell,
            entry.exit_status if entry else None,
            began=job.attempt.began,
            complaint=job.attempt.complaint,
            lost=lost,
        )

    def _ask(self) -> bool:
        """Looks into the queue, and returns whether ``squeue`` has answered (``_answers``)."""
        self.next_look = time.monotonic() + self.poll_s
        return self._answers(lambda: self._see(slurm.listing(batch.owners(self.study.root))))

    def _ask_until_answered(self) -> None:
        while not self._ask():
            time.sleep(TICK_S)

    def _answers(self, ask: Callable[[], object]) -> bool:
        """Whether Slurm has answered; raises once it has not for too long."""
        try:
            ask()
        except CommandError as error:
            self.silent_since = self.silent_since or time.monotonic()
            if time.monotonic() - self.silent_since > PATIENCE_S:
                raise UserError(f"{error}; jobs go on, and the same command later shows them") from error
            return False
        self.silent_since = None
        return True

    def _see(self, entries: Mapping[Key, Entry]) -> None:
        self.seen.clear()
        self.seen.update(entries)


def _condition(job: Job | None) -> str | None:
    """What a job must wait for of the one that its run begins from; None where that can never be."""
    if job is None or look(job.cell).state is RunState.DONE:
        return ""
    assert isinstance(job, SlurmJob)
    return f"afterok:{job.entry.job}" if job.entry is not None and job.entry.goes_on else None


def _is_tidied_up(job: SlurmJob) -> bool:
    """Whether nothing but the cluster's own tidying goes on, which may take minutes."""
    completing = job.entry is not None and job.entry.state == COMPLETING
    return completing and look(job.cell).state is RunState.DONE


def _number(printed: str) -> str:
    return printed.strip().partition(";")[0]  # 12;cluster


def _make(study: Study, options: SlurmOptions, workers: int) -> Slurm:
    if shutil.which("sbatch") is None:
        raise UserError("no Slurm here: start the study where the command sbatch is, such as a login node")
    return Slurm(study, options)


ENGINE = Engine("slurm", "jobs of a Slurm cluster", SlurmOptions, _make)
