"""Churn: how far swapping the attention moves what a model answers, against how far another seed does.

A score can stay as it is while one prediction in ten becomes another (Milani Fard et al. 2016, "Launch and
iterate: reducing prediction churn"). What a swap at the same seed changes means little by itself: so does
another seed. Both are described here with their difference, and nothing is tested.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from finetune.comparison.claims import possible
from finetune.comparison.rescoring import Predictions
from finetune.errors import UserError
from finetune.metrics.registry import Metric, Moved
from finetune.metrics.scorers import chrf_scorer
from finetune.records.run import Run
from finetune.statistics import over_runs
from finetune.statistics.over_rows import Floats

FEWEST = 3  # seeds between which a jackknife sees the noise of seeds
ALIKE_ROWS = 200  # evenly spaced, on which the likeness of two outputs is computed


@dataclass(frozen=True)
class Share:
    """A mean distance between two runs: percent of rows, or the unit of ``Metric.moved``."""

    value: float
    interval: list[float]  # 95%
    over_seeds: bool  # the interval is over seeds and test rows; else over test rows, these runs given
    alike: float | None = None  # mean chrF between the two texts, 100 where they are the same; of texts alone


@dataclass(frozen=True)
class Churn:
    """What a swap changes of a model's answers, and what another seed does, over the same seeds and rows."""

    seeds: list[int]
    rows: int
    swap: Share  # the variant against the baseline at the same seed
    reseed: Share | None  # two seeds of one variant, the mean of the next two; None for one seed
    reseed_baseline: Share | None
    reseed_variant: Share | None
    difference: float | None  # swap minus reseed
    difference_interval: list[float] | None  # 95% over seeds and rows; three seeds or more


def churn(
    baseline: Mapping[int, Run], variant: Mapping[int, Run], predictions: Predictions, metric: Metric
) -> Churn | None:
    """Compares the answers of two variants over the seeds that both have.

    ``None`` where there is none, where the metric declares no distance, and where predictions are missing or
    of other rows, of which the comparison itself says so.
    """
    seeds = sorted(baseline.keys() & variant.keys())
    if not seeds or metric.moved is None:
        return None
    try:
        sides = predictions.scored([[runs[s] for s in seeds] for runs in (baseline, variant)], metric)
    except UserError:
        return None
    first, second = ([each.outputs for each in side] for side in sides)
    return between(seeds, first, second, metric)


def between(seeds: list[int], first: list[Any], second: list[Any], metric: Metric) -> Churn | None:
    """Compares the outputs (``RowScorer.outputs``) of a baseline and a variant, one a seed on each side."""
    moved, distance = metric.moved, metric.row_scorer().distance
    if moved is None or distance is None:
        return None
    swapped = over_runs.swapped(first, second, distance)
    swap = _share(swapped, list(zip(first, second, strict=True)), moved)
    if len(seeds) == 1:
        return Churn(seeds, swapped.shape[1], swap, None, None, None, None, None)
    one, two = (over_runs.reseeded(side, distance) for side in (first, second))
    pairs, others = (list(combinations(side, 2)) for side in (first, second))
    known, apart = len(seeds) >= FEWEST, float(swapped.mean() - (one.mean() + two.mean()) / 2)
    most = 1.0 if moved.percent else np.inf
    ends = possible(over_runs.interval(swapped - (one + two) / 2), -most, most) if known else None
    return Churn(
        seeds=seeds,
        rows=swapped.shape[1],
        swap=swap,
        reseed=_share((one + two) / 2, [*pairs, *others], moved),
        reseed_baseline=_share(one, pairs, moved),
        reseed_variant=_share(two, others, moved),
        difference=moved.scale * apart,
        difference_interval=[moved.scale * end for end in ends] if ends else None,
    )


def _share(table: Floats, pairs: Sequence[tuple[Any, Any]], moved: Moved) -> Share:
    """The mean of a (seeds, rows) table of distances between these pairs of outputs."""
    low, high = possible(over_runs.interval(table), 0.0, 1.0 if moved.percent else np.inf)
    alike = likeness(pairs) if moved.texts else None
    scale = moved.scale
    return Share(scale * float(table.mean()), [scale * low, scale * high], len(table) > 1, alike)


def likeness(pairs: Sequence[tuple[Any, Any]]) -> float:
    """Mean chrF of the second text of a row against the first, over pairs of runs; 100 where all are equal.

    On ``ALIKE_ROWS`` rows, evenly spaced, as every pair of seeds is a corpus.
    """
    scorer, total, count = chrf_scorer(), 0.0, 0
    for one, two in pairs:
        places = np.unique(np.linspace(0, len(one) - 1, ALIKE_ROWS).round().astype(int))
        for first, second in zip(one[places], two[places], strict=True):
            total += 100.0 if first == second else scorer.sentence_score(second, [first]).score
            count += 1
    return total / count


def sentence(found: Churn, metric: Metric, subject: str = "swapping attention") -> str:
    """Says what was found: ``swapping attention changes 17.2% of predictions (16.1 to 18.3), another seed
    18.4% (17.0 to 19.8); the difference is −1.2 points (−2.5 to +0.1)``."""
    moved = metric.moved
    assert moved is not None  # or there would be no churn
    swap = f"{moved.text(found.swap.value)}{moved.of}{_within(found.swap, moved)}"
    parts = [f"{subject} {moved.verb} {swap}"]
    if found.reseed is not None:
        parts.append(f", another seed {moved.text(found.reseed.value)}{_within(found.reseed, moved)}")
    if found.difference is not None and found.difference_interval is not None:
        ends = " to ".join(moved.signed(end) for end in found.difference_interval)
        parts.append(f"; the difference is {moved.signed(found.difference)}{moved.unit} ({ends})")
    if found.swap.alike is not None:
        other = "" if found.reseed is None else f", of two seeds {found.reseed.alike:.1f}"
        parts.append(f". Texts of a swap are alike by {found.swap.alike:.1f} chrF{other}")
    return "".join(parts)


def _within(share: Share, moved: Moved) -> str:
    return f" ({moved.interval(share.interval)}{'' if share.over_seeds else ', over rows alone'})"
