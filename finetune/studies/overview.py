"""The text of ``finetune study FILE --plan``: what is done and what is left, by arm, and for how long."""

from collections import Counter
from collections.abc import Mapping, Sequence

from finetune.config.folders import arm_label, model_slug, task_slug
from finetune.studies.estimate import Costs, duration, rest, rest_text
from finetune.studies.file import Study
from finetune.studies.grid import Cell
from finetune.studies.state import TO_RUN, RunState, Status
from finetune.system.tables import aligned
from finetune.system.text import clean

HEADINGS = ["grid", "task", "model", "attention", "runs", *RunState, "expected"]
LEFT = (*TO_RUN, RunState.RUNNING)  # a running one may have all of its time before it


def text(study: Study, statuses: Mapping[Cell, Status], costs: Costs, workers: int) -> str:
    """One line an arm, then every failure with its reason, then the whole."""
    arms: dict[tuple[str, ...], list[Cell]] = {}
    for cell in study.cells:
        arms.setdefault(_arm(cell, study), []).append(cell)
    places = list(dict.fromkeys(arm[:3] for arm in arms))
    together = sorted(arms, key=lambda arm: places.index(arm[:3]))  # the arms of one comparison
    rows = [[*arm, *_counts(arms[arm], statuses, costs)] for arm in together]
    kept = [column for column in zip(HEADINGS, *rows, strict=True) if any(column[1:])]
    align = "".join("l" if column[0] in HEADINGS[:4] else "r" for column in kept)
    lines = [f"study {study.name}: {len(study.cells)} runs in {study.root}"]
    lines.append(aligned(list(zip(*kept, strict=True)), align))
    for state in (RunState.FAILED, RunState.OTHER):
        found = [cell for cell in study.cells if statuses[cell].state is state]
        for cell in found:
            where = (
                f"{cell.folder}: " if state is RunState.FAILED else ""
            )  # what is wrong with a folder names it
            lines.append(clean(f"{state}: {where}{statuses[cell].reason}"))
    return "\n".join([*lines, _closing(study, statuses, costs, workers)])


def many(workers: int) -> str:
    """``2 workers``."""
    return f"{workers} worker{'s' if workers > 1 else ''}"


def _arm(cell: Cell, study: Study) -> tuple[str, ...]:
    config = cell.config
    grid = cell.output.relative_to(study.root).as_posix()  # with the folder of its axes
    return (grid, task_slug(config.task, config.pair), model_slug(config.model), arm_label(config.attention))


def _counts(cells: Sequence[Cell], statuses: Mapping[Cell, Status], costs: Costs) -> list[str]:
    count = Counter(statuses[cell].state for cell in cells)
    left = [costs.expected(cell) for cell in cells if statuses[cell].state in LEFT]
    shown = [str(count[state] or "") for state in RunState]
    seconds, unknown = rest(left, 1)
    expected = "unknown" if unknown else duration(seconds)
    return [str(len(cells)), *shown, expected if left else ""]


def _closing(study: Study, statuses: Mapping[Cell, Status], costs: Costs, workers: int) -> str:
    count = Counter(statuses[cell].state for cell in study.cells)
    told = ", ".join(f"{count[state]} {state}" for state in RunState if count[state])
    left = [costs.expected(cell) for cell in study.cells if statuses[cell].state in LEFT]
    if count[RunState.OTHER]:
        return f"{told}; no run is begun while a folder holds something else: choose another --output"
    return (
        f"{told}; {rest_text(left, workers)} on {many(workers)}; --rehearse tries a step of each kind of run"
        if left
        else f"{told}; nothing is left to run"
    )
