"""Margins of equivalence: which one a table is held against, and the verdicts that follow from it.

A difference is equivalent where its 95% interval over seeds and test rows lies inside the margin: two
one-sided tests at 2.5% each (Schuirmann 1987, doi:10.1007/BF01068419). So a report that is kept can be held
against any margin again, without predictions, and by eye.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from finetune.comparison.claims import Difference, weigh
from finetune.comparison.tables import ResultTable, VariantResult
from finetune.errors import UserError, unknown
from finetune.metrics import margin as sizes
from finetune.metrics import registry
from finetune.metrics.margin import Margin
from finetune.metrics.registry import Metric


@dataclass(frozen=True)
class Margins:
    """The margins that a user asks for: one for every metric, and some of single metrics."""

    every: Margin | None = None
    by_metric: Mapping[str, Margin] = field(default_factory=dict)

    def of(self, metric: Metric) -> Margin | None:
        """The one that was asked for this metric, at whatever context length; ``None`` where none was."""
        return self.by_metric.get(metric.name.partition(registry.AT)[0], self.every)

    def check(self, tables: Sequence[ResultTable]) -> None:
        """Raises ``UserError`` for a metric that no table tests, and for a margin that holds every value."""
        tested = {table.metric: table for table in tables}
        for name in self.by_metric:
            if name not in tested:
                has = ", ".join(sorted(tested)) or "no table"
                raise UserError(f"no table here tests {name}: leave its margin out (there is {has})")
        for table in tested.values():
            metric, margin = table.primary, self.of(table.primary)
            if margin and not margin.relative and margin.size >= metric.largest_difference:
                raise UserError(
                    f"a margin of {margin.text} holds every difference in {metric.title}, whose values are "
                    f"from {metric.lowest:g} to {metric.highest:g}: give a smaller one, e.g. "
                    f"{metric.name}={metric.margin.text if metric.margin else '0.5'}"
                )


def parse(text: str) -> Margins:
    """Reads ``0.5``, ``1%`` or ``accuracy=0.5,bleu=1``; raises ``UserError`` naming what is wrong.

    >>> parse("0.5, perplexity=1%").of(registry.get("perplexity@1024"))
    Margin(size=0.01, relative=True)
    """
    tested = [metric.name for metric in registry.METRICS.values() if metric.primary_of]
    every: Margin | None = None
    by_metric: dict[str, Margin] = {}
    for part in text.split(","):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not equals:
            if every:
                raise UserError(
                    f"two margins for every metric in '{text}': name one's metric, as {tested[0]}=1"
                )
            every = sizes.parse(name)
        elif name not in tested:
            raise unknown("metric", name, tested)
        elif name in by_metric:
            raise UserError(f"two margins for {name} in '{text}': leave one out")
        else:
            by_metric[name] = sizes.parse(value)
    return Margins(every, by_metric)


def with_margins(table: ResultTable, asked: Margins | None = None) -> ResultTable:
    """The table with the verdicts at a margin: the one asked for, else the recorded, else the metric's."""
    baseline, *others = table.variants

    def size(metric: Metric, recorded: float | None) -> float | None:
        margin = asked.of(metric) if asked else None
        if margin is None and recorded is None and metric.name == table.metric:
            recorded = table.margin
        if margin is None and recorded is not None:
            return recorded
        margin, summary = margin or metric.margin, baseline.metrics.get(metric.name)
        if margin is None or (margin.relative and summary is None):
            return None
        return margin.of(summary.mean if summary else 0.0) or None

    def held(name: str, difference: Difference, *, tested: bool) -> Difference:
        metric = registry.get(name)
        return weigh(difference, metric, size(metric, difference.margin) if tested else None)

    def result(each: VariantResult) -> VariantResult:
        at_lengths = {
            name: held(name, found, tested=name == table.tested_length)
            for name, found in each.at_lengths.items()
        }
        difference = each.difference and held(table.metric, each.difference, tested=True)
        return replace(each, difference=difference, at_lengths=at_lengths)

    margin = size(table.primary, table.margin)
    return replace(table, margin=margin, variants=[baseline, *map(result, others)])
