"""Takes a first step of every kind of run that a study has still to make, before it begins any of them."""

import itertools
import json
import os
import subprocess

from finetune.config.identity import as_dict, but_for_seed
from finetune.errors import UserError
from finetune.studies import devices
from finetune.studies.executors.local import killed_text
from finetune.studies.file import Study
from finetune.studies.grid import Cell
from finetune.studies.state import TO_RUN, look
from finetune.system.processes import python_module
from finetune.system.text import is_quiet, say


def in_process_of_its_own(study: Study) -> int:
    """Rehearses in a process of its own, on one GPU as the runs will be, which frees its memory at its end.

    Returns the exit status; the process prints the mistake itself. Raises ``UserError`` where it was killed.
    """
    words = [*python_module("finetune"), "study", study.file, "--output", str(study.root), "--rehearse"]
    words += ["--quiet"] if is_quiet() else []
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


def rehearse(study: Study) -> str:
    """Prepares each different run that is neither done nor going on (``preflight``), and returns a summary.

    Raises ``UserError`` for the first that does not fit its rows, its model or this machine.
    """
    from finetune.studies.preflight import prepare

    waiting = [cell for cell in study.cells if look(cell).state in TO_RUN]
    printed: set[str] = set()

    def notify(note: str) -> None:
        if note not in printed:
            printed.add(note)
            say(note)

    tried = 0
    for (grid, _), cells in itertools.groupby(sorted(waiting, key=_rows), key=_rows):
        different = list({but_for_seed(cell.config): cell for cell in cells}.values())
        tried += len(different)
        try:
            prepare(different, notify)
        except UserError as error:
            raise UserError(f"grid {grid}: {error}") from error
    return f"rehearsal: {tried} kind{'' if tried == 1 else 's'} of run took a first step"


def _rows(cell: Cell) -> tuple[str, str]:
    """The grid of a cell, and the settings that decide which rows it reads."""
    config = cell.config
    return cell.grid, json.dumps([cell.task, config.pair, as_dict(config)["data"]])
