"""Run a study of many cells that meet faults, and hold it to have lost nothing and run nothing twice.

    python -m tests.faults --cells 500 --on local --workers 8

Nothing is trained: each run is a stand-in (``tests.support.dry_run``) of a fifth of a second. One in ten
meets a fault at its first attempt, and half of these another at the second: its process is killed (a child of
it lives on), with its whole group as where a node is lost, a disk is full (a real small one for root), it is
preempted, it hangs and hears SIGTERM, or hangs and hears nothing. One in fifty fails of itself. On ``ray``
and ``slurm`` a real node is lost besides, of the cluster that the tests start.

Then each cell must be done, but for those that fail of themselves; every attempt that was lost must have been
followed by one more and by no other; what has failed of itself or finished must not have been begun again;
and a run that was preempted must have gone on from where it was.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.studies.executors.base import Executor, Job
from finetune.studies.executors.local import Local
from finetune.studies.executors.ray_core import RayCore, RayOptions
from finetune.studies.executors.slurm import Slurm, SlurmOptions
from finetune.studies.file import Study
from finetune.studies.grid import Cell
from finetune.studies.schedule import run
from finetune.studies.state import RunState, Status, look
from tests.support.disks import small_disk
from tests.support.studies import TINY, keep, study_of

HANGS = ("hung", "deaf")
LOST = ("killed", "node", "full", "preempted", *HANGS)
OWN = ("fails", "mistake")
RETRIES, TIMEOUT_S, GRACE_S = 2, 10, 1
Execute = Callable[[Cell], list[str]]
Make = Callable[[Study, Execute], Executor]


class Board:
    """Counts what is lost, and calls ``when_ended`` with the number of cells that have ended."""

    def __init__(self, when_ended: Callable[[int], None]) -> None:
        self.attempts: Counter[str] = Counter()
        self.said: defaultdict[str, list[str]] = defaultdict(list)
        self.ended_so_far, self.when_ended = 0, when_ended

    def started(self, job: Job) -> None:
        """Nothing: the runs tell it themselves."""

    def ended(self, cell: Cell, status: Status, seconds: float) -> None:
        self.ended_so_far += 1
        self.said[cell.name].append(f"{status.state}: {status.reason}")
        self.when_ended(self.ended_so_far)

    def lost(self, cell: Cell, status: Status, attempt: int) -> None:
        self.attempts[cell.name] += 1
        self.said[cell.name].append(f"lost: {status.reason}")

    def refresh(self, jobs: Sequence[Job]) -> None:
        """Nothing."""


class Trial:
    """A study of ``count`` cells in ``folder``, and the faults that their attempts meet."""

    def __init__(
        self, folder: Path, count: int, seed: int, disk: Path | None = None, *, children: bool = True
    ) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        grids = {"a": {**TINY, "variants": ["softmax"]}}
        self.study = study_of(folder, grids, seeds=list(range(count)))
        self.faults = self._faults()
        (folder / "events").mkdir()
        for cell in self.study.cells:
            made = replace(cell, folder=folder / "made" / cell.name)
            spec = {
                "folder": str(cell.folder),
                "record": str(keep(made)),
                "events": str(self.events(cell)),
                "faults": self.faults.get(cell.name, []),
                "seconds": 0.1,
                "disk": str(disk or ""),
                "children": children,
            }
            (made.folder / "spec.json").write_text(json.dumps(spec))

    def _faults(self) -> dict[str, list[str]]:
        """One cell in ten is lost, each kind as often, half of them twice; one in fifty fails of itself."""
        cells = list(self.study.cells)
        self.draw.shuffle(cells)
        lost, own = max(len(LOST), len(cells) // 10), max(len(OWN), len(cells) // 50)
        faults = {cell.name: [LOST[i % len(LOST)]] for i, cell in enumerate(cells[:lost])}
        for each in list(faults.values())[::2]:
            each.append(self.draw.choice([kind for kind in LOST if kind not in HANGS]))
        return faults | {cell.name: [OWN[i % len(OWN)]] for i, cell in enumerate(cells[lost : lost + own])}

    def events(self, cell: Cell) -> Path:
        return self.folder / "events" / cell.name

    def execute(self, cell: Cell) -> list[str]:
        stand_in = Path(__file__).parent / "support/dry_run.py"
        return [sys.executable, str(stand_in), str(self.folder / "made" / cell.name / "spec.json")]

    def run(
        self, make: Make, when_ended: Callable[[int], None] = lambda count: None, retries: int = RETRIES
    ) -> Board:
        """Runs what is not done, as ``finetune study`` does."""
        board = Board(when_ended)
        waiting = [cell for cell in self.study.cells if look(cell).state is not RunState.DONE]
        run(waiting, make(self.study, self.execute), board, retries=retries)
        return board

    def wrong(self, board: Board, *, exactly: bool = True) -> list[str]:
        """What is not as it must be after the first ``run``; not ``exactly`` where a node was lost too."""
        return [line for cell in self.study.cells for line in self._wrong(cell, board, exactly)]

    def _wrong(self, cell: Cell, board: Board, exactly: bool) -> Iterator[str]:
        faults = self.faults.get(cell.name, [])
        own, told = faults[-1:] and faults[-1] in OWN, self.events(cell).read_text().split("\n")
        count = Counter(told)
        status, met = look(cell), [fault for fault in faults if fault in LOST]
        if status.state is not (RunState.FAILED if own else RunState.DONE):
            yield f"{cell.name} is {status.state} ({status.reason}), after {faults}: {board.said[cell.name]}"
        if count["finish"] != (not own) and (exactly or count["finish"] > 1):
            yield f"{cell.name} has finished {count['finish']} times"
        over = told[told.index("finish") + 1 :] if "finish" in told else []
        # Slurm itself begins the jobs of a lost node again, which find the run done, or going on.
        if over.count("start") != over.count("again") or (exactly and (count["again"] or count["busy"])):
            yield f"{cell.name} was run where it was done, or was being run: {told}"
        tried, lost = count["start"], board.attempts[cell.name]
        if tried < 1 or (exactly and (tried, lost) != (1 + len(met), len(met))):
            yield f"{cell.name} was begun {tried} times, and lost {lost} times, by {met}"
        reached = 0
        for what, _, step in (line.partition(" ") for line in told):
            if what == "from" and int(step) < reached:
                yield f"{cell.name} began from {step}, where it had reached {reached}"
            reached = int(step) if what == "preempted" else reached

    def begun(self) -> dict[str, int]:
        """How often each cell has been begun."""
        cells = self.study.cells
        return {cell.name: self.events(cell).read_text().split("\n").count("start") for cell in cells}


def local(workers: int) -> Make:
    return lambda study, execute: Local([{}] * workers, execute, timeout_s=TIMEOUT_S, grace_s=GRACE_S)


@contextmanager
def on_ray(count: int) -> Iterator[tuple[Make, Callable[[int], None]]]:
    """A cluster of two nodes, of which one is lost after a third of ``count`` cells, and another comes."""
    from tests.support.ray_cluster import started

    with started("head", "second") as cluster:

        def lose(ended: int) -> None:
            if ended == count // 3:
                cluster.lose("second")
                cluster.add("third")

        options = RayOptions(
            address=cluster.address,
            gpus=0.0,
            cpus=0.5,
            grace=f"{GRACE_S}s",
            timeout=f"{TIMEOUT_S}s",
            most_at_a_time=16,
        )
        yield lambda study, execute: RayCore(study.root, options, execute), lose


@contextmanager
def on_slurm(folder: Path, count: int) -> Iterator[tuple[Make, Callable[[int], None]]]:
    """A cluster of two nodes, of which one is lost after a third of ``count`` cells, and comes back later."""
    from tests.support.slurm import running

    with running(folder / "cluster") as cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)

        def lose(ended: int) -> None:
            if ended == count // 3:
                cluster.daemons.pop("slurmd-two").kill()
                cluster.ask("scontrol", "update", "nodename=two", "state=down", "reason=lost")
            if ended == count // 2:
                cluster.start_node("two")
                cluster.ask("scontrol", "update", "nodename=two", "state=resume")

        def make(study: Study, execute: Execute) -> Slurm:
            engine = Slurm(study, SlurmOptions(timeout=f"{TIMEOUT_S}s"), execute)
            engine.poll_s = 0.5
            return engine

        yield make, lose


def summary(trial: Trial, board: Board, seconds: float) -> str:
    faults: Mapping[str, int] = Counter(fault for each in trial.faults.values() for fault in each)
    states = Counter(look(cell).state.value for cell in trial.study.cells)
    kinds = ", ".join(f"{faults[kind]} {kind}" for kind in (*LOST, *OWN))
    return (
        f"{len(trial.study.cells)} cells, {sum(trial.begun().values())} attempts in {seconds:.0f} s; faults: "
        f"{kinds}; {sum(board.attempts.values())} attempts lost and tried again; {dict(states)}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--on", choices=["local", "ray", "slurm"], default="local")
    parser.add_argument("--workers", type=int, default=8, help="of local (default 8)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        try:
            disk = stack.enter_context(small_disk(folder / "disk", 1024))
        except pytest.skip.Exception as reason:
            print(f"full disks are made up: {reason}")
            disk = None
        make, when_ended = local(options.workers), lambda count: None
        if options.on == "ray":
            make, when_ended = stack.enter_context(on_ray(options.cells))
        if options.on == "slurm":
            make, when_ended = stack.enter_context(on_slurm(folder, options.cells))
        # Without cgroups this Slurm finds no process whose parent is gone.
        trial = Trial(folder, options.cells, options.seed, disk, children=options.on != "slurm")
        began = time.monotonic()
        real = options.on != "local"  # losses, which come on top
        board = trial.run(make, when_ended, RETRIES + real)
        print(summary(trial, board, time.monotonic() - began), flush=True)
        wrong = trial.wrong(board, exactly=not real)
        begun = trial.begun()
        trial.run(make)
        again = [name for name, times in trial.begun().items() if times != begun[name]]
        own = [name for name, faults in trial.faults.items() if faults[-1] in OWN]
        if sorted(again) != sorted(own):
            wrong.append(f"the same command tried {again} again, and not {own}")
        left = [cell.name for cell in trial.study.cells if look(cell).state is not RunState.DONE]
        wrong += [f"{name} is not done at the end" for name in left]
    print("\n".join(wrong) or "the same command tried those that had failed again; all are done, none twice")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
