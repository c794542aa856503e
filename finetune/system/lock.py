"""One process at a time: in a run's folder, and at the log of a run.

A lock is ``flock`` on an open file, not ``filelock``, which lacks two things needed: a child inherits
a lock with its standard output, so that the run of a killed study still holds its log; and whether a file is
locked can be asked without creating the file, opening it for writing or taking the lock. The kernel lets go
of a lock when the last process that has the file open ends, however it ends.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from finetune.errors import BusyError, UserError
from finetune.system import world
from finetune.system.files import unfinished

FILE = ".lock"
"""In a run's folder; held while the run goes on."""
ATTEMPTS, PAUSE_S = 3, 0.02  # another process that asks whether a file is held takes it for a moment


def claim(file: Path) -> BinaryIO | None:
    """Opens ``file`` at its end and locks it; None where another process holds it.

    Creates the file. Raises ``OSError``, also for a link, through which the file at its end would be written.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    stream = os.fdopen(os.open(file, flags, 0o666), "ab", buffering=0)
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_S)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        except BaseException:
            stream.close()
            raise
        return stream
    stream.close()
    return None


def held(file: Path) -> bool:
    """Whether a process holds a lock on ``file``. Writes nothing."""
    try:
        with file.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def busy(folder: Path) -> BusyError:
    """Words the error for a run's ``folder`` that another process holds."""
    return BusyError(f"another process is training in {folder}: wait for it, or choose another --output")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a run's ``folder`` for this process; raises ``BusyError`` where another one does.

    Removes what a killed process had half written, and had not yet given its name. Of the processes of a run
    that of rank 0 holds it, for all.
    """
    if not world.is_main():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = claim(folder / FILE)
    except OSError as error:
        raise UserError(f"cannot write in the run folder {folder}: {error.strerror}") from error
    if stream is None:
        raise busy(folder)
    with stream:
        for left in unfinished(folder):
            left.unlink()
        yield
