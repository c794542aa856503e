"""How the project is laid out: who may import whom, and what is named where."""

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from finetune import objectives
from finetune.config.loading import preset_names
from finetune.metrics import registry
from finetune.tasks import TASK_TYPES, get_task

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "finetune"
SOURCES = sorted([*PACKAGE.glob("**/*.py"), *ROOT.glob("tasks/*.py"), *ROOT.glob("configs/*.py")])

# The way of the data, from the last stage to the first: a package imports only from those below it.
ORDER = (
    "cli",
    "bench",
    "studies",
    "training",
    "publishing",
    "report",
    "explorer",
    "objectives",
    "comparison",
    "models",
    "positions",
    "attention",
    "data",
    "records",
    "metrics",
    "tasks",
    "config",
    "system",
    "statistics",
    "errors",
)


# Of these, none imports the other.
BESIDE = {"publishing", "report", "explorer"}


def name_of(path: Path) -> str:
    """``finetune/attention/swap.py`` -> ``attention.swap``; a package goes by its folder."""
    parts = path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES}


def imports(path: Path) -> Iterator[str]:
    """Modules of this project that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            # "from finetune.data import hub" imports finetune.data.hub
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            assert name.split(".")[0] not in ("tasks", "configs"), f"{path}: say finetune.{name}"
            if name.startswith("finetune."):
                short = name.removeprefix("finetune.")
                yield short if short in MODULES else short.rpartition(".")[0]


def package_of(module: str) -> str:
    return module.partition(".")[0]


def test_the_order_names_every_package_once() -> None:
    assert len(ORDER) == len(set(ORDER))
    assert set(ORDER) == {package_of(name) for name in MODULES} - {"", "__main__", "configs"}


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_from_those_below_it(package: str) -> None:
    beside = BESIDE - {package} if package in BESIDE else set()
    below = {package, *ORDER[ORDER.index(package) + 1 :]} - beside
    upward = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        if package_of(name) == package
        for other in imports(path)
        if package_of(other) not in below
    ]
    assert not upward


@pytest.mark.parametrize("package", ORDER)
def test_a_package_has_no_cycle(package: str) -> None:
    inside = {
        name: {other for other in imports(path) if package_of(other) == package and other != name}
        for name, path in MODULES.items()
        if package_of(name) == package
    }
    assert list(TopologicalSorter(inside).static_order())  # raises CycleError, naming the cycle


def test_the_ends_of_the_order() -> None:
    assert list(imports(MODULES["__main__"])) == ["system.processes", "cli.evidence", "cli.main"]
    for name, path in MODULES.items():
        if name.startswith("tasks.") and name != "tasks.base":
            assert set(imports(path)) == {"tasks.base"}, name
    # what the package names publicly is imported when it is first used
    top = ast.parse(MODULES[""].read_text(encoding="utf-8")).body
    assert not [node for node in top if isinstance(node, ast.Import | ast.ImportFrom)]


def names_in(path: Path) -> set[str]:
    """Every name that the code of a file uses; what its comments and texts say is not looked at."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names.update(alias.name for alias in aliases)
    return names


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("load_dataset_builder", "data.sources"),
        ("AttentionInterface", "attention.register"),
        ("AttentionMaskInterface", "attention.register"),
    ],
)
def test_what_has_one_home(name: str, home: str) -> None:
    assert [module for module, path in MODULES.items() if name in names_in(path)] == [home]


ANOTHER_MEANING = {
    f"bench.{name}": {"causal"}
    for name in (
        "cases", "static", "evidence.calls", "evidence.correctness", "evidence.page", "evidence.search",
        "evidence.times",
    )
}  # fmt: skip
"""Modules in which the name of a kind is that of something else: a mask."""


def kinds_told_apart(path: Path) -> Iterator[int]:
    """Lines that compare with a kind's name, look one up in a dictionary, or ask for the type of a task."""
    kinds = set(objectives.kinds()) - ANOTHER_MEANING.get(name_of(path), set())
    types = {task_type.__name__ for task_type in TASK_TYPES.values()}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Compare(left=left, comparators=others):
                compared: list[ast.expr | None] = [left, *others]
            case ast.Dict(keys=keys):
                compared = [*keys]
            case ast.MatchValue(value=value):
                compared = [value]
            case ast.Call(func=ast.Name(id="isinstance"), args=[_, asked]):
                compared = []
                if types & {part.id for part in ast.walk(asked) if isinstance(part, ast.Name)}:
                    yield node.lineno
            case _:
                continue
        if kinds & {part.value for part in compared if isinstance(part, ast.Constant)}:
            yield node.lineno


def test_a_kind_of_task_is_asked_and_never_told_apart() -> None:
    """But for its objective and its type of task."""
    outside = {
        name: path for name, path in MODULES.items() if package_of(name) not in ("objectives", "tasks")
    }
    assert not [f"{name}:{line}" for name, path in outside.items() for line in kinds_told_apart(path)]


def test_every_kind_has_an_objective_a_type_of_task_a_metric_and_a_preset() -> None:
    assert objectives.kinds() == sorted(TASK_TYPES)
    for kind in objectives.kinds():
        assert objectives.get(kind).kind == kind and "quick" in preset_names(kind)
        assert kind in get_task(TASK_TYPES[kind].example).kinds
        assert registry.primary(kind).primary_of == kind


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.stem)
def test_every_value_in_a_preset_says_what_it_is(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        setting, _, comment = line.partition("  #")
        if re.match(r"\s*\w+:\s*\S", setting):  # not a bare heading such as "data:"
            assert len(comment.strip()) > 3, f"{path.name}, line {number} has no comment: {line}"


def test_no_file_depends_on_one_machine_or_one_index() -> None:
    """Every text of the project, these tests too."""
    places = re.compile(
        r"(?<![\w.~-])/(?:work|root|home)/|\bshared/|(?:extra-)?index-url|/simple\b|pypi\.|pythonhosted"
    )
    names = [
        "Makefile",
        "*.md",
        "*.cff",
        ".*.yaml",
        ".github/**/*.yml",
        "docs/**/*.md",
        "docs/**/*.py",
        "docs/**/*.ipynb",
        "pyproject.toml",
        "constraints.txt",
        ".gitignore",
        ".ci/*",
        "configs/*.yaml",
    ]
    for path in [
        *SOURCES,
        *(found for name in names for found in ROOT.glob(name)),
        *ROOT.glob("tests/**/*.py"),
    ]:
        text = path.read_text(encoding="utf-8")
        if path != Path(__file__):
            assert not places.search(text), f"{path}: {places.search(text)}"


EXAMPLES = [path for path in SOURCES if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_the_examples_in_docstrings_are_true(path: Path) -> None:
    module = importlib.import_module(f"finetune.{name_of(path)}")
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0
