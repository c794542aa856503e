"""Small pieces of Markdown."""

from collections.abc import Iterable, Sequence

from finetune.system import tables


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table of cells that are Markdown; its last ``numbers`` columns are aligned to the right."""
    cells = [[tables.Markup(cell) for cell in row] for row in [head, *rows]]
    return tables.markdown(cells, "l" * (len(head) - numbers) + "r" * numbers)


def text(words: object) -> str:
    """Words as they are: no bar ends a cell, nothing is emphasis."""
    return tables.escape(str(words))


def prose(docstring: str) -> str:
    """Words of a docstring: what stands between double backticks is code."""
    words = docstring.replace("->", "→").split("``")
    cells = [code(word) if number % 2 else text(f"|{word}|")[2:-2] for number, word in enumerate(words)]
    return "".join(cells)


def code(words: object) -> str:
    """Words in code font, inside a table too."""
    return f"`{words}`".replace("|", "\\|")
