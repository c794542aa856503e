"""The environment of a run: package versions, the git commit of this code, and the hardware. Never raises."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune.system import world

# Every package that can move a number, by its name on the package index.
PACKAGES = (
    "softmax-finetune", "torch", "transformers", "tokenizers", "accelerate", "peft", "datasets", "evaluate",
    "scikit-learn", "sacrebleu", "numpy", "scipy",
)  # fmt: skip


def environment(device: str | None = None) -> dict[str, Any]:
    """Describes a run's surroundings: ``{"versions", "git": {"commit", "dirty"} | None, "hardware"}``.

    ``device`` ("cpu", "cuda:0", ...) is where the run computes; ``None`` takes a GPU where there is one.
    A part that cannot be determined is ``None``; all is ready for a record.
    """
    return {"versions": versions(), "git": git(Path(__file__).parents[1]), "hardware": hardware(device)}


def versions() -> dict[str, str | None]:
    """Versions of Python and of ``PACKAGES``; ``None`` for a package that is not installed."""
    installed: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed[package] = None
    return installed


def git(package: Path) -> dict[str, Any] | None:
    """Returns the commit of the checkout that ``package`` is part of, and whether its code has changed since.

    ``None`` where the package is not tracked by git, as when it is installed into an environment that
    happens to lie inside some other repository.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    # Only what can move a number: a note or a data folder beside the code leaves it clean.
    changes = _git(package, "status", "--porcelain", "--", ".", "../tasks", "../configs")
    return {"commit": commit, "dirty": bool(changes)} if commit and changes is not None else None


def hardware(device: str | None = None) -> dict[str, Any]:
    """Describes what this process may use: ``{"device", "devices", "cpu", "cores", "memory_gib"}``.

    ``device`` is the name of a GPU, with their number before it where there are several, or "cpu".
    ``devices`` is how many of them a run trains on: the processes of a launcher, or else every visible GPU.
    """
    import psutil
    import torch

    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and torch.cuda.is_available():
        count, name = device_count(device), torch.cuda.get_device_name()
        name = f"{count} x {name}" if count > 1 else name
    return {
        "device": name,
        "devices": device_count(device),
        "cpu": _cpu_name(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_count(device: str | None = None) -> int:
    """Devices of a run as Trainer counts them: one a process under a launcher, else every visible GPU."""
    import torch

    if world.launched():
        return world.size()
    return max(1, torch.cuda.device_count()) if (device or "cuda") == "cuda" else 1


def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return platform.processor() or None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or platform.machine() or None


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command, stripped; ``None`` where there is no git or it fails."""
    # Inside a git hook these variables point at the repository of the hook, not at this one.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    clean["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=clean, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()
