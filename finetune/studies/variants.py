"""Names and parameters of the attention variants without importing them, which would import torch."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path


@cache
def declared() -> dict[str, frozenset[str]]:
    """Variant name -> the names of its parameters, read from the ``Variant(...)`` entries in the source.

    An entry that is not made of literals is looked up in ``VARIANTS`` itself, which takes seconds.
    """
    found: dict[str, frozenset[str]] = {}
    try:
        for path in sorted(Path(__file__).parents[1].glob("attention/*.py")):
            found |= _entries(ast.parse(path.read_text(encoding="utf-8")))
    except ValueError:
        from finetune.attention import VARIANTS

        return {name: frozenset(variant.parameters) for name, variant in VARIANTS.items()}
    return found


def _entries(tree: ast.AST) -> Iterator[tuple[str, frozenset[str]]]:
    """The entries of one module; ``ValueError`` for one whose name or parameters must be computed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Variant":
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            if "name" not in given:
                raise ValueError("a variant whose name is not a keyword")
            name = ast.literal_eval(given["name"])
            yield name, frozenset(ast.literal_eval(given["parameters"]) if "parameters" in given else ())
