"""Metrics by context length, of one task and model under every positional encoding, as tables of cells."""

from collections.abc import Callable
from dataclasses import dataclass

from finetune.comparison.compare import Comparison
from finetune.comparison.tables import ResultTable, VariantResult
from finetune.config.schema import OWN
from finetune.metrics import registry
from finetune.report import cells, words

HEADING = "{} over length"
INTRO = (
    "The same tokens are scored at every length, each with as much of its document before it as the length "
    "holds. The column marked tested is part of the comparisons of its table and adjusted with them (Holm); "
    "the other differences are described by their 95% intervals, and nothing is claimed of them."
)


@dataclass(frozen=True)
class OverLength:
    """The tables of one task and model that have values by length, one a positional encoding and setting."""

    tables: list[ResultTable]

    @property
    def heading(self) -> str:
        title = self.tables[0].primary.title
        return HEADING.format(f"{title[0].upper()}{title[1:]}")

    @property
    def title(self) -> str:
        """Task and model, without the positional encoding."""
        first = self.tables[0]
        parts = (first.title, first.base_model, "SAMPLE" if first.sample else "")
        return " · ".join(part for part in parts if part)

    @property
    def lengths(self) -> list[int]:
        found = {
            registry.length_of(name)
            for table in self.tables
            for each in table.variants
            for name in each.metrics
        }
        return sorted(length for length in found if length)

    @property
    def scores(self) -> cells.Cells:
        """Means and deviations, a row for each encoding and variant."""

        def score(table: ResultTable, result: VariantResult, name: str) -> str:
            return words.score(registry.get(name), result.metrics.get(name))

        return self._rows(score)

    @property
    def differences(self) -> cells.Cells:
        """Differences from softmax with their intervals, a row for each encoding and variant."""

        def difference(table: ResultTable, result: VariantResult, name: str) -> str:
            found = result.at_lengths.get(name)
            if found is None:
                return ""
            bounds = words.known_interval(table.primary, found)
            size = table.primary.signed(found.mean)
            text = f"{size} ({bounds})" if bounds else size
            if name != table.tested_length:
                return text
            return f"{text} {words.verdict(found, sample=table.sample)}"

        return [row for row in self._rows(difference) if any(row[2:])] if self._compared else []

    @property
    def _compared(self) -> bool:
        return any(result.at_lengths for table in self.tables for result in table.variants)

    def _rows(self, show: Callable[[ResultTable, VariantResult, str], str]) -> cells.Cells:
        metric = self.tables[0].metric
        trained = {table.trained_length for table in self.tables}
        tested = {table.tested_length for table in self.tables}
        head = ["positions", "attention"]
        for length in self.lengths:
            marks = ["trained"] if length in trained else []
            marks += ["tested"] if registry.at_length(metric, length) in tested else []
            head.append(f"{length:,} ({', '.join(marks)})" if marks else f"{length:,}")
        rows = [head]
        for table in self.tables:
            for result in table.variants:
                shown = [show(table, result, registry.at_length(metric, length)) for length in self.lengths]
                if any(shown):
                    rows.append([place(table, self.tables), words.variant_name(result), *shown])
        return rows


def over_length(comparison: Comparison) -> list[OverLength]:
    """Groups the tables that have values by length by task and model; each has a positional encoding."""
    found: dict[tuple[str, str, bool], list[ResultTable]] = {}
    for table in comparison.tables:
        if any(registry.length_of(name) for result in table.variants for name in result.metrics):
            found.setdefault((table.title, table.base_model, table.sample), []).append(table)
    return [OverLength(tables) for tables in found.values()]


def place(table: ResultTable, tables: list[ResultTable]) -> str:
    """The positional encoding of a table, with its setting where others of ``tables`` have the same one."""
    position = table.position or OWN
    alike = sum((other.position or OWN) == position for other in tables)
    return ", ".join(filter(None, (position, table.apart if alike > 1 else "")))


def interactions(comparison: Comparison) -> cells.Cells:
    """Lists the differences of differences between positional encodings, one a row."""
    rows = [
        [
            " · ".join(filter(None, (each.title, each.model, each.apart, "SAMPLE" if each.sample else ""))),
            each.variant,
            f"{each.position} against {each.reference}",
            str(len(each.difference.seeds)),
            f"{registry.get(each.metric).signed(each.difference.mean)} {registry.get(each.metric).unit}",
            words.known_interval(registry.get(each.metric), each.difference),
            words.p_value(each.difference.p_adjusted),
            words.interaction(each.difference, sample=each.sample),
        ]
        for each in comparison.interactions
    ]
    head = [
        "task and model",
        "attention",
        "positions",
        "seeds",
        "difference",
        "95%",
        "p (Holm)",
        "verdict",
    ]
    return [head, *rows] if rows else []
