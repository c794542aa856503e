"""A planned grid -> finished runs: build, train, record; one failure does not stop the others."""

import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from finetune.attention.swap import calls_by_kernel
from finetune.comparison import compare
from finetune.config import folders
from finetune.config.schema import RunConfig
from finetune.data import dataset, token_cache
from finetune.errors import UserError
from finetune.metrics import compute, registry
from finetune.models import builder, checkpoint, warm_start
from finetune.publishing import card
from finetune.records import diagnostics, manifest, store
from finetune.report import write
from finetune.system import files
from finetune.system.lock import locked
from finetune.system.memory import release_memory
from finetune.system.redaction import redact
from finetune.system.text import clean, one_line, say
from finetune.tasks import Task
from finetune.tasks.base import languages
from finetune.training import loop, rehearsal, reloaded, resume, trackers
from finetune.training.diagnosis import Diagnosis
from finetune.training.plan import Grid, Run

ERROR_FILE = "error.txt"
EXPLAINED = (UserError, loop.NonFiniteLossError, reloaded.ReloadError)  # whose words say all


def run_grid(grid: Grid, command: str, next_command: str) -> int:
    """Run what is not finished, then print the comparison. Returns the exit status.

    ``command`` is what was typed, for the records; ``next_command`` what comes next, or empty.
    """
    statuses = []
    loaded = rehearse_grid(grid)
    for number, run in enumerate(grid.runs, start=1):
        place = f"[{number}/{len(grid.runs)}]"
        if run.state == "finished":
            _mend(run.folder)
            say(f"{place} {run.folder}: finished already, skipped")
            continue
        with locked(run.folder):
            statuses.append(_run_recorded(run, grid, loaded, place, command))
    groups = sorted({run.folder.parent.parent for run in grid.runs})
    print(write.text(compare.compare(groups)))
    if next_command:
        say(f"The real thing, on a GPU: {next_command}")
    return max(statuses, default=0)


def rehearse_grid(grid: Grid) -> dataset.Data:
    """The rows of a grid, after a step of every kind of run that is not finished (see ``rehearsal``).

    Raises ``UserError`` where one of them would fail; no run is begun.
    """
    _hide_bars_of_a_moment()
    loaded = dataset.load(grid.task, grid.pair, grid.source, grid.runs[0].config.data)
    for note in loaded.info["notes"]:
        say(f"note: {note}")
    for run in grid.runs:
        _check_same_rows(run, grid, loaded)
    waiting = [run.config for run in grid.runs if run.state != "finished"]
    for note in rehearsal.rehearse(waiting, loaded):
        say(note)
    return loaded


def _mend(folder: Path) -> None:
    """Write the card of a finished run where it is missing, and remove what a killed process left."""
    if not (folder / card.FILE).is_file() or files.unfinished(folder):
        with locked(folder):
            card.write(folder, store.read(folder))


def _check_same_rows(run: Run, grid: Grid, loaded: dataset.Data) -> None:
    """A run of the same configuration is another run if files or labels behind it have changed since."""
    if run.state == "new":
        return
    found = store.read(run.folder)
    before = (found["data"] or {}).get("splits", {})
    differing = [
        f"the {name} rows"
        for name, facts in loaded.info["splits"].items()
        if name in before and before[name]["fingerprint"] != facts["fingerprint"]
    ]
    if found["task"]["labels"] != _labels(grid.task):
        differing.append("the labels")
    if differing:
        raise UserError(
            f"{run.folder} holds a run on other data: {', '.join(differing)} have changed since. "
            "Choose another folder with --output, or remove this one"
        )


def _labels(task: Task) -> list[str] | None:
    return list(task.labels) or None


def _hide_bars_of_a_moment() -> None:
    """One bar a run, the Trainer's: those for loading and saving take a moment each."""
    transformers_logging.disable_progress_bar()


