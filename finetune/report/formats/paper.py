"""The table of a paper: tasks and models down, softmax and its replacements across."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby, zip_longest
from typing import NamedTuple

from finetune.comparison.claims import Difference, Verdict
from finetune.comparison.compare import Comparison
from finetune.comparison.tables import ResultTable, VariantResult
from finetune.config.schema import BASELINE
from finetune.data.synthetic import STAMP
from finetune.metrics.registry import Metric
from finetune.report import words
from finetune.report.formats.tex import escape, floating, number

# What fits a line: variants that do not stand in further blocks below, rows in further tables.
WIDTH = 90  # letters, in the small type of a table
LONGEST = 16  # letters of a name on one line
SMALLER = 0.8  # of the width of a letter
NUMBERS = 13  # letters of a score, or an interval in smaller type
APART = 2  # letters between columns
MOST_LINES = 54
MARKS: dict[Verdict, str] = {
    "better": r"\dagger",
    "worse": r"\ddagger",
    "equivalent": r"\approx",
    "unknown": "?",
}
MEANING: dict[Verdict, str] = {
    "better": "significantly better",
    "worse": "significantly worse ($p < .05$ after Holm over a row, all intervals without 0)",
    "equivalent": "equivalent (the interval lies within MARGIN)",
    "unknown": "too few seeds or test rows to tell",
}


class Block(NamedTuple):
    """Rows of one metric under heads of their own."""

    names: Sequence[str]  # of variants
    metric: Metric
    rows: list[list[str]]  # the lines of a row, each as its cells


def paper(comparison: Comparison) -> list[str]:
    """Writes the table, in several where one is longer than a page; none where nothing is compared.

    Runs on the synthetic sample are left out unless there are no others.
    """
    compared = [table for table in comparison.tables if any(each.difference for each in table.variants)]
    tables = [table for table in compared if not table.sample] or compared
    if not tables:
        return []
    pages: list[list[Block]] = [[]]
    for block in _blocks(tables):
        if pages[-1] and sum(len(each.rows) * 3 + 3 for each in [*pages[-1], block]) > MOST_LINES:
            pages.append([])
        pages[-1].append(block)
    caption = _caption(tables)
    return [
        _float(
            page, caption if number == 1 else "Continued.", "results" if number == 1 else f"results-{number}"
        )
        for number, page in enumerate(pages, start=1)
    ]


def _blocks(tables: Sequence[ResultTable]) -> Iterator[Block]:
    """Splits the table in pieces that fit the width and the height of a page, metric by metric."""
    by_metric = sorted(tables, key=lambda table: [each.metric for each in tables].index(table.metric))
    for _, same in groupby(by_metric, key=lambda table: table.metric):
        of_metric = list(same)
        tried = Counter(result.name for table in of_metric for result in table.variants if result.difference)
        for shown in _beside([name for name, _ in tried.most_common()], of_metric, tables):
            having = [table for table in of_metric if {each.name for each in table.variants} & {*shown}]
            for first in range(0, len(having), MOST_LINES // 3 - 1):
                rows = [_row(table, shown, tables) for table in having[first : first + MOST_LINES // 3 - 1]]
                yield Block(shown, of_metric[0].primary, rows)


def _beside(
    names: Sequence[str], of_metric: Sequence[ResultTable], tables: Sequence[ResultTable]
) -> Iterator[list[str]]:
    """Groups of variants that fit beside each other."""
    labels = [_labels(table, tables) for table in of_metric]
    widest = max(len(text) * (SMALLER if at else 1) for texts in labels for at, text in enumerate(texts))
    room = WIDTH - widest - NUMBERS - 2 * APART
    group: list[str] = []
    for name in names:
        if group and sum(max(NUMBERS, *map(len, _head(each))) + APART for each in [*group, name]) > room:
            yield group
            group = []
        group.append(name)
    yield group


def _head(name: str) -> tuple[str, str]:
    """A name on two lines, of which the first is empty where it is short."""
    parts = name.split("-")
    if len(name) <= LONGEST or len(parts) == 1:
        return "", name
    splits = [("-".join(parts[:at]) + "-", "-".join(parts[at:])) for at in range(1, len(parts))]
    return min(splits, key=lambda lines: max(map(len, lines)))


def _labels(table: ResultTable, tables: Sequence[ResultTable]) -> list[str]:
    """What a row is of: task, model, and setting."""
    parts = (table.title, words.short_model(table, tables), table.apart)
    return [part for part in parts if part]


def _row(table: ResultTable, names: Sequence[str], tables: Sequence[ResultTable]) -> list[str]:
    """The three lines of a row: scores, differences, intervals; beside them task, model and setting."""
    by_name = {result.name: result for result in table.variants}
    best = _best(table)
    task, *others = _labels(table, tables)
    columns = [[_score(table, by_name.get(BASELINE), best), "", ""]]
    for name in names:
        result = by_name.get(name)
        lines = [_score(table, result, best), "", ""]
        if result and (difference := result.difference):
            known = "" if table.sample else MARKS.get(difference.verdict, "")
            mark = f"^{{{known}}}" if known else ""
            lines[1] = _small(number(f"{table.primary.signed(difference.mean)}{mark}"))
            if bounds := difference.interval or difference.interval_rows:
                lines[2] = _small(number("[" + ", ".join(map(table.primary.signed, bounds)) + "]"))
        columns.append(lines)
    beside = [escape(task), *(_small(escape(label)) for label in others)]
    return [" & ".join(line) + r" \\" for line in zip_longest(beside, *columns, fillvalue="")]


def _best(table: ResultTable) -> str | None:
    """The variant with the best score where that is significant: better than softmax, or softmax itself."""
    if table.sample:
        return None
    judged = [(result, result.difference) for result in table.variants if result.difference]
    better = [(result, found) for result, found in judged if found.verdict == "better"]
    if better:
        return max(better, key=lambda pair: abs(pair[1].mean))[0].name
    return BASELINE if judged and all(found.verdict == "worse" for _, found in judged) else None


def _score(table: ResultTable, result: VariantResult | None, best: str | None) -> str:
    """Mean and standard deviation, the best in bold; a dash for none."""
    summary = result.metrics.get(table.metric) if result else None
    if result is None or summary is None:
        return "--" if result else ""
    shown = escape(words.score(table.primary, summary))
    return rf"\textbf{{{shown}}}" if result.name == best else shown


def _small(text: str) -> str:
    return rf"{{\scriptsize {text}}}" if text else ""


def _caption(tables: Sequence[ResultTable]) -> str:
    """Two sentences: what is shown, and what the marks mean."""
    found = [each.difference for table in tables for each in table.variants if each.difference]
    counts = sorted({len(difference.seeds) for difference in found})
    seeds = words.plural(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    stamp = f"{escape(STAMP)}. " if tables[0].sample else ""
    alone = any(difference.interval is None and difference.interval_rows for difference in found)
    shown = (
        f"Mean $\\pm$ standard deviation over {seeds} with {BASELINE} and with what replaces it in "
        "attention, and below it the paired difference with its 95\\% confidence interval over seeds and "
        f"test rows{' (of one seed, over test rows alone)' if alone else ''}."
    )
    if tables[0].sample:
        return stamp + shown
    marks = [f"$^{{{mark}}}$ {MEANING[verdict]}" for verdict, mark in MARKS.items() if _any(found, verdict)]
    margins = {difference.margin for difference in found if difference.margin}
    margin = f"$\\pm${margins.pop():g}" if len(margins) == 1 else "the margin"
    if any(_best(table) for table in tables):
        marks.append(
            f"in bold a best score that is significantly better than that of {BASELINE}, or that of "
            f"{BASELINE} where all others are significantly worse"
        )
    said = f" Against {BASELINE}: {', '.join(marks)}." if marks else ""
    return f"{shown}{said}".replace("MARGIN", margin)


def _any(found: Sequence[Difference], verdict: Verdict) -> bool:
    return any(difference.verdict == verdict for difference in found)


def _float(blocks: Sequence[Block], caption: str, label: str) -> str:
    lines = []
    for block in blocks:
        upper, lower = zip(*map(_head, block.names), strict=True)
        if any(upper):
            lines.append(" & ".join(["", "", *map(escape, upper)]) + r" \\")
        metric = rf"\emph{{{escape(block.metric.label)}}}"
        lines.append(" & ".join([metric, BASELINE, *map(escape, lower)]) + r" \\")
        for row in block.rows:
            lines += [r"\midrule" if row is block.rows[0] else r"\addlinespace", *row]
        lines.append(r"\midrule")
    columns = 1 + max(len(block.names) for block in blocks)
    return floating(caption, label, "l" + "r" * columns, lines[:-1])
