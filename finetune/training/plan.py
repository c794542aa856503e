"""A merged configuration -> the grid of runs, checked whole before the first one starts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from finetune.attention.variants import arm, get_variant
from finetune.config import folders
from finetune.config.build import build
from finetune.config.identity import as_dict, flatten, unlike
from finetune.config.loading import preset_names, read_preset
from finetune.config.schema import RunConfig
from finetune.data import dataset, sources
from finetune.errors import UserError, shown, unknown
from finetune.metrics.compute import load_metric
from finetune.models.pretrained import SCRATCH, build_tokenizer
from finetune.models.scratch import SIZES
from finetune.records import manifest, store
from finetune.system import environment
from finetune.system.redaction import redact
from finetune.system.text import clean, say
from finetune.tasks import TASK_TYPES, TASKS, Task, check_pair, get_task
from finetune.training import effects
from finetune.training.arguments import resolve_bf16, training_arguments

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
    source: sources.Source
    runs: list[Run]
    root: Path
    diagnose: bool  # look at the attention of each run while it trains


def plan_grid(
    kind: str,
    task_name: str,
    pair: str | None,
    values: Mapping[str, Any],
    root: Path,
    *,
    diagnose: bool = False,
) -> Grid:
    """Check everything that can be checked before training, and lay out one run a variant and seed.

    ``values`` is a merged preset with its ``variants`` and ``seeds``. Raises ``UserError``.
    """
    task = _task_of_kind(task_name, kind)
    pair = check_pair(task, pair)
    values = {**values, "kind": kind, "task": task.name, "pair": pair}
    variants, seeds = _grid_axis(values, "variants", str), _grid_axis(values, "seeds", int)
    _check_parameters(values, variants)
    values["train"] = resolve_bf16(values.get("train"))
    first, *_ = [
        build({**values, "seed": seeds[0], "attention": arm(values["attention"], variant)})
        for variant in variants
    ]
    for note in check(first, root):
        say(note)
    found = sources.resolve(task, pair, first.data.source)
    say(found.describe())
    # Where a folder lies decides nothing: the record keeps it, and fingerprints tell whether rows are equal.
    fixed = {"data": {**values["data"], "source": _settled(found.kind)}}
    configs = [
        build({**values, **fixed, "seed": seed, "attention": arm(values["attention"], variant)})
        for seed in seeds
        for variant in variants
    ]
    places = [folders.run_folder(root, config) for config in configs]
    _check_writable(root)
    runs = [
        Run(config, folder, inspect(folder, config)) for config, folder in zip(configs, places, strict=True)
    ]
    if any(run.state != "finished" for run in runs):
        check_model(first)
    return Grid(task, pair, found, runs, root, diagnose)


def check(config: RunConfig, folder: Path) -> list[str]:
    """Hold a run to what can be known without rows and model; lines that are worth a word.

    Raises ``UserError``.
    """
    _check_secrets(config)
    arguments = training_arguments(config, folder)
    _check_devices()
    for name in config.metrics:
        load_metric(name)
    return effects.notes(config.kind, config.train, arguments)


def _check_secrets(config: RunConfig) -> None:
    """A configuration is written down as it is, and must be to be compared: no secret may be in it."""
    for key, value in flatten(as_dict(config)).items():
        if isinstance(value, str) and redact(value) != value:
            raise UserError(
                f"{key} holds a password or token ({redact(value)}), and every record would show it: leave "
                "it out; a token of the Hub goes into the environment variable HF_TOKEN"
            )


def inspect(folder: Path, config: RunConfig) -> State:
    """What a run folder holds: nothing, a finished run, or one to resume, also where its files are not whole.

    Raises ``UserError`` for a record of another configuration (naming the keys), a damaged record, and a
    folder of something else.
    """
    try:
        # A killed first write leaves a hidden temporary file, and desktops leave files of their own.
        names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    except FileNotFoundError:
        return "new"
    except OSError as error:
        raise UserError(f"cannot use the run folder {folder}: {error.strerror}") from error
    if not names:
        return "new"
    if not (folder / store.FILE).is_file():
        raise UserError(f"{folder} is not empty and holds no run: choose another --output, or empty it")
    found = store.read(folder)
    keys = unlike(found["config"], as_dict(config))
    if keys:
        raise UserError(
            f"{folder} holds a run with another configuration; it differs in {', '.join(keys)}. "
            "Choose another folder with --output, or remove this one"
        )
    whole = found["status"] == "finished" and manifest.finished_fault(folder) is None
    if whole:
        return "finished"
    _check_links(folder)
    return "resume"


def _check_links(folder: Path) -> None:
    """Raise ``UserError`` for a link out of a run that goes on: it would be written through."""
    for entry in filter(Path.is_symlink, sorted(folder.iterdir())):
        end = Path(os.path.realpath(entry))
        if not end.is_relative_to(os.path.realpath(folder)):
            raise UserError(
                f"{entry} is a link to {end}, outside the run, and would be written through: remove it, or "
                "choose another folder with --output"
            )


def validate(task_name: str | None, pair: str | None, wanted: str) -> list[str]:
    """Check every shipped preset and task; with a task, load its rows as training would. Lines to print."""
    lines = []
    for kind in TASK_TYPES:
        for preset in preset_names(kind):
            preset_config(kind, preset)
            lines.append(f"preset {kind} {preset}: ok")
    if task_name is None:
        return [*lines, *(f"task {name}: ok" for name in sorted(TASKS))]
    task = get_task(task_name)
    pair = check_pair(task, pair)
    found = sources.resolve(task, pair, wanted)
    everything = replace(preset_config(task.kind, "full").data, validation_rows=1)  # however few there are
    loaded = dataset.load(task, pair, found, everything)
    rows = {facts["from"]: facts["of"] for facts in loaded.info["splits"].values()}
    counted = ", ".join(f"{count} {name}" for name, count in rows.items())
    read = [
        f"read {clean(entry['name'])}: {entry['bytes']:,} bytes, SHA-256 {str(entry['sha256'])[:16]}"
        for entry in loaded.info["files"]
    ]
    notes = [f"note: {note}" for note in loaded.info["notes"]]
    return [*lines, found.describe(), *read, *notes, f"task {task.name}: ok, {counted} rows"]


def preset_config(kind: str, preset: str) -> RunConfig:
    """Build a preset's configuration, checking its variants and its TrainingArguments."""
    values = read_preset(kind, preset)
    variants = _grid_axis(values, "variants", str)
    _grid_axis(values, "seeds", int)
    _check_parameters(values, variants)
    values["train"] = resolve_bf16(values["train"])
    config = build(
        {
            **values,
            "kind": kind,
            "task": "any",
            "pair": None,
            "seed": 0,
            "attention": arm(values["attention"], variants[0]),
        }
    )
    training_arguments(config, Path("runs"))
    return config


