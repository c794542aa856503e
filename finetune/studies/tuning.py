"""Tuning at equal budget: as many trials of every variant, each of which is then run with its best values.

A trial is a run of its own below ``ROOT/tune``, of a seed that the comparison does not have. It is given no
test rows and scored on validation rows (``RunConfig.trial``). It is spent once its record says that it has
finished or failed: a failed one is never chosen and never tried again. What is planned follows from the
file of the study and these records alone, so that a study goes on from anywhere, and twice comes to the same.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from finetune.config import tuned
from finetune.config.build import checked
from finetune.config.loading import merge, nest
from finetune.config.schema import SearchRange
from finetune.errors import UserError, shown
from finetune.metrics import registry
from finetune.metrics.registry import Metric
from finetune.studies import search
from finetune.studies.axes import Point, check_count, values_folder
from finetune.studies.grid import Cell, add, cell_at, check_train, seed_numbers, whole
from finetune.studies.search import Outcome, Values
from finetune.studies.state import RunState, Status, look

FOLDER = "tune"  # of trials, below the root
TUNED = "tuned"  # of the runs with chosen values, below the folder of those with common ones
SEEDS = [1000]
"""Of trials where nothing else is said: no comparison begins with it."""
OWN = ("seeds", "trials")  # of ``tune``; all others are keys of the configuration
EXAMPLE = "tune: {train.learning_rate: [1e-4, 3e-4, 1e-3]}"

See = Callable[[Cell], Status]


@dataclass(frozen=True)
class Tune:
    """What ``tune`` of a grid asks for."""

    keys: Mapping[str, list[Any] | SearchRange]  # by dotted name
    trials: int | None  # of a search, for each variant; None: every combination of the lists
    seeds: tuple[int, ...]  # of every trial

    @property
    def many(self) -> int:
        """Trials of a variant."""
        if self.trials is not None:
            return self.trials
        return math.prod(len(values) for values in self.keys.values() if isinstance(values, list))

    def grid(self) -> Iterator[Values]:
        """Every combination of the lists, the last key fastest."""
        lists = [values for values in self.keys.values() if isinstance(values, list)]
        return (dict(zip(self.keys, values, strict=True)) for values in itertools.product(*lists))

    def section(self, metric: Metric) -> dict[str, Any]:
        """``tuning`` of the configuration of a run with chosen values, the same for every variant."""
        plain = {
            key: asdict(values) if isinstance(values, SearchRange) else values
            for key, values in self.keys.items()
        }
        return {
            "keys": plain,
            "search": "grid" if self.trials is None else "tpe",
            "trials": self.many,
            "seeds": list(self.seeds),
            "metric": metric.name,
        }


@dataclass
class Planned:
    """The runs of a tuning; ``notes``: a line for each choice."""

    cells: dict[Path, Cell] = field(default_factory=dict)  # trials, and runs whose values are chosen
    awaited: list[Cell] = field(default_factory=list)  # whose values are not known yet: others stand for them
    notes: list[str] = field(default_factory=list)
    untuned: list[str] = field(default_factory=list)  # a line for each variant whose trials have all failed

    def around(self, cells: Iterable[Cell]) -> tuple[Cell, ...]:
        """The trials, then ``cells``, the runs with common values, then those with chosen ones."""
        trials = [cell for cell in self.cells.values() if cell.config.trial]
        chosen = [cell for cell in self.cells.values() if not cell.config.trial]
        return (*trials, *cells, *chosen)


@dataclass(frozen=True)
class _Trial:
    values: Values
    cells: tuple[Cell, ...]  # one a seed


def read(value: Any, seeds: Collection[int], varied: Collection[str] = ()) -> Tune:
    """Reads ``tune`` of a grid, whose runs have ``seeds`` and whose axes are ``varied``.

    Raises ``UserError``.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"tune must hold keys and the values to try, e.g. {EXAMPLE}, not {shown(value)}")
    keys: dict[str, list[Any] | SearchRange] = {}
    for key, values in _leaves({key: each for key, each in value.items() if key not in OWN}):
        tuned.check(key)
        if key in varied:
            raise UserError(f"{key} is an axis of the grid: tune it, or vary it")
        if key in keys:
            raise UserError(f"the key '{key}' is in tune twice")
        keys[key] = _values(key, values)
    if not keys:
        raise UserError(f"tune names no key: give one with the values to try, e.g. {EXAMPLE}")
    trials = value.get("trials")
    if trials is not None and (type(trials) is not int or trials < 1):
        raise UserError(f"tune: trials must be a whole number from 1, not {shown(trials)}")
    ranges = [key for key, values in keys.items() if isinstance(values, SearchRange)]
    if ranges and trials is None:
        raise UserError(
            f"tune: a range ({ranges[0]}) is searched: say by how many trials of each variant, e.g. "
            "trials: 20, or give a list of values"
        )
    own = seed_numbers(value.get("seeds", SEEDS), "seeds of tune")
    if shared := sorted(set(own) & set(seeds)):
        raise UserError(
            f"tune: seed {shared[0]} is one of the comparison, which would be chosen for: give its trials "
            f"other seeds, e.g. seeds: [{max([*seeds, *SEEDS]) + 1}]"
        )
    tune = Tune(keys, trials, tuple(own))
    check_count(tune.many * len(own))
    return tune


