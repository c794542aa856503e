"""Expands the keys of one grid into the points of its axes: a task, a pair, and values over the preset."""

import itertools
import json
import math
import re
import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config.folders import file_name
from finetune.config.loading import merge, nest, parse_value
from finetune.config.schema import BY_GRID, ColumnsConfig, RunConfig
from finetune.errors import UserError, shown
from finetune.studies.keys import ELSEWHERE, unknown_key

OWN_KEYS = {
    "task",
    "pair",
    "objective",
    "from",
    "preset",
    "variants",
    "seeds",
    "tune",
}  # of a grid; all others are the configuration's
SECTIONS = set(RunConfig.__dataclass_fields__) - BY_GRID
COLUMNS = set(ColumnsConfig.__dataclass_fields__)  # of task: csv, short for data.columns.*
MAPPINGS = {"attention", "attention.parameters", "model.position_parameters", "train"}
MOST_RUNS = 10_000
"""Of a study; to plan so many takes a minute."""
# Keys whose values are in the name of a run's folder; an axis of any other key adds a folder above it.
NAMED_BY_FOLDER = ("model.name", "model.lora.rank", "attention.scope", "attention.start",
                   "attention.annealing_share", "attention.parameters.")  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One point of the axes: ``values`` is a configuration, or what is laid over a preset to make it one."""

    task: str  # a name, or the file of a declaration
    pair: str | None
    values: Mapping[str, Any]  # nested
    output: Path  # folder of its runs


def points(name: str, grid: Mapping[str, Any], root: Path) -> list[Point]:
    """Returns every point, tasks first and the last key of the file fastest. Raises ``UserError``."""
    if "task" not in grid:
        raise UserError("it names no task: give e.g. task: agnews")
    tasks, pairs = _names(grid["task"], "task"), _names(grid.get("pair"), "pair")
    keys = grid_keys(grid)
    axes = {key: value if _is_axis(key, value) else [value] for key, value in keys.items()}
    for key, choices in axes.items():
        if not choices:
            raise UserError(f"{key} is an empty list: give at least one value")
    # Before the product is made: a mistyped file may ask for billions.
    check_count(math.prod(map(len, axes.values())) * len(tasks) * len(pairs))
    expanded = []
    for task, pair, values in itertools.product(tasks, pairs, itertools.product(*axes.values())):
        chosen = dict(zip(axes, values, strict=True))
        folder = values_folder({key: chosen[key] for key, value in keys.items() if _is_axis(key, value)})
        nested: dict[str, Any] = {"kind": grid["objective"]} if "objective" in grid else {}
        for key, value in chosen.items():
            nested = merge(nested, nest(key, value))
        expanded.append(Point(task, pair, nested, root / name / folder))
    return expanded


def varied(grid: Mapping[str, Any]) -> list[str]:
    """The keys of a grid that are axes of it, by dotted names."""
    return [key for key, value in grid_keys(grid).items() if _is_axis(key, value)]


def check_count(runs: int) -> None:
    """Raises ``UserError`` for more runs than a study can plan."""
    if runs > MOST_RUNS:
        raise UserError(
            f"that is {runs:,} runs, and a study has at most {MOST_RUNS:,}: make studies of its parts"
        )


def value_text(value: Any) -> str:
    """``value`` as one command-line word that ``parse_value`` reads back.

    >>> [value_text(value) for value in (None, 1e-6, "linear", "1e-6", ["a"])]
    ['null', '1e-06', 'linear', '"1e-6"', '["a"]']
    """
    if isinstance(value, str) and value.strip() == value != "":
        with suppress(UserError):  # text that is no YAML, such as "[", is quoted
            if parse_value(value) == value:
                return value
    return json.dumps(value, ensure_ascii=False)


def _names(value: Any, key: str) -> list[Any]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(item, str) or (item is None and key == "pair") for item in names):
        raise UserError(f"{key} must be a name or a list of names, not {shown(value)}")
    return list(dict.fromkeys(names))


def grid_keys(grid: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the configuration that a grid sets, by dotted names, however they are nested."""
    keys: dict[str, Any] = {}
    for key, value in _leaves({key: value for key, value in grid.items() if key not in OWN_KEYS}):
        if key in ELSEWHERE:
            raise UserError(f"{key} is set by the grid: use {ELSEWHERE[key]}")
        name = f"data.columns.{key}" if key in COLUMNS else key
        section = name.partition(".")[0]
        if section not in SECTIONS:
            raise unknown_key("key of a grid", name, OWN_KEYS | COLUMNS | SECTIONS)
        if key in MAPPINGS:
            raise UserError(f"{key} must be a mapping of keys to values, not {shown(value)}")
        if name in keys:  # once nested and once dotted
            raise UserError(f"the key '{name}' is there twice")
        keys[name] = value
    return keys


def _leaves(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_axis(key: str, value: Any) -> bool:
    """Whether a key is varied: it has a list, or a list of lists where its value is a list (``metrics``)."""
    if not isinstance(value, list):
        return False
    holder: Any = RunConfig
    for part in key.split("."):
        fields = getattr(holder, "__dataclass_fields__", {})
        if part not in fields:
            return True  # below train or attention.parameters; or unknown, which the configuration refuses
        holder = fields[part].type
        if typing.get_origin(holder) is not list and typing.get_args(holder):
            holder = typing.get_args(holder)[0]  # of "list[str] | str | None", say
    takes_list = typing.get_origin(holder) is list
    return not takes_list or (bool(value) and all(isinstance(item, list) for item in value))


def values_folder(varied: Mapping[str, Any]) -> str:
    """``learning_rate-0.0001_train_rows-4000``: the varied keys that a run's own folder does not name.

    Whole dotted names where two of them end alike.
    """
    added = {key: value for key, value in varied.items() if not key.startswith(NAMED_BY_FOLDER)}
    last = [key.rpartition(".")[2] for key in added]
    names = last if len(set(last)) == len(last) else list(added)
    text = "_".join(f"{name}-{value_text(value)}" for name, value in zip(names, added.values(), strict=True))
    return file_name(re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-."))
