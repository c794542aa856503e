"""Interleaved timing: every task in turn, again and again, so that a busy moment hits all of them."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from finetune.bench.cases import Missing, NotMeasuredError
from finetune.system.text import reason

MOST_ROUNDS = 11
SHORTEST = 0.01  # seconds; a shorter task is repeated within a round until it takes so long
Name = TypeVar("Name", bound=Hashable)


def interleave(
    tasks: Mapping[Name, Callable[[], object]],
    limits: Mapping[Name, float],
    always: Collection[Name],
    device: str,
) -> tuple[dict[Name, list[float]], dict[Name, Missing]]:
    """Seconds of one call, for each task and round: A B C, A B C, ...; and why a task has none.

    ``limits`` are the seconds that a task may take in all; they decide in how many rounds it takes part, 2 at
    least. Those in ``always``, which others are compared with, take part in every one. Element i of every
    list is of the same round. The first round is a warm-up: it counts only for a task that takes part in no
    more than two.
    """
    gc.collect()
    times, failures = _first_round(tasks, device)
    calls = {name: max(1, math.ceil(SHORTEST / first)) for name, (first,) in times.items()}
    rounds = {}
    for name, (first,) in times.items():
        fitting = int(limits[name] / (first * calls[name]))
        rounds[name] = 2 if fitting < 2 else 1 + min(MOST_ROUNDS, fitting)  # 1 more, for the warm-up
    for number in range(1, max(rounds.values(), default=0)):
        for name, seconds in times.items():
            if number < rounds[name] or name in always:
                seconds.append(_seconds(tasks[name], calls[name], device))
    return times, failures


def _first_round(
    tasks: Mapping[Name, Callable[[], object]], device: str
) -> tuple[dict[Name, list[float]], dict[Name, Missing]]:
    """The round in which a task may fail: for want of memory, or because its kernel is broken."""
    times: dict[Name, list[float]] = {}
    failures: dict[Name, Missing] = {}
    for name, task in tasks.items():
        try:
            if device != "cpu":
                task()  # a fused kernel is compiled at its first call
            times[name] = [_seconds(task, 1, device)]
        except torch.OutOfMemoryError:
            failures[name] = Missing("out of GPU memory")
        except NotMeasuredError as error:
            failures[name] = Missing(str(error))
        except Exception as error:  # the tables and the exit status say it
            failures[name] = Missing(f"failed: {reason(error)}", failed=True)
        if name in failures and device != "cpu":
            torch.cuda.empty_cache()
    return times, failures


def _seconds(task: Callable[[], object], calls: int, device: str) -> float:
    """Wall time of one of ``calls`` calls."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(calls):
        task()
    synchronize(device)
    return (time.perf_counter() - started) / calls


def synchronize(device: str) -> None:
    """Wait for the GPU, which runs behind."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def settled(times: Sequence[float]) -> int:
    """The index of the first round that counts."""
    return 1 if len(times) > 2 else 0


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and number of some repeats, ready for JSON."""
    low, _, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * [values[0]]
    )
    return {"median": statistics.median(values), "low": low, "high": high, "repeats": len(values)}


def ratios(times: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """The spread of ``times`` over ``base``, each taken within a round."""
    return spread([mine / theirs for mine, theirs in list(zip(times, base, strict=False))[settled(times) :]])
