"""Writes the text of ``--dry-run``: the configuration that runs come to, where it is from, and each run."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.config.folders import variant_slug
from finetune.config.identity import as_dict, flatten
from finetune.config.loading import merge, nest, yaml_text
from finetune.studies import refusals
from finetune.studies.axes import NAMED_BY_FOLDER, grid_keys, value_text
from finetune.studies.file import Study, content_of
from finetune.studies.grid import Cell, preset_of
from finetune.studies.state import RunState, Status, look
from finetune.system.sheet import Sheet
from finetune.system.text import clean

Origins = Mapping[str, str]
"""Key by its dotted name -> what has set it: a preset, a file or the command line."""
SHOWN = ("task", "pair", "seed", "attention.variant", "attention.file.", *NAMED_BY_FOLDER)
"""How keys begin that the table of the runs shows in its own columns, or in the name of the folder."""


def layered(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> Origins:
    """The origins of values that are laid over each other; each layer has its name."""
    return {key: name for name, values in layers for key in flatten(values)}


def of_study(study: Study) -> dict[str, Origins]:
    """The origins of each grid of a study: its preset and its file."""
    found: dict[str, Origins] = {}
    kinds = {cell.grid: cell.config.kind for cell in study.cells}
    for name, grid in content_of(study.file)["grids"].items():
        preset = grid.get("preset", "quick")
        laid = dict.fromkeys(flatten(preset_of(kinds[name], preset)), f"preset {preset}")
        own = {key: value for key, value in grid.items() if key != "from"}
        found[name] = laid | dict.fromkeys(grid_keys(own), study.title)
    return found


def text(study: Study, origins: Mapping[str, Origins], width: float = math.inf) -> str:
    """Returns the configuration that the runs of each grid share, as YAML, and a line for each of them.

    Raises ``UserError`` for what a run would refuse.
    """
    statuses = {cell: look(cell) for cell in study.cells}
    refusals.check(statuses)
    grids: dict[str, list[Cell]] = {}
    for cell in study.cells:
        grids.setdefault(cell.grid, []).append(cell)
    sheet = Sheet(width)
    parts = [_grid(name, cells, origins.get(name, {}), statuses, sheet) for name, cells in grids.items()]
    taken = [status.reason for status in statuses.values() if status.state == RunState.OTHER]
    if taken:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        parts.append(sheet.prose(clean(f"other, which a run would refuse: {taken[0]}{more}")))
    many = f"{len(study.cells)} run{'s' * (len(study.cells) != 1)}"
    more = f", and {len(study.awaited)} more follow from trials" if study.awaited else ""
    parts.append(sheet.prose(clean(f"{study.title}: {many} in {study.root}{more}; none was begun")))
    return "\n\n".join(parts)


def _grid(
    name: str, cells: Sequence[Cell], origins: Origins, statuses: Mapping[Cell, Status], sheet: Sheet
) -> str:
    """What the runs of one grid share, and a table of them with what differs among them."""
    flat = [flatten(as_dict(cell.config)) for cell in cells]
    keys = dict.fromkeys(key for each in flat for key in each)
    absent = object()
    varied = [key for key in keys if len({repr(each.get(key, absent)) for each in flat}) > 1]
    shared: dict[str, Any] = {}
    for key in keys:
        if key not in varied:
            shared = merge(shared, nest(key, flat[0][key]))
    columns = [key for key in varied if not key.startswith(SHOWN)]
    rows = [["state", "attention", "seed", *columns, "folder"]]
    for cell, values in zip(cells, flat, strict=True):
        own = [value_text(values[key]) if key in values else "" for key in columns]
        variant, seed = variant_slug(cell.config.attention), str(cell.config.seed)
        rows.append([statuses[cell].state, variant, seed, *own, str(cell.folder)])
    head = [f"# grid {name}"] if name else []
    return "\n".join([*head, *annotated(shared, origins), "", sheet.table(rows, "llrl", keys=3)])


def annotated(values: Mapping[str, Any], origins: Origins, prefix: str = "") -> Iterator[str]:
    """Lines of YAML, each value with its origin as a comment.

    >>> print(*annotated({"train": {"learning_rate": 1e-3}}, {"train.learning_rate": "mine.yaml"}), sep="\\n")
    train:
      learning_rate: 0.001  # mine.yaml
    """
    depth = "  " * prefix.count(".")
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield f"{depth}{key}:"
            yield from annotated(value, origins, f"{name}.")
        else:
            first, *rest = yaml_text({key: value}).rstrip("\n").split("\n")
            comment = f"  # {clean(origins[name])}" if name in origins else ""
            yield depth + first + comment
            yield from (depth + line for line in rest)
