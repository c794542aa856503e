"""A study: its plan, its command lines, or all of its runs and what they show."""

import shlex
from collections.abc import Mapping

from finetune.errors import UserError
from finetune.studies import devices, overview, progress, rehearsal, schedule
from finetune.studies.estimate import Costs
from finetune.studies.file import Study
from finetune.studies.grid import Cell
from finetune.studies.state import State, look
from finetune.system.text import clean, say


def plan_text(study: Study, wanted: int | None) -> str:
    """What ``--plan`` prints."""
    states = _look(study)
    return overview.text(study, states, _costs(study, states), devices.workers(wanted or study.workers))


def commands(study: Study) -> list[str]:
    """One command line for every run that is neither done nor going on, in the order of running.

    Raises ``UserError`` where a folder holds something else: its command would only say so.
    """
    states = _look(study)
    _refuse_others(study, states)
    return [
        shlex.join(schedule.command(cell)) for cell in study.cells if states[cell].kind in overview.TO_RUN
    ]


def run_study(study: Study, wanted: int | None) -> int:
    """Rehearse and run what is not done, then print the comparison.

    Returns the exit status: 1 if a run has failed, 2 if the rehearsal has, and then no run was begun.
    """
    states = _look(study)
    _refuse_others(study, states)
    waiting = [cell for cell in study.cells if states[cell].kind != "done"]
    workers = min(devices.workers(wanted or study.workers), max(1, len(waiting)))
    costs = _costs(study, states)
    tally = progress.Tally(study, states, costs, workers)
    done = len(study.cells) - len(waiting)
    rest = f"{tally.rest([])} on {overview.many(workers)}, logs in {study.root / 'logs'}"
    head = f"study {study.name}: {len(study.cells)} runs in {study.root}, {done} done"
    say(f"{head}; {rest if waiting else 'nothing is left to run'}")
    status = rehearsal.in_process_of_its_own(study) if waiting else 0
    if status:
        return status
    with progress.board(tally) as board:
        ended = schedule.run(waiting, devices.slots(workers), board)
    return _closing(study, states | ended)


def _closing(study: Study, states: Mapping[Cell, State]) -> int:
    """Print what failed, what others are doing, and the comparison; the exit status."""
    failed = [cell for cell in study.cells if states[cell].kind == "failed"]
    others = [cell for cell in study.cells if states[cell].kind not in ("done", "failed")]
    if any(look(cell).kind == "done" for cell in study.cells):
        from finetune.comparison import compare
        from finetune.report import write

        print(write.text(compare.compare([study.root])))
    for cell in failed:
        print(clean(f"failed: {cell.folder}: {states[cell].reason} | log: {cell.log}"))
    if failed:
        print(f"{len(failed)} of {len(study.cells)} runs failed: the same command tries them again")
    if others:
        many = f"{len(others)} of {len(study.cells)} runs were left to another process"
        say(f"{many}, the first is {others[0].folder}")
    print(f"next: make compare OUTPUT={shlex.quote(str(study.root))}")
    return 1 if failed else 0


def _look(study: Study) -> dict[Cell, State]:
    return {cell: look(cell) for cell in study.cells}


def _costs(study: Study, states: Mapping[Cell, State]) -> Costs:
    costs = Costs()
    for cell in study.cells:
        if states[cell].kind == "done":
            costs.add(cell, states[cell].record)
    costs.add_others(study.root, study.cells)
    return costs


def _refuse_others(study: Study, states: Mapping[Cell, State]) -> None:
    """A folder that holds another run would stop its cell; better before the first run than hours later."""
    _refuse_mixture(study, states)
    others = [cell for cell in study.cells if states[cell].kind == "other"]
    if others:
        more = f" (and {len(others) - 1} more: see --plan)" if len(others) > 1 else ""
        raise UserError(
            f"{states[others[0]].reason}{more}: choose another folder with --output, or remove what is there"
        )


def _refuse_mixture(study: Study, states: Mapping[Cell, State]) -> None:
    """``auto`` takes the sample where there is nothing else, and real rows once there are some."""
    known = [state.record["data"] for state in states.values() if state.record and state.record["data"]]
    if len({bool(data["sample"]) for data in known}) > 1:
        raise UserError(
            f"{study.root} holds runs on the SAMPLE and runs on real rows: choose another folder with "
            "--output, and say data.source in the study (hub, sample or a folder)"
        )
