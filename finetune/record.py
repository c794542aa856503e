"""One versioned JSON record a run, written atomically, and the predictions beside it.

A record is a plain mapping with exactly the keys of ``Record``; nothing but this module writes or reads one.
"""

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12

from finetune import config as configuration
from finetune.config import RunConfig, Seed
from finetune.environment import environment
from finetune.errors import UserError
from finetune.folders import arm_label, model_slug, run_folder, task_slug

__all__ = [
    "FILE",
    "PREDICTIONS",
    "Record",
    "arm_label",
    "environment",
    "find",
    "model_slug",
    "new",
    "now",
    "read",
    "read_predictions",
    "run_folder",
    "task_slug",
    "write",
    "write_predictions",
    "write_text",
]

FILE = "record.json"
PREDICTIONS = "predictions.jsonl"
SCHEMA = "finetune-record"
VERSION = 1
ADVICE = "move or delete its folder and run again"


class Record(TypedDict):
    """Everything known about one run; ``None`` where it is not known yet (or never will be)."""

    schema: str
    version: int
    status: Literal["running", "finished", "failed"]
    reason: str | None  # why a run failed
    config: dict[str, Any]
    config_hash: str
    task: dict[str, Any]  # name, kind, pair, labels
    data: dict[str, Any] | None  # kind, location, revision, sample, splits: {name: {rows, fingerprint, from}}
    model: dict[str, Any] | None  # name, revision, architecture, parameters, trainable
    attention: dict[str, Any] | None  # variant, parameters, scope, kernel, layers, total, dropout
    versions: dict[str, str | None]
    git: dict[str, Any] | None  # commit, dirty
    hardware: dict[str, Any]  # device, devices (how many it trains on), cpu, cores, memory_gib
    started: str  # ISO 8601, UTC
    finished: str | None
    times: dict[str, float | None] | None  # train_s (None if resumed), predict_s, total_s; seconds
    peak_memory_mib: float | None
    curve: list[dict[str, Any]]  # Trainer's log, one entry a logging step
    metrics: dict[str, Any] | None  # name -> {value, signature}; per_class
    predictions: str | None  # file name beside the record
    command: str  # reproduces the run


# What the comparison reads of the nested mappings; further keys are welcome. Only a record that fits both
# this and ``Record`` gets past ``read``, so that nothing behind it has to look again.
Number = Annotated[float, Field(ge=-1e12, le=1e12)]


class _Config(TypedDict):
    seed: Seed
    data: dict[str, Any]
    model: dict[str, Any]
    attention: dict[str, Any]
    train: dict[str, Any]
    generation: dict[str, Any] | None


class _Task(TypedDict):
    name: str
    kind: configuration.Kind
    pair: str | None


class _Split(TypedDict):
    rows: int
    fingerprint: str


class _Data(TypedDict):
    kind: str
    location: str | None
    revision: str | None
    sample: bool
    splits: dict[str, _Split]


class _Model(TypedDict):
    revision: str | None
    tokenizer: NotRequired[str | None]  # records of earlier days lack this and the next
    initial_weights: NotRequired[str | None]


class _Attention(TypedDict):
    variant: str
    parameters: dict[str, Number]
    kernel: str
    layers: dict[str, int]
    total: int
    dropout: Number | dict[str, Number] | None


class _Git(TypedDict):
    commit: str
    dirty: bool


class _Hardware(TypedDict):
    device: str | None
    cpu: str | None
    devices: NotRequired[int | None]


class _Times(TypedDict):
    train_s: Number | None


class _Score(TypedDict):
    value: Number | None
    signature: NotRequired[str | None]


def _scores(metrics: Any) -> Any:
    """Without the report per class, which goes by the names of the labels and which nothing reads."""
    return {k: v for k, v in metrics.items() if k != "per_class"} if isinstance(metrics, dict) else metrics


class _Nested(TypedDict):
    config: _Config
    task: _Task
    data: _Data | None
    model: _Model | None
    attention: _Attention | None
    git: _Git | None
    hardware: _Hardware
    times: _Times | None
    peak_memory_mib: Number | None
    metrics: Annotated[dict[str, _Score] | None, BeforeValidator(_scores)]


_SHAPES: tuple[TypeAdapter[Any], ...] = (TypeAdapter(Record), TypeAdapter(_Nested))


