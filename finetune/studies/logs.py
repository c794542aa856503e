"""Logs of a study's runs, in ``ROOT/logs``; the process that holds a run's log is the one that makes it."""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from finetune.errors import UserError
from finetune.records.store import Record, now
from finetune.system import lock
from finetune.system.redaction import redact

TAIL = 8192  # bytes at the end of a log that are searched for its last lines
MISTAKE = "finetune: error: "
VERDICT = re.compile(r"# (\S+): failed: (.*)")


@dataclass(frozen=True)
class Attempt:
    """The output of one attempt at a run. ``start``: the byte of the log at which it begins."""

    file: Path
    start: int
    began: str  # ISO 8601, UTC

    def last_line(self) -> str:
        """The last line that is not blank."""
        return next(reversed(_last_lines(self.file, self.start)), "")

    def complaint(self) -> str:
        """The reason why this attempt ended: its last ``finetune: error: ...``, or else its last line."""
        return complaint(_last_lines(self.file, self.start))


@dataclass(frozen=True)
class Log(Attempt):
    """The open, locked log of a run on this machine."""

    stream: BinaryIO

    def execute(self, words: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        """Starts a command that writes into the log, as the leader of a process group of its own.

        ``environment``: variables besides those of this process. A Ctrl-C in the terminal reaches this
        process alone, which ends the group.
        """
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=self.stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},  # a log that is up to date
            process_group=0,
        )

    def close(self, failure: str = "") -> None:
        """Releases the log, once every process that writes into it has ended, with a failure's reason."""
        with suppress(OSError):  # a full disk, which may be the reason itself
            if failure:
                self.stream.write(f"\n# {now()}: failed: {failure}\n".encode("utf-8", "backslashreplace"))
        self.stream.close()


def complaint(lines: Sequence[str]) -> str:
    """Why a command ended, by what it printed: its last ``finetune: error: ...``, or else its last line."""
    mistakes = [line.removeprefix(MISTAKE) for line in lines if line.startswith(MISTAKE)]
    return (mistakes or [*lines] or [""])[-1]


def of_attempt(record: Record | None, began: str) -> bool:
    """Whether ``record`` is of the attempt that ``began`` then (ISO 8601, UTC), not of one before it."""
    return record is not None and record["started"] >= began


def claim(file: Path, words: Sequence[str]) -> Log | None:
    """Opens a log for one attempt at a run; None where another process holds it.

    The processes that write into it hold it too, so what a killed study has left running is not run twice.
    """
    began = now()
    header = f"# {began}: {redact(shlex.join(words))}\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.claim(file)
        if stream is None:
            return None
        try:
            stream.write(header.encode("utf-8", "backslashreplace"))
        except OSError:
            stream.close()  # or whoever looks at the error would hold the log
            raise
    except OSError as error:
        raise UserError(f"cannot write the log {file}: {error.strerror}") from error
    return Log(file, stream.seek(0, 2), began, stream)


def begin(file: Path, words: Sequence[str]) -> Attempt | None:
    """Begins the log of an attempt that a process elsewhere will write; None where one here holds it."""
    log = claim(file, words)
    if log is None:
        return None
    log.close()
    return Attempt(log.file, log.start, log.began)


def judge(attempt: Attempt, failure: str) -> None:
    """Writes why an attempt failed into its log, once no process elsewhere writes into it any more."""
    with suppress(OSError):
        stream = lock.claim(attempt.file)
        if stream is not None:
            Log(attempt.file, attempt.start, attempt.began, stream).close(failure)


def verdict(file: Path, since: str = "") -> str:
    """The reason why a study's last attempt failed; "" where it did not, or ended before ``since``
    (ISO 8601, UTC)."""
    match = VERDICT.fullmatch(next(reversed(_last_lines(file, 0)), ""))
    return match[2] if match and match[1] >= since else ""


def _last_lines(file: Path, start: int) -> list[str]:
    """The lines that are not blank, from the byte ``start`` on; each state of a progress bar is one."""
    if not file.is_file():
        return []
    with file.open("rb") as stream:
        stream.seek(max(start, stream.seek(0, 2) - TAIL))
        text = stream.read().decode("utf-8", "replace")
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
