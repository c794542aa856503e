"""Plans cells from points of axes, variants and seeds: one run each, with its configuration and folder.

``classify`` and ``translate`` plan a grid of one point, a study file a grid of many (``axes``).
"""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from finetune import objectives
from finetune.attention.variants import attention_for, get_variant
from finetune.config import limits
from finetune.config.build import build
from finetune.config.folders import file_name, run_folder
from finetune.config.identity import as_dict, differing_keys, flatten
from finetune.config.loading import merge, read_preset
from finetune.config.schema import BASELINE, RunConfig
from finetune.errors import UserError, shown, unknown
from finetune.studies.axes import Point, check_count, points
from finetune.system.redaction import redact
from finetune.tasks import Task, check_kind, check_pair, get_task

SEEDS = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,19}))?")  # Python reads no thousands of digits


@dataclass(frozen=True, eq=False)  # a cell is itself: it can be a key
class Cell:
    """One planned run."""

    task: str  # a name, or the file of a declaration
    config: RunConfig  # ``data.source`` and ``train.bf16`` may be "auto" until the run starts
    output: Path  # folder of the grid's runs
    folder: Path  # of this run, below ``output``
    diagnose: bool = False  # measure the attention while it trains
    grid: str = ""  # its name in a study
    root: Path | None = None  # of the study
    origin: "Cell | None" = None  # the run of the same study that it begins from, and waits for
    look: int = 0  # from which on it is run, where seeds are added until a difference is known

    @property
    def name(self) -> str:
        """``agnews--scratch-tiny--softmax--seed-0``, for files; no other run of its study has it."""
        return file_name("--".join(self.folder.relative_to(self.root or self.output).parts))

    @property
    def log(self) -> Path | None:
        """The file for what the processes of a study's run print."""
        return self.root and self.root / "logs" / f"{self.name}.log"


def plan(
    grid_points: Sequence[Point],
    variants: Sequence[str],
    seeds: Sequence[int],
    *,
    grid: str = "",
    root: Path | None = None,
    diagnosed: Collection[int] = (),
) -> list[Cell]:
    """Plans every run once: seed by seed, and within a seed the variants of each point after each other.

    Variants that come to the same run, such as softmax at every ``attention.start``, are one cell. Runs of
    the ``diagnosed`` seeds record diagnostics of their attention. Raises ``UserError``.
    """
    check_count(len(seeds) * len(grid_points) * len(variants))
    laid = [(point, whole(point, variants)) for point in grid_points]
    cells: dict[Path, Cell] = {}
    for seed, (point, values), variant in itertools.product(seeds, laid, variants):
        cell = cell_at(point, values, variant, seed)
        add(cells, replace(cell, diagnose=seed in diagnosed, grid=grid, root=root))
    return list(cells.values())


def whole(point: Point, variants: Sequence[str]) -> dict[str, Any]:
    """The values of a point with those of its task, for runs of ``variants``. Raises ``UserError``."""
    check_secrets(point.values)
    _check_attention(point.values.get("attention"), variants)
    task = task_of(point.task, point.values, point.pair)
    kind = check_kind(task, point.values.get("kind"))
    objectives.get(kind).check(point.values)
    return {**point.values, "kind": kind, "task": task.name, "pair": check_pair(task, point.pair)}


def cell_at(point: Point, values: Mapping[str, Any], variant: str, seed: int) -> Cell:
    """The run of one variant and seed with ``values``, which are whole but for these two."""
    config = build({**values, "seed": seed, "attention": attention_for(values["attention"], variant)})
    return Cell(point.task, config, point.output, run_folder(point.output, config))


def add(cells: dict[Path, Cell], cell: Cell) -> Cell:
    """Adds a cell by its folder, and returns it; or the one that is there and is the same run.

    Raises ``UserError`` where that is another run.
    """
    other = cells.setdefault(cell.folder, cell)
    if other.config != cell.config:
        keys = ", ".join(differing_keys(as_dict(other.config), as_dict(cell.config)))
        raise UserError(
            f"two runs would share the folder {cell.folder} and differ in {keys}: make two grids of them"
        )
    return other


