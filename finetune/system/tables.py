"""Rows of cells -> a table: aligned text for a terminal, Markdown for a file. The first row is the head.

``align`` has a letter a column, as LaTeX's tabular does: "l" for text, "r" for numbers; its last letter holds
for all columns that follow. Own code, since the libraries at hand pad Markdown to the longest cell, which a
command or a path makes hundreds of letters wide.
"""

import re
from collections.abc import Sequence

from rich.cells import cell_len

from finetune.system.text import clean

Rows = Sequence[Sequence[str]]


class Markup(str):
    """A cell that is Markdown already, and not to be escaped."""

    __slots__ = ()


def aligned(rows: Rows, align: str = "lr") -> str:
    """Pads columns with blanks, two between them; each cell is on one line."""
    columns = [[clean(cell) for cell in column] for column in zip(*rows, strict=True)]
    padded = []
    for side, column in zip(_sides(align, len(columns)), columns, strict=True):
        width = max(map(cell_len, column))  # a Chinese letter takes two places
        blanks = [" " * (width - cell_len(cell)) for cell in column]
        pairs = zip(column, blanks, strict=True)
        padded.append([cell + blank if side == "l" else blank + cell for cell, blank in pairs])
    return "\n".join("  ".join(row).rstrip() for row in zip(*padded, strict=True))


def markdown(rows: Rows, align: str = "lr") -> str:
    """Makes a Markdown table that ends with a line break; cells are escaped, but for ``Markup``."""
    head, *others = [[cell if isinstance(cell, Markup) else escape(cell) for cell in row] for row in rows]
    ruler = ["---" if side == "l" else "---:" for side in _sides(align, len(head))]
    return "".join("| " + " | ".join(row) + " |\n" for row in [head, ruler, *others])


def escape(text: str) -> str:
    """Escapes ``text`` for any place in Markdown: on one line, with no mark-up and no cell end.

    >>> print(escape("a|b *c* <d>"))
    a\\|b \\*c\\* \\<d\\>
    """
    return re.sub(r"([\\`*_\[\]<>|#~$&])", r"\\\1", clean(text))


def fence(code: str, language: str) -> str:
    """Makes a code block that no backtick in ``code`` can end."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", code)), default=0))
    return f"{ticks}{language}\n{code}\n{ticks}\n"


def _sides(align: str, count: int) -> str:
    return align.ljust(count, align[-1])
