"""Reads a study file into a checked ``Study``, with all of its runs in the order of running."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from finetune.config.identity import as_dict
from finetune.config.lineage import Source, source_of
from finetune.config.loading import read_yaml
from finetune.config.loading import shipped as shipped_configs
from finetune.errors import UserError, shown, unknown
from finetune.records import pretraining
from finetune.studies import tuning
from finetune.studies.axes import check_count, varied
from finetune.studies.grid import Cell, lay, plan, seed_numbers
from finetune.studies.until import OPTIONS, due, planned
from finetune.system.processes import python_module

KEYS = {"name", "workers", "on", "diagnose", "seeds", "until", "grids"}
ON_FILE = "on.yaml"  # what command lines have said of the engine
JOBS = "jobs"  # an engine's own files
OWN = ("logs", "configs", tuning.FOLDER, JOBS, ON_FILE)  # beside the grids, below the root
MOST_WORKERS = 1000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # a folder on any file system, and a word in any shell


@dataclass(frozen=True)
class Study:
    """``cells`` in the order of running. ``workers`` None: as many as the machine takes.

    ``later``: cells of seeds that are added where differences stay unknown (``studies.until``).
    """

    name: str
    file: str  # what ``load`` was given
    root: Path  # folder of the runs
    workers: int | None
    cells: tuple[Cell, ...]
    on: Mapping[str, Any] | None = None  # the engine and its options, as the file has them
    later: tuple[Cell, ...] = ()
    until: Mapping[str, Any] = field(default_factory=dict)  # what the command line says of seeds to be added
    awaited: tuple[Cell, ...] = ()  # in the place of runs that are planned once trials are spent (``tuning``)
    awaited_later: int = 0  # as many more, of seeds that are added where differences stay unknown
    notes: tuple[str, ...] = ()  # what trials have decided, a line each
    untuned: tuple[str, ...] = ()  # variants that have no tuned run, as all their trials have failed
    content: Mapping[str, Any] = field(default_factory=dict)  # of the file

    def command(self, *options: str) -> list[str]:
        """The command of this study with further options, for a process of its own, here or on a worker."""
        words = [*python_module("finetune"), "study", self.file, "--output", str(self.root)]
        given = (word for key, value in self.until.items() for word in (OPTIONS[key], str(value)))
        return [*words, *given, *options]

    @property
    def title(self) -> str:
        """Its name as a study; that of its task where it is the grid of one command, without a file."""
        return f"study {self.name}" if self.file else self.name


def load(name_or_path: str, root: Path | None = None, until: Mapping[str, Any] | None = None) -> Study:
    """Reads a study file, or a shipped study by its name. ``root`` None: ``runs/<the study's name>``.

    ``until``: what the command line says of it, over the file's. What follows from trials is planned by the
    records below the root.

    Raises ``UserError`` for an unknown key (with the nearest one) and for any value that no run would take.
    """
    return _study(content_of(name_or_path), name_or_path, root, dict(until or {}))


def _study(
    content: Mapping[str, Any], name_or_path: str, root: Path | None, given: Mapping[str, Any]
) -> Study:
    for key in content:
        if key not in KEYS:
            raise unknown(f"key of the study {name_or_path}", key, KEYS)
    name = content.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"{name_or_path}: name must be a word such as agnews-ablation, not {shown(name)}")
    root = root or Path("runs", name)
    diagnosed = _seeds(content, "diagnose", name_or_path)
    every = _cells(content, given, diagnosed, root, name_or_path)
    cells = tuple(cell for cell in every.cells if not cell.look)
    unused = set(diagnosed or ()) - {cell.config.seed for cell in every.cells}
    if unused:
        raise UserError(f"{name_or_path}: diagnose names seed {min(unused)}, which no grid runs")
    workers = content.get("workers", "auto")
    if workers != "auto" and (type(workers) is not int or workers < 1):  # true is an int, and no number
        raise UserError(
            f"{name_or_path}: workers must be auto or a whole number from 1, not {shown(workers)}"
        )
    on = content.get("on")
    if on is not None and not (isinstance(on, dict) and isinstance(on.get("engine"), str)):
        raise UserError(
            f"{name_or_path}: on must name an engine and its options, "
            f"e.g. on: {{engine: local, retries: 1}}, not {shown(on)}"
        )
    return Study(
        name,
        name_or_path,
        root,
        None if workers == "auto" else workers_of(workers),
        cells,
        on,
        later=tuple(cell for cell in every.cells if cell.look),
        until=given,
        awaited=tuple(cell for cell in every.awaited if not cell.look),
        awaited_later=sum(cell.look > 0 for cell in every.awaited),
        notes=every.notes,
        untuned=every.untuned,
        content=content,
    )


def grown(study: Study) -> Study:
    """The study with the runs that are due by now: those with the values that trials have found, where all of
    these are spent, and those of further seeds, where looks have ended. It keeps the cells that it had."""
    if study.awaited:
        study = _again(study)
    while study.later and (added := due(study.cells, study.later)):
        later = tuple(cell for cell in study.later if cell not in added)
        study = replace(study, cells=(*study.cells, *added), later=later)
    return study


def _again(study: Study) -> Study:
    """Plans a study anew from what is on record by now."""
    new = _study(study.content, study.file, study.root, study.until)
    known = {cell.folder: cell for cell in (*study.cells, *study.later)}
    of = {cell: known.get(cell.folder, cell) for cell in (*new.cells, *new.later)}
    for cell, kept in of.items():
        if kept is cell and cell.origin:
            of[cell] = replace(cell, origin=of.get(cell.origin, cell.origin))
    return replace(
        new,
        cells=tuple(of[cell] for cell in new.cells),
        later=tuple(of[cell] for cell in new.later),
    )


def with_trials(study: Study, found: tuning.Planned) -> Study:
    """A study of runs with common values, with the trials of a tuning and the runs that follow from them."""
    return replace(
        study,
        cells=found.around(study.cells),
        awaited=tuple(found.awaited),
        notes=tuple(found.notes),
        untuned=tuple(found.untuned),
    )


def content_of(name_or_path: str) -> dict[str, Any]:
    """Reads the mapping in a study file, or in a shipped study by its name. Raises ``UserError``."""
    if Path(name_or_path).is_file() or name_or_path.endswith((".yaml", ".yml")):
        return read_yaml(Path(name_or_path))
    if name_or_path not in shipped():
        raise unknown("study (give a YAML file, or a shipped one by its name)", name_or_path, shipped())
    with resources.as_file(shipped_configs().joinpath("studies", f"{name_or_path}.yaml")) as path:
        return read_yaml(path)


def shipped() -> list[str]:
    """The names of the studies that come with the program: ``configs/studies/<name>.yaml``."""
    files = shipped_configs().joinpath("studies").iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in files if entry.name.endswith(".yaml"))


def _seeds(content: Mapping[str, Any], key: str, where: str) -> list[int] | None:
    if content.get(key) is None:
        return None
    try:
        return seed_numbers(content[key], key)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def workers_of(number: int) -> int:
    """Returns ``number``, of runs at a time. Raises ``UserError`` where it is past any machine."""
    if number > MOST_WORKERS:
        raise UserError(f"{number:,} runs at a time are too many for a machine: at most {MOST_WORKERS:,}")
    return number


@dataclass(frozen=True)
class _Planned:
    """All grids together."""

    cells: tuple[Cell, ...]
    awaited: tuple[Cell, ...] = ()
    notes: tuple[str, ...] = ()
    untuned: tuple[str, ...] = ()


def _cells(
    study: Mapping[str, Any],
    given: Mapping[str, Any],
    diagnosed: list[int] | None,
    root: Path,
    where: str,
) -> _Planned:
    """The cells of all grids, seed by seed, so that a study that is stopped half-way has whole pairs.

    A run that begins from another one comes after it. ``given``: of ``until``, by the command line.
    """
    grids, seeds = study.get("grids"), _seeds(study, "seeds", where)
    if not isinstance(grids, dict) or not grids:
        raise UserError(
            f"{where}: grids must name at least one grid, e.g. grids: {{agnews: {{task: agnews}}}}"
        )
    ranked: list[tuple[int, Cell]] = []
    awaited: list[Cell] = []
    notes: list[str] = []
    untuned: list[str] = []
    for name, content in grids.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or name in OWN:
            raise UserError(f"{where}: a grid is named by a word such as agnews-scratch, not {shown(name)}")
        if not isinstance(content, dict):
            raise UserError(
                f"{where}: grid '{name}' must be a mapping of keys to values, not {shown(content)}"
            )
        above = {cell.grid for _, cell in ranked}
        own = _seeds(content, "seeds", f"{where}, grid '{name}'") or seeds
        grid = {key: value for key, value in content.items() if key not in ("seeds", "until")}
        if own is None:
            raise UserError(
                f"{where}: grid '{name}' has no seeds: give seeds: [0, 1, 2] there or above all grids"
            )
        try:
            own, plan = planned(content.get("until", study.get("until")), given, own)
            grid |= {"until": plan} if plan else {}
            origins = _begin_from(grid, above, root)
            if origins and "tune" in grids[origins]:
                raise UserError(
                    f"the grid {origins} is tuned, and has two runs of each variant and seed: begin from a "
                    "grid without tune"
                )
            found = _grid(name, grid, own, root, frozenset(diagnosed or ()))
            cells, follow = found.cells, found.awaited
            if plan:
                from finetune.statistics.sequential import looks_of  # scipy, which no help waits for

                looks = looks_of(plan)
                place = {seed: looks.look_of(number) for number, seed in enumerate(own)}
                cells, follow = (
                    tuple(replace(cell, look=place.get(cell.config.seed, 0)) for cell in each)
                    for each in (cells, follow)
                )
            if origins:
                ranks = {cell: rank for rank, cell in ranked if cell.grid == origins}
                _check_origins_of_trials(cells, {cell.config.seed for cell in ranks}, origins)
                cells, follow = (
                    tuple(replace(cell, origin=_origin(cell, ranks)) for cell in each)
                    for each in (cells, follow)
                )
        except UserError as error:
            raise UserError(f"{where}, grid '{name}': {error}") from error
        check_count(len(ranked) + len(cells) + len(awaited) + len(follow))
        awaited += follow
        notes += found.notes
        untuned += found.untuned
        after = {cell: rank for rank, cell in ranked}
        place = {seed: rank for rank, seed in enumerate(own)}  # trials have other seeds, and come first
        ranked += [
            (max(place.get(cell.config.seed, 0), after[cell.origin] if cell.origin else 0), cell)
            for cell in cells
        ]
    ordered = (cell for _, cell in sorted(ranked, key=lambda pair: pair[0]))
    return _Planned(tuple(ordered), tuple(awaited), tuple(notes), tuple(untuned))


def _grid(
    name: str, grid: Mapping[str, Any], seeds: list[int], root: Path, diagnosed: Collection[int]
) -> _Planned:
    """The cells of one grid: the trials of its tuning first, if it is tuned, then its runs."""
    points, variants = lay(name, grid, root)
    cells = plan(points, variants, seeds, grid=name, root=root, diagnosed=diagnosed)
    if "tune" not in grid:
        return _Planned(tuple(cells))
    tune = tuning.read(grid["tune"], seeds, varied(grid))
    found = tuning.plan(points, variants, seeds, tune, grid=name, root=root, diagnosed=diagnosed)
    return _Planned(found.around(cells), tuple(found.awaited), tuple(found.notes), tuple(found.untuned))


def _begin_from(grid: dict[str, Any], above: Collection[str], root: Path) -> str | None:
    """The grid that ``from`` names, in whose place ``grid`` gets the models: ``books``, or ``softmax@books``.

    ``from: [books, softmax@books]`` is an axis. Raises ``UserError`` unless it is one of the grids ``above``.
    """
    if "from" not in grid:
        return None
    value = grid.pop("from")
    words = value if isinstance(value, list) else [value]
    if not words or not all(isinstance(word, str) for word in words):
        raise UserError(f"from must name a grid above it, e.g. books or softmax@books, not {shown(value)}")
    if "model.name" in grid or "name" in (grid.get("model") or {}):
        raise UserError("from says which models the grid has: leave out model.name")
    named = [word.rpartition("@") for word in words]
    for _, _, name in named:
        if name not in above:
            raise unknown("grid (from names one above)", name, above)
    if len({name for _, _, name in named}) > 1:
        raise UserError(f"from names several grids ({', '.join(words)}): make a grid for each")
    models = [Source(root / name, variant or None).name for variant, _, name in named]
    grid["model.name"] = models if isinstance(value, list) else models[0]
    return named[0][2]


def _check_origins_of_trials(cells: Iterable[Cell], seeds: Collection[int], origins: str) -> None:
    """Raises ``UserError`` where trials have a seed that the grid that they begin from has not."""
    for cell in cells:
        if cell.config.trial and cell.config.seed not in seeds:
            raise UserError(
                f"the trials of tune have seed {cell.config.seed}, of which the grid {origins} has no run to "
                f"begin from: add {cell.config.seed} to the seeds of {origins}"
            )


def _origin(cell: Cell, others: Iterable[Cell]) -> Cell:
    """The one of ``others``, the runs of a grid, that ``cell`` begins from. Raises ``UserError``."""
    source = source_of(cell.config.model.name)
    assert source is not None
    by_folder = {other.folder: other for other in others}
    known = {folder: as_dict(other.config) for folder, other in by_folder.items()}
    return by_folder[pretraining.choose(cell.config, source, known)]
