"""Runs what is not done of a grid, in this process, or of a study, in processes of its own; then compares."""

import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import UserError
from finetune.studies import (
    cell_file,
    check,
    devices,
    engines,
    fit,
    on_paper,
    overview,
    progress,
    refusals,
    rehearsal,
    schedule,
    timing,
)
from finetune.studies.estimate import Costs
from finetune.studies.executors.base import Executor
from finetune.studies.file import Study, grown
from finetune.studies.grid import Cell
from finetune.studies.on_paper import Speed
from finetune.studies.state import TO_RUN, RunState, Status, begins, look, refuse_folders, refuse_others
from finetune.system import hints, live, world
from finetune.system.lock import busy
from finetune.system.sheet import terminal_width
from finetune.system.text import clean, is_quiet, say

if TYPE_CHECKING:
    from finetune.studies.preflight import Prepared

LEFT = {
    RunState.FAILED: "failed: the same command tries them again",
    RunState.UNFINISHED: "are unfinished: the same command goes on with them",
}
"""What a study says at its end of the runs that have not come to theirs."""


def run_grid(cells: Sequence[Cell], command: str, further: Callable[[], Sequence[Cell]] | None = None) -> int:
    """Runs what is not done of cells that read the same rows, here and one after the other.

    Returns the exit status. ``command`` is what was typed, for the records. ``further`` gives, in the main
    process and once they have ended, the cells that follow from them, until there is no new one. Raises
    ``UserError`` before the first run where one of them would fail, ``BusyError`` where another process makes
    one of them, ``PreemptedError`` on SIGTERM or SIGUSR1: a run that trains leaves a checkpoint, and no other
    begins.
    """
    from finetune.studies.preflight import prepare
    from finetune.training import preemption, sharded

    status, tried = 0, set[Path]()
    with preemption.heard():
        while cells:
            for cell in cells:
                sharded.check_launched(cell.config.train)
            status = max(status, _run_here(prepare(cells), command))
            tried |= {cell.folder for cell in cells}
            planned = world.from_main(further) if further else ()
            cells = [cell for cell in planned if cell.folder not in tried]
    return status


def _run_here(prepared: "Prepared", command: str) -> int:
    """Runs what is not done of a grid that may begin; the exit status."""
    from finetune.studies.executors.in_process import InProcess
    from finetune.training.progress import Display, display

    for cell, status in prepared.statuses.items():
        if status.state is RunState.RUNNING:
            raise busy(cell.folder)
    executor = InProcess(prepared, command)
    shown = {display(cell.config.train) for cell in prepared.cells}
    with live.foot(wanted=world.is_main() and shown == {Display.LIVE}) as foot:
        board = None if foot is None else progress.OneByOne(foot, prepared.statuses)
        schedule.run(prepared.cells, executor, board)
    return world.from_main(lambda: executor.exit_status)


def compare_grid(cells: Iterable[Cell]) -> None:
    """Prints the comparison of the runs of a grid, with all others of their tasks and models."""
    if not world.is_main():
        return
    known = list(cells)
    _print_comparison(sorted({cell.folder.parent.parent for cell in known}), known)


def plan_text(
    study: Study,
    workers: int | None,
    speed: Speed = on_paper.USUAL,
    timed: Sequence[timing.Timed] = (),
    width: float = math.inf,
) -> str:
    """Returns what ``finetune study --plan`` prints; ``timed``: what was measured for it.

    ``width``: cells of a line. Runs that are planned once others have ended are among them.

    Raises ``UserError`` for what a run would refuse.
    """
    statuses = {cell: look(cell) for cell in study.cells}
    statuses |= dict.fromkeys(study.awaited, Status(RunState.MISSING))
    study = replace(study, cells=(*study.cells, *study.awaited))
    refusals.check(statuses)
    kinds = timing.by_kind(study.cells, timed)
    costs = _costs(
        study, statuses, {kind: each.whole for kind, each in kinds.items() if each.is_like_the_run}
    )
    planned = overview.text(study, statuses, costs, devices.workers(workers or study.workers), width)
    if further := len(study.later) + study.awaited_later:
        planned += f"\nup to {further} more runs, of further seeds, where a difference stays unknown"
    parts = [planned, timing.text(study.cells, timed, width), on_paper.text(study.cells, speed, width)]
    return "\n\n".join(filter(None, parts))


def time_one(study: Study, workers: int | None, chosen: engines.Chosen) -> list[timing.Timed]:
    """Measures one of each kind of run on a worker of the study's engine. Raises ``UserError``."""
    with chosen.executor(study, devices.workers(workers or study.workers)) as executor:
        options = chosen.options
        return timing.ask(study, executor, options.processes_of_a_node(), options.processes())


