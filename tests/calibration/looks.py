"""Simulated studies whose seeds are added until a difference is known: how often the end is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from finetune.comparison import claims
from finetune.comparison.claims import Difference
from finetune.metrics.registry import METRICS
from finetune.statistics.over_seeds import ALPHA, SEED
from finetune.statistics.sequential import Looks
from tests.calibration import studies as made
from tests.calibration.studies import DESIGNS, Design

ROWS = 750
MARGIN = 2.0  # points
LOOKS = (Looks(3, 11), Looks(3, 9, 3), Looks(2, 8))


@dataclass(frozen=True)
class Looked:
    """Studies of two variants, each with seeds until its difference is known, by a plan.

    ``truth`` 0: equal methods, and ``claims`` are false alarms. ``truth`` of the margin: ``equivalent`` are
    false. Naive: the same looks, each at 5%.
    """

    design: str
    looks: list[int]  # seeds
    studies: int
    margin: float  # points, also that of how wide an interval may be
    truth: float  # the true difference, points
    claims: float  # share of studies that end with a significant difference
    claims_naive: float
    misses: float  # share of the intervals at the end that do not hold the truth
    misses_naive: float
    equivalent: float  # share of the comparisons that end with an interval inside the margin
    seeds: float  # at the end, on average


def looked(design: Design, looks: Looks, studies: int, margin: float, truth: float) -> Looked:
    """Simulates studies of accuracy, and what they end with."""
    rng = np.random.default_rng([SEED, looks.first, looks.most, DESIGNS.index(design), round(100 * truth)])
    low, high = (design.shift_for(share * truth / 100) for share in (-0.5, 0.5))
    ends: dict[bool, list[list[Difference]]] = {True: [], False: []}
    for _ in range(studies):
        runs = made.classify(design, rng, looks.most, ROWS, (low, high, high))
        for planned, found in ends.items():
            found.append(_end(runs, looks, margin, planned=planned))
    every = {planned: [one for study in found for one in study] for planned, found in ends.items()}

    def claims_of(found: Sequence[Sequence[Difference]]) -> float:
        return float(np.mean([any(one.significant for one in study) for study in found]))

    def misses(found: Sequence[Difference]) -> float:
        return float(
            np.mean([not one.interval[0] <= truth <= one.interval[1] for one in found if one.interval])
        )

    return Looked(
        design=design.name,
        looks=list(looks.seeds),
        studies=studies,
        margin=margin,
        truth=truth,
        claims=claims_of(ends[True]),
        claims_naive=claims_of(ends[False]),
        misses=misses(every[True]),
        misses_naive=misses(every[False]),
        equivalent=float(np.mean([replace(one, margin=margin).is_within_margin for one in every[True]])),
        seeds=float(np.mean([len(one.seeds) for one in every[True]])),
    )


def _end(
    runs: Sequence[NDArray[np.bool_]], looks: Looks, margin: float, *, planned: bool
) -> list[Difference]:
    """What is known of each variant at the end; a variant that is known gets no more seeds."""
    baseline, *variants = runs
    counts = dict.fromkeys(range(len(variants)), looks.first)
    for seeds in looks.seeds:
        pairs = [
            replace(
                made.pair_accuracy(baseline[: counts[index]], variant[: counts[index]]),
                level=looks.level(counts[index]) if planned else ALPHA,
            )
            for index, variant in enumerate(variants)
        ]
        found = claims.judge(pairs, METRICS["accuracy"])
        last = [index for index, count in counts.items() if count == seeds]
        going = [index for index in last if not found[index].is_known(margin)]
        if not going or seeds == looks.most:
            break
        following = looks.seeds[looks.seeds.index(seeds) + 1]
        counts |= dict.fromkeys(going, following)
    return found
