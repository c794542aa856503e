"""Extra memory of forward and backward, beyond the inputs and the output's gradient."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from finetune.bench import resident
from finetune.bench.cases import Case, Contender, attend, gradients, make
from finetune.system.text import reason

Answer = dict[str, Any]


def measure(jobs: Sequence[tuple[Case, Contender]], device: str, seed: int) -> Iterator[Answer]:
    """``{"mib": float}`` or ``{"reason": str}`` for each job.

    On CUDA what torch's allocator gave out, to the byte; on a CPU the resident set, see ``resident``.
    """
    if device == "cpu":
        yield from resident.measure(jobs, seed)
        return
    for case, contender in jobs:
        try:
            yield {"mib": _allocated(case, contender, device, seed)}
        except torch.OutOfMemoryError:
            yield {"reason": "out of GPU memory"}
        except Exception as error:  # said in the tables and by the exit status
            yield {"reason": f"failed: {reason(error)}"}
        torch.cuda.empty_cache()


def _allocated(case: Case, contender: Contender, device: str, seed: int) -> float:
    """MiB, in the second of two passes: the first may compile and tune."""
    inputs, upstream = make(case, device, seed)
    for _ in range(2):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found = gradients(attend(contender, inputs), inputs, upstream)
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() - before
        del found
    return extra / 2**20
