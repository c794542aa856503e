"""Tables and prose that fit the width of a terminal.

Off a terminal, in a pipe or a file, nothing is folded and nothing is left out. Widths are of cells: a Chinese
letter takes two.
"""

import math
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len

from finetune.system.text import clean

Rows = Sequence[Sequence[str]]
GAP = 2  # blanks between two columns
NARROWEST = 10  # cells that a column of text keeps, if it had as many


def terminal_width() -> float:
    """Cells of a line of standard output: as COLUMNS says, or else the terminal; off one, no limit."""
    said = os.environ.get("COLUMNS", "")
    if said.isascii() and said.isdigit() and int(said):
        return int(said)
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if on_terminal else math.inf


def sides(align: str, count: int) -> str:
    """A letter for each of ``count`` columns; the last one of ``align`` holds for all that follow."""
    return align.ljust(count, align[-1])


@dataclass
class Sheet:
    """Text that is printed together, no wider than ``width`` cells, and the columns left out to fit it."""

    width: float = math.inf
    left_out: dict[str, None] = field(default_factory=dict)  # by their heads, in order

    def table(self, rows: Rows, align: str = "lr", least: Sequence[str] = (), keys: int = 1) -> str:
        """Pads columns with blanks, two between them. The first row is the head.

        What is too wide loses columns in the order of ``least``, heads of which the first can be spared most
        easily; then columns of text are folded; then it is cut into tables with the same first ``keys``
        columns, which name a row.
        """
        cleaned = [[clean(cell) for cell in column] for column in zip(*rows, strict=True)]
        kept = list(zip(cleaned, sides(align, len(cleaned)), strict=True))
        for head in least:
            if _total(_natural(column) for column, _ in kept) > self.width:
                rest = [each for each in kept if each[0][0] != head]
                self.left_out |= {head: None} if len(rest) < len(kept) else {}
                kept = rest
        blocks = self._blocks(_narrowed(kept, self.width), keys)
        return "\n\n".join(_padded([(*kept[i], width) for i, width in block]) for block in blocks)

    def prose(self, text: str, mark: str = "", most: float = math.inf) -> str:
        """Breaks ``text``, one line that begins with ``mark``, between words; what follows is indented so."""
        width = min(self.width, most)
        if cell_len(text) + cell_len(mark) <= width:
            return mark + text
        indent = " " * cell_len(mark)
        lines = _folded(text, max(1, int(width) - len(indent)), chop=False)
        return "\n".join([mark + lines[0], *(indent + line for line in lines[1:])])

    def note(self, where: str = "a wider terminal and a pipe show them") -> str:
        """The line that names the columns that were left out, and ``where`` they are; "" without any."""
        names = ", ".join(self.left_out)
        return self.prose(f"Left out, to fit {self.width:.0f} columns: {names}; {where}.") if names else ""

    def _blocks(self, widths: Sequence[int], keys: int) -> list[list[tuple[int, int]]]:
        """Shares columns out to tables that fit, each with the first ``keys``: pairs of index and width."""
        if _total(widths) <= self.width:
            return [list(enumerate(widths))]
        line = int(self.width)
        first = list(enumerate(_shrunk(widths[:keys], range(keys), line * 3 // 5, 1)))
        rest = max(1, line - _total(width for _, width in first) - GAP)
        blocks: list[list[tuple[int, int]]] = []
        for i, wanted in list(enumerate(widths))[keys:]:
            width = min(wanted, rest)
            if not blocks or _total([each for _, each in blocks[-1]] + [width]) > line:
                blocks.append([*first])
            blocks[-1].append((i, width))
        return blocks or [first]


def _narrowed(columns: Sequence[tuple[Sequence[str], str]], line: float) -> list[int]:
    """The widths of columns; those of text share what is too much for a line, where that is enough to fit."""
    widths = [_natural(column) for column, _ in columns]
    narrowed = _shrunk(widths, [i for i, (_, side) in enumerate(columns) if side == "l"], line, NARROWEST)
    return narrowed if _total(narrowed) <= line else widths


def _shrunk(widths: Sequence[int], which: Sequence[int], line: float, least: int) -> list[int]:
    """Takes what is too much for a line from the widest of columns ``which``, until all have ``least``."""
    shrunk = list(widths)
    while _total(shrunk) > line and (wide := [i for i in which if shrunk[i] > least]):
        shrunk[max(wide, key=lambda i: shrunk[i])] -= 1
    return shrunk


def _natural(column: Sequence[str]) -> int:
    return max(map(cell_len, column))


def _total(widths: Iterable[int]) -> int:
    known = list(widths)
    return sum(known) + GAP * (len(known) - 1)


def _padded(columns: Sequence[tuple[Sequence[str], str, int]]) -> str:
    """Lines of columns, each with its side and width; a row has as many lines as its longest cell."""
    folded = [[_folded(cell, width) for cell in column] for column, _, width in columns]
    lines = []
    for row in zip(*folded, strict=True):
        for i in range(max(map(len, row))):
            cells = [cell[i] if i < len(cell) else "" for cell in row]
            placed = [
                cell + blank if side == "l" else blank + cell
                for cell, (_, side, width) in zip(cells, columns, strict=True)
                for blank in [" " * (width - cell_len(cell))]
            ]
            lines.append((" " * GAP).join(placed).rstrip())
    return "\n".join(lines)


def _folded(text: str, width: int, chop: bool = True) -> list[str]:
    """Breaks one line into such of at most ``width`` cells: after blanks, in names after their signs.

    A piece that is still too long is cut where ``chop``, and else left whole, as a path to be copied is.
    """
    if cell_len(text) <= width:
        return [text]
    lines = [""]
    for piece in _pieces(text, chop):
        if cell_len(lines[-1] + piece.rstrip()) > width and lines[-1]:
            lines.append("")
        rest = piece
        while chop and cell_len(rest.rstrip()) > width:
            head = _head(rest, width)
            lines[-1:] = [head, ""]
            rest = rest[len(head) :]
        lines[-1] += rest
    return [line.rstrip() for line in lines if line.strip()]


def _pieces(text: str, names: bool) -> list[str]:
    """Cuts where a line may break: after blanks and wide letters; of ``names``, after signs too."""
    pieces = [""]
    for char in text:
        pieces[-1] += char
        if char == " " or cell_len(char) > 1 or (names and char in "-/_=,:·"):
            pieces.append("")
    return [piece for piece in pieces if piece]


def _head(text: str, width: int) -> str:
    """The most letters of ``text`` that take ``width`` cells or fewer, but at least one."""
    count = 1
    while count < len(text) and cell_len(text[: count + 1]) <= width:
        count += 1
    return text[:count]