def now() -> str:
    """The time in UTC, to the second: ``2026-01-31T12:00:00+00:00``."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new(
    config: RunConfig, *, command: str, task: Mapping[str, Any] | None = None, device: str | None = None
) -> Record:
    """The record of a run that starts now, on ``device`` ("cpu", "cuda:0"; ``None``: a GPU if there is one).

    ``task`` (name, kind, pair, labels) may be left out where it is not known yet.
    """
    found = environment(device)
    known = {"name": config.task, "kind": config.kind, "pair": config.pair, "labels": None}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "status": "running",
        "reason": None,
        "config": configuration.as_dict(config),
        "config_hash": configuration.config_hash(config),
        "task": known | dict(task or {}),
        "data": None,
        "model": None,
        "attention": None,
        "versions": dict(found["versions"]),
        "git": found["git"],
        "hardware": dict(found["hardware"]),
        "started": now(),
        "finished": None,
        "times": None,
        "peak_memory_mib": None,
        "curve": [],
        "metrics": None,
        "predictions": None,
        "command": command,
    }


def write(folder: Path, record: Record) -> Path:
    """Write ``record`` as ``folder/record.json``, wholly or not at all; return the file.

    NaN and infinite numbers become null, which JSON has no other word for. Raises ``UserError`` where the
    folder cannot be written, ``ValueError`` where a key is missing or unknown.
    """
    wrong = set(record) ^ set(Record.__annotations__)
    if wrong:
        raise ValueError(f"keys of a record that are missing or unknown: {', '.join(sorted(wrong))}")
    text = json.dumps(_plain(record), indent=1, ensure_ascii=False, allow_nan=False)
    return write_text(folder / FILE, [text, "\n"])


def read(folder: Path) -> Record:
    """Read ``folder/record.json`` (or the file itself); raise ``UserError`` naming what is wrong with it."""
    file = folder if folder.suffix == ".json" else folder / FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the record {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the record {file} is not UTF-8 text: {ADVICE}") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}"
        raise UserError(f"the record {file} is truncated or no JSON ({where}): {ADVICE}") from error
    except (RecursionError, ValueError) as error:  # nested too deeply; a number too long
        raise UserError(f"{file} is no record of this program: {ADVICE}") from error
    _check(file, content)
    record: Record = content
    return record


def find(root: Path) -> tuple[list[tuple[Path, Record]], list[str]]:
    """Every run below ``root``, in the order of the paths: ``[(run folder, record)]``, and problems.

    A problem is one line about a record that cannot be read. Raises ``UserError`` if ``root`` is no folder.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}: name the folder that the runs were written to")
    problems: list[str] = []
    found: list[tuple[Path, Record]] = []
    for folder in _folders(root, problems):
        try:
            found.append((folder, read(folder)))
        except UserError as error:
            problems.append(str(error))
    return found, problems


def write_predictions(folder: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write one JSON object a line, wholly or not at all; return the file.

    Classification: ``{"row", "label", "prediction"}`` (class indices); translation: ``{"row", "reference",
    "prediction"}`` (texts). ``row`` identifies the row of the data set. Raises ``UserError`` as ``write``.
    """
    lines = (json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    return write_text(folder / PREDICTIONS, lines)


def read_predictions(folder: Path) -> list[dict[str, Any]]:
    """Read what ``write_predictions`` wrote; raise ``UserError`` naming the line that is wrong."""
    file = folder / PREDICTIONS
    rows: list[dict[str, Any]] = []
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                row = json.loads(line)
                if not (isinstance(row, dict) and isinstance(row.get("row"), int) and "prediction" in row):
                    raise UserError(f"{file}, line {number}: no prediction (needs 'row' and 'prediction')")
                rows.append(row)
    except OSError as error:
        raise UserError(f"cannot read the predictions {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of JSON or of UTF-8
        raise UserError(f"{file}, line {len(rows) + 1}: truncated or no JSON; run again") from error
    return rows


def write_text(file: Path, pieces: Iterable[str]) -> Path:
    """Write ``file`` so that a reader, or a crash, sees the old or the new content and nothing between.

    Makes the folder; raises ``UserError`` naming it and the system's reason where that fails.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _replace(file, pieces)
    except OSError as error:
        raise UserError(f"cannot write {file.name} in the folder {file.parent}: {error.strerror}") from error
    return file


def _replace(file: Path, pieces: Iterable[str]) -> None:
    # In the same folder, since a rename is atomic only within one file system.
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.writelines(pieces)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o666 & ~_umask())  # mkstemp's 0600 would hide a run from colleagues
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _check(file: Path, content: Any) -> None:
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UserError(f"{file} is no record of this program (no schema '{SCHEMA}'): {ADVICE}")
    version = content.get("version")
    if isinstance(version, int) and version > VERSION:
        raise UserError(
            f"the record {file} has version {version}, this program reads {VERSION}: upgrade this program"
        )
    wrong = set(content) ^ set(Record.__annotations__)
    if version != VERSION or wrong:
        keys = f" (missing or unknown keys: {', '.join(sorted(map(str, wrong)))})" if wrong else ""
        raise UserError(f"the record {file} is damaged{keys}: {ADVICE}")
    try:
        # As text, whose strict rules take 1 for 1.0 and no "1"; NaN and infinity are no JSON.
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        for shape in _SHAPES:
            shape.validate_json(text, strict=True)
    except (ValueError, RecursionError) as error:  # a ValidationError is a ValueError
        raise UserError(f"the record {file} is damaged ({_complaint(error)}): {ADVICE}") from error


def _complaint(error: Exception) -> str:
    """The first thing that is wrong, with the dotted name of the key, on one line."""
    if not isinstance(error, ValidationError):
        return "nested too deeply" if isinstance(error, RecursionError) else "a number that is none"
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    said = f"{first['msg'][0].lower()}{first['msg'][1:]}"
    return " ".join(f"{key}: {said}".split()) if key else said


def _folders(root: Path, problems: list[str]) -> Iterator[Path]:
    """Folders that hold a record, sorted; a folder that cannot be listed is a problem, not an end."""

    def note(error: OSError) -> None:
        problems.append(f"cannot look into {error.filename}: {error.strerror}")

    for name, folders, files in os.walk(root, onerror=note):
        folders[:] = sorted(f for f in folders if not f.startswith("checkpoint-"))
        if FILE in files:
            yield Path(name)


def _plain(value: Any) -> Any:
    """JSON-ready copy: numpy and torch scalars as numbers, paths as text, non-finite numbers as None."""
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
