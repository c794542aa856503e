"""Time and memory of every variant and kernel, as ratios to torch's scaled_dot_product_attention."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from finetune.attention import PAPER
from finetune.attention.kernels.inputs import Inputs
from finetune.bench import accuracy, memory, timing
from finetune.bench.cases import (
    BASELINE,
    CONTROLS,
    MASK_TITLES,
    Case,
    Contender,
    attend,
    automatic,
    contenders,
    gradients,
    make,
    why_not,
)
from finetune.bench.settings import Settings, cases, growth_cases

Say = Callable[[str], None]
Memory = Mapping[tuple[Case, Contender], dict[str, Any]]
Times = dict[str, dict[Contender, list[float]]]  # seconds by pass, contender and round
PASSES = ("forward", "both")


def measure(chosen: Settings, say: Say) -> dict[str, Any]:
    """The part ``attention`` of a result. ``say`` is told what comes next."""
    say("attention: errors against the definition in float64")
    errors = accuracy.measure(chosen.device, chosen.dtype, chosen.masks, chosen.widths, chosen.seed)
    shapes, growth = cases(chosen), growth_cases(chosen)
    say("attention: memory")
    found = _memory(chosen, list(dict.fromkeys([*shapes, *growth])))
    rows = []
    for number, case in enumerate(shapes, start=1):
        say(f"attention {number}/{len(shapes)}: {describe(case)}")
        rows += _of_case(case, chosen, found)
    return {
        "baseline": asdict(BASELINE),
        "control": asdict(CONTROLS[chosen.device]),
        "automatic": _automatic(chosen, shapes[0]),
        "errors": errors,
        "rows": rows,
        "growth": _growth(growth, found),
    }


def describe(case: Case) -> str:
    """``padded, 8 x 512, 12 heads of 64``."""
    return f"{case.mask}, {case.batch} x {case.length}, {case.heads} heads of {case.width}"


def _memory(chosen: Settings, shapes: list[Case]) -> Memory:
    """Answers of ``memory.measure`` for what can run; on a CPU at the first mask and width alone."""
    jobs = []
    for case in shapes:
        if chosen.device == "cpu" and not _is_first(case, chosen):
            continue
        inputs, _ = make(case, chosen.device, chosen.seed)
        jobs += [(case, each) for each in contenders() if _reason(each, case, inputs, chosen) is None]
        del inputs
    return dict(zip(jobs, memory.measure(jobs, chosen.device, chosen.seed), strict=True))


def _reason(contender: Contender, case: Case, inputs: Inputs, chosen: Settings) -> str | None:
    """Why a contender is left out of a case; None if it takes part."""
    if contender.kernel == "reference" and not _is_first(case, chosen):
        return (
            f"too slow to be measured but at heads of {chosen.widths[0]} with {MASK_TITLES[chosen.masks[0]]}"
        )
    return why_not(contender, inputs)


def _of_case(case: Case, chosen: Settings, found: Memory) -> list[dict[str, Any]]:
    """One row a contender."""
    inputs, upstream = make(case, chosen.device, chosen.seed)
    reasons: dict[Contender, str] = {}
    for contender in contenders():
        answer = found.get((case, contender), {})
        reason = answer["reason"] if answer.get("died") else _reason(contender, case, inputs, chosen)
        if reason is not None:
            reasons[contender] = reason
    limits = {each: _limit(each, case, chosen) for each in contenders() if each not in reasons}
    times: Times = {}
    for which in PASSES:
        tasks = {contender: _task(contender, which, inputs, upstream) for contender in limits}
        times[which], failures = timing.interleave(
            tasks, limits, (BASELINE, CONTROLS[chosen.device]), chosen.device
        )
        for contender, reason in failures.items():
            reasons.setdefault(contender, f"{which}: {reason}")
    bases = {"ratio": BASELINE, "control": CONTROLS[chosen.device]}
    return [_row(case, contender, bases, times, reasons, found) for contender in contenders()]


def _task(contender: Contender, which: str, inputs: Inputs, upstream: Tensor) -> Callable[[], object]:
    def forward() -> Tensor:
        with torch.no_grad():
            return attend(contender, inputs)

    def both() -> object:
        return gradients(attend(contender, inputs), inputs, upstream)

    return forward if which == "forward" else both


def _limit(contender: Contender, case: Case, chosen: Settings) -> float:
    """Seconds that one task may take."""
    seconds = chosen.plain_seconds if contender.kernel == "reference" else chosen.seconds
    return seconds if _is_first(case, chosen) else seconds / 2


def _is_first(case: Case, chosen: Settings) -> bool:
    """Whether a case has the mask and the width of a head that are measured most thoroughly."""
    return (case.mask, case.width) == (chosen.masks[0], chosen.widths[0])


def _row(  # noqa: PLR0917
    case: Case,
    contender: Contender,
    bases: Mapping[str, Contender],
    times: Times,
    reasons: Mapping[Contender, str],
    found: Memory,
) -> dict[str, Any]:
    """Everything that was measured of one contender at one shape."""
    row: dict[str, Any] = {**asdict(case), **asdict(contender), "reason": reasons.get(contender)}
    for which in PASSES:
        row[which] = None
        mine = times[which].get(contender)
        if mine is not None:
            row[which] = {"seconds": timing.spread(mine[timing.settled(mine) :])}
            for name, base in bases.items():
                theirs = times[which].get(base)
                row[which][name] = timing.ratios(mine, theirs) if theirs else None
    return row | _memory_of(case, contender, found)


def _memory_of(case: Case, contender: Contender, found: Memory) -> dict[str, Any]:
    """Extra MiB, the ratio to the baseline's, and the reason where there is no figure."""
    answer, base = found.get((case, contender), {}), found.get((case, BASELINE), {})
    mib, base_mib = answer.get("mib"), base.get("mib")
    return {
        "memory_mib": mib,
        "memory_ratio": mib / base_mib if mib is not None and base_mib else None,
        "memory_reason": answer.get("reason"),
    }


def _growth(pair: list[Case], found: Memory) -> list[dict[str, Any]]:
    """Memory at twice the length, over memory: 2 where it is linear in the length, 4 where quadratic."""
    half, longest = pair
    rows = []
    for contender in contenders():
        first, second = (found.get((case, contender), {}).get("mib") for case in pair)
        if first and second:
            rows.append({
                **asdict(contender), "batch": longest.batch, "lengths": [half.length, longest.length],
                "mib": [first, second], "ratio": second / first,
            })  # fmt: skip
    return rows


def _automatic(chosen: Settings, case: Case) -> dict[str, str]:
    """The kernel that each variant takes by itself."""
    inputs, _ = make(case, chosen.device, chosen.seed)
    with torch.no_grad():
        return {variant: automatic(inputs, variant) for variant in PAPER}
