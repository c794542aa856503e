"""A study file -> a checked ``Study``, with every run that it asks for in the order of running."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from finetune.config.loading import read_yaml
from finetune.config.loading import shipped as shipped_configs
from finetune.errors import UserError, shown, unknown
from finetune.studies.axes import check_count
from finetune.studies.grid import Cell, expand, seed_numbers

KEYS = {"name", "workers", "diagnose", "seeds", "grids"}
OWN_FOLDERS = ("logs", "configs")  # beside the grids, below the root
MOST_WORKERS = 1000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # a folder on any file system, and a word in any shell


@dataclass(frozen=True)
class Study:
    """``cells`` in the order of running. ``workers`` None: as many as the machine takes."""

    name: str
    file: str  # what ``load`` was given
    root: Path  # folder of the runs
    workers: int | None
    cells: tuple[Cell, ...]


def load(name_or_path: str, root: Path | None = None) -> Study:
    """Read a study file, or a shipped study by its name. ``root`` None: ``runs/<the study's name>``.

    Raises ``UserError`` for an unknown key (with the nearest one) and for any value that no run would take.
    """
    content = _read(name_or_path)
    for key in content:
        if key not in KEYS:
            raise unknown(f"key of the study {name_or_path}", key, KEYS)
    name = content.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"{name_or_path}: name must be a word such as agnews-ablation, not {shown(name)}")
    root = root or Path("runs", name)
    seeds, diagnosed = _seeds(content, "seeds", name_or_path), _seeds(content, "diagnose", name_or_path)
    cells = _cells(_grids(content, name_or_path), seeds, diagnosed, root, name_or_path)
    unused = set(diagnosed or ()) - {cell.config.seed for cell in cells}
    if unused:
        raise UserError(f"{name_or_path}: diagnose names seed {min(unused)}, which no grid runs")
    return Study(name, name_or_path, root, _workers(content, name_or_path), cells)


def shipped() -> list[str]:
    """The names of the studies that come with the program: ``configs/studies/<name>.yaml``."""
    files = shipped_configs().joinpath("studies").iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in files if entry.name.endswith(".yaml"))


def _read(name_or_path: str) -> dict[str, Any]:
    if Path(name_or_path).is_file() or name_or_path.endswith((".yaml", ".yml")):
        return read_yaml(Path(name_or_path))
    if name_or_path not in shipped():
        raise unknown("study (give a YAML file, or a shipped one by its name)", name_or_path, shipped())
    with resources.as_file(shipped_configs().joinpath("studies", f"{name_or_path}.yaml")) as path:
        return read_yaml(path)


def _seeds(content: Mapping[str, Any], key: str, where: str) -> list[int] | None:
    if content.get(key) is None:
        return None
    try:
        return seed_numbers(content[key], key)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _grids(content: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    grids = content.get("grids")
    if not isinstance(grids, dict) or not grids:
        raise UserError(
            f"{where}: grids must name at least one grid, e.g. grids: {{agnews: {{task: agnews}}}}"
        )
    for name, grid in grids.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or name in OWN_FOLDERS:
            raise UserError(f"{where}: a grid is named by a word such as agnews-scratch, not {shown(name)}")
        if not isinstance(grid, dict):
            raise UserError(f"{where}: grid '{name}' must be a mapping of keys to values, not {shown(grid)}")
    return grids


def _workers(content: Mapping[str, Any], where: str) -> int | None:
    found = content.get("workers", "auto")
    if found == "auto":
        return None
    if type(found) is not int or found < 1:
        raise UserError(f"{where}: workers must be auto or a whole number from 1, not {shown(found)}")
    return workers_of(found)


def workers_of(number: int) -> int:
    """``number`` of runs at a time. Raises ``UserError`` where no machine does so many."""
    if number > MOST_WORKERS:
        raise UserError(f"{number:,} runs at a time are too many for a machine: at most {MOST_WORKERS:,}")
    return number


def _cells(
    grids: Mapping[str, Mapping[str, Any]],
    seeds: list[int] | None,
    diagnosed: list[int] | None,
    root: Path,
    where: str,
) -> tuple[Cell, ...]:
    """Seed by seed over all grids, so that a study that is stopped half-way has whole pairs."""
    ranked: list[tuple[int, Cell]] = []
    for name, content in grids.items():
        grid = dict(content)
        own = _seeds(grid, "seeds", f"{where}, grid '{name}'") or seeds
        grid.pop("seeds", None)
        if own is None:
            raise UserError(
                f"{where}: grid '{name}' has no seeds: give seeds: [0, 1, 2] there or above all grids"
            )
        try:
            found = expand(name, grid, own, root, frozenset(diagnosed or ()))
        except UserError as error:
            raise UserError(f"{where}, grid '{name}': {error}") from error
        check_count(len(ranked) + len(found))
        ranked += [(own.index(cell.config.seed), cell) for cell in found]
    return tuple(cell for _, cell in sorted(ranked, key=lambda pair: pair[0]))