def _task_of_kind(name: str, kind: str) -> Task:
    task = get_task(name)
    if task.kind != kind:
        raise UserError(f"'{task.name}' is a {task.kind} task: use finetune {task.verb}")
    return task


def _grid_axis(values: dict[str, Any], key: str, item: type) -> list[Any]:
    """Take ``variants`` or ``seeds`` out of the values: a list without repeats."""
    found = values.pop(key, None)
    if not isinstance(found, list) or not found or not all(type(entry) is item for entry in found):
        option = "--attention softmax,sa-softmax" if item is str else "--seeds 0,1,2"
        what = "names" if item is str else "whole numbers"
        raise UserError(f"{key} must be a list of {what}, not {shown(found)}: try {option}")
    return list(dict.fromkeys(found))


def _check_parameters(values: Mapping[str, Any], variants: list[str]) -> None:
    """Each of attention.parameters must belong to at least one of the variants."""
    declared = {name for variant in variants for name in get_variant(variant).parameters}
    attention = values.get("attention")
    if not isinstance(attention, Mapping) or not isinstance(attention.get("parameters"), Mapping):
        raise UserError("attention must hold scope, kernel and parameters, and parameters names and numbers")
    if "variant" in attention or "file" in attention:
        raise UserError("attention.variant is set by the grid: use --attention, or variants in the YAML")
    for name in attention["parameters"]:
        if name not in declared:
            raise unknown(f"parameter of {', '.join(variants)}", name, declared)


def check_model(config: RunConfig) -> None:
    """Look for the model before the first run, and not in each of them. Raises ``UserError``."""
    name = config.model.name
    if name.startswith(SCRATCH):
        if config.model.lora.rank:
            raise UserError("model.lora adapts a pretrained model: with a scratch model leave its rank at 0")
        if name.removeprefix(SCRATCH) not in SIZES[config.kind]:
            raise unknown(f"scratch size for {config.kind}", name.removeprefix(SCRATCH), SIZES[config.kind])
        return
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).is_dir():
        raise UserError(f"there is no model folder '{name}'; give a folder, a Hub id or scratch:SIZE")
    build_tokenizer(config, iter(()))


def _check_devices() -> None:
    """One device a run: with several, the batch that is trained on would depend on the machine."""
    if environment.device_count() > 1:
        raise UserError(
            f"{environment.device_count()} GPUs are visible and a run takes one: set CUDA_VISIBLE_DEVICES, "
            "e.g. to 0"
        )


def _settled(kind: str) -> str:
    """The Hub's cache holds the Hub's rows, so a run is the same from either."""
    return "hub" if kind == "cache" else kind


def _check_writable(root: Path) -> None:
    """Raise ``UserError`` where ``root`` cannot be made or written to; makes nothing itself."""
    nearest = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise UserError(f"cannot write runs to {root}: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"cannot write runs to {root}: no permission to write in {nearest}")