def workers_text(study: Study, workers: int | None, chosen: engines.Chosen) -> tuple[str, list[check.Fault]]:
    """What a worker of the engine has for a study, as text, and what would stop the runs there."""
    left = [cell for cell in study.cells if look(cell).state is not RunState.DONE]
    mine = check.look_around(study)
    with chosen.executor(study, devices.workers(workers or study.workers)) as executor:
        report = check.ask(study, executor)
    faults = _faults(chosen, mine, report, left)
    head = f"a worker of {chosen.engine.name}, {check.summary(report)}"
    notes = check.notes(mine, report) + _devices_note(chosen, report, left)
    lines = [head, *notes, *(f"{each.kind}: {each.text}" for each in faults)]
    return "\n".join(map(clean, lines if faults else [*lines, "all that the runs need is there"])), faults


def _faults(
    chosen: engines.Chosen, mine: check.Report, report: check.Report, cells: Sequence[Cell]
) -> list[check.Fault]:
    """What would stop ``cells`` on the worker of ``report``."""
    return check.faults(mine, report) + fit.faults(cells, report, chosen.options.processes())


def _devices_note(chosen: engines.Chosen, report: check.Report, cells: Sequence[Cell]) -> list[str]:
    return check.devices_note(cells, report, chosen.options.how_to_ask_for_a_gpu())


def commands(study: Study) -> list[str]:
    """Returns a command line for every run that could begin now, in the order of running.

    Those that begin from runs that are not done are left out, and counted. Writes the files that they name,
    below the study's root. Raises ``UserError`` where a folder holds something else: its command would only
    say so.
    """
    statuses = {cell: look(cell) for cell in study.cells}
    refuse_others(statuses)
    waiting = [cell for cell in study.cells if statuses[cell].state in TO_RUN]
    ready = [cell for cell in waiting if begins(cell, statuses)]
    later = len(waiting) - len(ready) + len(study.awaited)
    if later and not is_quiet():  # beside the lines, which go into a file
        what = f"{later} more begin from runs that are not done, or follow from them"
        print(f"{what}: type the same again once these are", file=sys.stderr)
    cell_file.write(ready)
    return [shlex.join(cell_file.command(cell)) for cell in ready]


def cancel(study: Study, chosen: engines.Chosen) -> None:
    """Ends the jobs of a study that go on without it. Raises ``UserError`` where its engine has none."""
    executor = chosen.executor(study, workers=1)
    if not executor.outlives:
        raise UserError("no run goes on without the study itself: press Ctrl-C where it runs")
    if not study.root.is_dir():
        raise UserError(f"nothing was begun in {study.root}: --output names the folder of the runs")
    jobs = executor.attach(study.cells)
    executor.cancel()
    say(f"study {study.name}: {len(jobs)} jobs cancelled; finetune study goes on from their checkpoints")


def run_study(study: Study, workers: int | None, chosen: engines.Chosen) -> int:
    """Runs what is due and not done on the ``chosen`` engine, then what is due after it, and prints the
    comparison.

    Returns the exit status: 1 if a run has failed, 75 if one is unfinished after all retries, that of the
    rehearsal if it has failed, and then no run was begun. Raises ``UserError`` where a folder holds something
    else than its run, also at the end, where a run was done before what it began from was made again.
    """
    statuses = {cell: look(cell) for cell in study.cells}
    refuse_others(statuses)
    waiting = [cell for cell in study.cells if statuses[cell].state is not RunState.DONE]
    exit_status, ended = _phase(study, statuses, waiting, workers, chosen, first=True)
    if exit_status:
        return exit_status
    statuses |= ended
    while True:
        study = grown(study)
        new = [cell for cell in study.cells if cell not in statuses]
        if not new:
            return _ended(study, statuses)
        say(f"{len(new)} more runs follow from these")
        statuses |= {cell: look(cell) for cell in new}
        refuse_others(statuses)
        waiting = [cell for cell in new if statuses[cell].state is not RunState.DONE]
        statuses |= _phase(study, statuses, waiting, workers, chosen, first=False)[1]


