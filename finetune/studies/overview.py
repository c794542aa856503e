"""Writes the text of ``finetune study --plan``: what is done, what is left by variant, and for how long."""

import math
from collections import Counter
from collections.abc import Mapping

from finetune.config.folders import model_slug, task_slug, variant_slug
from finetune.studies import tuning
from finetune.studies.estimate import Costs, rest, rest_text
from finetune.studies.file import Study
from finetune.studies.grid import Cell
from finetune.studies.state import TO_RUN, RunState, Status
from finetune.system.durations import duration
from finetune.system.sheet import Sheet
from finetune.system.text import clean

HEADINGS = ["grid", "task", "model", "attention", "runs", *RunState, "expected"]
LEFT = (*TO_RUN, RunState.RUNNING)  # a running one may have all of its time before it


def text(
    study: Study, statuses: Mapping[Cell, Status], costs: Costs, workers: int, width: float = math.inf
) -> str:
    """Returns one line a variant, then every failure with its reason, then the totals."""
    lines: dict[tuple[str, ...], list[Cell]] = {}
    for cell in study.cells:
        config = cell.config
        grid = "/".join(cell.output.relative_to(study.root).parts)  # with the folder of its axes
        if config.trial:  # one line for all values that are tried
            grid = "/".join(filter(None, (tuning.FOLDER, cell.grid)))
        task, model = task_slug(config.task, config.pair), model_slug(config.model)
        lines.setdefault((grid, task, model, variant_slug(config.attention)), []).append(cell)
    places = list(dict.fromkeys(names[:3] for names in lines))
    together = sorted(lines, key=lambda names: places.index(names[:3]))  # the variants of one comparison
    rows = []
    for names in together:
        count = Counter(statuses[cell].state for cell in lines[names])
        left = [costs.expected(cell) for cell in lines[names] if statuses[cell].state in LEFT]
        seconds, unknown = rest(left, 1)
        expected = ("unknown" if unknown else duration(seconds)) if left else ""
        rows.append(
            [*names, str(len(lines[names])), *(str(count[state] or "") for state in RunState), expected]
        )
    # A column without an entry, such as that of failures in a fresh study, is left out.
    kept = [column for column in zip(HEADINGS, *rows, strict=True) if any(column[1:])]
    align = "".join("l" if column[0] in HEADINGS[:4] else "r" for column in kept)
    sheet = Sheet(width)
    shown = [sheet.prose(f"{study.title}: {len(study.cells)} runs in {study.root}")]
    shown.append(sheet.table(list(zip(*kept, strict=True)), align, keys=4))
    for state in (RunState.FAILED, RunState.OTHER):
        for cell in study.cells:
            if statuses[cell].state is state:
                # The reason of OTHER names the folder itself.
                where = f"{cell.folder}: " if state is RunState.FAILED else ""
                shown.append(sheet.prose(clean(f"{state}: {where}{statuses[cell].reason}")))
    return "\n".join([*shown, sheet.prose(_totals(study, statuses, costs, workers))])


def many(workers: int) -> str:
    """``2 workers``."""
    return f"{workers} worker{'s' if workers > 1 else ''}"


def _totals(study: Study, statuses: Mapping[Cell, Status], costs: Costs, workers: int) -> str:
    count = Counter(statuses[cell].state for cell in study.cells)
    counts = ", ".join(f"{count[state]} {state}" for state in RunState if count[state])
    left = [costs.expected(cell) for cell in study.cells if statuses[cell].state in LEFT]
    if count[RunState.OTHER]:
        return f"{counts}; no run is begun while a folder holds something else: choose another --output"
    if not left:
        return f"{counts}; nothing is left to run"
    time = f"{rest_text(left, workers)} on {many(workers)}"
    return f"{counts}; {time}; --rehearse tries a step of each kind of run"