def _run_recorded(run: Run, grid: Grid, loaded: dataset.Data, place: str, command: str) -> int:
    """One run and its record, whatever happens; 0, 1 for a failure, 2 for a user's mistake."""
    task = grid.task
    facts = {"name": task.name, "kind": task.kind, "pair": grid.pair, "labels": _labels(task)}
    device = "cpu" if run.config.train.get("use_cpu") else None
    entry = store.new(run.config, command=command, task=facts, device=device)
    entry["data"] = loaded.info
    entry["hardware"]["threads"] = torch.get_num_threads()
    fault = manifest.finished_fault(run.folder) if run.state == "resume" else None
    if fault:
        say(f"{place} {run.folder} was finished, but {fault}: it is made again")
    (run.folder / ERROR_FILE).unlink(missing_ok=True)
    (run.folder / manifest.FILE).unlink(missing_ok=True)
    store.write(run.folder, entry)
    started = time.monotonic()
    try:
        _run_one(run, grid, loaded, entry, place)
    except Exception as error:
        entry.update({"status": "failed", "reason": _reason(error), "finished": store.now()})
        store.write(run.folder, entry)
        told = clean(f"{place} failed: {entry['reason']} | recorded in {run.folder}")
        print(told, file=sys.stderr, flush=True)
        if not isinstance(error, EXPLAINED):
            files.write_text(run.folder / ERROR_FILE, [redact(traceback.format_exc())])
        return 2 if isinstance(error, UserError | OSError) else 1
    finally:
        trackers.close()
    entry["times"] = {**(entry["times"] or {}), "total_s": time.monotonic() - started}
    entry.update({"status": "finished", "finished": store.now()})
    card.write(run.folder, entry)
    store.write(run.folder, entry)  # last: a finished run lacks nothing
    say(_closing_line(place, run, entry, grid.root))
    return 0


def _run_one(run: Run, grid: Grid, loaded: dataset.Data, entry: store.Record, place: str) -> None:
    """Fill ``entry`` with what the run does; leave model, predictions and configuration in its folder."""
    config, labels, test = run.config, _labels(grid.task), loaded.splits["test"]
    outcome, test_tokens = _trained(run, grid, loaded, entry, place)
    release_memory()  # of the trained model, which nothing holds any more
    held = reloaded.check(config, outcome, test, test_tokens, run.folder)
    entry["model"] = {**(entry["model"] or {}), "reloaded": held}
    rows = _scored_rows(test, outcome.predictions, config.kind)
    store.write_predictions(run.folder, rows)
    entry["predictions"] = store.PREDICTIONS
    entry["metrics"] = _score(config, rows, labels, outcome.generation)
    entry["untrained"] = _untrained(config, loaded, outcome.untrained, labels)
    manifest.write(run.folder, resume.identity(config, entry["model"] or {}), _lasting(run.folder))


def _trained(
    run: Run, grid: Grid, loaded: dataset.Data, entry: store.Record, place: str
) -> tuple[loop.Outcome, Any]:
    """Build and train the model, and say in ``entry`` how; what came of it, and the tokenised test rows.

    Of the model only what lies in the run's folder is left.
    """
    config, labels = run.config, _labels(grid.task)
    built = builder.build_model(config, dataset.training_texts(loaded.splits, config.kind), labels)
    checkpoint.save_origin(config, labels, built.info["revision"], run.folder)
    entry["model"], entry["attention"] = built.info, built.swap.to_json()
    store.write(run.folder, entry)
    splits = token_cache.prepare(loaded, built.tokenizer, config)
    identity = resume.identity(config, built.info)
    found = _resumed(run.folder, identity, place)
    steps = loop.planned_steps(config, len(splits["train"]), run.folder)
    say(_header_line(place, run, loaded, steps, found.checkpoint is not None))
    begun = warm_start.prepare(config, built, splits["train"], run.folder)
    callbacks = warm_start.callbacks(config)
    if found.checkpoint is None:  # of an attempt that nothing is kept of
        (run.folder / diagnostics.FILE).unlink(missing_ok=True)
    if grid.diagnose:
        callbacks.append(Diagnosis(built.model, run.folder / diagnostics.FILE))
    outcome = loop.fit(
        config, built, splits, run.folder, callbacks, identity=identity, checkpoint=found.checkpoint
    )
    looked = (run.folder / diagnostics.FILE).is_file()  # in this part of a resumed run or in an earlier one
    entry["diagnostics"] = diagnostics.FILE if looked else None
    ran = "+".join(sorted(calls_by_kernel(built.model, config.attention.variant)))
    # The kernel that did run, not what would.
    entry["attention"] = {**built.swap.to_json(), "kernel": ran, "start": begun}
    entry["computed"] = outcome.computed
    entry["curve"], entry["times"] = outcome.curve, outcome.times
    entry["peak_memory_mib"] = outcome.peak_memory_mib
    return outcome, splits["test"]


