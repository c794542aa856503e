"""One run: build, train, predict, score, record."""

import os
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from finetune import objectives
from finetune.attention.swap import calls_by_kernel
from finetune.config import folders
from finetune.config.schema import RunConfig
from finetune.data import dataset, token_cache, windows
from finetune.data.collate import lengths
from finetune.errors import PeerError, PreemptedError, UserError
from finetune.metrics import compute, registry
from finetune.models import builder, checkpoint, warm_start
from finetune.publishing import card
from finetune.records import diagnostics, manifest, store
from finetune.records.run import Run
from finetune.system import files, peers, world
from finetune.system.lock import locked
from finetune.system.memory import release_memory
from finetune.system.redaction import redact
from finetune.system.text import clean, one_line, say
from finetune.training import grouping, loop, progress, reloaded, resume, trackers
from finetune.training.diagnosis import Diagnosis
from finetune.training.progress import Display, Progress

ERROR_FILE = "error.txt"
EXPLAINED = (
    UserError,
    PeerError,
    loop.NonFiniteLossError,
    reloaded.ReloadError,
)  # whose messages need no traceback


@dataclass(frozen=True)
class RunSpec:
    """One run: what it trains, where it is kept, and what is printed about it."""

    config: RunConfig
    folder: Path
    output: Path  # folder of all runs, ``folder`` among them
    place: str = "[1/1]"  # in its grid
    command: str = ""  # what was typed, for the record
    diagnose: bool = False  # look at the attention while it trains


def run(spec: RunSpec, loaded: dataset.Data) -> int:
    """Makes one run, or goes on with it, and records it, whatever happens.

    Returns 0, 1 for a failure, 2 for a user's mistake, 75 for a full disk. Raises ``UserError`` where the
    record cannot be written, ``BusyError`` where another process makes the run, ``PreemptedError`` where it
    is told to end.
    """
    with locked(spec.folder):
        world.wait()  # for rank 0, which holds the folder for all processes of the run
        task, place = loaded.task, spec.place
        facts = {
            "name": task.name,
            "kind": spec.config.kind,
            "pair": spec.config.pair,
            "labels": loaded.info["label_names"],
        }
        device = "cpu" if spec.config.train.get("use_cpu") else None
        entry = store.new(spec.config, command=spec.command, task=facts, device=device)
        entry["data"] = loaded.info
        entry["hardware"]["threads"] = torch.get_num_threads()
        if world.is_main():
            _begin_anew(spec)
        store.write(spec.folder, entry)
        started = time.monotonic()
        with peers.recording(lambda failure: _record(spec, entry, failure)):
            try:
                _run_one(spec, loaded.given(spec.config), entry)
            except PreemptedError as error:
                _preempted(spec, entry, str(error))
                if not peers.shared(error.exit_status, peers.End.PREEMPTED):
                    peers.fail(str(error), error.exit_status, end=peers.End.PREEMPTED)
                raise
            except Exception as error:
                return _failed(spec, entry, error)
            finally:
                trackers.close()
        entry["times"] = {**(entry["times"] or {}), "total_s": time.monotonic() - started}
        entry.update({"status": "finished", "finished": store.now()})
        if not spec.config.trial:
            card.write(spec.folder, entry)
        store.write(spec.folder, entry)  # last: a finished run lacks nothing
        metric = registry.primary(spec.config.kind)
        score = metric.text(metric.reported((entry["metrics"] or {})[metric.name]["value"]))
        score += " on validation rows" if spec.config.trial else ""
        end = f"{(entry['times'] or {})['total_s']:.0f} s"
        say(f"{place} {metric.name} {score} | {spec.folder} | {end}")
        return 0


def _begin_anew(spec: RunSpec) -> None:
    """Removes what an earlier attempt has said of itself."""
    fault = manifest.finished_fault(spec.folder)
    if fault:
        say(f"{spec.place} {spec.folder} was finished, but {fault}: it is made again")
    for left in spec.folder.glob("error*.txt"):
        left.unlink()
    (spec.folder / manifest.FILE).unlink(missing_ok=True)


def _failed(spec: RunSpec, entry: store.Record, error: Exception) -> int:
    """Records the failure of this process, or that of another which has brought it about; the exit status."""
    full = files.is_full(spec.folder, error)
    if full and world.is_main():
        resume.discard_partial(spec.folder)  # which may be what fills it
    reason, explained = _reason(error, full), isinstance(error, EXPLAINED)
    usual = UserError.exit_status if isinstance(error, OSError) else 1
    status = os.EX_TEMPFAIL if full else getattr(error, "exit_status", usual)
    if not explained:
        with suppress(UserError):  # of a full disk, which is what has failed
            files.write_text(spec.folder / _error_file(), [redact(traceback.format_exc())], each=True)
    if not (explained and peers.shared(status)):
        peers.fail(reason, status, explained=explained or full)
    _record(spec, entry, reason)
    if (
        full and spec.config.trial
    ):  # one that has failed is never tried again, and its values are not to blame
        _preempted(spec, {**entry, "finished": None}, reason)
    return status


