"""The processor's peak, and what part of it a kernel turns into useful operations."""

import ctypes
import time
from typing import Any

import torch

from finetune.attention.kernels.native import build
from finetune.bench import datasheet
from finetune.bench.cases import Case, visible_pairs

PRODUCTS = {"forward": 2, "both": 2 + 5}
"""(query, key, width) products of a pass by its key in a result: scores and output; and backward scores
again, the gradients of the weights, of the values, of the keys and of the queries."""
_ROUNDS = 7
_SECONDS = 0.03  # of one round: long enough for the clock, too short for most interruptions


def peak_flops(threads: int) -> float | None:
    """Float32 operations a second of multiply-adds in registers, on ``threads`` threads; None where there is
    no compiler. The best of some rounds, 0.3 s in all.
    """
    if build.why_not() is not None:
        return None
    multiply_add = build.library().peak_operations
    multiply_add.argtypes, multiply_add.restype = [ctypes.c_int64, ctypes.c_int64], ctypes.c_int64
    count = 1 << 14
    rates: list[float] = []
    while len(rates) < _ROUNDS:
        started = time.perf_counter()
        operations = multiply_add(count, threads)
        seconds = time.perf_counter() - started
        if seconds < _SECONDS:
            count *= 2
        else:
            rates.append(operations / seconds)
    return max(rates)


def of_device(device: str, dtype: str) -> dict[str, Any] | None:
    """The operations a second that a device has at best, and where that is known from; None where it is not.

    Of a CPU what multiply-adds are measured to reach on torch's threads, of a GPU what its vendor states.
    """
    if device == "cpu":
        threads = torch.get_num_threads()
        measured = peak_flops(threads) if dtype == "float32" else None
        source = f"multiply-adds measured on {threads} thread{'s' if threads > 1 else ''}"
        return None if measured is None else {"flops": measured, "source": source}
    name = torch.cuda.get_device_name()
    stated = datasheet.peak(name, dtype)
    return None if stated is None else {"flops": stated * 1e12, "source": datasheet.SOURCE}


def useful_operations(case: Case, which: str) -> int:
    """Float32 operations of a pass (``forward`` or ``both``) that its result needs.

    An addition and a multiplication count as one each. Products alone count, over the keys that a query may
    see; exponentials and the other work on scores do not. Padded queries count: the mask hides keys, and the
    output of every query is asked for.
    """
    return 2 * PRODUCTS[which] * visible_pairs(case) * case.heads * case.width
