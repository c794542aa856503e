"""One run: build, train, predict, score, record."""

import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from finetune.attention.swap import calls_by_kernel
from finetune.config import folders
from finetune.config.schema import RunConfig
from finetune.data import dataset, token_cache
from finetune.errors import UserError
from finetune.metrics import compute, registry
from finetune.models import builder, checkpoint, warm_start
from finetune.publishing import card
from finetune.records import diagnostics, manifest, store
from finetune.system import files
from finetune.system.lock import locked
from finetune.system.memory import release_memory
from finetune.system.redaction import redact
from finetune.system.text import clean, one_line, say
from finetune.tasks import Task
from finetune.tasks.base import languages
from finetune.training import loop, reloaded, resume, trackers
from finetune.training.diagnosis import Diagnosis

ERROR_FILE = "error.txt"
EXPLAINED = (UserError, loop.NonFiniteLossError, reloaded.ReloadError)  # whose words say all


@dataclass(frozen=True)
class RunSpec:
    """One run: what it trains, where it is kept, and what is said of it."""

    config: RunConfig
    task: Task
    folder: Path
    output: Path  # folder of all runs, ``folder`` among them
    place: str = "[1/1]"  # in its grid
    command: str = ""  # what was typed, for the record
    diagnose: bool = False  # look at the attention while it trains


def _labels(task: Task) -> list[str] | None:
    return list(task.labels) or None


def run(spec: RunSpec, loaded: dataset.Data) -> int:
    """Make one run, or go on with it, and record it, whatever happens.

    Returns 0, 1 for a failure, 2 for a user's mistake. Raises ``UserError`` where the record cannot be
    written, ``BusyError`` where another process makes the run.
    """
    with locked(spec.folder):
        return _run_recorded(spec, loaded)


def mend(folder: Path) -> None:
    """Write the card of a finished run where it is missing, and remove what a killed process left."""
    if not (folder / card.FILE).is_file() or files.unfinished(folder):
        with locked(folder):
            card.write(folder, store.read(folder))


def _run_recorded(spec: RunSpec, loaded: dataset.Data) -> int:
    task, place = spec.task, spec.place
    facts = {"name": task.name, "kind": task.kind, "pair": spec.config.pair, "labels": _labels(task)}
    device = "cpu" if spec.config.train.get("use_cpu") else None
    entry = store.new(spec.config, command=spec.command, task=facts, device=device)
    entry["data"] = loaded.info
    entry["hardware"]["threads"] = torch.get_num_threads()
    fault = manifest.finished_fault(spec.folder)
    if fault:
        say(f"{place} {spec.folder} was finished, but {fault}: it is made again")
    (spec.folder / ERROR_FILE).unlink(missing_ok=True)
    (spec.folder / manifest.FILE).unlink(missing_ok=True)
    store.write(spec.folder, entry)
    started = time.monotonic()
    try:
        _run_one(spec, loaded, entry)
    except Exception as error:
        entry.update({"status": "failed", "reason": _reason(error), "finished": store.now()})
        store.write(spec.folder, entry)
        told = clean(f"{place} failed: {entry['reason']} | recorded in {spec.folder}")
        print(told, file=sys.stderr, flush=True)
        if not isinstance(error, EXPLAINED):
            files.write_text(spec.folder / ERROR_FILE, [redact(traceback.format_exc())])
        return 2 if isinstance(error, UserError | OSError) else 1
    finally:
        trackers.close()
    entry["times"] = {**(entry["times"] or {}), "total_s": time.monotonic() - started}
    entry.update({"status": "finished", "finished": store.now()})
    card.write(spec.folder, entry)
    store.write(spec.folder, entry)  # last: a finished run lacks nothing
    say(_closing_line(spec, entry))
    return 0


def _run_one(spec: RunSpec, loaded: dataset.Data, entry: store.Record) -> None:
    """Fill ``entry`` with what the run does; leave model, predictions and configuration in its folder."""
    config, labels, test = spec.config, _labels(spec.task), loaded.splits["test"]
    outcome, test_tokens = _trained(spec, loaded, entry)
    release_memory()  # of the trained model, which nothing holds any more
    held = reloaded.check(config, outcome, test, test_tokens, spec.folder)
    entry["model"] = {**(entry["model"] or {}), "reloaded": held}
    rows = _scored_rows(test, outcome.predictions, config.kind)
    store.write_predictions(spec.folder, rows)
    entry["predictions"] = store.PREDICTIONS
    entry["metrics"] = _score(config, rows, labels, outcome.generation)
    entry["untrained"] = _untrained(config, loaded, outcome.untrained, labels)
    manifest.write(spec.folder, resume.identity(config, entry["model"] or {}), _lasting(spec.folder))


def _trained(spec: RunSpec, loaded: dataset.Data, entry: store.Record) -> tuple[loop.Outcome, Any]:
    """Build and train the model, and say in ``entry`` how; what came of it, and the tokenised test rows.

    Of the model only what lies in the run's folder is left.
    """
    config, labels = spec.config, _labels(spec.task)
    built = builder.build_model(config, dataset.training_texts(loaded.splits, config.kind), labels)
    checkpoint.save_origin(config, labels, built.info["revision"], spec.folder)
    entry["model"], entry["attention"] = built.info, built.swap.to_json()
    store.write(spec.folder, entry)
    splits = token_cache.prepare(loaded, built.tokenizer, config)
    identity = resume.identity(config, built.info)
    found = _resumed(spec.folder, identity, spec.place)
    steps = loop.planned_steps(config, len(splits["train"]), spec.folder)
    say(_header_line(spec, loaded, steps, found.checkpoint is not None))
    begun = warm_start.prepare(config, built, splits["train"], spec.folder)
    callbacks = warm_start.callbacks(config)
    if found.checkpoint is None:  # of an attempt that nothing is kept of
        (spec.folder / diagnostics.FILE).unlink(missing_ok=True)
    if spec.diagnose:
        callbacks.append(Diagnosis(built.model, spec.folder / diagnostics.FILE))
    outcome = loop.fit(
        config, built, splits, spec.folder, callbacks, identity=identity, checkpoint=found.checkpoint
    )
    looked = (spec.folder / diagnostics.FILE).is_file()  # in this part of a resumed run or in an earlier one
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


def _header_line(spec: RunSpec, loaded: dataset.Data, steps: int, resumes: bool) -> str:
    config = spec.config
    rows = " / ".join(f"{len(split)} {name}" for name, split in loaded.splits.items())
    stamp = " | SAMPLE data" if loaded.info["sample"] else ""
    resumed = " | resumes from its checkpoint" if resumes else ""
    task = folders.task_slug(config.task, config.pair)
    return (
        f"{spec.place} {task} | {config.attention.variant} | {config.model.name} | seed {config.seed} | "
        f"{rows} rows | {steps} steps{stamp}{resumed}"
    )


def _closing_line(spec: RunSpec, entry: store.Record) -> str:
    metric = registry.primary(spec.config.kind)
    score = metric.text(metric.reported((entry["metrics"] or {})[metric.name]["value"]))
    end = f"{(entry['times'] or {})['total_s']:.0f} s | next: make compare OUTPUT={spec.output}"
    return f"{spec.place} {metric.name} {score} | {spec.folder} | {end}"


def _reason(error: Exception) -> str:
    text = redact(one_line(error))
    if "No space left" in text:
        return f"the disk is full ({text}): free some space and type the same command again"
    known = isinstance(error, EXPLAINED)
    return text if known else f"{type(error).__name__}: {text} (traceback in {ERROR_FILE})"
