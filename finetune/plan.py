"""A merged configuration -> the grid of runs, checked whole before the first one starts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune import data, record, source
from finetune.arguments import check_train, resolve_precision
from finetune.attention import VARIANTS, get_variant
from finetune.config import KINDS, Kind, RunConfig, as_dict, build, differing_keys, preset_names, read_preset
from finetune.errors import UserError, unknown
from tasks import TASKS, Task, check_pair, get_task

State = Literal["new", "finished", "resume"]


@dataclass(frozen=True)
class Run:
    """One cell of the grid: its configuration, its folder and what that folder holds already."""

    config: RunConfig
    folder: Path
    state: State


@dataclass(frozen=True)
class Grid:
    """Runs that share one task and one data set."""

    task: Task
    pair: str | None
    source: source.Source
    runs: list[Run]
    root: Path


def plan_grid(kind: Kind, task_name: str, pair: str | None, values: Mapping[str, Any], root: Path) -> Grid:
    """Check everything that can be checked before training, and lay out one run a variant and seed.

    ``values`` is a merged preset with its ``variants`` and ``seeds``. Raises ``UserError``.
    """
    task = _task_of_kind(task_name, kind)
    pair = check_pair(task, pair)
    values = dict(values)
    variants, seeds = _grid_axis(values, "variants", str), _grid_axis(values, "seeds", int)
    first = build(
        {**values, "kind": kind, "task": task_name, "pair": pair, "seed": 0, **_arm(values, variants[0])}
    )
    _check_parameters(first.attention.parameters, variants)
    check_train(kind, first.train)
    found = source.resolve(task, pair, first.data.source)
    print(found.describe(), flush=True)
    fixed = {
        "kind": kind,
        "task": task.name,
        "pair": pair,
        "precision": resolve_precision(first.precision),
        "data": {
            **values["data"],
            "source": found.location if found.kind == "local" else _settled(found.kind),
        },
    }
    configs = [
        build({**values, **fixed, "seed": seed, **_arm(values, variant)})
        for seed in seeds
        for variant in variants
    ]
    folders = [record.run_folder(root, config) for config in configs]
    _check_writable(root)
    runs = [
        Run(config, folder, inspect(folder, config)) for config, folder in zip(configs, folders, strict=True)
    ]
    return Grid(task, pair, found, runs, root)


def inspect(folder: Path, config: RunConfig) -> State:
    """What a run folder holds: nothing, a finished run, or one to resume.

    Raises ``UserError`` for a record of another configuration (naming the keys), a damaged record, and a
    folder of something else.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return "new"
    if not (folder / record.FILE).is_file():
        raise UserError(f"{folder} is not empty and holds no run: choose another --output, or empty it")
    found = record.read(folder)
    keys = differing_keys(found["config"], as_dict(config))
    if keys:
        raise UserError(
            f"{folder} holds a run with another configuration; it differs in {', '.join(keys)}. "
            "Choose another folder with --output, or remove this one"
        )
    return "finished" if found["status"] == "finished" else "resume"


def validate(task_name: str | None, pair: str | None, wanted: str) -> list[str]:
    """Check every shipped preset and task; with a task, load its rows as training would. Lines to print."""
    lines = []
    for kind in KINDS:
        for preset in preset_names(kind):
            preset_config(kind, preset)
            lines.append(f"preset {kind} {preset}: ok")
    if task_name is None:
        return [*lines, *(f"task {name}: ok" for name in sorted(TASKS))]
    task = get_task(task_name)
    pair = check_pair(task, pair)
    values = read_preset(task.kind, "full")
    found = source.resolve(task, pair, wanted)
    loaded = data.load(task, pair, found, preset_config(task.kind, "full").data)
    lines.append(found.describe())
    rows = ", ".join(f"{facts['rows']} {name}" for name, facts in loaded.info["splits"].items())
    return [
        *lines,
        f"task {task.name}: ok, {rows} rows ({values['data']['validation_rows']} asked for validation)",
    ]


def preset_config(kind: Kind, preset: str) -> RunConfig:
    """Build a preset's configuration, checking its variants and its TrainingArguments."""
    values = read_preset(kind, preset)
    variants = _grid_axis(values, "variants", str)
    _grid_axis(values, "seeds", int)
    config = build(
        {**values, "kind": kind, "task": "any", "pair": None, "seed": 0, **_arm(values, variants[0])}
    )
    check_train(kind, config.train)
    return config


def _task_of_kind(name: str, kind: Kind) -> Task:
    task = get_task(name)
    if task.kind != kind:
        raise UserError(f"'{task.name}' is a {task.kind} task: use finetune {KINDS[task.kind]}")
    return task


def _grid_axis(values: dict[str, Any], key: str, item: type) -> list[Any]:
    """Take ``variants`` or ``seeds`` out of the values: a list without repeats."""
    found = values.pop(key, None)
    if not isinstance(found, list) or not found or not all(type(entry) is item for entry in found):
        raise UserError(f"{key} must be a list of {'names' if item is str else 'integers'}, not {found!r}")
    return list(dict.fromkeys(found))


def _arm(values: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """The attention of one arm: parameters go to the variants that have them, a scope to those that differ
    from the baseline (softmax within a scope and softmax outside it is softmax everywhere)."""
    declared = get_variant(variant).parameters
    attention = values.get("attention")
    if not isinstance(attention, Mapping):
        raise UserError("the key 'attention' must hold scope, kernel and parameters")
    parameters = attention.get("parameters") or {}
    arm = {
        **attention,
        "variant": variant,
        "parameters": {k: v for k, v in parameters.items() if k in declared},
    }
    return {"attention": arm if variant != "softmax" else {**arm, "scope": "all"}}


def _check_parameters(parameters: Mapping[str, float], variants: list[str]) -> None:
    declared = {name for variant in variants for name in VARIANTS[variant].parameters}
    for name in parameters:
        if name not in declared:
            raise unknown(f"parameter of {', '.join(variants)}", name, declared)


def _settled(kind: str) -> str:
    """The Hub's cache holds the Hub's rows, so a run is the same from either."""
    return "hub" if kind == "cache" else kind


def _check_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write runs to {root}: {error.strerror}") from error
    if not os.access(root, os.W_OK):
        raise UserError(f"cannot write runs to {root}: permission denied")
