"""Takes a first step of every kind of run that a study has still to make, before it begins any of them."""

import itertools
import json
import os
import subprocess

from finetune.config.identity import as_dict, but_for_seed
from finetune.errors import UserError
from finetune.studies import check, devices, fit
from finetune.studies.executors.base import Executor, killed_text
from finetune.studies.file import Study
from finetune.studies.grid import Cell
from finetune.studies.state import TO_RUN, begins, look
from finetune.system import world
from finetune.system.processes import distributed
from finetune.system.text import is_quiet, say, visible


def in_process_of_its_own(study: Study) -> int:
    """Rehearses in a process of its own, on one GPU as the runs will be, which frees its memory at its end.

    Returns the exit status; the process prints the mistake itself. Raises ``UserError`` where it was killed.
    """
    words = _words(study)
    (slot,) = devices.slots(1)
    # A group of its own: a Ctrl-C in the terminal reaches this process alone, which then ends the other.
    ended = subprocess.run(
        words, stdin=subprocess.DEVNULL, env={**os.environ, **slot}, process_group=0, check=False
    )
    if ended.returncode < 0:
        raise UserError(
            f"the rehearsal before the first run was {killed_text(-ended.returncode)}; "
            "finetune study FILE --rehearse shows at which model"
        )
    return ended.returncode


def on_worker(study: Study, executor: Executor, processes: int = 1) -> int:
    """Rehearses on a worker, prints what that has printed, and returns its exit status.

    With so many ``processes`` there as a run has on a machine. Whether runs fit was judged before, by all of
    their processes. Raises ``UserError`` where it was killed.
    """
    called = executor.call(distributed([*_words(study), "--fits"], processes))
    if called.output.strip():
        print(visible(called.output.rstrip()), flush=True)
    if called.exit_status < 0:
        raise UserError(
            f"the rehearsal on a worker, before the first run, was {killed_text(-called.exit_status)}"
        )
    return called.exit_status


def _words(study: Study) -> list[str]:
    return study.command("--rehearse", *(["--quiet"] if is_quiet() else []))


def rehearse(study: Study, *, fits: bool = False) -> str:
    """Prepares each different run that is neither done nor going on (``preflight``), and returns a summary.

    A run that begins from one that is not done has no model yet: it takes its first step when it is run, and
    all but that is checked here. ``fits``: it is known that each fits into the memory. Raises ``UserError``
    for the first that does not fit its rows, its model or this machine.
    """
    from finetune.studies.preflight import prepare

    statuses = {cell: look(cell) for cell in study.cells}
    waiting = [cell for cell in study.cells if statuses[cell].state in TO_RUN]
    if not fits:
        check.refuse(fit.faults(waiting, check.machine(), world.size()))
    printed: set[str] = set()

    def notify(note: str) -> None:
        if note not in printed:
            printed.add(note)
            say(note)

    tried, later = 0, 0
    for (grid, _), group in itertools.groupby(sorted(waiting, key=rows_of), key=rows_of):
        cells = list(group)
        ready = [cell for cell in cells if begins(cell, statuses)]
        try:
            for members, has_model in ((ready, True), ([c for c in cells if c not in ready], False)):
                different = list({but_for_seed(cell.config): cell for cell in members}.values())
                if different:
                    prepare(different, notify, has_model=has_model)
                tried, later = tried + has_model * len(different), later + (not has_model) * len(different)
        except UserError as error:
            raise UserError(f"grid {grid}: {error}") from error
    rest = f"; {later} will when the runs that they begin from are done" if later else ""
    return f"rehearsal: {tried} kind{'' if tried == 1 else 's'} of run took a first step{rest}"


def rows_of(cell: Cell) -> tuple[str, str]:
    """The grid of a cell, and the settings that decide which rows it reads."""
    config = cell.config
    return cell.grid, json.dumps([cell.task, config.pair, as_dict(config)["data"]])
