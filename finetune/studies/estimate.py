"""Estimates how long a run of a study will take, from runs already made."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from statistics import median

from finetune.config.identity import but_for_seed
from finetune.records import store
from finetune.records.run import Run
from finetune.studies.grid import Cell
from finetune.system.durations import duration


class Costs:
    """Seconds that were measured for a kind of run (``timing``); else the median of the nearest finished
    runs: of the same variant and axes; else of the same task, model and grid; else of the same kind of task
    and model anywhere below the root."""

    def __init__(self, measured: Mapping[str, float] | None = None) -> None:
        """``measured``: by what runs have in common that differ in their seed alone."""
        self._measured = measured or {}
        self._seconds: dict[Hashable, list[float]] = defaultdict(list)

    def add(self, cell: Cell, run: Run | None) -> None:
        """Adds a finished run of a cell."""
        seconds = _whole_run(run)
        if seconds is not None:
            for key in _keys(cell):
                self._seconds[key].append(seconds)

    def add_others(self, root: Path, known: Iterable[Cell]) -> None:
        """Adds finished runs below ``root`` that are no cell of the study."""
        folders = {cell.folder for cell in known}
        for folder, record in store.find(root)[0] if root.is_dir() else []:
            run = Run(folder, record)
            seconds = _whole_run(run)
            if seconds is not None and folder not in folders:
                self._seconds[_loosest(run.kind, run.config["model"].get("name"))].append(seconds)

    def expected(self, cell: Cell) -> float | None:
        """Seconds that a run of ``cell`` takes; None where no finished run is near enough."""
        if self._measured and (measured := self._measured.get(but_for_seed(cell.config))) is not None:
            return measured
        return next((median(self._seconds[key]) for key in _keys(cell) if key in self._seconds), None)


def rest(expected: Iterable[float | None], workers: int) -> tuple[float, int]:
    """Seconds that runs will take on so many workers, and the number of runs of unknown length."""
    known = list(expected)
    seconds = [value for value in known if value is not None]
    return sum(seconds) / workers, len(known) - len(seconds)


def rest_text(expected: Iterable[float | None], workers: int) -> str:
    """``about 3.5 h``, with the number of runs of unknown length."""
    seconds, unknown = rest(expected, workers)
    if not unknown:
        return f"about {duration(seconds)}"
    runs = f"{unknown} run{'s' if unknown > 1 else ''} of unknown length"
    return f"about {duration(seconds)} and {runs}" if seconds else runs


def _whole_run(run: Run | None) -> float | None:
    """Seconds of a finished run made at one go: a resumed one has not recorded its first part."""
    if run is None or not run.finished or run.train_s is None:
        return None
    return run.total_s


def _keys(cell: Cell) -> list[Hashable]:
    """What a run shares with others, the closest likeness first."""
    config = cell.config
    near = (cell.grid, config.task, config.pair, config.model.name)
    return [cell.folder.parent, near, _loosest(config.kind, config.model.name)]


def _loosest(kind: str, model: str | None) -> Hashable:
    return (kind, model)