def _error_file() -> str:
    """The file of a traceback in a run's folder, of each of its processes its own."""
    return ERROR_FILE if world.is_main() else f"error-rank-{world.rank()}.txt"


def _record(spec: RunSpec, entry: store.Record, failure: object) -> None:
    """Writes down and prints why a run has failed, or was left, here or in another of its processes."""
    if isinstance(failure, peers.Failure) and failure.end is not peers.End.FAILED:
        if failure.end is peers.End.PREEMPTED:
            _preempted(spec, entry, failure.reason)
        if world.is_main():
            print(peers.going_on(failure.end, failure.reason), file=sys.stderr, flush=True)
        return
    entry.update({"status": "failed", "reason": str(failure), "finished": store.now()})
    store.write(spec.folder, entry)
    if world.is_main():
        line = clean(f"{spec.place} failed: {failure} | recorded in {spec.folder}")
        print(line, file=sys.stderr, flush=True)


def _preempted(spec: RunSpec, entry: store.Record, reason: str) -> None:
    """Writes down what a run was told to end by, which is no failure of it."""
    store.write(spec.folder, {**entry, "status": "preempted", "reason": reason})


def mend(folder: Path) -> None:
    """Writes the card of a finished run where it is missing, and removes what a killed process left."""
    if not (folder / card.FILE).is_file() or files.unfinished(folder):
        record = store.read(folder)
        if not Run(folder, record).trial:
            with locked(folder):
                card.write(folder, record)


def _run_one(spec: RunSpec, loaded: dataset.Data, entry: store.Record) -> None:
    """Trains and scores one run; fills ``entry`` and leaves model, predictions and settings in its folder."""
    config, folder = spec.config, spec.folder
    objective = objectives.of(config)
    labels = loaded.info["label_names"]

    # The model, with its attention swapped.
    texts = dataset.training_texts(loaded.splits["train"], objective.text_columns)
    built = builder.build_model(config, objective, texts, labels)
    _check_alike(built, loaded)
    checkpoint.save_origin(config, labels, built.info, folder)
    entry["model"], entry["attention"] = built.info, built.swap.to_json()
    store.write(folder, entry)

    # Its token rows, and what is left of an earlier attempt.
    tokens = world.first(partial(token_cache.prepare, loaded, built.tokenizer, objective, config))
    counts = {
        name: {"rows": len(rows), "tokens": int(lengths(rows).sum()), **windows.counts(rows)}
        for name, rows in tokens.items()
    }
    entry["data"] = {**loaded.info, "tokens": counts}
    identity = resume.identity(config, built.info)
    checkpoints = world.from_main(lambda: _to_go_on_from(spec, identity))
    steps = loop.planned_steps(config, len(tokens["train"]), folder)
    say(_header_line(spec, loaded, entry, steps, checkpoints.checkpoint is not None))

    # Training and prediction, with the trainer's own loop.
    start = warm_start.prepare(config, objective, built, tokens["train"], folder)
    callbacks = warm_start.callbacks(config)
    if progress.display(config.train) in (Display.LIVE, Display.LINES):
        callbacks.append(Progress(spec.place, config.scored))
    if grouping.named(config.train):
        callbacks.append(grouping.Grouped(grouping.label_of(Run(folder, entry), config)))
    if spec.diagnose:
        callbacks.append(Diagnosis(built.model, folder / diagnostics.FILE))
    outcome = loop.fit(
        config,
        objective,
        built,
        tokens,
        folder,
        callbacks=callbacks,
        identity=identity,
        checkpoint=checkpoints.checkpoint,
    )
    looked = (folder / diagnostics.FILE).is_file()  # in this part of a resumed run or in an earlier one
    entry["diagnostics"] = diagnostics.FILE if looked else None
    # The kernel that did run, not what would.
    kernel = "+".join(sorted(calls_by_kernel(built.model, config.attention.variant)))
    entry["attention"] = {**built.swap.to_json(), "kernel": kernel, "start": start}
    entry["computed"] = outcome.computed
    entry["curve"], entry["times"] = outcome.curve, outcome.times
    entry["peak_memory_mib"] = outcome.peak_memory_mib
    info = built.info
    del built, callbacks  # which hold the trained model: from here on it lies in the folder alone
    release_memory()

    # What was measured is recorded only where the folder gives the same model back; a trial keeps none.
    scored, validation = loaded.splits[config.scored], loaded.splits["validation"]
    if not config.trial:
        held = reloaded.check(config, objective, outcome, folder, split=scored, tokens=tokens["test"])
        entry["model"] = {**info, "reloaded": held}

    # Scores: of the test rows, which are touched this once, and of the untrained model on validation rows.
    # Of a trial, which has no test rows, of the trained model on validation rows.
    rows = objective.rows(scored, outcome.predictions)
    probabilities = objective.log_probabilities(rows, outcome.predictions)
    if not config.trial:
        store.write_predictions(folder, rows)
        entry["predictions"] = store.PREDICTIONS
        if probabilities is not None:
            store.write_probabilities(folder, [row["row"] for row in rows], probabilities)
            entry["probabilities"] = store.PROBABILITIES
    about: dict[str, Any] = {"labels": labels, "tokenizer": info["tokenizer"]}
    scores = objective.score(rows, config, **about, generation=outcome.generation)
    for name in config.metrics:
        predictions = [row["prediction"] for row in rows]
        scores |= compute.extra_metric(name, predictions, objective.references(scored))
    if probabilities is not None:
        scores |= objective.score_probabilities(rows, probabilities)
    entry["metrics"] = scores
    before = outcome.untrained
    rows = objective.rows(validation, before.predictions)
    primary = registry.primary(config.kind).name
    try:
        value = objective.score(rows, config, **about, generation=None)[primary]["value"]
    except UserError:  # no number for a model that a swap has made worse than guessing: it has learned since
        value = None
    entry["untrained"] = {"split": "validation", "rows": len(rows), "loss": before.loss, primary: value}
    # From now on its files stay as they are, but for the record and what is made from it.
    changing = {store.FILE, card.FILE, diagnostics.FILE, manifest.FILE}
    if world.is_main():
        resume.discard_between(folder)
        if config.trial:
            resume.discard_all(folder)
        lasting = [path for path in folder.iterdir() if path.is_file() and path.name not in changing]
        manifest.write(folder, identity, [path for path in lasting if not path.name.startswith(".")])


