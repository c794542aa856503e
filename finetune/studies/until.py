"""Seeds that are added until a difference is known: their plan, and which runs are due by it.

A grid with a plan has the runs of all seeds of its budget. Those of its own seeds are due at once, and those
of the next look for each variant whose difference from softmax is not known after the look before.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune.config import tuned
from finetune.config.build import checked
from finetune.config.identity import as_dict, flatten
from finetune.config.schema import BASELINE, UntilConfig
from finetune.errors import UserError, shown
from finetune.records.run import Run
from finetune.studies.grid import Cell
from finetune.studies.state import RunState, look

KEYS = {"margin", "most", "step"}  # of until in a study file; the seeds of a grid are its first look
OPTIONS = {"margin": "--until", "most": "--most-seeds"}  # of the command line, over the file's
EXAMPLE = "until: {margin: 0.5, most: 11}"
ENDED = (RunState.DONE, RunState.FAILED)
STEP = 2  # seeds that are added at a time, where the file does not say


def planned(
    until: Any, given: Mapping[str, Any], seeds: list[int]
) -> tuple[list[int], Mapping[str, Any] | None]:
    """All seeds that a grid may come to have, its own first, and the plan as its configurations have it.

    ``until``: the file's; ``given``: what the command line says over it. Without either there is no plan.
    Raises ``UserError``.
    """
    if until is None and not given:
        return seeds, None
    if not isinstance(until or {}, dict) or not {*(until or {})} <= KEYS:
        raise UserError(f"until has the keys margin, most and step, e.g. {EXAMPLE}, not {shown(until)}")
    if {"margin", "most"} - {*(until or {}), *given}:
        raise UserError(
            f"a plan of seeds needs a margin and a budget: {EXAMPLE}, or --until 0.5 --most-seeds 11"
        )
    plan = checked(UntilConfig, {"first": len(seeds), "step": STEP, **(until or {}), **given}, "until.")
    if plan.most <= plan.first:
        raise UserError(
            f"until.most is of all seeds together, and must be above the {plan.first} that are run first"
        )
    added = range(max(seeds) + 1, max(seeds) + 1 + plan.most - plan.first)
    return [*seeds, *added], asdict(plan)


def due(cells: Sequence[Cell], later: Sequence[Cell]) -> list[Cell]:
    """The cells of ``later`` that are due after ``cells``, which are those of the looks before.

    A look is judged once all of its runs have ended, and by no others, so that the same runs always lead to
    the same next ones. Failed runs count for its level, as they do in the comparison; a variant without any
    pair of finished runs gets no more.
    """
    from finetune.comparison.compare import of_runs

    statuses = {cell: look(cell) for cell in cells}
    results = (status for cell, status in statuses.items() if not cell.config.trial)
    runs = [each.run for each in results if each.state in ENDED]
    ended_runs = [Run.checked(run.folder, run.record) for run in runs if run]
    by_folder = {cell.folder: cell for cell in cells}
    arms = {cell: _arm(cell) for cell in (*cells, *later)}
    added: dict[Cell, None] = {}
    for result in (each for table in of_runs(ended_runs).tables for each in table.variants[1:]):
        one = by_folder[Path(result.runs[0].folder)]
        plan, pair = one.config.until, {arms[one], (arms[one][0], BASELINE)}
        ended = all(statuses[cell].state in ENDED for cell in cells if arms[cell] in pair)
        found = result.difference
        if plan is None or not ended or found is None or found.is_known(plan.margin):
            continue
        reached = max(cell.look for cell in cells if arms[cell] == arms[one])
        added |= {cell: None for cell in later if arms[cell] in pair and cell.look <= reached + 1}
    begun = {cell: None for each in added for cell in _origins(each) if cell in later}
    return list(begun | added)


def _arm(cell: Cell) -> tuple[str, str]:
    """What the runs of one variant that are compared have in common, and the variant."""
    values = as_dict(cell.config)
    attention = values.pop("attention")
    is_baseline = attention["variant"] == BASELINE
    settings = flatten(values | {"seed": 0})
    if cell.config.tuning:  # each variant has the values of its own choice
        settings = tuned.without(settings, cell.config.tuning.keys)
    setting = json.dumps([cell.grid, settings], sort_keys=True)
    return setting, BASELINE if is_baseline else json.dumps(attention, sort_keys=True)


def _origins(cell: Cell) -> Iterator[Cell]:
    """The runs that a run begins from, the first of them first."""
    if cell.origin:
        yield from _origins(cell.origin)
        yield cell.origin
