"""Rows of cells -> a Markdown table (``sheet`` has those for a terminal). The first row is the head.

``align`` has a letter a column, as LaTeX's tabular does: "l" for text, "r" for numbers; its last letter holds
for all columns that follow. Own code, since the libraries at hand pad Markdown to the longest cell, which a
command or a path makes hundreds of letters wide.
"""

import re

from finetune.system.sheet import Rows, sides
from finetune.system.text import clean


class Markup(str):
    """A cell that is Markdown already, and not to be escaped."""

    __slots__ = ()


def markdown(rows: Rows, align: str = "lr") -> str:
    """Makes a Markdown table that ends with a line break; cells are escaped, but for ``Markup``."""
    head, *others = [[cell if isinstance(cell, Markup) else escape(cell) for cell in row] for row in rows]
    ruler = ["---" if side == "l" else "---:" for side in sides(align, len(head))]
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
