"""A comparison as ``report.tex``: a booktabs table for each table, for a paper to take in by ``\\input``."""

import re

from finetune.compare import Comparison
from finetune.reports import cells, words
from finetune.reports.answer import answer
from finetune.tables import Table

HEAD = "% Needs \\usepackage{booktabs}.\n"
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "`": r"\textasciigrave{}", '"': r"{\char34}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # which would belong to the \\ of the row before
    "±": r"$\pm$", "·": r"$\cdot$", "\ufffd": "?",
}  # fmt: skip


def latex(comparison: Comparison) -> str:
    """The whole file."""
    parts = [HEAD, f"% {words.clean(answer(comparison))}\n"]
    for number, table in enumerate(comparison.tables, start=1):
        parts.append(_of(table, number))
    if comparison.overall:
        caption = "Interquartile means over tasks and seeds, with 95\\% stratified bootstrap intervals."
        parts.append(_float(cells.overall(comparison), caption, "overall", 3))
    return "\n".join(parts)


def escape(text: str) -> str:
    r"""``text`` as it is, on one line.

    >>> print(escape("50% of $x_1"))
    50\% of \$x\_1
    """
    return "".join(SPECIAL.get(char, char) for char in words.clean(text)).replace("--", "-{}-")


def _of(table: Table, number: int) -> str:
    columns = cells.columns(table)
    left_out = {"p", "train", "memory"}  # a printed page is no wider
    if "95%" in [column[0] for column in columns]:
        left_out |= {"95% rows", "95% seeds"}
    columns = [column for column in columns if column[0] not in left_out]
    stamp = f" {escape(words.SAMPLE)}." if table.sample else ""
    caption = f"{escape(words.title(table))}.{stamp} {escape(table.sentence)}"
    return _float(columns, caption, str(number), 1)


def _float(columns: cells.Columns, caption: str, label: str, left: int) -> str:
    """A floating table whose first ``left`` columns are text, the others numbers."""
    head, *rows = zip(*columns, strict=True)
    lines = [" & ".join(_cell(cell) for cell in row) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:finetune-{label}}}",
            rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(columns) - left)}}}",
            r"\toprule",
            " & ".join(escape(cell) for cell in head) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _cell(cell: str) -> str:
    """A cell with its signs as minus signs, where it is one number or two."""
    if re.fullmatch(r"[-+][\d.]+( to [-+][\d.]+)?", cell):
        return re.sub(r"[-+][\d.]+", lambda number: f"${number[0]}$", cell)
    return escape(cell)
