"""The state of a planned run, from the record, the lock and the end of the log that it has left."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from finetune.config.identity import as_dict, flatten, unlike
from finetune.errors import UserError
from finetune.records import manifest, pretraining, store
from finetune.records.run import Run
from finetune.studies import logs
from finetune.studies.grid import Cell
from finetune.system import lock


class RunState(StrEnum):
    """What has become of a planned run; a study's plan has a column for each."""

    DONE = "done"  # a trial of a tuning also where it has failed: it is spent
    MISSING = "missing"  # not begun
    FAILED = "failed"  # tried again by the next call
    UNFINISHED = "unfinished"  # stopped half-way; goes on from its checkpoint
    RUNNING = "running"  # another process is at it
    OTHER = "other"  # its folder holds something else, or began from what is no more: no run may overwrite it


TO_RUN = (RunState.MISSING, RunState.FAILED, RunState.UNFINISHED)
# Values settled when a run starts: those of a configuration, each with those that its record may have.
SETTLED: Mapping[str, Mapping[Any, set[Any]]] = {
    "data.source": {
        "auto": {"hub", "local", "sample"}, "hub": {"hub"}, "local": {"local"}, "sample": {"sample"}
    },
    "train.bf16": {"auto": {True, False}},
}  # fmt: skip


@dataclass(frozen=True)
class Status:
    """The state of a run; ``reason``: why it failed or stopped, or what is wrong with its folder."""

    state: RunState
    reason: str = ""
    run: Run | None = None  # None: there is no record
    lost: bool = False  # its job ended without a failure of its own: its worker was lost, or took it away


def look(cell: Cell, *, claimed: bool = False, thorough: bool = False) -> Status:
    """Returns the status of a cell. Writes nothing.

    ``claimed``: this process holds the log, so that the lock on it is no sign of another one. ``thorough``: a
    finished run must have its files as they were written, not only as large as they were.
    """
    if cell.log is not None and not claimed and lock.held(cell.log):
        return Status(RunState.RUNNING)
    try:
        run = _recorded(cell)
    except UserError as error:
        return Status(RunState.OTHER, str(error))
    fault = None
    if run is not None and run.finished:
        fault = manifest.finished_fault(cell.folder, largest=manifest.QUICK if thorough else 0)
        if fault is None:
            stale = pretraining.made_again(run)
            return Status(RunState.OTHER if stale else RunState.DONE, stale or "", run)
    if lock.held(cell.folder / lock.FILE):
        return Status(RunState.RUNNING, run=run)
    return _after_attempt(cell, run, fault)


def begins(cell: Cell, statuses: Mapping[Cell, Status]) -> bool:
    """Whether the run that a cell begins from is there, if it begins from one of its study."""
    return cell.origin is None or statuses[cell.origin].state is RunState.DONE


def _after_attempt(cell: Cell, run: Run | None, fault: str | None) -> Status:
    """The status of a run that is neither done nor going on; ``fault``: what a finished one lacks."""
    # A killed run cannot record why; the study that started it has logged its verdict.
    verdict = logs.verdict(cell.log, since=run.record["started"] if run else "") if cell.log else ""
    if run is None:
        return Status(RunState.FAILED, verdict) if verdict else Status(RunState.MISSING)
    if other := _link_outside(cell.folder) or pretraining.made_again(run):
        return Status(RunState.OTHER, other, run)
    if fault:
        return Status(RunState.UNFINISHED, fault, run)
    if run.status == "failed":
        state = RunState.DONE if cell.config.trial else RunState.FAILED
        return Status(state, run.reason or "no reason was recorded", run)
    if verdict:
        return Status(RunState.FAILED, verdict, run)
    return Status(RunState.UNFINISHED, f"preempted by {run.reason}" if run.status == "preempted" else "", run)


def refuse_others(statuses: Mapping[Cell, Status]) -> None:
    """Raises ``UserError`` where a folder holds something else, or real rows would mix with the sample.

    Either would stop a run, and better before the first one than hours later.
    """
    refuse_folders(statuses)
    known = [status.run for status in statuses.values() if status.run and status.run.data]
    if len({run.sample for run in known}) > 1:
        # ``auto`` takes the sample where there is nothing else, and real rows once there are some.
        raise UserError(
            "some of these runs are on the SAMPLE and some on real rows: choose another folder with "
            "--output, and say where the rows come from (data.source: hub, sample or a folder)"
        )


def refuse_folders(statuses: Mapping[Cell, Status]) -> None:
    """Raises ``UserError`` where a folder holds something else than its run."""
    others = [status for status in statuses.values() if status.state is RunState.OTHER]
    if others:
        more = f" (and {len(others) - 1} more: see --plan)" if len(others) > 1 else ""
        raise UserError(f"{others[0].reason}{more}")


def _recorded(cell: Cell) -> Run | None:
    """The run in the folder of a cell; None where the folder is empty, or not there.

    Raises ``UserError`` for a record of another configuration (naming the keys), a damaged record, and a
    folder of something else.
    """
    folder = cell.folder
    try:
        # A killed first write leaves a hidden temporary file, and desktops leave files of their own.
        names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot use the run folder {folder}: {error.strerror}") from error
    if not names:
        return None
    if not (folder / store.FILE).is_file():
        raise UserError(f"{folder} is not empty and holds no run: choose another --output, or empty it")
    record = store.read(folder)
    planned = as_dict(cell.config)
    had, wish = flatten(record["config"]), flatten(planned)
    keys = [
        key for key in unlike(record["config"], planned) if not _settles(key, wish.get(key), had.get(key))
    ]
    if keys:
        raise UserError(
            f"{folder} holds a run with another configuration; it differs in {', '.join(keys)}: choose "
            "another folder with --output, or remove this one"
        )
    return Run(folder, record)


def _link_outside(folder: Path) -> str | None:
    """The fault of a run folder with a link out of it, through which a resumed run would write; or None."""
    for entry in filter(Path.is_symlink, sorted(folder.iterdir())):
        end = Path(os.path.realpath(entry))
        if not end.is_relative_to(os.path.realpath(folder)):
            return (
                f"{entry} is a link to {end}, outside the run, and would be written through: remove it, or "
                "choose another folder with --output"
            )
    return None


def _settles(key: str, wish: Any, had: Any) -> bool:
    """Whether ``wish``, such as "auto", can have become ``had``; a folder of rows becomes "local"."""
    if key not in SETTLED:
        return False
    outcomes = SETTLED[key]
    if key == "data.source" and wish not in outcomes:
        wish = "local"
    return any(had == outcome for outcome in outcomes.get(wish, ()))  # what is recorded may be anything
