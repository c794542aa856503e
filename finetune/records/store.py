"""One versioned JSON record a run, written atomically, and the predictions and probabilities beside it.

A record is a plain mapping with exactly the keys of ``Record``; nothing but this module writes or reads one.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config import identity
from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.records.schema import ADVICE, SCHEMA, VERSION, Record, check, upgrade
from finetune.system.environment import environment
from finetune.system.files import write_bytes, write_text
from finetune.system.parsing import JSON_BYTES, UnreadableError, json_value, read_json, read_text
from finetune.system.redaction import redact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = "record.json"
PREDICTIONS = "predictions.jsonl"
PROBABILITIES = "probabilities.parquet"
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
        "probabilities": None,
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


def write_probabilities(
    folder: Path, rows: Sequence[int], log_probabilities: "NDArray[np.floating[Any]]"
) -> Path:
    """Writes the probability of every class for every test row, wholly or not at all; returns the file.

    ``rows`` identify them as in predictions.jsonl, in its order; ``log_probabilities`` (rows, classes) are
    natural logarithms. They are kept as float16, in which a logarithm tells 0.9999 from 1 and 1e-9 from 0 and
    a probability neither: columns ``row`` (int64) and ``log_probability`` (a list of float16, one a class).
    Raises ``UserError`` as ``write``.
    """
    import numpy as np
    import pyarrow
    from pyarrow import parquet

    lowest = np.finfo(np.float16).min  # exp of which is 0, as it is of anything below
    kept = np.maximum(log_probabilities, lowest).astype(np.float16)
    values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(kept.ravel()), kept.shape[1])
    table = pyarrow.table({"row": pyarrow.array(rows, pyarrow.int64()), "log_probability": values})
    content = BytesIO()
    parquet.write_table(table, content, compression="zstd", use_dictionary=False)
    return write_bytes(folder / PROBABILITIES, [content.getvalue()])


def read_probabilities(folder: Path) -> "tuple[NDArray[np.int64], NDArray[np.float32]]":
    """Reads what ``write_probabilities`` wrote: row ids (rows), and log probabilities (rows, classes).

    Raises ``UserError`` where the file is missing, damaged or of another form.
    """
    import numpy as np
    import pyarrow
    from pyarrow import parquet

    file = folder / PROBABILITIES
    try:
        table = parquet.read_table(BytesIO(file.read_bytes()))
        values = table.column("log_probability").combine_chunks()
        classes = values.type.list_size
        shown = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, classes)
        rows = table.column("row").to_numpy()
        if shown.dtype != np.float16 or rows.dtype != np.int64 or len(shown) != len(rows):
            raise ValueError("other types")
    except OSError as error:
        reason = error.strerror or "it is cut or damaged"  # of pyarrow, which has no number for that
        raise UserError(f"cannot read the probabilities {file}: {reason}") from error
    except (pyarrow.ArrowException, AttributeError, KeyError, ValueError) as error:
        raise UserError(f"{file} holds no probabilities by row and class: run again") from error
    return rows, shown.astype(np.float32)


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
