"""Runs a command on a leash: it ends when whoever holds the other end of the standard input lets go of it.

``python -m finetune.studies.executors.leash '{"words": [...], "log": "...", ...}'``. A worker of a cluster
can be killed in a way that leaves it no time to end what it has started, which would go on, unknown to all,
with the GPU and the folder of its run. The kernel closes the pipe between the two whatever the end was.

The last line of the standard output is the ``Outcome``, as JSON.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from finetune.studies import logs
from finetune.studies.executors.base import killed_text, signal_group

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@dataclass(frozen=True)
class Leash:
    """What is run, and for how long. ``log``: where its output goes, claimed as long as it lasts."""

    words: list[str]
    log: str
    timeout_s: float | None
    grace_s: float  # that a run has to leave a checkpoint when it is told to end
    launches: bool = False  # the command starts the processes of the run, and would kill what takes long


@dataclass(frozen=True)
class Outcome:
    """How a command has ended. ``exit_status``: below 0 the signal that killed it."""

    exit_status: int
    timed_out: bool = False
    reason: str = ""  # of an end that is no success: the last line of the log, or what the leash knows of it
    began: str = ""  # ISO 8601, UTC


def run(leash: Leash) -> Outcome:
    """Runs the command in a process group of its own, and waits for its end."""
    log = logs.claim(Path(leash.log), leash.words)
    if log is None:
        return Outcome(os.EX_TEMPFAIL)
    try:
        process = log.execute(leash.words, {})
    except OSError as error:
        reason = f"cannot start a process: {error.strerror}"
        log.close(reason)
        return Outcome(1, reason=reason, began=log.began)
    told = threading.Event()  # to end: what it then does is no failure

    def pass_on(number: int, frame: object) -> None:
        told.set()
        tell(process, leash, number)

    def when_let_go() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        told.set()
        end(process, leash)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    threading.Thread(target=when_let_go, daemon=True).start()
    timed_out = False
    try:
        process.wait(leash.timeout_s)
    except subprocess.TimeoutExpired:
        timed_out = True
        end(process, leash)
    signal_group(process, signal.SIGKILL)  # what it has started, and left
    reason = log.complaint() if process.returncode else ""
    if timed_out:
        reason = f"it did not end within the {leash.timeout_s:g} s that it may take"
    elif process.returncode < 0 and not told.is_set():
        reason = killed_text(-process.returncode)
    failed = timed_out or not (told.is_set() or process.returncode in (0, os.EX_TEMPFAIL))
    log.close(reason if failed else "")
    return Outcome(process.returncode, timed_out, reason, log.began)


def end(process: "subprocess.Popen[bytes]", leash: Leash) -> None:
    """Tells a run to end, and kills its process group where it does not."""
    tell(process, leash, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(leash.grace_s)
    signal_group(process, signal.SIGKILL)
    process.wait()


def tell(process: "subprocess.Popen[bytes]", leash: Leash, number: int) -> None:
    """Sends a signal to the processes of the run alone: without its helpers it cannot save what it has.

    torchrun, told itself, would leave them half a minute.
    """
    with suppress(psutil.NoSuchProcess):
        itself = psutil.Process(process.pid)
        for each in (leash.launches and itself.children()) or [itself]:
            each.send_signal(number)


def main(arguments: Sequence[str]) -> int:
    # Ray kills the children of a worker that it ends, and not their children: the parent is what it kills.
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    values: dict[str, Any] = json.loads(arguments[0])
    outcome = run(Leash(**values))
    with suppress(BrokenPipeError):  # whoever held the leash is gone
        print(json.dumps(asdict(outcome)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
