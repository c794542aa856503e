"""How many runs go on at a time on this machine, and what each is told of its GPU and its threads."""

import os
import re
import subprocess
from collections.abc import Mapping

import psutil

from finetune.system.environment import cores

GIB_A_RUN = 4  # of memory on a CPU: twice what MiniLM at 128 tokens takes; ours


def workers(wanted: int | None, environment: Mapping[str, str] = os.environ) -> int:
    """``wanted``, or else one a GPU, or without one as many as there are cores and memory for."""
    if wanted is not None:
        return wanted
    memory = int(psutil.virtual_memory().available / 2**30) // GIB_A_RUN
    return len(gpus(environment)) or max(1, min(cores(), memory))


def slots(count: int, environment: Mapping[str, str] = os.environ) -> list[dict[str, str]]:
    """What the environment of each of ``count`` workers has besides this process's own.

    GPUs go round, one a worker, since a run refuses to start where it sees several. Threads are shared out,
    for processes that each take all cores stand in each other's way; a user's ``OMP_NUM_THREADS`` is kept.
    """
    found = gpus(environment)
    extra: list[dict[str, str]] = [{} for _ in range(count)]
    for number, slot in enumerate(extra):
        if found:
            slot["CUDA_VISIBLE_DEVICES"] = found[number % len(found)]
        if count > 1 and "OMP_NUM_THREADS" not in environment:
            slot["OMP_NUM_THREADS"] = str(max(1, cores() // count))
    return extra


def gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """CUDA's names for the GPUs that may be used, without asking torch: those of ``CUDA_VISIBLE_DEVICES``, or
    what ``nvidia-smi -L`` lists."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        stop = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:stop]  # CUDA looks at nothing behind a name that is none
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []  # no driver, no GPU
    return parse_listing(listed.stdout)


def parse_listing(text: str) -> list[str]:
    """The lines of ``nvidia-smi -L`` -> names: a GPU's number, or instead its parts (MIG) if it has any."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        gpu, part = re.match(r"GPU (\d+):", line), re.search(r"UUID: (MIG-[^)]+)", line)
        if gpu:
            found.append((gpu[1], []))
        elif part and found:
            found[-1][1].append(part[1])
    return [name for gpu_name, parts in found for name in parts or [gpu_name]]
