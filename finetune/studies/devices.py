"""How many runs this machine makes at a time, and which GPU and how many threads each of them gets."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from finetune.system.environment import cores

GIB_A_RUN = 4  # of memory on a CPU: twice what MiniLM at 128 tokens takes; ours
ACCELERATORS = ("nvidia*", "dxg", "kfd", "dri/render*", "accel/*", "davinci*")  # what drivers make in /dev


def workers(wanted: int | None, environment: Mapping[str, str] = os.environ) -> int:
    """The number of runs at a time: ``wanted``, or one a GPU, or as many as cores and memory allow."""
    if wanted is not None:
        return wanted
    memory = int(psutil.virtual_memory().available / 2**30) // GIB_A_RUN
    return len(gpus(environment)) or max(1, min(cores(), memory))


def slots(count: int, environment: Mapping[str, str] = os.environ) -> list[dict[str, str]]:
    """The environment variables of each of ``count`` workers, besides this process's own.

    GPUs are dealt in turn, one a worker, since a run refuses to start where it sees several. Threads are
    divided, since processes that each take all cores slow each other down; ``OMP_NUM_THREADS`` is kept.
    """
    names = gpus(environment)
    extra: list[dict[str, str]] = [{} for _ in range(count)]
    for number, slot in enumerate(extra):
        if names:
            slot["CUDA_VISIBLE_DEVICES"] = names[number % len(names)]
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


@dataclass(frozen=True)
class Gpu:
    """A GPU with its memory, as the driver has them."""

    name: str
    memory_gib: float | None  # None: not known


def cpu_alone(environment: Mapping[str, str] = os.environ, folder: Path = Path("/dev")) -> bool:
    """Whether runs compute on the CPU for certain, without asking torch; ``folder`` holds the devices."""
    if sys.platform != "linux" or gpus(environment):
        return False
    hidden = "CUDA_VISIBLE_DEVICES" in environment  # all of them, and AMD's too
    return hidden or not any(any(folder.glob(name)) for name in ACCELERATORS)


def gpus_with_memory(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs that may be used, without asking torch."""
    words = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
        text = listed.stdout
    except (OSError, subprocess.SubprocessError):
        text = ""
    return parse_memory(text, gpus(environment))


def parse_memory(text: str, names: Sequence[str]) -> list[Gpu]:
    """Reads the GPUs called ``names``, by number or by (the beginning of) UUID, off nvidia-smi's table.

    Without a size are those whose memory is the machine's (``[N/A]``), and what the table has not, as parts
    of a GPU (MIG).

    >>> parse_memory("0, GPU-ab12, NVIDIA H100 80GB HBM3, 81559", ["0"])
    [Gpu(name='NVIDIA H100 80GB HBM3', memory_gib=79.6)]
    """
    rows = [[word.strip() for word in line.split(",")] for line in text.splitlines()]
    found = []
    for each in names:
        gpu = Gpu("MIG part" if each.startswith("MIG-") else "GPU", None)
        for number, uuid, name, mebibytes in (row for row in rows if len(row) == 4):
            if each == number or (each.startswith("GPU-") and uuid.startswith(each)):
                gpu = Gpu(name, round(int(mebibytes) / 1024, 1) if mebibytes.isdecimal() else None)
        found.append(gpu)
    return found


def host_memory_gib(environment: Mapping[str, str] = os.environ) -> float:
    """Memory that the processes of this machine may take: all of it, or the share of a container or a job."""
    limits = [float(psutil.virtual_memory().total)]
    with suppress(OSError, ValueError):  # "max": no limit
        limits.append(float(Path("/sys/fs/cgroup/memory.max").read_text()))
    if (share := environment.get("SLURM_MEM_PER_NODE", "")).isdecimal() and int(share):
        limits.append(int(share) * 2.0**20)
    return round(min(limits) / 2**30, 1)


def parse_listing(text: str) -> list[str]:
    """Reads names off ``nvidia-smi -L``: a GPU's number, or in its place its MIG parts if it has any."""
    listed: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        gpu, part = re.match(r"GPU (\d+):", line), re.search(r"UUID: (MIG-[^)]+)", line)
        if gpu:
            listed.append((gpu[1], []))
        elif part and listed:
            listed[-1][1].append(part[1])
    return [name for gpu_name, parts in listed for name in parts or [gpu_name]]
