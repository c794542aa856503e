"""Times of attention against torch's flash, efficient and cuDNN backends, and their part of the peak."""

import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from finetune.attention.kernels.inputs import Inputs
from finetune.bench.cases import Case, NotMeasuredError
from finetune.bench.datasheet import peak
from finetune.bench.evidence.calls import Call, bundle, draw, events, ours, passes, rivals
from finetune.bench.evidence.plan import Plan
from finetune.bench.peak import useful_operations
from finetune.bench.timing import spread

Item = tuple[str, Callable[[], dict[str, Any]]]
CACHE = 2**28  # bytes: inputs rotate among sets of more than this in all, several times a GPU's cache
SHORT = 1024  # tokens up to which a graph is replayed too, without what Python and a launch cost


def items(plan: Plan, _: str) -> list[Item]:
    """By length, those that matter most first; each with a causal mask and without a mask."""
    return [
        (f"{call.name}, {mask}, {length} tokens", partial(measure, plan, call, mask, length))
        for length in plan.lengths
        for mask in ("causal", "whole")
        for call in [*rivals(), *ours()]
    ]


def measure(plan: Plan, call: Call, mask: str, length: int) -> dict[str, Any]:
    """Seconds of forward, and of forward and backward, with TFLOP/s of useful operations."""
    batch = max(1, plan.tokens // length)
    case = Case(mask, batch, length, plan.heads, plan.width, plan.dtype)
    drawn = draw(batch, plan.heads, plan.heads, length, plan.width, plan.dtype, plan.device, plan.seed)
    size = sum(tensor.nbytes for tensor in [*drawn[0], drawn[1]])
    sets = [drawn]
    for number in range(1, 2 if plan.toy else min(16, max(3, math.ceil(CACHE / size)))):
        sets.append(
            draw(
                batch, plan.heads, plan.heads, length, plan.width, plan.dtype, plan.device, plan.seed + number
            )
        )
    calls = [(bundle(tensors, causal=mask == "causal"), upstream) for tensors, upstream in sets]
    top = peak(torch.cuda.get_device_name(), plan.dtype) if plan.device == "cuda" else None
    row: dict[str, Any] = {
        "variant": call.variant, "by": call.by, "mask": mask, "batch": batch, "length": length,
        "heads": plan.heads, "width": plan.width, "dtype": plan.dtype,
    }  # fmt: skip
    for which in ("forward", "both"):
        seconds = time_of(plan, call, calls, which)
        rate = useful_operations(case, which) / seconds["median"] / 1e12
        row[which] = {"seconds": seconds, "tflops": rate, "of_peak": rate / top if top else None}
        row[which]["graph_seconds"] = None
        if plan.device == "cuda" and length <= SHORT:
            row[which]["graph_seconds"] = _replayed(passes(call, *calls[0])[which])
    return row


def time_of(plan: Plan, call: Call, calls: list[tuple[Inputs, Any]], which: str) -> dict[str, Any]:
    """The spread of the seconds of one pass, inputs rotating, without the first calls, which compile."""
    tasks = [passes(call, inputs, upstream)[which] for inputs, upstream in calls]
    turn = 0

    def task() -> None:
        nonlocal turn
        tasks[turn % len(tasks)]()
        turn += 1

    try:
        events(task, plan.device, 1 if plan.toy else 2)
    except RuntimeError as error:
        if "No available kernel" in str(error):
            raise NotMeasuredError("torch has no such kernel for these inputs") from error
        raise
    once = statistics.median(events(task, plan.device, 1 if plan.toy else 3))
    count = max(2 if plan.toy else 7, min(plan.repeats, int(plan.seconds / max(once, 1e-9))))
    return spread(events(task, plan.device, count))


def _replayed(task: Callable[[], object]) -> float | None:
    """Seconds of one replay of a graph of ten calls, a tenth each; None for what cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(10):
                task()
    except RuntimeError:  # some backends wait for the device, which a capture forbids
        torch.cuda.synchronize()
        return None
    events(graph.replay, "cuda", 2)
    return statistics.median(events(graph.replay, "cuda", 7)) / 10
