"""Peak memory of forward and backward against length, beyond the inputs and the output's gradient."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from finetune.bench.cases import NotMeasuredError
from finetune.bench.evidence.calls import SELF_ADJUST, Call, bundle, draw, ours, passes
from finetune.bench.evidence.plan import Plan
from finetune.system.memory import peak_memory_mib, reset_peak_memory

Item = tuple[str, Callable[[], dict[str, Any]]]


def items(plan: Plan, _: str) -> list[Item]:
    """By length: torch's flash kernel, every form, and the formula, which keeps query x key numbers."""
    calls = [Call("softmax", "flash"), *(call for call in ours() if call.variant == SELF_ADJUST)]
    calls = [*calls[: 3 if plan.toy else None], Call(SELF_ADJUST, "reference")]
    return [
        (f"memory, {call.name}, {length} tokens", partial(measure, plan, call, length))
        for length in plan.memory_lengths
        for call in calls
    ]


def measure(plan: Plan, call: Call, length: int) -> dict[str, Any]:
    """MiB in the second of two passes: the first may compile. One row without a mask."""
    tensors, upstream = draw(
        1, plan.heads, plan.heads, length, plan.width, plan.dtype, plan.device, plan.seed
    )
    task = passes(call, bundle(tensors), upstream)["both"]
    before = mib = 0.0
    for _ in range(2):
        if plan.device == "cuda":
            torch.cuda.synchronize()
        if not reset_peak_memory():
            raise NotMeasuredError("the peak of the resident set cannot be reset on this system")
        before = torch.cuda.memory_allocated() / 2**20 if plan.device == "cuda" else peak_memory_mib()
        result = task()
        if plan.device == "cuda":
            torch.cuda.synchronize()
        mib = peak_memory_mib() - before
        del result
    given = sum(tensor.nbytes for tensor in [*tensors, upstream])
    return {
        "variant": call.variant, "by": call.by, "length": length, "heads": plan.heads, "width": plan.width,
        "dtype": plan.dtype, "mib": mib, "inputs_mib": given / 2**20,
    }  # fmt: skip
