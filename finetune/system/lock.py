"""One process at a time in a run folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import UserError
from finetune.system.files import unfinished


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process; ``UserError`` where another one does. A killed process lets go.

    What one that was killed had half written, and had not yet given its name, is removed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not through a link, which would empty what lies at its end.
        handle = os.fdopen(os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "w")
    except OSError as error:
        raise UserError(f"cannot write in the run folder {folder}: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is training in {folder}: wait for it, or choose another --output"
            ) from error
        for left in unfinished(folder):
            left.unlink()
        yield
