"""Reads a study file into a checked ``Study``, with all of its runs in the order of running."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from finetune.config.identity import as_dict
from finetune.config.lineage import Source, source_of
from finetune.config.loading import read_yaml
from finetune.config.loading import shipped as shipped_configs
from finetune.errors import UserError, shown, unknown
from finetune.records import pretraining
from finetune.studies.axes import check_count
from finetune.studies.grid import Cell, expand, seed_numbers
from finetune.studies.until import OPTIONS, due, planned
from finetune.system.processes import python_module

KEYS = {"name", "workers", "on", "diagnose", "seeds", "until", "grids"}
ON_FILE = "on.yaml"  # what command lines have said of the engine
JOBS = "jobs"  # an engine's own files
OWN = ("logs", "configs", JOBS, ON_FILE)  # beside the grids, below the root
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
    given: tuple[str, ...] = ()  # options of the command line that change its runs

    def command(self, *options: str) -> list[str]:
        """The command of this study with further options, for a process of its own, here or on a worker."""
        words = [*python_module("finetune"), "study", self.file, "--output", str(self.root)]
        return [*words, *self.given, *options]

    @property
    def title(self) -> str:
        """Its name as a study; that of its task where it is the grid of one command, without a file."""
        return f"study {self.name}" if self.file else self.name


def load(name_or_path: str, root: Path | None = None, until: Mapping[str, Any] | None = None) -> Study:
    """Reads a study file, or a shipped study by its name. ``root`` None: ``runs/<the study's name>``.

    ``until``: what the command line says of it, over the file's.

    Raises ``UserError`` for an unknown key (with the nearest one) and for any value that no run would take.
    """
    content = content_of(name_or_path)
    for key in content:
        if key not in KEYS:
            raise unknown(f"key of the study {name_or_path}", key, KEYS)
    name = content.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"{name_or_path}: name must be a word such as agnews-ablation, not {shown(name)}")
    root = root or Path("runs", name)
    diagnosed = _seeds(content, "diagnose", name_or_path)
    given = dict(until or {})
    every = _cells(content, given, diagnosed, root, name_or_path)
    cells = tuple(cell for cell in every if not cell.look)
    unused = set(diagnosed or ()) - {cell.config.seed for cell in every}
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
        later=tuple(cell for cell in every if cell.look),
        given=tuple(word for key, value in given.items() for word in (OPTIONS[key], f"{value:g}")),
    )


def grown(study: Study) -> Study:
    """The study with the runs that are due by now: those of further seeds, where looks have ended."""
    while study.later and (added := due(study.cells, study.later)):
        later = tuple(cell for cell in study.later if cell not in added)
        study = replace(study, cells=(*study.cells, *added), later=later)
    return study


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


def _cells(
    study: Mapping[str, Any],
    given: Mapping[str, Any],
    diagnosed: list[int] | None,
    root: Path,
    where: str,
) -> tuple[Cell, ...]:
    """The cells of all grids, seed by seed, so that a study that is stopped half-way has whole pairs.

    A run that begins from another one comes after it. ``given``: of ``until``, by the command line.
    """
    grids, seeds = study.get("grids"), _seeds(study, "seeds", where)
    if not isinstance(grids, dict) or not grids:
        raise UserError(
            f"{where}: grids must name at least one grid, e.g. grids: {{agnews: {{task: agnews}}}}"
        )
    ranked: list[tuple[int, Cell]] = []
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
            cells = expand(name, grid, own, root, frozenset(diagnosed or ()))
            if plan:
                from finetune.statistics.sequential import looks_of  # scipy, which no help waits for

                looks = looks_of(plan)
                cells = [replace(cell, look=looks.look_of(own.index(cell.config.seed))) for cell in cells]
            if origins:
                ranks = {cell: rank for rank, cell in ranked if cell.grid == origins}
                cells = [replace(cell, origin=_origin(cell, ranks)) for cell in cells]
        except UserError as error:
            raise UserError(f"{where}, grid '{name}': {error}") from error
        check_count(len(ranked) + len(cells))
        after = {cell: rank for rank, cell in ranked}
        ranked += [
            (max(own.index(cell.config.seed), after[cell.origin] if cell.origin else 0), cell)
            for cell in cells
        ]
    return tuple(cell for _, cell in sorted(ranked, key=lambda pair: pair[0]))


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


def _origin(cell: Cell, others: Iterable[Cell]) -> Cell:
    """The one of ``others``, the runs of a grid, that ``cell`` begins from. Raises ``UserError``."""
    source = source_of(cell.config.model.name)
    assert source is not None
    by_folder = {other.folder: other for other in others}
    known = {folder: as_dict(other.config) for folder, other in by_folder.items()}
    return by_folder[pretraining.choose(cell.config, source, known)]