def lay(name: str, grid: Mapping[str, Any], root: Path) -> tuple[list[Point], list[str]]:
    """The points of a grid, with whole configurations as values, and its variants, the baseline first."""
    preset = grid.get("preset", "quick")
    if not isinstance(preset, str):
        raise UserError(f"preset must be one name, not {shown(preset)}: runs of two presets are two grids")
    variants = sorted(variant_names(grid.get("variants")), key=lambda variant: variant != BASELINE)
    laid = []
    for point in points(name, grid, root):
        task = task_of(point.task, merge({"data": {"source": "auto"}}, point.values), point.pair)
        kind = check_kind(task, point.values.get("kind"))
        base = preset_of(kind, preset)
        values = merge({key: base[key] for key in base if key not in ("variants", "seeds")}, point.values)
        check_train(kind, values["train"], base["train"])
        laid.append(replace(point, values=values))
    return laid, variants


def check_train(kind: str, train: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raises ``UserError`` for a value of ``train`` that no run takes; ``known`` are a preset's."""
    limits.check(train)
    doubtful = {k: v for k, v in train.items() if not is_like(v, known.get(k))}
    if doubtful:  # transformers takes seconds to import, and accepts what is like the preset's
        from finetune.training import arguments

        arguments.check_train(kind, arguments.resolve_bf16(doubtful))


def task_of(word: str, values: Mapping[str, Any], pair: str | None) -> Task:
    """The task that ``word`` names; that of a table where a configuration's values hold ``data.columns``."""
    data = values.get("data")
    return get_task(word, data if isinstance(data, Mapping) else None, pair)


preset_of = cache(read_preset)  # a study builds hundreds of cells from it; nothing changes it


def variant_names(value: Any) -> list[str]:
    """``variants`` of a preset or a grid, without repeats. Raises ``UserError``."""
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise UserError(f"variants must be a list of names such as [softmax, sa-softmax], not {shown(value)}")
    for name in value:
        get_variant(name)  # raises for an unknown one
    return list(dict.fromkeys(value))


def seed_numbers(value: Any, key: str = "seeds") -> list[int]:
    """``seeds`` of a preset, a study or a grid, without repeats. Raises ``UserError``."""
    seeds = seeds_in(value, key) if isinstance(value, str) else value
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        example = "such as [0, 1, 2], or a range such as 0-5"
        raise UserError(f"{key} must be a list of whole numbers {example}, not {shown(value)}")
    return list(dict.fromkeys(seeds))


def seeds_in(text: str, key: str) -> list[int]:
    """Reads numbers and ranges of them; ``key`` begins the message of the ``UserError``.

    >>> seeds_in("0-2,7", "seeds")
    [0, 1, 2, 7]
    """
    seeds: list[int] = []
    for word in text.replace(",", " ").split():
        read = SEEDS.fullmatch(word)
        if read is None:
            raise UserError(
                f"{key} takes whole numbers from 0, e.g. 0,1,2, and ranges such as 0-5, not {shown(word)}"
            )
        first, last = int(read[1]), int(read[2] or read[1])
        if last < first:
            raise UserError(f"{key} takes ranges from the lower number: {last}-{first}, not {word}")
        check_count(len(seeds) + last - first + 1)
        seeds += range(first, last + 1)
    return seeds


def check_secrets(values: Mapping[str, Any]) -> None:
    """Raises ``UserError`` for a secret, since a configuration is recorded as it is, to be compared."""
    texts = {key: value for key, value in flatten(values).items() if isinstance(value, str)}
    if redact(together := "\n".join(texts.values())) == together:  # once for all: each asks the environment
        return
    for key, value in texts.items():
        if redact(value) != value:
            raise UserError(
                f"{key} holds a password or token ({redact(value)}), and every record would show it: leave "
                "it out; a token of the Hub goes into the environment variable HF_TOKEN"
            )


def _check_attention(attention: Any, variants: Sequence[str]) -> None:
    """Raises ``UserError`` for one of attention.parameters that belongs to none of the variants."""
    if not isinstance(attention, Mapping) or not isinstance(attention.get("parameters"), Mapping):
        raise UserError("attention must hold scope, kernel and parameters, and parameters names and numbers")
    if "variant" in attention or "file" in attention:
        raise UserError("attention.variant is set by the grid: use --attention, or variants in the YAML")
    known = {name for variant in variants for name in get_variant(variant).parameters}
    for name in attention["parameters"]:
        if name not in known:
            raise unknown(f"parameter of {', '.join(variants)}", name, known)


def is_like(value: Any, known: Any) -> bool:
    """Whether ``value`` is valid because the preset's is: equal, a flag, another positive number, or these
    under the same names."""
    if type(value) is not type(known):
        return False
    if isinstance(value, dict) and value.keys() == known.keys():
        return all(is_like(value[name], known[name]) for name in value)
    return value == known or isinstance(value, bool) or (isinstance(value, int | float) and value > 0)
