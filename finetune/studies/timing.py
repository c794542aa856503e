"""``--time-one``: a few steps of each kind of run, measured here or on a worker, for the hours of a plan."""

import itertools
import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from finetune.config.folders import model_slug, task_slug, variant_slug
from finetune.config.identity import but_for_seed
from finetune.errors import UserError
from finetune.studies.executors.base import Executor
from finetune.studies.file import Study
from finetune.studies.grid import Cell
from finetune.studies.rehearsal import rows_of
from finetune.studies.state import TO_RUN, begins, look
from finetune.system import world
from finetune.system.durations import duration
from finetune.system.processes import distributed
from finetune.system.sheet import Sheet
from finetune.system.text import quietly

MARK = "finetune_pace"  # the key by which a line is known among others: the name of the cell


@dataclass(frozen=True)
class Timed:
    """The pace of one cell, which stands for all that differ from it in their seed alone."""

    cell: str
    host: str
    device: str
    seconds: float  # of a step
    counted: int  # steps that were measured
    steps: int  # of the run
    peak_memory_mib: float | None
    processes: int = 1  # that took the steps together
    of: int = 1  # that a run has

    @property
    def is_like_the_run(self) -> bool:
        """Whether as many processes took the steps as the run has, so that it takes as long."""
        return self.processes == self.of

    @property
    def whole(self) -> float:
        """Seconds of the training."""
        return self.seconds * self.steps


def measure(cells: Sequence[Cell]) -> Iterator[Timed]:
    """Measures one of each kind of ``cells`` that can begin now, on this machine. Raises ``UserError``."""
    from finetune.studies.preflight import prepare
    from finetune.training import pace

    statuses = {cell: look(cell) for cell in cells}
    ready = [cell for cell in cells if statuses[cell].state in TO_RUN and begins(cell, statuses)]
    different = list({but_for_seed(cell.config): cell for cell in reversed(ready)}.values())[::-1]
    for _, group in itertools.groupby(sorted(different, key=rows_of), key=rows_of):
        with quietly():
            prepared = prepare(list(group), has_model=False)
            for cell in prepared.cells:
                measured = pace.measure(cell.config, prepared.loaded)
                if measured is not None:
                    count = world.size()
                    yield Timed(cell.name, platform.node(), **asdict(measured), processes=count, of=count)


def line(timed: Timed) -> str:
    """The line of JSON of a measurement."""
    values = asdict(timed)
    return json.dumps({MARK: values.pop("cell"), **values})


def ask(study: Study, executor: Executor, processes: int = 1, of: int | None = None) -> list[Timed]:
    """Has a worker measure, with so many processes, ``of`` those of a run. Raises ``UserError`` where it
    cannot."""
    called = executor.call(distributed(study.command("--time-one", "--quiet"), processes))
    found = []
    for each in called.output.splitlines():
        with suppress(ValueError):
            values = json.loads(each) if each.startswith("{") and MARK in each else {}
            values |= {"of": of or processes} if values else {}
            found += [Timed(values.pop(MARK), **values)] if values else []
    if called.exit_status:
        raise UserError(f"a step cannot be measured (status {called.exit_status}): {called.complaint()}")
    return found


def by_kind(cells: Sequence[Cell], timed: Sequence[Timed]) -> Mapping[str, Timed]:
    """The measurements by what runs have in common that differ in their seed alone."""
    names = {cell.name: cell for cell in cells}
    return {but_for_seed(names[each.cell].config): each for each in timed if each.cell in names}


def text(cells: Sequence[Cell], timed: Sequence[Timed], width: float = math.inf) -> str:
    """A table with a line for each kind of run that was measured."""
    kinds = by_kind(cells, timed)
    runs: dict[str, list[Cell]] = {}
    for cell in cells:
        if (key := but_for_seed(cell.config)) in kinds:
            runs.setdefault(key, []).append(cell)
    rows = [["measured", "attention", "on", "runs", "a step", "steps", "a run", "in all", "peak memory"]]
    for key, alike in runs.items():
        each, config = kinds[key], alike[0].config
        peak = "" if each.peak_memory_mib is None else f"{each.peak_memory_mib:,.0f} MiB"
        where, hours = (
            f"{each.host}, {each.device}",
            [duration(each.whole), duration(each.whole * len(alike))],
        )
        if not each.is_like_the_run:
            where, hours = f"{where}, {each.processes} of {each.of} processes", ["-", "-"]
        rows.append([
            f"{task_slug(config.task, config.pair)}, {model_slug(config.model)}",
            variant_slug(config.attention), where, str(len(alike)),
            f"{each.seconds:.3g} s", f"{each.steps:,}", *hours, peak,
        ])  # fmt: skip
    counted = min((each.counted for each in timed), default=0)
    note = (
        f"Measured: the median of {counted} steps or more after a warm-up; evaluations, predictions and "
        "loading come on top. The expected times above are these."
    )
    if not all(each.is_like_the_run for each in timed):
        note = note.removesuffix("these.") + (
            "those of as many processes as a run has; of fewer, which take longer over a step, hours are -."
        )
    sheet = Sheet(width)
    return f"{sheet.table(rows, 'lll' + 'r' * 6, keys=2)}\n{sheet.prose(note)}" if timed else ""