def _resumed(folder: Path, identity: str, place: str) -> resume.Found:
    """The checkpoint that a run goes on from. What is damaged or was overtaken is named and removed."""
    found = resume.newest(folder, identity)
    for reason in found.passed:
        say(f"{place} {reason}")
    if found.passed and found.checkpoint is None:
        print(f"{place} no whole checkpoint is left: the run starts anew", flush=True)
    resume.discard(folder, found, identity)
    return found


def _lasting(folder: Path) -> list[Path]:
    """The files that a finished run holds from now on; its record and what is made from it come and go."""
    changing = {store.FILE, card.FILE, diagnostics.FILE, manifest.FILE}
    return [
        path
        for path in folder.iterdir()
        if path.is_file() and path.name[0] != "." and path.name not in changing
    ]


def _untrained(
    config: RunConfig, loaded: dataset.Data, found: loop.Answers, labels: list[str] | None
) -> dict[str, Any]:
    """The primary metric of the swapped model before training. Test rows are not touched for it."""
    split = loaded.splits["validation"]
    chosen = [index for index, row in enumerate(split["row"]) if row in found.predictions]
    rows = _scored_rows(split.select(chosen), found.predictions, config.kind)
    name = registry.primary(config.kind).name
    value = _score(replace(config, metrics=[]), rows, labels, None)[name]["value"]
    return {"split": "validation", "rows": len(rows), "loss": found.loss, name: value}


def _scored_rows(split: Any, predictions: dict[int, Any], kind: str) -> list[dict[str, Any]]:
    """Rows in their own order, each with what was predicted for it."""
    truth, column = ("label", "label") if kind == "classification" else ("reference", "target")
    return [
        {"row": row, truth: answer, "prediction": predictions[row]}
        for row, answer in zip(split["row"], split[column], strict=True)
    ]


def _score(
    config: RunConfig,
    rows: list[dict[str, Any]],
    labels: list[str] | None,
    generation: dict[str, Any] | None,
) -> dict[str, Any]:
    predictions = [row["prediction"] for row in rows]
    if labels is not None:
        truths = [row["label"] for row in rows]
        scores = compute.classification_metrics(predictions, truths, labels)
    else:
        truths = [row["reference"] for row in rows]
        assert config.pair is not None
        scores = compute.translation_metrics(predictions, truths, languages(config.pair)[1])
        scores["bleu"]["generation"] = generation
    for name in config.metrics:
        scores |= compute.extra_metric(name, predictions, truths)
    return scores


def _header_line(place: str, run: Run, loaded: dataset.Data, steps: int, resumes: bool) -> str:
    config = run.config
    rows = " / ".join(f"{len(split)} {name}" for name, split in loaded.splits.items())
    stamp = " | SAMPLE data" if loaded.info["sample"] else ""
    resumed = " | resumes from its checkpoint" if resumes else ""
    task = folders.task_slug(config.task, config.pair)
    return (
        f"{place} {task} | {config.attention.variant} | {config.model.name} | seed {config.seed} | "
        f"{rows} rows | {steps} steps{stamp}{resumed}"
    )


def _closing_line(place: str, run: Run, entry: store.Record, root: Path) -> str:
    metric = registry.primary(run.config.kind)
    score = metric.text(metric.reported((entry["metrics"] or {})[metric.name]["value"]))
    seconds = (entry["times"] or {})["total_s"]
    return (
        f"{place} {metric.name} {score} | {run.folder} | {seconds:.0f} s | next: make compare OUTPUT={root}"
    )


def _reason(error: Exception) -> str:
    text = redact(one_line(error))
    if "No space left" in text:
        return f"the disk is full ({text}): free some space and type the same command again"
    known = isinstance(error, EXPLAINED)
    return text if known else f"{type(error).__name__}: {text} (traceback in {ERROR_FILE})"
