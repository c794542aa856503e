"""The device and what it can do at best: its datasheet, a large matrix product, a large copy."""

import statistics
from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any

import torch

from finetune.bench.datasheet import peak
from finetune.bench.evidence.calls import DTYPES, events
from finetune.bench.evidence.plan import Plan
from finetune.system.environment import environment

Item = tuple[str, Callable[[], dict[str, Any]]]


def items(plan: Plan, _: str) -> list[Item]:
    """The surroundings, then a matrix product in each type, then a copy."""
    products: list[Item] = [
        (f"matrix product in {dtype}", partial(_product, plan, dtype)) for dtype in plan.dtypes
    ]
    return [("versions and device", partial(_surroundings, plan)), *products, ("copy", partial(_copy, plan))]


def _surroundings(plan: Plan) -> dict[str, Any]:
    found = environment(plan.device)
    found["versions"]["triton"] = metadata.version("triton")
    if plan.device == "cpu":
        return {"what": "environment", **found, "gpu": None}
    properties = torch.cuda.get_device_properties()
    major, minor = torch.cuda.get_device_capability()
    return {
        "what": "environment",
        **found,
        "gpu": {
            "name": properties.name,
            "capability": f"{major}.{minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "l2_mib": round(properties.L2_cache_size / 2**20, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver(),
            "peak_tflops": {dtype: peak(properties.name, dtype) for dtype in plan.dtypes},
        },
    }


def _driver() -> str | None:
    """The version of NVIDIA's driver, where its tool is there to say it."""
    import subprocess

    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return said.strip() or None


def _product(plan: Plan, dtype: str) -> dict[str, Any]:
    """TFLOP/s of a square matrix product of random numbers; in float32 without TF32."""
    size = 64 if plan.toy else 8192 if dtype != "float32" else 4096
    left, right = (torch.randn(size, size, device=plan.device, dtype=DTYPES[dtype]) for _ in range(2))
    seconds = _median(lambda: left @ right, plan)
    return {"what": "product", "dtype": dtype, "size": size, "tflops": 2 * size**3 / seconds / 1e12}


def _copy(plan: Plan) -> dict[str, Any]:
    """Bytes read plus bytes written in a second, on the device."""
    source = torch.randn(2**12 if plan.toy else 2**29, device=plan.device)
    target = torch.empty_like(source)
    seconds = _median(lambda: target.copy_(source), plan)
    return {"what": "copy", "bytes": source.nbytes, "gb_per_s": 2 * source.nbytes / seconds / 1e9}


def _median(task: Callable[[], object], plan: Plan) -> float:
    events(task, plan.device, 3)
    return statistics.median(events(task, plan.device, 10))
