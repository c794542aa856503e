"""Tables -> what each variant shows over several tasks: interquartile means and probabilities of improvement.

Described, never claimed: there is no p here, and tasks are taken as given: nothing is said about others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from finetune.comparison.claims import possible
from finetune.comparison.tables import ResultTable
from finetune.config.schema import BASELINE
from finetune.metrics import registry
from finetune.metrics.registry import Metric
from finetune.statistics.bootstrap import improvement_over, interquartile_mean, stratified

FEWEST_SEEDS = 3  # of a task: with two, intervals of a probability of improvement miss too often
FEWEST = 6  # numbers, of all tasks together: intervals from fewer miss too often (results/calibration)


@dataclass(frozen=True)
class Overall:
    """One variant of one model over tasks of one metric: two or more, with two or more seeds paired in each.

    Intervals are 95%, stratified bootstrap over the seeds of each task with the test rows taken as given.
    ``difference`` is the interquartile mean of the paired differences, one a task and seed. It is not the
    difference of two interquartile means of scores, in which only tasks of middling difficulty would count.
    """

    model: str
    sample: bool
    metric: str  # accuracy and BLEU are never put together
    variant: str
    tasks: list[str]
    iqm: float  # of the scores, over tasks and the seeds that were paired; reported units
    interval: list[float]
    difference: float  # variant minus baseline; 0 for the baseline itself
    difference_interval: list[float]
    # The probability that a run is better than one of the baseline, the mean over tasks, and its interval;
    # None for the baseline, and where a task has two seeds.
    improvement: float | None = None
    improvement_interval: list[float] | None = None


def overall(tables: Sequence[ResultTable]) -> list[Overall]:
    """Aggregates over tasks: a line for each model, metric and variant with two or more; the baseline first.

    Of the tables of one task and model the first counts, which has the most finished runs, and one of common
    values before one of tuned ones.
    """
    groups: dict[tuple[bool, str, str], dict[str, ResultTable]] = {}
    for table in sorted(tables, key=lambda table: table.tuning is not None):  # a mean is of one setting
        groups.setdefault((table.sample, table.model, table.metric), {}).setdefault(table.title, table)
    lines: list[Overall] = []
    for group in groups.values():
        names = dict.fromkeys(result.name for table in group.values() for result in table.variants[1:])
        variants = [line for name in names if (line := _line(group, name))]
        baseline = _line(group, BASELINE)
        if variants:  # the baseline alone is worth no line
            lines += [baseline, *variants] if baseline else variants
    return lines


def _line(group: dict[str, ResultTable], name: str) -> Overall | None:
    pairs = {task: _paired(table, name) for task, table in group.items()}
    tasks = {task: values for task, values in pairs.items() if len(values) > 1}
    if len(tasks) < 2 or sum(map(len, tasks.values())) < FEWEST:
        return None
    table = next(iter(group.values()))
    metric = registry.get(table.metric)
    scores = [[score for score, _ in values] for values in tasks.values()]
    differences = [[score - baseline for score, baseline in values] for values in tasks.values()]
    improvement, improvement_interval = None, None
    if name != BASELINE and min(map(len, tasks.values())) >= FEWEST_SEEDS:
        improvement, improvement_interval = _improvement(tasks.values(), metric)
    return Overall(
        model=table.model,
        sample=table.sample,
        metric=table.metric,
        variant=name,
        tasks=[", ".join(filter(None, (task, group[task].apart))) for task in tasks],
        iqm=interquartile_mean(np.concatenate(scores)),
        interval=possible(stratified(scores), metric.lowest, metric.highest),
        difference=interquartile_mean(np.concatenate(differences)),
        difference_interval=possible(
            stratified(differences), -metric.largest_difference, metric.largest_difference
        ),
        improvement=improvement,
        improvement_interval=improvement_interval,
    )


def completed(lines: Sequence[Overall], tables: Sequence[ResultTable]) -> list[Overall]:
    """The lines of a report of earlier days with the probabilities of improvement that they lack."""
    if all(line.improvement is not None or line.variant == BASELINE for line in lines):
        return list(lines)
    known = {(line.sample, line.model, line.metric, line.variant): line for line in overall(tables)}
    found = []
    for line in lines:
        now = known.get((line.sample, line.model, line.metric, line.variant))
        found.append(
            replace(line, improvement=now.improvement, improvement_interval=now.improvement_interval)
            if now and line.improvement is None
            else line
        )
    return found


def _improvement(tasks: Iterable[Sequence[tuple[float, float]]], metric: Metric) -> tuple[float, list[float]]:
    """The probability that a run is better than one of the baseline, over tasks, and its interval."""
    strata = []
    for values in tasks:
        scores, baseline = zip(*values, strict=True)
        strata.append((baseline, scores) if metric.higher_is_better else (scores, baseline))
    value, interval = improvement_over(strata)
    return value, list(interval)


def _paired(table: ResultTable, name: str) -> list[tuple[float, float]]:
    """The scores of a variant and of the baseline for each paired seed; of the baseline, for all of them."""
    result = next((result for result in table.variants if result.name == name), None)
    if result is None or table.metric not in result.metrics:
        return []
    scores = result.metrics[table.metric].per_seed
    if name == BASELINE:
        return [(score, score) for score in scores.values()]
    if result.difference is None:
        return []
    baseline = table.variants[0].metrics[table.metric].per_seed
    return [(scores[seed], baseline[seed]) for seed in result.difference.seeds]
