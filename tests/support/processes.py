"""Processes of one run, as a launcher starts them: on the CPU, each with its rank, and ended in time."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FINETUNE = (sys.executable, "-m", "finetune")


@dataclass(frozen=True)
class Ended:
    """How one process has ended; ``status`` is that of a signal, below 0, where one has ended it."""

    status: int
    output: str  # of both streams


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def environments(processes: int, more: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """The environment of each process of a run, by rank, as torchrun sets it."""
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **(more or {})}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    numbers = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [{**shared, **numbers, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(processes)]


def start(
    words: Sequence[str], processes: int, more: Mapping[str, str] | None = None
) -> list["subprocess.Popen[str]"]:
    """Starts ``words`` once for each rank; to be ended with ``ends``."""
    streams: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return [subprocess.Popen(words, env=each, text=True, **streams) for each in environments(processes, more)]


def ends(started: Sequence["subprocess.Popen[str]"], timeout: float = 120) -> list[Ended]:
    """Waits for all processes, and kills them where they take longer than ``timeout`` seconds together."""
    end, ended = time.monotonic() + timeout, []
    try:
        for process in started:
            output, _ = process.communicate(timeout=max(0.1, end - time.monotonic()))
            ended.append(Ended(process.returncode, output))
    finally:
        for process in started:
            process.kill()
            process.communicate()  # which closes its output too
    return ended


def launch(words: Sequence[str], processes: int, timeout: float = 120, **more: str) -> list[Ended]:
    """Runs ``words`` (``[*FINETUNE, "run", ...]``) as ``processes`` of one run, with ``more`` set."""
    return ends(start(words, processes, more), timeout)
