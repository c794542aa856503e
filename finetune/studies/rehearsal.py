"""A first step of every kind of run that a study has still to do, before it begins any of them."""

import itertools
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace

from finetune.config.identity import as_dict, but_for_seed
from finetune.errors import UserError
from finetune.studies import devices, schedule
from finetune.studies.file import Study
from finetune.studies.grid import Cell
from finetune.studies.overview import TO_RUN
from finetune.studies.state import look
from finetune.system.processes import python_module


def in_process_of_its_own(study: Study) -> int:
    """Rehearse where the runs will be: on one GPU, and letting go of its memory afterwards.

    Returns the exit status; what is wrong has been printed by then. Raises ``UserError`` where it was killed.
    """
    words = [*python_module("finetune"), "study", study.file, "--output", str(study.root), "--rehearse"]
    (slot,) = devices.slots(1)
    # A group of its own: a Ctrl-C in the terminal reaches this process alone, which then ends the other.
    ended = subprocess.run(
        words, stdin=subprocess.DEVNULL, env={**os.environ, **slot}, process_group=0, check=False
    )
    if ended.returncode < 0:
        raise UserError(
            f"the rehearsal before the first run was {schedule.killed_text(-ended.returncode)}; "
            "finetune study FILE --rehearse shows at which model"
        )
    return ended.returncode


def rehearse(study: Study) -> str:
    """Try each different run that is neither done nor going on (see ``training.rehearsal``); what was tried.

    Raises ``UserError`` for the first that does not fit its rows, its model or this machine.
    """
    waiting = [cell for cell in study.cells if look(cell).kind in TO_RUN]
    printed: set[str] = set()
    tried = 0
    for (grid, _), cells in itertools.groupby(sorted(waiting, key=_rows), key=_rows):
        different = list({but_for_seed(cell.config): cell for cell in cells}.values())
        tried += len(different)
        try:
            notes = _rehearse(different)
        except UserError as error:
            raise UserError(f"grid {grid}: {error}") from error
        for note in notes:
            if note not in printed:
                print(note, flush=True)
        printed.update(notes)
    return f"rehearsal: {tried} kind{'' if tried == 1 else 's'} of run took a first step"


def _rehearse(cells: Sequence[Cell]) -> list[str]:
    """``cells`` read the same rows; lines that are worth a word."""
    from finetune.data import dataset, sources
    from finetune.tasks import get_task
    from finetune.training import plan, rehearsal
    from finetune.training.arguments import resolve_bf16

    configs = [replace(cell.config, train=resolve_bf16(cell.config.train)) for cell in cells]
    notes = []
    for config, cell in zip(configs, cells, strict=True):
        notes += plan.check(config, cell.folder)
        plan.check_model(config)
    task, wanted = get_task(cells[0].task), configs[0]
    found = sources.resolve(task, wanted.pair, wanted.data.source)
    loaded = dataset.load(task, wanted.pair, found, wanted.data)
    notes += [found.describe(), *(f"note: {note}" for note in loaded.info["notes"])]
    return [*notes, *rehearsal.rehearse(configs, loaded)]


def _rows(cell: Cell) -> tuple[str, str]:
    """The grid, and what decides which rows a cell reads."""
    config = cell.config
    return cell.grid, json.dumps([cell.task, config.pair, as_dict(config)["data"]])
