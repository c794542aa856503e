"""Files that are written wholly or not at all."""

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from finetune.errors import UserError

UNFINISHED = re.compile(r"\..+\.\w+\.\w+\.tmp")  # .record.json.x1y2z3.tmp


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


def unfinished(folder: Path) -> list[Path]:
    """Files in ``folder`` that ``write_text`` was killed over; others of that ending are somebody else's."""
    return sorted(
        path for path in folder.glob(".*.tmp") if UNFINISHED.fullmatch(path.name) and path.is_file()
    )


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
