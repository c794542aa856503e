"""A comparison, shown in the terminal and written in every form: HTML, Markdown, CSV, LaTeX and JSON."""

from collections.abc import Sequence
from pathlib import Path

from finetune.compare import Comparison
from finetune.record import write_text
from finetune.reports import saved
from finetune.reports.latex import latex
from finetune.reports.markdown import escape, markdown
from finetune.reports.saved import read
from finetune.reports.spreadsheet import spreadsheet
from finetune.reports.text import text
from finetune.reports.words import NAMES, SAMPLE

__all__ = ["NAMES", "SAMPLE", "escape", "read", "text", "write"]


def write(comparison: Comparison, folder: Path, roots: Sequence[Path] = ()) -> list[Path]:
    """Write ``report.json``, ``.md``, ``.csv``, ``.tex`` and ``.html`` into ``folder``; the files.

    Runs that moved since the comparison are looked for below ``roots``. Raises ``UserError`` where a file
    cannot be written.
    """
    from finetune.reports.page import page  # matplotlib takes a while, and the text needs none

    forms = [
        (saved.FILE, saved.as_json(comparison)),
        ("report.md", markdown(comparison)),
        ("report.csv", spreadsheet(comparison)),
        ("report.tex", latex(comparison)),
        ("report.html", page(comparison, roots)),
    ]
    return [write_text(folder / name, [content]) for name, content in forms]
