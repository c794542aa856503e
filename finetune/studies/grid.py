"""One grid of a study -> its cells: one run each, with its configuration, its folder and its command line."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from finetune.attention.variants import arm, get_variant
from finetune.config import limits
from finetune.config.build import build
from finetune.config.folders import run_folder
from finetune.config.identity import as_dict, differing_keys
from finetune.config.loading import merge, nest, read_preset
from finetune.config.schema import BASELINE, RunConfig
from finetune.errors import UserError, shown, unknown
from finetune.studies import logs
from finetune.studies.axes import Point, check_count, points, value_text
from finetune.tasks import TASK_TYPES, check_pair, get_task

PARAMETER = "attention.parameters."


@dataclass(frozen=True, eq=False)  # a cell is itself: it can be a key
class Cell:
    """One run of a study, and what to type after ``finetune`` to run it."""

    grid: str
    task: str  # what --task says
    config: RunConfig
    output: Path  # what --output says
    folder: Path  # of the run, below ``output``
    log: Path  # what its processes print
    words: tuple[str, ...]


def expand(
    name: str, grid: Mapping[str, Any], seeds: list[int], root: Path, diagnosed: frozenset[int] = frozenset()
) -> list[Cell]:
    """Every run of a grid once: seed by seed, then the axes in the order of the file, the baseline first.

    Arms that come to the same run, such as softmax at every ``attention.start``, are one cell. Runs of the
    ``diagnosed`` seeds are told to look at their attention. Raises ``UserError``.
    """
    preset = grid.get("preset", "quick")
    if not isinstance(preset, str):
        raise UserError(f"preset must be one name, not {shown(preset)}: runs of two presets are two grids")
    found = points(name, grid, root)
    variants = _variants(grid)
    _check_parameters(found, variants)
    check_count(len(seeds) * len(found) * len(variants))
    cells: dict[Path, Cell] = {}
    for seed, point, variant in itertools.product(seeds, found, variants):
        config = _config(point, preset, variant, seed)
        words = _words(point, preset, config) + (["--diagnose"] if seed in diagnosed else [])
        folder = run_folder(point.output, config)
        cell = Cell(name, point.task, config, point.output, folder, logs.path(root, folder), tuple(words))
        other = cells.setdefault(cell.folder, cell)
        if other.config != cell.config:
            keys = ", ".join(differing_keys(as_dict(other.config), as_dict(cell.config)))
            raise UserError(
                f"two runs would share the folder {cell.folder} and differ in {keys}: make two grids of them"
            )
    return list(cells.values())


def _variants(grid: Mapping[str, Any]) -> list[str]:
    """The baseline first, where it is there at all."""
    found = grid.get("variants")
    if not isinstance(found, list) or not found:
        raise UserError(f"variants must be a list of names such as [softmax, sa-softmax], not {shown(found)}")
    for name in found:
        if not isinstance(name, str):
            raise UserError(
                f"variants must be a list of names such as [softmax, sa-softmax], not {shown(found)}"
            )
        get_variant(name)  # raises for an unknown one
    return sorted(dict.fromkeys(found), key=lambda name: name != BASELINE)


def _check_parameters(found: list[Point], variants: list[str]) -> None:
    known = {name for variant in variants for name in get_variant(variant).parameters}
    for key in found[0].keys:
        if key.startswith(PARAMETER) and key.removeprefix(PARAMETER) not in known:
            raise unknown(f"parameter of {', '.join(variants)}", key.removeprefix(PARAMETER), known)


def _config(point: Point, preset: str, variant: str, seed: int) -> RunConfig:
    """The configuration that the command line comes to, but for what is settled when the run starts."""
    task = get_task(point.task)
    base = _preset(task.kind, preset)
    values = {key: value for key, value in base.items() if key not in ("variants", "seeds")}
    for key, value in point.keys.items():
        values = merge(values, nest(key, value))
    _check_train(task.kind, values["train"], base["train"])
    values |= {"kind": task.kind, "task": task.name, "pair": check_pair(task, point.pair), "seed": seed}
    return build({**values, "attention": arm(values["attention"], variant)})


_preset = cache(read_preset)  # a study builds hundreds of cells from it; nothing changes it


def _check_train(kind: str, train: Mapping[str, Any], preset: Mapping[str, Any]) -> None:
    """A key of the preset with a like value is taken; transformers is asked about others, in seconds."""
    limits.check(train)
    doubtful = {key: value for key, value in train.items() if not _is_like(value, preset.get(key))}
    if doubtful:
        from finetune.training.arguments import check_train, resolve_bf16

        check_train(kind, resolve_bf16(doubtful))


def _is_like(value: Any, known: Any) -> bool:
    if type(value) is not type(known):
        return False
    return value == known or isinstance(value, bool) or (isinstance(value, int | float) and value > 0)


def _words(point: Point, preset: str, config: RunConfig) -> list[str]:
    """What is typed for a run: its task, its arm, and the keys of its point."""
    words = [TASK_TYPES[config.kind].verb, "--task", point.task]
    words += ["--pair", config.pair] if config.pair else []
    file = config.attention.file
    variant = file.path if file else config.attention.variant
    words += ["--preset", preset, "--attention", variant, "--seeds", str(config.seed)]
    words += ["--output", str(point.output)]
    for key, value in point.keys.items():
        if _has(config, key):
            text = value_text(value)
            words += [f"--{key}={text}"] if text.startswith("-") else [f"--{key}", text]
    return words


def _has(config: RunConfig, key: str) -> bool:
    """Whether a key says something about this arm; it is dropped otherwise."""
    attention = config.attention
    if key in ("attention.scope", "attention.start"):
        return attention.variant != BASELINE
    if key == "attention.annealing_share":
        return attention.start == "annealed"
    return not key.startswith(PARAMETER) or key.removeprefix(PARAMETER) in attention.parameters
