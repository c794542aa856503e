"""What has become of each cell of a study, from the records of its runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from finetune.config.identity import as_dict, flatten, unlike
from finetune.errors import UserError
from finetune.records import manifest, store
from finetune.records.store import Record
from finetune.studies import logs
from finetune.studies.grid import Cell
from finetune.system import lock

Kind = Literal["done", "failed", "unfinished", "running", "missing", "other"]
KINDS: Mapping[Kind, str] = {
    "done": "finished",
    "missing": "not begun",
    "failed": "failed; tried again by the next call",
    "unfinished": "stopped half-way; goes on from its checkpoint",
    "running": "another process is at it",
    "other": "its folder holds something else",
}
# Settled when a run starts: what a configuration may say, and what the record then has.
SETTLED: Mapping[str, Mapping[Any, set[Any]]] = {
    "data.source": {
        "auto": {"hub", "local", "sample"}, "hub": {"hub"}, "local": {"local"}, "sample": {"sample"}
    },
    "train.bf16": {"auto": {True, False}},
}  # fmt: skip


@dataclass(frozen=True)
class State:
    """``reason``: why it failed, or what is wrong with its folder. ``record`` None: there is none."""

    kind: Kind
    reason: str = ""
    record: Record | None = None


def look(cell: Cell, *, claimed: bool = False) -> State:
    """The state of a cell, by the record in its folder and the end of its log. Writes nothing.

    ``claimed``: this process holds the log, so that the lock on it is no sign of another one.
    """
    if not claimed and lock.held(cell.log):
        return State("running")
    if not (cell.folder / store.FILE).is_file():
        reason = logs.verdict(cell.log)
        return State("failed", reason) if reason else State("missing")
    try:
        found = store.read(cell.folder)
    except UserError as error:
        return State("other", str(error))
    keys = _differing(found["config"], as_dict(cell.config))
    if keys:
        return State("other", f"{cell.folder} holds a run that differs in {', '.join(keys)}", found)
    return _by_status(cell, found)


def _by_status(cell: Cell, found: Record) -> State:
    if found["status"] == "finished":
        fault = manifest.finished_fault(cell.folder, largest=0)  # by size alone: this is asked often
        return State("unfinished", fault, found) if fault else State("done", record=found)
    if found["status"] == "failed":
        return State("failed", found["reason"] or "no reason was recorded", found)
    if lock.held(cell.folder / lock.FILE):
        return State("running", record=found)
    reason = logs.verdict(cell.log, since=found["started"])  # a killed run cannot say so itself
    return State("failed" if reason else "unfinished", reason, found)


def _differing(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Keys in which a record is of another run than the one that is wanted."""
    had, wish = flatten(recorded), flatten(wanted)
    return [
        key
        for key in unlike(recorded, wanted)
        if not (key in SETTLED and _settles(key, wish.get(key), had.get(key)))
    ]


def _settles(key: str, wish: Any, had: Any) -> bool:
    """Whether ``wish``, "auto" say, can have become ``had``; a folder of rows becomes "local"."""
    outcomes = SETTLED[key]
    if key == "data.source" and wish not in outcomes:
        wish = "local"
    return any(had == outcome for outcome in outcomes.get(wish, ()))  # what is recorded may be anything
