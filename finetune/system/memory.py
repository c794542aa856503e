"""Memory of a run, of the GPU where there is one, else of the process (Linux): peak, release, want of it."""

import ctypes
import gc
import os
import socket
from collections import Counter
from pathlib import Path

import psutil
import torch

from finetune.system import world


def reset_peak_memory() -> bool:
    """Starts a new peak, so that runs in one process do not share it; False where that is impossible."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    except OSError:  # not Linux, or a container that forbids it: better no figure than a wrong one
        return False
    return True


def peak_memory_mib() -> float:
    """Peak memory since the last successful reset, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    kibibytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kibibytes) / 2**10


def available_bytes() -> int:
    """Bytes that each process of a run can take on its machine, where all of them take as much; the least."""
    said = world.gathered((socket.gethostname(), psutil.virtual_memory().available))
    processes = Counter(machine for machine, _ in said)
    return min(free // processes[machine] for machine, free in said)


def return_freed_memory() -> None:
    """Has the C library give freed memory back to the system (glibc; elsewhere nothing).

    It keeps freed tensors of up to 32 MiB, and finds no use for them where small ones were allocated in
    between: an evaluation, which keeps a few numbers of each batch, would hold the logits of every batch to
    its end. Done every few batches it costs little; to have large tensors mapped one by one instead would
    double the time of encodings that make many.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def release_memory() -> None:
    """Frees memory that nothing uses any more."""
    gc.collect()  # a trained model and its Trainer refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
