"""How the project is laid out: who may import whom, what is named where, and what the README may promise."""

import ast
import doctest
import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from statistics import median

import pytest
from transformers import Seq2SeqTrainingArguments

from finetune.attention import VARIANTS
from finetune.config import KINDS, flatten, preset_names, read_preset
from finetune.verbs import OPTIONS, VERBS
from tasks import get_task

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("finetune/**/*.py"), *ROOT.glob("tasks/*.py"), *ROOT.glob("configs/*.py")])

# The documentation of the order: a module imports only from what stands before it.
ORDER = [
    "errors", "letters", "checksum", "redaction", "values", "processes", "language_codes", "limits",
    "config", "ambient", "environment", "folders", "paths",
    "tasks.base", "tasks",
    "hub", "pushed", "sample", "files", "readers", "cards", "layout", "labels", "columns", "source",
    "reading", "data", "batches", "tokens",
    "attention.functions", "attention.controls", "attention",
    "attention.inputs", "attention.plain", "attention.blocked",
    "attention.compile_native", "attention.native",
    "attention.triton_kernels", "attention.triton_forward", "attention.triton_backward",
    "attention.triton_launch", "attention.triton_ops", "attention.proof", "attention.kernels",
    "attention.forward", "attention.dry_run", "attention.swap", "attention.statistics", "attention.recorder",
    "attention.calibrate", "attention.annealing",
    "languages", "scratch", "own_code", "loading", "pretrained", "adapters", "model", "checkpoint",
    "admission", "start", "schema", "record", "manifest", "resume", "scorers", "metrics", "memory", "trainer",
    "trackers", "renamed", "effects", "arguments", "computed", "train", "rehearsal", "reloaded",
    "diagnostics", "stats", "row_tests", "bleu", "bootstrap", "power", "pairing", "predictions", "evidence",
    "notes", "tables", "sentence", "overall", "compare",
    "calibration", "calibration.studies", "calibration.rates", "calibration.page", "calibration.__main__",
    "reports", "reports.words", "reports.facts", "reports.answer", "reports.cells",
    "reports.text", "reports.markdown", "reports.latex", "reports.spreadsheet", "reports.saved",
    "reports.histories", "reports.figures", "reports.forest", "reports.curves", "reports.looked",
    "reports.weights", "reports.gradients", "reports.page_style", "reports.page_template", "reports.page",
    "report", "summary", "metadata", "card", "publish",
    "plan", "lock", "diagnose", "run",
    "bench", "bench.cases", "bench.accuracy", "bench.timing", "bench.resident", "bench.memory",
    "bench.settings", "bench.attention", "bench.rows", "bench.steps", "bench.shape", "bench.tables",
    "bench.plot", "bench.run",
    "study", "study.variants", "study.axes", "study.logs", "study.grid", "study.file", "study.state",
    "study.cost", "study.overview", "study.devices", "study.schedule", "study.progress",
    "study.rehearsal", "study.run",
    "listing", "verbs", "terminal", "cli",
]  # fmt: skip


def name_of(path: Path) -> str:
    """``finetune/attention/swap.py`` -> ``attention.swap``; a package goes by its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts[1:] if parts[0] == "finetune" and len(parts) > 1 else parts)


MODULES = {name_of(path): path for path in SOURCES}


def imports(path: Path) -> Iterator[str]:
    """Modules of this project that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            # "from finetune import data" imports finetune.data; "from tasks import TASKS" imports tasks
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            if name.split(".")[0] in ("finetune", "tasks", "configs"):
                short = name.removeprefix("finetune.")
                yield short if short in MODULES else short.rpartition(".")[0]


def test_the_order_names_every_module_once() -> None:
    declarations = {name for name in MODULES if name.startswith("tasks.") and name != "tasks.base"}
    assert len(ORDER) == len(set(ORDER))
    assert set(ORDER) == set(MODULES) - declarations - {"finetune", "__main__", "configs"}


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_from_the_left(name: str) -> None:
    allowed = set(ORDER[: ORDER.index(name)])
    assert set(imports(MODULES[name])) <= allowed


def test_the_ends_of_the_order() -> None:
    assert list(imports(MODULES["__main__"])) == ["processes", "cli"]
    assert list(imports(MODULES["configs"])) == []
    for name, path in MODULES.items():
        if name.startswith("tasks.") and name != "tasks.base":
            assert set(imports(path)) == {"tasks.base"}, name
    # finetune.load comes from checkpoint, and only when it is asked for
    assert list(imports(MODULES["finetune"])) == ["checkpoint"]
    top = ast.parse(MODULES["finetune"].read_text(encoding="utf-8")).body
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
        ("load_dataset_builder", "source"),
        ("AttentionInterface", "attention.swap"),
        ("AttentionMaskInterface", "attention.swap"),
    ],
)
def test_what_has_one_home(name: str, home: str) -> None:
    assert [module for module, path in MODULES.items() if name in names_in(path)] == [home]