def _leaves(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys by dotted names, however they are nested; a range is a value, and no mapping of keys."""
    for key, value in values.items():
        if isinstance(value, Mapping) and not {"low", "high"} & set(value):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _values(key: str, values: Any) -> list[Any] | SearchRange:
    if isinstance(values, Mapping):
        found = checked(SearchRange, values, where=f"{key}.")
        if not found.low < found.high or (found.log and found.low <= 0):
            above = " above 0" if found.log else ""
            raise UserError(
                f"tune: {key} must reach from a low{above} to a greater high, not {shown(dict(values))}"
            )
        return found
    if not isinstance(values, list) or len(values) < 2:
        raise UserError(
            f"tune: {key} takes two values or more, e.g. [1e-4, 3e-4, 1e-3], or a range such as "
            f"{{low: 1e-5, high: 1e-3, log: true}}, not {shown(values)}"
        )
    if repeated := [value for place, value in enumerate(values) if value in values[:place]]:
        raise UserError(f"tune: {key} has the value {shown(repeated[0])} twice")
    return values


def plan(
    points: Sequence[Point],
    variants: Sequence[str],
    seeds: Sequence[int],
    tune: Tune,
    *,
    grid: str = "",
    root: Path | None = None,
    diagnosed: Collection[int] = (),
    see: See = look,
) -> Planned:
    """Plans the trials of every variant at each point, and its runs with the best values once all are spent.

    Trials come first, in the order in which they were declared. Raises ``UserError``, also where one variant
    would have fewer trials than another.
    """
    planned, chosen, seen = Planned(), list[Cell](), cache(see)
    for point in points:
        values = whole(point, variants)
        keys = {variant: _own(point, values, variant, tune, seeds[0]) for variant in variants}
        _check_equal(keys, tune)
        for variant in variants:
            course = _Course(
                point,
                values,
                variant,
                tune,
                keys[variant],
                grid=grid,
                root=root,
                cells=planned.cells,
                see=seen,
            )
            runs = [
                replace(cell, grid=grid, root=root, diagnose=cell.config.seed in diagnosed)
                for cell in course.runs(seeds)
            ]
            if course.waits:
                planned.awaited += [*course.unknown(), *runs]
            elif course.best is None:
                planned.untuned.append(course.failure())
            else:
                chosen += runs
                planned.notes.append(course.choice())
    for cell in sorted(chosen, key=lambda cell: seeds.index(cell.config.seed)):
        add(planned.cells, cell)
    planned.awaited = list({cell.folder: cell for cell in planned.awaited}.values())
    planned.notes, planned.untuned = (
        list(dict.fromkeys(lines)) for lines in (planned.notes, planned.untuned)
    )
    return planned


def _own(point: Point, values: Values, variant: str, tune: Tune, seed: int) -> list[str]:
    """The tuned keys that a variant has: those of which two values make two runs of it."""
    own = []
    for key, among in tune.keys.items():
        two = [among.low, among.high] if isinstance(among, SearchRange) else among[:2]
        laid = [_over(values, {key: each}) for each in two]
        for each in laid:  # the ends of a range too, which a search may come to after hours
            check_train(values["kind"], each["train"], values["train"])
        one, other = (cell_at(point, each, variant, seed).config for each in laid)
        own += [key] if one != other else []
    return own


def _check_equal(keys: Mapping[str, list[str]], tune: Tune) -> None:
    """Raises ``UserError`` where a variant would have fewer trials than another, or only one."""
    for variant, own in keys.items():
        missing = [key for key in tune.keys if key not in own]
        if missing and (tune.trials is None or not own):
            advice = "tune a key that it has"
            if own:
                advice = "give trials: N, of which each variant has as many over the keys that it has"
            raise UserError(
                f"{missing[0]} changes nothing of {variant}, whose trials would be fewer than those of other "
                f"variants: {advice}, or leave it out of tune"
            )


def _over(values: Values, chosen: Values, **further: Any) -> dict[str, Any]:
    laid = dict(values)
    for key, value in chosen.items():
        laid = merge(laid, nest(key, value))
    return laid | further


class _Course:
    """The tuning of one variant at one point of a grid, as far as it has come."""

    def __init__(
        self,
        point: Point,
        values: Values,
        variant: str,
        tune: Tune,
        own: Sequence[str],
        *,
        grid: str,
        root: Path | None,
        cells: dict[Path, Cell],
        see: See,
    ) -> None:
        """``own``: the tuned keys that the variant has; its trials are added to ``cells``."""
        self.point, self.values, self.variant, self.tune = point, values, variant, tune
        self.grid, self.root, self.cells, self.see = grid, root, cells, see
        self.metric = registry.primary(values["kind"])
        self.trials = self._trials(own)
        outcomes = [self._outcome(trial) for trial in self.trials]
        self.waits = len(self.trials) < tune.many or None in outcomes
        self.scores = [outcome.score if outcome else None for outcome in outcomes]
        known = [score for score in self.scores if score is not None]
        best = max if self.metric.higher_is_better else min
        self.score = best(known) if known and not self.waits else None
        self.best = None if self.score is None else self.trials[self.scores.index(self.score)]
        """The trial that is chosen, the first of equal ones; ``None`` before the end, or if all failed."""

    def _trials(self, own: Sequence[str]) -> list[_Trial]:
        """The trials that are known by now, in their order."""
        if self.tune.trials is None:
            return [self._trial(values) for values in self.tune.grid()]
        tried = search.points(
            {key: self.tune.keys[key] for key in own},
            self.tune.trials,
            lambda values: self._outcome(self._trial(values)),
            higher_is_better=self.metric.higher_is_better,
        )
        return [self._trial(values) for values in tried]

    def _trial(self, tried: Values) -> _Trial:
        below = self.point.output.relative_to(self.root) if self.root else Path()
        place = (self.root or self.point.output) / FOLDER / below / values_folder(tried)
        laid = _over(self.values, tried, trial=True, until=None)
        check_train(laid["kind"], laid["train"], self.values["train"])
        cells = (
            replace(
                cell_at(replace(self.point, output=place), laid, self.variant, seed),
                grid=self.grid,
                root=self.root,
            )
            for seed in self.tune.seeds
        )
        return _Trial(tried, tuple(add(self.cells, cell) for cell in cells))

    def _outcome(self, trial: _Trial) -> Outcome | None:
        """The mean score over its seeds, none where one has failed; ``None`` before all are spent."""
        statuses = [self.see(cell) for cell in trial.cells]
        if any(status.state is not RunState.DONE or status.run is None for status in statuses):
            return None
        finished = [status.run for status in statuses if status.run and status.run.finished]
        scores = [run.metrics[self.metric.name] for run in finished if self.metric.name in run.metrics]
        return Outcome(fmean(scores) if len(scores) == len(statuses) else None)

    def unknown(self) -> list[Cell]:
        """Cells in the place of the trials that follow from others."""
        return [
            replace(cell, folder=cell.folder / f"later-{number}")
            for number in range(len(self.trials), self.tune.many)
            for cell in self.trials[0].cells
        ]

    def runs(self, seeds: Sequence[int]) -> list[Cell]:
        """The runs with the values that are chosen, or with common ones in their place."""
        chosen = self.best.values if self.best else {}
        laid = _over(self.values, chosen, tuning=self.tune.section(self.metric))
        there = replace(self.point, output=self.point.output / TUNED)
        return [cell_at(there, laid, self.variant, seed) for seed in seeds]

    def choice(self) -> str:
        """What is chosen, in a line."""
        assert self.best is not None and self.score is not None
        values = ", ".join(f"{key} {value}" for key, value in self.best.values.items())
        equal = self.scores.count(self.score)
        best = "the best" if equal == 1 else f"the first of {equal} equal ones"
        score = f"{self.metric.name} {self.metric.text(self.score)}"
        failed = self.scores.count(None)
        spent = f"{len(self.trials)} trials" + (f", of which {failed} failed" if failed else "")
        return f"{self._place}{values}, by {score} on validation rows, {best} of {spent}"

    def failure(self) -> str:
        """Why nothing is chosen, in a line."""
        cells = [cell for trial in self.trials for cell in trial.cells]
        told = ((cell, reason) for cell in cells if (reason := self.see(cell).reason))
        cell, reason = next(told, (cells[0], f"it has finished without a finite {self.metric.name}"))
        return (
            f"{self._place}all {len(self.trials)} trials have failed, so that it has no tuned run "
            f"({reason}; remove {cell.folder} to try that one again)"
        )

    @property
    def _place(self) -> str:
        return f"grid {self.grid}, {self.variant}: " if self.grid else f"{self.variant}: "
