"""Extra memory of forward and backward, beyond the inputs and the output's gradient."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from finetune.bench import resident
from finetune.bench.cases import Case, Implementation, forward_and_backward, make
from finetune.system.text import reason

Answer = dict[str, Any]


def measure(jobs: Sequence[tuple[Case, Implementation]], device: str, seed: int) -> Iterator[Answer]:
    """``{"mib": float}`` or ``{"reason": str}`` for each job; ``"failed": True`` if something went wrong.

    On CUDA what torch's allocator gave out, to the byte; on a CPU the resident set, see ``resident``, which
    says ``"died": True`` as well if the process of the job did.
    """
    if device == "cpu":
        yield from resident.measure(jobs, seed)
        return
    for case, implementation in jobs:
        try:
            yield {"mib": _allocated(case, implementation, device, seed)}
        except torch.OutOfMemoryError:
            yield {"reason": "out of GPU memory"}
        except Exception as error:  # the tables and the exit status say it
            yield {"reason": f"failed: {reason(error)}", "failed": True}
        torch.cuda.empty_cache()


def _allocated(case: Case, implementation: Implementation, device: str, seed: int) -> float:
    """MiB, in the second of two passes: the first may compile and tune."""
    inputs, upstream = make(case, device, seed)
    for _ in range(2):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        results = forward_and_backward(implementation, inputs, upstream)
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() - before
        del results
    return extra / 2**20
