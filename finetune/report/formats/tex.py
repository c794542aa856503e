"""Text and numbers as LaTeX prints them, whatever a user named."""

import re
import unicodedata
from collections.abc import Iterable

from finetune.system.text import MINUS, clean, plain

HEAD = r"""% Needs \usepackage{booktabs,graphicx}. A table that is too wide for a line is made smaller.
% Letters beyond those of Western Europe need XeLaTeX or LuaLaTeX; elsewhere their number stands for them.
\providecommand{\finetuneletter}[2]{\ifdefined\Umathchar#1\else[U+#2]\fi}
"""
SHRINK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "`": r"\textasciigrave{}", '"': r"{\char34}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # which would belong to the \\ of the row before
    "±": r"$\pm$", MINUS: "$-$", "·": r"$\cdot$", "×": r"$\times$", "–": "--", "…": "...", "\ufffd": "?",
}  # fmt: skip
OF_LATEX = set("æœøßłÆŒØŁ")  # letters that every LaTeX knows, beside those with an accent
UNUSUAL = set("ĄąĘęĮįŲųĢģĶķĻļŅņŖŗ")  # accents that some of its fonts lack


def escape(text: str) -> str:
    r"""Escapes ``text`` so that LaTeX prints it as it is, on one line.

    >>> print(escape("50% of $x_1"), escape("a--b"), escape("Zürich 注"))
    50\% of \$x\_1 a-{}-b Zürich \finetuneletter{注}{6CE8}
    """
    return "".join(map(_letter, clean(text).replace("--", "-\0-").replace("--", "-\0-"))).replace("\0", "{}")


def _letter(char: str) -> str:
    if char in SPECIAL:
        return SPECIAL[char]
    base = unicodedata.normalize("NFD", char)
    accented = base[0].isascii() and len(base) == 2 and ord(char) < 0x180 and char not in UNUSUAL
    known = char.isascii() or char in OF_LATEX or accented
    return char if known else rf"\finetuneletter{{{char}}}{{{ord(char):04X}}}"


def number(text: str) -> str:
    """A number, or an interval, in math mode: its minus signs are minus signs."""
    return f"${plain(text)}$"


def cell(text: str) -> str:
    """Writes a cell, with its signed numbers in math mode where it begins with one."""
    signed = plain(text)
    if not re.match(r"[-+][\d.]+( |$)", signed):
        return escape(text)
    return re.sub(r"(?<![\w.])[-+][\d.]+(?![\w.])", lambda found: number(found[0]), escape(signed))


def floating(caption: str, label: str, columns: str, lines: Iterable[str]) -> str:
    """A table that LaTeX finds a place for, with its caption and its label ``tab:finetune-LABEL``."""
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:finetune-{label}}}",
            r"\smallskip\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            SHRINK,
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )
