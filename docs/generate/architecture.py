"""The picture of the packages, from the imports that the code makes."""

import ast
from functools import cache
from pathlib import Path

from docs.generate.markdown import code, prose, table

PACKAGE = Path(__file__).parents[2] / "finetune"


@cache
def imports() -> dict[str, frozenset[str]]:
    """Maps each package to those that its modules import, at their top or inside a function."""
    imported = {}
    for name in _packages():
        places = PACKAGE / name
        files = places.rglob("*.py") if places.is_dir() else [places.with_suffix(".py")]
        modules = {module for file in files for module in _modules(file)}
        imported[name] = frozenset(module.split(".")[1] for module in modules) & _packages() - {name}
    return imported


@cache
def _packages() -> frozenset[str]:
    """The parts of the program: packages, and the one module that all of them use."""
    packages = {file.parent.name for file in PACKAGE.glob("*/__init__.py")} - {"configs"}
    return frozenset(packages | {"errors"})


def _modules(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "finetune":
            names |= {f"finetune.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("finetune.")}


@cache
def _below(name: str) -> frozenset[str]:
    """Every package that a package needs, itself or by way of others."""
    return imports()[name].union(*(_below(each) for each in imports()[name]))


@cache
def _height(name: str) -> int:
    return 1 + max((_height(each) for each in imports()[name]), default=0)


def order() -> list[str]:
    """The packages from the last stage to the first: each imports only from those after it."""
    return sorted(imports(), key=lambda name: (-_height(name), name))


def picture() -> str:
    """Draws a Mermaid graph. An arrow that follows from others is left out."""
    lines = ["graph TD"]
    for name in order():
        direct = imports()[name]
        implied = frozenset().union(*(_below(each) for each in direct))
        lines += [f"    {name} --> {other}" for other in sorted(direct - implied)]
    return "```mermaid\n" + "\n".join(lines) + "\n```\n"


def packages() -> str:
    """Tabulates each package: the first paragraph of its docstring, and what it imports."""
    rows = []
    for name in order():
        place = PACKAGE / name / "__init__.py"
        source = place if place.is_file() else PACKAGE / f"{name}.py"
        about = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        direct = [each for each in order() if each in imports()[name]]
        rows.append(
            [code(name), prose(" ".join(about.split("\n\n")[0].split())), ", ".join(direct) or "none"]
        )
    return table(["package", "what it holds", "imports from"], rows)
