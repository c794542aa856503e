"""``model.name: pretrained:FOLDER`` -> the run that another one begins from, by variant, seed and position.

Or the folder of a run itself -> that run.

The configuration keeps the text, the record of the run that began keeps what it meant (``Link``). Imports no
torch: studies are planned with it.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.config.folders import variant_slug
from finetune.config.identity import differing_keys
from finetune.config.lineage import Source, source_of
from finetune.config.schema import OWN, AttentionConfig, RunConfig
from finetune.errors import UserError, unknown
from finetune.records import manifest, store
from finetune.records.run import Run, find_runs
from finetune.records.schema import Link
from finetune.system.checksum import sha256

WEIGHTS = "*.safetensors"
CHECKPOINT = "checkpoint-"  # the name of a checkpoint's folder, before its step
MANY = 4  # seeds and positions that a message lists


def label(attention: Mapping[str, Any]) -> str:
    """The variant with its scope and parameters, but not how a model came to it."""
    return variant_slug(AttentionConfig(**{**attention, "start": "cold", "annealing_share": None}))


def variant_of(config: RunConfig, source: Source) -> str:
    """The label of the runs that a run may begin from."""
    return source.variant or variant_slug(replace(config.attention, start="cold", annealing_share=None))


def fits(config: RunConfig, source: Source, other: Mapping[str, Any], *, position: bool = True) -> bool:
    """Whether a run with ``config`` may begin from one whose configuration is ``other``.

    It must be of the right variant, of its seed and, where ``config`` names one, of that position (not
    looked at unless ``position``).
    """
    if other["seed"] != config.seed or label(other["attention"]) != variant_of(config, source):
        return False
    model = config.model
    if not position or model.position == OWN:
        return True
    parameters = other["model"].get("position_parameters")
    alike = not model.position_parameters or parameters == model.position_parameters
    return _position(other) == model.position and alike


def resolve(config: RunConfig, *, thorough: bool = False) -> Run | None:
    """The finished run that a run with ``config`` begins from; ``None`` where its model is of another kind.

    ``thorough``: all its files are as they were written, not only as large. Raises ``UserError`` where there
    is no such run, more than one, or one that cannot be begun from.
    """
    source = source_of(config.model.name)
    if source is None:
        return None
    if not source.folder.is_dir():
        raise UserError(f"there is no folder '{source.folder}' of runs to begin from ({source.name})")
    runs, problems = find_runs(source.folder)
    # A folder of everything holds the runs that begin from it too.
    runs = [run for run in runs if run.config["model"]["name"] != config.model.name]
    if not runs:
        unreadable = f": {problems[0]}" if problems else ""
        raise UserError(
            f"the folder '{source.folder}' holds no runs to begin from{unreadable}; give the folder of a "
            "pretraining, OUTPUT/TASK/MODEL"
        )
    chosen = choose(config, source, {run.folder: run.config for run in runs})
    run = next(run for run in runs if run.folder == chosen)
    if not run.finished:
        why = f": {run.reason}" if run.reason else ""
        raise UserError(
            f"the run to begin from, {run.folder}, is {'failed' if run.status == 'failed' else 'unfinished'}"
            f"{why}: finish it first, by the same command that began it"
        )
    if run.config["model"]["lora"]["rank"]:
        raise UserError(
            f"the run to begin from, {run.folder}, holds LoRA adapters and no whole model: pretrain with "
            "model.lora.rank 0"
        )
    fault = manifest.finished_fault(run.folder, largest=math.inf if thorough else 0)
    if fault:
        raise UserError(f"the run to begin from, {run.folder}, is damaged: {fault}: make it again")
    return run


def kept_in(model: str) -> Run | None:
    """The run whose model, or one of whose checkpoints, lies in the folder ``model``; ``None`` for another.

    Raises ``UserError`` where its record is damaged: nobody could tell then what it was trained on.
    """
    folder = Path(model)
    for place in (folder, folder.resolve().parent):
        named = place == folder or (folder.is_dir() and folder.name.startswith(CHECKPOINT))
        if named and (place / store.FILE).is_file():
            return Run.checked(folder, store.read(place))
    return None


def choose(config: RunConfig, source: Source, known: Mapping[Path, Mapping[str, Any]]) -> Path:
    """The one of the ``known`` runs, folder -> configuration, that a run with ``config`` begins from.

    Raises ``UserError`` where none fits, or more than one.
    """
    found = [folder for folder, other in known.items() if fits(config, source, other)]
    if not found:
        raise _missing(config, source, known)
    if len(found) > 1:
        raise _ambiguous(config, source, {folder: known[folder] for folder in found})
    return found[0]


def link(run: Run, new_weights: str) -> Link:
    """What the record of a run keeps of ``run``, which it begins from.

    ``new_weights`` is the fingerprint of the weights that are not in its checkpoint.
    """
    return {
        "folder": str(run.folder),
        "task": run.title,
        "model": run.model,
        "variant": label(run.config["attention"]),
        "seed": run.seed,
        "position": _position(run.config),
        "sample": run.sample,
        "config_hash": run.record["config_hash"],
        "settings": _digest(run.settings()),
        "initial_weights": run.initial_weights,
        "weights": weights(run.folder),
        "new_weights": new_weights,
        "pretrained": run.pretrained,
    }


def weights(folder: Path) -> str:
    """Sixteen hexadecimal digits over the files that hold the weights in a finished run's folder."""
    known = manifest.checksums(folder)
    return _digest({file.name: known.get(file.name) or sha256(file) for file in folder.glob(WEIGHTS)})


