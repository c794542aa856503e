"""Every comparison at one look: tasks and models down, variants across, and in each cell what was shown."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from finetune.comparison.claims import Difference, Verdict
from finetune.comparison.compare import Comparison
from finetune.comparison.tables import ResultTable
from finetune.config.schema import BASELINE
from finetune.metrics import registry
from finetune.metrics.registry import Metric
from finetune.report import words
from finetune.report.cells import Cells


@dataclass(frozen=True)
class Cell:
    """One variant against softmax in one row."""

    variant: str  # as the report names it
    verdict: Verdict | Literal[""]  # none on the sample
    marked: str  # the verdict in words, with its sign
    difference: str
    interval: str  # 95%, over seeds and rows; empty for none

    @property
    def text(self) -> str:
        """``✗ worse −5.62 (−6.61 to −4.62)``."""
        interval = f" ({self.interval})" if self.interval else ""
        return f"{self.marked} {self.difference}{interval}"


@dataclass(frozen=True)
class Row:
    """One table or, below it, its results at the longer context that is tested too."""

    number: int  # of the table in the report, from 1
    task: str
    subject: str  # model and setting
    score: str  # of the baseline, mean ± standard deviation over seeds
    metric: str
    cells: list[Cell | None]  # one for each variant of the matrix

    @property
    def title(self) -> str:
        return f"{self.task}, {self.subject}"

    @property
    def compared(self) -> list[Cell]:
        return [cell for cell in self.cells if cell]


@dataclass(frozen=True)
class Matrix:
    """All rows, in the order of the report's tables, over all variants, in the order of its verdicts."""

    variants: list[str]
    rows: list[Row]

    @property
    def grid(self) -> Cells:
        """The whole matrix as rows of text, its head first."""
        head = ["task and model", BASELINE, *self.variants]
        return [
            head,
            *(
                [row.title, f"{row.score} {row.metric}", *(cell.text if cell else "" for cell in row.cells)]
                for row in self.rows
            ),
        ]


def matrix(comparison: Comparison) -> Matrix | None:
    """Takes every difference that is tested; ``None`` where there is none."""
    controls = {
        words.variant_name(result): result.control
        for table in comparison.tables
        for result in table.variants
        if result.difference
    }
    variants = sorted(controls, key=lambda name: controls[name])  # as the verdicts: those of the paper first
    rows = [
        row
        for number, table in enumerate(comparison.tables, start=1)
        for row in _rows(number, table, variants, comparison.tables)
    ]
    return Matrix(variants, rows) if rows else None


def _rows(number: int, table: ResultTable, variants: list[str], tables: list[ResultTable]) -> Iterator[Row]:
    """The row of a table and, where a longer context is tested too, that of this."""
    by_name = {words.variant_name(result): result for result in table.variants}
    at = table.tested_length
    found = [(table.metric, {name: result.difference for name, result in by_name.items()})]
    if at is not None:
        found.append((at, {name: result.at_lengths.get(at) for name, result in by_name.items()}))
    for metric, differences in found:
        if any(differences.values()):
            yield Row(
                number,
                task=table.title + (" · SAMPLE" if table.sample else ""),
                subject=", ".join(filter(None, (words.short_model(table, tables), table.apart))),
                score=words.score(registry.get(metric), table.variants[0].metrics.get(metric)),
                metric=registry.get(metric).label,
                cells=[
                    _cell(name, difference, registry.get(metric), table.sample)
                    if (difference := differences.get(name))
                    else None
                    for name in variants
                ],
            )


def _cell(variant: str, difference: Difference, metric: Metric, sample: bool) -> Cell:
    return Cell(
        variant,
        verdict="" if sample else difference.verdict,
        marked=words.marked(difference, sample=sample),
        difference=metric.signed(difference.mean),
        interval=words.known_interval(metric, difference),
    )