def _check_alike(built: builder.Built, loaded: dataset.Data) -> None:
    """Raises ``RuntimeError`` unless all processes of the run have the same rows, model and tokenizer."""
    rows = {f"{name} rows": facts["fingerprint"] for name, facts in loaded.info["splits"].items()}
    facts = world.gathered({
        **rows,
        "labels": loaded.info["label_names"],
        "weights": built.info["initial_weights"],
        "tokenizer": token_cache.tokenizer_fingerprint(built.tokenizer),
    })  # fmt: skip
    for rank, own in enumerate(facts):
        if unlike := [what for what in facts[0] if own[what] != facts[0][what]]:
            raise RuntimeError(
                f"rank {rank} has other {unlike[0]} than rank 0: the processes of a run need the same files "
                "and versions on every machine"
            )


def _to_go_on_from(spec: RunSpec, identity: str) -> resume.Checkpoints:
    """The checkpoint that a run goes on from; what cannot be used is removed."""
    checkpoints = resume.newest(spec.folder, identity)
    for fault in checkpoints.passed:
        say(f"{spec.place} {fault}")
    if checkpoints.passed and checkpoints.checkpoint is None:
        say(f"{spec.place} no whole checkpoint is left: the run starts anew")
    resume.discard(spec.folder, checkpoints, identity)
    if checkpoints.checkpoint is None:
        (spec.folder / diagnostics.FILE).unlink(missing_ok=True)
    return checkpoints


def _header_line(spec: RunSpec, loaded: dataset.Data, entry: store.Record, steps: int, resumes: bool) -> str:
    """The line that announces a run: what it trains, on how much, for how long."""
    config = spec.config
    rows = " / ".join(f"{len(split)} {name}" for name, split in loaded.splits.items())
    stamp = " | SAMPLE data" if Run(spec.folder, entry).sample else ""
    stamp += " | a trial, without test rows" if config.trial else ""
    resumed = " | resumes from its checkpoint" if resumes else ""
    task = folders.task_slug(config.task, config.pair)
    return (
        f"{spec.place} {task} | {config.attention.variant} | {config.model.name} | seed {config.seed} | "
        f"{rows} rows | {steps} steps{stamp}{resumed}"
    )


def _reason(error: Exception, full: bool) -> str:
    """The line that the record keeps of a failure; ``full``: of a full disk."""
    text = redact(one_line(error))
    if full:
        return f"the disk is full ({text}): free some space and type the same command again"
    known = isinstance(error, EXPLAINED)
    return text if known else f"{type(error).__name__}: {text} (traceback in {_error_file()})"