def made_again(run: Run) -> str | None:
    """Says that the run which ``run`` began from has other weights by now; ``None`` where it does not.

    Nor where it is gone, half made or damaged: the record of ``run`` keeps what it was.
    """
    began = run.pretrained
    if began is None or not (origin := Path(began["folder"])).is_dir():
        return None
    if manifest.finished_fault(origin, largest=0) or (now := weights(origin)) == began["weights"]:
        return None
    return (
        f"{run.folder} holds a run that began from other weights than {origin} has by now "
        f"({began['weights']} against {now}): choose another folder with --output, or remove this one"
    )


def at(config: RunConfig, run: Run) -> RunConfig:
    """``config`` with the folder of ``run`` as its model."""
    return replace(config, model=replace(config.model, name=str(run.folder)))


def _missing(config: RunConfig, source: Source, known: Mapping[Path, Mapping[str, Any]]) -> UserError:
    """What there is instead of the run that is asked for, and how that is made."""
    variant = variant_of(config, source)
    what = f"'{source.folder}' holds no run of {variant}, seed {config.seed}"
    others = {_position(other) for other in known.values() if fits(config, source, other, position=False)}
    if others:
        has = ", ".join(sorted(others))
        return UserError(f"{what}, with model.position {config.model.position}: it has {has}")
    labels = {folder: label(other["attention"]) for folder, other in known.items()}
    alike = [folder for folder in known if labels[folder] == variant]
    if source.variant and not alike:
        return unknown(f"variant in {source.folder}", variant, set(labels.values()))
    seeds = sorted({known[folder]["seed"] for folder in alike})
    some = ", ".join(map(str, seeds[:MANY])) + (", ..." if len(seeds) > MANY else "")
    has = f"its seeds are {some}" if seeds else f"it has {', '.join(sorted(set(labels.values())))}"
    return UserError(
        f"{what} ({has}): make it first, with the settings of {(alike or list(known))[0]}: "
        f"--attention {variant} --seeds {config.seed}"
    )


def _ambiguous(config: RunConfig, source: Source, found: Mapping[Path, Mapping[str, Any]]) -> UserError:
    """In what several runs that fit differ, and how one is named."""
    first, second, *_ = found.values()
    keys = [key for key in differing_keys(first, second) if not key.startswith("attention.")]
    differ = f", which differ in {', '.join(keys[:MANY])}" if keys else ""
    variant = variant_of(config, source)
    what = f"'{source.folder}' holds {len(found)} runs of {variant}, seed {config.seed}{differ}"
    if "model.position" in keys:
        positions = ", ".join(sorted({_position(other) for other in found.values()}))
        return UserError(f"{what}: say which by model.position ({positions})")
    folder = next(iter(found)).parent.parent
    return UserError(f"{what}: name the folder of one of them, such as {folder}")


def _position(other: Mapping[str, Any]) -> str:
    return str(other["model"].get("position", OWN))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