def test_files_are_short_and_functions_shorter() -> None:
    lengths = [len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.glob("finetune/**/*.py")]
    assert median(lengths) <= 150
    for path in ROOT.glob("finetune/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 60, f"{path}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.stem)
def test_every_value_in_a_preset_says_what_it_is(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        setting, _, comment = line.partition("  #")
        if re.match(r"\s*\w+:\s*\S", setting):  # not a bare heading such as "data:"
            assert len(comment.strip()) > 3, f"{path.name}, line {number} has no comment: {line}"


def test_no_file_depends_on_one_machine_or_one_index() -> None:
    """Every text of the project, these tests too, but for folders beside the checkout that tests may read."""
    places = re.compile(
        r"(?<![\w.~-])/(?:work|root|home)/|(?:extra-)?index-url|/simple\b|pypi\.|pythonhosted"
    )
    beside = re.compile(r"\bshared/")
    names = [
        "Makefile",
        "README.md",
        "pyproject.toml",
        "constraints.txt",
        ".gitignore",
        ".ci/*",
        "configs/*.yaml",
    ]
    for path in [*SOURCES, *(found for name in names for found in ROOT.glob(name)), *ROOT.glob("tests/*.py")]:
        text = path.read_text(encoding="utf-8")
        if path != Path(__file__):
            assert not places.search(text), f"{path}: {places.search(text)}"
        if path.parent.name != "tests":
            assert not beside.search(text), f"{path}: {beside.search(text)}"


# The README


def readme() -> str:
    if not (ROOT / "README.md").is_file():
        pytest.skip("there is no README.md yet")
    return (ROOT / "README.md").read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """Each command in the README's shell blocks and its ``make ...`` phrases, split into words."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    typed = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    typed += re.findall(r"(?<!`)`(make(?: [^`]+)?)`(?!`)", text)
    return [shlex.split(line.replace("...", ""), comments=True) for line in typed]


def test_the_readme_types_targets_and_variables_that_the_makefile_has() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    typed = [words for words in commands(readme()) if words[0] == "make"]
    assert {"classify", "translate", "compare", "test"} <= {words[1] for words in typed if len(words) > 1}
    for words in typed:
        for word in words[1:]:
            variable, equals, _ = word.partition("=")
            known = f"$({variable})" in makefile if equals else word in targets
            assert known, f"README.md: {shlex.join(words)}: the Makefile has no {variable}"
    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert phony and set(phony[1].split()) == targets


def test_the_readme_types_verbs_and_options_that_the_command_has() -> None:
    text = readme()
    for words in commands(text):
        if words[0].endswith("finetune"):
            others = {"compare", "summary", "study", "diagnose", "bench", "push"}
            assert words[1] in {*VERBS, *others, "tasks", "variants", "validate", "env"}
    values = [read_preset(kind, preset) for kind in KINDS for preset in preset_names(kind)]
    known = OPTIONS | {key for preset in values for key in flatten(preset)}
    known |= {f"train.{field.name}" for field in fields(Seq2SeqTrainingArguments)}
    known |= {"quick", "device", "lengths", "only", "from"}  # of bench
    known |= {"to", "private", "logdir"}  # of push, and of tensorboard
    known |= {
        "plan",
        "print",
        "workers",
        "rows",
        "into",
        "array",
    }  # of study, diagnose, summary, and of sbatch
    known |= {f"attention.parameters.{name}" for variant in VARIANTS.values() for name in variant.parameters}
    code = "\n".join(re.findall(r"```sh\n.*?```|`[^`\n]+`", text, flags=re.DOTALL))
    for option in re.findall(r"(?<![\w-])--([a-z_][\w.]*\w)(?![\w.]*\*)", code):
        assert option in known, f"README.md names --{option}"


def test_the_readme_s_task_is_one(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", readme(), flags=re.DOTALL)
    (declared,) = [block for block in blocks if "tasks.base" in block]
    (tmp_path / "mine.py").write_text(declared, encoding="utf-8")
    assert get_task(str(tmp_path / "mine.py")).kind == "classification"


def test_the_readme_lists_every_preset_and_variant() -> None:
    text = readme()
    for name in {*VARIANTS, *(preset for kind in KINDS for preset in preset_names(kind))}:
        assert f"| `{name}` |" in text, name


EXAMPLES = [path for path in SOURCES if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_the_examples_in_docstrings_are_true(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0
