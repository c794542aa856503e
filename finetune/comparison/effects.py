"""Effect sizes of a difference, from the scores of single runs: wins, improvement, error reduction."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from finetune.comparison.claims import Difference
from finetune.comparison.tables import ResultTable, VariantResult
from finetune.metrics import registry
from finetune.metrics.registry import LEAST, Metric
from finetune.statistics.over_seeds import improvement, mean_sd


def with_effects(table: ResultTable) -> ResultTable:
    """The table with the effect sizes of each difference, from the scores of the seeds that were paired."""
    baseline, *others = table.variants

    def sized(name: str, difference: Difference, variant: VariantResult) -> Difference:
        sides = [side.metrics[name].per_seed if name in side.metrics else {} for side in (baseline, variant)]
        return effects(difference, registry.get(name), *sides)

    variants = [
        replace(
            each,
            difference=each.difference and sized(table.metric, each.difference, each),
            at_lengths={name: sized(name, found, each) for name, found in each.at_lengths.items()},
        )
        for each in others
    ]
    return replace(table, variants=[baseline, *variants])


def effects(
    difference: Difference, metric: Metric, baseline: Mapping[int, float], variant: Mapping[int, float]
) -> Difference:
    """The difference with its effect sizes, from the scores of both sides by seed.

    - wins, ties, losses: the seeds in which the variant scores better, the same, worse.
    - improvement: P(variant better than baseline) over all pairs of runs, a tie counting half.
    - error_reduction: 100 (1 - error / error of the baseline), an error being the distance of the mean over
      seeds from the best value of the metric; ``None`` where there is none.
    """
    wins, ties, losses = wins_ties_losses((each, metric) for each in difference.per_seed)
    counted = replace(difference, wins=wins, ties=ties, losses=losses)
    if not set(difference.seeds) <= baseline.keys() & variant.keys():
        return counted
    before, after = ([side[seed] for seed in difference.seeds] for side in (baseline, variant))
    worse, better = (before, after) if metric.higher_is_better else (after, before)
    errors = [abs(metric.best - mean_sd(side)[0]) for side in (before, after)]
    known = math.isfinite(metric.best) and errors[0] >= LEAST
    return replace(
        counted,
        improvement=improvement(worse, better),
        error_reduction=100 * (1 - errors[1] / errors[0]) if known else None,
    )


def wins_ties_losses(differences: Iterable[tuple[float, Metric]]) -> tuple[int, int, int]:
    """How many differences are better, none and worse, each as its metric has it."""
    known = list(differences)
    moved = [(size, metric) for size, metric in known if abs(size) >= LEAST]
    wins = sum(metric.is_better(size) for size, metric in moved)
    return wins, len(known) - len(moved), len(moved) - wins
