"""One versioned JSON record a run, written atomically, and the predictions beside it.

A record is a plain mapping with exactly the keys of ``Record``; nothing but this module writes or reads one.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from finetune.config import identity
from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.records.schema import ADVICE, SCHEMA, VERSION, Record, check, upgrade
from finetune.system.environment import environment
from finetune.system.files import write_text
from finetune.system.parsing import JSON_BYTES, UnreadableError, json_value, read_json, read_text
from finetune.system.redaction import redact

FILE = "record.json"
PREDICTIONS = "predictions.jsonl"
CHECKPOINTS = ("checkpoint-", "preempted-")
"""How the names of folders in a run's folder begin that hold a checkpoint: one of its schedule, or one that a
preempted run has left between two of them and that the next one replaces; the number of the step follows."""


def now() -> str:
    """The time in UTC, to the second: ``2026-01-31T12:00:00+00:00``."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new(
    config: RunConfig, *, command: str, task: Mapping[str, Any] | None = None, device: str | None = None
) -> Record:
    """Makes the record of a run that starts now, on ``device`` ("cpu", "cuda:0"; ``None``: a GPU if any).

    ``task`` (name, kind, pair, labels) may be left out where it is not known yet.
    """
    surroundings = environment(device)
    known = {"name": config.task, "kind": config.kind, "pair": config.pair, "labels": None}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "status": "running",
        "reason": None,
        "config": identity.as_dict(config),
        "config_hash": identity.config_hash(config),
        "task": known | dict(task or {}),
        "data": None,
        "model": None,
        "attention": None,
        "versions": dict(surroundings["versions"]),
        "git": surroundings["git"],
        "hardware": dict(surroundings["hardware"]),
        "started": now(),
        "finished": None,
        "times": None,
        "peak_memory_mib": None,
        "computed": None,
        "curve": [],
        "untrained": None,
        "diagnostics": None,
        "metrics": None,
        "predictions": None,
        "command": redact(command),
    }


def write(folder: Path, record: Record) -> Path:
    """Writes ``record`` as ``folder/record.json``, wholly or not at all; returns the file.

    NaN and infinite numbers become null, since JSON has no number for them. Raises ``UserError`` where the
    folder cannot be written, ``ValueError`` where a key is missing or unknown.
    """
    wrong = set(record) ^ set(Record.__annotations__)
    if wrong:
        raise ValueError(f"keys of a record that are missing or unknown: {', '.join(sorted(wrong))}")
    text = json.dumps(_plain(record), indent=1, ensure_ascii=False, allow_nan=False)
    return write_text(folder / FILE, [text, "\n"])


def read(folder: Path) -> Record:
    """Reads ``folder/record.json`` (or the file itself); raises ``UserError`` saying what is wrong."""
    file = folder if folder.suffix == ".json" else folder / FILE
    content = upgrade(read_json(file, "the record", ADVICE))
    check(file, content)
    record: Record = content
    return record


def reached(folder: Path) -> int:
    """The step of the newest checkpoint in a run's folder, by its name; 0 without one."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    steps = [name.rpartition("-")[2] for name in names if name.startswith(CHECKPOINTS)]
    return max((int(step) for step in steps if step.isdecimal()), default=0)


def find(root: Path) -> tuple[list[tuple[Path, Record]], list[str]]:
    """Finds every run below ``root``, in the order of the paths: ``[(run folder, record)]``, and problems.

    A problem is one line about a record that cannot be read. Raises ``UserError`` if ``root`` is no folder.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}: name the folder that the runs were written to")
    problems: list[str] = []
    records: list[tuple[Path, Record]] = []

    def unlisted(error: OSError) -> None:  # a folder that cannot be listed is a problem, not an end
        problems.append(f"cannot look into {error.filename}: {error.strerror}")

    for name, folders, files in os.walk(root, onerror=unlisted):
        # What lies in a checkpoint is no run of its own.
        folders[:] = sorted(folder for folder in folders if not folder.startswith(CHECKPOINTS))
        if FILE in files:
            try:
                records.append((Path(name), read(Path(name))))
            except UserError as error:
                problems.append(str(error))
    return records, problems


def write_predictions(folder: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Writes one JSON object a line, wholly or not at all; returns the file.

    Classification: ``{"row", "label", "prediction"}`` (class indices); translation: ``{"row", "reference",
    "prediction"}`` (texts); language models: ``{"row", "document", "nats", "tokens", ...}``, a document a
    line. ``row`` identifies the row of the data set. Raises ``UserError`` as ``write``.
    """
    lines = (json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    return write_text(folder / PREDICTIONS, lines)


def read_predictions(folder: Path) -> list[dict[str, Any]]:
    """Reads what ``write_predictions`` wrote; raises ``UserError`` naming the line that is wrong."""
    file = folder / PREDICTIONS
    rows: list[dict[str, Any]] = []
    try:
        lines = StringIO(read_text(file, JSON_BYTES), newline="\n")
        for number, line in enumerate(lines, start=1):
            row = json_value(line)
            told = isinstance(row, dict) and {"prediction", "nats"} & set(row)
            if not (told and isinstance(row.get("row"), int)):
                raise UserError(f"{file}, line {number}: no prediction (needs 'row' and 'prediction')")
            rows.append(row)
    except OSError as error:
        raise UserError(f"cannot read the predictions {file}: {error.strerror}") from error
    except UnreadableError as error:
        raise UserError(f"{file}, line {len(rows) + 1}: {error}; run again") from error
    return rows


def _plain(value: Any) -> Any:
    """Copies a value as plain JSON: scalars as numbers, paths as text, non-finite numbers as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    plain = value.item() if hasattr(value, "item") else value  # a numpy or torch scalar
    if isinstance(plain, float) and not math.isfinite(plain):
        return None
    if isinstance(plain, str):  # half a surrogate pair, as in a file name that is no UTF-8, is no JSON
        return plain.encode("utf-8", "backslashreplace").decode("utf-8")
    if plain is None or isinstance(plain, (bool, int, float)):
        return plain
    raise TypeError(f"{type(value).__name__} does not go into a record")
