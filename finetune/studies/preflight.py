"""Checks all that can be known before the first run of a grid, so that what fails, fails here.

Looks at the options, the machine, the source of the rows, the folders, the model and the rows, and takes
a step of every kind of run (``training.rehearsal``). Writes nothing.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from transformers.utils import logging as transformers_logging

from finetune import objectives
from finetune.config.identity import but_for_seed
from finetune.config.lineage import SCRATCH
from finetune.config.schema import RunConfig
from finetune.data import dataset, sources
from finetune.errors import UserError
from finetune.metrics.compute import load_metric
from finetune.models.pretrained import build_tokenizer
from finetune.records import pretraining
from finetune.studies.grid import Cell
from finetune.studies.refusals import check_model_name
from finetune.studies.state import RunState, Status, look, refuse_others
from finetune.system import environment, peers, world
from finetune.system.text import say
from finetune.tasks import get_task
from finetune.training import effects, rehearsal
from finetune.training.arguments import resolve_bf16, training_arguments


@dataclass(frozen=True)
class Prepared:
    """A grid that may begin: cells with settled configurations, and the rows that all of them read."""

    cells: list[Cell]
    statuses: Mapping[Cell, Status]
    loaded: dataset.Data


def prepare(
    cells: Sequence[Cell], notify: Callable[[str], None] = say, *, has_model: bool = True
) -> Prepared:
    """Checks ``cells``, which read the same rows, and loads these; ``notify`` is called with each note.

    Without ``has_model`` all but their models is checked, which other runs are still to make.

    Raises ``UserError`` for the first run that does not fit its folder, its rows, its model or this machine.
    """
    world.join()
    peers.watch()
    transformers_logging.disable_progress_bar()  # one bar a run, the Trainer's: others take a moment each
    cells = [
        replace(cell, config=replace(cell.config, train=resolve_bf16(cell.config.train))) for cell in cells
    ]
    kinds = {but_for_seed(cell.config): cell for cell in cells}.values()
    notes = {note: None for cell in kinds for note in check(cell.config, cell.folder)}
    for note in notes:
        notify(note)
    if environment.device_count() > world.size():  # one process would copy its model to each at every step
        raise UserError(
            f"{environment.device_count()} GPUs are visible and one process takes one: start one for each, "
            f"torchrun --nproc-per-node {environment.device_count()} -m finetune ..., or set "
            "CUDA_VISIBLE_DEVICES, e.g. to 0"
        )
    first = cells[0].config
    task = get_task(cells[0].task, first.data, first.pair)
    # One for all: each process would ask the Hub by itself, and one that is cut off would take the sample.
    source = world.from_main(lambda: sources.resolve(task, first.pair, first.data.source))
    notify(source.describe())
    # The configuration has the kind of source alone: fingerprints show whether rows are equal, wherever their
    # folder is, and the Hub's cache holds the Hub's rows, so a run is the same from either.
    rows = replace(first.data, source="hub" if source.kind == "cache" else source.kind)
    cells = [replace(cell, config=replace(cell.config, data=rows)) for cell in cells]
    for output in {cell.output for cell in cells}:
        # Without making it: a rehearsal leaves nothing behind.
        nearest = next(place for place in (output.absolute(), *output.absolute().parents) if place.exists())
        if not nearest.is_dir():
            raise UserError(f"cannot write runs to {output}: {nearest} is a file")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise UserError(f"cannot write runs to {output}: no permission to write in {nearest}")
    states = world.from_main(lambda: [look(cell, thorough=True) for cell in cells])
    statuses = dict(zip(cells, states, strict=True))
    refuse_others(statuses)
    waiting = [cell.config for cell in cells if has_model and statuses[cell].state is not RunState.DONE]
    _check_origins(waiting)
    for config in {(config.model.name, config.model.lora.rank): config for config in waiting}.values():
        world.first(partial(_check_model, config))
    objective = objectives.get(first.kind)
    amount = objective.train_bytes(first)
    loaded = world.first(
        lambda: dataset.load(task, first.pair, source, rows, objective.sample, train_bytes=amount)
    )
    for note in loaded.info["notes"]:
        notify(f"note: {note}")
    for cell in cells:
        _check_same_rows(cell, statuses[cell], loaded)
    for note in rehearsal.rehearse(waiting, loaded):
        notify(note)
    return Prepared(cells, statuses, loaded)


def check(config: RunConfig, folder: Path) -> list[str]:
    """Checks what can be known of a run without rows and model, and returns notes for the user.

    Raises ``UserError``.
    """
    arguments = training_arguments(config, folder)
    for name in config.metrics:
        load_metric(name)
    return effects.notes(config.kind, config.train, arguments)


def _check_origins(configs: Sequence[RunConfig]) -> None:
    """Raises ``UserError`` where a run to begin from is not there, or two of them read tokens otherwise."""
    origins = [run for config in configs if (run := pretraining.resolve(config))]
    tokenizers = {run.facts()["tokenizer (fingerprint)"]: run.folder for run in origins}
    if len(tokenizers) > 1:
        one, other, *_ = tokenizers.values()
        raise UserError(
            f"the runs to begin from have different tokenizers ({one} and {other}), so that they are no "
            "pairs: pretrain them on the same rows"
        )


def _check_model(config: RunConfig) -> None:
    """Raises ``UserError`` where the model of a run does not exist or cannot be had."""
    if origin := pretraining.resolve(config):
        config = pretraining.at(config, origin)
    name, scratch = config.model.name, objectives.get(config.kind).scratch
    check_model_name(config)
    if name.startswith(SCRATCH):
        scratch.options(name.removeprefix(SCRATCH), config.kind)  # raises for an unknown size
        return
    build_tokenizer(config, scratch.recipe, iter(()))


def _check_same_rows(cell: Cell, status: Status, loaded: dataset.Data) -> None:
    """Raises ``UserError`` for a recorded run of the same configuration on other rows or labels."""
    if status.run is None:
        return
    before = status.run.splits
    differing = [
        f"the {name} rows"
        for name, facts in loaded.info["splits"].items()
        if name in before and before[name]["fingerprint"] != facts["fingerprint"]
    ]
    if status.run.record["task"]["labels"] != (list(loaded.task.labels) or None):
        differing.append("the labels")
    if differing:
        raise UserError(
            f"{cell.folder} holds a run on other data: {', '.join(differing)} have changed since. "
            "Choose another folder with --output, or remove this one"
        )
