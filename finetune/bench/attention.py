"""Time and memory of every variant and kernel, as ratios to torch's scaled_dot_product_attention."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from finetune.attention import PAPER
from finetune.attention.kernels.inputs import Inputs
from finetune.bench import accuracy, memory, peak, timing
from finetune.bench.cases import (
    BASELINE,
    CONTROLS,
    DTYPES,
    MASK_TITLES,
    PASSES,
    Case,
    Implementation,
    Missing,
    automatic,
    implementations,
    make,
    why_not,
)
from finetune.bench.settings import Settings, cases, growth_cases

Say = Callable[[str], None]
Memory = Mapping[tuple[Case, Implementation], memory.Answer]
Times = dict[str, dict[Implementation, list[float]]]  # seconds by pass, implementation and round


def measure(chosen: Settings, say: Say, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The part ``attention`` of a result. ``say`` gets a line before each step, ``keep`` the part so far."""
    say("attention: errors against the definition in float64")
    errors = accuracy.measure(chosen.device, chosen.dtype, chosen.masks, chosen.widths, chosen.seed)
    shapes, growth = cases(chosen), growth_cases(chosen)
    inputs, _ = make(shapes[0], chosen.device, chosen.seed)
    with torch.no_grad():
        kernels = {variant: automatic(inputs, variant) for variant in PAPER}
    part: dict[str, Any] = {
        "baseline": asdict(BASELINE), "control": asdict(CONTROLS[chosen.device]), "automatic": kernels,
        "peak": peak.of_device(chosen.device, chosen.dtype), "errors": errors, "rows": [], "growth": [],
    }  # fmt: skip
    keep(part)
    say("attention: memory")
    jobs = []
    for case in dict.fromkeys([*shapes, *growth]):
        if chosen.device == "cpu" and not _is_first(case, chosen):
            continue  # each job there is a process of its own, and takes seconds
        inputs, _ = make(case, chosen.device, chosen.seed)
        jobs += [(case, each) for each in implementations() if _left_out(each, case, inputs, chosen) is None]
        del inputs  # before the next ones are made, for on a GPU both may not fit
    used = dict(zip(jobs, memory.measure(jobs, chosen.device, chosen.seed), strict=True))
    part["growth"] = _growth(growth, used)
    for number, case in enumerate(shapes, start=1):
        say(f"attention {number}/{len(shapes)}: {describe(case)}")
        part["rows"] += measure_case(case, chosen, used, part["peak"])
        keep(part)
    return part


def describe(case: Case) -> str:
    """``padded, 8 x 512, 12 heads of 64``."""
    return f"{case.mask}, {case.batch} x {case.length}, {case.heads} heads of {case.width}"


def _left_out(implementation: Implementation, case: Case, inputs: Inputs, chosen: Settings) -> Missing | None:
    """Why an implementation is left out of a case; None if it takes part."""
    if implementation.kernel == "reference" and not _is_first(case, chosen):
        return Missing(
            f"too slow to be measured but at heads of {chosen.widths[0]} with {MASK_TITLES[chosen.masks[0]]}"
        )
    return why_not(implementation, inputs)


def measure_case(
    case: Case, chosen: Settings, used: Memory, top: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Times one shape; a row for each implementation, with its memory out of ``used``.

    ``top``: the device's peak, as ``peak.of_device`` has it.
    """
    inputs, upstream = make(case, chosen.device, chosen.seed)
    fastest = {which: peak.useful_operations(case, which) / top["flops"] for which in PASSES} if top else {}
    absent: dict[Implementation, Missing] = {}
    for implementation in implementations():
        answer = used.get((case, implementation), {})
        # It would take this process with it, and every figure so far.
        died = Missing(answer["reason"], answer["failed"]) if answer.get("died") else None
        missing = died or _left_out(implementation, case, inputs, chosen)
        if missing is not None:
            absent[implementation] = missing
    # The most thorough case gets the whole time, and the slow definition a limit of its own.
    share = 1.0 if _is_first(case, chosen) else 0.5
    seconds = {"reference": chosen.plain_seconds}
    limits = {
        each: share * seconds.get(each.kernel, chosen.seconds)
        for each in implementations()
        if each not in absent
    }
    times: Times = {}
    for which, run in PASSES.items():
        tasks = {each: partial(run, each, inputs, upstream) for each in limits}
        times[which], failures = timing.interleave(
            tasks, limits, (BASELINE, CONTROLS[chosen.device]), chosen.device
        )
        for implementation, missing in failures.items():
            absent.setdefault(implementation, replace(missing, reason=f"{which}: {missing.reason}"))
    bases = {"ratio": BASELINE, "control": CONTROLS[chosen.device]}
    return [
        _row(case, implementation, bases, times, absent, used, fastest) | {"least_mib": least_mib(case)}
        for implementation in implementations()
    ]


def least_mib(case: Case) -> float:
    """MiB that forward and backward move at the least: query, key, value, output and their gradients."""
    return 8 * case.batch * case.length * case.heads * case.width * DTYPES[case.dtype].itemsize / 2**20


def _is_first(case: Case, chosen: Settings) -> bool:
    """Whether a case has the mask and the width of a head that are measured most thoroughly."""
    return (case.mask, case.width) == (chosen.masks[0], chosen.widths[0])


def _row(  # noqa: PLR0917
    case: Case,
    implementation: Implementation,
    bases: Mapping[str, Implementation],
    times: Times,
    absent: Mapping[Implementation, Missing],
    used: Memory,
    fastest: Mapping[str, float],
) -> dict[str, Any]:
    """Everything that was measured of one implementation at one shape. ``fastest``: seconds at the peak."""
    missing = absent.get(implementation)
    why = asdict(missing) if missing else {"reason": None, "failed": False}
    row: dict[str, Any] = {**asdict(case), **asdict(implementation), **why}
    for which in PASSES:
        row[which] = None
        mine = times[which].get(implementation)
        if mine is not None:
            seconds = timing.spread(mine[timing.settled(mine) :])
            of_peak = fastest[which] / seconds["median"] if fastest else None
            row[which] = {"seconds": seconds, "of_peak": of_peak}
            for name, base in bases.items():
                theirs = times[which].get(base)
                row[which][name] = timing.ratios(mine, theirs) if theirs else None
    answer, base_mib = used.get((case, implementation), {}), used.get((case, BASELINE), {}).get("mib")
    mib = answer.get("mib")
    return row | {
        "memory_mib": mib,
        "memory_ratio": mib / base_mib if mib is not None and base_mib else None,
        "memory_reason": answer.get("reason"),
        "memory_failed": answer.get("failed", False),
    }


def _growth(pair: list[Case], used: Memory) -> list[dict[str, Any]]:
    """Memory at twice the length, over memory: 2 where it is linear in the length, 4 where quadratic."""
    half, longest = pair
    rows = []
    for implementation in implementations():
        first, second = (used.get((case, implementation), {}).get("mib") for case in pair)
        if first and second:
            rows.append({
                **asdict(implementation), "batch": longest.batch, "lengths": [half.length, longest.length],
                "mib": [first, second], "ratio": second / first,
            })  # fmt: skip
    return rows