def _phase(
    study: Study,
    statuses: Mapping[Cell, Status],
    waiting: Sequence[Cell],
    workers: int | None,
    chosen: engines.Chosen,
    *,
    first: bool,
) -> tuple[int, dict[Cell, Status]]:
    """Runs what is ``waiting`` of a study: the ``first`` of a command after a look around and a rehearsal.

    Returns the exit status of these two, and what has become of the cells. Later phases hold the kinds of run
    that the first one did.
    """
    workers = min(devices.workers(workers or study.workers), max(1, len(waiting)))
    executor = chosen.executor(study, workers)
    tally = progress.Tally(study, statuses, _costs(study, statuses), executor.capacity, waiting)
    done = sum(status.state is RunState.DONE for status in statuses.values())
    place = overview.many(workers) if chosen.engine is engines.LOCAL else chosen.engine.name
    rest = f"{tally.rest([])} on {place}, logs in {study.root / 'logs'}"
    for note in study.notes:
        say(clean(f"study {study.name}: {note}"))
    head = f"study {study.name}: {len(study.cells)} runs in {study.root}, {done} done"
    later = f"; {len(study.awaited)} more follow from trials" if study.awaited else ""
    say(f"{head}; {rest if waiting else 'nothing is left to run'}{later}")
    if not waiting:
        return 0, {}
    going = executor.attach(waiting)
    if going:  # on workers that were looked at before, and may all be taken
        say(f"{len(going)} runs go on that an earlier command has begun")
    elif first and (exit_status := _tried(study, chosen, executor, waiting)):
        return exit_status, {}
    cell_file.write(waiting)
    engines.keep(study, chosen)
    try:
        with progress.board(tally) as board:
            return 0, schedule.run(waiting, executor, board, retries=chosen.options.retries, going=going)
    except KeyboardInterrupt:
        if executor.outlives:
            say("the jobs go on: the same command shows them again, and with --cancel it ends them")
        raise


def _tried(study: Study, chosen: engines.Chosen, executor: Executor, waiting: Sequence[Cell]) -> int:
    """Looks for what runs need where they will be, and takes a step of each kind; the exit status."""
    if chosen.engine is engines.LOCAL:
        return rehearsal.in_process_of_its_own(study)
    report = check.ask(study, executor)
    check.refuse(_faults(chosen, check.look_around(study), report, waiting))
    for note in _devices_note(chosen, report, waiting):
        say(clean(note))
    return rehearsal.on_worker(study, executor, chosen.options.processes_of_a_node())


def _ended(study: Study, statuses: dict[Cell, Status]) -> int:
    """Prints the comparison and what is left, and returns the exit status of the study."""
    now = {cell: look(cell) for cell in study.cells}
    # What was done may have begun from a run that was made again just now.
    statuses |= {cell: now[cell] for cell in study.cells if statuses[cell].state is RunState.DONE}
    left = {state: [cell for cell in study.cells if statuses[cell].state is state] for state in RunState}
    states = {status.state for status in now.values()}
    if RunState.DONE in states and RunState.OTHER not in states:
        _print_comparison([study.root], study.cells)
    for line in (*study.notes, *study.untuned):
        print(clean(line))
    for state, words in LEFT.items():
        for cell in left[state]:
            log = f" | log: {cell.log}" if cell.log and cell.log.is_file() else ""
            print(clean(f"{state}: {cell.folder}: {statuses[cell].reason}{log}"))
        if left[state]:
            print(f"{len(left[state])} of {len(study.cells)} runs {words}")
    if others := left[RunState.RUNNING] + left[RunState.MISSING]:
        many = f"{len(others)} of {len(study.cells)} runs were left to another process"
        say(f"{many}, the first is {others[0].folder}")
    refuse_folders(statuses)
    if study.awaited and not left[RunState.FAILED] and not left[RunState.UNFINISHED]:
        say(f"{len(study.awaited)} runs follow from trials that another process makes: type the same again")
    for hint in hints.after_runs(study.root, [cell.folder for cell in study.cells if not cell.config.trial]):
        say(hint)
    failed = left[RunState.FAILED] or study.untuned
    return 1 if failed else os.EX_TEMPFAIL if left[RunState.UNFINISHED] else 0


def _print_comparison(folders: Sequence[Path], cells: Iterable[Cell]) -> None:
    """Prints the comparison of the runs in ``folders``, and tells the trackers that ``cells`` name."""
    from finetune.comparison import compare
    from finetune.report import write

    comparison = compare.compare(folders)
    print(write.text(comparison, terminal_width()))
    if any(cell.config.train.get("report_to") not in (None, "none") for cell in cells):
        from finetune.training import grouping

        grouping.summarize(comparison)


def _costs(
    study: Study, statuses: Mapping[Cell, Status], measured: Mapping[str, float] | None = None
) -> Costs:
    """What finished runs tell of the length of others: those of the study, and all below its root."""
    costs = Costs(measured)
    for cell in study.cells:
        if statuses[cell].state is RunState.DONE:
            costs.add(cell, statuses[cell].run)
    costs.add_others(study.root, study.cells)
    return costs
