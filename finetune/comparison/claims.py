"""What a pair of arms says: the difference, its intervals, p, and whether a difference may be claimed.

The rule: a difference is claimed only where it stands out from the noise of seeds and of test rows together.
The 95% interval of the hierarchical bootstrap must leave out 0, and its p, adjusted by Holm for the
comparisons of one table, must be below 0.05. One seed is never enough: nothing is known of that noise.

The exact tests that look at one kind of noise (sign flips over seeds; McNemar, approximate randomisation and
the paired bootstrap over rows) are reported and decide nothing: each is right about its own question and
blind to the other noise. In simulated studies of equal methods (``tests.calibration``, 5% promised) tests
over rows alone claimed a difference in up to 86%, over seeds alone in up to 38%, one of each with two
intervals in up to 11%, and this rule in at most 4.6%.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from finetune.comparison.rescoring import Predictions
from finetune.errors import UserError
from finetune.metrics.registry import Metric
from finetune.records.run import Run
from finetune.statistics import over_seeds, power
from finetune.statistics.bootstrap import Both, hierarchical
from finetune.statistics.over_rows import RowResult
from finetune.statistics.over_seeds import Interval
from finetune.statistics.power import ALPHA

Verdict = Literal["better", "worse", "none"]


@dataclass(frozen=True)
class Paired:
    """Two arms over the seeds that both finished, before any p is chosen; in reported units."""

    seeds: tuple[int, ...]
    per_seed: tuple[float, ...]  # variant minus baseline
    rows: RowResult | None
    no_rows: str | None  # why there is no comparison over rows


@dataclass(frozen=True)
class Difference:
    """Variant minus baseline, in points of the metric; intervals are 95%, p two-sided."""

    seeds: list[int]
    per_seed: list[float]
    mean: float
    interval: list[float] | None  # over seeds and test rows (hierarchical bootstrap); two seeds or more
    interval_rows: list[float] | None  # over test rows, these seeds taken as given
    interval_seeds: list[float] | None  # over seeds, these test rows taken as given; two seeds or more
    test: str | None  # what p comes from
    p: float | None  # of the hierarchical bootstrap; of the rows for one seed, of the seeds without rows
    p_adjusted: float | None  # Holm, over `comparisons`
    comparisons: int
    p_seeds: float | None  # exact sign flips over seeds, the test rows taken as given
    p_rows: float | None  # `test_rows` over test rows, the seeds taken as given
    test_rows: str | None
    p_bootstrap: float | None  # paired bootstrap over test rows, the seeds taken as given
    detectable: float | None  # the true difference claimed 4 times in 5, about; one seed can claim none
    seeds_needed: dict[str, int | None] | None  # wanted difference -> seeds; None: no number suffices
    verdict: Verdict
    why: str  # of the verdict


class _Test(NamedTuple):
    p: float
    name: str
    both: Both | None  # None where only one kind of noise is known


def pair(baseline: Mapping[int, Run], variant: Mapping[int, Run], predictions: Predictions) -> Paired | None:
    """The seeds that both arms finished; ``None`` where there is none. ``predictions`` is a cache."""
    seeds = tuple(sorted(baseline.keys() & variant.keys()))
    if not seeds:
        return None
    per_seed = tuple(variant[seed].value - baseline[seed].value for seed in seeds)
    try:
        rows = predictions.pair([baseline[s] for s in seeds], [variant[s] for s in seeds])
    except UserError as error:
        return Paired(seeds, per_seed, None, str(error))
    return Paired(seeds, per_seed, rows, None)


def judge(pairs: Sequence[Paired], metric: Metric) -> list[Difference]:
    """One family of comparisons of one metric: test each, adjust p (Holm), and say what may be claimed."""
    tests = [_test(paired) for paired in pairs]
    known = [test.p for test in tests if test]
    adjusted = iter(over_seeds.holm(known))
    return [
        _difference(metric, paired, test, next(adjusted) if test else None, len(known))
        for paired, test in zip(pairs, tests, strict=True)
    ]


def _test(paired: Paired) -> _Test | None:
    """Over seeds and rows; over the rows of one seed, or over seeds without rows, which claim nothing."""
    count, rows = len(paired.seeds), paired.rows
    if rows and count > 1:
        both = hierarchical(paired.per_seed, rows)
        return _Test(both.p, f"hierarchical bootstrap over {count} seeds and {rows.rows:,} test rows", both)
    if rows:
        return _Test(rows.p, rows.test, None)
    if 1 < count <= over_seeds.MOST_FLIPS:
        return _Test(over_seeds.sign_flip(paired.per_seed), f"exact sign flips over {count} seeds", None)
    return None


def _difference(
    metric: Metric, paired: Paired, test: _Test | None, adjusted: float | None, comparisons: int
) -> Difference:
    rows, several = paired.rows, len(paired.seeds) > 1
    interval_seeds = over_seeds.t_interval(paired.per_seed) if several else None
    both = test.both if test else None
    mean = over_seeds.mean_sd(paired.per_seed)[0]
    significant, why = _judgment(paired, both, interval_seeds, adjusted, comparisons)
    verdict: Verdict = "none"
    if significant:
        verdict = "better" if metric.is_better(mean) else "worse"
    needed = None
    if both:
        needed = {size: power.seeds_needed(float(size), both.noise, comparisons) for size in metric.wanted}
    largest = metric.largest_difference
    return Difference(
        seeds=list(paired.seeds),
        per_seed=list(paired.per_seed),
        mean=mean,
        interval=possible(both.interval, -largest, largest) if both else None,
        interval_rows=possible(rows.interval, -largest, largest) if rows else None,
        interval_seeds=possible(interval_seeds, -largest, largest) if interval_seeds else None,
        test=test.name if test else None,
        p=test.p if test else None,
        p_adjusted=adjusted,
        comparisons=comparisons,
        p_seeds=over_seeds.sign_flip(paired.per_seed)
        if 1 < len(paired.seeds) <= over_seeds.MOST_FLIPS
        else None,
        p_rows=rows.p if rows else None,
        test_rows=rows.test if rows else None,
        p_bootstrap=rows.p_bootstrap if rows else None,
        detectable=power.detectable(both.noise, comparisons) if both else None,
        seeds_needed=needed,
        verdict=verdict,
        why=why,
    )


def possible(interval: Interval, lowest: float, highest: float) -> list[float]:
    """An interval cut at what a score, or a difference of two, can be at all: two seeds of which one failed
    tell very little. What a difference from this one baseline can be is not known exactly."""
    return [min(highest, max(lowest, end)) for end in interval]


def _judgment(
    paired: Paired, both: Both | None, seeds: Interval | None, adjusted: float | None, comparisons: int
) -> tuple[bool, str]:
    """Whether the difference is significant, and what that follows from."""
    mean, rows = over_seeds.mean_sd(paired.per_seed)[0], paired.rows
    if rows is None:
        return False, f"there is no comparison over rows: {paired.no_rows}"
    several = both is not None and seeds is not None
    told = "which is more than the noise of the test rows"
    unvaried = "the seed was not varied"
    unproven = adjusted is None or adjusted >= ALPHA
    # In this order: the noise of the test rows, that of the seeds, both together, Holm.
    forbidding = {
        "the two score the same": not mean,
        "which is within the noise of the test rows": _holds_zero(rows.interval),
        f"which p does not tell from the noise of the test rows ({rows.test})": rows.p >= ALPHA,
        f"{told}, but {unvaried}": not several,
        f"{told}, but not more than that of the seeds": _holds_zero(seeds),
        f"{told} or of the seeds, but not than both together": _holds_zero(both.interval if both else None),
        f"{told} and of the seeds, but not after Holm for {comparisons} comparisons": unproven,
    }
    why = next((reason for reason, forbids in forbidding.items() if forbids), None)
    if why is None:
        return True, f"{told} and of the seeds"
    return False, why if several or unvaried in why else f"{why}, and {unvaried}"


def _holds_zero(interval: Interval | None) -> bool:
    return interval is not None and interval[0] <= 0 <= interval[1]
