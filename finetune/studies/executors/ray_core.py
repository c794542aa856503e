"""Executes runs on a Ray cluster: an actor for each, which goes on when the study's process ends.

Not a task, which Ray ends with the process that asked for it. An actor holds one process (``leash``, and
under it the run), takes the devices of the run as long as it lasts, and is known again by its name. Ray
starts none of them twice: ``schedule.run`` does, from the checkpoint.
"""

import json
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from finetune.errors import UserError
from finetune.records.store import now
from finetune.studies import cell_file, logs
from finetune.studies.executors import ray_cluster
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
from finetune.studies.executors.leash import Leash, Outcome
from finetune.studies.executors.ray_worker import Told
from finetune.studies.executors.turn import turn
from finetune.studies.file import MOST_WORKERS, Study
from finetune.studies.grid import Cell
from finetune.studies.state import TO_RUN, RunState, Status, look
from finetune.system import durations, lock
from finetune.system.processes import distributed, python_module

SEPARATOR = ": "  # of the parts of an actor's name: the study's folder, the run, when it was submitted
PAUSE_S = 0.2  # seconds between two looks at jobs that are ending
LOCKS_S = 120  # seconds after which a file server lets go of the locks of a machine that is gone (NFS: 90)
PASSED_ON = ("FINETUNE_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "WANDB_", "OMP_", "PYTHONPATH")
"""What the names of variables begin with that a run gets from the study's process."""


@checked_dataclass(frozen=True, config=STRICT)
class RayOptions(Options):
    """Where the cluster is, and what each run takes of it."""

    address: Annotated[str, Field(min_length=1)] = "auto"  # or host:port; ray://host:port from outside
    gpus: Annotated[float, Field(ge=0, le=1024)] = 1.0  # of a run, a process each; a part lets runs share one
    cpus: Annotated[float, Field(ge=0, le=4096)] = 1.0  # of a run
    memory: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,6}[MGT]$")] | None = None  # of a run: 64G
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)  # the cluster's own
    most_at_a_time: Annotated[int, Field(ge=1, le=MOST_WORKERS)] = MOST_WORKERS  # runs, waiting ones too
    env: dict[str, str | int | float] = Field(default_factory=dict)  # variables of a run
    grace: Duration = "2min"  # that a run has to end when it must: its step, an evaluation due, a checkpoint
    autoscaling: bool = False  # nodes are started as runs ask for them: do not miss what is not there yet

    def __post_init__(self) -> None:
        if self.gpus > 1 and self.gpus % 1:
            raise UserError(f"ray.gpus must be a whole number, or a part of one GPU, not {self.gpus:g}")

    def wants(self) -> dict[str, float]:
        """What a run takes, by Ray's names."""
        wants = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        if self.memory:
            wants["memory"] = int(self.memory[:-1]) * 1024 ** ("MGT".index(self.memory[-1]) + 2)
        return {name: amount for name, amount in wants.items() if amount}

    def processes(self) -> int:
        return max(1, int(self.gpus))

    def environment(self) -> dict[str, str]:
        """Variables of a run, besides those that Ray and its node set."""
        own = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        # Ray's own number is that of all processes together.
        threads = {"OMP_NUM_THREADS": str(max(1, int(self.cpus) // self.processes()))}
        hidden = {} if self.gpus else {"CUDA_VISIBLE_DEVICES": ""}
        return {**threads, **own, **hidden, **{name: str(value) for name, value in self.env.items()}}


@dataclass(frozen=True, eq=False)
class Actor(Job):
    """A run that is kept by an actor."""

    handle: Any
    name: str
    attempt: logs.Attempt

    def last_line(self) -> str:
        return self.attempt.last_line() or "waits for room in the cluster"


class RayCore(Executor):
    """The actors of a study: known by its folder and the names of its runs."""

    outlives = True

    def __init__(
        self, root: Path, options: RayOptions, execute: Callable[[Cell], list[str]] = cell_file.command
    ) -> None:
        self.root, self.options, self.execute = root.absolute(), options, execute
        self.capacity = options.most_at_a_time
        self.cluster = ray_cluster.Cluster(options.address)
        self.told: dict[Actor, Any] = {}  # what each will tell, as Ray's reference
        self.gone: dict[Actor, tuple[float, str]] = {}  # of lost ones: until when they may still end, and why
        self.over: set[str] = set()  # the names of those that have ended, which the cluster may still list
        self.submitted = False

    def submit(self, cells: Sequence[Cell], after: Mapping[Cell, Job]) -> list[Job | Status]:
        if not (self.submitted or self.over):  # later, a node that is lost may come back: runs wait for it
            self._check_room()
        with turn(self.root):
            # Another process of the study may have begun some since they were planned.
            going = self._left(cells)
            started = [going[cell] if cell in going else self._start(cell) for cell in cells]
        self.submitted = True
        return started

    def _start(self, cell: Cell) -> Job | Status:
        status = look(cell)  # again, for another study may have run it since it was planned
        if status.state not in TO_RUN:
            return status
        log = log_of(cell).absolute()
        timeout_s = None if self.options.timeout is None else durations.seconds(self.options.timeout)
        processes = self.options.processes()
        leash = Leash(
            distributed(self.execute(cell), processes),
            str(log),
            timeout_s,
            durations.seconds(self.options.grace),
            launches=processes > 1,
        )
        words = [*python_module("finetune.studies.executors.leash"), json.dumps(asdict(leash))]
        began = now()
        # Of its own each time, for an actor that ends may still have the last one.
        name = f"{self._name(cell)}{SEPARATOR}{began} {uuid.uuid4().hex[:8]}"
        handle = self.cluster.keep(name, self.options.wants(), words, self.options.environment())
        return self._listen(Actor(cell, "ray", handle, name, logs.Attempt(log, _length(log), began)))

    def attach(self, cells: Sequence[Cell]) -> list[Job]:
        return list(self._left(cells).values())

    def _left(self, cells: Sequence[Cell]) -> dict[Cell, Actor]:
        """The jobs of cells that go on, or wait for room, by whatever process they were submitted."""
        jobs = {}
        for cell, names in self._names(cells).items():
            # Of several the last: those before it are about to end.
            handles = [(name, handle) for name in names if (handle := self.cluster.find(name)) is not None]
            for name, handle in handles[-1:]:
                began = name.rpartition(SEPARATOR)[2].partition(" ")[0]
                attempt = logs.Attempt(log_of(cell).absolute(), 0, began)
                jobs[cell] = self._listen(Actor(cell, "ray", handle, name, attempt))
        return jobs

    def _names(self, cells: Sequence[Cell]) -> dict[Cell, list[str]]:
        """The names of the actors of cells, in the order in which they were submitted."""
        named = {self._name(cell): cell for cell in cells}
        own: dict[Cell, list[str]] = {}
        for name in sorted(set(self.cluster.names()) - self.over):
            if (cell := named.get(name.rpartition(SEPARATOR)[0])) is not None:
                own.setdefault(cell, []).append(name)
        return own

    def _listen(self, actor: Actor) -> Actor:
        self.told[actor] = actor.handle.outcome.remote()
        return actor

    def watch(self) -> list[tuple[Job, Status]]:
        ended: list[tuple[Job, Status]] = []
        for actor, end in self.cluster.ended(self.told):
            del self.told[actor]
            if end.unsure:
                self._listen(actor)
                continue
            self.over.add(actor.name)
            if end.told is None:
                self.gone[actor] = (time.monotonic() + self._grace_s() + LOCKS_S, end.reason)
            else:
                self.cluster.kill(actor.handle)
                ended.append((actor, _status_of(actor.cell, end.told)))
        # A run whose actor is gone is told to end, and may still write a checkpoint.
        for actor, (until, reason) in list(self.gone.items()):
            if not lock.held(actor.attempt.file) or time.monotonic() > until:
                del self.gone[actor]
                began, lost = actor.attempt.began, f"lost by Ray: {reason}"
                status = status_after(actor.cell, None, began=began, complaint=str, lost=lost)
                if status.state is RunState.FAILED:
                    logs.judge(actor.attempt, status.reason)
                ended.append((actor, status))
        if self.gone and not self.told:
            time.sleep(PAUSE_S)
        return ended

    def cancel(self) -> None:
        """Ends every run, with a checkpoint where it can, and whatever it has started."""
        actors = [*self.told, *self.gone]
        handles = [actor.handle for actor in self.told]
        if actors:  # two processes that do not see each other's locks may have submitted the same run
            others = self._names([actor.cell for actor in actors]).values()
            handles += [self.cluster.find(name) for names in others for name in names]
        for handle in filter(None, handles):
            self.cluster.kill(handle)
        end = time.monotonic() + self._grace_s() + 5
        while any(lock.held(actor.attempt.file) for actor in actors) and time.monotonic() < end:
            time.sleep(PAUSE_S)
        self.told.clear()
        self.gone.clear()

    def call(self, words: Sequence[str]) -> Called:
        self._check_room()
        host, exit_status, output = self.cluster.ask(self.options.wants(), words, self.options.environment())
        if exit_status is None:
            raise UserError(f"on the worker {host}, a command cannot start: {output}")
        return Called(exit_status, output)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, place)
        self.cluster.leave()

    def _check_room(self) -> None:
        if not self.options.autoscaling:
            self.cluster.check_room(self.options.wants())

    def _name(self, cell: Cell) -> str:
        """What the names of its actors begin with."""
        return f"{self.root}{SEPARATOR}{cell.name}"

    def _grace_s(self) -> float:
        return durations.seconds(self.options.grace)


def _status_of(cell: Cell, told: Told) -> Status:
    """The status of a cell whose leash has told its end."""
    host, _, output = told
    try:
        outcome = Outcome(**json.loads(output.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):  # the leash itself has failed: no such folder, or no program
        reason = (output.strip().splitlines() or ["it ended without a word"])[-1]
        # Another node may have what this one lacks.
        return Status(RunState.FAILED, f"it cannot start on {host}: {reason}", lost=True)
    if not outcome.began:
        return Status(RunState.RUNNING)  # by another process, which holds the log
    lost = outcome.reason if outcome.timed_out else ""
    return status_after(
        cell, outcome.exit_status, began=outcome.began, complaint=lambda: outcome.reason, lost=lost
    )


def _length(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _make(study: Study, options: RayOptions, workers: int) -> RayCore:
    return RayCore(study.root, options)


ENGINE = Engine("ray", "actors on a Ray cluster", RayOptions, _make)
