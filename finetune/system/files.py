"""Files written atomically, wholly or not at all, and by one of the processes of a run alone."""

import errno
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from finetune.errors import UserError
from finetune.system import world

LFS_POINTER = b"version https://git-lfs"
"""How a file begins whose content Git LFS has still to fetch."""

FULL = (errno.ENOSPC, errno.EDQUOT)
UNFINISHED = re.compile(r"\..+\.\w+\.\w+\.tmp")  # .record.json.x1y2z3.tmp


def write_text(file: Path, pieces: Iterable[str], *, each: bool = False) -> Path:
    """Writes text in UTF-8, as ``write_bytes`` does; half a surrogate pair is written as its escape."""
    return write_bytes(file, (piece.encode("utf-8", "backslashreplace") for piece in pieces), each=each)


def write_bytes(file: Path, pieces: Iterable[bytes], *, each: bool = False) -> Path:
    """Writes ``file`` so that a reader, or a crash, sees the old or the new content and nothing between.

    Of the processes of a run only that of rank 0 does, and the others return at once; ``each``: all do, of
    which each has a file of its own. Makes the folder; raises ``UserError`` naming it and the system's reason
    where that fails.
    """
    if not (each or world.is_main()):
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, since a rename is atomic only within one file system.
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.writelines(pieces)
                stream.flush()
                os.fsync(stream.fileno())
            os.umask(mask := os.umask(0o077))  # a mask can only be read by setting another
            os.chmod(name, 0o666 & ~mask)  # mkstemp's 0600 would hide a run from colleagues
            os.replace(name, file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"cannot write {file.name} in the folder {file.parent}: {error.strerror}") from error
    return file


def says_full(error: BaseException) -> bool:
    """Whether ``error`` or one of its causes is the system's word for a full disk, or a full share of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FULL:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def is_full(folder: Path, error: BaseException) -> bool:
    """Whether ``error`` came of a full disk: it says so, or ``folder`` does not take another MiB.

    Libraries that write weights have words of their own for it, or none.
    """
    if says_full(error):
        return True
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(2**20))
    except OSError as refusal:
        return refusal.errno in FULL
    return False


def refuse_pointer(path: Path, beginning: bytes) -> None:
    """Raises ``UserError`` for a file that begins as a Git LFS pointer."""
    if beginning.startswith(LFS_POINTER):
        raise UserError(
            f"{path} is a Git LFS pointer and not the file itself: type 'git lfs pull' in {path.parent}"
        )


def unfinished(folder: Path) -> list[Path]:
    """Lists temporary files that a killed ``write_bytes`` left in ``folder``, not those of other programs."""
    return sorted(
        path for path in folder.glob(".*.tmp") if UNFINISHED.fullmatch(path.name) and path.is_file()
    )
