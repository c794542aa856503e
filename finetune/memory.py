"""Peak memory of a run: the GPU's where there is one, else the process's resident set (Linux)."""

import sys
from pathlib import Path

import torch


def reset_peak_memory() -> None:
    """Start a new peak, so that runs in one process do not inherit each other's."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM


def peak_memory_mib() -> float | None:
    """Peak since the last reset, in MiB; ``None`` where it cannot be measured."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform != "linux":
        return None
    status = Path("/proc/self/status").read_text()
    kibibytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kibibytes) / 2**10
