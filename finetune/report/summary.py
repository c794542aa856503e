"""``report.json`` -> one short Markdown table of all that is in it, for a README; and into the README."""

import re
from collections.abc import Iterator
from pathlib import Path

from finetune.comparison.claims import Difference
from finetune.comparison.compare import Comparison
from finetune.comparison.tables import ResultTable
from finetune.errors import UserError
from finetune.metrics import registry
from finetune.report import words, write
from finetune.system import tables
from finetune.system.files import write_text
from finetune.system.parsing import YAML_BYTES, UnreadableError, read_text

HEAD = ("task", "model", "attention", "runs", "score", "difference", "95% interval", "p (Holm)", "claim")
MARK = "<!-- summary of {} -->"
END = "<!-- end of summary -->"


def read(file: Path) -> Comparison:
    """A comparison as ``finetune compare`` wrote it; ``UserError`` where ``file`` is none."""
    try:
        return write.read(file)
    except UserError as error:
        raise UserError(f"{error} (name a report.json that finetune compare wrote)") from error


def markdown(comparison: Comparison) -> str:
    """One table; a row for each arm, in the units of the reports. Runs on the sample are left out."""
    rows = [row for table in comparison.tables if not table.sample for row in _rows(table)]
    return tables.markdown([HEAD, *rows], "lllrrrrrl")


def insert(text: str, document: Path, source: Path) -> None:
    """Put ``text`` between the marks of ``source`` in ``document``; ``UserError`` where there are none."""
    mark = MARK.format(source.as_posix())
    try:
        before = read_text(document, YAML_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {document}: {error.strerror}") from error
    except UnreadableError as error:
        raise UserError(f"the document {document} is {error}") from error
    pattern = re.compile(rf"({re.escape(mark)}\n).*?({re.escape(END)})", re.DOTALL)
    if not pattern.search(before):
        raise UserError(f"{document} has no place for it: write the lines '{mark}' and '{END}' there")
    write_text(document, [pattern.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", before)])


def _rows(table: ResultTable) -> Iterator[list[str]]:
    for arm in table.variants:
        found = arm.metrics.get(table.metric)
        if found is None:
            continue
        score = f"{words.score(found)} {registry.get(table.metric).label}"
        model = ", ".join(part for part in (table.model, table.apart) if part)
        cells = [table.title, model, arm.name, str(len(found.per_seed)), score]
        yield cells + _difference(arm.difference)


def _difference(found: Difference | None) -> list[str]:
    if found is None:
        return ["", "", "", ""]
    claim = "none" if found.verdict == "none" else tables.Markup(f"**{found.verdict}**")
    p = words.p_value(found.p_adjusted)
    return [words.signed(found.mean), words.interval(found.interval), p, claim]
