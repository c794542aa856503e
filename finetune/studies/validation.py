"""Validates every shipped preset and task, and the rows of one task, without a run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune import objectives
from finetune.config.loading import preset_names, read_preset
from finetune.config.schema import RunConfig
from finetune.data import dataset, sources
from finetune.studies.axes import Point
from finetune.studies.grid import plan, seed_numbers, variant_names
from finetune.system.text import clean
from finetune.tasks import TASK_TYPES, TASKS, check_pair, get_task
from finetune.training.arguments import resolve_bf16, training_arguments

STREAMED_ROWS = 1000
"""Rows of each split that are read of a data set that is larger than a disk."""


def validate(
    task_name: str | None, pair: str | None, wanted: str, columns: Mapping[str, Any] | None = None
) -> list[str]:
    """Checks every shipped preset and task, loads the rows of a given task, and returns lines to print."""
    lines = []
    for kind in TASK_TYPES:
        for preset in preset_names(kind):
            preset_config(kind, preset)
            lines.append(f"preset {kind} {preset}: ok")
    if task_name is None:
        return [*lines, *(f"task {name}: ok" for name in sorted(TASKS))]
    task = get_task(task_name, {"source": wanted, "columns": columns}, pair)
    pair = check_pair(task, pair)
    source = sources.resolve(task, pair, wanted)
    # The presets have a share of test rows for tables without a split; that of a declared task is taken out.
    share = read_preset(task.kind, "full")["data"]["test_share"]
    everything = replace(preset_config(task.kind, "full").data, validation_rows=1, test_share=share)
    if task.streamed:  # of the Hub its beginning; every row of a folder is checked all the same
        everything = replace(everything, train_rows=STREAMED_ROWS, test_rows=STREAMED_ROWS)
    loaded = dataset.load(task, pair, source, everything, objectives.get(task.kind).sample)
    rows = {facts["from"]: facts["of"] for facts in loaded.info["splits"].values()}
    counted = ", ".join(f"{count} {name}" for name, count in rows.items())
    read = [
        f"read {clean(entry['name'])}: {entry['bytes']:,} bytes, SHA-256 {str(entry['sha256'])[:16]}"
        for entry in loaded.info["files"]
    ]
    notes = [f"note: {note}" for note in loaded.info["notes"]]
    return [*lines, source.describe(), *read, *notes, f"task {task.name}: ok, {counted} rows"]


def preset_config(kind: str, preset: str) -> RunConfig:
    """Builds a preset's first configuration, which checks its variants and its TrainingArguments."""
    values = {"kind": kind, **read_preset(kind, preset)}
    variants, seeds = variant_names(values.pop("variants")), seed_numbers(values.pop("seeds"))
    cells = plan([Point(TASK_TYPES[kind].example, None, values, Path("runs"))], variants, seeds)
    config = replace(cells[0].config, train=resolve_bf16(cells[0].config.train))
    training_arguments(config, Path("runs"))
    return config
