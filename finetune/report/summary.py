"""``report.json`` -> one short Markdown table of all that is in it, and into a README."""

import re
from pathlib import Path

from finetune.comparison.compare import Comparison
from finetune.errors import UserError
from finetune.report import words, write
from finetune.system import tables
from finetune.system.files import write_text
from finetune.system.parsing import YAML_BYTES, UnreadableError, read_text

HEAD = (
    "task", "model", "attention", "runs", "score", "difference", "95% interval", "p (Holm)", "verdict"
)  # fmt: skip
MARK = "<!-- summary of {} -->"
END = "<!-- end of summary -->"


def read(file: Path) -> Comparison:
    """Reads a comparison as ``finetune compare`` wrote it; raises ``UserError`` where ``file`` is none."""
    try:
        return write.read(file)
    except UserError as error:
        raise UserError(f"{error} (name a report.json that finetune compare wrote)") from error


def markdown(comparison: Comparison) -> str:
    """Writes one table, a row for each variant, in reported units, or why there is none.

    Runs on the sample are left out.
    """
    rows: list[list[str]] = []
    for table in comparison.tables:
        if table.sample:
            continue
        metric = table.primary
        for result in table.variants:
            summary, difference = result.metrics.get(table.metric), result.difference
            if summary is None:
                continue
            score = f"{words.score(metric, summary)} {metric.label}"
            finished = str(len(summary.per_seed))
            cells = [table.title, table.subject, result.name, finished, score, "", "", "", ""]
            if difference:
                verdict = words.verdict(difference)
                cells[5:] = [
                    metric.signed(difference.mean),
                    words.interval(metric, difference.interval),
                    words.p_value(difference.p_adjusted),
                    tables.Markup(f"**{verdict}**") if difference.significant else verdict,
                ]
            rows.append(cells)
    return tables.markdown([HEAD, *rows], "lllrrrrrl") if rows else f"{_why_empty(comparison)}\n"


def _why_empty(comparison: Comparison) -> str:
    """The sentence in the place of a table that would have no row."""
    if any(table.sample for table in comparison.tables):
        return (
            "There is nothing to summarize: every run is on the built-in synthetic sample, whose figures say "
            "nothing about any method. Runs on real rows (--data hub, or a folder) have a row each variant."
        )
    return "There is nothing to summarize: no run of the report has finished."


def insert(text: str, document: Path, source: Path) -> None:
    """Puts ``text`` between the marks of ``source`` in ``document``; ``UserError`` where there are none."""
    mark = MARK.format(source.as_posix())
    try:
        before = read_text(document, YAML_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {document}: {error.strerror}") from error
    except UnreadableError as error:
        raise UserError(f"the document {document} is {error}") from error
    after = between(before, f"{mark}\n", END, f"\n{text}\n")
    if after is None:
        raise UserError(f"{document} has no place for it: write the lines '{mark}' and '{END}' there")
    write_text(document, [after])


def between(document: str, start: str, end: str, text: str) -> str | None:
    """Puts ``text`` between ``start`` and ``end`` in ``document``; ``None`` where it does not hold these."""
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: f"{start}{text}{end}", document) if pattern.search(document) else None
