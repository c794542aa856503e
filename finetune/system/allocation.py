"""Want of memory, as torch words it."""

import torch


def out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed; that of a tensor on the CPU has no type of its own, but a message."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
