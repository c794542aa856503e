"""Runs and studies for notebooks and scripts: ``finetune.preset``, ``finetune.run`` and ``finetune.study``.

values = finetune.preset("classify", "quick")
values["train"]["learning_rate"] = 1e-3
run = finetune.run(values, task="agnews", variant="sa-softmax", seed=0)
print(run.metrics)
"""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.attention.variants import attention_for
from finetune.config.loading import read_preset, read_yaml
from finetune.errors import RunFailedError, UserError, unknown
from finetune.studies import cell_file
from finetune.studies.engines import choose
from finetune.studies.file import load, workers_of
from finetune.studies.run import run_grid, run_study
from finetune.tasks import TASK_TYPES

if TYPE_CHECKING:
    from finetune.comparison.compare import Comparison
    from finetune.records.run import Run

Place = str | os.PathLike[str]


def preset(kind: str, name: str = "quick") -> dict[str, Any]:
    """Returns the values of a shipped preset: a configuration without its task, with variants and seeds.

    ``kind`` is a kind of task or its verb: "classification" or "classify". Raises ``UserError``.
    """
    kinds = {task_type.verb: task_type.kind for task_type in TASK_TYPES.values()} | {k: k for k in TASK_TYPES}
    if kind not in kinds:
        raise unknown("kind of task", kind, kinds)
    return {"kind": kinds[kind], **read_preset(kinds[kind], name)}


def run(
    config: Mapping[str, Any] | Place,
    *,
    task: str | None = None,
    pair: str | None = None,
    variant: str | None = None,
    seed: int | None = None,
    data: str | None = None,
    output: Place = "runs",
    diagnose: bool = False,
) -> "Run":
    """Makes one run, or resumes it, in this process; a finished one is returned as it is.

    ``config`` is a whole configuration, the file of one (``finetune.yaml`` of a run), or the values of a
    preset with the keywords that it leaves open: ``task`` (a name or a declaration's file), ``pair``,
    ``variant`` (a name or a declaration's file) and ``seed``. ``data`` says where the rows come from. The
    folder of the run is ``output/TASK/MODEL/VARIANT/seed-N``.

    Raises ``UserError`` for a mistake, ``RunFailedError`` where the run has failed.
    """
    from finetune.models.checkpoint import CONFIG_FILE
    from finetune.records import store
    from finetune.records.run import Run

    values = dict(config) if isinstance(config, Mapping) else read_yaml(Path(config))
    variants, seeds = values.pop("variants", None), values.pop("seeds", None)
    if variant is None and variants is not None:
        variant = _one(variants, "variant")
    if seed is None and seeds is not None:
        seed = _one(seeds, "seed")
    if variant is not None:
        attention = {key: value for key, value in values.get("attention", {}).items() if key != "file"}
        values["attention"] = attention_for({"parameters": {}, **attention}, variant)
    if seed is not None:
        values["seed"] = seed
    if pair is not None:
        values["pair"] = pair
    cell = cell_file.cell_of(values, Path(output), task=task, source=data, diagnose=diagnose)
    kept = cell.folder / CONFIG_FILE
    exit_status = run_grid([cell], shlex.join(["finetune", "run", str(kept), "--output", str(cell.output)]))
    made = Run.checked(cell.folder, store.read(cell.folder))
    if exit_status:
        raise RunFailedError(f"{cell.folder}: {made.reason}")
    return made


def study(
    file: Place,
    *,
    output: Place | None = None,
    workers: int | None = None,
    on: str | Mapping[str, Any] | None = None,
) -> "Comparison":
    """Runs what is not done of a study file, or of a shipped study by its name, and compares all of its runs.

    Each run is a process of its own, ``workers`` of them at a time on this machine. ``on`` is the name of
    another engine, or its options with it: ``{"engine": "local", "timeout": "2h"}``. Runs that fail are
    named, and are in the comparison as failed. Raises ``UserError`` for a mistake, and where the rehearsal
    before the first run fails.
    """
    from finetune.comparison.compare import compare

    loaded = load(os.fspath(file), None if output is None else Path(output))
    if workers is not None and workers < 1:
        raise UserError(f"workers must be a whole number from 1, not {workers}")
    given = {"engine": on} if isinstance(on, str) else on
    exit_status = run_study(loaded, workers and workers_of(workers), choose(loaded, given))
    if exit_status not in (0, 1, os.EX_TEMPFAIL):
        raise UserError(
            f"the rehearsal of the study {loaded.name} has failed, and said why: no run was begun"
        )
    return compare([loaded.root])


def _one(values: Any, what: str) -> Any:
    """Returns the only entry of a preset's list. Raises ``UserError`` where there are several."""
    if not isinstance(values, list) or len(values) != 1:
        raise UserError(f"one run has one {what}: give {what}=... (the preset has {values})")
    return values[0]
