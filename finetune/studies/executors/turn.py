"""One process of a study at a time submits jobs that outlive it; the next one finds them, and takes over."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import BusyError, UserError
from finetune.studies.file import JOBS
from finetune.system import lock

PATIENCE_S = 900  # seconds that another process may take, whose cluster may be restarted meanwhile
PAUSE_S = 0.1  # seconds between two tries


@contextmanager
def turn(root: Path) -> Iterator[int]:
    """Holds the jobs of the study in ``root`` against its other processes, which submit the same cells.

    Yields the file descriptor that holds the lock. A command that inherits it holds the lock too: what a
    killed process has half submitted is waited for.
    """
    folder = root / JOBS
    end = time.monotonic() + PATIENCE_S
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while (stream := lock.claim(folder / lock.FILE)) is None:
            if time.monotonic() > end:
                raise BusyError(f"another process has been submitting jobs for {PATIENCE_S} s")
            time.sleep(PAUSE_S)
    except OSError as error:
        raise UserError(f"cannot write the list of jobs in {folder}: {error.strerror}") from error
    with stream:
        yield stream.fileno()
