"""A comparison -> its report: text for the terminal; HTML, Markdown, CSV, LaTeX and JSON files; figures."""

from collections.abc import Sequence
from pathlib import Path

from finetune.comparison.compare import Comparison
from finetune.report.formats import saved
from finetune.report.formats.latex import latex
from finetune.report.formats.markdown import markdown
from finetune.report.formats.saved import read
from finetune.report.formats.spreadsheet import spreadsheet
from finetune.report.formats.text import text
from finetune.system.files import write_text

__all__ = ["read", "text", "write"]


def write(comparison: Comparison, folder: Path, roots: Sequence[Path] = ()) -> list[Path]:
    """Writes ``report.json``, ``.md``, ``.csv``, ``.tex`` and ``.html`` and the figures into ``folder``.

    Returns the paths of the files, and of the index of the figures.

    Runs that moved since the comparison are looked for below ``roots``. Raises ``UserError`` where a file
    cannot be written.
    """
    # matplotlib takes a while, and the text needs none
    from finetune.report.html.page import ATTENTION_FILE, FILE, attention_page, page
    from finetune.report.plots.files import write_figures
    from finetune.report.plots.gallery import draw_all

    drawn = draw_all(comparison, roots)
    forms = [
        (saved.FILE, saved.as_json(comparison)),
        ("report.md", markdown(comparison)),
        ("report.csv", spreadsheet(comparison)),
        ("report.tex", latex(comparison)),
        (FILE, page(comparison, drawn=drawn)),
    ]
    attention = attention_page(comparison, drawn)
    forms += [(ATTENTION_FILE, attention)] if attention else []
    written = [write_text(folder / name, [content]) for name, content in forms]
    if not attention:
        (folder / ATTENTION_FILE).unlink(missing_ok=True)  # that of another comparison
    return [*written, write_figures(drawn, folder)]
