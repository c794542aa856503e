"""Tests of paired variants: the difference, its intervals, p, and the verdict on it.

The rule: a difference is significant only where it stands out from the noise of seeds and of test rows
together. The 95% interval of the hierarchical bootstrap must leave out 0, and its p, adjusted by Holm for the
comparisons of one table, must be below 0.05. One seed is never enough: nothing is known of that noise.

The exact tests that look at one kind of noise (sign flips over seeds; McNemar, approximate randomization and
the paired bootstrap over rows) are reported and decide nothing: each is right about its own question and
blind to the other noise. In simulated studies of equal methods (``tests.calibration``, 5% promised) tests
over rows alone found a difference in up to 86%, over seeds alone in up to 75%, one of each with two
intervals in up to 11%, and this rule in at most 4.6%.

What is not significant is held against a margin (``weigh``): equivalent where that interval lies inside it,
no significant difference or, where one of that size could have been missed, unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from finetune.comparison.rescoring import Predictions
from finetune.errors import UserError
from finetune.metrics.registry import Metric
from finetune.records.run import Run
from finetune.statistics import over_seeds, power
from finetune.statistics.bootstrap import Both, hierarchical
from finetune.statistics.over_rows import RowResult
from finetune.statistics.over_seeds import Interval
from finetune.statistics.power import ALPHA

FEWEST = 6  # test rows whose 2^6 exchanges of two systems allow a p below .05
Verdict = Literal["better", "worse", "equivalent", "none", "unknown"]
"""What can be said of a difference: significantly better or worse; too small to matter; no significant
difference; or that it could not be told, for want of seeds, predictions, rows or power."""


@dataclass(frozen=True)
class Paired:
    """Two variants over the seeds that both finished, before any p is chosen; in reported units."""

    seeds: tuple[int, ...]
    per_seed: tuple[float, ...]  # variant minus baseline
    rows: RowResult | None
    no_rows: str | None  # why there is no comparison over rows
    level: float = ALPHA  # of the test; less at a look of a plan (``statistics.sequential``)


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
    detectable: float | None  # detected 4 times in 5, about; one seed can detect none
    seeds_needed: dict[str, int | None] | None  # wanted difference -> seeds; None: no number suffices
    verdict: Verdict
    why: str  # of the verdict
    rows: int | None = None  # test rows that were compared; kept reports of earlier days lack it
    level: float = ALPHA  # of a planned look: intervals and p are adjusted to it, so that p < .05 counts
    # What follows is derived from the scores of a table (``finetune.comparison.effects``, ``margins``).
    margin: float | None = None  # of equivalence; None where there is none to hold the difference against
    improvement: float | None = None  # probability that a run is better than one of the baseline, 0 to 1
    error_reduction: float | None = None  # percent of the baseline's distance to the best value
    wins: int | None = None  # seeds in which the variant is better
    ties: int | None = None
    losses: int | None = None

    @property
    def significant(self) -> bool:
        """Whether it is better or worse, and not only smaller than the margin or unknown."""
        return self.verdict in ("better", "worse")

    @property
    def is_within_margin(self) -> bool:
        """Whether its 95% interval over seeds and rows lies wholly inside the margin, on both sides of 0."""
        if self.interval is None or self.margin is None:
            return False
        return -self.margin < self.interval[0] and self.interval[1] < self.margin

    def is_known(self, margin: float) -> bool:
        """Whether no more seeds are wanted: it is significant, lies within the margin, or is as certain."""
        if self.interval is None:
            return False
        low, high = self.interval
        return self.significant or replace(self, margin=margin).is_within_margin or high - low <= 2 * margin

    @property
    def conclusive(self) -> bool:
        """Whether it was tested against both kinds of noise, over rows enough to find anything."""
        return self.interval is not None and not _too_few(self)


def pair(
    baseline: Mapping[int, Run], variant: Mapping[int, Run], predictions: Predictions, metric: Metric
) -> Paired | None:
    """Pairs the seeds for which both variants have ``metric``; ``None`` where there is none."""
    sides = [
        {seed: run.metrics[metric.name] for seed, run in side.items() if metric.name in run.metrics}
        for side in (baseline, variant)
    ]
    seeds = tuple(sorted(sides[0].keys() & sides[1].keys()))
    if not seeds:
        return None
    per_seed = tuple(sides[1][seed] - sides[0][seed] for seed in seeds)
    try:
        rows = predictions.pair([baseline[s] for s in seeds], [variant[s] for s in seeds], metric)
    except UserError as error:
        return Paired(seeds, per_seed, None, str(error))
    return Paired(seeds, per_seed, rows, None)


def judge(pairs: Sequence[Paired], metric: Metric) -> list[Difference]:
    """Tests one family of comparisons of one metric, adjusts p (Holm) and decides what is significant."""
    tests = [_test(paired, f"{metric.row}s") for paired in pairs]
    # A comparison without any test is no member of the family.
    known = [test[0] for test in tests if test]
    adjusted = iter(over_seeds.holm(known))
    comparisons, largest = len(known), metric.largest_difference
    differences = []
    for paired, test in zip(pairs, tests, strict=True):
        p, name, both = test or (None, None, None)
        rows, several = paired.rows, len(paired.seeds) > 1
        over = over_seeds.t_interval(paired.per_seed) if several else None
        flips = several and len(paired.seeds) <= over_seeds.MOST_FLIPS
        needed = None
        tested = comparisons * ALPHA / paired.level  # a look with less than 5% is as of more comparisons
        if both:
            needed = {size: power.seeds_needed(float(size), both.noise, tested) for size in metric.wanted}
        difference = Difference(
            seeds=list(paired.seeds),
            per_seed=list(paired.per_seed),
            mean=over_seeds.mean_sd(paired.per_seed)[0],
            interval=possible(both.interval, -largest, largest) if both else None,
            interval_rows=possible(rows.interval, -largest, largest) if rows else None,
            interval_seeds=possible(over, -largest, largest) if over else None,
            test=name,
            p=p,
            p_adjusted=None if p is None else next(adjusted),
            comparisons=comparisons,
            p_seeds=over_seeds.sign_flip(paired.per_seed) if flips else None,
            p_rows=rows.p if rows else None,
            test_rows=rows.test if rows else None,
            p_bootstrap=rows.p_bootstrap if rows else None,
            detectable=power.detectable(both.noise, tested) if both else None,
            seeds_needed=needed,
            verdict="unknown",
            why=f"there is no comparison over rows: {paired.no_rows}",
            rows=rows.rows if rows else None,
            level=paired.level,
        )
        significant, why = judgment(difference)
        verdict: Verdict = "none" if difference.conclusive else "unknown"
        if significant:
            verdict = "better" if metric.is_better(difference.mean) else "worse"
        differences.append(replace(difference, verdict=verdict, why=why))
    return differences


def weigh(difference: Difference, metric: Metric, margin: float | None) -> Difference:
    """Holds a judged difference against a margin of equivalence; better and worse stay what they are.

    Equivalent: the 95% interval over seeds and rows lies inside the margin. Else it cannot be told where the
    difference was not tested, or where one of the size of the margin would often be missed.
    """
    held = replace(difference, margin=margin)
    if difference.p is None:  # described, or without any test
        return replace(held, verdict="unknown")
    verdict, why = held.verdict, judgment(held)[1]
    size = "" if margin is None else metric.size(margin)
    if held.significant:
        pass
    elif not held.conclusive:
        verdict = "unknown"
    elif held.is_within_margin:
        verdict, why = "equivalent", f"the 95% interval lies inside the margin of {size}"
    elif margin is not None and held.detectable is not None and held.detectable > margin:
        verdict, why = "unknown", f"{why}, and a difference of the margin, {size}, could be missed"
    else:
        verdict = "none"
    return replace(held, verdict=verdict, why=why)


def describe(paired: Paired, metric: Metric) -> Difference:
    """A difference with its intervals and without a test: of one that is not in the family that is judged."""
    (difference,) = judge([paired], metric)
    return replace(
        difference,
        test=None,
        p=None,
        p_adjusted=None,
        comparisons=0,
        detectable=None,
        seeds_needed=None,
        verdict="unknown",
        why="described, not tested",
    )


def _test(paired: Paired, of_rows: str) -> tuple[float, str, Both | None] | None:
    """Tests one pair: p, the name of its test, and both kinds of noise where both are known.

    The test is over seeds and rows; where one is missing, over the rows of one seed or over seeds without
    rows, which allow no conclusion. Its p is adjusted for the looks of a plan.
    """
    count, rows = len(paired.seeds), paired.rows
    if rows and count > 1:
        both = hierarchical(paired.per_seed, rows, paired.level)
        name = f"hierarchical bootstrap over {count} seeds and {rows.rows:,} {of_rows}"
        return min(1.0, both.p * ALPHA / paired.level), name, both
    if rows:
        return rows.p, rows.test, None
    if 1 < count <= over_seeds.MOST_FLIPS:
        return over_seeds.sign_flip(paired.per_seed), f"exact sign flips over {count} seeds", None
    return None


def possible(interval: Interval, lowest: float, highest: float) -> list[float]:
    """Clips an interval to the range of a score or of a difference.

    The t interval of two seeds of which one failed reaches far beyond it.
    """
    return [min(highest, max(lowest, end)) for end in interval]


def judgment(difference: Difference) -> tuple[bool, str]:
    """Decides whether a difference is significant, and gives the reason.

    In this order: the number of the test rows, their noise, that of the seeds, both together, Holm.
    """
    if difference.interval_rows is None or difference.p_rows is None:
        return False, difference.why  # there is no comparison over rows, and this says why
    if _too_few(difference):
        return False, f"only {difference.rows} test rows were compared, of which {FEWEST} are needed"
    within = None
    if not difference.mean:
        within = "the two score the same"
    elif _holds_zero(difference.interval_rows):
        within = "within the noise of the test rows"
    elif difference.p_rows >= ALPHA:
        within = f"not significant over the test rows alone ({difference.test_rows})"
    above = "above the noise of the test rows"
    if difference.interval is None or difference.interval_seeds is None:
        unvaried = "the seed was not varied"
        return False, f"{within}, and {unvaried}" if within else f"{above}, but {unvaried}"
    adjusted = 1.0 if difference.p_adjusted is None else difference.p_adjusted
    if within is None and _holds_zero(difference.interval_seeds):
        within = f"{above}, but within that of the seeds"
    elif within is None and _holds_zero(difference.interval):
        within = f"{above} and of the seeds, but within both together"
    elif within is None and adjusted >= ALPHA:
        family = f"Holm for {difference.comparisons} comparisons"
        within = f"{above} and of the seeds, but not significant after {family}"
    return within is None, within or f"{above} and of the seeds"


def _too_few(difference: Difference) -> bool:
    return difference.rows is not None and difference.rows < FEWEST


def _holds_zero(interval: Sequence[float]) -> bool:
    return interval[0] <= 0 <= interval[1]
